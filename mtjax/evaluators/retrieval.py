"""Retrieval by nearest neighbours: R@k, the share of queries with one of their kind among the k nearest (motionfit.md §8)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mtjax.command.errors import InputError

BLOCK = 1024  # queries whose distances to the whole gallery exist at once
SHOWN = 5  # neighbours that are looked up at least, to be drawn


class Clips(NamedTuple):
    """Described clips of many videos.

    Attributes:
      video: row in the catalog, int64 [n]. centre_s: float32 [n]. embedding: float32 [n d].
    """

    video: Int[np.ndarray, " n"]
    centre_s: Float[np.ndarray, " n"]
    embedding: Float[np.ndarray, "n d"]


class Found(NamedTuple):
    """What the clips that asked have found.

    Attributes:
      query: which of the queries' clips each is, int64 [q].
      nearest: which of the gallery's clips, nearest first, int64 [q k]. relevant: of its kind, bool [q k].
    """

    query: Int[np.ndarray, " q"]
    nearest: Int[np.ndarray, "q k"]
    relevant: Bool[np.ndarray, "q k"]


def unit(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows of length 1; a row of zeros stays, as far from everything as a right angle is."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1.0)


def nearest(queries: Float[np.ndarray, "q d"], gallery: Float[np.ndarray, "g d"], k: int) -> Int[np.ndarray, "q k"]:
    """The k nearest of the gallery by cosine, nearest first; of equals the first.

    Raises:
      InputError: a feature is NaN or infinite, which is near to nothing.
    """
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise InputError("features that are NaN or infinite cannot be compared")
    found, queries, gallery = [], unit(queries), unit(gallery)
    k = min(k, len(gallery))
    for start in range(0, len(queries), BLOCK):
        far = -(queries[start : start + BLOCK] @ gallery.T)
        if k < len(gallery):  # every one that is no farther than the k-th may be among them
            limit = np.partition(far, k - 1, axis=1)[:, k - 1 : k]
            far = np.where(far <= limit, far, np.inf)
        found.append(np.argsort(far, axis=1, kind="stable")[:, :k])
    return np.concatenate(found) if found else np.zeros((0, k), np.int64)


def without(found: Int[np.ndarray, "q k"], own: Int[np.ndarray, " q"]) -> Int[np.ndarray, "q k_less_1"]:
    """Neighbours of queries that are in the gallery themselves, at `own`: without these. Where a query's own place is not
    among the k (so many are equal to it), without the last."""
    others = found != own[:, None]
    others[others.all(1), -1] = False
    return found[others].reshape(len(found), found.shape[1] - 1)


def recalls(relevant: Bool[np.ndarray, "q k"], at: Sequence[int]) -> dict[str, float]:
    """`R@k` in % for each k, of whether each neighbour, nearest first, is of the query's kind; 0 without a query.

    Raises:
      ValueError: a k beyond the neighbours that were looked up.
    """
    if max(at) > relevant.shape[1]:
        raise InputError(f"R@{max(at)} needs as many neighbours, there are {relevant.shape[1]}")
    return {f"R@{k}": 100.0 * float(relevant[:, :k].any(1).mean()) if len(relevant) else 0.0 for k in at}


def mean_of_clips(
    features: Float[np.ndarray, "n d"], video: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "v d"], Int[np.ndarray, " v"]]:
    """The mean feature of each video's clips, and the videos, sorted."""
    videos, index, count = np.unique(video, return_inverse=True, return_counts=True)
    total = np.zeros((len(videos), features.shape[1]), np.float64)
    np.add.at(total, index, features)
    return (total / count[:, None]).astype(features.dtype), videos


def answerable(at: Sequence[int], gallery: int) -> tuple[int, ...]:
    """The k that a gallery of so many can answer.

    Raises:
      ValueError: none of them.
    """
    if not (fits := tuple(k for k in at if k <= gallery)):
        raise InputError(f"R@{min(at)} needs as many neighbours, the gallery has {gallery}")
    return fits


def by_label(
    queries: Clips, gallery: Clips, labels: Int[np.ndarray, " videos"], at: Sequence[int]
) -> tuple[dict[str, float], Found]:
    """Both readings of clip retrieval: each clip against all clips, and the mean of a video's clips against such means.

    Args:
      labels: of every row of the catalog.

    Returns:
      `video_R@k` and `clip_R@k` in % for each k of `at` that the gallery is large enough for, and what the clips found.

    Raises:
      ValueError: see `answerable`.
    """
    (mine, my_videos), (its, its_videos) = (mean_of_clips(c.embedding, c.video) for c in (queries, gallery))
    fits = answerable(at, len(its))
    videos = labels[its_videos[nearest(mine, its, max(fits))]] == labels[my_videos][:, None]
    scores = {f"video_{name}": value for name, value in recalls(videos, fits).items()}
    fits = answerable(at, len(gallery.video))
    found = nearest(queries.embedding, gallery.embedding, max(*fits, SHOWN))
    clips = labels[gallery.video][found] == labels[queries.video][:, None]
    scores |= {f"clip_{name}": value for name, value in recalls(clips, fits).items()}
    return scores, Found(np.arange(len(found)), found, clips)


def by_video(clips: Clips, at: Sequence[int]) -> tuple[dict[str, float], Found]:
    """Each clip against all others, of which those of its own video are relevant; one that is its video's only clip does not
    ask, but may be found. Returns `clip_R@k`, see `by_label`.

    Raises:
      ValueError: no video has two clips, or see `answerable`.
    """
    _, index, count = np.unique(clips.video, return_inverse=True, return_counts=True)
    query = np.flatnonzero(count[index] > 1)
    if not len(query):
        raise InputError("no video has two clips of which one could find the other")
    fits = answerable(at, len(index) - 1)
    found = without(nearest(clips.embedding[query], clips.embedding, max(*fits, SHOWN) + 1), query)
    relevant = clips.video[found] == clips.video[query][:, None]
    scores = {f"clip_{name}": value for name, value in recalls(relevant, fits).items()}
    return scores, Found(query, found, relevant)
