"""Ours beside the paper's: one table and one self-contained HTML page from any number of workdirs.

    mtjax report WORKDIR [WORKDIR …] [--table=mt.t1,mt.t2] [--out=report.html]
    mtjax report STUDENT --teacher=WORKDIR [--baseline=WORKDIR] [--features=COLUMN,COLUMN] [--clusters=COLUMN,COLUMN]

Runs that differ in their seed and official split alone are one row: mean ± standard deviation (of the sample) and n, over splits
where there are several. Runs that differ in how many labels they use besides are one line of a plot. Comparisons and features
are those of the first workdir, clusters those of the first one whose dataset has them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mtjax import lookup
from mtjax.command import arguments, shell
from mtjax.lookup import ConfigError
from mtjax.report import found, paper_tables
from mtjax.report.groups import Group, group_runs
from mtjax.report.page import write_page
from mtjax.run.results import Result


def print_tables(groups: list[Group], names: Sequence[str], tables: dict[str, Any]) -> None:
    """On the console: all our runs, then paper tables with our numbers in them."""
    width = None if sys.stdout.isatty() else 200
    console = Console(
        width=width, color_system=None, markup=False, emoji=False
    )  # names of datasets are text, no markup
    header, rows = paper_tables.own_table(groups)
    ours = Table(*header, title="Runs")
    for row in rows:
        ours.add_row(*row)
    console.print(ours)
    for name in names:
        beside = Table(*paper_tables.BESIDE, title=tables[name]["title"])
        for row in paper_tables.beside(name, groups, tables):
            beside.add_row(*row)
        console.print(beside)
        for note in paper_tables.notes(name, tables):
            console.print(f"note: {note}", highlight=False)


@shell.command("report")
def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser("report", __doc__)
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--table", default="", help="paper tables to print beside, comma separated, e.g. mt.t1")
    parser.add_argument("--out", type=Path, default=None, help="HTML file (default: FIRST_WORKDIR/report.html)")
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--section", action="append", default=[])
    outside, argv = own.parse_known_args(argv)
    parser.add_argument("--section", metavar="MODULE", help="a section of your own, by import path; may come again")
    sections = found.sections(outside.section)
    for section in sections:
        section.add_flags(parser)
    arguments.add_allow_code(parser)
    args = parser.parse_args(argv)
    lookup.allow_code(args.allow_code)
    runs = [Result.load(w) for w in args.workdirs]
    groups = group_runs(runs)
    tables = paper_tables.load_tables()
    names = [name for name in args.table.split(",") if name]
    if unknown := [name for name in names if name not in tables]:
        raise ConfigError(f"--table={unknown[0]!r}: there are {sorted(tables)}")
    print_tables(groups, names, tables)
    context = found.Context(runs, groups, args)
    shown = [part for section in sections for part in section.make(context)]
    out = args.out or args.workdirs[0] / "report.html"
    write_page(out, groups, names, tables, shown)
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
