"""From clips to videos, and from models to ensembles (metrics.md, "View aggregation")."""

import numpy as np

from mtjax.command.errors import InputError

KINDS = ("probs", "logits", "features")


def aggregate(x: np.ndarray, group: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Averages the rows of each group.

    Args:
      x: [n, c]. group: [n], equal for rows of the same video.
      kind: what x holds. Logits are softmaxed after the mean, probabilities and features are averaged as they are: the
        two orders can disagree (MF-8).

    Returns:
      (unique groups in sorted order, their means [groups, c]).
    """
    if kind not in KINDS:
        raise InputError(f"aggregate: kind {kind!r} must be one of {KINDS}")
    unique, member = np.unique(group, return_inverse=True)
    total = np.zeros((len(unique), x.shape[1]), np.float64)
    np.add.at(total, member, x)
    mean = total / np.bincount(member, minlength=len(unique))[:, None]
    return unique, softmax(mean) if kind == "logits" else mean


def fuse(logits: list[np.ndarray], weights: list[float] | None = None) -> np.ndarray:
    """Late fusion of separately trained models: a weighted sum of logits, equal weights by default (movt.md §4, MT-4)."""
    weights = weights or [1 / len(logits)] * len(logits)
    return sum(w * x for w, x in zip(weights, logits, strict=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
