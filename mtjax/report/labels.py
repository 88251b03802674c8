"""Accuracy against the number of labels, of runs that differ in nothing else (MotionFit, Table 8; motion_guidance.md §7)."""

import argparse
import dataclasses
import itertools
import re
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt

from mtjax.data.origin import config_hash
from mtjax.report import charts
from mtjax.report.found import Context
from mtjax.report.groups import Group, text_of
from mtjax.report.page import Section, Table
from mtjax.run.provenance import without_labels, without_seed
from mtjax.run.results import Result

SEPARATORS = "-_./ "
MIN_APART = 0.12  # of the axis, between two counts that are both written under it


@dataclasses.dataclass(frozen=True)
class Point:
    """Runs with the same number of labels, which differ in their seed alone. `labelled`: mean over them; where whole groups
    are held out, another choice of clips may have a few more or less."""

    labelled: float
    group: Group


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of the plot. `points`: fewest labels first."""

    name: str
    points: tuple[Point, ...]

    @property
    def runs(self) -> list[Result]:
        return [run for point in self.points for run in point.group.runs]

    @property
    def metrics(self) -> list[str]:
        """Top-1 of the evals that all its runs have; those called test… alone, if there are any."""
        shared = set.intersection(*({m for m in run.scores if m.endswith("/top1")} for run in self.runs))
        return sorted({m for m in shared if m.startswith("test")} or shared)


def find_series(runs: Sequence[Result]) -> list[Series]:
    """Series of at least two numbers of labels, in the order of their first runs; runs without a known number, or without
    labels, are in none."""
    found: dict[str, dict[tuple, list[Result]]] = {}
    for run in runs:
        if run.labelled:
            data = run.config["data"]
            # Seeds of one share or number a class belong together, whatever their exact counts; lists have only that.
            setting = (data.get("fraction", 1.0), data.get("k_shot", 0), run.labelled if data.get("shots") else 0)
            recipe = run.origin.get("recipe") or config_hash(without_labels(without_seed(run.config)))
            found.setdefault(recipe, {}).setdefault(setting, []).append(run)
    out: list[Series] = []
    for settings in found.values():
        points = [Point(float(np.mean([r.labelled for r in of])), Group(tuple(of))) for of in settings.values()]
        points.sort(key=lambda point: point.labelled)
        one = Series(_name([r for of in settings.values() for r in of]), tuple(points))
        if len({p.labelled for p in points}) > 1 and one.metrics:
            out.append(one)
    names = [one.name for one in out]
    again = [names[:i].count(name) for i, name in enumerate(names)]
    return [dataclasses.replace(s, name=f"{s.name} ({n + 1})") if n else s for s, n in zip(out, again, strict=True)]


def _name(runs: Sequence[Result]) -> str:
    """What the workdirs' paths have in common, without a number that was cut and what separates it."""
    letters = zip(*(str(run.workdir) for run in runs), strict=False)
    common = "".join(of[0] for of in itertools.takewhile(lambda of: len(set(of)) == 1, letters))
    common = re.sub(r"\d+$", "", common).rstrip(SEPARATORS)
    return common.rpartition("/")[2] or runs[0].workdir.name


def sections(runs: Sequence[Result]) -> list[Section]:
    """One section with a plot for each eval, if there are runs to compare; else none."""
    if not (found := find_series(runs)):
        return []
    metrics = sorted({m for one in found for m in one.metrics}, key=lambda m: (m != "test/top1", m))
    notes = [
        "Runs of one line differ in their seed and in how many labels they and what they are made from use (and in how long these "
        "train). Error bars are the standard deviation (of the sample) over seeds."
    ]
    if unknown := sum(run.labelled is None for run in runs):
        notes.append(f"{unknown} run(s) did not note how many labels they used and are left out.")
    for one in found:
        if any(len({_choice(run) for run in p.group.runs}) < len(p.group.runs) for p in one.points):
            notes.append(f"{one.name}: some runs have seed and number of labels in common.")
    table = Table(
        "Accuracy by number of labels (%)",
        ("series", "labelled clips", *metrics, "runs"),
        [
            [one.name, f"{p.labelled:,.0f}", *_scores(one, p, metrics), ", ".join(r.workdir.name for r in p.group.runs)]
            for one in found
            for p in one.points
        ],
        open=True,
    )
    plots = tuple(
        (f"accuracy by number of labels, {m}", plot([s for s in found if m in s.metrics], m)) for m in metrics
    )
    return [Section("Accuracy by number of labels", tuple(notes), plots, (table,))]


def _choice(run: Result) -> tuple[int, int]:
    return run.results["seed"], run.config["data"].get("subset_seed", 0)


def _scores(one: Series, point: Point, metrics: Sequence[str]) -> list[str]:
    return [text_of(point.group.summary(m) if m in one.metrics else None) for m in metrics]


def plot(found: Sequence[Series], metric: str) -> str:
    """One metric in % against the number of labels, one line a series."""
    figure, axis = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    for one in found:
        summaries = [p.group.summary(metric) for p in one.points]
        mean, std = ([s[key] for s in summaries] for key in ("mean", "std"))
        axis.errorbar([p.labelled for p in one.points], mean, std, marker="o", markersize=4, capsize=3, label=one.name)
    counts = sorted({p.labelled for one in found for p in one.points})
    axis.set_xscale("log")
    axis.set_xticks([], minor=True)
    written = apart(counts)
    axis.set_xticks(written, [f"{count:,.0f}" for count in written])
    axis.set_xlabel("labelled training clips")
    axis.set_ylabel("accuracy (%)")
    axis.set_title(metric)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return charts.png(figure)


def apart(counts: Sequence[float]) -> list[float]:
    """Those of ascending counts that can be written under a log axis without overlap: the least of each neighbourhood."""
    kept: list[float] = []
    for count in counts:
        if not kept or np.log(count / kept[-1]) >= MIN_APART * np.log(counts[-1] / counts[0]):
            kept.append(count)
    return kept


ORDER = 10


def add_flags(parser: argparse.ArgumentParser) -> None:
    """See `found`. It has none."""


def make(context: Context) -> list[Section]:
    """See `found`."""
    return sections(context.runs)
