"""Whether what is there was made from what is there now. Files only: no device is touched."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtjax import records
from mtjax.convert import WEIGHTS
from mtjax.data import columns
from mtjax.data.origin import digest_of
from mtjax.lookup import ConfigError

DONE, STALE, TO_DO, CHECK = "done", "stale", "to do", "to check"


@dataclasses.dataclass(frozen=True)
class State:
    """Of a step.

    Attributes:
      name: `DONE`; `STALE`: what it makes is there, made from something else; `TO_DO`; `CHECK`: what it makes is there, and the
        command itself knows whether anything is left to do.
      reason: what is stale, or what is there already.
    """

    name: str
    reason: str = ""


def results_of(workdir: Path) -> dict[str, Any]:
    """results.json, {} of a run that has not finished."""
    try:
        return json.loads((workdir / "results.json").read_text())
    except FileNotFoundError:
        return {}


def weights_of(source: Path) -> str:
    """A hash of the weights in a workdir or a folder of `mtjax.convert`; "" where nothing tells."""
    if (source / WEIGHTS).is_file():
        return digest_of(source / WEIGHTS)
    return results_of(source).get("origin", {}).get("weights", "")


def begun_of(workdir: Path) -> dict[str, Any]:
    """What a run was made from, finished or not: a dictionary with `origin` and `fingerprint`, {} where there is none."""
    path = workdir / "origin.json"
    return results_of(workdir) or (json.loads(path.read_text()) if path.is_file() else {})


def spec_of(root: Path, name: str, producer: str) -> columns.Spec | None:
    """Of a column, finished or not; None where there is none.

    Raises:
      ConfigError: something else has made it.
    """
    directory = columns.column_dir(root, name)
    if not (directory / "column.json").is_file():
        return None
    spec = columns.Spec.load(directory)
    if spec.producer != producer:
        raise ConfigError(f"{directory} is a column of {spec.producer}, not of {producer}; give another name")
    return spec


def is_finished(root: Path, name: str) -> bool:
    return (columns.column_dir(root, name) / columns.INDEX).is_file()


def first_difference(asked: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """Says the first of some settings that is not what it was; settings of 0 are not noted."""
    other = [f"{k} was {told.get(k)}, now {v}" for k, v in asked.items() if told.get(k, 0) != v]
    return other[0] if other else ""


def changed_columns(root: Path, known: Mapping[str, str]) -> str:
    """Says which columns are not what they were. `known`: column → fingerprint; one that is gone has not changed."""
    for name, fingerprint in known.items():
        directory = columns.column_dir(root, name)
        if is_finished(root, name):
            now = _fingerprint(directory, (directory / columns.INDEX).stat().st_mtime_ns)
            if now != fingerprint:
                return f"column {name} of {root} has changed since" if now else f"column {name} of {root} is damaged"
    return ""


def changed_weights(known: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Says which weights are not what they were. `known`: input → hash; now: input → where they lie."""
    for field, source in now.items():
        if field in known and (weights := weights_of(Path(source))) and weights != known[field]:
            return f"{source} ({field}) has other weights now"
    return ""


@functools.cache
def _fingerprint(directory: Path, _: int) -> str:
    """Kept for as long as the index is the same. "" of a column that cannot be read."""
    try:
        return columns.Column(directory.parents[1], directory.name).fingerprint
    except (columns.ColumnError, records.RecordError):
        return ""
