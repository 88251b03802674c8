"""config.json of a workdir: sealed when it is written; where it is damaged, the config that a checkpoint has kept."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from mtjax.data.files import SEAL, is_changed, sealed, write_atomically
from mtjax.lookup import ConfigError, from_workdir
from mtjax.run.checkpoint import Checkpoints
from mtjax.run.plain_config import from_json, plain

CONFIG = "config.json"
SECTIONS = ("data", "model", "task", "optimizer", "evals", "train", "mesh")


def write_config(workdir: Path, config: Mapping[str, Any]) -> None:
    """Writes config.json with its seal. Who edits it by hand takes the entry "seal" out."""
    write_atomically(workdir / CONFIG, sealed(config))


def read_config(workdir: str | Path, checkpoints: Checkpoints | None = None) -> dict[str, Any]:
    """The config of a run. Its strings name our own classes alone, see `lookup.allow_code`.

    Args:
      checkpoints: of the run, if they are open; else those in the workdir are looked at where config.json is damaged.

    Raises:
      ConfigError: no run, or config.json is damaged and no checkpoint knows the config.
    """
    path, problem = Path(workdir) / CONFIG, ""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        problem = _problem(found)
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, ValueError, RecursionError) as e:
        problem = f"cannot be read ({str(e).splitlines()[0][:200]})"
    if not problem:
        return from_workdir(from_json(json.dumps(found)))
    if config := _kept(Path(workdir), checkpoints):
        logging.warning("%s %s; the config is taken from the newest checkpoint", path, problem)
        return from_workdir(plain(config))
    if problem == "is missing":
        raise ConfigError(f"{workdir}: no {CONFIG}; is this the --workdir of a training run?")
    raise ConfigError(f"{path} {problem}; put a good copy back (if you have edited it, take its entry {SEAL!r} out)")


def _problem(config: Any) -> str:
    if not isinstance(config, dict):
        return f"is not a config but a {type(config).__name__}"
    wrong = [name for name in SECTIONS if name in config and not isinstance(config[name], dict)]
    if wrong := wrong or [name for name in ("data",) if name not in config]:
        return f"is not a config: {wrong[0]!r} is not a section of it"
    if is_changed(config):
        return "was changed since it was written"
    return ""


def _kept(workdir: Path, checkpoints: Checkpoints | None) -> dict[str, Any] | None:
    """The config in the newest checkpoint that knows one."""
    if checkpoints is not None:
        return checkpoints.config()
    directory = workdir / "checkpoints"
    if not directory.is_dir():
        return None
    opened = Checkpoints(str(directory), read_only=True)
    try:
        return opened.config()
    finally:
        opened.close()
