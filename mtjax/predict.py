"""Uses a trained workdir: on raw videos, or over a dataset as a new column.

mtjax predict WORKDIR VIDEO [VIDEO …] [--out=DIR]
mtjax predict WORKDIR --root=DATASET --column=movt.probs [--splits=train,test] [--fields=probs,embedding]
mtjax predict WORKDIR --root=DATASET --column=mplg.embedding --dense=16        # of every clip of a video
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mtjax import lookup
from mtjax.command import arguments, shell
from mtjax.command.errors import InputError
from mtjax.compute import distributed
from mtjax.data import columns
from mtjax.data.files import write_atomically
from mtjax.raw_video import overlay
from mtjax.raw_video import predict as raw_video
from mtjax.run.experiment import OpenRun, open_run
from mtjax.run.prediction_column import write_column
from mtjax.run.results import to_json
from mtjax.run.saved_config import read_config


@shell.command("predict")
def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser("predict", __doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument(
        "--out", type=Path, default=None, help="folder of JSON and overlays (default: WORKDIR/predictions)"
    )
    parser.add_argument("--top", type=int, default=5, help="how many classes to list")
    parser.add_argument("--no_overlay", action="store_true")
    parser.add_argument("--backend", default="", help="tracker (default: the training column's, else lk)")
    parser.add_argument("--checkpoint", default="", help="of a tracker that needs one")
    parser.add_argument(
        "--detector_checkpoint", default="", help="for a pose model's run, see preprocessing.extract pose"
    )
    parser.add_argument("--pose_checkpoint", default="", help="for a pose model's run")
    parser.add_argument(
        "--features_from", default="", help="for a run on another run's features: that run (default: where it was)"
    )
    parser.add_argument("--device", default="", help="for a pose model's run: PyTorch's device")
    parser.add_argument(
        "--root", default="", help="another dataset's folder, whose labels do not matter (default: the training one)"
    )
    parser.add_argument("--column", default="", help="write predictions over the dataset as this column")
    parser.add_argument("--splits", default="", help="comma separated (default: all)")
    parser.add_argument("--fields", default="probs,embedding", help="outputs to write")
    parser.add_argument(
        "--copies", type=int, default=0, help="augmented views beside the central one (see write_column)"
    )
    parser.add_argument(
        "--dense", type=int, default=0, help="write the embedding of each clip, begun so many items apart, and its time"
    )
    parser.add_argument("--cache", default="", help="config.data.cache for this prediction (default: the run's)")
    parser.add_argument("--batch", type=int, default=0, help="clips at once (default: the run's)")
    arguments.add_allow_code(parser)
    parser.add_argument(
        "--distributed", action="store_true", help="with --column: join the other processes, as mtjax train"
    )
    parser.add_argument("--step", default="selected", help="selected (default), latest, or a number")
    args = parser.parse_args(argv)
    lookup.allow_code(args.allow_code)
    if bool(args.videos) == bool(args.column):
        parser.error("give either VIDEO files or --column=NAME")
    if args.distributed and not args.column:
        parser.error("--distributed needs --column=NAME: videos are predicted by one process")
    if args.distributed:
        distributed.initialize()
    if args.column:
        loaded = _open_for_column(args)
        splits = [s for s in args.splits.split(",") if s]
        index = write_column(
            *loaded, args.column, splits, args.fields.split(","), copies=args.copies, each_clip=bool(args.dense)
        )
        if index is not None:
            print(
                f"column {args.column!r}: {len(index.ids)} records in {columns.column_dir(loaded[0].data.root, args.column)}"
            )
        return 0
    return _predict_videos(args)


def _open_for_column(args: argparse.Namespace) -> OpenRun:
    """The run on its own dataset, with the splits that it made of it; or on another one, with that one's."""
    changed = {k: getattr(args, k) for k in ("root", "cache", "dense") if getattr(args, k)}
    own = Path(read_config(args.workdir)["data"]["root"]).resolve()
    scored = Path(changed.get("root", own)).resolve() == own
    return open_run(args.workdir, args.step, data=changed, scored=scored, batch=args.batch)


def _predict_videos(args: argparse.Namespace) -> int:
    predictor = raw_video.load(args.workdir, args.step, features_from=args.features_from)
    out = args.out or args.workdir / "predictions"
    _refuse_overwriting(args.videos, out)
    out.mkdir(parents=True, exist_ok=True)
    failures = 0
    given = ("backend", "checkpoint", "detector_checkpoint", "pose_checkpoint", "device")
    extraction = {name: getattr(args, name) for name in given if getattr(args, name)}
    for video in args.videos:
        try:
            result = predictor.predict(video, top=args.top, **extraction)
        except (OSError, InputError) as e:  # one bad video must not lose the others
            failures += 1
            print(json.dumps({"video": str(video), "error": f"{type(e).__name__}: {e}"}), flush=True)
            continue
        drawing = {k: result.pop(k) for k in ("frames", "tracks", "saliency") if k in result}
        if not args.no_overlay and "saliency" in drawing:
            title = f"{result['predictions'][0]['label']} {result['predictions'][0]['probability']:.0%}"
            result["overlay"] = [str(p) for p in overlay.write(out / video.stem, **drawing, title=title, fps=8.0)]
        write_atomically(out / f"{video.stem}.json", to_json(result) + "\n")
        print(to_json(result, indent=None), flush=True)
    return 3 if failures else 0


def _refuse_overwriting(videos: Sequence[Path], out: Path) -> None:
    """Raises InputError when what is written would take the place of a video, or of what another video gives."""
    stems: dict[str, Path] = {}
    inputs = {video.resolve() for video in videos}
    for video in videos:
        if (other := stems.setdefault(video.stem, video)) != video:
            raise InputError(
                f"{other} and {video} would both be written as {out / video.stem}.json; predict them apart"
            )
        for ending in (".json", ".mp4", ".png"):
            if (out / f"{video.stem}{ending}").resolve() in inputs:
                raise InputError(f"{out / (video.stem + ending)} would overwrite a video; give another --out=FOLDER")


if __name__ == "__main__":
    sys.exit(main())
