"""Writing a column: shard by shard, atomically and resumably, by any number of processes without a coordinator."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mtjax import records
from mtjax.data import columns
from mtjax.data.display import short
from mtjax.data.files import replacing, write_atomically

MARKERS = ".shards"  # one JSON per finished shard: what it was asked for, what it holds, what failed


class Busy(columns.ColumnError):
    """Another process is writing this shard."""


def create(root: str | os.PathLike, spec: columns.Spec, *, overwrite: bool = False) -> Path:
    """Makes the column's folder, or checks that an existing one was begun with the same spec.

    Raises:
      columns.ColumnError: it was begun with other parameters; shows the differences.
    """
    directory = columns.column_dir(root, spec.name)
    if overwrite and directory.exists():
        for lock in directory.glob(f"{MARKERS}/*.lock"):
            with _locked(lock):  # raises Busy: never pull a shard from under its writer
                pass
        for path in [*directory.glob("*.tfrecord"), *directory.glob("*.json*"), directory / columns.INDEX]:
            path.unlink(missing_ok=True)
        for marker in directory.glob(f"{MARKERS}/*.json"):
            marker.unlink()
    refuse_other(directory, spec)
    (directory / MARKERS).mkdir(parents=True, exist_ok=True)
    spec.save(directory)
    return directory


def refuse_other(directory: Path, spec: columns.Spec) -> None:
    """Raises columns.ColumnError where the column was begun with another spec; shows the differences."""
    if not (directory / "column.json").is_file():
        return
    ours, theirs = (json.loads(json.dumps(s.to_json())) for s in (spec, columns.Spec.load(directory)))
    made, before = ours.pop("origin", {}).get("config"), theirs.pop("origin", {}).get("config")
    different = {k: (theirs.get(k), v) for k, v in ours.items() if theirs.get(k) != v}
    if made and before and made != before:  # where one of them is not known, parameters and weights have to do
        different["origin.config"] = (before, made)
    if different:
        shown = "; ".join(f"{k}: there {short(a, 200)}, now {short(b, 200)}" for k, (a, b) in different.items())
        raise columns.ColumnError(
            f"{directory} was begun differently ({shown}); overwrite it (--overwrite) or choose another column name"
        )


Request = Mapping[
    str, str
]  # clip id → what its record is made from (path and seconds, say), "" where nothing can change


def _digest(request: Request) -> str:
    return hashlib.sha256("\n".join(f"{i}\0{request[i]}" for i in sorted(request)).encode()).hexdigest()[:16]


def pending(directory: Path, spec: columns.Spec, request: Request | Iterable[str]) -> dict[int, Request]:
    """Shards still to be written (or written for another request) → the part of the request that each holds, in order."""
    if not isinstance(request, Mapping):
        request = dict.fromkeys(request, "")
    of_shard: dict[int, dict[str, str]] = {s: {} for s in range(spec.num_shards)}
    for clip_id, source in request.items():
        of_shard[spec.shard_of(clip_id)][clip_id] = source
    return {s: part for s, part in of_shard.items() if not _is_done(directory, spec, s, part)}


def _is_done(directory: Path, spec: columns.Spec, shard: int, request: Request) -> bool:
    path = directory / spec.shard_name(shard)
    try:
        done = json.loads(marker_path(directory, shard).read_text())
        return done["request"] == _digest(request) and done["size"] == path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return False


def marker_path(directory: Path, shard: int) -> Path:
    return directory / MARKERS / f"{shard:05d}.json"


def written_otherwise(directory: Path, request: Mapping[int, Request]) -> list[int]:
    """The shards that were finished for another request: their clips, or what these are made from, have changed."""
    changed = []
    for shard, part in request.items():
        try:
            if json.loads(marker_path(directory, shard).read_text())["request"] != _digest(part):
                changed.append(shard)
        except (OSError, ValueError, KeyError, TypeError):  # none, or one that says nothing: the shard is simply to do
            continue
    return changed


def marker_problem(directory: Path, spec: columns.Spec, shard: int, digest: str | None = None) -> str:
    """Why a shard is not the one that its writer finished, "" when it is or when no marker tells.

    A shard cut off between two records is a valid file; only the marker knows that it was longer.

    Args:
      digest: of its content, as an index has it; None leaves the comparison out.
    """
    path, marker = directory / spec.shard_name(shard), marker_path(directory, shard)
    try:
        done = json.loads(marker.read_text())
        size, told, schema = int(done["size"]), done.get("digest"), done.get("schema")
    except FileNotFoundError:  # copies often come without hidden files
        return ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        return f"{marker}: unreadable: {e}"
    if (found := path.stat().st_size) != size:
        return f"{path}: {found} bytes, but {size} were written; extract this shard again"
    if digest is not None and told not in (None, digest):
        return f"{path}: not the shard that was written here; extract this shard again"
    if schema not in (None, columns.schema_text(spec)):
        return (
            f"{directory}/column.json: another schema than {path.name} was written with; restore it, or extract again"
        )
    return ""


def damaged(directory: Path, spec: columns.Spec, shards: Iterable[int]) -> dict[int, str]:
    """Finished shards that are not, or no longer, what was written → why. Reads all of them, and checks every record."""
    found = {}
    for shard in shards:
        digest = hashlib.sha256()
        try:
            for _, _, crc, payload in records.scan(directory / spec.shard_name(shard)):
                records.decode(spec.schema, payload)
                digest.update(records.FOOTER.pack(crc))
        except (records.RecordError, OSError) as e:
            found[shard] = str(e)
            continue
        if problem := marker_problem(directory, spec, shard, digest.hexdigest()[:16]):
            found[shard] = problem
    return found


class ShardWriter:
    """Receives the records and failures of one shard; nothing is visible until `shard_writer` leaves cleanly."""

    def __init__(self, spec: columns.Spec, file, shard: int):
        self._spec, self._file, self._shard = spec, file, shard
        self.digest = hashlib.sha256()
        self.written: list[str] = []
        self.failures: list[dict[str, Any]] = []

    def write(self, clip_id: str, values: Mapping[str, Any]) -> None:
        if self._spec.shard_of(clip_id) != self._shard:
            raise columns.ColumnError(
                f"clip {clip_id!r} belongs to shard {self._spec.shard_of(clip_id)}, not {self._shard}"
            )
        framed = records.frame(records.encode(self._spec.schema, clip_id, values))
        self._file.write(framed)
        self.digest.update(framed[-records.FOOTER.size :])
        self.written.append(clip_id)

    def fail(self, clip_id: str, stage: str, reason: str, **details: Any) -> None:
        self.failures.append({"clip": clip_id, "stage": stage, "reason": reason, **details})


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The kernel's lock on a file: it goes with the process, so a killed writer leaves nothing to clean up."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"shard {path.stem} of {path.parents[1]} is being written by another process") from None
        yield


@contextlib.contextmanager
def shard_writer(
    directory: Path, spec: columns.Spec, shard: int, request: Request | Iterable[str]
) -> Iterator[ShardWriter]:
    """Writes one shard: lock, temporary file, fsync, rename, done marker last. `request` is what `pending` gave.

    Raises:
      Busy: another process holds the shard.
    """
    markers = directory / MARKERS
    if not isinstance(request, Mapping):
        request = dict.fromkeys(request, "")
    with _locked(markers / f"{shard:05d}.lock"):
        path = directory / spec.shard_name(shard)
        for leftover in directory.glob(f".{path.name}.*"):  # of a killed process: we hold the lock
            leftover.unlink()
        with replacing(path) as file:
            writer = ShardWriter(spec, file, shard)
            yield writer
        done = {
            "request": _digest(request),
            "size": path.stat().st_size,
            "digest": writer.digest.hexdigest()[:16],
            "schema": columns.schema_text(spec),
            "records": len(writer.written),
            "failures": writer.failures,
        }
        write_atomically(markers / f"{shard:05d}.json", json.dumps(done))


def finish(directory: Path) -> columns.Index:
    """Gathers failures, writes TFDS metadata and, last, the index. Every shard must be there."""
    spec = columns.Spec.load(directory)
    failures, written = [], {}
    markers = sorted((directory / MARKERS).glob("*.json"))
    if len(markers) < spec.num_shards:
        raise columns.ColumnError(
            f"{directory}: {spec.num_shards - len(markers)} of {spec.num_shards} shards are not finished; run the extraction "
            "again, or `mtjax data index` when the shards were copied without their markers"
        )
    for marker in markers:
        done = json.loads(marker.read_text())
        failures += done["failures"]
        if "digest" in done:  # markers of earlier releases have none
            written[int(marker.stem)] = done["digest"]
    for shard in range(spec.num_shards):
        if problem := marker_problem(directory, spec, shard):
            raise columns.ColumnError(problem)
    index = columns.build_index(directory, written)
    lines = [json.dumps(f, ensure_ascii=False) + "\n" for f in sorted(failures, key=lambda f: f["clip"])]
    write_atomically(directory / "failures.jsonl", "".join(lines))
    counts = [int((index.shard == s).sum()) for s in range(spec.num_shards)]
    _write_tfds_metadata(directory, spec, counts, int(index.length.sum()))
    return index


def write_column(
    root: str | os.PathLike, spec: columns.Spec, values: Mapping[str, Mapping[str, Any]], *, overwrite: bool = False
) -> columns.Index:
    """Writes a whole column whose values are at hand: clip id → field values."""
    directory = create(root, spec, overwrite=overwrite)
    for shard, request in pending(directory, spec, list(values)).items():
        with shard_writer(directory, spec, shard, request) as writer:
            for clip_id in request:
                writer.write(clip_id, values[clip_id])
    return finish(directory)


def _write_tfds_metadata(directory: Path, spec: columns.Spec, counts: list[int], num_bytes: int) -> None:
    """`features.json` and `dataset_info.json`, so that `tfds.builder_from_directory` opens the folder."""
    features = {records.CLIP_KEY: {"pythonClassName": f"{_TFDS}.text_feature.Text", "text": {}}}
    features |= {name: _tfds_feature(feature) for name, feature in spec.schema.items()}
    whole = {"pythonClassName": f"{_TFDS}.features_dict.FeaturesDict", "featuresDict": {"features": features}}
    split = {
        "filepathTemplate": "{DATASET}-{SHARD_X_OF_Y}.{FILEFORMAT}",
        "name": "all",
        "numBytes": str(num_bytes),
        "shardLengths": [str(n) for n in counts],
    }
    info = {"fileFormat": "tfrecord", "name": spec.name, "splits": [split], "version": "1.0.0"}
    write_atomically(directory / "features.json", json.dumps(whole, indent=1))
    write_atomically(directory / "dataset_info.json", json.dumps(info, indent=1))


_TFDS = "tensorflow_datasets.core.features"


def _tfds_feature(feature: records.Feature) -> dict[str, Any]:
    dimensions = {"dimensions": [str(d) for d in feature.shape]} if feature.shape else {}
    if feature.dtype == "str":
        return {"pythonClassName": f"{_TFDS}.text_feature.Text", "text": {}}
    if feature.dtype == "jpeg":
        image = {"dtype": "uint8", "encodingFormat": "jpeg", "shape": {"dimensions": ["-1", "-1", "3"]}}
        inner = {"image": image, "pythonClassName": f"{_TFDS}.image_feature.Image"}
        return {"pythonClassName": f"{_TFDS}.sequence_feature.Sequence", "sequence": {"feature": inner, "length": "-1"}}
    kind, encoding = ("tensor_feature.Tensor", "bytes") if feature.shape else ("scalar.Scalar", "none")
    return {
        "pythonClassName": f"{_TFDS}.{kind}",
        "tensor": {"dtype": feature.dtype, "encoding": encoding, "shape": dimensions},
    }
