"""What every annotation parser returns, and the checks that all of them share."""

import codecs
import csv
import dataclasses
import io
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mtjax.data.catalog import CatalogError, Clip
from mtjax.data.columns import Spec

SHOWN = 20  # problems printed of one source; the rest is counted

# Control characters and line separators break every line-based file; a surrogate is a byte that was not UTF-8.
_FORBIDDEN = {"Cc", "Cs", "Zl", "Zp"}


@dataclasses.dataclass
class Listing:
    """An annotation, parsed.

    Attributes:
      clips: in the order of the annotation.
      class_names: label index → name, in the order of the official index file, or sorted here where there is none.
      info: what goes into `dataset.json` beside the catalog's own fields.
      notices: what a reader of the command's output should know, and is no error.
      columns: column specs and their values by clip id, for sources that hold the data itself.
    """

    clips: list[Clip]
    class_names: list[str]
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    notices: list[str] = dataclasses.field(default_factory=list)
    columns: list[tuple[Spec, Mapping[str, Mapping[str, Any]]]] = dataclasses.field(default_factory=list)


class Problems:
    """Gathers what is wrong with a source, so that one run names all of it."""

    def __init__(self, source: Path):
        self._source = source
        self._found: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, where: str, reason: str) -> None:
        self._found.append((where, reason))

    def raise_if_any(self) -> None:
        """Raises CatalogError with the first 20 problems and the number of all."""
        if self._found:
            found = sorted(self._found, key=lambda problem: _place(problem[0]))
            more = f"\n(+{len(found) - SHOWN} more)" if len(found) > SHOWN else ""
            shown = "\n".join(f"{where}: {reason}" for where, reason in found[:SHOWN])
            raise CatalogError(f"{self._source}: {len(found)} problem(s)\n{shown}{more}")


def _place(where: str) -> tuple[str, int]:
    """Sorts `list.csv:9` before `list.csv:10`: a list is not always checked from top to bottom."""
    number = re.search(r"\d+$", where)
    return (where[: number.start()], int(number[0])) if number else (where, 0)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 or, where a byte order mark says so, UTF-16 ("Unicode text" of spreadsheets).

    Bytes that are neither become surrogates (`text_problem`).
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise CatalogError(f"{path}: cannot be read: {e.strerror or e}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as e:
            raise CatalogError(f"{path}: begins as UTF-16, but is not: {e}; save it as UTF-8") from None
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def read_table(path: Path, problems: Problems) -> Iterator[tuple[str, list[str], str]]:
    """(file:line, values without surrounding whitespace, separator) of each row of a CSV file that is not empty.

    Values are separated by what the first line has of comma, semicolon and tab, in this order: spreadsheets write
    semicolons where the comma is a decimal point. A first line `sep=;` says so itself. A quoted value may span lines.
    """
    text = read_text(path)
    first, _, rest = text.partition("\n")
    told = re.fullmatch(r"sep=(.)\s*", first)
    separator = told[1] if told else next((c for c in ",;\t" if c in first), ",")
    skipped, text = (1, rest) if told else (0, text)
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, delimiter=separator)
    while True:
        where = f"{path}:{reader.line_num + 1 + skipped}"
        try:
            values = [value.strip() for value in next(reader)]
        except StopIteration:
            return
        except csv.Error as e:
            problems.add(where, f"not CSV: {e}")
            continue
        if any(values):
            yield where, values, separator


def read_lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """(line number, line) of every line that is not blank, without surrounding whitespace and carriage returns."""
    text = read_text(path)
    if not text.strip():
        problems.add(f"{path}:1", "the file is empty")
    # Not splitlines(): it also breaks at U+2028 and at form feeds inside a name.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def read_json(path: Path, kind: type, problems: Problems) -> Any:
    """A JSON file whose outermost value is a `kind`; on any problem, an empty one."""
    try:
        value = json.loads(read_text(path))
    except RecursionError:
        problems.add(str(path), "nested too deeply to be an annotation")
    except ValueError as e:
        problems.add(str(path), f"not JSON: {e}")
    else:
        if isinstance(value, kind):
            return value
        problems.add(str(path), f"expected a JSON {kind.__name__}, found {type(value).__name__}")
    return kind()


def find_files(folder: Path, pattern: str, example: str) -> dict[str, Path]:
    """Files of a folder whose whole name matches a regular expression: its group 1 → path, sorted by name.

    Raises:
      CatalogError: not a folder, nothing in it matches (shows `example`), or two files have the same group 1.
    """
    if not folder.is_dir():
        raise CatalogError(f"{folder}: not a folder; SRC is the folder that holds {example}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if match := re.fullmatch(pattern, path.name):
            if match[1] in found:
                raise CatalogError(
                    f"{folder}: {found[match[1]].name} and {path.name} are the same list; keep one of them"
                )
            found[match[1]] = path
    if not found:
        raise CatalogError(f"{folder}: no {example} in it")
    return found


def text_problem(text: str) -> str:
    """Why a name cannot be stored, or ""."""
    for character in text:
        if (category := unicodedata.category(character)) in _FORBIDDEN:
            what = (
                "bytes that are not UTF-8 (save the file as UTF-8)"
                if category == "Cs"
                else f"the character {character!r}"
            )
            return f"{text!r} holds {what}"
    return ""


def path_problem(path: str) -> str:
    """Why a path is refused, or "". Paths are data from elsewhere: they may only point below the videos folder."""
    if reason := text_problem(path):
        return reason
    if str(PurePosixPath(path)) in ("", "."):
        return "empty path"
    if path.startswith(("/", "\\")) or "://" in path or re.match(r"[A-Za-z]:[\\/]", path):
        return f"path {path!r} is absolute; write it relative to the videos folder (--videos)"
    if ".." in re.split(r"[/\\]", path):
        return f"path {path!r} leaves the videos folder"
    return ""


def stem(path: str) -> str:
    """The path without its last suffix: `a/v1.2.mp4` → `a/v1.2`."""
    return str(PurePosixPath(path).with_suffix(""))


def ids_of_paths(paths: Sequence[str], parts: Sequence[str] = ()) -> list[str]:
    """A clip id for each path: without suffix where that is unique, with it where two files differ in the suffix alone.

    Args:
      paths: relative paths. parts: the marks of clips that are only a part of their file, "" for a whole file.
    """
    parts = parts or [""] * len(paths)
    whole = [path + part for path, part in zip(paths, parts, strict=True)]
    ids = [stem(path) + part for path, part in zip(paths, parts, strict=True)]
    while True:
        counts = Counter(ids)
        ambiguous = [i for i, name in enumerate(ids) if counts[name] > 1 and name != whole[i]]
        if not ambiguous:
            return ids
        for i in ambiguous:
            ids[i] = whole[i]


def order_classes(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Class names in the order of their indices, and notices.

    In alphabetical order; names that are all whole numbers in the order of these, so that "10" comes after "9".
    """
    names = sorted(set(names) - {""})
    if not names or not all(re.fullmatch(r"[0-9]+", name) for name in names):
        return names, []
    names.sort(key=lambda name: (int(name) if len(name) < 1000 else math.inf, name))
    if [*map(str, range(len(names)))] == names:
        return names, []
    index = next(i for i, name in enumerate(names) if name != str(i))
    return names, [f"class names are numbers, but not the classes' indices: class {names[index]!r} has index {index}"]


class Splits:
    """Clips of an official set, gathered from several split files: each clip once, with all its splits."""

    def __init__(self, problems: Problems):
        self._problems = problems
        self._clips: dict[str, Clip] = {}
        self._seen: dict[tuple[str, str], str] = {}

    def add(self, where: str, split: str, clip: Clip) -> None:
        """Adds one line of a split file; `where` names it. A clip occurs once in `train2` and `test2` together."""
        number = re.sub(r"^[a-z]+", "", split)
        earlier = self._seen.setdefault((clip.id, number), where)
        if earlier != where:
            self._problems.add(where, f"{clip.id!r} is listed already, at {earlier}")
            return
        known = self._clips.get(clip.id)
        if known and known.label != clip.label:
            self._problems.add(where, f"{clip.id!r} is labelled {clip.label!r} here and {known.label!r} elsewhere")
            return
        splits = (*known.splits, split) if known else (split,)
        self._clips[clip.id] = dataclasses.replace(clip, splits=splits)

    @property
    def clips(self) -> list[Clip]:
        return list(self._clips.values())
