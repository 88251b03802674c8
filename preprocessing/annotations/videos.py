"""Finding the annotated videos on disk."""

import dataclasses
import os
from pathlib import Path

from mtjax.data.catalog import CatalogError, Clip
from preprocessing.annotations.folder import files_below, is_video
from preprocessing.annotations.listing import SHOWN, stem


def locate(clips: list[Clip], videos: Path, *, by_name: bool) -> tuple[list[Clip], list[Clip]]:
    """Looks for each clip's file below the videos folder.

    Args:
      by_name: a file that is not where the official layout has it is looked for by its name without suffix in the whole
        folder, because copies of these sets differ in folders and in encoding.

    Returns:
      The clips that are there, with the path that was found, and the clips that are not.

    Raises:
      CatalogError: the folder does not exist, holds none of the files, or holds a looked-for name several times.
    """
    if not videos.is_dir():
        raise CatalogError(f"--videos={videos}: not a folder")
    there = {c.path for c in clips if os.path.exists(videos / c.path)}
    moved: dict[str, str] = {}
    if by_name and any(c.path not in there for c in clips):
        moved = _by_name(videos, {os.path.basename(stem(c.path)) for c in clips if c.path not in there})
    found, missing = [], []
    for clip in clips:
        path = clip.path if clip.path in there else moved.get(os.path.basename(stem(clip.path)), "")
        if path:
            found.append(dataclasses.replace(clip, path=path))
        else:
            missing.append(clip)
    if not found:
        raise CatalogError(f"--videos={videos}: holds none of the {len(clips)} files, e.g. not {clips[0].path!r}")
    return found, missing


def _by_name(videos: Path, names: set[str]) -> dict[str, str]:
    """Name without folder and suffix → path, for those of `names` that are below the folder."""
    found: dict[str, list[str]] = {}
    for path in filter(is_video, files_below(videos)):
        name = os.path.basename(stem(path))
        if name in names:
            found.setdefault(name, []).append(path)
    if twice := [paths for paths in found.values() if len(paths) > 1]:
        shown = "\n".join(str(paths) for paths in twice[:SHOWN])
        raise CatalogError(f"--videos={videos}: {len(twice)} names occur in several places; keep one of each\n{shown}")
    return {name: paths[0] for name, paths in found.items()}
