"""Reading published weights: a Hugging Face folder or hub id, a `.safetensors` file, a PyTorch file (weights only)."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mtjax.command.errors import Missing
from mtjax.convert.names import ConversionError

WRAPPERS = ("state_dict", "model", "module", "model_state_dict")  # what training scripts put around the weights


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
    settings = json.loads(config.read_text()) if config.is_file() else {}
    index = path / "model.safetensors.index.json"
    if index.is_file():
        parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return settings, {k: v for part in parts for k, v in _arrays(path / Path(part).name).items()}
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return settings, _arrays(path / name)
    raise ConversionError(f"{path}: neither model.safetensors nor pytorch_model.bin is there")


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


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    try:
        import torch
    except ModuleNotFoundError:
        raise Missing(
            f"{path}: PyTorch files need PyTorch (pip install 'mtjax[extract]'), or convert to safetensors"
        ) from None
    try:
        # Never the general unpickler: a checkpoint from elsewhere could run anything.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # zip, pickle and torch's own errors
        raise ConversionError(f"{path}: not a file of weights alone ({str(e).splitlines()[0][:200]})") from None
    while wrapped := [k for k in WRAPPERS if isinstance(loaded, dict) and isinstance(loaded.get(k), dict)]:
        loaded = loaded[wrapped[0]]
    arrays = {k.removeprefix("module."): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    return {k: v.detach().float().numpy() if v.is_floating_point() else v.numpy() for k, v in arrays.items()}
