"""Configs as plain values: to and from JSON, compared."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mtjax.data.files import SEAL
from mtjax.lookup import ConfigError

# Changing these between runs of one workdir changes neither the data order nor the arithmetic of a step.
FREE_ON_RESUME = (
    "data.root", "data.generate", "data.cache", "data.workers", "mesh", "train.log_every", "train.save_every",
    "train.keep", "train.profile", "train.table", "train.wandb", "train.max_skipped", "model.remat",
)  # fmt: skip


def plain(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config as nested dictionaries; lists become tuples, as the constructors want them."""

    def convert(value: Any) -> Any:
        if isinstance(value, ConfigDict | dict):
            return {k: convert(v) for k, v in value.items()}
        return tuple(convert(v) for v in value) if isinstance(value, list | tuple) else value

    resolved = config.copy_and_resolve_references() if isinstance(config, ConfigDict) else config
    return convert(resolved)


def from_json(text: str) -> dict[str, Any]:
    """The plain config in a workdir's config.json, whose seal is left out (see `saved_config`)."""
    config = json.loads(text)
    return plain({k: v for k, v in config.items() if k != SEAL} if isinstance(config, dict) else config)


def difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted path → (before, now) wherever two plain configs differ."""
    out: dict[str, tuple[Any, Any]] = {}
    for key in sorted(set(before) | set(now)):
        a, b = before.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out |= difference(a, b, f"{prefix}{key}.")
        elif a != b:
            out[f"{prefix}{key}"] = (a, b)
    return out


def refused_on_resume(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The differences that would change what an exact resume computes."""
    free = tuple(f"{name}." for name in FREE_ON_RESUME)
    return {k: v for k, v in difference(before, now).items() if k not in FREE_ON_RESUME and not k.startswith(free)}


def refuse_moved(workdir: Path, section: Mapping[str, Any]) -> None:
    """Raises ConfigError when the dataset of a run is not on this machine."""
    root = Path(section.get("root", ""))
    if "root" in section and not section.get("generate") and not (root / "dataset.json").is_file():
        raise ConfigError(f"{workdir}: its dataset {root} is not here ({root.resolve()}); --root=DIR says where it is")
