"""KIND `csv`: one's own list, as CSV with a header or as JSONL with the same keys."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mtjax.data.catalog import CatalogError, Clip
from mtjax.data.display import short
from preprocessing.annotations.listing import (
    Listing,
    Problems,
    ids_of_paths,
    order_classes,
    path_problem,
    read_lines,
    read_table,
    text_problem,
)

COLUMNS = ("path", "label", "split", "group", "start_s", "end_s")
TARGET = "target:"
SPLIT_NAME = re.compile(r"[A-Za-z0-9_.-]+")

Row = dict[str, Any]


def parse(source: Path) -> Listing:
    """Reads a list of clips.

    `path` is relative to the videos folder, and either `label` or a `target:<name>` column is needed. `split` holds one
    split or several, separated by ";"; without the column every clip is in "train". `start_s` and `end_s` select a part
    of the video. Surrounding spaces of a value are dropped. A row without a label is an unlabelled clip.
    """
    if not source.is_file():
        raise CatalogError(f"{source}: no such file; SRC is a .csv or .jsonl file")
    problems = Problems(source)
    rows = list(
        _jsonl_rows(source, problems) if source.suffix in (".jsonl", ".ndjson") else _csv_rows(source, problems)
    )
    target_names = list(
        dict.fromkeys(key.removeprefix(TARGET) for _, row in rows for key in row if key.startswith(TARGET))
    )
    clips, seen = [], {}
    for where, row in rows:
        before = len(problems)
        clip = _clip(where, row, target_names, problems)
        if len(problems) == before:
            earlier = seen.setdefault((clip.path, clip.start_s, clip.end_s), where)
            if earlier != where:
                problems.add(where, f"the same clip as at {earlier}; name all its splits in one row, separated by ';'")
            clips.append(clip)
    if not rows and not problems:
        problems.add(str(source), "no clips in it")
    problems.raise_if_any()
    ids = ids_of_paths([c.path for c in clips], [_part(c) for c in clips])
    clips = [dataclasses.replace(clip, id=i) for i, clip in zip(ids, clips, strict=True)]
    names, notices = order_classes(c.label for c in clips)
    return Listing(clips, names, {"target_names": target_names} if target_names else {}, notices + _name_notices(names))


def _csv_rows(path: Path, problems: Problems) -> Iterator[tuple[str, Row]]:
    """(file:line, values by column) of each row; text only."""
    header: list[str] = []
    for where, values, separator in read_table(path, problems):
        if not header:
            header = values
            if not _check_header(where, header, problems):
                return
        elif len(values) != len(header):
            what = "a comma" if separator == "," else repr(separator)
            problems.add(where, f"{len(values)} values for {len(header)} columns; quote values that hold {what}")
        else:
            row = dict(zip(header, values, strict=True))
            if separator == ";":  # the comma is then the decimal point
                numbers = [key for key in row if key in ("start_s", "end_s") or key.startswith(TARGET)]
                row |= {key: row[key].replace(",", ".") for key in numbers}
            yield where, row
    if not header:
        problems.add(f"{path}:1", f"no header; the first line names the columns: {','.join(COLUMNS)}")


def _check_header(where: str, header: list[str], problems: Problems) -> bool:
    before = len(problems)
    _check_keys(where, set(header), problems)
    for name in sorted({h for h in header if header.count(h) > 1}):
        problems.add(where, f"column {name!r} occurs twice")
    return len(problems) == before


def _check_keys(where: str, keys: set[str], problems: Problems) -> None:
    for key in sorted(keys):
        if key not in COLUMNS and not (key.startswith(TARGET) and key != TARGET and not text_problem(key)):
            problems.add(where, f"unknown column {key!r}; there are {', '.join(COLUMNS)} and target:<name>")
    if "path" not in keys:
        problems.add(where, "no column 'path'")
    elif "label" not in keys and not any(key.startswith(TARGET) for key in keys):
        problems.add(where, "neither a column 'label' nor a column 'target:<name>'")


def _jsonl_rows(path: Path, problems: Problems) -> Iterator[tuple[str, Row]]:
    for number, line in read_lines(path, problems):
        where, before = f"{path}:{number}", len(problems)
        try:
            row = json.loads(line)
        except RecursionError:
            problems.add(where, "nested too deeply")
            continue
        except ValueError as e:
            problems.add(where, f"not JSON: {e}")
            continue
        if not isinstance(row, dict):
            problems.add(where, f"expected a JSON object, found {type(row).__name__}")
            continue
        _check_keys(where, set(row), problems)
        if isinstance(row.get("split"), list) and all(isinstance(s, str) for s in row["split"]):
            row["split"] = ";".join(row["split"])
        for key, value in row.items():
            is_text = key in ("path", "label", "split", "group")
            if isinstance(value, bool) or not isinstance(value, str if is_text else (int, float)):
                problems.add(where, f"{key!r} must be a {'string' if is_text else 'number'}, found {short(value, 60)}")
        if len(problems) == before:
            yield where, {k: v.strip() if isinstance(v, str) else v for k, v in row.items()}


def _clip(where: str, row: Row, target_names: list[str], problems: Problems) -> Clip:
    if reason := path_problem(row["path"]):
        problems.add(where, reason)
    splits = tuple(s.strip() for s in row.get("split", "train").split(";") if s.strip())
    if not splits:
        problems.add(where, "'split' is empty")
    for name in splits:
        if not SPLIT_NAME.fullmatch(name):
            problems.add(where, f"split {name!r}: use letters, digits and _ . -")
    if len(set(splits)) != len(splits):
        problems.add(where, f"names a split twice: {row['split']!r}")
    for key in ("label", "group"):
        if reason := text_problem(row.get(key, "")):
            problems.add(where, f"{key!r}: {reason}")
    start_s, end_s = (_number(where, row, key, problems, empty=0.0) for key in ("start_s", "end_s"))
    if start_s < 0 or end_s < 0 or (end_s and end_s <= start_s):
        problems.add(where, f"start_s {start_s} and end_s {end_s} enclose nothing; an end_s of 0 means to the end")
    targets = tuple(_number(where, row, TARGET + name, problems, empty=None) for name in target_names)
    path = str(PurePosixPath(row["path"]))
    return Clip("", splits, row.get("label", ""), targets, row.get("group", ""), path, start_s, end_s)


def _number(where: str, row: Row, key: str, problems: Problems, empty: float | None) -> float:
    """A finite number, or `empty` where there is none (None: a problem)."""
    value = row.get(key, "")
    if value == "" and empty is not None:
        return empty
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        problems.add(where, f"{key!r} must be a finite number, found {short(value, 60)}")
        return 0.0
    return number


def _part(clip: Clip) -> str:
    """The mark of a clip that is a part of its video, e.g. "@2.5-7"; to the end: "@2.5-"."""
    if not clip.start_s and not clip.end_s:
        return ""
    start, end = (repr(t).removesuffix(".0") for t in (clip.start_s, clip.end_s))
    return f"@{start}-{end if clip.end_s else ''}"


def _name_notices(names: list[str]) -> list[str]:
    """Class names that look like one name written in two ways."""
    by_shape: dict[str, list[str]] = {}
    for name in names:
        by_shape.setdefault(re.sub(r"[\s_-]+", " ", name.casefold()), []).append(name)
    return [f"classes {same} differ in case or spacing only" for same in by_shape.values() if len(same) > 1]
