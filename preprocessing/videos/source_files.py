"""What a clip can be made of, by its name: a video file, or a folder of images, the frames of one clip."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov"),
    *(".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def is_video(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES


def is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(path).startswith(".")


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in the order of the numbers in their names, as people count: 2.jpg before 10.jpg."""

    def key(path: Path) -> tuple:
        parts = re.split(r"([0-9]+)", path.name)
        return [int(p) if i % 2 else p for i, p in enumerate(parts)], path.name

    return sorted((Path(e.path) for e in os.scandir(folder) if is_image(e.name)), key=key)


def sources_below(folder: Path, other: Counter[str] | None = None) -> Iterator[str]:
    """Relative paths of all videos, and of folders that hold images and neither videos nor folders; sorted.

    Hidden ones are left out; links to folders are followed, each folder once.

    Args:
      other: counts what is left out: by suffix, "no suffix", and "broken link".
    """
    other = Counter() if other is None else other
    seen = set()
    for base, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        names = sorted(n for n in names if not n.startswith("."))
        broken = {n for n in names if not os.path.exists(os.path.join(base, n))}  # also a link in a loop
        videos = [n for n in names if is_video(n) and n not in broken]
        images = [n for n in names if is_image(n) and n not in broken]
        is_clip = bool(images) and not videos and not folders
        for name in names:
            if name in broken:
                other["broken link"] += 1
            elif not is_video(name) and not (is_clip and is_image(name)):
                other[os.path.splitext(name)[1].lower() or "no suffix"] += 1
        place = os.path.relpath(base, folder)
        if is_clip:
            yield place
        yield from (os.path.normpath(os.path.join(place, name)) for name in videos)


def same_name(path: str, *, fold_case: bool) -> str:
    """Equal for paths that differ in their Unicode form alone or, with `fold_case`, in capitals."""
    path = unicodedata.normalize("NFC", path)
    return unicodedata.normalize("NFC", path.casefold()) if fold_case else path
