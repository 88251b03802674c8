"""KINDs `jester`, `ssv2` and `ssv2-temporal18`: the annotation files of TwentyBN's datasets."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from mtjax.data.catalog import CatalogError, Clip
from mtjax.data.display import short
from preprocessing.annotations.listing import (
    Listing,
    Problems,
    Splits,
    find_files,
    path_problem,
    read_json,
    read_lines,
    read_table,
    text_problem,
)

JESTER_FPS = 12.0  # Materzynska et al., "The Jester Dataset", ICCV Workshops 2019

# Sevilla-Lara et al., "Only Time Can Tell", WACV 2021: the classes of Something-Something V2 that need time, in the
# order of the lists that published results use (naver-ai/tc-clip, datasets_splits/temporal_static_splits).
TEMPORAL18 = (
    "Covering something with something",
    "Uncovering something",
    "Lifting something up completely without letting it drop down",
    "Lifting something up completely, then letting it drop down",
    "Lifting something with something on it",
    "Lifting up one end of something, then letting it drop down",
    "Approaching something with your camera",
    "Moving something towards the camera",
    "Moving something away from the camera",
    "Moving away from something with your camera",
    "Moving something and something away from each other",
    "Moving something and something closer to each other",
    "Moving something and something so they collide with each other",
    "Moving something away from something",
    "Moving something closer to something",
    "Pretending to turn something upside down",
    "Stuffing something into something",
    "Turning something upside down",
)


def parse_jester(source: Path) -> Listing:
    """`jester-v1-{labels,train,validation,test}.csv`: `34870;Drumming Fingers` without a header; test may lack labels.

    A clip is a folder of JPEG frames, named by its id, 12 a second. Label order is that of the labels file.
    """
    problems = Problems(source)
    files = find_files(source, r".*?(labels|train|validation|test)\.csv", "jester-v1-labels.csv, jester-v1-train.csv …")
    _require(source, files, ("labels", "train", "validation"))
    names: list[str] = []
    for number, name in read_lines(files["labels"], problems):
        if reason := text_problem(name) or (f"{name!r} occurs twice" if name in names else ""):
            problems.add(f"{files['labels']}:{number}", reason)
        names.append(name)
    splits, known = Splits(problems), frozenset(names)
    for split in ("train", "validation", "test"):
        for number, line in read_lines(files[split], problems) if split in files else ():
            clip_id, _, label = (x.strip() for x in line.partition(";"))
            _add(splits, problems, f"{files[split]}:{number}", split, clip_id, clip_id, label, known)
    problems.raise_if_any()
    return Listing([dataclasses.replace(clip, fps=JESTER_FPS) for clip in splits.clips], names)


def parse_ssv2(source: Path) -> Listing:
    """`something-something-v2-{labels,train,validation,test}.json`; the test set has no labels."""
    problems = Problems(source)
    files = _ssv2_files(source)
    _require(source, files, ("labels", "train", "validation"))
    index = read_json(files["labels"], dict, problems)
    names = sorted(index, key=lambda name: int(index[name]) if str(index[name]).isdecimal() else -1)
    if [str(index[name]) for name in names] != [str(i) for i in range(len(names))]:
        problems.add(str(files["labels"]), f"the values must be the indices 0 to {len(names) - 1}, each once")
    for reason in filter(None, map(text_problem, names)):
        problems.add(str(files["labels"]), reason)
    splits, known = Splits(problems), frozenset(names)
    for split in ("train", "validation", "test"):
        for where, clip_id, label in _ssv2_entries(files.get(split), problems):
            _add(splits, problems, where, split, clip_id, f"{clip_id}.webm", label, known)
    problems.raise_if_any()
    return Listing(splits.clips, names)


def parse_temporal18(source: Path) -> Listing:
    """The 18 temporal classes: from `train.txt` and `validation.txt` (`14498.webm 6`), or from the official JSON files.

    The names are those of `labels.csv` (`id,name`) where there is one, `TEMPORAL18` otherwise.
    """
    problems = Problems(source)
    splits = Splits(problems)
    names = list(TEMPORAL18)
    if source.is_dir() and any(source.glob("*.txt")):
        files = find_files(source, r"(train|validation)(?:_temporal18)?\.txt", "train.txt and validation.txt")
        if (source / "labels.csv").exists():
            names = _label_table(source / "labels.csv", problems)
        entries = _list_entries
    else:
        files, entries = _ssv2_files(source), _temporal_entries
    _require(source, files, ("train", "validation"))
    for split in ("train", "validation"):
        for where, path, label in entries(files[split], names, problems):
            _add(splits, problems, where, split, Path(path).stem, path, label, frozenset(names))
    problems.raise_if_any()
    return Listing(splits.clips, names)


def _list_entries(path: Path, names: list[str], problems: Problems) -> Iterator[tuple[str, str, str]]:
    """(file:line, video file, class name) of each line `14498.webm 6`."""
    for number, line in read_lines(path, problems):
        file, _, index = line.rpartition(" ")
        if index.isdecimal() and int(index) < len(names) and file.strip():
            yield f"{path}:{number}", file.strip(), names[int(index)]
        else:
            problems.add(f"{path}:{number}", f"expected '<id>.webm <0 to {len(names) - 1}>', found {line!r}")


def _temporal_entries(path: Path, names: list[str], problems: Problems) -> Iterator[tuple[str, str, str]]:
    """The same of an official JSON file, of which the other templates are left out."""
    for where, clip_id, label in _ssv2_entries(path, problems):
        if label in names:
            yield where, f"{clip_id}.webm", label


def _add(
    splits: Splits,
    problems: Problems,
    where: str,
    split: str,
    clip_id: str,
    path: str,
    label: str,
    known: frozenset[str],
) -> None:
    if reason := path_problem(path):
        problems.add(where, reason)
    elif "/" in path:
        problems.add(where, f"{path!r} is no id of a clip")
    elif label not in known and not (split == "test" and not label):
        problems.add(where, f"unknown class {label!r}")
    else:
        splits.add(where, split, Clip(clip_id, (), label, path=path))


def _require(source: Path, files: dict[str, Path], needed: tuple[str, ...]) -> None:
    if missing := [name for name in needed if name not in files]:
        raise CatalogError(f"{source}: no file of {missing}; found {sorted(p.name for p in files.values())}")


def _ssv2_files(source: Path) -> dict[str, Path]:
    example = "something-something-v2-train.json …"
    return find_files(source, r"(?:something-something-v2-)?(labels|train|validation|test)\.json", example)


def _ssv2_entries(path: Path | None, problems: Problems) -> list[tuple[str, str, str]]:
    """(file and entry number, id, template without brackets) of each entry of a JSON list."""
    entries = []
    for number, entry in enumerate(read_json(path, list, problems) if path else (), 1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            problems.add(where, f"expected an object with the key 'id', found {short(entry)}")
        elif not isinstance(entry.get("template", ""), str):
            problems.add(where, f"'template' must be a string, found {short(entry['template'])}")
        else:
            entries.append((where, entry["id"], re.sub(r"[\[\]]", "", entry.get("template", ""))))
    return entries


def _label_table(path: Path, problems: Problems) -> list[str]:
    """`id,name` with ids from 0 without gaps."""
    names: list[str] = []
    rows = read_table(path, problems)
    if next(rows, ("", [], ""))[1] != ["id", "name"]:
        problems.add(f"{path}:1", "expected the header id,name")
    for where, row, _ in rows:
        if len(row) != 2 or row[0] != str(len(names)) or text_problem(row[1]) or row[1] in names:
            problems.add(where, f"expected '{len(names)},<a new class name>', found {row}")
        names += row[1:2]
    return names
