"""Makes a dataset from annotation files: `mtjax catalog KIND SRC OUT`.

KIND and its SRC:
  folder          the folder of class folders: SRC/<class>/<video>, or SRC/<train|val|test>/<class>/<video>
  csv             a .csv with a header or a .jsonl: path, label, split, group, start_s, end_s, target:<name>
  ucf101          the folder of classInd.txt, trainlist0?.txt and testlist0?.txt
  hmdb51          the folder of <class>_test_split?.txt
  jester          the folder of jester-v1-{labels,train,validation,test}.csv
  ssv2            the folder of something-something-v2-{labels,train,validation,test}.json
  ssv2-temporal18 the folder of {train,validation}.txt (and labels.csv), or of the official JSON files
  kinetics        train.csv, or the folder of train.csv, val.csv and test.csv
  motion-npz      one .npz, or a folder of *_split<k>.npz; also writes the columns `tracks` and `pose`

Videos are not opened here: their size and frame rate are measured when they are extracted. Everything that is wrong
with the annotation is printed at once; then, or when files are missing, nothing is written.
"""

import argparse
import functools
import os
import sys
from collections import Counter
from pathlib import Path

from mtjax.command import arguments, shell
from mtjax.data import summary
from mtjax.data.catalog import Catalog, CatalogError
from mtjax.data.column_writer import write_column
from mtjax.data.columns import list_columns
from mtjax.data.files import write_atomically
from mtjax.data.inspection import split_overlaps
from preprocessing.annotations import folder, kinetics, motion_npz, table, twentybn, ucf_hmdb
from preprocessing.annotations.listing import SHOWN, Listing, text_problem
from preprocessing.annotations.videos import locate

PARSERS = {
    "folder": folder.parse,
    "csv": table.parse,
    "ucf101": ucf_hmdb.parse_ucf101,
    "hmdb51": ucf_hmdb.parse_hmdb51,
    "jester": twentybn.parse_jester,
    "ssv2": twentybn.parse_ssv2,
    "ssv2-temporal18": twentybn.parse_temporal18,
    "kinetics": kinetics.parse,
    "motion-npz": motion_npz.parse,
}
OWN = ("folder", "csv")  # a user's own list is meant to be complete; of the official sets videos have vanished
RENAMED = ("ucf101", "hmdb51", "ssv2", "ssv2-temporal18", "kinetics")  # unique file names, so found in any layout

# Clips per split that the official lists hold. Kinetics has no fixed number.
OFFICIAL_CLIPS = {
    "ucf101": {
        "train1": 9537,
        "test1": 3783,
        "train2": 9586,
        "test2": 3734,
        "train3": 9624,
        "test3": 3696,
        "train1_fit": 7912,
        "train1_val": 1625,
    },
    "hmdb51": {"train1": 3570, "test1": 1530, "train2": 3570, "test2": 1530, "train3": 3570, "test3": 1530},
    "jester": {"train": 118_562, "validation": 14_787},
    "ssv2": {"train": 168_913, "validation": 24_777},
    "ssv2-temporal18": {"train": 25_012, "validation": 3_371},
}


def _flags() -> argparse.ArgumentParser:
    parser = arguments.parser("catalog", __doc__)
    parser.add_argument("kind", metavar="KIND", choices=PARSERS)
    parser.add_argument("src", metavar="SRC")
    parser.add_argument("out", metavar="OUT", help="the dataset folder, e.g. data/ucf101")
    parser.add_argument("--name", default="", help="of the dataset; default: the name of OUT")
    parser.add_argument("--version", default="1.0.0", help="of the dataset")
    parser.add_argument(
        "--videos",
        help="folder that the paths start from; default: SRC for folder, the file's folder for csv; "
        "for the others none, and it can be given later. --videos= says that there are none",
    )
    parser.add_argument(
        "--missing",
        choices=("error", "skip"),
        help="an annotated video that is not there: stop, or leave the clip out and list it in OUT/missing.txt; "
        "default: error for folder and csv, skip for the official sets",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a catalog that already has columns")
    return parser


@shell.command("catalog")
def main(argv: list[str] | None = None) -> int:
    args = _flags().parse_args(argv)
    _run(args)
    return 0


def _run(args: argparse.Namespace) -> None:
    source, root = Path(args.src), Path(args.out)
    name = args.name or root.resolve().name
    if reason := text_problem(name + args.version):
        raise CatalogError(f"--name or --version: {reason}")
    parse = functools.partial(motion_npz.parse, name=name) if args.kind == "motion-npz" else PARSERS[args.kind]
    listing = parse(source)
    listing.notices += _count_notices(args.kind, listing)
    missing = _locate(args, listing)
    info = {"kind": args.kind, "source": os.path.abspath(source), **listing.info}
    catalog = Catalog(root, name, args.version, tuple(listing.class_names), tuple(listing.clips), info)
    _check_replaceable(catalog, args.overwrite)
    catalog.save()
    if missing:
        write_atomically(root / "missing.txt", "".join(f"{path}\n" for path in missing))
    else:
        (root / "missing.txt").unlink(missing_ok=True)
    for spec, values in listing.columns:
        write_column(root, spec, values, overwrite=args.overwrite)
    _report(catalog, listing)


def _locate(args: argparse.Namespace, listing: Listing) -> list[str]:
    """Finds the videos, sets the listing's clips and `videos`, and returns the paths that are not there."""
    default = {"folder": args.src, "csv": os.path.dirname(args.src) or "."}.get(args.kind, "")
    videos = default if args.videos is None else args.videos
    if args.kind == "folder" and os.path.abspath(videos) != os.path.abspath(args.src):
        raise CatalogError(f"--videos={videos}: for KIND folder the videos are in SRC; leave --videos out")
    listing.info["videos"] = os.path.abspath(videos) if videos else ""
    if not videos:
        return []
    if args.kind == "motion-npz":
        raise CatalogError("--videos: a motion-npz archive does not name its videos")
    wanted = {c.id: c.path for c in listing.clips}
    listing.clips, lost = locate(listing.clips, Path(videos), by_name=args.kind in RENAMED)
    missing = sorted({c.path for c in lost})
    moved = sum(wanted[c.id] != c.path for c in listing.clips)
    elsewhere = f", {moved} of them in another folder or encoding" if moved else ""
    listing.notices.append(f"{len(listing.clips)} of {len(wanted)} clips have their video below {videos}{elsewhere}")
    if not missing:
        return []
    more = f"\n(+{len(missing) - SHOWN} more)" if len(missing) > SHOWN else ""
    message = f"{len(missing)} annotated videos are not below {videos}:\n" + "\n".join(missing[:SHOWN]) + more
    if (args.missing or ("error" if args.kind in OWN else "skip")) == "error":
        raise CatalogError(f"{message}\nset --videos to their folder, or --missing=skip to leave these clips out")
    listing.notices.append(f"{message}\nleft out, and listed in missing.txt")
    return missing


def _count_notices(kind: str, listing: Listing) -> list[str]:
    notices = []
    counts = Counter(split for clip in listing.clips for split in clip.splits)
    for split, official in OFFICIAL_CLIPS.get(kind, {}).items():
        if counts[split] != official:
            notices.append(f"split {split!r} has {counts[split]} clips, the official list {official}")
    trained = {c.label for c in listing.clips if any(s.startswith("train") for s in c.splits)}
    if unseen := sorted({c.label for c in listing.clips} - trained - {""}):
        notices.append(f"{len(unseen)} classes have no training clip: {unseen[:10]}")
    return notices


def _check_replaceable(catalog: Catalog, overwrite: bool) -> None:
    """Columns are joined by clip id, so the catalog below them does not change unasked."""
    if overwrite or not list_columns(catalog.root):
        return
    there = Catalog.load(catalog.root)
    if there.fingerprint != catalog.fingerprint:
        raise CatalogError(
            f"{catalog.root} has columns, and its catalog ({len(there.clips)} clips, {there.fingerprint}) is not "
            f"this one ({len(catalog.clips)} clips, {catalog.fingerprint}); choose another OUT, or --overwrite it"
        )


def _report(catalog: Catalog, listing: Listing) -> None:
    for overlap in split_overlaps(catalog):
        listing.notices.append(overlap)
    for notice in listing.notices:
        print(f"notice: {notice}")
    summary.print_splits(catalog)
    for spec, values in listing.columns:
        print(f"column {spec.name!r}: {len(values)} records in {spec.num_shards} shard(s)")
    print(f"wrote {catalog.root}/dataset.json and clips.jsonl")


if __name__ == "__main__":
    sys.exit(main())
