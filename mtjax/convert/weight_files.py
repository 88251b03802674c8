"""Reading published weights: a Hugging Face folder or hub id, a `.safetensors` file, a PyTorch file (weights only)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mtjax.command.errors import Missing
from mtjax.convert import torch_files
from mtjax.convert.names import ConversionError
from mtjax.data.foreign_files import Unreadable, read_json, reading

WRAPPERS = ("state_dict", "model", "module", "model_state_dict")  # what training scripts put around the weights
# What NumPy's numbers are made of in a pickle; they are read as placeholders.
NUMPY = (
    "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
)  # fmt: skip
ADVICE = "where you trust it, load it with its authors' code and save its state_dict() with torch.save"


def read(source: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config, or {} where the source has none; arrays by name).

    Raises:
      ConversionError: nothing readable there; says what would be.
    """
    path = Path(source)
    if path.is_file():
        return {}, _arrays(path)
    if not path.is_dir():
        path = _download(str(source))
    config = path / "config.json"
    settings = read_json(config, ConversionError) if config.is_file() else {}
    index = path / "model.safetensors.index.json"
    if index.is_file():
        parts = _parts(index)
        return settings, {k: v for part in parts for k, v in _arrays(path / Path(part).name).items()}
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return settings, _arrays(path / name)
    raise ConversionError(f"{path}: neither model.safetensors nor pytorch_model.bin is there")


def _parts(index: Path) -> list[str]:
    """The files that a Hugging Face index names."""
    places = read_json(index, ConversionError).get("weight_map")
    if not isinstance(places, Mapping) or not all(isinstance(part, str) for part in places.values()):
        raise ConversionError(f"{index}: no 'weight_map' from names to files; download it again")
    return sorted(set(places.values()))


def _download(name: str) -> Path:
    advice = (
        f"{name}: no such file or folder here. For a Hugging Face id, be online or fill the cache first "
        f"(huggingface-cli download {name}), or pass the folder with config.json and model.safetensors"
    )
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise Missing(f"{advice}; ids need: pip install 'mtjax[extract]'") from None
    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", "*.safetensors*", "pytorch_model.bin"]))
    except (
        Exception
    ) as e:  # the hub raises its own, requests' and validation errors; all mean "not reachable by this name"
        raise ConversionError(f"{advice} ({type(e).__name__})") from None


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name of a `.safetensors` file. Raises ConversionError when it cannot be read."""
    from safetensors.numpy import load_file

    with reading(path, "safetensors", ConversionError):
        return load_file(path)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    with reading(path, "a PyTorch file", ConversionError):
        loaded, skipped = torch_files.load(path) if torch_files.is_archive(path) else (_bare_pickle(path), [])
    while wrapped := [k for k in WRAPPERS if isinstance(loaded, dict) and isinstance(loaded.get(k), dict)]:
        loaded = loaded[wrapped[0]]
    kept = loaded if isinstance(loaded, dict) else {}
    arrays = {k.removeprefix("module."): v for k, v in kept.items() if isinstance(k, str) and isinstance(v, np.ndarray)}
    if not arrays:
        found = f"it holds {', '.join(skipped[:3])}" if skipped else f"found a {type(loaded).__name__}"
        raise ConversionError(f"{path}: not a file of weights alone, arrays by name ({found}); {ADVICE}")
    return {k: v.astype(np.float32) if _is_float(v) else v for k, v in arrays.items()}


def _is_float(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.floating) or array.dtype == ml_dtypes.bfloat16


def _bare_pickle(path: Path) -> Any:
    """What PyTorch before 1.6 saved, as `torch.load` reads weights alone."""
    try:
        import torch
    except ModuleNotFoundError:
        raise Missing(
            f"{path}: PyTorch files of before 2020 need PyTorch (pip install 'mtjax[extract]'), or convert to safetensors"
        ) from None
    try:
        # Never the general unpickler: a checkpoint from elsewhere could run anything.
        with torch.serialization.safe_globals([(torch_files.Placeholder, name) for name in NUMPY]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # pickle's and torch's own errors
        if named := re.search(r"GLOBAL (\S+) was not an allowed global", str(e)):
            raise ConversionError(
                f"{path}: not a file of weights alone (it holds {named[1][:100]}); {ADVICE}"
            ) from None
        raise Unreadable("not a file of weights alone") from None
    return _to_numpy(loaded, torch)


def _to_numpy(value: Any, torch: Any) -> Any:
    """`value` with arrays in the place of tensors, in dictionaries within dictionaries."""
    if isinstance(value, dict):
        return {k: _to_numpy(v, torch) for k, v in value.items()}
    if isinstance(value, torch.Tensor):
        return (value.detach().float() if value.is_floating_point() else value.detach()).numpy()
    return value
