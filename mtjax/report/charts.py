"""Pictures of one run: learning curves, confusion, coverage, scatter; each as the base64 text of a PNG."""

import base64
import io
from typing import Any

import matplotlib
import numpy as np

from mtjax.evaluators import top1

matplotlib.use("Agg")  # no display on a training host
from matplotlib import pyplot as plt

matplotlib.rcParams["text.parse_math"] = False  # names come from datasets: a dollar sign in one is no formula


def png(figure: plt.Figure) -> str:
    """A figure as base64 text; closes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def learning_curves(metrics: list[dict[str, Any]]) -> str:
    """Training and evaluation loss, and top-1 where there is one, over steps."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3))
    for axis, metric in zip(axes, ("loss", "top1"), strict=True):
        for name in sorted({k for line in metrics for k in line if k.endswith(f"/{metric}")}):
            points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
            axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name.split("/")[0])
        axis.set_xlabel("step")
        axis.set_title(metric)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    return png(figure)


def confusion(predicted: np.ndarray, labels: np.ndarray, names: list[str], title: str) -> str:
    """Confusion matrix normalised by the true class, in %."""
    matrix = top1.confusion_matrix(predicted, labels, len(names)).astype(float)
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = min(3 + 0.28 * len(names), 14)
    figure, axis = plt.subplots(figsize=(size, size))
    draw_shares(axis, share, names, names)
    axis.set_title(f"confusion, {title}")
    return png(figure)


def draw_shares(axis: plt.Axes, share: np.ndarray, true: list[str], predicted: list[str]) -> None:
    """Shares in % [true, predicted] as colours; named up to 60 classes, with their numbers up to 20."""
    axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if len(predicted) <= 60:
        axis.set_xticks(range(len(predicted)), predicted, rotation=90, fontsize=7)
        axis.set_yticks(range(len(true)), true, fontsize=7)
    if len(true) <= 20:
        for i, j in np.argwhere(share >= 1):
            axis.text(
                j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=6, color="w" if share[i, j] > 50 else "k"
            )
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")


def coverage(probs: np.ndarray, labels: np.ndarray, title: str) -> str:
    """Accuracy of the most confident share of the clips (the cascade of the MovT paper, Fig. 13)."""
    curve = top1.coverage_curve(probs, labels)
    figure, axis = plt.subplots(figsize=(4.2, 3.2))
    axis.plot(curve["coverage"], curve["accuracy"])
    for share in (50.0, 80.0):
        at = top1.at_coverage(curve, share)
        axis.plot(
            at["coverage"],
            at["accuracy"],
            "o",
            label=f"{at['coverage']:.1f} %: {at['accuracy']:.1f} % (≥ {at['threshold']:.3f})",
        )
    axis.set_xlabel("coverage (%)")
    axis.set_ylabel("accuracy (%)")
    axis.set_title(f"coverage and accuracy, {title}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return png(figure)


def scatter(target: np.ndarray, predicted: np.ndarray, title: str) -> str:
    """Predictions against targets, one colour a target (at most eight are drawn)."""
    figure, axis = plt.subplots(figsize=(4.2, 4.2))
    for i in range(min(target.shape[1], 8)):
        axis.plot(target[:, i], predicted[:, i], ".", alpha=0.6)
    axis.set_xlabel("target")
    axis.set_ylabel("prediction")
    axis.set_title(title)
    axis.grid(alpha=0.3)
    return png(figure)
