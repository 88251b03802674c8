"""Which clips of a catalog: splits, few labels, lists, held-out groups."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mtjax.data.catalog import Catalog, CatalogError


def _seeded_order(ids: Sequence[str], seed: int) -> np.ndarray:
    """A permutation that depends on each id and the seed alone, so adding clips does not reshuffle the others."""
    keys = [hashlib.sha256(f"{seed}/{i}".encode()).digest() for i in ids]
    return np.array(sorted(range(len(ids)), key=keys.__getitem__), np.int64)


def select(
    catalog: Catalog,
    split: str,
    *,
    classes: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    fraction: float = 1.0,
    k_shot: int = 0,
    seed: int = 0,
) -> np.ndarray:
    """Rows of the clips of one split, in catalog order, reduced as `reduce` says.

    Args:
      classes: keep only these class names; () keeps all. leave_out: drop these.

    Returns:
      int64 [n], sorted.

    Raises:
      CatalogError: unknown split or class, empty result, or what `reduce` raises.
    """
    rows = np.array([i for i, c in enumerate(catalog.clips) if split in c.splits], np.int64)
    if not len(rows):
        raise CatalogError(f"{catalog.root}: no clips in split {split!r}; splits are {catalog.splits}")
    if unknown := sorted({*classes, *leave_out} - set(catalog.class_names)):
        raise CatalogError(f"{catalog.root}: classes {unknown} are not in class_names")
    if classes:
        rows = np.array([i for i in rows if catalog.clips[i].label in set(classes)], np.int64)
    if leave_out:
        rows = np.array([i for i in rows if catalog.clips[i].label not in set(leave_out)], np.int64)
    rows = reduce(catalog, rows, fraction=fraction, k_shot=k_shot, seed=seed)
    if not len(rows):
        raise CatalogError(f"{catalog.root}: split {split!r} is empty after the class filter {tuple(classes)}")
    return rows


def class_list(path: str | os.PathLike) -> tuple[str, ...]:
    """Class names of a text file, one a line; what follows a # is a comment.

    Raises:
      CatalogError: it cannot be read, or names no class.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise CatalogError(f"{path}: cannot be read: {e}") from None
    names = tuple(name for line in lines if (name := line.partition("#")[0].strip()))
    if not names:
        raise CatalogError(f"{path}: names no class")
    return names


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
    """Rows of the clips that a file lists, int64, sorted. A line is a clip's id or its path, with or without folders and ending
    (published few-shot lists name files), and perhaps a blank and something else; names may hold blanks.

    Raises:
      CatalogError: no such file, no clip in it, or lines that name no clip or several; with their numbers.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise CatalogError(f"{path}: cannot be read: {e}") from None
    known: dict[str, set[int]] = {}
    for row, clip in enumerate(catalog.clips):
        of_path = Path(clip.path) if clip.path else Path(clip.id)
        for name in {clip.id, str(of_path), str(of_path.with_suffix("")), of_path.name, of_path.stem}:
            known.setdefault(name, set()).add(row)
    found, wrong = set(), []
    for number, line in enumerate(lines, 1):
        rows = _named(known, line.strip())
        if line.strip() and len(rows) != 1:
            wrong.append(f"line {number}: {line.strip()!r} names {len(rows)} clips")
        found |= rows
    if wrong or not found:
        raise CatalogError(f"{path}: {'; '.join(wrong[:5]) or 'lists no clip'} of {catalog.root}")
    return np.array(sorted(found), np.int64)


def _named(known: Mapping[str, set[int]], line: str) -> set[int]:
    """What the longest part of a line, from its start to a blank, names."""
    ends = [len(line), *(match.start() for match in reversed([*re.finditer(r"\s+", line)]))] if line else []
    for name in (line[:end] for end in ends):
        if rows := known.get(name) or known.get(os.path.splitext(name)[0]):
            return rows
    return set()


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
