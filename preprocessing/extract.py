"""Videos → columns of a dataset.

    mtjax extract tracks ROOT --backend=lk
    mtjax extract pose ROOT --detector=rt_detr --pose=vitpose_b
    mtjax extract frames ROOT --short_side=256 --frames=32
    mtjax extract flow ROOT --method=tvl1

A clip may also be a folder of images, as Jester is published; its frame rate is the catalog's `fps` or `--image_fps`.

A kind is a file in `preprocessing/extractors/`, or a module of your own by its import path, `extract my_lab.depth ROOT`
(`extraction/kinds.py` says what it has to define).

Where no clip has a video, the images of the column `frames` are taken in its place; `--from` names another column.

Stop it at any time: the same command does only what is left. On several machines, `--shard=0/4` ... `--shard=3/4` each
do a quarter, and whichever ends last finishes the column. Exit status 3: more clips failed
than `--max_failures` allows; all else is written all the same.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtjax.command import arguments, shell
from mtjax.command.errors import InputError
from mtjax.data import columns
from mtjax.data.catalog import Catalog, CatalogError

with shell.imports_extras("extract"):
    from preprocessing.extraction import column_run, kinds
    from preprocessing.extraction.shards import Decoding, Source
    from preprocessing.extraction.stored_frames import StoredFrames
    from preprocessing.videos.video_file import Limits

IMAGES = "frames"  # the column that is looked for where clips have no video


def _machine(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit() and int(i) < int(n)):
        raise argparse.ArgumentTypeError(f"expected i/n with 0 <= i < n, got {text!r}")
    return int(i), int(n)


def _failures(text: str) -> str:
    try:
        if column_run.allowed_failures(text, 1) >= 0:
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number or a percentage like 1%, got {text!r}")


def _parser(outside: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Of all kinds in the house, and of those `outside` that are given by their import path."""
    whole = arguments.parser("extract", __doc__)
    common, known = _common(), kinds.found() | {name: kinds.named(name) for name in outside}
    commands = whole.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, kind in known.items():
        kind.add_flags(commands.add_parser(name, parents=[common], formatter_class=arguments.Help, help=kind.HELP))
    return whole


def _common() -> argparse.ArgumentParser:
    """What every kind of column is made with."""
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("root", type=Path, help="the dataset: a folder with dataset.json")
    where = common.add_mutually_exclusive_group().add_argument
    where("--videos", type=Path, help="folder of the videos; default: dataset.json's `videos`")
    where("--from", dest="images", default="", metavar="COLUMN", help="no videos, but the JPEG images of this column")
    add("--num_workers", type=int, default=1, help="processes on this machine, spread over its GPUs")
    add("--shard", type=_machine, default=(0, 1), metavar="i/n", help="this is machine i of n")
    add("--num_shards", type=int, default=0, help="files of the column; 0: about 150 MB each")
    add("--overwrite", choices=("never", "stale", "always"), default="never")
    add("--max_failures", type=_failures, default="0", metavar="N|P%", help="exit with 3 above this many failed clips")
    add("--retry_failures", action="store_true", help="extract shards with failures again")
    add("--allow_partial", action="store_true", help="of a damaged video use what precedes the damage, and mark it")
    add("--image_fps", type=float, default=0.0, help="of clips that are folders of images; 0: the catalog's fps")
    add("--allow_links", action="store_true", help="videos may be links to files outside of the folder of the videos")
    add("--timeout_s", type=float, default=120.0, help="for decoding one video; 0 disables")
    for name, value in vars(Limits()).items():
        add(f"--{name}", type=type(value), default=value, help=f"default {value}; 0 disables")
    return common


def _source(args: argparse.Namespace) -> Source:
    """Videos or, in `args.images` from here on, a column."""
    catalog = Catalog.load(args.root)
    limits = Limits(**{name: getattr(args, name) for name in vars(Limits())})
    told = args.videos or args.images or any(clip.path for clip in catalog.clips)
    if not told and IMAGES in columns.list_columns(args.root):
        print(f"{args.root}: the clips have no videos; taking the images of column {IMAGES!r}")
        args.images = IMAGES
    if args.images:
        return StoredFrames(columns.Column(args.root, args.images), limits)
    if not (math.isfinite(args.image_fps) and args.image_fps >= 0):
        raise InputError(f"--image_fps={args.image_fps}: must be a number of at least 0")
    videos = _videos(args, catalog.info)
    return Decoding(videos, limits, args.allow_partial, args.timeout_s, args.image_fps, args.allow_links)


def _videos(args: argparse.Namespace, info: Mapping[str, Any]) -> Path:
    if args.videos is None and "videos" not in info:
        raise CatalogError(
            f"{args.root}/dataset.json does not say where the videos are, and there is no column {IMAGES!r}; "
            "pass --videos=FOLDER or --from=COLUMN"
        )
    folder = args.videos or args.root / info["videos"]  # an absolute path in dataset.json stays as it is
    if not folder.is_dir():
        raise CatalogError(f"{folder}: no such folder; pass --videos=FOLDER")
    return folder


@shell.command("extract", again="the same command does what is left")
def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    args = _parser([word for word in given[:1] if "." in word and not word.startswith("-")]).parse_args(given)
    if args.overwrite == "always" and args.shard[1] > 1:
        raise InputError("--overwrite=always on one of several machines deletes the others' work; use =stale")
    source, kind = _source(args), kinds.named(args.kind)
    extractor = kind.from_flags(args)
    if extractor.name == args.images:
        raise InputError(f"column {args.images!r} cannot be made from itself; give --name")
    code = column_run.run(
        args.root,
        extractor,
        source,
        producer=f"preprocessing.extract {args.kind}",
        num_workers=args.num_workers,
        machine=args.shard,
        num_shards=args.num_shards,
        overwrite=args.overwrite,
        max_failures=args.max_failures,
        retry_failures=args.retry_failures,
    )
    if kind.AFTER:
        print(kind.AFTER.format(root=args.root, column=extractor.name))
    return code


if __name__ == "__main__":
    sys.exit(main())
