"""A video file before it is decoded: what it may cost, how it is opened, and what its packets tell."""

import dataclasses
import os
import stat
from collections.abc import Iterable, Iterator

import av
import numpy as np

from mtjax.command.errors import InputError

# FFmpeg's names of the formats read. Not among them: text (which it would draw as ANSI art), pictures, and above all
# playlists (HLS, concat), through which a hostile file has other files read.
FORMATS = (
    "mov,mp4,matroska,webm,avi,asf,flv,mpeg,mpegts,mpegvideo,m4v,h264,hevc,ivf,obu,mjpeg,gif,ogg,mxf,dv,nut,rm,vc1,wtv"
)
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


def open_video(path: str) -> av.container.InputContainer:
    """Opens by content, whatever the name says; the absolute path keeps names like `http:x.mp4` from being URLs."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        return av.open(os.path.abspath(path), container_options=options, metadata_errors="ignore")
    except av.FFmpegError as e:
        raise VideoError("open", f"not a video, or its header is damaged or missing ({e.strerror})") from None


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is not the cover picture of a sound file."""
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise VideoError("open", f"no video stream; the streams are {[s.type for s in container.streams]}")
    return streams[0]


def survey(path: str, start_s: float, end_s: float, limits: Limits) -> Survey:
    """Reads the header and, up to the end of the part [start_s, end_s), every packet; decodes none.

    Raises:
      VideoError: not a video, or beyond a limit.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        limits.check("max_pixels", stream.width * stream.height, f"pixels of a {stream.width}x{stream.height} frame:")
        declared_s = (container.duration or 0) / av.time_base
        if not end_s:
            limits.check("max_seconds", declared_s - start_s, "seconds declared:")
        if not end_s and not start_s:
            limits.check("max_frames", stream.frames, "frames declared:")
        rate = stream.average_rate or stream.guessed_rate
        zero_s = (container.start_time or 0) / av.time_base
        found = Survey([], [], float(stream.time_base), zero_s, float(1 / rate) if rate else 0.0)
        format_name = container.format.name.split(",")[0]
        try:
            reached_s = _read_packets(container, stream, found, start_s, end_s, limits)
        except (av.FFmpegError, Damaged) as e:
            found.damage, reached_s = getattr(e, "strerror", None) or str(e), declared_s
    found.pts = sorted(set(found.pts)) if found.pts else None
    # Headers are loose about the last frame's stay, hence the allowance.
    between = np.diff(found.pts) if found.pts and len(found.pts) > 1 else [0]
    frame_s = max(found.frame_s, float(np.median(between)) * found.tick_s)
    missing_s = declared_s - reached_s - max(zero_s, 0.0)  # Matroska's duration counts from 0, not from the first frame
    if format_name in DECLARING and missing_s > max(3 * frame_s, 0.01 * declared_s):
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
        reached_s = max(reached_s, now_s + (packet.duration or 0) * float(packet.time_base))
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
