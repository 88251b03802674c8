"""A video file before it is decoded: what it may cost, how it is opened, and what its packets tell."""

import dataclasses
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np

from mtjax.command.errors import InputError
from preprocessing.videos import stream_end

# FFmpeg's names of the formats read. Not among them: text (which it would draw as ANSI art), pictures, and above all
# playlists (HLS, concat), through which a hostile file has other files read.
FORMATS = (
    "mov,mp4,matroska,webm,avi,asf,flv,mpeg,mpegts,mpegvideo,m4v,h264,hevc,ivf,obu,mjpeg,gif,ogg,mxf,dv,nut,rm,vc1,wtv"
)
# PyAV 19 dropped the keyword: since then metadata that is not UTF-8 is no error.
OPTIONS = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
FROM_ZERO = ("matroska", "nut")  # their duration counts from a clock's 0, not from the first frame
DECLARING = ("mov", "matroska", "flv", "avi")  # formats whose header states the duration; elsewhere it is an estimate


class VideoError(InputError):
    """A video that cannot be used.

    Attributes:
      stage: "open", "limits", "decode", "timeout" or "crash".
      reason: in words; names the limit where it is one.
    """

    def __init__(self, stage: str, reason: str):
        super().__init__(f"{stage}: {reason}")
        self.stage, self.reason = stage, reason


# No file makes our code raise these: the fault is the program's or a library's, and would be every video's.
PROGRAM_ERRORS = (TypeError, AttributeError, NameError, ImportError, AssertionError)


class ProgramError(RuntimeError):
    """A fault of this program or of a library's release, not of a video: the run ends."""


class Damaged(Exception):
    """The decoder or the demuxer found fault with the data."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a clip may cost; checked against the header and again while decoding. 0 disables one."""

    max_pixels: int = 4096 * 2304  # of one frame
    max_frames: int = 18_000  # of the clip: 10 minutes at 30 frames/s
    max_seconds: float = 600.0  # of the clip
    max_bytes: int = 1 << 32  # of the file
    max_clip_bytes: int = 1 << 32  # of the clip's decoded frames, where their number follows from a rate

    def check(self, name: str, value: float, what: str) -> None:
        limit = getattr(self, name)
        if limit and value > limit:
            raise VideoError("limits", f"{name}: {what} {value:.10g}, the limit is {limit:.10g}")


@dataclasses.dataclass
class Survey:
    """What the header and the packets tell.

    Attributes:
      pts: sorted presentation times of the video's frames, in ticks; None when a packet has none.
      keys: those of the keyframes.
      tick_s: seconds a tick. zero_s: where the file's clock starts. frame_s: between frames, by the header; 0 unknown.
      packets: how many of the video's packets were read, those before the damage.
      damage: why the file counts as damaged; "" when it does not.
    """

    pts: list[int] | None
    keys: list[int]
    tick_s: float
    zero_s: float
    frame_s: float
    packets: int = 0
    damage: str = ""

    def seconds(self, pts: Iterable[int]) -> np.ndarray:
        """float64: ticks → seconds since the start of the video."""
        return np.array(list(pts), np.float64) * self.tick_s - self.zero_s


def check_file(path: str, limits: Limits) -> None:
    """Raises VideoError unless `path` is a regular, not empty file within `limits.max_bytes`."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as e:
        raise VideoError("open", f"{getattr(e, 'strerror', None) or e}") from None
    if not stat.S_ISREG(status.st_mode):
        raise VideoError("open", "not a regular file")
    if not status.st_size:
        raise VideoError("open", "the file is empty (0 bytes)")
    limits.check("max_bytes", status.st_size, "bytes of the file:")


def locate(videos: Path, path: str, allow_links: bool = False) -> Path:
    """The file of a clip, or its folder of images, links resolved.

    Args:
      allow_links: links may lead outside of `videos`; `path` itself may not.

    Raises:
      VideoError: no path is given, or it, or an image in it, leads outside of `videos`.
    """
    if not path:
        raise VideoError("open", "the catalog has no path for this clip")
    # Not Path.resolve(), which raises at a loop of links; here opening the file says so.
    root = Path(os.path.realpath(videos))
    resolved = Path(os.path.realpath(root / path))
    if allow_links:
        if not Path(os.path.normpath(root / path)).is_relative_to(root):
            raise VideoError("open", f"{path!r} leads outside of {root}")
        return resolved
    links = [e.path for e in os.scandir(resolved) if e.is_symlink()] if resolved.is_dir() else []
    for place in (resolved, *map(Path, map(os.path.realpath, links))):
        if not place.is_relative_to(root):
            raise VideoError("open", f"{path!r} leads to {place}, outside of {root}; --allow_links accepts that")
    return resolved


def open_video(path: str) -> av.container.InputContainer:
    """Opens by content, whatever the name says; the absolute path keeps names like `http:x.mp4` from being URLs."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        return av.open(os.path.abspath(path), container_options=options, **OPTIONS)
    except av.FFmpegError as e:
        raise VideoError("open", f"not a video, or its header is damaged or missing ({e.strerror})") from None


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The video stream that players show: of those marked as the default, or else of all, the largest, and of equals the first.

    The cover picture of a sound file is none of them.
    """
    marks = av.stream.Disposition
    streams = [s for s in container.streams.video if not s.disposition & marks.attached_pic]
    if not streams:
        raise VideoError("open", f"no video stream; the streams are {[s.type for s in container.streams]}")
    default = [s for s in streams if s.disposition & marks.default]
    return max(default or streams, key=lambda s: s.width * s.height)


def survey(path: str, start_s: float, end_s: float, limits: Limits) -> Survey:
    """Reads the header and, up to the end of the part [start_s, end_s), every packet; decodes none.

    Raises:
      VideoError: not a video, or beyond a limit.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        limits.check("max_pixels", stream.width * stream.height, f"pixels of a {stream.width}x{stream.height} frame:")
        declared_s = (container.duration or 0) / av.time_base
        zero_s = (container.start_time or 0) / av.time_base
        format_name = container.format.name.split(",")[0]
        late_s = max(zero_s, 0.0) if format_name in FROM_ZERO else 0.0
        if not end_s:
            limits.check("max_seconds", declared_s - late_s - start_s, "seconds declared:")
        if not end_s and not start_s:
            limits.check("max_frames", stream.frames, "frames declared:")
        rate = stream.average_rate or stream.guessed_rate
        found = Survey([], [], float(stream.time_base), zero_s, float(1 / rate) if rate else 0.0)
        try:
            reached_s = _read_packets(container, stream, found, start_s, end_s, limits)
        except (av.FFmpegError, Damaged) as e:
            found.damage, reached_s = getattr(e, "strerror", None) or str(e), declared_s
    found.pts = sorted(set(found.pts)) if found.pts else None
    # Headers are loose about the last frame's stay, hence the allowance.
    between = np.diff(found.pts) if found.pts and len(found.pts) > 1 else [0]
    frame_s = max(found.frame_s, float(np.median(between)) * found.tick_s)
    missing_s = declared_s - reached_s - late_s
    if not found.damage and np.isfinite(reached_s) and format_name not in DECLARING:
        if format_name == "mpegts":
            found.damage = stream_end.unfinished_transport_stream(path)
        if not found.damage and found.pts and stream_end.frames_missing_at_the_end(found.pts):
            found.damage = "frames are missing just before the last one: the file was cut off"
    if format_name in DECLARING and missing_s > max(3 * frame_s, 0.01 * declared_s) + 1e-3:
        found.damage = f"the header declares {declared_s:.2f} s, but the file ends after {reached_s:.2f} s"
    return found


def _read_packets(container, stream, found: Survey, start_s: float, end_s: float, limits: Limits) -> float:
    """Notes the video's packets in `found`; returns where the file ends in seconds, inf when not read that far.

    Raises:
      Damaged, av.FFmpegError: at the first packet that is damaged, or before which others are missing.
    """
    reached_s, in_part = 0.0, 0
    skipped = _SkippedData(container, stream)
    for packet in skipped.watch(container.demux()):
        clock = packet.dts if packet.dts is not None else packet.pts
        if clock is None and not packet.size:  # the flush packet at the end
            continue
        now_s = (clock or 0) * float(packet.time_base) - found.zero_s
        shown = max(t for t in (packet.pts, clock, 0) if t is not None)  # a frame is shown after it is decoded
        reached_s = max(reached_s, (shown + (packet.duration or 0)) * float(packet.time_base) - found.zero_s)
        if packet.stream.index != stream.index:
            continue
        if end_s and now_s > end_s:  # whatever is decoded later is shown later
            return float("inf")
        if packet.is_corrupt:
            raise Damaged("a packet is marked corrupt, or the file ends inside it")
        if gap := skipped.before(packet, found.packets):
            found.packets -= 1  # the one before the gap may reach into it
            raise Damaged(gap)
        found.packets += 1
        if packet.is_discard:
            continue
        in_part += now_s >= start_s
        limits.check("max_frames", in_part, "frames so far:")
        if packet.pts is None:
            found.pts = None
        elif found.pts is not None:
            found.pts.append(packet.pts)
            if packet.is_keyframe:
                found.keys.append(packet.pts)
    return reached_s


class _SkippedData:
    """Finds out where a demuxer skips damaged bytes, and whole frames with them, which it does not report.

    Matroska's writes a line to FFmpeg's log at least; AVI's leaves out packets that are in the file's index.
    """

    def __init__(self, container, stream):
        name = container.format.name.split(",")[0]
        self._logs: list | None = [] if name == "matroska" else None
        # The index gives the place of a chunk, a packet that of its data, after 8 bytes of header.
        self._rank = {e.pos + 8: i for i, e in enumerate(stream.index_entries)} if name == "avi" else {}

    def watch(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """Passes the packets on."""
        if self._logs is None:
            yield from packets
            return
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)  # or the same damage is reported once per process only
        try:
            with av.logging.Capture() as self._logs:
                yield from packets
        finally:
            av.logging.set_level(None)

    def before(self, packet: av.Packet, number: int) -> str:
        """What was skipped on the way to this packet, the number-th read of its stream; "" if nothing."""
        if self._logs:
            return self._logs[0][2].strip()
        lost = self._rank.get(packet.pos, number) - number
        return f"{lost} packets listed in the file's index were not found" if lost > 0 else ""
