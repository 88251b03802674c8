"""One column from begin to finish: which shards are to do, in how many processes, and what came of it."""

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mtjax import records
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog, Clip
from preprocessing.extraction.progress import Progress
from preprocessing.extraction.shards import Extractor, ShardReport, Source, extract_shard, source_of
from preprocessing.extraction.workers import extract_in_processes

SHARD_BYTES = 150 << 20
CLIPS_PER_SMALL_SHARD = 16  # shards get this small only to keep several workers busy


def run(
    root: Path,
    extractor: Extractor,
    source: Source,
    *,
    producer: str,
    num_workers: int = 1,
    machine: tuple[int, int] = (0, 1),
    num_shards: int = 0,
    overwrite: str = "never",
    max_failures: str = "0",
    retry_failures: bool = False,
) -> int:
    """Extracts this machine's shards of a column and, when no shard is missing any more, finishes the column.

    Args:
      machine: (i, n): of n machines this is the i-th, and does the shards whose number is i modulo n.
      num_shards: 0 takes those of the column if it has been begun, or else as many as fit.
      overwrite: "never" refuses a column begun otherwise, "stale" writes what is out of date again, "always" all.
      max_failures: how many clips may fail, as a number or "2%".
      retry_failures: write again the shards that have failures.

    Returns:
      The exit code: 0, or 3 for too many failures.

    Raises:
      CatalogError, ColumnError: cannot begin, and why. BrokenProcessPool: worker processes died again and again.
    """
    catalog = Catalog.load(root)
    clips = {clip.id: clip for clip in catalog.clips}
    spec = _spec(root, extractor, source, producer, num_shards, len(clips), num_workers * machine[1], overwrite)
    directory = _begin(root, spec, overwrite)
    if retry_failures:
        _forget_failed(directory, range(machine[0], spec.num_shards, machine[1]))
    request = {clip.id: source_of(clip) for clip in catalog.clips}
    todo = column_writer.pending(directory, spec, request)
    if overwrite == "never":
        _refuse_rewriting(directory, spec, todo)
    if not any(s % machine[1] == machine[0] for s in todo):
        todo |= _damaged(directory, spec, request, range(machine[0], spec.num_shards, machine[1]))
    mine = {s: [clips[i] for i in ids] for s, ids in todo.items() if s % machine[1] == machine[0]}
    results, extract_s = 0, 0.0
    with Progress(spec.name, sum(map(len, mine.values()))) as progress:
        for report in _extract_all(root, spec, mine, extractor, source, num_workers, progress):
            results, extract_s = results + report.results, extract_s + report.extract_s
            if report.busy:
                progress.say(f"shard {report.shard} is being written by another process; left to it")
    if results:
        unit = "frame" if extractor.window == 1 else "frame pair"
        print(
            f"{spec.name}: {1e3 * extract_s / results:.2f} ms a {unit}, decoding not included, over {results} of them"
        )
    missing = column_writer.pending(directory, spec, request)
    if missing:
        shards = ", ".join(map(str, list(missing)[:10])) + (", ..." if len(missing) > 10 else "")
        print(f"{spec.name}: {len(missing)} of {spec.num_shards} shards are still missing: {shards}")
        return 0
    if mine or not _is_finished(root, spec.name):
        column_writer.finish(directory)
    return _outcome(directory, len(clips), max_failures)


def _outcome(directory: Path, num_clips: int, max_failures: str) -> int:
    """Says what a finished column holds; 3 for too many failures, else 0."""
    failures = (directory / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    print(f"{directory.name}: {num_clips - len(failures)} records, {len(failures)} failures, in {directory}")
    for line in failures[:5]:
        failure = json.loads(line)
        print(f"  {failure['clip']}: {failure['stage']}: {failure['reason']}")
    if len(failures) > allowed_failures(max_failures, num_clips):
        print(f"more than --max_failures={max_failures}; all are in {directory / 'failures.jsonl'}", file=sys.stderr)
        return 3
    return 0


def _spec(
    root: Path,
    extractor: Extractor,
    source: Source,
    producer: str,
    num_shards: int,
    num_clips: int,
    workers: int,
    overwrite: str,
) -> columns.Spec:
    if not num_shards and overwrite != "always":
        with contextlib.suppress(columns.ColumnError):
            num_shards = columns.Spec.load(columns.column_dir(root, extractor.name)).num_shards
    return columns.Spec(
        name=extractor.name,
        schema=extractor.schema,
        num_shards=num_shards or default_num_shards(extractor.schema, num_clips, workers),
        producer=producer,
        parameters=dict(extractor.parameters) | dict(source.parameters),
        weights=extractor.weights,
        licence=extractor.licence,
    )


def default_num_shards(schema: records.Schema, num_clips: int, workers: int) -> int:
    """Shards of about SHARD_BYTES, and of small columns enough for all workers of all machines; 1 for a single one."""

    def size(feature: records.Feature) -> int:
        if feature.dtype == "jpeg":
            return 500_000  # 32 frames of 256 pixels
        if feature.dtype == "str":
            return 100
        return np.dtype(feature.dtype).itemsize * math.prod(64 if d < 0 else d for d in feature.shape)

    by_size = math.ceil(num_clips * sum(map(size, schema.values())) / SHARD_BYTES)
    for_workers = min(4 * workers, math.ceil(num_clips / CLIPS_PER_SMALL_SHARD)) if workers > 1 else 1
    return max(1, by_size, for_workers, min(workers, num_clips))


def _begin(root: Path, spec: columns.Spec, overwrite: str) -> Path:
    try:
        return column_writer.create(root, spec, overwrite=overwrite == "always")
    except columns.ColumnError:
        if overwrite != "stale":
            raise
        return column_writer.create(root, spec, overwrite=True)


def _forget_failed(directory: Path, shards: Iterable[int]) -> None:
    """Takes back the done markers of the shards that have failures."""
    for shard in shards:
        marker = column_writer.marker_path(directory, shard)
        with contextlib.suppress(
            FileNotFoundError, ValueError, KeyError, TypeError
        ):  # a broken marker counts for nothing
            if json.loads(marker.read_text())["failures"]:
                marker.unlink()


def _refuse_rewriting(directory: Path, spec: columns.Spec, todo: dict[int, column_writer.Request]) -> None:
    """A shard that was finished, and yet is to do, may hold other clips: the catalog has changed since."""
    if done := column_writer.written_otherwise(directory, todo):
        raise columns.ColumnError(
            f"{directory}: {len(done)} of {spec.num_shards} shards were written for other clips than the catalog has "
            "now; --overwrite=stale writes these again"
        )


def _damaged(
    directory: Path, spec: columns.Spec, request: column_writer.Request, shards: Iterable[int]
) -> dict[int, column_writer.Request]:
    """Finished shards that are damaged or were replaced, to be written again; says so. Where nothing else is to do, whoever
    asks once more may have been told of one."""
    found = column_writer.damaged(directory, spec, shards)
    for shard, reason in found.items():
        print(f"{spec.name}: shard {shard} is written again: {reason}")
        column_writer.marker_path(directory, shard).unlink(missing_ok=True)
    return {s: part for s, part in column_writer.pending(directory, spec, request).items() if s in found}


def _is_finished(root: Path, name: str) -> bool:
    try:
        columns.Column(root, name).close()
        return (columns.column_dir(root, name) / "failures.jsonl").is_file()
    except (columns.ColumnError, records.RecordError):
        return False


def allowed_failures(max_failures: str, num_clips: int) -> float:
    """ "3" → 3, "2%" → 2 % of the clips."""
    if max_failures.endswith("%"):
        return float(max_failures[:-1]) / 100 * num_clips
    return int(max_failures)


def _extract_all(
    root: Path,
    spec: columns.Spec,
    shards: dict[int, list[Clip]],
    extractor: Extractor,
    source: Source,
    num_workers: int,
    progress: Progress,
) -> Iterator[ShardReport]:
    """Reports as shards end; in this process, or in several."""
    if num_workers <= 1 or len(shards) <= 1:
        for shard, clips in shards.items():
            yield extract_shard(root, spec, shard, clips, extractor, source, progress.add)
        return
    job = {"root": root, "spec": spec, "extractor": extractor, "source": source}
    yield from extract_in_processes(job, shards, num_workers, progress)
