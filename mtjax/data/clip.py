"""A clip: one line of `clips.jsonl`, read fast and checked as data from outside."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

from mtjax.command.errors import InputError
from mtjax.data.display import short


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
        kept = {name: value for name, default in _DEFAULTS if (value := getattr(self, name)) != default}
        return _encode({"id": self.id, "splits": self.splits} | kept)


_CLIP_FIELDS = {f.name for f in dataclasses.fields(Clip)}
_DEFAULTS = [(f.name, f.default) for f in dataclasses.fields(Clip) if f.default is not dataclasses.MISSING]
_TEXTS, _SECONDS, _COUNTS = ("id", "label", "group", "path"), ("start_s", "end_s", "fps"), ("width", "height", "frames")
_BY_DEFAULT, _MOST = dict(_DEFAULTS), (1 << 31) - 1
_encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make one for each clip
_decode = json.JSONDecoder().decode


def _as_float(value: Any) -> Any:
    """A number as float, infinite where it is too large; anything else as it is, for `clip_problems` to name."""
    try:
        return float(value) if type(value) is int else value
    except OverflowError:
        return math.inf


def objects(lines: list[str]) -> list[Any]:
    """What each line holds; a CatalogError as a value where a line is not JSON."""
    try:
        found = _decode(f"[{','.join(lines)}]")  # at once is several times as fast
        if len(found) == len(lines):
            return found
    except (ValueError, RecursionError):
        pass
    return [_object(line) for line in lines]


def _object(line: str) -> Any:
    try:
        return _decode(line)
    except (ValueError, RecursionError) as e:
        return CatalogError(f"not a JSON object ({e!s:.200})")


def clip_of(fields: Any, shared: dict) -> Clip:
    """Raises CatalogError with the reason. Equal labels, groups and splits become the same objects, of `shared`."""
    if isinstance(fields, CatalogError):
        raise fields
    if not isinstance(fields, dict) or not {"id", "splits"} <= fields.keys() or fields.keys() - _CLIP_FIELDS:
        found = short(sorted(fields), 200) if isinstance(fields, dict) else type(fields).__name__
        raise CatalogError(f"needs id and splits, and nothing beyond {sorted(_CLIP_FIELDS)}; found {found}")
    for name in ("splits", "targets"):
        if name in fields:
            if not isinstance(fields[name], list):
                raise CatalogError(f"{name} is {short(fields[name])}, not a list")
            fields[name] = tuple(map(_as_float, fields[name]))
    for name in _SECONDS:
        if name in fields:
            fields[name] = _as_float(fields[name])
    for name in ("splits", "label", "group"):
        try:
            fields[name] = shared.setdefault(fields[name], fields[name])
        except (KeyError, TypeError):  # absent, or nothing that could be shared
            continue
    clip = object.__new__(Clip)  # the constructor of a frozen class takes several times as long
    vars(clip).update(_BY_DEFAULT)
    vars(clip).update(fields)
    return clip


def is_sound(c: Clip) -> bool:
    """Whether `clip_problems` finds nothing; False when it has to look closer."""
    return (
        type(c.id) is type(c.label) is type(c.group) is type(c.path) is str
        and type(c.start_s) is type(c.end_s) is type(c.fps) is float
        and type(c.width) is type(c.height) is type(c.frames) is int
        and 0 <= c.start_s < math.inf
        and (c.end_s == 0 or c.start_s < c.end_s < math.inf)
        and 0 <= c.fps < math.inf
        and 0 <= c.width <= _MOST
        and 0 <= c.height <= _MOST
        and 0 <= c.frames <= _MOST
        and c.splits != ()
        and all([type(s) is str and s for s in c.splits])
        and not c.targets
        and c.id.isascii()
        and c.label.isascii()
        and c.group.isascii()
        and c.path.isascii()
        and "\\" not in c.path
        and "\0" not in c.path
        and ".." not in c.path
        and not c.path.startswith("/")
    )


def clip_problems(clip: Clip) -> Iterator[str]:
    """What is wrong with the values of a clip, whatever the catalog around it."""
    texts = [getattr(clip, name) for name in _TEXTS]
    for name, value in zip(_TEXTS, texts, strict=True):
        if not isinstance(value, str):
            yield f"{name} is {short(value)}, not a string"
        elif not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            yield f"{name} {value!r} is not Unicode text"
    if not clip.splits:
        yield "is in no split"
    elif not all(isinstance(s, str) and s for s in clip.splits):
        yield f"splits {short(clip.splits)} are not all names"
    for name in _SECONDS:
        value = getattr(clip, name)
        if not (_is_number(value) and 0 <= value < math.inf):
            yield f"{name} is {short(value)}, not a finite number of at least 0"
    for name in _COUNTS:
        value = getattr(clip, name)
        if not (_is_number(value) and isinstance(value, int) and 0 <= value <= _MOST):
            yield f"{name} is {short(value)}, not a whole number of at least 0"
    if _is_number(clip.start_s) and _is_number(clip.end_s) and 0 < clip.end_s <= clip.start_s:
        yield f"start_s {clip.start_s} and end_s {clip.end_s} enclose nothing"
    if clip.targets and not all(_is_number(t) and math.isfinite(t) for t in clip.targets):
        yield f"targets {short(clip.targets)} are not finite numbers"
    if isinstance(clip.path, str) and (
        "\0" in clip.path or "\\" in clip.path or clip.path.startswith("/") or ".." in clip.path.split("/")
    ):
        yield f"path {clip.path!r} leaves the videos folder"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
