"""Finished runs as rows: grouped over seeds and official splits."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from mtjax.data.origin import NUMBERED, config_hash
from mtjax.lookup import ConfigError
from mtjax.run.provenance import without_seed
from mtjax.run.results import RETRIEVAL, Result


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
    """Runs made from the same, one group each: equal configs and inputs made alike (`provenance`), whatever these are called. A run
    that did not note what it was made from belongs to those whose config names the same."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        known = result.origin.get("config") or config_hash(without_seed(result.config))
        groups.setdefault(known, []).append(result)
    return [Group(tuple(sorted(g, key=lambda r: (split_of(r.config), r.results["seed"])))) for g in groups.values()]


def split_of(config: dict[str, Any]) -> int:
    """The number of the official split that a run trains on: 1 for "train1" or "train1_fit", 0 for none."""
    found = NUMBERED.match(config["data"].get("train", ""))
    return int(found[2]) if found else 0


def text_of(summary: dict[str, float] | None, digits: int = 2) -> str:
    if summary is None:
        return "-"
    spread = f" ± {summary['std']:.{digits}f} (n={summary['n']})" if summary["n"] > 1 else ""
    return f"{summary['mean']:.{digits}f}{spread}"
