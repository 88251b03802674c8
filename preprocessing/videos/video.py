"""Decoding: a video file → T frames, evenly spaced in presentation time, or so many a second. Runs inside the child of
`decoder.py`.

PyAV, from the first frame on and in order; only a part that begins late is approached by a jump to a keyframe, which is
checked by time. A damaged file is an error, never a silently shorter clip: decoding stops at the first packet or frame
that FFmpeg finds fault with, and a file that ends before its header says is found out.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import NamedTuple

import av
import cv2
import numpy as np

from preprocessing.videos.video_file import (
    Damaged,
    Limits,
    Survey,
    VideoError,
    check_file,
    open_video,
    survey,
    video_stream,
)

JUMP_S = 10.0  # to parts that begin earlier the way is decoded through
EPSILON_S = 1e-6


class _Unordered(Exception):
    """Presentation times are missing, or differ from the order in which the decoder gives its frames."""


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


def decode(
    path: str | os.PathLike,
    *,
    num_frames: int,
    start_s: float = 0.0,
    end_s: float = 0.0,
    fps: float = 0.0,
    short_side: int = 0,
    limits: Limits | None = None,
    allow_partial: bool = False,
) -> Clip:
    """Decodes `num_frames` frames, evenly spaced in time from the first to the last frame of the part [start_s, end_s).

    At a constant rate these are the frames round(linspace(0, n - 1, num_frames)) of the part's n; with n < num_frames
    they repeat. Memory holds the chosen frames and the decoder's own, whatever the length. Interlaced frames stay
    woven, and pixels are taken as square.

    Args:
      end_s: 0.0 means to the end.
      fps: above 0 gives, instead of `num_frames`, the frame nearest to each tick of 1 / fps s from the part's first frame
        to its last; frames of a slower video repeat, then with the same time. `limits.max_clip_bytes` bounds them.
      short_side: frames are shrunk, by area, to this short side; never enlarged; 0 keeps their size.
      limits: None means Limits().
      allow_partial: of a damaged file use the frames before the damage, and set `partial`.

    Raises:
      VideoError: with the stage and the reason.
    """
    path, limits, part = str(path), limits or Limits(), Part(start_s, end_s, num_frames, fps)
    if not fps:  # a fixed number of frames is its own bound
        limits = dataclasses.replace(limits, max_clip_bytes=0)
    check_file(path, limits)
    found = survey(path, start_s, end_s, limits)
    damage = found.damage
    if not damage and found.pts is not None:
        indices, times_s, rate = _choose(found.seconds(found.pts), part, limits)
        try:
            try:
                wanted = [found.pts[i] for i in indices]
                return _assemble(_keep_by_time(path, found, wanted, short_side, limits), wanted, times_s, rate, limits)
            except _Unordered:  # AVI, say, which stores no presentation times
                if indices[-1] + 1 < len(found.pts):
                    raise
                # Up to the very last frame, an equal number of packets and frames vouches for the order.
                kept = _keep(path, found, set(indices), None, short_side, limits)
                return _assemble(kept, indices, times_s, rate, limits)
        except _Unordered:
            pass
        except Damaged as e:
            damage = str(e)
    if damage and not allow_partial:
        raise VideoError("decode", f"damaged: {damage}")
    # Now the decoder's own sequence counts: the k-th frame it gives, up to the damage, has the k-th smallest time.
    times, late_damage = _displayed_times(path, found, limits)
    if late_damage and not allow_partial:
        raise VideoError("decode", f"damaged: {late_damage}")
    wanted, times_s, rate = _choose(times, part, limits)
    kept = _keep(path, found, set(wanted), None, short_side, limits)
    return _assemble(kept, wanted, times_s, rate, limits, partial=bool(damage or late_damage))


def _assemble(
    kept: dict, wanted: list[int], times_s: np.ndarray, fps: float, limits: Limits, partial: bool = False
) -> Clip:
    first, size_px, source_px = kept[wanted[0]]
    height, width = first.shape[:2]
    limits.check("max_clip_bytes", len(wanted) * first.nbytes, f"bytes of {len(wanted)} frames of {width}x{height}:")
    frames = np.empty((len(wanted), *first.shape), np.uint8)
    for i, key in enumerate(wanted):  # in rising order, so that each is let go after its last use
        frame = kept[key][0] if i + 1 < len(wanted) and wanted[i + 1] == key else kept.pop(key)[0]
        # A stream may change its size half-way; the first frame's holds.
        frames[i] = frame if frame.shape == first.shape else cv2.resize(frame, (width, height))
    return Clip(frames, times_s, fps, size_px, source_px, partial)


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


def _choose(times: np.ndarray, asked: Part, limits: Limits) -> tuple[list[int], np.ndarray, float]:
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


def _frames(path: str, found: Survey, limits: Limits, jump_to: int | None = None) -> Iterator[av.VideoFrame]:
    """The frames in the order shown, from the start or from the keyframe at `jump_to`, up to the damage.

    Raises:
      Damaged: FFmpeg reports a fault or marks one. One thread and strict detection find it at the same frame each time.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
        options = {"err_detect": "explode"}
        if limits.max_pixels:  # also guards against a stream that grows after its header
            options["max_pixels"] = str(limits.max_pixels)
        stream.codec_context.options = options
        number = 0
        try:
            if jump_to is not None:
                container.seek(jump_to, stream=stream)
            for number, packet in enumerate(container.demux(stream)):
                if packet.is_corrupt or (found.damage and packet.size and number >= found.packets):
                    raise Damaged(found.damage or "a packet is marked corrupt")
                for frame in packet.decode():
                    limits.check("max_pixels", frame.width * frame.height, f"pixels of {frame.width}x{frame.height}:")
                    if frame.is_corrupt:
                        raise Damaged("a frame is marked corrupt")
                    yield frame
        except av.FFmpegError as e:
            width, height = stream.codec_context.width, stream.codec_context.height
            limits.check("max_pixels", width * height, f"pixels of a frame grown to {width}x{height}:")
            raise Damaged(f"{e.strerror} (packet {number})") from None


def _keep_by_time(path: str, found: Survey, wanted: list[int], short_side: int, limits: Limits) -> dict[int, tuple]:
    """The wanted frames by presentation time; jumps when that saves much, and starts over when the jump went wrong."""
    key = max((k for k in found.keys if k <= wanted[0]), default=None)
    if key is not None and found.seconds([key])[0] > JUMP_S:
        try:
            return _keep(path, found, set(wanted), key, short_side, limits, by_time=True)
        except (Damaged, _Unordered):
            pass
    return _keep(path, found, set(wanted), None, short_side, limits, by_time=True)


def _keep(
    path: str,
    found: Survey,
    wanted: set[int],
    jump_to: int | None,
    short_side: int,
    limits: Limits,
    *,
    by_time: bool = False,
) -> dict[int, tuple]:
    """Decodes up to the last wanted frame: its pts or rank → (RGB [h w 3], upright size, coded size)."""
    kept, last, before = {}, max(wanted), None
    for rank, frame in enumerate(_frames(path, found, limits, jump_to)):
        key = frame.pts if by_time else rank
        if key is None or (before is not None and key <= before):
            raise _Unordered
        if key in wanted:
            kept[key] = _upright_rgb(frame, short_side)
            limits.check("max_clip_bytes", len(wanted) * kept[key][0].nbytes, f"bytes of {len(wanted)} frames:")
        before = key
        if key >= last:
            break
    if len(kept) < len(wanted):
        raise _Unordered
    return kept


def _displayed_times(path: str, found: Survey, limits: Limits) -> tuple[np.ndarray, str]:
    """Decodes everything once: times in seconds float64 [n], sorted, of the frames up to the damage, and the damage."""
    pts, damage = [], ""
    try:
        for frame in _frames(path, found, limits):
            pts.append(frame.pts)
            limits.check("max_frames", len(pts), "frames so far:")
    except Damaged as e:
        damage = str(e)
    if None in pts:
        return np.arange(len(pts)) * (found.frame_s or 1 / 25), damage  # 25: FFmpeg's own assumption for raw streams
    return found.seconds(sorted(pts)), damage


def _upright_rgb(frame: av.VideoFrame, short_side: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """RGB uint8 [h w 3], upright, cropped to even, shrunk; (w, h) before the shrinking; (w, h) as coded."""
    image = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        # x' = a x + c y, y' = b x + d y; turns by other than quarters are ignored, as players do.
        a, b, _, c, d = np.sign(np.frombuffer(bytes(matrix), np.int32)[:5])
        if not a and not d:
            image, a, d = image.transpose(1, 0, 2), c, b
        image = image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    height, width = (max(1, n - n % 2) for n in image.shape[:2])
    image = shrink(np.ascontiguousarray(image[:height, :width]), short_side)
    return image, (width, height), (frame.width, frame.height)


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
