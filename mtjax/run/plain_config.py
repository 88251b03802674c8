"""Configs as plain values: from the command line, to and from JSON, compared."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

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
    return plain(json.loads(text))


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


def config_hash(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]


def parse_flags(argv: list[str]) -> dict[str, Any]:
    """The plain config of a command line. A key that the file leaves out may be set as well; `Experiment` knows whether the
    constructor takes it.

    Raises:
      ConfigError: a wrong file, flag or type.
    """
    holder = config_flags.DEFINE_config_file(
        "config", None, "Experiment: FILE or FILE:ARGUMENT.", lock_config=False, accept_new_attributes=True
    )
    flags.mark_flags_as_required(["config", "workdir"])
    try:
        rest = flags.FLAGS(argv)
        list(holder.value)  # a file that could not be loaded raises only when it is touched
        config = plain(holder.value)
    except Exception as e:  # ml_collections lets the config file's own exceptions and its KeyErrors through
        raise ConfigError(_innermost(e)) from None
    if len(rest) > 1:
        raise ConfigError(f"unexpected arguments {rest[1:]}; settings are written --config.a.b=value")
    return config


def _innermost(e: BaseException) -> str:
    while isinstance(e, OSError) and e.__context__ is not None:
        e = e.__context__  # "not available because of an earlier failure": show that failure
    text = str(e.args[0] if isinstance(e, KeyError) and e.args else e).strip()
    return f"{type(e).__name__}: {' '.join(text.split())}"
