"""Decoding: a video file, or a folder of images, → T frames, evenly spaced in presentation time, or so many a second.

PyAV, from the first frame on and in order; only a part that begins late is approached by a jump to a keyframe, which is
checked by time. A damaged file is an error, never a silently shorter clip: decoding stops at the first packet or frame
that FFmpeg finds fault with, and a file that ends before its header says, or inside a frame, is found out. Only a raw
stream that was cut exactly between two frames looks whole. Runs inside the child of `decoder.py`.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from preprocessing.videos import image_folder
from preprocessing.videos.video_clip import Clip, Part, assembled, choose, prepared
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


class _Unordered(Exception):
    """Presentation times are missing, or differ from the order in which the decoder gives its frames."""


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
    image_fps: float = 0.0,
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
      image_fps: of a clip that is a folder of images; a video says its own rate.

    Raises:
      VideoError: with the stage and the reason.
    """
    path, limits, part = str(path), limits or Limits(), Part(start_s, end_s, num_frames, fps)
    if not fps:  # a fixed number of frames is its own bound
        limits = dataclasses.replace(limits, max_clip_bytes=0)
    if os.path.isdir(path):
        options = {"short_side": short_side, "limits": limits, "allow_partial": allow_partial}
        return image_folder.decode(Path(path), part, image_fps=image_fps, **options)
    check_file(path, limits)
    found = survey(path, start_s, end_s, limits)
    damage = found.damage
    if not damage and found.pts is not None:
        indices, times_s, rate = choose(found.seconds(found.pts), part, limits)
        try:
            try:
                wanted = [found.pts[i] for i in indices]
                return assembled(_keep_by_time(path, found, wanted, short_side, limits), wanted, times_s, rate, limits)
            except _Unordered:  # AVI, say, which stores no presentation times
                if indices[-1] + 1 < len(found.pts):
                    raise
                # Up to the very last frame, an equal number of packets and frames vouches for the order.
                kept = _keep(path, found, set(indices), None, short_side, limits)
                return assembled(kept, indices, times_s, rate, limits)
        except _Unordered:
            pass
        except Damaged as e:
            damage = str(e)
    if damage and not allow_partial:
        raise VideoError("decode", f"damaged: {damage}")
    return _decode_in_order(path, found, damage, part, short_side, limits, allow_partial)


def _decode_in_order(
    path: str, found: Survey, damage: str, part: Part, short_side: int, limits: Limits, allow_partial: bool
) -> Clip:
    """Where the packets' times do not tell the frames apart: the k-th frame that the decoder gives, up to the damage, has the
    k-th smallest time."""
    times, late_damage = _displayed_times(path, found, limits)
    if late_damage and not allow_partial:
        raise VideoError("decode", f"damaged: {late_damage}")
    wanted, times_s, rate = choose(times, part, limits)
    kept = _keep(path, found, set(wanted), None, short_side, limits)
    return assembled(kept, wanted, times_s, rate, limits, partial=bool(damage or late_damage))


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
    return prepared(image, short_side, (frame.width, frame.height))
