"""KIND `folder`: videos sorted into one folder per class, with or without a folder per split above."""

import re
from collections import Counter
from pathlib import Path

from mtjax.data.catalog import CatalogError, Clip
from preprocessing.annotations.listing import Listing, Problems, ids_of_paths, order_classes, path_problem
from preprocessing.videos.source_files import VIDEO_SUFFIXES, is_video, sources_below

SPLIT_FOLDER = re.compile(r"(?:(train)(?:ing)?|(val|valid|validation)|(test)(?:ing)?)([0-9]*)", re.IGNORECASE)


def parse(source: Path) -> Listing:
    """`SRC/<class>/**/<video>`, all in split "train"; or `SRC/<split>/<class>/**/<video>`.

    The first level counts as splits when all of its folders that hold clips are called train, training, val, valid,
    validation, test or testing, with an optional number and in any case. A clip is a video or, below its class folder, a
    folder of images. Whatever else is there is counted in a notice.
    """
    if not source.is_dir():
        raise CatalogError(f"{source}: not a folder; SRC is the folder of the class folders")
    problems, other = Problems(source), Counter()
    paths = list(sources_below(source, other))
    for path in paths:
        if reason := path_problem(path):
            problems.add(repr(path), reason)
    # A video beside the folders is reported below, whatever they are.
    top = {path.split("/")[0] for path in paths if "/" in path}
    split_of = {name: _split_name(name) for name in top}
    depth = 2 if top and all(split_of.values()) else 1
    found = []
    for path in paths:
        parts = path.split("/")
        if len(parts) > depth:
            found.append((path, split_of[parts[0]] if depth == 2 else "train", parts[depth - 1]))
        elif is_video(path):
            problems.add(repr(path), "lies in no class folder")
        else:
            other["folder of images without a class folder"] += 1
    if not found and not problems:
        problems.add(str(source), f"no videos in class folders of suffix {' '.join(VIDEO_SUFFIXES)}")
    problems.raise_if_any()
    ids = ids_of_paths([path for path, _, _ in found])
    clips = [Clip(i, (split,), label, path=path) for i, (path, split, label) in zip(ids, found, strict=True)]
    names, notices = order_classes({c.label for c in clips})
    return Listing(clips, names, notices=notices + _notices(source, clips, other, top, depth))


def _split_name(folder: str) -> str:
    """`Training2` → "train2"; "" for a folder that is not called like a split."""
    match = SPLIT_FOLDER.fullmatch(folder)
    return "".join(filter(None, match.groups())).lower() if match else ""


def _notices(source: Path, clips: list[Clip], other: Counter[str], top: set[str], depth: int) -> list[str]:
    notices = []
    if depth == 1 and (like_splits := sorted(filter(_split_name, top))):
        beside = sorted(top - set(like_splits))[:5]
        notices.append(
            f"{like_splits} are called like splits but were taken as classes, because there are clips beside them in {beside}"
        )
    if depth == 2 and (renamed := {n: s for n in sorted(top) if (s := _split_name(n)) != n}):
        notices.append("splits are called: " + ", ".join(f"{name} → {split}" for name, split in renamed.items()))
    if images := sum(not is_video(c.path) for c in clips):
        notices.append(f"{images} clips are folders of images; they are extracted with --image_fps")
    if other:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in other.most_common(5))
        notices.append(f"{other.total()} files are no videos by their suffix and were left out ({kinds})")
    if empty := sorted(_folders(source, depth) - {c.label for c in clips}):
        notices.append(f"{len(empty)} class folders hold no video and were left out: {empty[:10]}")
    return notices


def _folders(source: Path, depth: int) -> set[str]:
    """Names of the folders on the level of the classes, and of those above it that hold no clip."""
    level = [p for p in source.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if depth == 1:
        return {p.name for p in level}
    inside = (p for split in level if _split_name(split.name) for p in split.iterdir())
    beside = {p.name for p in level if not _split_name(p.name)}
    return beside | {p.name for p in inside if p.is_dir() and not p.name.startswith(".")}
