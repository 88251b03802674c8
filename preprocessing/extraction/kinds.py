"""The kinds of columns: each is a module, found in `preprocessing/extractors/` or given by its import path."""

import argparse
import importlib
import os
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from mtjax.command.errors import InputError
from preprocessing import extractors
from preprocessing.extraction import shards

REQUIRED = ("HELP", "AFTER", "add_flags", "from_flags", "flags_of")


class Kind(Protocol):
    """What a module has to define to be a kind of column, and so a command of `mtjax extract`.

    Attributes:
      HELP: a few words for `--help`.
      AFTER: printed after an extraction, with {root} and {column} filled in; "" for nothing.
    """

    HELP: str
    AFTER: str

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Adds the flags of this kind alone; one of them is `--name`, of the column."""

    def from_flags(self, args: argparse.Namespace) -> shards.Extractor:
        """The extractor. `args` also hold `root` (a Path, None for a video outside of any dataset), `images` (the column whose
        images take the place of videos, or "") and `allow_partial`.

        Raises:
          ValueError, backends.MissingBackend: it cannot be made; says why.
        """

    def flags_of(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The flags that a column was made with, from the `parameters` in its column.json; without what only the dataset has."""


def is_kind(module: Any) -> bool:
    return all(hasattr(module, name) for name in REQUIRED)


def found() -> dict[str, Kind]:
    """Name → module, of all in `preprocessing/extractors/`."""
    names = sorted(module.name for module in pkgutil.iter_modules(extractors.__path__))
    modules = {name: importlib.import_module(f"{extractors.__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if is_kind(module)}


def named(name: str) -> Kind:
    """One of `found`, or any module that is a kind by its import path (`my_lab.depth`).

    Raises:
      ValueError: there is no such module, or it is none.
    """
    kinds = found()
    if name in kinds:
        return kinds[name]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name and not (name == e.name or name.startswith(f"{e.name}.")):
            raise  # the module exists, one of its own imports does not
        raise InputError(
            f"no kind of column {name!r}: there are {', '.join(kinds)}, and no module of that name"
        ) from None
    if not is_kind(module):
        raise InputError(f"module {name!r} is no kind of column: it needs {', '.join(REQUIRED)}")
    return module


def extract_video(
    kind: str, path: str | os.PathLike, parameters: Mapping[str, Any], flags: Mapping[str, Any]
) -> tuple[dict[str, Any], np.ndarray]:
    """What `mtjax extract KIND` would write for one video outside of any dataset.

    Args:
      kind: see `named`. parameters: of a column's column.json, to extract as that column was; {} for none.
      flags: values by name; they go before what `parameters` say, the kind's defaults after.

    Returns:
      The record as `Column.read` would give it, and uint8 [t h w 3]: the frame shown at each of its `times_s` (all that were
      decoded for a record without times).

    Raises:
      ValueError: no such kind or flag. MissingBackend: a package or a checkpoint is missing.
      VideoError: the video cannot be decoded, or nothing extracted from it.
    """
    module, parser = named(kind), argparse.ArgumentParser()
    module.add_flags(parser)
    values = vars(parser.parse_args([]))
    if unknown := sorted(set(flags) - set(values)):
        raise InputError(f"`preprocessing.extract {kind}` has no --{unknown[0]}; its flags are {sorted(values)}")
    of_column = module.flags_of(parameters) if parameters else {}
    dataset = {"root": None, "images": "", "allow_partial": False}
    record, clip = shards.extract_one(
        path, module.from_flags(argparse.Namespace(**dataset | values | of_column | flags))
    )
    if "times_s" not in record:
        return record, clip.frames
    return record, clip.frames[np.searchsorted(clip.times_s, record["times_s"])]
