"""KIND `motion-npz`: joint trajectories of many clips in one NumPy archive, as columns `tracks` and `pose`.

Arrays of an archive: `frames` [total, joints, 2] float, `lengths` and `offsets` [clips] (clip i is
`frames[offsets[i]:offsets[i] + lengths[i]]`), `labels` [clips], `is_train` [clips] bool, `class_names`, `joint_names`.
"""

import hashlib
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from mtjax.command.errors import InputError
from mtjax.data.catalog import CatalogError, Clip
from mtjax.data.columns import Spec
from mtjax.records import Feature
from preprocessing.annotations.listing import Listing, Problems, text_problem

PRODUCER = "preprocessing.catalog motion-npz"
COORDINATES = "as in the source file; the joints are annotations, so no point is marked occluded and every score is 1"
MAX_BYTES = 16 << 30  # unpacked; an archive of zeros expands a thousandfold
SHARD_BYTES = 128 << 20
ONE_SHARD_CLIPS = 2000
# Name → (kind of dtype, number of dimensions).
_ARRAYS = {"frames": ("f", 3), "lengths": ("iu", 1), "offsets": ("iu", 1), "labels": ("iu", 1)}
_ARRAYS |= {"is_train": ("b", 1), "class_names": ("U", 1), "joint_names": ("U", 1)}

Arrays = dict[str, np.ndarray]


def parse(source: Path, name: str) -> Listing:
    """One archive (splits "train" and "test"), or a folder of `*_split<k>.npz` (splits "train<k>" and "test<k>").

    The archives of a folder hold the same clips in any order: a clip is known by the hash of its frames and its class,
    and its id is `<name>-<first 10 hex digits>`.
    """
    archives = _archives(source)
    problems = Problems(source)
    loaded = {number: _load(path, problems) for number, path in archives.items()}
    problems.raise_if_any()
    first = next(iter(loaded.values()))
    digests = {number: _digests(archives[number], arrays, problems) for number, arrays in loaded.items()}
    _check_same(archives, loaded, digests, problems)
    rows = next(iter(digests.values()))
    ids = {digest: f"{name}-{digest[:10]}" for digest in rows}
    if len(set(ids.values())) != len(ids):
        problems.add(str(source), "two clips share the first 10 digits of their hash")
    problems.raise_if_any()
    class_names = [str(n) for n in first["class_names"]]
    clips = []
    for digest, row in rows.items():
        is_train = {number: loaded[number]["is_train"][digests[number][digest]] for number in loaded}
        splits = tuple(("train" if train else "test") + number for number, train in is_train.items())
        clips.append(Clip(ids[digest], splits, class_names[first["labels"][row]], frames=int(first["lengths"][row])))
    info = {
        "joint_names": [str(n) for n in first["joint_names"]],
        "source": {path.name: _sha256(path) for path in archives.values()},
        "coordinates": COORDINATES,
    }
    return Listing(clips, class_names, info, columns=_columns(first, {ids[d]: row for d, row in rows.items()}, info))


def _archives(source: Path) -> dict[str, Path]:
    """Split number ("" for a single archive) → file."""
    if source.is_file():
        return {"": source}
    found = {m[1]: p for p in sorted(source.glob("*.npz")) if (m := re.search(r"_split(\d+)\.npz$", p.name))}
    if not found:
        raise CatalogError(f"{source}: neither an .npz file nor a folder of *_split<k>.npz")
    return found


def _load(path: Path, problems: Problems) -> Arrays:
    """The arrays of one archive; adds whatever is wrong with them."""
    before = len(problems)
    try:
        with zipfile.ZipFile(path) as members:
            if sum(m.file_size for m in members.infolist()) > MAX_BYTES:
                raise InputError(f"unpacks to more than {MAX_BYTES >> 30} GiB")
        # allow_pickle=False: an object array could run any code on loading.
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in _ARRAYS if key in archive.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as e:
        problems.add(str(path), f"not a readable .npz without objects: {e}")
        return {}
    for key, (kinds, dimensions) in _ARRAYS.items():
        if key not in arrays:
            problems.add(str(path), f"no array {key!r}; there must be {', '.join(_ARRAYS)}")
        elif arrays[key].dtype.kind not in kinds or arrays[key].ndim != dimensions:
            found = f"{arrays[key].dtype} {arrays[key].shape}"
            problems.add(f"{path}: {key}", f"expected {dimensions} dimension(s) of dtype kind {kinds!r}, found {found}")
    if len(problems) == before:
        _check_values(path, arrays, problems)
    return arrays


def _check_values(path: Path, arrays: Arrays, problems: Problems) -> None:
    frames, lengths, offsets, labels = (arrays[k] for k in ("frames", "lengths", "offsets", "labels"))
    clips = len(lengths)
    if frames.shape[1:] != (len(arrays["joint_names"]), 2):
        problems.add(
            f"{path}: frames", f"expected [n, {len(arrays['joint_names'])} joint_names, 2], found {frames.shape}"
        )
    if sizes := {k: len(arrays[k]) for k in ("offsets", "labels", "is_train") if len(arrays[k]) != clips}:
        problems.add(str(path), f"lengths has {clips} clips, but there are {sizes}")
        return
    if not clips:
        problems.add(str(path), "no clips in it")
    ends = offsets.astype(object) + lengths.astype(object)  # Python integers: the sum must not wrap around
    outside = (lengths < 1) | (offsets < 0) | np.array(ends > len(frames), bool)
    for row in np.flatnonzero(outside):
        where = f"{path}: clip {row}"
        problems.add(where, f"offset {offsets[row]} and length {lengths[row]} leave the {len(frames)} frames")
    for row in np.flatnonzero((labels < 0) | (labels >= len(arrays["class_names"]))):
        problems.add(f"{path}: clip {row}", f"label {labels[row]} is not below {len(arrays['class_names'])} classes")
    for row in np.flatnonzero(~outside):
        bad = ~np.isfinite(frames[offsets[row] : offsets[row] + lengths[row]]).all(axis=(1, 2))
        if bad.any():
            problems.add(f"{path}: clip {row}", f"frame {bad.argmax()} is not finite")
    for key in ("class_names", "joint_names"):
        for name in arrays[key].tolist():
            if reason := text_problem(name) or ("" if name else "empty name"):
                problems.add(f"{path}: {key}", reason)
        if len(set(arrays[key].tolist())) != len(arrays[key]):
            problems.add(f"{path}: {key}", "a name occurs twice")


def _clip_frames(arrays: Arrays, row: int) -> np.ndarray:
    """float32 [frames, joints, 2]."""
    start = int(arrays["offsets"][row])
    return np.ascontiguousarray(arrays["frames"][start : start + int(arrays["lengths"][row])], "<f4")


def _digests(path: Path, arrays: Arrays, problems: Problems) -> dict[str, int]:
    """Hash of frames and class name → row."""
    rows: dict[str, int] = {}
    for row, label in enumerate(arrays["labels"].tolist()):
        content = _clip_frames(arrays, row).tobytes() + str(arrays["class_names"][label]).encode()
        digest = hashlib.sha256(content).hexdigest()
        if rows.setdefault(digest, row) != row:
            problems.add(f"{path}: clip {row}", f"the same frames and class as clip {rows[digest]}")
    return rows


def _check_same(
    archives: dict[str, Path], loaded: dict[str, Arrays], digests: dict[str, dict[str, int]], problems: Problems
) -> None:
    (base, first), *others = loaded.items()
    for number, arrays in others:
        for key in ("class_names", "joint_names"):
            if arrays[key].tolist() != first[key].tolist():
                problems.add(f"{archives[number]}: {key}", f"differ from those of {archives[base].name}")
        if different := digests[number].keys() ^ digests[base].keys():
            problems.add(str(archives[number]), f"{len(different)} clips differ from those of {archives[base].name}")


def _columns(arrays: Arrays, rows: dict[str, int], info: dict) -> list:
    """The columns `tracks` (x, y, occluded) and `pose` (x, y, score), float32 [frames, joints, 3]."""
    feature = Feature("float32", (-1, len(info["joint_names"]), 3))
    num_bytes = 3 * 4 * int(arrays["lengths"].sum()) * len(info["joint_names"])
    # A small set in one shard is easy to handle; a large one in shards of 128 MiB is read and repaired in pieces.
    shards = 1 if len(rows) < ONE_SHARD_CLIPS else -(-num_bytes // SHARD_BYTES)
    columns = []
    for name, third in (("tracks", 0.0), ("pose", 1.0)):
        spec = Spec(name, {name: feature}, shards, PRODUCER, {"source": info["source"], "third": third})
        values = {i: {name: _with_third(_clip_frames(arrays, row), third)} for i, row in rows.items()}
        columns.append((spec, values))
    return columns


def _with_third(frames: np.ndarray, third: float) -> np.ndarray:
    return np.concatenate([frames, np.full_like(frames[..., :1], third)], axis=-1)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
