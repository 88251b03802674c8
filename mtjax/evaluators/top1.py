"""Classification metrics: top-k, macro accuracy, per-class table, confusion matrix, coverage–accuracy curve."""

from typing import TYPE_CHECKING

import numpy as np

from mtjax.command.errors import InputError
from mtjax.evaluators.aggregation import aggregate
from mtjax.types import Rows

if TYPE_CHECKING:
    from mtjax.data.pipeline import Data


class Top1:
    """`config.evals.NAME` for classification. All accuracies are in %."""

    def __init__(self, data: "Data", *, split: str, aggregate: str = "none", field: str = "probs"):
        """
        Args:
          split: which clips to score ("val" is the held-out part of train).
          field: of the rows; "probs_sup" and the like for a student with two heads (`tasks/distill.py`).
          aggregate: "none" scores clips; "probs" (of `field`) or "logits" averages over the clips of one source video first.

        Raises:
          InputError: a `field` beside logits, which are of the task's own rule; a split without labels.
        """
        if aggregate == "logits" and field != "probs":
            raise InputError(f"config.evals: aggregate='logits' averages `logits`, not field={field!r}; use 'probs'")
        self.split, self.how, self.field = split, aggregate, field
        if not (data.labels[data.rows(split)] >= 0).any():
            raise InputError(_no_label(split))
        paths = [c.path or c.id for c in data.catalog.clips]
        self.video = np.unique(paths, return_inverse=True)[1]

    def scored(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """(probabilities [items, classes], labels [items]) of the labelled items; see `labelled`."""
        if self.field not in rows:
            raise InputError(f"config.evals: field={self.field!r} is not predicted by this task, but {sorted(rows)}")
        probs, labels = rows[self.field], rows["label"]
        observed = rows.get("observed", np.ones(len(labels), bool))
        if self.how != "none":
            video = self.video[rows["clip"]]
            _, first, item = np.unique(video, return_index=True, return_inverse=True)
            probs = aggregate(rows[self.field if self.how == "probs" else self.how], video, self.how)[1]
            labels, observed = labels[first], np.bincount(item, observed) > 0
        return labelled({"probs": probs, "label": labels, "observed": observed})

    def score(self, rows: Rows) -> dict[str, float]:
        """`top1`, `top5`, `macro` (mean over the classes present), `loss`, and `n`: how many items were counted;
        `unobserved`: how many of the clips show nothing (data that says so).

        Raises:
          InputError: no clip has a label.
        """
        probs, labels = self.scored(rows)
        if not len(labels):
            raise InputError(_no_label(self.split))
        loss = rows["loss"][rows["label"] >= 0]
        unobserved = {"unobserved": float((~rows["observed"]).sum())} if "observed" in rows else {}
        return unobserved | {
            "top1": top_k(probs, labels, 1),
            "top5": top_k(probs, labels, 5),
            "macro": macro_accuracy(probs.argmax(-1), labels),
            "loss": float(loss.mean()),
            "n": float(len(labels)),
        }


def _no_label(split: str) -> str:
    return (
        f"split {split!r} has no labelled clip, so there is nothing to score; name another in config.evals or --split"
    )


def labelled(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities [items, classes], labels [items]) of the rows that have a label.

    An item of which nothing was `observed`, or whose prediction is not finite, is an error at any k, whatever ties say: its
    own class comes last.
    """
    probs, labels = rows["probs"], rows["label"]
    observed = rows.get("observed", np.ones(len(labels), bool))
    observed = observed & np.isfinite(probs).all(1)  # a prediction that is no number is none
    probs = np.where(np.isfinite(probs), probs, 0.0)
    probs = np.where(~observed[:, None] & (np.arange(probs.shape[1]) == labels[:, None]), -1.0, probs)
    return probs[labels >= 0], labels[labels >= 0]


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of items, in %, whose label is among the k largest scores; ties go to the lower class index, and an item
    with a score that is NaN or infinite is none of them. NaN if empty."""
    if not len(labels):
        return float("nan")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1])[None] < labels[:, None]
    rank = ((scores > own) | ((scores == own) & before)).sum(1)
    return float(100 * ((rank < k) & np.isfinite(scores).all(1)).mean())


def macro_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur among the labels of each one's accuracy, in %. NaN if empty."""
    present = np.unique(labels)
    return (
        float(100 * np.mean([(predicted[labels == c] == c).mean() for c in present])) if len(present) else float("nan")
    )


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [true, predicted]."""
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> list[dict[str, float]]:
    """One row a class: `n`, `accuracy` (recall) and `precision` in %; NaN where undefined."""
    confusion = confusion_matrix(predicted, labels, num_classes).astype(np.float64)
    right, true, claimed = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        recall, precision = 100 * right / true, 100 * right / claimed
    return [
        {"n": float(n), "accuracy": float(a), "precision": float(p)}
        for n, a, p in zip(true, recall, precision, strict=True)
    ]


def coverage_curve(probs: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy above each confidence threshold, confidence = largest probability (cascade, Fig. 13; MT-8).

    Returns:
      `threshold` descending, `coverage` and `accuracy` in %; items of equal confidence enter together.
    """
    confidence, right = probs.max(-1), probs.argmax(-1) == labels
    threshold, count = np.unique(confidence, return_counts=True)
    hits = np.bincount(np.searchsorted(threshold, confidence), weights=right, minlength=len(threshold))
    kept, correct = np.cumsum(count[::-1]), np.cumsum(hits[::-1])
    return {
        "threshold": threshold[::-1],
        "coverage": 100 * kept / max(len(labels), 1),
        "accuracy": 100 * correct / kept,
    }


def at_coverage(curve: dict[str, np.ndarray], coverage: float) -> dict[str, float]:
    """The first point of a curve that covers at least `coverage` % of the items, with the coverage it really has."""
    at = min(int(np.searchsorted(curve["coverage"], coverage - 1e-9)), len(curve["coverage"]) - 1)
    return {name: float(values[at]) for name, values in curve.items()}
