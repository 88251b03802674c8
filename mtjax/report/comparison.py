"""A student beside its teacher, and what it gains: confusion of the same classes, accuracy class by class.

"Size Doesn't Matter", Fig. 1A (motion_guidance.md §8). Classes are joined by name and clips by id.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from mtjax.evaluators import top1
from mtjax.lookup import ConfigError
from mtjax.report import charts
from mtjax.report.found import Context
from mtjax.report.page import Section, Table
from mtjax.run.evaluation import ROWS
from mtjax.run.results import Result

MOST_CONFUSED = 15  # classes in a matrix, as in the paper's figure
# Clips without a record may be left out of one run and not of the other; two splits share less than this.
MIN_SHARED = 0.9


@dataclasses.dataclass(frozen=True)
class Answers:
    """One run's answers on the clips of one eval.

    Attributes:
      names: its classes, in its own order. split: that was scored.
      ids: str [n]; label, predicted: int [n], index into `names`.
    """

    run: Result
    names: tuple[str, ...]
    split: str
    ids: np.ndarray
    label: np.ndarray
    predicted: np.ndarray

    @classmethod
    def read(cls, run: Result, name: str) -> "Answers":
        """Labelled clips of `rows/<name>.npz`; a clip of which nothing was observed is answered wrongly."""
        with np.load(run.workdir / ROWS / f"{name}.npz") as rows:
            probs, labels = top1.labelled(rows)
            clips = rows["clip"][rows["label"] >= 0]
        split = run.config["evals"].get(name, {}).get("split", name)
        return cls(run, tuple(run.results["class_names"]), split, run.catalog().ids[clips], labels, probs.argmax(-1))


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two runs' answers on the clips that both have, in the student's class order.

    Attributes:
      names: classes. label, student, other: int [n], true class and answers. left_out: clips that only one of them has.
    """

    names: tuple[str, ...]
    label: np.ndarray
    student: np.ndarray
    other: np.ndarray
    left_out: int


def join(student: Answers, other: Answers) -> Pair:
    """Raises ConfigError when the two were not asked the same: other classes, clips or labels."""
    who = f"{other.run.workdir} (split {other.split!r} of {other.run.dataset['name']})"
    whom = f"{student.run.workdir} (split {student.split!r} of {student.run.dataset['name']})"
    remedy = "score both on the same split of the same dataset"
    if different := sorted(set(student.names) ^ set(other.names)):
        raise ConfigError(f"{who} and {whom} do not have the same classes, e.g. {different[:3]}; {remedy}")
    shared, mine, its = np.intersect1d(student.ids, other.ids, assume_unique=True, return_indices=True)
    longer = max(len(student.ids), len(other.ids))
    if not len(shared) or len(shared) < MIN_SHARED * longer:
        raise ConfigError(f"{who} and {whom} share {len(shared)} of {longer} clips; {remedy}")
    place = np.array([student.names.index(name) for name in other.names], np.int64)
    label = student.label[mine]
    if len(wrong := np.flatnonzero(label != place[other.label[its]])):
        clip, true = str(shared[wrong[0]]), student.names[label[wrong[0]]]
        raise ConfigError(f"{who} and {whom} label clip {clip!r} differently (here {true!r}); {remedy}")
    left_out = len(student.ids) + len(other.ids) - 2 * len(shared)
    return Pair(student.names, label, student.predicted[mine], place[other.predicted[its]], left_out)


def pairs(student: Result, other: Result) -> dict[str, Pair]:
    """Eval name → joined answers, for every eval that both runs have class probabilities of.

    Raises:
      ConfigError: there is none, or the two cannot be compared.
    """

    def evals(run: Result) -> set[str]:
        found = set()
        for path in (run.workdir / ROWS).glob("*.npz"):
            with np.load(path) as rows:
                found |= {path.stem} if "probs" in rows else set()
        return found

    if not (names := sorted(evals(student) & evals(other))):
        raise ConfigError(
            f"{other.workdir} has rows of the evals {sorted(evals(other))}, {student.workdir} of {sorted(evals(student))}: "
            "none in common; `mtjax evaluate` makes them"
        )
    return {name: join(Answers.read(student, name), Answers.read(other, name)) for name in names}


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Counts [true, predicted] in % of each true class; 0 for a class without clips."""
    return 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)


def most_confused(matrix: np.ndarray, count: int = MOST_CONFUSED) -> np.ndarray:
    """The classes with the largest off-diagonal share of their row, largest first; ties go to the lower index.

    Args:
      matrix: counts [true, predicted]. A class without clips is never chosen.
    """
    share = row_shares(matrix)
    mass = np.where(matrix.sum(1) > 0, share.sum(1) - np.diag(share), -1.0).round(9)
    return np.argsort(-mass, kind="stable")[: min(count, int((mass >= 0).sum()))]


def beside(matrices: dict[str, np.ndarray], names: tuple[str, ...], chosen: np.ndarray) -> str:
    """Row-normalised matrices of some classes side by side; what went to the classes not shown is the last column."""
    rows = [names[i] for i in chosen]
    rest = np.setdiff1d(np.arange(len(names)), chosen)
    size = 2.2 + 0.3 * len(rows)
    figure, axes = plt.subplots(1, len(matrices), figsize=(2 * size + 1, size), layout="constrained", squeeze=False)
    for axis, (title, matrix) in zip(axes[0], matrices.items(), strict=True):
        share = row_shares(matrix)[chosen]
        shown, columns = share[:, chosen], rows
        if len(rest):
            shown, columns = np.column_stack([shown, share[:, rest].sum(1)]), [*rows, "(others)"]
        charts.draw_shares(axis, shown, rows, columns)
        axis.set_title(title, fontsize=10)
    return charts.png(figure)


def confusions(name: str, pair: Pair) -> Section:
    """Teacher and student on the classes that the teacher confuses most, and on those of the student."""
    matrices = {
        who: top1.confusion_matrix(predicted, pair.label, len(pair.names))
        for who, predicted in (("teacher", pair.other), ("student", pair.student))
    }
    accuracy = {who: 100 * float(m.trace() / max(m.sum(), 1)) for who, m in matrices.items()}
    titled = {f"{who}, {accuracy[who]:.1f} % of {len(pair.label)} clips": m for who, m in matrices.items()}
    plots, seen = [], set()
    for who, matrix in matrices.items():
        chosen = most_confused(matrix)
        if len(chosen) and frozenset(chosen.tolist()) not in seen:  # with few classes both have the same
            seen.add(frozenset(chosen.tolist()))
            plots.append((f"classes that the {who} confuses most", beside(titled, pair.names, chosen)))
    shown = "classes" if len(pair.names) <= MOST_CONFUSED else f"{MOST_CONFUSED} classes"
    below = "; below, those that the student confuses most" if len(plots) == 2 else ""
    note = f"The {shown} that the teacher confuses most, largest share off the diagonal first{below}. Rows in % of the true class."
    return Section(f"Teacher and student, {name}", (note, *left_out(pair)), tuple(plots), layout="wide")


def left_out(pair: Pair) -> list[str]:
    return [f"{pair.left_out} clip(s) that only one of the two runs has are left out."] if pair.left_out else []


def per_class_gain(pair: Pair) -> list[tuple[str, int, float, float, float]]:
    """(class, clips, accuracy of the other in %, of the student, gain in points), largest gain first; classes without
    clips are left out."""
    classes = len(pair.names)
    both = [top1.per_class(predicted, pair.label, classes) for predicted in (pair.other, pair.student)]
    rows = [
        (name, int(ours["n"]), its["accuracy"], ours["accuracy"], ours["accuracy"] - its["accuracy"])
        for name, its, ours in zip(pair.names, *both, strict=True)
        if ours["n"]
    ]
    return sorted(rows, key=lambda row: (-row[-1], row[0]))


def gain_bars(gains: list[tuple[str, int, float, float, float]], reference: str) -> str:
    """Sorted horizontal bars of gains in points."""
    names, values = [g[0] for g in gains], [g[-1] for g in gains]
    figure, axis = plt.subplots(figsize=(7, 1.2 + 0.2 * len(gains)), layout="constrained")
    axis.barh(range(len(gains)), values, color=["tab:green" if v > 0 else "tab:red" for v in values])
    axis.set_yticks(range(len(gains)), names, fontsize=8)
    axis.set_ylim(len(gains) - 0.4, -0.6)
    axis.axvline(0, color="k", linewidth=0.8)
    axis.set_xlabel(f"accuracy of the student minus the {reference}'s (points)")
    axis.grid(alpha=0.3, axis="x")
    return charts.png(figure)


def gains(name: str, pair: Pair, reference: str) -> Section:
    """What the student gains over the `reference` ("baseline" or "teacher"), class by class."""
    rows = per_class_gain(pair)
    overall = [
        100 * float(np.mean(p == pair.label)) if len(pair.label) else float("nan") for p in (pair.other, pair.student)
    ]
    table = Table(
        "Accuracy per class (%)",
        ("class", "clips", reference, "student", "gain"),
        [[c, str(n), f"{its:.1f}", f"{ours:.1f}", f"{gain:+.1f}"] for c, n, its, ours, gain in rows],
        open=len(rows) <= 20,
    )
    better, worse = sum(r[-1] > 0 for r in rows), sum(r[-1] < 0 for r in rows)
    said = (
        f"{reference} {overall[0]:.2f} %, student {overall[1]:.2f} % of {len(pair.label)} clips; {better} of {len(rows)} "
        f"classes gain, {worse} lose."
    )
    plots = ((f"gain over the {reference}", gain_bars(rows, reference)),) if rows else ()
    return Section(f"Gain over the {reference}, {name}", (said, *left_out(pair)), plots, (table,))


def sections(student: Result, teacher: Result | None, baseline: Result | None) -> list[Section]:
    """The matrices beside the teacher's, and the gains over the baseline (without one, over the teacher)."""
    if not (teacher or baseline):
        return []
    roles = (("Student", student), ("teacher", teacher), ("baseline", baseline))
    who = ", ".join(f"{role} {run.workdir}" for role, run in roles if run)
    out = [Section("Comparison", (f"{who}; clips of each eval one by one, classes by name.",))]
    taught = pairs(student, teacher) if teacher else {}
    out += [confusions(name, pair) for name, pair in taught.items()]
    reference = "baseline" if baseline else "teacher"
    compared = pairs(student, baseline) if baseline else taught
    return out + [gains(name, pair, reference) for name, pair in compared.items()]


ORDER = 20


def add_flags(parser: argparse.ArgumentParser) -> None:
    """See `found`."""
    add = parser.add_argument
    add("--teacher", type=Path, default=None, help="finished run to compare the first WORKDIR with")
    add("--baseline", type=Path, default=None, help="the student without a teacher: gains are over it")


def make(context: Context) -> list[Section]:
    """See `found`."""
    teacher, baseline = (path and Result.load(path) for path in (context.args.teacher, context.args.baseline))
    return sections(context.runs[0], teacher, baseline)
