"""Files that are never seen half written, and JSON that tells when it was changed."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "seal"


def write_atomically(path: Path, text: str) -> None:
    """Temporary file in the same folder, fsync, rename: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
