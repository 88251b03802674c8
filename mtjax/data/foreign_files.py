"""Files that other programs wrote: whatever their libraries raise becomes one line that names the file and the next step."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtjax.command.errors import InputError, MtjaxError

# Libraries that read files raise their own classes, Python's, and bare Exceptions; only these mean something else.
NOT_OF_THE_FILE = (MtjaxError, ImportError, MemoryError)
TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")
MAX_JSON_BYTES = 64 << 20


class Unreadable(InputError):
    """What is wrong with the content of a file, inside of `reading`, which adds the name of the file and the next step."""


@contextlib.contextmanager
def reading(path: Path, what: str, error: type[InputError] = InputError) -> Iterator[None]:
    """Around calls of a library that read the file at `path`.

    Args:
      what: the file should be, e.g. "safetensors".
      error: class of what is raised.

    Raises:
      InputError (or `error`): anything went wrong in the block; says what the file is, if that can be seen, and what to do.
    """
    try:
        yield
    except Exception as e:
        if isinstance(e, NOT_OF_THE_FILE) and not isinstance(e, Unreadable):
            raise
        raise error(f"{path}: {_problem(path, what, e)}") from None


def read_json(path: Path, error: type[InputError] = InputError) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError (or `error`): it is not one, or larger than MAX_JSON_BYTES."""
    with reading(path, "a JSON object", error):
        if path.stat().st_size > MAX_JSON_BYTES:
            raise Unreadable(f"more than {MAX_JSON_BYTES >> 20} MiB")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise Unreadable(f"found a {type(found).__name__}")
        return found


def _problem(path: Path, what: str, e: Exception) -> str:
    if isinstance(e, OSError) and e.strerror:  # of the file system, not of what is in the file
        return f"cannot be read: {e.strerror}"
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as unreadable:
        return f"cannot be read: {unreadable.strerror}"
    if not start:
        return "is empty; get it anew"
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file that it stands for; run `git lfs pull` in its folder, or download it anew"
    if re.match(rb"\s*(<!doctype html|<html)", start, re.IGNORECASE):
        return "is a web page, not the file; its download may need a login or another address"
    lines = [" ".join(line.split()) for line in TERMINAL_CODES.sub("", str(e)).splitlines() if line.strip()]
    kind = [] if isinstance(e, Unreadable) else [type(e).__name__]
    reason = ": ".join([*kind, *lines[:1]])[:200]
    return f"cannot be read as {what} ({reason}); it is cut off, damaged or of another kind; get it anew"
