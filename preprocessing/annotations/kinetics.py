"""KIND `kinetics`: the official CSV files of Kinetics-400, -600 and -700."""

import dataclasses
import re
from pathlib import Path

from mtjax.data.catalog import CatalogError, Clip
from preprocessing.annotations.listing import Listing, Problems, Splits, read_table, text_problem

NEEDED = {"youtube_id", "time_start", "time_end"}
OPTIONAL = {"label", "split", "is_cc"}
SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
}


def parse(source: Path) -> Listing:
    """One CSV file or a folder of them: `label,youtube_id,time_start,time_end,split[,is_cc]`.

    A clip's file is `<youtube_id>_<start, 6 digits>_<end, 6 digits>.mp4`, already cut, so the catalog's `start_s` and
    `end_s` stay 0. Without a `split` column the file's name is the split. Labels keep their spaces; classes are in
    alphabetical order, which is the usual one. Test clips may be unlabelled.
    """
    files = sorted(source.glob("*.csv")) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        raise CatalogError(f"{source}: no CSV file; SRC is train.csv or the folder that holds train.csv, val.csv …")
    problems = Problems(source)
    splits = Splits(problems)
    for path in files:
        _read(path, splits, problems)
    problems.raise_if_any()
    clips = splits.clips
    if not clips:
        raise CatalogError(f"{source}: no clips in it")
    names = {c.label for c in clips if c.splits != ("test",)} or {c.label for c in clips}
    # Some releases fill the test set's label column with a placeholder: no class of the others, so no label.
    unknown = [c.id for c in clips if c.label and c.label not in names]
    clips = [c if c.label in names else dataclasses.replace(c, label="") for c in clips]
    listing = Listing(clips, sorted(names - {""}))
    if unknown:
        listing.notices.append(
            f"{len(unknown)} test clips have a label that no other split has; they count as unlabelled"
        )
    return listing


def _read(path: Path, splits: Splits, problems: Problems) -> None:
    header: list[str] = []
    for where, values, _ in read_table(path, problems):
        if header and len(values) == len(header):
            _add(where, dict(zip(header, values, strict=True)), path.stem, splits, problems)
        elif header:
            problems.add(where, f"{len(values)} values for {len(header)} columns")
        elif NEEDED - set(values) or set(values) - NEEDED - OPTIONAL:
            break
        else:
            header = values
    if not header:
        found = next((values for _, values, _ in read_table(path, Problems(path))), [])
        expected = "expected the header label,youtube_id,time_start,time_end,split[,is_cc]"
        problems.add(f"{path}:1", f"{expected}, found {found}")


def _add(where: str, row: dict[str, str], file_split: str, splits: Splits, problems: Problems) -> None:
    before = len(problems)
    split = SPLIT_NAMES.get(row.get("split", file_split).lower(), "")
    label = row.get("label", "").replace('"', "")
    if not split:
        problems.add(where, f"split {row.get('split', file_split)!r} is none of {', '.join(SPLIT_NAMES)}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", row["youtube_id"]):
        problems.add(where, f"{row['youtube_id']!r} is no YouTube id")
    if reason := text_problem(label) or ("" if label or split in ("test", "") else "no label"):
        problems.add(where, reason)
    try:
        start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
    except (ValueError, OverflowError):
        start = end = 0
    if not 0 <= start < end:
        problems.add(where, f"time_start {row['time_start']!r} and time_end {row['time_end']!r} enclose nothing")
    if len(problems) == before:
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        splits.add(where, split, Clip(name, (), label, group=row["youtube_id"], path=f"{name}.mp4"))
