"""Looks after datasets: `mtjax data check|info|index|accept|bench|coverage|shots ROOT`.

check     validates everything: the catalog, each record of each column, indices, overlap of train and test splits.
          Each problem is a line that names the file, the record and the field; exit code 1 if there is one.
info      shows a table of splits, of columns and of how many clips each column covers.
index     reads and verifies columns, and writes their index.npz anew.
accept    takes dataset.json and clips.jsonl, or column.json of --column, as they are after they were edited by hand.
bench     reads random batches of 256 records and shows records/s.
coverage  shows for a pose column (--column) in how many clips and frames there is a person, and how many frames are
          valid, which is what motion features are made of: by split, and by split and class. For a flow column how many
          clips have one, how far things move, and how much of that was cut off.
shots     prints the ids of --k clips of each class of --split, drawn with --seed: a file for config.data.shots, which
          fixes what config.data.k_shot draws.
"""

import argparse
import functools
import sys
from pathlib import Path

from mtjax import lookup
from mtjax.command import arguments, shell
from mtjax.data import inspection, summary
from mtjax.data.catalog import Catalog, CatalogError
from mtjax.data.columns import Column, ColumnError, Spec, column_dir
from mtjax.data.selection import select
from mtjax.modalities import coverage, flow_coverage
from mtjax.modalities.skeletons import Skeleton
from mtjax.records import RecordError


def _flags() -> argparse.ArgumentParser:
    parser = arguments.parser("data", __doc__)
    parser.add_argument("command", choices=("check", "info", "index", "accept", "bench", "coverage", "shots"))
    parser.add_argument("root", metavar="ROOT", type=Path, help="the dataset folder")
    parser.add_argument("--column", default="", help="only this column")
    parser.add_argument("--classes", action="store_true", help="info: one row for each class")
    parser.add_argument("--allow_overlap", action="store_true", help="check: shared clips or groups are only a notice")
    parser.add_argument("--seconds", type=float, default=3.0, help="bench: how long to read each column")
    parser.add_argument("--field", default="pose", help="coverage: which field of the column, [t joints 3]")
    parser.add_argument("--skeleton", default="skeletons.COCO_17", help="coverage: import path under mtjax.data")
    parser.add_argument("--min_score", type=float, default=0.8, help="coverage: a joint below it is not visible")
    parser.add_argument("--min_visible", type=int, default=9, help="coverage: joints that a valid frame shows at least")
    parser.add_argument("--split", default="train", help="shots: of which split")
    parser.add_argument("--k", type=int, default=1, help="shots: clips a class")
    parser.add_argument("--seed", type=int, default=0, help="shots: of the choice, as config.data.subset_seed")
    return parser


@shell.command("data")
def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    args = _flags().parse_args(argv)
    commands = {
        "check": _check, "info": _info, "index": _index, "accept": _accept, "bench": _bench, "coverage": _coverage, "shots": _shots,
    }  # fmt: skip
    return commands[args.command](args, _column_names(args))


def _column_names(args: argparse.Namespace) -> list[str]:
    if not args.root.is_dir():
        raise CatalogError(f"{args.root}: no such folder")
    names = inspection.column_folders(args.root)
    if not args.column:
        return names
    if args.column not in names:
        raise ColumnError(f"{args.root}: no column {args.column!r}; there are {names}")
    return [args.column]


def _check(args: argparse.Namespace, names: list[str]) -> int:
    catalog, problems = inspection.check_catalog(args.root)
    if catalog:
        overlaps = inspection.split_overlaps(catalog)
        if args.allow_overlap:
            print("".join(f"notice: {line}\n" for line in overlaps), end="")
        else:
            problems += [f"{line}; --allow_overlap accepts it" for line in overlaps]
    for name in names:
        problems += inspection.check_column(args.root, name, {c.id for c in catalog.clips} if catalog else None)
    for problem in problems:
        print(problem)
    checked = f"{args.root}: {len(catalog.clips) if catalog else 0} clips, {len(names)} column(s)"
    print(f"{checked}: {len(problems)} problem(s)" if problems else f"{checked}: no problems")
    return 1 if problems else 0


def _info(args: argparse.Namespace, names: list[str]) -> int:
    catalog, problems = inspection.check_catalog(args.root)
    if catalog is None:
        raise CatalogError("\n".join(problems))
    summary.print_info(catalog, names, classes=args.classes)
    return 0


def _index(args: argparse.Namespace, names: list[str]) -> int:
    if not names:
        raise ColumnError(f"{args.root}: no columns")
    damaged = []
    for name in names:
        try:
            index = inspection.rebuild_index(args.root, name)
            print(f"{name}: {len(index.ids)} records in {len(index.sizes)} shard(s), all verified; index.npz written")
        except (ColumnError, RecordError) as e:
            damaged.append(f"column {name!r} is not indexed:\n{e}")
    if damaged:
        raise ColumnError("\n".join(damaged))
    return 0


def _accept(args: argparse.Namespace, names: list[str]) -> int:
    if args.column:
        directory = column_dir(args.root, args.column)
        Spec.load(directory, may_be_changed=True).save(directory)
        print(f"accepted {directory}/column.json; where its schema is another one now: mtjax data index {args.root}")
        return 0
    catalog = Catalog.load(args.root, may_be_changed=True)
    catalog.save()
    print(f"accepted {args.root}/dataset.json and clips.jsonl: {len(catalog.clips)} clips, {catalog.fingerprint}")
    return 0


def _bench(args: argparse.Namespace, names: list[str]) -> int:
    rows = []
    for name in names:
        column = Column(args.root, name)
        if len(column):
            speed = inspection.measure(column, args.seconds)
            rate, megabytes = speed.records / speed.seconds, speed.num_bytes / speed.seconds / 1e6
            batch_ms = 1e3 * inspection.BATCH / rate
            rows.append((name, len(column), f"{rate:,.0f}", f"{megabytes:,.1f}", f"{batch_ms:.1f}"))
        column.close()
    if not rows:
        raise ColumnError(f"{args.root}: no column with records")
    title = f"Random batches of {inspection.BATCH}, checksums verified, one process"
    summary.print_table(title, ("column", "records", "records/s", "MB/s", "ms/batch"), rows)
    return 0


def _coverage(args: argparse.Namespace, names: list[str]) -> int:
    if not args.column:
        raise ColumnError(f"coverage needs --column; there are {names}")
    catalog, column = Catalog.load(args.root), Column(args.root, args.column)
    title = f"{args.root}, column {args.column!r}; "
    if flow_coverage.is_flow(column):
        moving = flow_coverage.measure(column)
        of_clips = functools.partial(flow_coverage.row, moving=moving)
        coverage.print_coverage(
            catalog, f"{title}motion of the middle field of each clip", flow_coverage.HEADER, of_clips
        )
        return 0
    skeleton = lookup.resolve("modalities", args.skeleton)
    if not isinstance(skeleton, Skeleton):
        raise lookup.ConfigError(f"--skeleton={args.skeleton!r} is not a Skeleton")
    seen = coverage.measure(
        column,
        args.field,
        skeleton,
        min_score=args.min_score,
        min_visible=args.min_visible,
        joint_names=catalog.info.get("joint_names", ()),
    )
    valid = f"valid: {args.min_visible} joints with a score of {args.min_score:g} or more, both shoulders among them"
    coverage.print_coverage(catalog, title + valid, coverage.HEADER, functools.partial(coverage.row, seen=seen))
    return 0


def _shots(args: argparse.Namespace, names: list[str]) -> int:
    catalog = Catalog.load(args.root)
    for row in select(catalog, args.split, k_shot=args.k, seed=args.seed):
        print(catalog.clips[row].id)
    return 0


if __name__ == "__main__":
    sys.exit(main())
