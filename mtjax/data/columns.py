"""Reading a column: random access by clip id into TFRecord shards, with a checksum on every read."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtjax import records
from mtjax.data.column_index import INDEX, ColumnError, Index, files_of, load_fresh, remedy
from mtjax.data.files import SEAL, is_changed, save_arrays, sealed, write_atomically

COLUMN_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Spec:
    """What `column.json` says: written before the first record, the same for every machine that extracts a shard.

    Attributes:
      name: of the column, e.g. "tracks.lk".
      schema: field → Feature.
      num_shards: fixed for the life of the column; a clip's shard is a stable hash of its id.
      producer: the program that made it; `parameters` its arguments, `weights` a hash of the model's weights ("" if none).
      licence: of the data, as the backend's licence demands.
      origin: what a run's prediction or a clustering was made from, see `mtjax.data.origin`; {} for what is not.
    """

    name: str
    schema: records.Schema
    num_shards: int
    producer: str
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = ""
    licence: str = ""
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self) | {"schema": records.schema_to_json(self.schema)}
        if not self.origin:
            del fields["origin"]
        return {"column_version": COLUMN_VERSION, "schema_version": records.SCHEMA_VERSION, **fields}

    def save(self, directory: Path) -> None:
        """Writes `column.json`, sealed."""
        write_atomically(directory / "column.json", sealed(self.to_json()))

    @classmethod
    def load(cls, directory: Path, *, may_be_changed: bool = False) -> "Spec":
        """Raises ColumnError when `column.json` is absent, unreadable, of another version or of another column, or was changed
        since it was written."""
        directory = Path(directory)
        path = directory / "column.json"
        try:
            fields = dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ColumnError(f"{path} does not exist; extract the column first (`mtjax extract`)") from None
        except (OSError, ValueError, TypeError, RecursionError) as e:
            raise ColumnError(f"{path}: unreadable: {e}") from None
        if is_changed(fields) and not may_be_changed:
            raise ColumnError(
                f"{path}: changed since it was written; restore it, or accept it as it is: "
                f"mtjax data accept {directory.parent.parent} --column={directory.name}"
            )
        fields.pop(SEAL, None)
        found = (fields.pop("column_version", None), fields.pop("schema_version", None))
        if found != (COLUMN_VERSION, records.SCHEMA_VERSION):
            raise ColumnError(
                f"{path}: versions {found}, this reads {(COLUMN_VERSION, records.SCHEMA_VERSION)}; extract it again"
            )
        try:
            fields["schema"] = records.schema_from_json(fields["schema"])
            spec = cls(**fields)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise ColumnError(f"{path}: a field is missing, unknown or of another kind: {e}") from None
        if spec.name != directory.name or not isinstance(spec.num_shards, int) or not 0 < spec.num_shards < 100_000:
            raise ColumnError(
                f"{path}: describes column {spec.name!r} with {spec.num_shards} shards; was the folder renamed?"
            )
        return spec

    def shard_name(self, shard: int) -> str:
        return f"{self.name}-{shard:05d}-of-{self.num_shards:05d}.tfrecord"

    @property
    def shard_names(self) -> list[str]:
        return [self.shard_name(shard) for shard in range(self.num_shards)]

    def shard_of(self, clip_id: str) -> int:
        return int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "big") % self.num_shards


def column_dir(root: str | os.PathLike, name: str) -> Path:
    return Path(root) / "columns" / name


def list_columns(root: str | os.PathLike) -> list[str]:
    """Names of the columns of a dataset that have an index."""
    return sorted(p.parent.name for p in Path(root).glob(f"columns/*/{INDEX}"))


def shard_paths(directory: Path, spec: Spec) -> list[Path]:
    """The shards on disk. Raises ColumnError when they are not exactly those that the spec names."""
    return files_of(directory, spec.shard_names)


def schema_text(spec: Spec) -> str:
    """A schema as an index and the markers of shards keep it."""
    return json.dumps(records.schema_to_json(spec.schema))


def build_index(directory: Path, written: Mapping[int, str] | None = None) -> Index:
    """Reads every record of every shard once, checks all CRCs and the schema of each record, and writes `index.npz`.

    Args:
      written: shard → digest of what its writer wrote, where that is known.

    Raises:
      ColumnError: a clip occurs twice, or lies in another shard than its hash says; a shard is not the one that was written.
      records.RecordError: damaged or mismatching records, by file and record number.
    """
    directory = Path(directory)
    spec = Spec.load(directory)
    ids, shards, offsets, lengths, sizes, digests, crcs, entries = [], [], [], [], [], [], [], []
    for shard, path in enumerate(shard_paths(directory, spec)):
        digest = hashlib.sha256()
        for number, (offset, length, crc, payload) in enumerate(records.scan(path)):
            clip_id, values = records.decode(spec.schema, payload, f"{path}: record {number}")
            entries.append(records.entries(spec.schema, values))
            if spec.shard_of(clip_id) != shard:
                raise ColumnError(
                    f"{path}: record {number}: clip {clip_id!r} belongs to shard {spec.shard_of(clip_id)}"
                )
            ids.append(clip_id)
            shards.append(shard)
            offsets.append(offset)
            lengths.append(length)
            crcs.append(crc)
            digest.update(records.FOOTER.pack(crc))
        sizes.append(path.stat().st_size)
        digests.append(digest.hexdigest()[:16])
        if written and written.get(shard, digests[-1]) != digests[-1]:
            raise ColumnError(f"{path}: not the shard that was written here; extract it again")
    if len(set(ids)) != len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1}) if len(ids) < 10_000 else "(many)"
        raise ColumnError(f"{directory}: clips with more than one record: {twice[:5]}")
    as_int = [np.array(x, np.int64) for x in (shards, offsets, lengths, sizes)]
    of_content = np.array(digests, np.str_), np.array(crcs, np.uint32), np.array(schema_text(spec))
    counted = np.array(entries, np.int32).reshape(len(ids), -1 if ids else 0)
    index = Index(np.array(ids, np.str_), *as_int[:3], as_int[3], *of_content, counted)
    save_arrays(directory / INDEX, **dataclasses.asdict(index))
    return index


class Column:
    """Random access to one column of a dataset.

    Picklable: worker processes open the shards for themselves.
    """

    def __init__(self, root: str | os.PathLike, name: str):
        """Raises ColumnError when the column is absent, unfinished or has a stale index."""
        self.directory = column_dir(root, name)
        self.spec = Spec.load(self.directory)
        self._index = load_fresh(self.directory, self.spec.shard_names, schema_text(self.spec))
        self._row = {clip_id: row for row, clip_id in enumerate(self._index.ids.tolist())}
        self._open_files: list[int] = []
        if len(self):  # one record now: a wrong schema fails at start, not in the first epoch
            self.read([0])

    def __len__(self) -> int:
        return len(self._index.ids)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._row

    @property
    def ids(self) -> np.ndarray:
        return self._index.ids

    @property
    def num_bytes(self) -> int:
        return int(self._index.sizes.sum())

    def longest(self, field: str) -> int:
        """An upper bound of the frames (first dimension) of a field, over all records."""
        feature = self.spec.schema[field]
        if not feature.ragged:
            return feature.shape[0]
        # Framing and other fields only add bytes, so a record's length bounds its number of frames.
        bounds = self._index.length // (math.prod(feature.shape[1:]) * np.dtype(feature.dtype).itemsize)
        if sum(f.ragged for f in self.spec.schema.values()) == 1:
            return int(bounds.max(initial=0))
        # Other ragged fields may take most of a record: read the longest ones until no other can hold more frames.
        longest = 0
        for row in np.argsort(-bounds, kind="stable").tolist():
            if bounds[row] <= longest:
                break
            longest = max(longest, len(self.read([row])[0][field]))
        return longest

    def counts(self, field: str, rows: np.ndarray) -> np.ndarray:
        """int64 [n]: how many entries (first dimension) a field has in each of some records, by the index. Where an earlier
        release wrote that, the records are read."""
        feature = self.spec.schema[field]
        if not feature.ragged:
            return np.full(len(rows), feature.shape[0], np.int64)
        if len(self._index.entries) != len(self):
            return np.array([len(record[field]) for record in self.scan(rows, block=64)], np.int64)
        ragged = [name for name, f in self.spec.schema.items() if f.ragged]
        return self._index.entries[rows, ragged.index(field)].astype(np.int64)

    @property
    def fingerprint(self) -> str:
        """Of the schema and the content of every record, wherever the files lie."""
        content = [records.schema_to_json(self.spec.schema), self._index.digests.tolist(), len(self)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """int64 [n]: the record of each clip, -1 where the column has none."""
        return np.array([self._row.get(i, -1) for i in ids], np.int64)

    def read(self, rows: np.ndarray | list[int]) -> list[dict[str, Any]]:
        """The values of some records; tensors are read-only views, images a sequence of bytes.

        Raises:
          records.CorruptRecord, records.RecordError: by shard, clip and byte offset. ColumnError: the shard was replaced.
        """
        if len(rows) and min(rows) < 0:
            raise ColumnError(f"{self.directory}: a clip without a record was asked for")
        files = self._open_files or self._open()
        index, schema, out = self._index, self.spec.schema, []
        for row in rows:
            shard, offset, length = int(index.shard[row]), int(index.offset[row]), int(index.length[row])
            payload = os.pread(files[shard], length, offset)
            # Not in one piece: to cut off the checksum is to copy the record.
            footer = os.pread(files[shard], records.FOOTER.size, offset + length)
            try:
                records.check_payload(payload, footer, length, "")
                if records.FOOTER.unpack(footer)[0] != index.crcs[row]:
                    raise ColumnError(
                        f"{self.directory / self.spec.shard_name(shard)}: clip {index.ids[row]}: another record than was indexed; "
                        + remedy(self.directory)
                    )
                clip_id, values = records.decode(schema, payload)
                if clip_id != index.ids[row]:
                    raise records.CorruptRecord(f"holds clip {clip_id!r}: the shard was replaced since it was indexed")
                out.append(values)
            except records.RecordError as e:
                where = f"{self.directory / self.spec.shard_name(shard)}: clip {index.ids[row]} at byte {offset}"
                raise type(e)(f"{where}: {str(e).removeprefix(': ')}") from None
        return out

    def scan(self, rows: np.ndarray | None = None, *, block: int = 256) -> Iterator[dict[str, Any]]:
        """What `read` gives of some records (all for None), one after the other; `block` of them are in memory at once."""
        rows = np.arange(len(self)) if rows is None else rows
        for start in range(0, len(rows), block):
            yield from self.read(rows[start : start + block])

    def _open(self) -> list[int]:
        self._open_files = [os.open(p, os.O_RDONLY) for p in shard_paths(self.directory, self.spec)]
        return self._open_files

    def close(self) -> None:
        for file in self._open_files:
            os.close(file)
        self._open_files = []

    def __getstate__(self):
        return self.__dict__ | {"_open_files": []}
