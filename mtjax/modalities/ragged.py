"""Clips of different length in one array."""

from typing import Any

import numpy as np


def stack(clips: list[np.ndarray | None], shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Clips of different length as one array [b, *shape], padded with zeros at the end, and their lengths int32 [b];
    a missing clip (None) has length 0."""
    array = np.empty((len(clips), *shape), dtype)
    length = np.zeros(len(clips), np.int32)
    for i, clip in enumerate(clips):
        if clip is not None:
            length[i] = len(clip)
            array[i, : len(clip)] = clip
        array[i, length[i] :] = 0
    return array, length
