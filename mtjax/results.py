"""Finished runs as rows: grouped over seeds, joined with the papers' tables."""

import dataclasses
import json
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mtjax.complexity import thop_movt, thop_videomae
from mtjax.data.catalog import Catalog
from mtjax.lookup import ConfigError
from mtjax.metrics_log import METRICS, read_metrics
from mtjax.plain_config import config_hash, from_json

RETRIEVAL = "retrieval"  # in results.json: what `mtjax.retrieve` says of its scores, by their name
NUMBERED = re.compile(r"^(train|test)(\d+)")  # official splits, which a dataset has several of
HIDDEN = ("n", "loss", "unobserved")  # metrics that the console table leaves out


@dataclasses.dataclass(frozen=True)
class Result:
    """One finished workdir: its config, results.json, metrics.jsonl and where its rows lie."""

    workdir: Path
    config: dict[str, Any]
    results: dict[str, Any]
    metrics: list[dict[str, Any]]

    @classmethod
    def load(cls, workdir: Path) -> "Result":
        """Raises ConfigError when the run has not finished."""
        if not (workdir / "results.json").is_file():
            raise ConfigError(f"{workdir}: no results.json; the run has not finished (run its training command again)")
        config = from_json((workdir / "config.json").read_text())
        return cls(workdir, config, json.loads((workdir / "results.json").read_text()), read_metrics(workdir / METRICS))

    @property
    def scores(self) -> dict[str, float]:
        return self.results["scores"]

    @property
    def dataset(self) -> dict[str, str]:
        """`name` and `kind` ("" if its maker says none) of the dataset; the folder's name for a run that did not note it."""
        return self.results.get("dataset") or {"name": Path(self.config["data"]["root"]).name, "kind": ""}

    @property
    def labelled(self) -> int | None:
        """Training clips whose label was used; None for a run that did not note it and may have trained on others as well."""
        if "labelled" in self.results or self.config["data"].get("unlabelled"):
            return self.results.get("labelled")
        return self.results.get("clips", {}).get("train")

    def catalog(self, retrieval: str = "") -> Catalog:
        """Of the dataset that the rows of the run speak of, or the clips of a retrieval of this name.

        Raises:
          CatalogError: it is not there. ConfigError: it is another one now.
        """
        root, known = self.config["data"]["root"], self.results["fingerprint"]["catalog"]
        if retrieval:
            root, known = (self.results[RETRIEVAL][retrieval][k] for k in ("root", "fingerprint"))
        catalog = Catalog.load(root)
        if catalog.fingerprint != known:
            raise ConfigError(
                f"{self.workdir}: {catalog.root} has changed since the run ({catalog.fingerprint}, not {known}); "
                "its rows cannot be told"
            )
        return catalog


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one config that differ in their seed and in the official split alone."""

    runs: tuple[Result, ...]

    @property
    def splits(self) -> list[int]:
        """Numbers of the official splits, [0] where they have none."""
        return sorted({split_of(r.config) for r in self.runs})

    @property
    def title(self) -> str:
        name, others = self.runs[0].workdir.name, len(self.runs) - 1
        return f"{name} and {others} more {'seed' if len(self.splits) == 1 else 'run'}(s)" if others else name

    @property
    def seeds(self) -> str:
        seeds = ",".join(str(seed) for seed in sorted({r.results["seed"] for r in self.runs}))
        return seeds + (f"; splits {','.join(map(str, self.splits))}" if len(self.splits) > 1 else "")

    def summary(self, metric: str) -> dict[str, float] | None:
        """mean, std (of the sample; 0 of one) and n over seeds, None when no run has the metric; over several official splits,
        of the means over their seeds, as papers do (motionfit.md §7), n is that of splits."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            if metric in (of := run.scores if metric in run.scores else run.results):
                found.setdefault(split_of(run.config), []).append(of[metric])
        values = next(iter(found.values()), []) if len(found) < 2 else [np.mean(seeds) for seeds in found.values()]
        if not values:
            return None
        std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return {"mean": float(np.mean(values)), "std": std, "n": len(values)}

    def dataset_of(self, metric: str) -> dict[str, str]:
        """Where a metric was measured: on the runs' dataset, or where `mtjax.retrieve` found its clips.

        Raises:
          ConfigError: there, and the seeds do not have the same, so that their mean says nothing.
        """
        said = (run.results.get(RETRIEVAL, {}).get(metric.split("/")[0]) for run in self.runs)
        found = [retrieved["dataset"] for retrieved in said if retrieved]
        if any(other != found[0] for other in found):
            raise ConfigError(
                f"{self.title}: {metric} is of {[d['name'] for d in found]}; score all seeds on one dataset"
            )
        return found[0] if found else self.runs[0].dataset


def group_runs(results: Iterable[Result]) -> list[Group]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(config_hash(without_seed(result.config)), []).append(result)
    return [Group(tuple(sorted(g, key=lambda r: (split_of(r.config), r.results["seed"])))) for g in groups.values()]


def split_of(config: dict[str, Any]) -> int:
    """The number of the official split that a run trains on: 1 for "train1" or "train1_fit", 0 for none."""
    found = NUMBERED.match(config["data"].get("train", ""))
    return int(found[2]) if found else 0


def without_seed(config: dict[str, Any]) -> dict[str, Any]:
    """What runs of several seeds and official splits share. Few-shot choices go with them, and so does the number in what is
    named after them: a column "teacher.3", a workdir "runs/self-ucf101-1-0". Where a result stands in the paper's tables does not
    matter."""
    own = {str(config["seed"]), str(split_of(config))}

    def unnumbered(name: str) -> str:
        return re.sub(r"(?<![^\W_])\d+(?![^\W_])", lambda number: "#" if number[0] in own else number[0], name)

    def section(name: str, *named: str) -> dict[str, Any]:
        return {k: unnumbered(v) if k in named and isinstance(v, str) else v for k, v in config.get(name, {}).items()}

    def plain(split: str) -> str:
        return NUMBERED.sub(r"\1", split)

    data = {k: v for k, v in section("data", "teacher", "pseudo").items() if k != "subset_seed"}
    data |= {k: plain(data[k]) for k in ("train", "val") if k in data}
    data |= {"unlabelled": [plain(split) for split in data["unlabelled"]]} if "unlabelled" in data else {}
    evals = {name: e | {"split": plain(e["split"])} for name, e in config.get("evals", {}).items()}
    train = {k: v for k, v in section("train", "init").items() if k != "table"}
    shared = {"data": data, "task": section("task", "teacher"), "evals": evals, "train": train}
    return {k: v for k, v in config.items() if k != "seed"} | shared


def load_tables() -> dict[str, Any]:
    return json.loads(resources.files("mtjax").joinpath("paper_tables.json").read_text())


def join(table: str, groups: list[Group], tables: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one paper table: label, and for each column the paper's value, its `dataset` ("" if the table does not
    say), and `ours`: {mean, std, n, on} of each group that has it, `on` the name of our dataset, "" if it is the paper's.

    A run says where it belongs in `train.table`: ("mt.t1/movt/jester_acc=test/top1", …). Our column never holds a
    number of the paper. A row that is `computed` as "chance" is 100 / classes for every group in the column.

    Raises:
      ConfigError: a run names a row or column that the table does not have.
    """
    paper = tables[table]
    sets = dict(zip(paper["columns"], paper.get("datasets", [""] * len(paper["columns"])), strict=True))
    by_chance = [r["id"] for r in paper["rows"] if r.get("computed") == "chance"]
    ours: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in groups:
        named = [tuple(run.config["train"].get("table", ())) for run in one.runs]
        for cell in dict.fromkeys(cell for cells in named for cell in cells):
            group = Group(tuple(run for run, cells in zip(one.runs, named, strict=True) if cell in cells))
            place, _, metric = cell.partition("=")
            name, row, column = place.split("/")
            if name != table:
                continue
            if row not in [r["id"] for r in paper["rows"]] or column not in paper["columns"]:
                raise ConfigError(f"config.train.table={cell!r}: {table} has no such row or column")
            if (summary := group.summary(metric)) is None:
                continue
            dataset = group.dataset_of(metric)
            on = {"on": "" if same_dataset(dataset, sets[column]) else dataset["name"]}
            ours.setdefault((row, column), []).append(summary | on)
            chance = {"mean": 100 / len(group.runs[0].results["class_names"]), "std": 0.0, "n": 1} | on
            for by in by_chance:
                if chance not in ours.setdefault((by, column), []):
                    ours[by, column].append(chance)
    return [
        {
            "label": row["label"] + (" (literature)" if row.get("literature") else ""),
            "cells": [
                {"column": column, "paper": value, "dataset": sets[column], "ours": ours.get((row["id"], column), [])}
                for column, value in zip(paper["columns"], row["paper"], strict=True)
            ],
        }
        for row in paper["rows"]
    ]


def same_dataset(ours: dict[str, str], paper: str) -> bool:
    """Whether a run's dataset is the paper's by its name or its annotation set's; "-", "_" and case make no difference."""

    def plain(name: str) -> str:
        return "".join(c for c in name.lower() if c.isalnum())

    return bool(paper) and plain(paper) in (plain(ours["name"]), plain(ours["kind"]))


def text_of(summary: dict[str, float] | None, digits: int = 2) -> str:
    if summary is None:
        return "-"
    spread = f" ± {summary['std']:.{digits}f} (n={summary['n']})" if summary["n"] > 1 else ""
    return f"{summary['mean']:.{digits}f}{spread}"


def paper_of(cell: dict[str, Any]) -> str:
    return "-" if cell["paper"] is None else f"{cell['paper']:g}"


def ours_of(cell: dict[str, Any]) -> str:
    """Our numbers of a cell, each with the name of its dataset unless that is the paper's."""
    said = [text_of(summary) + (f" on {summary['on']}" if summary["on"] else "") for summary in cell["ours"]]
    return "; ".join(said) or "-"


def difference_of(cell: dict[str, Any]) -> str:
    """Ours minus the paper's of the groups on the paper's dataset (any dataset where the table names none)."""
    comparable = [s for s in cell["ours"] if not s["on"] or not cell["dataset"]]
    if cell["paper"] is None or not comparable:
        return "-"
    return "; ".join(f"{s['mean'] - cell['paper']:+.2f}" for s in comparable)


BESIDE = ("row", "column", "paper", "ours", "ours - paper")


def beside(table: str, groups: list[Group], tables: dict[str, Any]) -> list[tuple[str, ...]]:
    """`join` as rows of text under `BESIDE`; a label stands in the first of its rows only."""
    return [
        (row["label"] if i == 0 else "", cell["column"], paper_of(cell), ours_of(cell), difference_of(cell))
        for row in join(table, groups, tables)
        for i, cell in enumerate(row["cells"])
    ]


def own_table(groups: list[Group]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of all our runs: parameters, cost, and every final metric."""
    found = {m for g in groups for r in g.runs for m in r.scores if m.split("/")[-1] not in HIDDEN}
    # What papers print comes first; R@5 before R@10.
    metrics = sorted(found, key=lambda m: (not m.endswith("/top1"), m.rstrip("0123456789"), len(m), m))
    header = ["run", "seeds", "parameters", "GMAC", *metrics]
    rows = []
    for group in groups:
        first = group.runs[0].results
        fixed = [group.title, group.seeds, f"{first['params']:,}", f"{first['gmacs']:.4f}"]
        rows.append(fixed + [_own_cell(group, m) for m in metrics])
    return header, rows


def _own_cell(group: Group, metric: str) -> str:
    """With the dataset's name where it is not that of the run."""
    summary, dataset = group.summary(metric), group.dataset_of(metric)
    elsewhere = summary is not None and dataset != group.runs[0].dataset
    return text_of(summary) + (f" on {dataset['name']}" if elsewhere else "")


def notes(table: str, tables: dict[str, Any]) -> list[str]:
    """What a reader has to know about a table's numbers."""
    said = [tables[table]["note"]] if tables[table]["note"] else []
    if table.startswith("mt."):
        movt = "/".join(f"{thop_movt(points=60, frames=t, classes=27):.2f}" for t in (4, 16, 32))
        mae = "/".join(f"{thop_videomae(frames=t, classes=27):.2f}" for t in (1, 2, 4, 16))
        said.append(
            f"The paper's GFLOPs are MACs without attention's products: that counter gives {movt} for the calibrated MovT at "
            f"4/16/32 frames and {mae} for VideoMAE-small at 1/2/4/16. Our GMAC column counts everything."
        )
        said.append(
            "The paper prints two MovT versions on Jester: 70.01 % at 32 frames (Table 1) and 77.56 % at 16 (supplement); its "
            "cascade covers 80 % at 87.6 %, which alone is above 70.1 % overall. Compare with 77.56."
        )
    return said
