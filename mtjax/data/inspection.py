"""Checking a dataset: `mtjax data check`, `index` and `bench`."""

import dataclasses
import hashlib
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mtjax import records
from mtjax.data import column_writer, columns, summary
from mtjax.data.catalog import Catalog, CatalogError
from mtjax.data.selection import overlap

BATCH = 256
SHOWN = 10  # ids shown of a long list
_SPLIT = re.compile(r"(train|val|valid|validation|test)(\d*)")


def split_overlaps(catalog: Catalog) -> list[str]:
    """One line for each pair of splits that should be apart, but share clips or groups.

    Pairs are train, validation and test splits of the same number: `train2` and `test1` of UCF101 share clips rightly.
    """
    rows = {s: np.array([i for i, c in enumerate(catalog.clips) if s in c.splits], np.int64) for s in catalog.splits}
    known = {s: m for s in rows if (m := _SPLIT.fullmatch(s))}
    order = sorted(known, key=lambda s: (not s.startswith("train"), not s.startswith("val"), s))
    lines = []
    for first, second in itertools.combinations(order, 2):
        if known[first][2] != known[second][2] or known[first][1] == known[second][1]:
            continue
        if ids := overlap(catalog, rows[first], rows[second]):
            shared = f"{len(ids)} clips of {second!r} are in both or share a group, e.g. {ids[:3]}"
            lines.append(f"splits {first!r} and {second!r}: {shared}")
    return lines


def check_catalog(root: Path) -> tuple[Catalog | None, list[str]]:
    """The catalog, None where it cannot be read, and what is wrong with it."""
    try:
        return Catalog.load(root), []
    except CatalogError as e:
        return None, [str(e)]


def column_folders(root: Path) -> list[str]:
    """Names of all columns that were begun, finished or not."""
    return sorted(p.name for p in root.glob("columns/*") if p.is_dir())


def check_column(root: Path, name: str, known_ids: set[str] | None) -> list[str]:
    """Reads a whole column: each line of the result names a file, and the record and the field where there is one.

    Args:
      known_ids: the catalog's; None skips the comparison.
    """
    directory = columns.column_dir(root, name)
    try:
        spec = columns.Spec.load(directory)
    except columns.ColumnError as e:
        return [str(e)]
    problems = []
    try:
        columns.shard_paths(directory, spec)
    except columns.ColumnError as e:
        problems.append(str(e))
    found = _Found()
    for shard in range(spec.num_shards):
        path = directory / spec.shard_name(shard)
        if path.is_file():
            problems += _check_shard(spec, shard, path, found)
            problems += filter(None, [column_writer.marker_problem(directory, spec, shard, found.digests[-1])])
    twice = len(found.ids) - len(set(found.ids))
    if twice:
        problems.append(f"{directory}: {twice} clips have more than one record")
    if known_ids is not None and (unknown := sorted(set(found.ids) - known_ids)):
        problems.append(
            f"{directory}: {len(unknown)} records of clips that the catalog does not have: {unknown[:SHOWN]}"
        )
    problems += _check_failures(directory, set(found.ids), known_ids)
    if not problems:  # on damaged shards the index is beside the point
        problems += _check_index(directory, found)
    return problems


@dataclasses.dataclass
class _Found:
    """What a scan of the shards found, in file order: the content an index must have."""

    ids: list[str] = dataclasses.field(default_factory=list)
    places: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)  # shard, offset, length
    sizes: list[int] = dataclasses.field(default_factory=list)
    digests: list[str] = dataclasses.field(default_factory=list)
    crcs: list[int] = dataclasses.field(default_factory=list)
    entries: list[list[int]] = dataclasses.field(default_factory=list)


def _check_shard(spec: columns.Spec, shard: int, path: Path, found: _Found) -> list[str]:
    """Every record of one shard. A damaged payload is named and passed over; a damaged length ends the shard."""
    problems, digest = [], hashlib.sha256()
    with open(path, "rb") as file:
        try:
            for number, (offset, length, crc, _) in enumerate(records.scan(path, payloads=False)):
                where = f"{path}: record {number} at byte {offset - records.HEADER.size}"
                file.seek(offset)
                digest.update(records.FOOTER.pack(crc))
                try:
                    payload, footer = file.read(length), file.read(records.FOOTER.size)
                    records.check_payload(payload, footer, length, where)
                    clip_id, values = records.decode(spec.schema, payload, where)
                except records.RecordError as e:
                    problems.append(str(e))
                    continue
                problems += [f"{where} (clip {clip_id!r}), {reason}" for reason in _check_values(values)]
                if spec.shard_of(clip_id) != shard:
                    problems.append(f"{where}: clip {clip_id!r} belongs to shard {spec.shard_of(clip_id)}")
                found.ids.append(clip_id)
                found.places.append((shard, offset, length))
                found.crcs.append(crc)
                found.entries.append(records.entries(spec.schema, values))
        except records.CorruptRecord as e:
            problems.append(str(e))
    found.sizes.append(path.stat().st_size)
    found.digests.append(digest.hexdigest()[:16])
    return problems


def _check_values(values: dict[str, Any]) -> Iterator[str]:
    """What the schema does not say, but the writer promises."""
    for name, value in values.items():
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                yield f"field {name!r}: holds NaN or inf"
        elif not isinstance(value, str):
            for i, image in enumerate(value):
                if not image.startswith(b"\xff\xd8\xff"):
                    yield f"field {name!r}: image {i} is no JPEG"


def _check_failures(directory: Path, ids: set[str], known_ids: set[str] | None) -> list[str]:
    try:
        failed = {f["clip"] for f in summary.failures(directory)}
    except (columns.ColumnError, UnicodeDecodeError) as e:
        return [str(e)]
    problems = []
    if both := sorted(failed & ids):
        problems.append(f"{directory}/failures.jsonl: {len(both)} clips failed and have a record: {both[:SHOWN]}")
    if known_ids is not None and (unknown := sorted(failed - known_ids)):
        problems.append(f"{directory}/failures.jsonl: {len(unknown)} clips are not in the catalog: {unknown[:SHOWN]}")
    return problems


def _check_index(directory: Path, found: _Found) -> list[str]:
    path = directory / columns.INDEX
    remedy = f"run `mtjax data index {directory.parent.parent} --column={directory.name}`"
    if not path.is_file():
        return [f"{path}: does not exist: the extraction was not finished; run it again, or {remedy}"]
    try:
        index = columns.Index.load(path)
    except Exception as e:  # NumPy and zipfile raise a dozen types on a damaged archive; all mean the same here
        return [f"{path}: unreadable ({type(e).__name__}: {e}); {remedy}"]
    places = np.array(found.places, np.int64).reshape(-1, 3).T
    expected = {"ids": found.ids, **dict(zip(("shard", "offset", "length"), places.tolist(), strict=True))}
    expected |= {"sizes": found.sizes, "digests": found.digests, "crcs": found.crcs, "entries": found.entries}
    for name, values in expected.items():
        if name in ("crcs", "entries") and not getattr(index, name).size:  # of an earlier release
            continue
        array = getattr(index, name)
        if array.tolist() != list(values):
            return [f"{path}: {name!r} ({len(array)} values) is not that of the shards ({len(values)}); {remedy}"]
    return []


def rebuild_index(root: Path, name: str) -> columns.Index:
    """Reads and verifies every record of a column and writes its index, and failures and TFDS metadata where possible.

    Raises:
      columns.ColumnError, records.RecordError: the shards are not complete and whole; the index is left as it was.
    """
    directory = columns.column_dir(root, name)
    spec = columns.Spec.load(directory)
    paths = enumerate(columns.shard_paths(directory, spec))
    if problems := [p for shard, _ in paths if (p := column_writer.marker_problem(directory, spec, shard))]:
        raise columns.ColumnError("\n".join(problems))
    markers = [directory / column_writer.MARKERS / f"{s:05d}.json" for s in range(spec.num_shards)]
    if all(m.is_file() for m in markers):
        return column_writer.finish(directory)
    return columns.build_index(directory)  # without markers `finish` would write an empty failures.jsonl


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast a column was read: totals of one measurement."""

    records: int
    num_bytes: float
    seconds: float


def measure(column: columns.Column, seconds: float, seed: int = 0) -> Speed:
    """Reads random batches of 256 records, checksums and decoding included, for about `seconds`."""
    rng = np.random.default_rng(seed)
    column.read([0])  # opens the shards
    read, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not read:
        column.read(rng.integers(0, len(column), BATCH))
        read += BATCH
    return Speed(read, read * column.num_bytes / len(column), elapsed)
