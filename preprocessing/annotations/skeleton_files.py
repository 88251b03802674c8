"""Files of ready-made skeletons: pyskl's pickles, read without running anything in them, and VPD's JSON."""

import dataclasses
import gzip
import json
import pickle
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtjax.command.errors import InputError
from mtjax.data.catalog import CatalogError

MAX_BYTES = 16 << 30  # of a pickle; all of it is in memory
MAX_JSON_BYTES = 1 << 30  # unpacked, of one video: a file of zeros expands a thousandfold
MAX_FRAMES = 1_000_000  # of a clip: a frame number is a size to allocate
MAX_JOINTS = 1000
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")


class SkeletonError(InputError):
    """One clip's skeletons cannot be used; says why."""


@dataclasses.dataclass(frozen=True)
class People:
    """Everybody found in one clip.

    Attributes:
      num_frames: of the clip. frame: int64 [p], which frame each person is on; rising.
      joints: float32 [p n 3], x, y, score; finite, zeros for a joint without a place.
      box: float32 [p 5], x0, y0, x1, y1, score; [0 5] where the file has none.
      size_px: (W, H) that x and y are in; (0, 0) where the file does not say.
    """

    num_frames: int
    frame: np.ndarray
    joints: np.ndarray
    box: np.ndarray
    size_px: tuple[int, int] = (0, 0)


# pyskl and MMAction2.


class _Dtype:
    """Stands in for `numpy.dtype`: a name of numbers, nothing that holds objects."""

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of dtype {code!r:.40}; only numbers are read")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array:
    """Stands in for `numpy.ndarray`: takes its state as `ndarray.__setstate__` does, from bytes that are in the file."""

    value: np.ndarray = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # as Python 2 wrote them
        self.value = np.frombuffer(raw, dtype.numpy).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(raw: Any, dtype: _Dtype, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", raw))
    return array


def _scalar(dtype: _Dtype, raw: Any) -> Any:
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype.numpy)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding!r:.40}")
    return text.encode(encoding)  # how protocol 2 writes bytes


class _Restricted(pickle.Unpickler):
    """Knows plain containers, and stand-ins for what NumPy 1 and 2 write arrays with; no other name is looked up."""

    _KNOWN: Mapping[tuple[str, str], Callable] = {
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which a file of skeletons has no need of")
        return self._KNOWN[module, name]


def read_pyskl(source: Path) -> dict[str, Callable[[], People]]:
    """A pickle as pyskl and MMAction2 publish them: `frame_dir` → its skeletons.

    `{"split": ..., "annotations": [{"frame_dir", "total_frames", "img_shape" (h, w), "keypoint" [m t n 2],
    "keypoint_score" [m t n]}]}`. Persons are stacked as they were detected, without identity; one whose scores in a frame
    are all 0 is not there.

    Raises:
      CatalogError: not such a file, or it names anything but arrays and containers (nothing of it is run).
    """
    try:
        if source.stat().st_size > MAX_BYTES:
            raise CatalogError(f"{source}: more than {MAX_BYTES >> 30} GiB")
        with open(source, "rb") as file:
            content = _Restricted(file, encoding="latin1").load()
    except CatalogError:
        raise
    except Exception as e:  # a damaged pickle raises whatever its bytes happen to mean
        raise CatalogError(f"{source}: not a pickle of skeletons: {type(e).__name__}: {e!s:.300}") from None
    annotations = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(annotations, list) or not annotations:
        raise CatalogError(f"{source}: expected a dict with a list 'annotations', found {type(content).__name__}")
    found: dict[str, Callable[[], People]] = {}
    for number, annotation in enumerate(annotations):
        name = annotation.get("frame_dir") if isinstance(annotation, dict) else None
        if not isinstance(name, str) or not name:
            raise CatalogError(f"{source}: annotations[{number}]: no 'frame_dir', the name of its clip")
        if name in found:
            raise CatalogError(f"{source}: annotations[{number}]: {name!r} occurs twice")
        found[name] = lambda annotation=annotation: _pyskl_people(annotation)
    return found


def _pyskl_people(annotation: Mapping[str, Any]) -> People:
    arrays = []
    for key, dimensions in (("keypoint", 4), ("keypoint_score", 3)):
        array = annotation.get(key)
        if not isinstance(array, _Array) or array.value.ndim != dimensions:
            what = array.value.shape if isinstance(array, _Array) else type(array).__name__
            raise SkeletonError(f"'{key}' must be an array of {dimensions} dimensions, found {what}")
        arrays.append(array.value.astype(np.float32))
    xy, score = arrays
    if xy.shape != (*score.shape, 2):
        raise SkeletonError(f"'keypoint' {xy.shape} does not go with 'keypoint_score' {score.shape}")
    if not (
        0 < xy.shape[1] <= MAX_FRAMES and 0 < xy.shape[2] <= MAX_JOINTS
    ):  # without persons any shape fits into no bytes
        raise SkeletonError(f"{xy.shape[1]} frames of {xy.shape[2]} joints")
    total = annotation.get("total_frames", xy.shape[1])
    if total != xy.shape[1]:
        raise SkeletonError(f"'total_frames' is {total!r:.20}, but there are {xy.shape[1]} frames of joints")
    joints = _finite(np.concatenate([xy, score[..., None]], axis=-1).swapaxes(0, 1))  # [t m n 3]
    frame, person = np.nonzero((joints[..., 2] != 0).any(axis=-1))
    size = annotation.get("img_shape")
    if not (
        isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(n, int) and 0 < n < 1 << 20 for n in size)
    ):
        raise SkeletonError(f"'img_shape' must be (height, width), found {size!r:.40}")
    return People(xy.shape[1], frame, joints[frame, person], np.zeros((0, 5), np.float32), (size[1], size[0]))


# VPD.


def read_vpd(source: Path) -> dict[str, Callable[[], People]]:
    """A folder of `<video>/coco_keypoints.json.gz`, as VPD's `detect.py` writes them: path of <video> → its skeletons.

    `[[frame, [[score, [x, y, w, h], [[x, y, score] * 17]], ...]], ...]`. Frames may be left out where nobody was found.

    Raises:
      CatalogError: there is none.
    """
    name = "coco_keypoints.json.gz"
    files = {path.parent.relative_to(source).as_posix(): path for path in sorted(source.rglob(name))}
    if not files:
        raise CatalogError(f"{source}: no <video>/{name} in it")
    return {video: lambda path=path: _vpd_people(path) for video, path in files.items()}


def _vpd_people(path: Path) -> People:
    try:
        with gzip.open(path) as file:
            text = file.read(MAX_JSON_BYTES + 1)
        if len(text) > MAX_JSON_BYTES:
            raise SkeletonError(f"{path.name}: unpacks to more than {MAX_JSON_BYTES >> 20} MiB")
        rows = json.loads(text)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as e:
        raise SkeletonError(
            f"{path.name}: {e}" if isinstance(e, SkeletonError) else f"{path.name}: unreadable: {e}"
        ) from None
    frame, joints, box, last = [], [], [], -1
    try:
        for number, people in rows:
            if type(number) is not int or not last < number < MAX_FRAMES:
                raise SkeletonError(f"{path.name}: frame {number!r:.20} after {last}")
            last = number
            for score, (x, y, w, h), points in people:
                frame.append(number)
                joints.append(points)
                box.append((x, y, x + w, y + h, score))
        values = np.array(joints, np.float32).reshape(-1, 17, 3), np.array(box, np.float32).reshape(-1, 5)
    except (TypeError, ValueError) as e:
        known = isinstance(e, SkeletonError)
        raise SkeletonError(
            str(e) if known else f"{path.name}: not [[frame, [[score, box, 17 joints], ...]], ...]"
        ) from None
    if last < 0:
        raise SkeletonError(f"{path.name}: no frames in it")
    return People(last + 1, np.array(frame, np.int64), *map(_finite, values))


def _finite(rows: np.ndarray) -> np.ndarray:
    """[... k]: a row with any value that is not finite becomes zeros: NaN and inf are never stored."""
    return np.where(np.isfinite(rows).all(axis=-1, keepdims=True), rows, np.float32(0))
