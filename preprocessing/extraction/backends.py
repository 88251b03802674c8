"""Optional packages and their weights: found or fetched, or else an error that says what to type; and PyTorch's memory."""

import hashlib
import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from mtjax.command.errors import Missing

HUB = "hf:"  # hf:owner/repository/path/in/it


class MissingBackend(Missing):
    """A package or a file of weights that is not here; says how to get it."""


def require(module: str, install: str) -> ModuleType:
    """Imports a module of an optional package.

    Raises:
      MissingBackend: with the install command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise MissingBackend(f"{module} cannot be imported ({e}); install it with: {install}") from None


def checkpoint_file(checkpoint: str, published: str) -> Path:
    """A file of weights on this machine.

    Args:
      checkpoint: a path, "hf:owner/repository/file" for the Hugging Face hub, a https address, or "" for `published`.
      published: the https address of the authors' weights.

    Raises:
      MissingBackend: there is no such file, or it cannot be downloaded; gives the command.
    """
    source = checkpoint or published
    remedy = f"download {published} (curl -LO {published}) and pass --checkpoint=PATH"
    try:
        if source.startswith(HUB):
            owner, repository, name = source.removeprefix(HUB).split("/", 2)
            hub = require("huggingface_hub", "pip install huggingface_hub")
            return Path(hub.hf_hub_download(f"{owner}/{repository}", name))
        if source.startswith("https://"):
            return _download(source)
    except (OSError, ValueError) as e:
        raise MissingBackend(f"cannot get {source} ({e}); {remedy}") from None
    if not os.path.isfile(source):
        raise MissingBackend(f"no checkpoint at {source}; {remedy}")
    return Path(source)


def _download(address: str) -> Path:
    """Into PyTorch's own cache, as `torch.hub` would: what its users have fetched before is found again."""
    import torch

    path = Path(torch.hub.get_dir(), "checkpoints", address.rsplit("/", 1)[-1])
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path))  # to a temporary name, then renamed
    return path


def model_folder(checkpoint: str, option: str) -> Path:
    """A folder that holds a model as `transformers` saves it: config.json, preprocessor_config.json, *.safetensors.

    Args:
      checkpoint: the folder, or "owner/repository" on the Hugging Face hub.
      option: that it is given with, for messages.

    Raises:
      MissingBackend: neither a folder here nor to be fetched, or something is not in it; gives the command.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", checkpoint):
            raise MissingBackend(
                f"{option}={checkpoint}: no such folder, and no owner/repository of the Hugging Face hub"
            )
        hub = require("huggingface_hub", "pip install huggingface_hub")
        try:
            folder = Path(hub.snapshot_download(checkpoint, allow_patterns=["*.json", "*.safetensors"]))
        except (OSError, ValueError) as e:
            reason = str(e).strip().split("\n")[0]
            raise MissingBackend(
                f"{checkpoint} is no folder here, and cannot be fetched from the Hugging Face hub ({reason}); "
                f"where there is a network run `hf download {checkpoint} --local-dir FOLDER`, then pass {option}=FOLDER"
            ) from None
    wanted = ("config.json", "preprocessor_config.json", "*.safetensors")
    if missing := [name for name in wanted if not any(folder.glob(name))]:
        raise MissingBackend(f"{option}={folder}: no {' and no '.join(missing)} in it; pickled weights are not read")
    return folder


def folder_hash(folder: Path, pattern: str = "*.safetensors") -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all its files of a pattern, by name."""
    parts = [f"{path.relative_to(folder)} {weights_hash(path)}" for path in sorted(folder.glob(pattern))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def weights_hash(path: Path) -> str:
    """The first 16 hexadecimal digits of the file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_state(path: Path) -> dict[str, Any]:
    """A state dict on the CPU. Only tensors are unpickled: a file of weights cannot run code."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("model", state)


_worker = 0  # the number of this process among those of an extraction


def use_device_of_worker(number: int) -> None:
    """Called first in a worker process: "cuda" is another device then for each of as many workers as there are devices."""
    global _worker
    _worker = number


def torch_device(name: str) -> str:
    """ "auto" → "cuda" where there is one, else "cpu"; of several devices "cuda" is this worker's; other names as they are."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    devices = torch.cuda.device_count() if name == "cuda" else 0
    return f"cuda:{_worker % devices}" if devices > 1 else name


def in_batches(run: Callable[[slice, int], list], count: int, size: int) -> list:
    """All of `run(rows, size)` for rows of at most `size`; where a GPU's memory runs out, from there on with half of it."""
    import torch

    results: list = []
    while len(results) < count:
        try:
            results += run(slice(len(results), min(len(results) + size, count)), size)
            continue
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size //= 2  # outside of the handler, whose traceback holds on to the memory
        torch.cuda.empty_cache()
    return results
