"""Tables of what a dataset holds: `mtjax data info`."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import rich.box
from rich.console import Console
from rich.table import Table

from mtjax.data.catalog import Catalog
from mtjax.data.columns import Column, ColumnError
from mtjax.records import RecordError, Schema

PIPE_WIDTH = 1000  # into a file or a pipe a table is as wide as it needs to be


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> None:
    """Prints a table: the first `left` columns flush left, the rest right; plain text when not on a terminal."""
    # Names are data: "[NEW_AUDIO]" is no markup and ":wave:" no emoji.
    console = Console(markup=False, emoji=False, highlight=False, color_system=None)
    if not console.is_terminal:
        console = Console(markup=False, emoji=False, highlight=False, width=PIPE_WIDTH, no_color=True)
    table = Table(box=rich.box.SIMPLE_HEAD if console.is_terminal else None)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(title)
    console.print(table)


def print_splits(catalog: Catalog) -> None:
    """Clips, classes and groups of each split, and the smallest and largest class."""
    rows = []
    for split in catalog.splits:
        clips = [c for c in catalog.clips if split in c.splits]
        per_class = Counter(c.label for c in clips if c.label)
        sizes = f"{min(per_class.values())}–{max(per_class.values())}" if per_class else "–"
        unlabelled = sum(not c.label for c in clips)
        rows.append((split, len(clips), len(per_class), sizes, unlabelled, len({c.group for c in clips} - {""})))
    title = f"{catalog.name} {catalog.version}: {len(catalog.clips)} clips, {len(catalog.class_names)} classes"
    print_table(title, ("split", "clips", "classes", "clips/class", "unlabelled", "groups"), rows)


def failures(directory: Path) -> list[dict[str, str]]:
    """The rows of a column's `failures.jsonl`, [] where there is none.

    Raises:
      ColumnError: a line is not an object that names its clip.
    """
    path, rows = directory / "failures.jsonl", []
    if not path.is_file():
        return rows
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({key: str(row[key]) for key in ("clip", "stage", "reason")})
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ColumnError(
                f"{path}:{number}: expected an object with clip, stage and reason, found {line!r:.80}"
            ) from None
    return rows


def print_info(catalog: Catalog, column_names: Sequence[str], *, classes: bool) -> None:
    """Prints everything `info` shows; a column that cannot be opened has a row that says why."""
    print(f"root         {catalog.root}\nfingerprint  {catalog.fingerprint}")
    for key, value in catalog.info.items():
        print(f"{key:<12} {json.dumps(value, ensure_ascii=False):.200}")
    for key, texts in (
        ("fps", (f"{c.fps:g}" if c.fps else "unknown" for c in catalog.clips)),
        ("size", (f"{c.width}x{c.height}" if c.width else "unknown" for c in catalog.clips)),
    ):
        print(f"{key:<12} " + ", ".join(f"{text} ({n} clips)" for text, n in Counter(texts).most_common(8)))
    print()
    print_splits(catalog)
    opened: dict[str, Column] = {}
    for name in column_names:
        try:
            opened[name] = Column(catalog.root, name)
        except (ColumnError, RecordError, OSError) as e:
            print(f"column {name!r} cannot be opened: {e}")
    if opened:
        _print_columns(opened)
        _print_coverage(catalog, opened)
    if classes:
        _print_classes(catalog, opened)


def _fields(schema: Schema) -> str:
    return ", ".join(f"{name} {f.dtype}{list(f.shape) if f.shape else ''}" for name, f in schema.items())


def _print_columns(opened: dict[str, Column]) -> None:
    rows = []
    for name, column in opened.items():
        size = column.num_bytes
        each = f"{size / len(column) / 1e3:.1f}" if len(column) else "–"
        spec = column.spec
        counts = (len(column), len(failures(column.directory)), spec.num_shards, f"{size / 1e6:.1f}", each)
        rows.append((name, _fields(spec.schema), spec.producer, spec.licence, *counts))
    header = ("column", "fields", "producer", "licence", "records", "failures", "shards", "MB", "kB/record")
    print_table("Columns", header, rows, left=4)


def _print_coverage(catalog: Catalog, opened: dict[str, Column]) -> None:
    """Clips with a record / clips, and recorded failures, of each column in each split."""
    rows = []
    for split in catalog.splits:
        ids = {c.id for c in catalog.clips if split in c.splits}
        cells = []
        for column in opened.values():
            failed = sum(f["clip"] in ids for f in failures(column.directory))
            cells.append(_share(sum(i in column for i in ids), len(ids)) + (f", {failed} failed" if failed else ""))
        rows.append((split, *cells))
    print_table("Clips with a record", ("split", *opened), rows)


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole} ({part / whole:.1%})" if whole else "0/0"


def _print_classes(catalog: Catalog, opened: dict[str, Column]) -> None:
    """Clips of each class in each split, and the share of its clips that each column has."""
    per_split = Counter((c.label, s) for c in catalog.clips for s in c.splits)
    whole = Counter(c.label for c in catalog.clips)
    covered = {name: Counter(c.label for c in catalog.clips if c.id in column) for name, column in opened.items()}
    rows = []
    for index, label in itertools.chain(enumerate(catalog.class_names), [("", "")] if whole[""] else []):
        shares = (_share(covered[name][label], whole[label]) for name in opened)
        rows.append((label or "(unlabelled)", index, *(per_split[label, s] for s in catalog.splits), *shares))
    print_table("Classes", ("class", "index", *catalog.splits, *opened), rows)
