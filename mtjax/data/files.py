"""Files that are never seen half written."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Temporary file in the same folder, fsync, rename: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
