"""Which clips of a video share a pseudo label (motionfit.md §5; paper, Sec. 3.3 and Table 2). NumPy only."""

import numpy as np
from jaxtyping import Float, Int

from mtjax.command.errors import InputError

GRANULARITIES = ("clip", "change", "thirds", "video")
TOLERANCE = 1e-9  # equal steps must not differ by rounding


def segments(
    features: Float[np.ndarray, "n d"], granularity: str, *, percentile: float = 90.0
) -> Int[np.ndarray, " n"]:
    """The segment of each of a video's clips, in time order, counted from 0.

    Args:
      features: of the clips.
      granularity: "clip": each its own; "change": a new segment begins where the features' L1 step is above this video's
        percentile of steps (segment A); "thirds": three equal parts (segment B), fewer where there are fewer clips;
        "video": all one.

    Raises:
      ValueError: an unknown granularity.
    """
    n = len(features)
    if granularity == "clip":
        return np.arange(n)
    if granularity == "change":
        steps = np.abs(np.diff(features.astype(np.float64), axis=0)).sum(-1)
        threshold = np.percentile(steps, percentile) + TOLERANCE if len(steps) else 0.0
        return np.concatenate([[0], np.cumsum(steps > threshold)])[:n]
    if granularity == "thirds":
        return np.arange(n) * min(n, 3) // max(n, 1)
    if granularity == "video":
        return np.zeros(n, np.int64)
    raise InputError(f"granularity {granularity!r}: must be one of {GRANULARITIES}")


def means(features: Float[np.ndarray, "n d"], segment: Int[np.ndarray, " n"]) -> Float[np.ndarray, "s d"]:
    """The mean feature of each segment."""
    first = np.flatnonzero(np.diff(segment, prepend=-1))
    count = np.diff(np.append(first, len(segment)))
    return (np.add.reduceat(features, first, axis=0) / count[:, None]).astype(np.float32)


def starts(centre_s: Float[np.ndarray, " n"], segment: Int[np.ndarray, " n"]) -> Float[np.ndarray, " s"]:
    """When each segment begins, float32 seconds: the first at 0, others in the middle between two clips' centres."""
    last = np.flatnonzero(np.diff(segment))
    return np.concatenate([[0.0], (centre_s[last] + centre_s[last + 1]) / 2]).astype(np.float32)
