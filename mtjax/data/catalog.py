"""The catalog of a dataset: which clips there are, what they are labelled, and which of them a run may use."""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mtjax.command.errors import InputError
from mtjax.data.files import write_atomically

CATALOG_VERSION = 1
UNLABELLED = -1


class CatalogError(InputError):
    """A dataset folder, an annotation or a subset that cannot be used; says where and what to do."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """One line of `clips.jsonl`.

    Attributes:
      id: unique within the dataset; never derived from a base name alone, which collides across folders.
      splits: the splits the clip is in, e.g. `("train1", "test2")`.
      label: class *name*; "" when unlabelled. The index comes from `dataset.json`, never from a sort at run time.
      targets: regression targets, in the order of `dataset.json`'s `target_names`.
      group: clips of one group (subject, source video, actor) never sit on both sides of a held-out split.
      path: source video relative to `dataset.json`'s `videos`, "" when the columns came from elsewhere.
      start_s, end_s: the part of the video in seconds; `end_s` 0.0 means "to the end".
      fps, width, height, frames: of the source, 0 when unknown.
    """

    id: str
    splits: tuple[str, ...]
    label: str = ""
    targets: tuple[float, ...] = ()
    group: str = ""
    path: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    frames: int = 0

    def to_json(self) -> str:
        default = Clip("", ())
        kept = {k: v for k, v in dataclasses.asdict(self).items() if k in ("id", "splits") or v != getattr(default, k)}
        return json.dumps(kept, ensure_ascii=False)


_CLIP_FIELDS = {f.name: f for f in dataclasses.fields(Clip)}


def _clip_from_json(line: str, where: str) -> Clip:
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as e:
        raise CatalogError(f"{where}: not a JSON object ({e})") from None
    if not isinstance(fields, dict) or not {"id", "splits"} <= set(fields) or set(fields) - set(_CLIP_FIELDS):
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise CatalogError(f"{where}: needs id and splits, and nothing beyond {sorted(_CLIP_FIELDS)}; found {found}")
    try:
        if not isinstance(fields["splits"], list):
            raise TypeError(f"splits is {fields['splits']!r}, not a list")
        fields["splits"] = tuple(fields["splits"])
        fields["targets"] = tuple(map(float, fields.get("targets", ())))
        for name in ("start_s", "end_s", "fps"):
            fields[name] = float(fields.get(name, 0.0))
    except (TypeError, ValueError) as e:
        raise CatalogError(f"{where}: {e}") from None
    return Clip(**fields)


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

    @property
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
        problems = []
        seen: set[str] = set()
        names = set(self.class_names)
        for number, clip in enumerate(self.clips, 1):
            where = f"clips.jsonl:{number}: clip {clip.id!r}"
            if not clip.id or clip.id in seen:
                problems.append(f"{where}: {'empty' if not clip.id else 'duplicate'} id")
            seen.add(clip.id)
            if clip.label and clip.label not in names:
                problems.append(f"{where}: label {clip.label!r} is not one of dataset.json's class_names")
            if not clip.splits:
                problems.append(f"{where}: is in no split")
            if set("\0\\") & set(clip.path) or os.path.isabs(clip.path) or ".." in Path(clip.path).parts:
                problems.append(f"{where}: path {clip.path!r} leaves the videos folder")
            if not np.isfinite(clip.targets).all():
                problems.append(f"{where}: targets {clip.targets} are not finite")
        if len(names) != len(self.class_names):
            problems.append("dataset.json: class_names holds a name twice")
        if not self.clips:
            problems.append("clips.jsonl: no clips")
        if problems:
            more = f"\n(+{len(problems) - 10} more)" if len(problems) > 10 else ""
            raise CatalogError(f"{self.root}: {len(problems)} problem(s)\n" + "\n".join(problems[:10]) + more)

    def save(self) -> None:
        """Validates and writes both files, each atomically, `dataset.json` last."""
        self.validate()
        self.root.mkdir(parents=True, exist_ok=True)
        write_atomically(self.root / "clips.jsonl", "".join(c.to_json() + "\n" for c in self.clips))
        dataset = {
            "catalog_version": CATALOG_VERSION,
            "name": self.name,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "num_clips": len(self.clips),
            "splits": self.splits,
            "class_names": list(self.class_names),
            **self.info,
        }
        write_atomically(self.root / "dataset.json", json.dumps(dataset, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, root: str | os.PathLike) -> "Catalog":
        """Reads and validates a dataset folder.

        Raises:
          CatalogError: no dataset there, an unreadable line, or content that differs from `dataset.json`.
        """
        root = Path(root)
        if not (root / "dataset.json").is_file():
            raise CatalogError(
                f"{root}: no dataset.json. Make one with `mtjax catalog KIND SRC {root}`, "
                "or set --config.data.root to the folder that holds it"
            )
        try:
            info = dict(json.loads((root / "dataset.json").read_text(encoding="utf-8")))
            lines = (root / "clips.jsonl").read_text(encoding="utf-8").split("\n")  # splitlines() also cuts at U+2028
        except (OSError, ValueError, TypeError, RecursionError) as e:
            raise CatalogError(f"{root}: dataset.json or clips.jsonl cannot be read: {e}") from None
        if info.get("catalog_version") != CATALOG_VERSION:
            raise CatalogError(
                f"{root}/dataset.json: catalog_version {info.get('catalog_version')}, this is {CATALOG_VERSION}"
            )
        known = ("catalog_version", "name", "version", "fingerprint", "num_clips", "splits", "class_names")
        if missing := [k for k in known if k not in info]:
            raise CatalogError(f"{root}/dataset.json: {missing} missing; make the catalog again")
        clips = tuple(_clip_from_json(x, f"{root}/clips.jsonl:{n}") for n, x in enumerate(lines, 1) if x.strip())
        extra = {k: v for k, v in info.items() if k not in known}
        catalog = cls(root, info["name"], info["version"], tuple(info["class_names"]), clips, extra)
        catalog.validate()
        if catalog.fingerprint != info["fingerprint"]:
            raise CatalogError(
                f"{root}: clips.jsonl ({len(clips)} clips, {catalog.fingerprint}) is not the one dataset.json describes "
                f"({info['num_clips']} clips, {info['fingerprint']}); make the catalog again"
            )
        return catalog
