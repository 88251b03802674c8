"""Which items of a video make a clip: `frames` items, `stride` apart, from some start on (motionfit.md §2, §3, §7).

Items are RGB frames or flow fields. What is taken is the same for both, so that a clip of one shows what a clip of the
other shows. A video that is shorter than a clip is one start, 0, and is looped.
"""

import numpy as np


def extent(frames: int, stride: int) -> int:
    """From the first item of a clip to its last, both counted."""
    return (frames - 1) * stride + 1


def even_starts(stored: int, extent: int, clips: int) -> np.ndarray:
    """int64 [clips]: evenly spaced from the first possible start to the last; of one clip, the middle.

    VCOP's rule, int(linspace(L / 2, n - L / 2, clips) - L / 2) of clips of L in a video of n, in whole numbers: in floating
    point a start that should be whole may come out as the one before it.
    """
    last = max(stored - extent, 0)
    if clips == 1:
        return np.array([last // 2], np.int64)
    return np.arange(clips, dtype=np.int64) * last // (clips - 1)


def random_starts(stored: int, extent: int, clips: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [clips]: independent of each other, each possible start as likely.

    Shares of the video are drawn, so that flow, which has one item less, begins with the same draws where RGB does, or one
    item earlier.
    """
    return (rng.random(clips) * (max(stored - extent, 0) + 1)).astype(np.int64)


def ordered_starts(stored: int, extent: int, clips: int, gap: int, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """int64 [clips]: one after the other, `gap` items between them, from a random start (VCOP); and True. Of a video that is
    too short for this the evenly spaced ones, which may overlap, and False."""
    distance = extent + gap
    room = stored - (distance * (clips - 1) + extent)
    if room < 0:
        return even_starts(stored, extent, clips), False
    return int(rng.random() * (room + 1)) + distance * np.arange(clips, dtype=np.int64), True


def items(starts: np.ndarray, frames: int, stride: int, stored: int) -> np.ndarray:
    """int64 [clips frames]: which of the `stored` items each clip shows; behind the last comes the first."""
    return (starts[:, None] + stride * np.arange(frames)) % stored
