"""Finding the annotated videos on disk."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from mtjax.data.catalog import CatalogError, Clip
from preprocessing.annotations.listing import SHOWN, stem
from preprocessing.videos.source_files import is_video, same_name, sources_below


def locate(clips: list[Clip], videos: Path, *, by_name: bool, fold_case: bool = True) -> tuple[list[Clip], list[Clip]]:
    """Looks for each clip's video file, or its folder of images, below the videos folder.

    What is not there to the letter is looked for in another Unicode form (Macs decompose letters) and, with `fold_case`,
    in other capitals.

    Args:
      by_name: what is still missing is looked for by its name without suffix in the whole folder, because copies of
        these sets differ in folders and in encoding.

    Returns:
      The clips that are there, with the path that was found, and the clips that are not.

    Raises:
      CatalogError: the folder does not exist, holds none of the files, or holds a looked-for name several times.
    """
    if not videos.is_dir():
        raise CatalogError(f"--videos={videos}: not a folder")
    there = {c.path for c in clips if os.path.exists(videos / c.path)}
    moved: dict[str, str] = {}
    if len(there) < len({c.path for c in clips}):
        spare = [p for p in sources_below(videos) if p not in there]
        lost = sorted({c.path for c in clips} - there)
        moved = _matching(videos, lost, spare, lambda path: same_name(path, fold_case=fold_case))
        if by_name:
            lost, spare = sorted(set(lost) - set(moved)), sorted(set(spare) - set(moved.values()))
            moved |= _matching(videos, lost, spare, lambda path: same_name(_bare_name(path), fold_case=fold_case))
    found, missing = [], []
    for clip in clips:
        path = clip.path if clip.path in there else moved.get(clip.path, "")
        if path:
            found.append(dataclasses.replace(clip, path=path))
        else:
            missing.append(clip)
    if not found:
        raise CatalogError(f"--videos={videos}: holds none of the {len(clips)} files, e.g. not {clips[0].path!r}")
    return found, missing


def _bare_name(path: str) -> str:
    """Without folder and, of a video, suffix: folders of images have none."""
    return os.path.basename(stem(path) if is_video(path) else path)


def _matching(videos: Path, wanted: Iterable[str], there: Iterable[str], key: Callable[[str], str]) -> dict[str, str]:
    """Of the paths `wanted` those that share their key with a path that is there → that path."""
    candidates: dict[str, list[str]] = {}
    for path in there:
        candidates.setdefault(key(path), []).append(path)
    found = {path: candidates[key(path)] for path in wanted if key(path) in candidates}
    if twice := [paths for paths in found.values() if len(paths) > 1]:
        shown = "\n".join(str(paths) for paths in twice[:SHOWN])
        raise CatalogError(f"--videos={videos}: {len(twice)} names occur in several places; keep one of each\n{shown}")
    takers: dict[str, list[str]] = {}
    for path, paths in found.items():
        takers.setdefault(paths[0], []).append(path)
    if twice := {place: paths for place, paths in takers.items() if len(paths) > 1}:
        place, paths = next(iter(twice.items()))
        raise CatalogError(f"--videos={videos}: {place!r} could be each of {paths[:SHOWN]}; rename it like one of them")
    return {path: paths[0] for path, paths in found.items()}
