"""What decoding gives, whatever it decodes: which frames of a clip are taken, and how they are brought to size."""

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np

from preprocessing.videos.video_file import Limits, VideoError

EPSILON_S = 1e-6


@dataclasses.dataclass
class Clip:
    """What was decoded.

    Attributes:
      frames: uint8 [t h w 3], RGB, upright, of even width and height.
      times_s: float32 [t], presentation times in seconds since the start of the video.
      fps: mean frame rate of the part in the file, by presentation time; 0 when it has one frame.
      size_px: (w, h) of the video, upright and cropped to even, before any resizing.
      source_px: (w, h) as coded.
      partial: the file is damaged, and these are the frames before the damage.
    """

    frames: np.ndarray
    times_s: np.ndarray
    fps: float
    size_px: tuple[int, int]
    source_px: tuple[int, int]
    partial: bool = False


class Part(NamedTuple):
    """What of a video is asked for: from when to when, and how many frames or, with `fps`, how many a second."""

    start_s: float
    end_s: float
    num_frames: int
    fps: float

    def pick(self, t: np.ndarray, limits: Limits) -> np.ndarray:
        """int [k]: which of the frames shown at `t` (float64 [n], sorted), all of them in the part."""
        if self.fps:
            # A tenth of a tick of leave: containers round times, to whole milliseconds for one.
            count = int((t[-1] - t[0]) * self.fps + 0.1) + 1
            limits.check("max_frames", count, f"frames at {self.fps:g} a second:")
            between = (t[1:] + t[:-1]) / 2
            # Rounded against floating point, so that a tick half-way between two frames always takes the first.
            return np.searchsorted(between.round(6), (t[0] + np.arange(count) / self.fps).round(6))
        position = np.interp(np.linspace(t[0], t[-1], self.num_frames), t, np.arange(len(t)))
        # The inner rounding undoes floating point, so that an exact half rounds as in round(linspace(0, n - 1, t)).
        return np.round(np.round(position, 6)).astype(int)


def choose(times: np.ndarray, asked: Part, limits: Limits) -> tuple[list[int], np.ndarray, float]:
    """Which of the frames shown at `times` (float64 [n], sorted) to keep: indices [t], their times, the part's rate."""
    if not len(times):
        raise VideoError("decode", "the video holds no frame")
    start_s, end_s = asked.start_s, asked.end_s
    part = np.flatnonzero((times > start_s - EPSILON_S) & ((end_s == 0) | (times < end_s - EPSILON_S)))
    if not len(part):
        if not times[0] <= start_s <= times[-1] + np.diff(times).max(initial=0.0):
            there = f"there are frames from {times[0]:.2f} to {times[-1]:.2f} s"
            raise VideoError("decode", f"no frame in {start_s:g}..{end_s:g} s; {there}")
        part = np.flatnonzero(times <= start_s)[-1:]  # a part between two frames shows the first of them
    t = times[part]
    limits.check("max_frames", len(t), "frames:")
    limits.check("max_seconds", t[-1] - t[0], "seconds:")
    indices = part[asked.pick(t, limits)]
    fps = (len(t) - 1) / (t[-1] - t[0]) if t[-1] > t[0] else 0.0
    return indices.tolist(), times[indices].astype(np.float32), float(fps)


def assembled(
    kept: dict, wanted: list[int], times_s: np.ndarray, fps: float, limits: Limits, partial: bool = False
) -> Clip:
    """The clip of the frames `wanted`, keys of `kept` in rising order; `kept` (see `prepared`) is used up."""
    first, size_px, source_px = kept[wanted[0]]
    height, width = first.shape[:2]
    limits.check("max_clip_bytes", len(wanted) * first.nbytes, f"bytes of {len(wanted)} frames of {width}x{height}:")
    frames = np.empty((len(wanted), *first.shape), np.uint8)
    for i, key in enumerate(wanted):  # in rising order, so that each is let go after its last use
        frame = kept[key][0] if i + 1 < len(wanted) and wanted[i + 1] == key else kept.pop(key)[0]
        # A stream may change its size half-way; the first frame's holds.
        frames[i] = frame if frame.shape == first.shape else cv2.resize(frame, (width, height))
    return Clip(frames, times_s, fps, size_px, source_px, partial)


def prepared(
    image: np.ndarray, short_side: int, source_px: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """An upright image [h w 3] cropped to even and shrunk; (w, h) before the shrinking; `source_px` as it is."""
    height, width = (max(1, n - n % 2) for n in image.shape[:2])
    image = shrink(np.ascontiguousarray(image[:height, :width]), short_side)
    return image, (width, height), source_px


def shrink(image: np.ndarray, short_side: int) -> np.ndarray:
    """[h w 3] → with that short side and an even long one, unless it is smaller already; 0 leaves it."""
    height, width = image.shape[:2]
    if not short_side or min(width, height) <= short_side:
        return image
    factor = short_side / min(width, height)
    return cv2.resize(image, [2 * max(1, round(n * factor / 2)) for n in (width, height)], interpolation=cv2.INTER_AREA)


def stretch(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """[h w c] → exactly (width, height), by area where it shrinks, whatever that does to its aspect; None leaves it."""
    if size is None or image.shape[1::-1] == tuple(size):
        return image
    shrinks = size[0] <= image.shape[1] and size[1] <= image.shape[0]
    return cv2.resize(image, tuple(size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
