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

from mtjax.command import arguments, shell
from mtjax.lookup import ConfigError
from mtjax.report import attention, clusters, comparison, features, labels, paper_tables, retrieval
from mtjax.report.groups import Group, group_runs
from mtjax.report.page import Section, write_page
from mtjax.run.results import Result


def print_tables(groups: list[Group], names: Sequence[str], tables: dict[str, Any]) -> None:
    """On the console: all our runs, then paper tables with our numbers in them."""
    console = Console(width=None if sys.stdout.isatty() else 200, color_system=None)
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


def sections(runs: list[Result], groups: list[Group], args: argparse.Namespace) -> list[Section]:
    """What the page shows beyond tables and runs: accuracy by number of labels, the student's comparisons, feature spaces,
    clusters, attention over time, and what clips retrieved."""
    first = runs[0]
    teacher, baseline = (path and Result.load(path) for path in (args.teacher, args.baseline))
    found = labels.sections(runs) + comparison.sections(first, teacher, baseline)
    if args.features:
        found.append(features.section(first, args.features.split(","), args.features_split))
    if args.clusters:
        found += clusters.sections(runs, args.clusters.split(","), args.clusters_frames)
    of_run = (attention.sections, retrieval.sections)
    return found + [section for sections in of_run for group in groups for section in sections(group.runs[0])]


@shell.command("report")
def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser("report", __doc__)
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--table", default="", help="paper tables to print beside, comma separated, e.g. mt.t1")
    parser.add_argument("--teacher", type=Path, default=None, help="finished run to compare the first WORKDIR with")
    parser.add_argument("--baseline", type=Path, default=None, help="the student without a teacher: gains are over it")
    parser.add_argument("--features", default="", help="columns with an embedding to draw, comma separated")
    parser.add_argument("--features_split", default="train", help="clips to draw (default: train)")
    parser.add_argument("--clusters", default="", help="columns of mtjax.cluster to look into, comma separated")
    parser.add_argument("--clusters_frames", default="frames", help="column of their pictures (default: frames)")
    parser.add_argument("--out", type=Path, default=None, help="HTML file (default: FIRST_WORKDIR/report.html)")
    args = parser.parse_args(argv)
    runs = [Result.load(w) for w in args.workdirs]
    groups = group_runs(runs)
    tables = paper_tables.load_tables()
    names = [name for name in args.table.split(",") if name]
    if unknown := [name for name in names if name not in tables]:
        raise ConfigError(f"--table={unknown[0]!r}: there are {sorted(tables)}")
    print_tables(groups, names, tables)
    out = args.out or args.workdirs[0] / "report.html"
    write_page(out, groups, names, tables, sections(runs, groups, args))
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
