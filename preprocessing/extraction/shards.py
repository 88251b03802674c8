"""The engine under every extractor: clips of one shard → decoded → extracted → written, failures listed.

An extractor knows nothing of files, processes or shards; `extract_shard` knows nothing of what is extracted.
"""

import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2

from mtjax import records
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Clip
from preprocessing.extraction.backends import MissingBackend
from preprocessing.videos import video_clip
from preprocessing.videos.decoder import Decoder
from preprocessing.videos.source_files import image_files, is_video
from preprocessing.videos.video_file import PROGRAM_ERRORS, Limits, VideoError, locate

Decoded = tuple[Clip, video_clip.Clip | VideoError]  # a clip with its frames, or why there are none
HASHED_BYTES = 1 << 28  # larger files are named by their size alone: hashing them would cost more than decoding


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a clip has no record."""

    stage: str
    reason: str


class Extractor(Protocol):
    """What a column is made with. Picklable: it travels to worker processes, and loads its model there at first use.

    Attributes:
      name: of the column. schema: of its records.
      parameters: JSON; whatever changes the values, so that a column made otherwise is told apart.
      weights: a hash of the model's weights, "" if none. licence: the data's, where the model's licence binds it.
      num_frames, fps, short_side: how clips are decoded for it (`video.decode`).
      batch_size: clips per call of `extract`.
      window: consecutive frames that one result is about: 1, or 2 for what happens between two.
    """

    name: str
    schema: records.Schema
    parameters: Mapping[str, Any]
    weights: str
    licence: str
    num_frames: int
    fps: float
    short_side: int
    batch_size: int
    window: int

    def extract(self, clip_ids: Sequence[str], clips: Sequence[video_clip.Clip]) -> list[Mapping[str, Any] | Failure]:
        """The fields of each clip's record, or why there are none."""


class Source(Protocol):
    """Where the frames of clips come from: `Decoding` of videos, or `stored_frames.StoredFrames`. Picklable.

    Attributes:
      parameters: JSON; what of the source is part of how a column was made.
    """

    parameters: Mapping[str, Any]

    def decoded(self, clips: Sequence[Clip], extractor: Extractor) -> Generator[Decoded, None, None]:
        """Each clip with its frames, as the extractor wants them, or why there are none; in any order."""

    def identity(self, clip: Clip) -> dict[str, str]:
        """What tells a failed clip's source from a later one, for `failures.jsonl`."""


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How videos are found and decoded, whatever is extracted from them (a `Source`).

    Attributes:
      videos: the folder that `Clip.path` is relative to, and that no video may lie outside of.
      limits, allow_partial: see `video.decode`. timeout_s: see `Decoder`.
      image_fps: frames a second of clips that are folders of images; 0 takes the catalog's.
      allow_links: a link may lead out of `videos`.
    """

    videos: Path
    limits: Limits = dataclasses.field(default_factory=Limits)
    allow_partial: bool = False
    timeout_s: float = 120.0
    image_fps: float = 0.0
    allow_links: bool = False

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"image_fps": self.image_fps} if self.image_fps else {}

    def decoded(self, clips: Sequence[Clip], extractor: Extractor) -> Generator[Decoded, None, None]:
        """See `Source`. Clips without a file come first."""
        found = []
        for clip in clips:
            try:
                found.append((clip, locate(self.videos, clip.path, self.allow_links)))
            except VideoError as e:
                yield clip, e
        options = {
            "num_frames": extractor.num_frames,
            "fps": extractor.fps,
            "short_side": extractor.short_side,
            "limits": self.limits,
            "allow_partial": self.allow_partial,
        }
        requests = (
            (path, options | {"start_s": c.start_s, "end_s": c.end_s, "image_fps": self.image_fps or c.fps})
            for c, path in found
        )
        with Decoder(self.timeout_s) as decoder:
            for (clip, _), result in zip(found, decoder.map(requests), strict=True):
                yield clip, result

    def identity(self, clip: Clip) -> dict[str, str]:
        """Size and, unless it is huge, hash of a file: tells a broken download from a video that is really bad."""
        try:
            file = locate(self.videos, clip.path, self.allow_links)
            if file.is_dir():
                return {"images": str(len(image_files(file)))}
            size = file.stat().st_size
            if not file.is_file() or size > HASHED_BYTES:
                return {"bytes": str(size)}
            with open(file, "rb") as data:
                return {"bytes": str(size), "sha256": hashlib.file_digest(data, "sha256").hexdigest()}
        except (VideoError, OSError):  # no file, or none that is ours to read
            return {}


@dataclasses.dataclass
class ShardReport:
    """What became of one shard: clips written and failed; both 0 and `busy` when another process holds it.

    Attributes:
      results, extract_s: how many frames (or, by `Extractor.window`, pairs) there were, and how long `extract` took in all.
    """

    shard: int
    written: int = 0
    failed: int = 0
    busy: bool = False
    results: int = 0
    extract_s: float = 0.0


def source_of(clip: Clip) -> str:
    """What a clip's records depend on: when it changes, its shard is written again."""
    rate = f"|{clip.fps:g}" if clip.fps and clip.path and not is_video(clip.path) else ""  # of a folder of images
    return f"{clip.path}|{clip.start_s}|{clip.end_s}{rate}"


def extract_shard(
    root: str | os.PathLike,
    spec: columns.Spec,
    shard: int,
    clips: Sequence[Clip],
    extractor: Extractor,
    source: Source,
    progress: Callable[[int, int], None] = lambda written, failed: None,
) -> ShardReport:
    """Extracts one shard of a column. Depends on its arguments alone: any process pool, Ray or Slurm may call it.

    Args:
      root: the dataset; its column has been begun with `column_writer.create`.
      clips: those of this shard, `spec.shard_of(clip.id) == shard`.
      progress: called with the numbers of clips written and failed since the last call.
    """
    cv2.setNumThreads(1)  # one core for the extractor, one for its decoder; more shards at once use more
    directory, report = columns.column_dir(root, spec.name), ShardReport(shard)
    try:
        with (
            column_writer.shard_writer(directory, spec, shard, {c.id: source_of(c) for c in clips}) as writer,
            contextlib.closing(source.decoded(clips, extractor)) as decoded,
        ):
            for clip, outcome in _outcomes(decoded, extractor, report):
                if not isinstance(outcome, Failure):
                    try:
                        writer.write(clip.id, outcome)
                    except records.RecordError as e:
                        outcome = Failure("write", str(e))
                failed = isinstance(outcome, Failure)
                if failed:
                    writer.fail(clip.id, outcome.stage, outcome.reason, **source.identity(clip))
                report.failed += failed
                report.written += not failed
                progress(not failed, failed)
    except column_writer.Busy:
        return ShardReport(shard, busy=True)
    return report


def extract_one(
    path: str | os.PathLike,
    extractor: Extractor,
    *,
    start_s: float = 0.0,
    end_s: float = 0.0,
    limits: Limits | None = None,
    allow_partial: bool = False,
    timeout_s: float = 120.0,
    image_fps: float = 0.0,
) -> tuple[dict[str, Any], video_clip.Clip]:
    """One video outside of any dataset: its record as `Column.read` would give it, and what was decoded.

    Args:
      start_s, end_s: the part; 0.0, 0.0 is all of it. image_fps: where it is a folder of images.

    Raises:
      VideoError: the video cannot be decoded, or nothing extracted from it.
    """
    with Decoder(timeout_s) as decoder:
        clip = decoder.decode(
            path,
            num_frames=extractor.num_frames,
            fps=extractor.fps,
            start_s=start_s,
            end_s=end_s,
            short_side=extractor.short_side,
            limits=limits,
            allow_partial=allow_partial,
            image_fps=image_fps,
        )
    clip_id = Path(path).name
    outcome = extractor.extract([clip_id], [clip])[0]
    if isinstance(outcome, Failure):
        raise VideoError(outcome.stage, outcome.reason)
    return records.decode(extractor.schema, records.encode(extractor.schema, clip_id, outcome))[1], clip


def _outcomes(
    decoded: Iterator[Decoded], extractor: Extractor, report: ShardReport
) -> Iterator[tuple[Clip, Mapping[str, Any] | Failure]]:
    """Each clip with its record's fields or its failure; in batches, hence not in the order of `decoded`."""
    batch: list[tuple[Clip, video_clip.Clip]] = []
    for clip, result in decoded:
        if isinstance(result, VideoError):
            yield clip, Failure(result.stage, result.reason)
            continue
        batch.append((clip, result))
        if len(batch) == extractor.batch_size:
            yield from _timed(extractor, batch, report)
            batch = []
    yield from _timed(extractor, batch, report)


def _timed(
    extractor: Extractor, batch: list[tuple[Clip, video_clip.Clip]], report: ShardReport
) -> list[tuple[Clip, Mapping[str, Any] | Failure]]:
    start = time.perf_counter()
    outcomes = _extract(extractor, batch)
    report.extract_s += time.perf_counter() - start
    report.results += sum(max(len(decoded.frames) - extractor.window + 1, 0) for _, decoded in batch)
    return outcomes


def _extract(
    extractor: Extractor, batch: list[tuple[Clip, video_clip.Clip]]
) -> list[tuple[Clip, Mapping[str, Any] | Failure]]:
    """Runs one batch; if that fails, for want of memory or over one clip, its halves, down to the clip at fault.

    A fault of the program, or a package that is not here, is raised: it would be every clip's.
    """
    if not batch:
        return []
    clips = [clip for clip, _ in batch]
    try:
        outcomes = extractor.extract([c.id for c in clips], [decoded for _, decoded in batch])
    except (*PROGRAM_ERRORS, MissingBackend):
        raise
    except Exception as e:
        if len(batch) > 1:
            half = len(batch) // 2
            return [*_extract(extractor, batch[:half]), *_extract(extractor, batch[half:])]
        outcomes = [Failure("extract", f"{type(e).__name__}: {e}")]
    return list(zip(clips, outcomes, strict=True))
