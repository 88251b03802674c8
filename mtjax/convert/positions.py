"""Position tables of another image size: resized as a picture, class token aside (the rule of `transformers`' CLIP)."""

import math

import numpy as np

from mtjax.convert.names import ConversionError

CUBIC = -0.75  # PyTorch's coefficient; others have -0.5


def resize(table: np.ndarray, grid: int) -> np.ndarray:
    """[1 + g², d] → [1 + grid², d], bicubic with half-pixel centres and repeated edges.

    Raises:
      ConversionError: the table is not a class token and a square.
    """
    old = math.isqrt(len(table) - 1)
    if old * old != len(table) - 1:
        raise ConversionError(f"a position table of {len(table)} rows is not a class token and a square of patches")
    if old == grid:
        return table
    weights = _weights(old, grid)
    square = table[1:].reshape(old, old, -1).astype(np.float64)
    resized = np.einsum("yh,xw,hwd->yxd", weights, weights, square)
    return np.concatenate([table[:1], resized.reshape(grid * grid, -1).astype(table.dtype)])


def _weights(old: int, new: int) -> np.ndarray:
    """float64 [new, old]: how each new sample is made of the old ones."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for offset in range(-1, 3):
        source = np.floor(at).astype(int) + offset
        np.add.at(weights, (np.arange(new), source.clip(0, old - 1)), _kernel(np.abs(at - source)))
    return weights


def _kernel(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution."""
    near = (CUBIC + 2) * x**3 - (CUBIC + 3) * x**2 + 1
    far = CUBIC * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
