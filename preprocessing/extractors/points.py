"""Which points of frame 0 are tracked: a grid, corners, at random, or inside a mask; all but the mask within a box.

Points are (x, y) in pixels, pixel centres at whole numbers, as in OpenCV and CoTracker.
"""

import hashlib

import cv2
import numpy as np

from mtjax.command.errors import InputError

SAMPLINGS = ("shi_tomasi", "grid", "random", "mask")
WHOLE_FRAME = (0.0, 0.0, 1.0, 1.0)
CORNER_SIDE_PX = 256  # corners are sought at this short side: at full resolution they sit on noise
CORNER_QUALITY = 0.01


class PointsError(InputError):
    """No points can be drawn: an empty mask or box."""


def rng_of(clip_id: str) -> np.random.Generator:
    """A generator seeded by the clip's id alone: the same points on every machine and in every run."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "big"))


def sample(
    sampling: str,
    frame: np.ndarray,
    num_points: int,
    clip_id: str,
    *,
    box: tuple[float, float, float, float] = WHOLE_FRAME,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Draws the points of one clip.

    Args:
      sampling: one of SAMPLINGS.
      frame: uint8 [h w 3], frame 0.
      box: x0, y0, x1, y1 as fractions of the frame; not used by "mask".
      mask: [mh mw], non-zero where points may lie, of any size: it is laid over the whole frame.

    Returns:
      float32 [num_points 2].

    Raises:
      PointsError: the box or the mask holds no pixel.
    """
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = np.array(box) * [width, height, width, height]
    if sampling == "mask":
        return in_mask(mask, num_points, (width, height), rng_of(clip_id))
    if x1 - x0 < 1 or y1 - y0 < 1:
        raise PointsError(f"the box {box} holds no pixel of a {width}x{height} frame")
    if sampling == "grid":
        return grid(num_points, (x0, y0, x1, y1))
    if sampling == "random":
        return in_box(num_points, (x0, y0, x1, y1), rng_of(clip_id))
    return shi_tomasi(frame, num_points, (x0, y0, x1, y1), rng_of(clip_id))


def grid(num_points: int, box_px: tuple[float, float, float, float]) -> np.ndarray:
    """A regular grid with CoTracker's margin of a 64th of the width (`get_points_on_a_grid`).

    k² points are k by k, as there. Any other number fills rows of nearly equal length and even spacing.
    """
    x0, y0, x1, y1 = box_px
    margin = (x1 - x0) / 64
    rows = round(num_points**0.5)
    if rows * rows != num_points:
        rows = int(np.clip(round((num_points * (y1 - y0) / (x1 - x0)) ** 0.5), 1, num_points))
    ys = _spread(y0 + margin, y1 - margin, rows)
    counts = np.diff(np.round(np.linspace(0, num_points, rows + 1)).astype(int))
    points = [(x, y) for y, n in zip(ys, counts, strict=True) for x in _spread(x0 + margin, x1 - margin, n)]
    return np.array(points, np.float32).reshape(num_points, 2)


def _spread(low: float, high: float, n: int) -> np.ndarray:
    return np.linspace(low, high, n) if n > 1 else np.array([(low + high) / 2] * n)


def in_box(num_points: int, box_px: tuple[float, float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Uniform over the box. Pixel i covers [i - 0.5, i + 0.5), hence the shift."""
    x0, y0, x1, y1 = box_px
    return rng.uniform((x0 - 0.5, y0 - 0.5), (x1 - 0.5, y1 - 0.5), (num_points, 2)).astype(np.float32)


def in_mask(mask: np.ndarray, num_points: int, size_px: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Uniform over the mask's pixels without replacement; with, when there are too few (MovT, section 10.1)."""
    ys, xs = np.nonzero(mask)
    if not len(ys):
        raise PointsError("the mask is empty")
    rows = rng.choice(len(ys), num_points, replace=len(ys) < num_points)
    scale = np.array(size_px) / mask.shape[1::-1]
    return ((np.stack([xs[rows], ys[rows]], axis=1) + 0.5) * scale - 0.5).astype(np.float32)


def shi_tomasi(
    frame: np.ndarray, num_points: int, box_px: tuple[float, float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """The strongest corners (Shi and Tomasi, CVPR 1994), well apart; random points of the box where corners run out."""
    height, width = frame.shape[:2]
    factor = min(1.0, CORNER_SIDE_PX / min(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    scale = np.array(size) / (width, height)
    x0, y0, x1, y1 = np.round(np.array(box_px) * np.tile(scale, 2)).astype(int)
    inside = np.zeros_like(grey)
    inside[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = 255
    # Half of what a regular grid would leave between its points: apart, and yet enough of them.
    apart = 0.5 * (max(1, (x1 - x0) * (y1 - y0)) / num_points) ** 0.5
    corners = cv2.goodFeaturesToTrack(grey, num_points, CORNER_QUALITY, apart, mask=inside)
    corners = np.zeros((0, 2)) if corners is None else (corners.reshape(-1, 2) + 0.5) / scale - 0.5
    fill = in_box(num_points - len(corners), box_px, rng)
    return np.concatenate([corners, fill]).astype(np.float32)
