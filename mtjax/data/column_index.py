"""The index of a column: where each clip's record lies, and what the records were when it was made."""

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtjax import records
from mtjax.command.errors import InputError

INDEX = "index.npz"
SAMPLES = 8  # records of each shard that are compared with the index when a column is opened


class ColumnError(InputError):
    """A column that cannot be opened or used; names the file and the next step."""


@dataclasses.dataclass(frozen=True)
class Index:
    """`index.npz`: where each clip's record lies, and what the shards looked like when this was made.

    Attributes:
      ids: str [n], in file order. shard, offset, length: int64 [n], of the payload.
      sizes: int64 [shards] bytes. digests: str [shards], over every record's stored CRC.
      crcs: uint32 [n], each record's stored CRC: what is read is what was indexed, whatever the files' times say.
      schema: str [], of the records, as JSON.
      entries: int32 [n, fields of varying length], of each record, see `records.entries`: what a plan of a column needs to know
        is known without reading it.
    """

    ids: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray
    crcs: np.ndarray
    schema: np.ndarray
    entries: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "Index":
        """`crcs` is empty, and so are `schema` and `entries`, in an index that an earlier release wrote."""
        absent = {"crcs": np.zeros(0, np.uint32), "schema": np.array(""), "entries": np.zeros((0, 0), np.int32)}
        with np.load(path, allow_pickle=False) as arrays:
            names = [f.name for f in dataclasses.fields(cls)]
            return cls(**{n: absent[n] if n in absent and n not in arrays.files else arrays[n] for n in names})


def files_of(directory: Path, names: Sequence[str]) -> list[Path]:
    """The shards on disk, which must be exactly these.

    Raises:
      ColumnError: a shard is missing, or a file looks like a shard of another run.
    """
    expected = [directory / name for name in names]
    missing = [p.name for p in expected if not p.is_file()]
    extra = sorted({p.name for p in directory.glob("*.tfrecord")} - set(names))
    if missing or extra:
        raise ColumnError(
            f"{directory}: {len(missing)} of {len(names)} shards missing {missing[:3]}, unexpected files {extra[:3]}; "
            "run the extraction again (it does only the rest), or move the unexpected files away"
        )
    return expected


def load_fresh(directory: Path, names: Sequence[str], schema: str) -> Index:
    """The index of a column, unless it does not describe the shards on disk.

    Args:
      names: of the shards. schema: the column's, as the index keeps it.

    Raises:
      ColumnError: no index, an unreadable one, or the one of other shards or of another schema.
    """
    path = directory / INDEX
    advice = remedy(directory)
    if not path.is_file():
        raise ColumnError(f"{path} does not exist: the extraction was not finished; run it again, or {advice}")
    try:
        index = Index.load(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise ColumnError(f"{path}: unreadable ({e}); {advice}") from None
    shards = files_of(directory, names)
    sizes = [p.stat().st_size for p in shards]
    framing = records.HEADER.size + records.FOOTER.size
    indexed = np.bincount(index.shard, weights=index.length + framing, minlength=len(shards)).astype(np.int64)
    if sizes != index.sizes.tolist() or sizes != indexed.tolist():
        raise ColumnError(f"{path}: the shards have changed since it was written; {advice}")
    told = str(index.schema)
    if told and told != schema:
        raise ColumnError(
            f"{directory}/column.json: its schema {schema} is not the one that the records were indexed with, {told}; "
            f"restore it, or {advice}"
        )
    if len(index.crcs) != len(index.ids):
        index = dataclasses.replace(index, crcs=_stored_crcs(path, shards, index))
    _check_samples(path, shards, index)
    return index


def remedy(directory: Path) -> str:
    return f"run `mtjax data index {directory.parent.parent} --column={directory.name}`"


def _stored_crcs(path: Path, shards: list[Path], index: Index) -> np.ndarray:
    """uint32 [n], from the shards' headers, for an index without them. Raises ColumnError when these are other shards."""
    crcs: list[int] = []
    for file, digest in zip(shards, index.digests.tolist(), strict=True):
        found = [crc for _, _, crc, _ in records.scan(file, payloads=False)]
        if hashlib.sha256(b"".join(map(records.FOOTER.pack, found))).hexdigest()[:16] != digest:
            raise ColumnError(f"{path}: {file.name} was replaced since it was written; {remedy(path.parent)}")
        crcs += found
    return np.array(crcs, np.uint32)


def _check_samples(path: Path, shards: list[Path], index: Index) -> None:
    """Raises ColumnError when a shard is not the one that was indexed: a few records of each now, the others as they are read."""
    for shard, file in enumerate(shards):
        rows = np.flatnonzero(index.shard == shard)
        with open(file, "rb") as data:
            for row in rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLES).astype(int))] if len(rows) else ():
                offset, length = int(index.offset[row]), int(index.length[row])
                footer = os.pread(data.fileno(), records.FOOTER.size, offset + length)
                if footer == records.FOOTER.pack(index.crcs[row]):
                    continue
                # A damaged record is another matter, for whoever reads it; here it is whole, but another one.
                payload = os.pread(data.fileno(), length, offset)
                if footer == records.FOOTER.pack(records.masked_crc(payload)):
                    raise ColumnError(f"{path}: {file.name} was replaced since it was written; {remedy(path.parent)}")
