"""Groups of runs joined with the papers' tables."""

import json
from importlib import resources
from typing import Any

from mtjax.lookup import ConfigError
from mtjax.report.groups import Group, text_of
from mtjax.run.complexity import thop_movt, thop_videomae

HIDDEN = ("n", "loss", "unobserved")  # metrics that the console table leaves out


def load_tables() -> dict[str, Any]:
    return json.loads(resources.files("mtjax.report").joinpath("paper_tables.json").read_text())


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
