"""The catalog of a dataset: which clips there are, what they are labelled, and which of them a run may use."""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

CATALOG_VERSION = 1
UNLABELLED = -1


class CatalogError(ValueError):
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
                f"{root}: no dataset.json. Make one with `python -m preprocessing.catalog KIND SRC {root}`, "
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


def write_atomically(path: Path, text: str) -> None:
    """Temporary file in the same folder, fsync, rename: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _seeded_order(ids: Sequence[str], seed: int) -> np.ndarray:
    """A permutation that depends on each id and the seed alone, so adding clips does not reshuffle the others."""
    keys = [hashlib.sha256(f"{seed}/{i}".encode()).digest() for i in ids]
    return np.array(sorted(range(len(ids)), key=keys.__getitem__), np.int64)


def select(
    catalog: Catalog,
    split: str,
    *,
    classes: Sequence[str] = (),
    fraction: float = 1.0,
    k_shot: int = 0,
    seed: int = 0,
) -> np.ndarray:
    """Rows of the clips of one split, in catalog order, reduced as `reduce` says.

    Args:
      classes: keep only these class names; () keeps all.

    Returns:
      int64 [n], sorted.

    Raises:
      CatalogError: unknown split or class, empty result, or what `reduce` raises.
    """
    rows = np.array([i for i, c in enumerate(catalog.clips) if split in c.splits], np.int64)
    if not len(rows):
        raise CatalogError(f"{catalog.root}: no clips in split {split!r}; splits are {catalog.splits}")
    if unknown := sorted(set(classes) - set(catalog.class_names)):
        raise CatalogError(f"{catalog.root}: classes {unknown} are not in class_names")
    if classes:
        rows = np.array([i for i in rows if catalog.clips[i].label in set(classes)], np.int64)
    rows = reduce(catalog, rows, fraction=fraction, k_shot=k_shot, seed=seed)
    if not len(rows):
        raise CatalogError(f"{catalog.root}: split {split!r} is empty after the class filter {tuple(classes)}")
    return rows


def reduce(catalog: Catalog, rows: np.ndarray, *, fraction: float = 1.0, k_shot: int = 0, seed: int = 0) -> np.ndarray:
    """Some of the clips of each class; int64, sorted.

    Args:
      fraction: keep this share of each class (at least one clip); subsets of one seed are nested.
      k_shot: keep this many clips of each class; 0 disables. Classes with fewer clips are an error.
      seed: of the choice.

    Raises:
      CatalogError: a class with fewer than `k_shot` clips, or numbers that make no sense.
    """
    if not 0.0 < fraction <= 1.0 or k_shot < 0:
        raise CatalogError(f"fraction must be in (0, 1] and k_shot >= 0, got {fraction} and {k_shot}")
    if not len(rows) or (fraction == 1.0 and not k_shot):
        return rows
    rows = rows[_seeded_order([catalog.clips[i].id for i in rows], seed)]
    labels = catalog.labels()[rows]
    kept = []
    for label in np.unique(labels):
        members = rows[labels == label]
        if k_shot > len(members):
            name = catalog.class_names[label] if label >= 0 else "(unlabelled)"
            raise CatalogError(f"{catalog.root}: class {name!r} has {len(members)} clips, k_shot asks for {k_shot}")
        kept.append(members[: k_shot or max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(kept))


def listed(catalog: Catalog, path: str | os.PathLike) -> np.ndarray:
    """Rows of the clips that a file lists, int64, sorted: the first word of each line is a clip's id or its path, with or
    without folders and ending (published few-shot lists name files).

    Raises:
      CatalogError: no such file, no clip in it, or lines that name no clip or several; with their numbers.
    """
    try:
        words = [
            line.split()[0] if line.strip() else "" for line in Path(path).read_text(encoding="utf-8").splitlines()
        ]
    except (OSError, UnicodeDecodeError) as e:
        raise CatalogError(f"{path}: cannot be read: {e}") from None
    known: dict[str, set[int]] = {}
    for row, clip in enumerate(catalog.clips):
        of_path = Path(clip.path) if clip.path else Path(clip.id)
        for name in {clip.id, str(of_path), str(of_path.with_suffix("")), of_path.name, of_path.stem}:
            known.setdefault(name, set()).add(row)
    found, wrong = set(), []
    for number, word in enumerate(words, 1):
        rows = known.get(word, known.get(str(Path(word).with_suffix("")), set())) if word else set()
        if word and len(rows) != 1:
            wrong.append(f"line {number}: {word!r} names {len(rows)} clips")
        found |= rows
    if wrong or not found:
        raise CatalogError(f"{path}: {'; '.join(wrong[:5]) or 'lists no clip'} of {catalog.root}")
    return np.array(sorted(found), np.int64)


def hold_out(catalog: Catalog, rows: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into (kept, held out), stratified by class, with no group on both sides.

    Whole groups move, in an order that depends on the seed alone, while their class still needs held-out clips.

    Raises:
      CatalogError: nothing could be held out (each class is one group, say), or nothing would be kept.
    """
    if not 0.0 < fraction < 1.0:
        raise CatalogError(f"the held-out fraction must lie between 0 and 1, got {fraction}")
    labels = dict(zip(rows.tolist(), catalog.labels()[rows].tolist(), strict=True))
    members: dict[str, list[int]] = {}
    for row in rows.tolist():
        members.setdefault(catalog.clips[row].group or f"\0{catalog.clips[row].id}", []).append(row)
    missing = {label: fraction * n for label, n in Counter(labels.values()).items()}
    left = Counter(labels.values())
    groups, held = list(members), []
    for g in _seeded_order(groups, seed):
        counts = Counter(labels[r] for r in members[groups[g]])
        fits = all(missing[c] >= 0.5 * n and left[c] > n for c, n in counts.items())
        if fits:
            held += members[groups[g]]
            left.subtract(counts)
            for c, n in counts.items():
                missing[c] -= n
    held_rows = np.sort(np.array(held, np.int64))
    kept_rows = np.setdiff1d(rows, held_rows)
    if not len(held_rows) or not len(kept_rows):
        raise CatalogError(
            f"cannot hold out {fraction:.0%} of {len(rows)} clips in {len(groups)} groups without splitting a group or emptying "
            "a class; name a validation split, or set --config.data.holdout=0"
        )
    return kept_rows, held_rows


def overlap(catalog: Catalog, train: np.ndarray, other: np.ndarray) -> list[str]:
    """Ids in `other` that also are in `train`, or share a group with a clip of it."""
    ids = {catalog.clips[i].id for i in train}
    groups = {catalog.clips[i].group for i in train} - {""}
    return [c.id for c in (catalog.clips[i] for i in other) if c.id in ids or c.group in groups]
