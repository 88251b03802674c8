"""The catalog of a dataset: which clips there are, what they are labelled, and which of them a run may use."""

import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtjax.data.clip import CatalogError, Clip, clip_of, clip_problems, is_sound, objects
from mtjax.data.display import short
from mtjax.data.files import SEAL, is_changed, sealed, write_atomically

CATALOG_VERSION = 1
UNLABELLED = -1
SHOWN = 10  # problems printed of one catalog; the rest is counted


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which would look through a million new objects again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _dataset_problems(info: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the types of `dataset.json`."""
    for name in ("name", "version", "fingerprint", "videos"):
        if not isinstance(info.get(name, ""), str):
            yield f"{name} is {short(info[name])}, not a string"
    for name in ("class_names", "target_names", "joint_names"):
        names = info.get(name, [])
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            yield f"{name} is {short(names)}, not a list of strings"


@dataclasses.dataclass(frozen=True)
class Catalog:
    """A dataset root's `dataset.json` and `clips.jsonl`.

    Attributes:
      root: the dataset folder.
      name, version: of the dataset.
      class_names: label index → name.
      clips: in file order; a clip's *row* is its position here.
      info: everything else of `dataset.json` (videos root, target names, joint names, licence, source).
    """

    root: Path
    name: str
    version: str
    class_names: tuple[str, ...]
    clips: tuple[Clip, ...]
    info: dict = dataclasses.field(default_factory=dict)

    @property
    def ids(self) -> np.ndarray:
        return np.array([c.id for c in self.clips], dtype=np.str_)

    @property
    def splits(self) -> dict[str, int]:
        return dict(sorted(Counter(s for c in self.clips for s in c.splits).items()))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any clip, label, target, split, group or class name; not with where folder and videos lie, nor
        with what is measured of a video later (fps, size)."""
        digest = hashlib.sha256(json.dumps([self.name, self.version, list(self.class_names)]).encode())
        for c in self.clips:
            digest.update(json.dumps([c.id, c.splits, c.label, c.targets, c.group, c.start_s, c.end_s]).encode())
        return digest.hexdigest()[:16]

    def labels(self) -> np.ndarray:
        """int32 [clips]: class index, or -1 for an unlabelled clip."""
        index = {name: i for i, name in enumerate(self.class_names)}
        return np.array([index[c.label] if c.label else UNLABELLED for c in self.clips], np.int32)

    def rows_of(self, ids: Iterable[str]) -> np.ndarray:
        index = {c.id: i for i, c in enumerate(self.clips)}
        return np.array([index[i] for i in ids], np.int64)

    def validate(self) -> None:
        """Raises CatalogError naming up to ten offending clips."""
        self._raise(self._problems(range(1, len(self.clips) + 1)))

    def _raise(self, problems: list[str]) -> None:
        if problems:
            more = f"\n(+{len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
            raise CatalogError(f"{self.root}: {len(problems)} problem(s)\n" + "\n".join(problems[:SHOWN]) + more)

    def _problems(self, numbers: Iterable[int]) -> list[str]:
        """`numbers` are the clips' lines."""
        problems = []
        seen: set[str] = set()
        names = set(self.class_names)
        for number, clip in zip(numbers, self.clips, strict=True):
            found = [] if is_sound(clip) else list(clip_problems(clip))
            if isinstance(clip.id, str):
                if not clip.id or clip.id in seen:
                    found.insert(0, f"{'empty' if not clip.id else 'duplicate'} id")
                seen.add(clip.id)
            if isinstance(clip.label, str) and clip.label and clip.label not in names:
                found.append(f"label {clip.label!r} is not one of dataset.json's class_names")
            if found:
                problems += [f"clips.jsonl:{number}: clip {short(clip.id)}: {reason}" for reason in found]
        if len(names) != len(self.class_names):
            problems.append("dataset.json: class_names holds a name twice")
        if not self.clips:
            problems.append("clips.jsonl: no clips")
        return problems

    def save(self) -> None:
        """Validates and writes both files, each atomically, `dataset.json` last."""
        self.validate()
        self.root.mkdir(parents=True, exist_ok=True)
        lines = "".join(c.to_json() + "\n" for c in self.clips)
        write_atomically(self.root / "clips.jsonl", lines)
        dataset = {
            "catalog_version": CATALOG_VERSION,
            "name": self.name,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "num_clips": len(self.clips),
            "clips_sha256": hashlib.sha256(lines.encode()).hexdigest(),
            "splits": self.splits,
            "class_names": list(self.class_names),
            **self.info,
        }
        write_atomically(self.root / "dataset.json", sealed(dataset))

    @classmethod
    def load(cls, root: str | os.PathLike, *, may_be_changed: bool = False) -> "Catalog":
        """Reads and validates a dataset folder.

        Args:
          may_be_changed: take it as it is, though it was edited after it was written.

        Raises:
          CatalogError: no dataset there, files that were changed since they were written, or that hold what they must not.
        """
        root = Path(root)
        if not (root / "dataset.json").is_file():
            raise CatalogError(
                f"{root}: no dataset.json. Make one with `mtjax catalog KIND SRC {root}`, "
                "or set --config.data.root to the folder that holds it"
            )
        try:
            info = dict(json.loads((root / "dataset.json").read_text(encoding="utf-8")))
            content = (root / "clips.jsonl").read_bytes()
            lines = content.decode("utf-8").split("\n")  # splitlines() also cuts at U+2028
        except (OSError, ValueError, TypeError, RecursionError) as e:
            raise CatalogError(f"{root}: dataset.json or clips.jsonl cannot be read: {e!s:.300}") from None
        told = info.get("clips_sha256")
        if not may_be_changed:
            other = told is not None and told != hashlib.sha256(content).hexdigest()
            if other or is_changed(info):
                raise CatalogError(
                    f"{root}/{'clips.jsonl' if other else 'dataset.json'}: changed since it was written; restore it, make the "
                    f"catalog again, or accept it as it is: mtjax data accept {root}"
                )
        with _uncollected():
            catalog = cls._from_files(root, info, lines)
        if told is not None and SEAL in info and not may_be_changed:
            vars(catalog)["fingerprint"] = info["fingerprint"]  # sealed; computing it takes as long as all else
        if not may_be_changed and catalog.fingerprint != info["fingerprint"]:  # of an earlier release, without seals
            raise CatalogError(
                f"{root}: clips.jsonl ({len(catalog.clips)} clips, {catalog.fingerprint}) is not the one dataset.json "
                f"describes ({info['num_clips']} clips, {info['fingerprint']}); make the catalog again"
            )
        return catalog

    @classmethod
    def _from_files(cls, root: Path, info: dict[str, Any], lines: list[str]) -> "Catalog":
        """All that is wrong is raised together."""
        if info.get("catalog_version") != CATALOG_VERSION:
            found = short(info.get("catalog_version"))
            raise CatalogError(f"{root}/dataset.json: catalog_version {found}, this is {CATALOG_VERSION}")
        known = ("catalog_version", "name", "version", "fingerprint", "num_clips", "splits", "class_names")
        if missing := [k for k in known if k not in info]:
            raise CatalogError(f"{root}/dataset.json: {missing} missing; make the catalog again")
        problems, clips, shared = [f"dataset.json: {reason}" for reason in _dataset_problems(info)], [], {}
        numbers, kept = [number for number, line in enumerate(lines, 1) if line.strip()], []
        for number, fields in zip(numbers, objects([line for line in lines if line.strip()]), strict=True):
            try:
                clips.append(clip_of(fields, shared))
                kept.append(number)
            except CatalogError as e:
                problems.append(f"clips.jsonl:{number}: {e}")
        extra = {k: v for k, v in info.items() if k not in (*known, "clips_sha256", SEAL)}
        class_names = info["class_names"] if isinstance(info["class_names"], list) else []
        names = tuple(n for n in class_names if isinstance(n, str))
        catalog = cls(root, str(info["name"]), str(info["version"]), names, tuple(clips), extra)
        catalog._raise(problems + catalog._problems(kept))
        return catalog
