"""PyTorch's files read without PyTorch and without running what is in them: `torch.save` since PyTorch 1.6, and TorchScript.

Both are zip archives with a pickle, `data.pkl`, and a file for each storage. Of the pickle only tensors, containers and plain
values are made; whatever else it names (numbers of NumPy, command line options, classes of the authors) becomes a `Placeholder`.
"""

import collections
import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mtjax.data.foreign_files import Unreadable

STORAGES = {
    "HalfStorage": np.float16, "BFloat16Storage": ml_dtypes.bfloat16, "FloatStorage": np.float32, "DoubleStorage": np.float64,
    "CharStorage": np.int8, "ByteStorage": np.uint8, "ShortStorage": np.int16, "IntStorage": np.int32, "LongStorage": np.int64,
    "BoolStorage": np.bool_,
}  # fmt: skip
SCRIPT = "__torch__"  # root of the module names in a TorchScript archive
MAX_REPEATED = 1 << 24  # values of a tensor that shows its storage more than once, e.g. a mask


class Placeholder:
    """An object that is not made. Of a TorchScript module `attributes` holds what it consists of."""

    def __init__(self, *_: Any, **__: Any):
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


class ScriptModule(Placeholder):
    """A module of a TorchScript archive."""


def is_archive(path: Path) -> bool:
    """Whether this is a file for `load`; older PyTorch wrote bare pickles."""
    return zipfile.is_zipfile(path)


def load(path: Path) -> tuple[Any, list[str]]:
    """(what was saved, arrays in the place of tensors; the names of what became a `Placeholder`).

    A TorchScript module becomes a dictionary from the parameters' names to arrays.

    Raises:
      Unreadable, or whatever `zipfile`, `pickle` and NumPy raise of a damaged file; see `foreign_files.reading`.
    """
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Unreadable("a zip file without PyTorch's data.pkl")
        reader = _Reader(archive, pickles[0].removesuffix("data.pkl"))
        loaded = reader.load()
    if isinstance(loaded, ScriptModule):
        loaded = _parameters(loaded)
    return loaded, sorted(reader.skipped)


class _Reader(pickle.Unpickler):
    """Makes nothing but containers, arrays and placeholders: `find_class` is the only way to anything that can be called."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        self.archive, self.folder = archive, folder
        self.skipped: set[str] = set()
        self._storages: dict[str, np.ndarray] = {}
        super().__init__(io.BytesIO(self._bytes("data.pkl")))
        if f"{folder}byteorder" in archive.namelist() and self._bytes("byteorder") != b"little":
            raise Unreadable("saved on a big-endian machine")

    def find_class(self, module: str, name: str) -> Any:
        makes = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self._parameter,
        }
        if (module, name) in makes:
            return makes[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module.partition(".")[0] == SCRIPT:
            return ScriptModule
        self.skipped.add(f"{module}.{name}"[:100])
        return Placeholder

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, *_ = pid
        if kind != "storage" or dtype not in STORAGES.values() or not isinstance(key, str):
            raise Unreadable("a storage of an unknown kind")
        if key not in self._storages:
            self._storages[key] = np.frombuffer(bytearray(self._bytes(f"data/{key}")), dtype)
        return self._storages[key]

    def _bytes(self, name: str) -> bytes:
        info = self.archive.getinfo(self.folder + name)
        if (
            info.compress_type != zipfile.ZIP_STORED
        ):  # PyTorch compresses none of these: no small file becomes a large one
            raise Unreadable(f"{name} is compressed")
        return self.archive.read(info)

    def _tensor(self, storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        count = math.prod(size)
        if min(offset, *size, *stride, 0) < 0 or (count and last >= storage.size):
            raise Unreadable("a tensor reaches beyond what is stored")
        if count > max(storage.size, MAX_REPEATED):
            raise Unreadable(f"a tensor of {count} values, of which {storage.size} are stored")
        strides = [step * storage.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)

    def _parameter(self, tensor: Any, *_: Any) -> Any:
        return tensor


def _parameters(module: ScriptModule) -> dict[str, np.ndarray]:
    """Name → array of all modules below, each of them once."""
    found, seen, left = {}, {id(module)}, [("", module)]
    while left:
        prefix, one = left.pop()
        for name, value in one.attributes.items():
            if isinstance(value, np.ndarray):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, ScriptModule) and id(value) not in seen:
                seen.add(id(value))
                left.append((f"{prefix}{name}.", value))
    return found
