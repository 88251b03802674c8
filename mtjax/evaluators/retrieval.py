"""Retrieval by nearest neighbours: R@k, the share of queries with one of their kind among the k nearest (motionfit.md §8)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

BLOCK = 1024  # queries whose distances to the whole gallery exist at once


def unit(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows of length 1; a row of zeros stays, as far from everything as a right angle is."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1.0)


def nearest(queries: Float[np.ndarray, "q d"], gallery: Float[np.ndarray, "g d"], k: int) -> Int[np.ndarray, "q k"]:
    """The k nearest of the gallery by cosine, nearest first; of equals the first."""
    found, queries, gallery = [], unit(queries), unit(gallery)
    k = min(k, len(gallery))
    for start in range(0, len(queries), BLOCK):
        far = -(queries[start : start + BLOCK] @ gallery.T)
        if k < len(gallery):  # every one that is no farther than the k-th may be among them
            limit = np.partition(far, k - 1, axis=1)[:, k - 1 : k]
            far = np.where(far <= limit, far, np.inf)
        found.append(np.argsort(far, axis=1, kind="stable")[:, :k])
    return np.concatenate(found) if found else np.zeros((0, k), np.int64)


def recalls(relevant: Bool[np.ndarray, "q k"], at: Sequence[int]) -> dict[str, float]:
    """`R@k` in % for each k, of whether each neighbour, nearest first, is of the query's kind; 0 without a query.

    Raises:
      ValueError: a k beyond the neighbours that were looked up.
    """
    if max(at) > relevant.shape[1]:
        raise ValueError(f"R@{max(at)} needs as many neighbours, there are {relevant.shape[1]}")
    return {f"R@{k}": 100.0 * float(relevant[:, :k].any(1).mean()) if len(relevant) else 0.0 for k in at}


def mean_of_clips(
    features: Float[np.ndarray, "n d"], video: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "v d"], Int[np.ndarray, " v"]]:
    """The mean feature of each video's clips, and the videos, sorted."""
    videos, index, count = np.unique(video, return_inverse=True, return_counts=True)
    total = np.zeros((len(videos), features.shape[1]), np.float64)
    np.add.at(total, index, features)
    return (total / count[:, None]).astype(features.dtype), videos
