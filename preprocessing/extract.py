"""Videos → columns of a dataset.

    mtjax extract tracks ROOT --backend=lk
    mtjax extract pose ROOT --detector=rt_detr --pose=vitpose_b
    mtjax extract frames ROOT --short_side=256 --frames=32
    mtjax extract flow ROOT --method=tvl1

Where no clip has a video, the images of the column `frames` are taken in its place; `--from` names another column.

Stop it at any time: the same command does only what is left. On several machines, `--shard=0/4` ... `--shard=3/4` each
do a quarter, and whichever ends last finishes the column. Exit status 3: more clips failed
than `--max_failures` allows; all else is written all the same.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtjax.command import arguments, shell
from mtjax.command.errors import InputError
from mtjax.data import columns
from mtjax.data.catalog import Catalog, CatalogError

with shell.imports_extras("extract"):
    from preprocessing.extraction import column_run
    from preprocessing.extraction.shards import Decoding, Extractor, Source
    from preprocessing.extraction.stored_frames import StoredFrames
    from preprocessing.extractors import flow, frames, points, pose, pose_models, tracks
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


def _box(text: str) -> tuple[float, ...]:
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected x0,y0,x1,y1, got {text!r}") from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise argparse.ArgumentTypeError(f"expected fractions of the frame with x0 < x1 and y0 < y1, got {text!r}")
    return x0, y0, x1, y1


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, got {text!r}")
    return int(width), int(height)


def _parser() -> argparse.ArgumentParser:
    whole = arguments.parser("extract", __doc__)
    common = _common()
    kinds = whole.add_subparsers(dest="kind", required=True)
    _add_tracks(
        kinds.add_parser("tracks", parents=[common], formatter_class=arguments.Help, help="point tracks").add_argument
    )
    _add_pose(
        kinds.add_parser(
            "pose", parents=[common], formatter_class=arguments.Help, help="joints of persons"
        ).add_argument
    )
    _add_flow(
        kinds.add_parser(
            "flow", parents=[common], formatter_class=arguments.Help, help="motion from frame to frame"
        ).add_argument
    )
    of_frames = kinds.add_parser("frames", parents=[common], formatter_class=arguments.Help, help="JPEG images")
    spacing = of_frames.add_mutually_exclusive_group()
    spacing.add_argument("--frames", type=int, default=32, help="evenly spaced in time")
    spacing.add_argument("--fps", type=float, default=0.0, help="instead: so many a second")
    of_frames.add_argument("--name", default="frames", help="of the column")
    of_frames.add_argument("--short_side", type=int, default=256, help="of the images; 0 keeps the video's")
    of_frames.add_argument("--size", type=_size, metavar="WxH", help="bring them to exactly this, e.g. 171x128")
    of_frames.add_argument("--quality", type=int, default=90, help="of the JPEGs, 1 to 100")
    return whole


def _common() -> argparse.ArgumentParser:
    """What every kind of column is made with."""
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("root", type=Path, help="the dataset: a folder with dataset.json")
    where = common.add_mutually_exclusive_group().add_argument
    where("--videos", type=Path, help="folder of the videos; default: dataset.json's `videos`")
    where("--from", dest="images", default="", metavar="COLUMN", help="no videos, but the JPEG images of this column")
    add("--num_workers", type=int, default=1, help="processes on this machine")
    add("--shard", type=_machine, default=(0, 1), metavar="i/n", help="this is machine i of n")
    add("--num_shards", type=int, default=0, help="files of the column; 0: about 150 MB each")
    add("--overwrite", choices=("never", "stale", "always"), default="never")
    add("--max_failures", type=_failures, default="0", metavar="N|P%", help="exit with 3 above this many failed clips")
    add("--retry_failures", action="store_true", help="extract shards with failures again")
    add("--allow_partial", action="store_true", help="of a damaged video use what precedes the damage, and mark it")
    add("--timeout_s", type=float, default=120.0, help="for decoding one video; 0 disables")
    for name, value in vars(Limits()).items():
        add(f"--{name}", type=type(value), default=value, help=f"default {value}; 0 disables")
    return common


def _add_tracks(add: Callable) -> None:
    add("--backend", choices=tuple(tracks.BACKENDS), default="lk")
    add("--name", default="", help="of the column; default tracks.BACKEND")
    add("--frames", type=int, default=32)
    add("--points", type=int, default=60)
    add("--substeps", type=int, default=1, help="frames tracked per frame kept: more follow faster motion")
    add("--sampling", choices=points.SAMPLINGS, default="shi_tomasi", help="of the points on frame 0")
    add("--box", type=_box, default=points.WHOLE_FRAME, metavar="x0,y0,x1,y1", help="where, in fractions of the frame")
    add("--mask_column", default="mask", help="with --sampling=mask: the column with the field `mask` [h w]")
    add("--dtype", choices=("float16", "float32"), default="float16")
    add("--short_side", type=int, default=-1, help="to decode at; 0 keeps the video's, -1 leaves it to the backend")
    add("--checkpoint", help="path, hf:owner/repository/file or https address; default: the authors'")
    add("--device", help="PyTorch's; default cuda where there is one")
    add("--batch_size", type=int, help="clips at once")


def _add_pose(add: Callable) -> None:
    published = "a folder, or owner/repository on the Hugging Face hub; default: "
    add("--detector", choices=tuple(pose_models.DETECTORS), default="rt_detr")
    add("--detector_checkpoint", default="", help=published + pose_models.DETECTORS["rt_detr"][2] + " or its v2")
    add("--pose", choices=tuple(pose_models.POSES), default="vitpose_b")
    add("--pose_checkpoint", default="", help=published + pose_models.POSES["vitpose_b"][2] + ", or --pose's own")
    add("--name", default="", help="of the column; default pose.POSE")
    add("--device", default="auto", help="PyTorch's; default cuda where there is one")
    add("--half", action="store_true", help="compute in float16 on a GPU, bfloat16 on a CPU")
    add("--fps", type=float, default=25.0, help="frames a second")
    add("--short_side", type=int, default=720, help="to decode at; 0 keeps the video's")
    add("--batch_size", type=int, default=8, help="frames a call of the detector")
    add("--person_batch", type=int, default=16, help="persons a call of the pose model")
    add("--min_score", type=float, default=0.3, help="of a person, by the detector")
    add("--min_side_px", type=float, default=10.0, help="smaller boxes are dropped")
    add("--max_persons", type=int, default=10, help="a frame, the best scores first")


def _add_flow(add: Callable) -> None:
    add("--method", choices=tuple(flow.METHODS), default="dis", help="dis is fast, tvl1 the papers', raft wants a GPU")
    add("--name", default="", help="of the column; default flow.METHOD")
    add("--fps", type=float, default=0.0, help=f"frames a second; 0: {flow.FPS:g} of a video, all images of a column")
    add("--short_side", type=int, default=256, help="to compute at; 0 keeps the video's")
    add("--size", type=_size, metavar="WxH", help="store it at exactly this, e.g. 171x128; the values stay")
    add("--quality", type=int, default=95, help=f"of the JPEGs, {flow.LEAST_QUALITY} to 100")
    add("--checkpoint", help="of raft: path, hf:owner/repository/file or https address; default: torchvision's")
    add("--device", help="of raft: PyTorch's; default cuda where there is one")
    add("--batch_size", type=int, help="of raft: pairs at once")


def _options(args: argparse.Namespace, network: bool) -> dict[str, Any]:
    """What is given of a network's options; without a network there must be none."""
    given = {k: getattr(args, k) for k in ("checkpoint", "device", "batch_size") if getattr(args, k) is not None}
    if given and not network:
        chosen = f"--backend={args.backend}" if args.kind == "tracks" else f"--method={args.method}"
        raise InputError(f"{chosen} has no {', '.join(f'--{k}' for k in given)}")
    return given


def _tracks(args: argparse.Namespace) -> Extractor:
    return tracks.Tracks(
        tracks.make_tracker(args.backend, **_options(args, args.backend != "lk")),
        frames=args.frames,
        num_points=args.points,
        substeps=args.substeps,
        sampling=args.sampling,
        box=args.box,
        masks=columns.Column(args.root, args.mask_column) if args.sampling == "mask" else None,
        dtype=args.dtype,
        short_side=args.short_side,
        partial=args.allow_partial,
        name=args.name,
    )


def _pose(args: argparse.Namespace) -> Extractor:
    shared = {"device": args.device, "half": args.half}
    return pose.Poses(
        pose_models.Detector(
            args.detector, args.detector_checkpoint, batch_size=args.batch_size, min_score=args.min_score, **shared
        ),
        pose_models.PoseModel(args.pose, args.pose_checkpoint, batch_size=args.person_batch, **shared),
        fps=args.fps,
        short_side=args.short_side,
        min_side_px=args.min_side_px,
        max_persons=args.max_persons,
        partial=args.allow_partial,
        name=args.name,
    )


def _frames(args: argparse.Namespace) -> Extractor:
    return frames.Frames(
        num_frames=args.frames,
        fps=args.fps,
        short_side=args.short_side,
        size=args.size,
        quality=args.quality,
        partial=args.allow_partial,
        name=args.name,
    )


def _flow(args: argparse.Namespace) -> Extractor:
    return flow.Flows(
        flow.make_method(args.method, **_options(args, args.method == "raft")),
        fps=args.fps or (0.0 if args.images else flow.FPS),
        short_side=args.short_side,
        size=args.size,
        quality=args.quality,
        partial=args.allow_partial,
        name=args.name,
    )


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
    return Decoding(_videos(args, catalog.info), limits, args.allow_partial, args.timeout_s)


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
    args = _parser().parse_args(argv)
    if args.overwrite == "always" and args.shard[1] > 1:
        raise InputError("--overwrite=always on one of several machines deletes the others' work; use =stale")
    source = _source(args)
    extractor = {"tracks": _tracks, "pose": _pose, "flow": _flow, "frames": _frames}[args.kind](args)
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
    if args.kind in ("pose", "flow"):
        what = "who was found" if args.kind == "pose" else "how much moves"
        print(f"{what}: mtjax data coverage {args.root} --column={extractor.name}")
    return code


if __name__ == "__main__":
    sys.exit(main())
