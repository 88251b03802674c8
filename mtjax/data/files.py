"""Files that are never seen half written, and JSON that tells when it was changed."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SEAL = "seal"


@contextlib.contextmanager
def named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Names `path` in errors of the file system that name no file (a full disk), or the one that was to take its place."""
    try:
        yield
    except OSError as e:
        if e.errno is None or e.filename not in (None, str(temporary)):
            raise
        raise OSError(e.errno, e.strerror, str(path)) from e


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` when the block ends, and vanishes when it fails.

    Temporary file in the same folder, fsync, rename: a reader sees the old file or the new one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with named(path, temporary), open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with named(path, temporary):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # a folder that cannot be written to has said so above
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes text (UTF-8) or bytes, see `replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def save_arrays(path: Path, *, compressed: bool = False, **arrays: Any) -> None:
    """Writes an npz file, see `replacing`."""
    with replacing(path) as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


def seal_of(fields: Mapping[str, Any]) -> str:
    """A digest of the values of a JSON object, in whatever order and spacing they are written."""
    content = json.loads(json.dumps({k: v for k, v in fields.items() if k != SEAL}))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def sealed(fields: Mapping[str, Any]) -> str:
    """The text of a JSON object with its seal."""
    return json.dumps({**fields, SEAL: seal_of(fields)}, indent=1, ensure_ascii=False) + "\n"


def is_changed(fields: Mapping[str, Any]) -> bool:
    """Whether an object read from a file is not what was sealed. One without a seal, of an earlier release, is not."""
    return SEAL in fields and fields[SEAL] != seal_of(fields)
