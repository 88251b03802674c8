"""KIND `folder`: videos sorted into one folder per class, with or without a folder per split above."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mtjax.data.catalog import CatalogError, Clip
from preprocessing.annotations.listing import Listing, Problems, ids_of_paths, path_problem

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov"),
    *(".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)
SPLIT_FOLDER = re.compile(r"(train|val|valid|validation|test)[0-9]*")


def files_below(folder: Path) -> Iterator[str]:
    """Relative paths of all files, sorted, without hidden ones; follows links to folders, each folder once."""
    seen = set()
    for base, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(base, name), folder)


def is_video(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES


def parse(source: Path) -> Listing:
    """`SRC/<class>/**/<video>`, all in split "train"; or `SRC/<split>/<class>/**/<video>`.

    The first level counts as splits when all its folders are called train, val, valid, validation or test, with an
    optional number. Every other file is counted in a notice.
    """
    if not source.is_dir():
        raise CatalogError(f"{source}: not a folder; SRC is the folder of the class folders")
    problems = Problems(source)
    top = [p.name for p in source.iterdir() if p.is_dir() and not p.name.startswith(".")]
    has_splits = bool(top) and all(SPLIT_FOLDER.fullmatch(name) for name in top)
    depth = 2 if has_splits else 1
    found, other = [], Counter()
    for path in files_below(source):
        parts = path.split("/")
        if not is_video(path):
            other[os.path.splitext(path)[1].lower() or "no suffix"] += 1
        elif reason := path_problem(path):
            problems.add(repr(path), reason)
        elif len(parts) <= depth:
            problems.add(repr(path), "lies in no class folder")
        else:
            found.append((path, parts[0] if has_splits else "train", parts[depth - 1]))
    if not found and not problems:
        problems.add(str(source), f"no videos in class folders of suffix {' '.join(VIDEO_SUFFIXES)}")
    problems.raise_if_any()
    ids = ids_of_paths([path for path, _, _ in found])
    clips = [Clip(i, (split,), label, path=path) for i, (path, split, label) in zip(ids, found, strict=True)]
    listing = Listing(clips, sorted({c.label for c in clips}))
    if other:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in other.most_common(5))
        listing.notices.append(f"{other.total()} files are no videos by their suffix and were left out ({kinds})")
    if empty := sorted(_class_folders(source, depth) - set(listing.class_names)):
        listing.notices.append(f"{len(empty)} class folders hold no video and were left out: {empty[:10]}")
    return listing


def _class_folders(source: Path, depth: int) -> set[str]:
    pattern = "/".join("*" * depth)
    return {p.name for p in source.glob(pattern) if p.is_dir() and not p.name.startswith(".")}
