"""Reading a column: random access by clip id into TFRecord shards, with a checksum on every read."""

import dataclasses
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mtjax import records
from mtjax.command.errors import InputError

COLUMN_VERSION = 1
INDEX = "index.npz"


class ColumnError(InputError):
    """A column that cannot be opened or used; names the file and the next step."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What `column.json` says: written before the first record, the same for every machine that extracts a shard.

    Attributes:
      name: of the column, e.g. "tracks.lk".
      schema: field → Feature.
      num_shards: fixed for the life of the column; a clip's shard is a stable hash of its id.
      producer: the program that made it; `parameters` its arguments, `weights` a hash of the model's weights ("" if none).
      licence: of the data, as the backend's licence demands.
    """

    name: str
    schema: records.Schema
    num_shards: int
    producer: str
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = ""
    licence: str = ""

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self) | {"schema": records.schema_to_json(self.schema)}
        return {"column_version": COLUMN_VERSION, "schema_version": records.SCHEMA_VERSION, **fields}

    @classmethod
    def load(cls, directory: Path) -> "Spec":
        """Raises ColumnError when `column.json` is absent, unreadable, of another version or of another column."""
        directory = Path(directory)
        path = directory / "column.json"
        try:
            fields = dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ColumnError(f"{path} does not exist; extract the column first (`mtjax extract`)") from None
        except (OSError, ValueError, TypeError, RecursionError) as e:
            raise ColumnError(f"{path}: unreadable: {e}") from None
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

    def shard_of(self, clip_id: str) -> int:
        return int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "big") % self.num_shards


def column_dir(root: str | os.PathLike, name: str) -> Path:
    return Path(root) / "columns" / name


def list_columns(root: str | os.PathLike) -> list[str]:
    """Names of the columns of a dataset that have an index."""
    return sorted(p.parent.name for p in Path(root).glob(f"columns/*/{INDEX}"))


def shard_paths(directory: Path, spec: Spec) -> list[Path]:
    """The shards on disk, which must be exactly those that the spec names.

    Raises:
      ColumnError: a shard is missing, or a file looks like a shard of another run.
    """
    expected = [directory / spec.shard_name(s) for s in range(spec.num_shards)]
    missing = [p.name for p in expected if not p.is_file()]
    extra = sorted({p.name for p in directory.glob("*.tfrecord")} - {p.name for p in expected})
    if missing or extra:
        raise ColumnError(
            f"{directory}: {len(missing)} of {spec.num_shards} shards missing {missing[:3]}, unexpected files {extra[:3]}; "
            "run the extraction again (it does only the rest), or move the unexpected files away"
        )
    return expected


@dataclasses.dataclass(frozen=True)
class Index:
    """`index.npz`: where each clip's record lies, and what the shards looked like when this was made.

    Attributes:
      ids: str [n], in file order. shard, offset, length: int64 [n], of the payload.
      sizes: int64 [shards] bytes. digests: str [shards], over every record's stored CRC.
    """

    ids: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray

    def save(self, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with open(temporary, "wb") as file:
            np.savez(file, **dataclasses.asdict(self))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> "Index":
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{f.name: arrays[f.name] for f in dataclasses.fields(cls)})


def build_index(directory: Path) -> Index:
    """Reads every record of every shard once, checks all CRCs and the schema of each record, and writes `index.npz`.

    Raises:
      ColumnError: a clip occurs twice, or lies in another shard than its hash says.
      records.RecordError: damaged or mismatching records, by file and record number.
    """
    directory = Path(directory)
    spec = Spec.load(directory)
    ids, shards, offsets, lengths, sizes, digests = [], [], [], [], [], []
    for shard, path in enumerate(shard_paths(directory, spec)):
        digest = hashlib.sha256()
        for number, (offset, length, crc, payload) in enumerate(records.scan(path)):
            clip_id, _ = records.decode(spec.schema, payload, f"{path}: record {number}")
            if spec.shard_of(clip_id) != shard:
                raise ColumnError(
                    f"{path}: record {number}: clip {clip_id!r} belongs to shard {spec.shard_of(clip_id)}"
                )
            ids.append(clip_id)
            shards.append(shard)
            offsets.append(offset)
            lengths.append(length)
            digest.update(records.FOOTER.pack(crc))
        sizes.append(path.stat().st_size)
        digests.append(digest.hexdigest()[:16])
    if len(set(ids)) != len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1}) if len(ids) < 10_000 else "(many)"
        raise ColumnError(f"{directory}: clips with more than one record: {twice[:5]}")
    as_int = [np.array(x, np.int64) for x in (shards, offsets, lengths, sizes)]
    index = Index(np.array(ids, np.str_), *as_int[:3], as_int[3], np.array(digests, np.str_))
    index.save(directory / INDEX)
    return index


def _fresh_index(directory: Path, spec: Spec) -> Index:
    """Loads the index and refuses one that does not describe the shards on disk."""
    path = directory / INDEX
    remedy = f"run `mtjax data index {directory.parent.parent} --column={spec.name}`"
    if not path.is_file():
        raise ColumnError(f"{path} does not exist: the extraction was not finished; run it again, or {remedy}")
    try:
        index = Index.load(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise ColumnError(f"{path}: unreadable ({e}); {remedy}") from None
    shards = shard_paths(directory, spec)
    sizes = [p.stat().st_size for p in shards]
    framing = records.HEADER.size + records.FOOTER.size
    indexed = np.bincount(index.shard, weights=index.length + framing, minlength=len(shards)).astype(np.int64)
    if sizes != index.sizes.tolist() or sizes != indexed.tolist():
        raise ColumnError(f"{path}: the shards have changed since it was written; {remedy}")
    written = path.stat().st_mtime_ns
    for shard, file in enumerate(shards):
        # A newer file is usually just a copied dataset: compare the content's digest (headers only) before refusing.
        if file.stat().st_mtime_ns > written:
            digest = hashlib.sha256()
            for _, _, crc, _ in records.scan(file, payloads=False):
                digest.update(records.FOOTER.pack(crc))
            if digest.hexdigest()[:16] != index.digests[shard]:
                raise ColumnError(f"{path}: {file.name} was replaced since it was written; {remedy}")
    return index


class Column:
    """Random access to one column of a dataset.

    Picklable: worker processes open the shards for themselves.
    """

    def __init__(self, root: str | os.PathLike, name: str):
        """Raises ColumnError when the column is absent, unfinished or has a stale index."""
        self.directory = column_dir(root, name)
        self.spec = Spec.load(self.directory)
        self._index = _fresh_index(self.directory, self.spec)
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
          records.CorruptRecord, records.RecordError: by shard, clip and byte offset.
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
                clip_id, values = records.decode(schema, payload)
                if clip_id != index.ids[row]:
                    raise records.CorruptRecord(f"holds clip {clip_id!r}: the shard was replaced since it was indexed")
                out.append(values)
            except records.RecordError as e:
                where = f"{self.directory / self.spec.shard_name(shard)}: clip {index.ids[row]} at byte {offset}"
                raise type(e)(f"{where}: {str(e).removeprefix(': ')}") from None
        return out

    def _open(self) -> list[int]:
        self._open_files = [os.open(p, os.O_RDONLY) for p in shard_paths(self.directory, self.spec)]
        return self._open_files

    def close(self) -> None:
        for file in self._open_files:
            os.close(file)
        self._open_files = []

    def __getstate__(self):
        return self.__dict__ | {"_open_files": []}
