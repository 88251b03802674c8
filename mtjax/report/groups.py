"""Finished runs as rows: grouped over seeds and official splits."""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from mtjax.lookup import ConfigError
from mtjax.run.plain_config import config_hash
from mtjax.run.results import RETRIEVAL, Result

NUMBERED = re.compile(r"^(train|test)(\d+)")  # official splits, which a dataset has several of


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


def text_of(summary: dict[str, float] | None, digits: int = 2) -> str:
    if summary is None:
        return "-"
    spread = f" ± {summary['std']:.{digits}f} (n={summary['n']})" if summary["n"] > 1 else ""
    return f"{summary['mean']:.{digits}f}{spread}"
