"""What a column was made from: hashes of settings, which runs of several seeds and official splits share.

An origin is a dictionary, `{}` where nothing is known:

- `config`: hash of its maker's settings, seed and paths apart, with the hash of every input in place of the input's name;
- `recipe`: the same without how many labels were used and how long training was: what a curve over labels shares;
- `seed`, and `workdir` as it was given ("" where no run made it).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = 16  # characters of a hash of weights
HASHES = ("config", "recipe")
COLUMNS = ("column", "pseudo", "teacher")  # in a config's data section: names of columns
NUMBERED = re.compile(r"^(train|test)(\d+)")  # official splits, which a dataset has several of


def config_hash(config: Mapping[str, Any]) -> str:
    """12 hexadecimal digits, the same for equal settings in any order."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]


def derived(parent: Mapping[str, Any], settings: Mapping[str, Any], *, seed: int, workdir: str = "") -> dict[str, Any]:
    """The origin of what is made with `settings` from something whose origin is `parent`; `{}` where that is not known."""
    if not parent:
        return {}
    hashes = {name: config_hash({"parent": parent[name], **settings}) for name in HASHES}
    return hashes | {"seed": seed, "workdir": workdir}


def columns_named(section: Mapping[str, Any]) -> list[str]:
    """Names of columns in a config's data section and in the sections inside it."""
    own = [section[key] for key in COLUMNS if isinstance(section.get(key), str) and section[key]]
    return own + [name for inner in section.values() if isinstance(inner, Mapping) for name in columns_named(inner)]


def digest_of(path: Path) -> str:
    """Of a file's content, as long as a checkpoint's seal is kept."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:SEAL]


def unnumbered(split: str) -> str:
    """ "train1" → "train", "test2" → "test"."""
    return NUMBERED.sub(r"\1", split)
