"""How many clips of videos a second one core reads, verifies (CRC), decodes and crops: the real input pipeline over JPEG.

    taskset -c 1 python -m benchmarks.clip_pipeline               # 64 videos of 180 frames, clips of 16 × 112 × 112
    taskset -c 1 python -m benchmarks.clip_pipeline --profile     # and where the time goes, by function

RGB and flow (two grey images an item), stored at 128 × 171 as `resize` wants them and at 256 × 342, which is scaled down; three
clips a video from independent starts and one. `clips/s per core` is clips over CPU seconds of this process and its reader
processes, so other work on the machine hardly changes it; `decoding %` is what simplejpeg alone takes of that for the very
images. Files are in the page cache. Linux only (/proc). Aim: 150 RGB clips a core from images of 128 × 171.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import simplejpeg

from benchmarks import pairs, synthetic
from mtjax.data.batches import training_batches
from mtjax.data.order import Order
from mtjax.modalities.flow import Flow
from mtjax.modalities.rgb import Rgb
from mtjax.modalities.video_clips import VideoClips

SIZES = {"171x128": (128, 171), "342x256": (256, 342)}  # as WxH, like `preprocessing.extract frames --size`
KINDS = {"frames": Rgb, "flow": Flow}
# (column, stored size, clips a video)
CASES = (
    ("frames", "171x128", 3),
    ("frames", "171x128", 1),
    ("flow", "171x128", 3),
    ("flow", "171x128", 1),
    ("frames", "342x256", 3),
    ("flow", "342x256", 3),
)


def decoding(data: VideoClips, order: Order, steps: int) -> tuple[float, float, float]:
    """CPU seconds a clip that simplejpeg alone takes for the images of some batches; images a clip; mean bytes of one."""
    clips = data.training_clips()
    with mock.patch.object(simplejpeg, "decode_jpeg", wraps=simplejpeg.decode_jpeg) as decode:
        for step in range(steps):
            data.read(clips[order(step)], train=True, seeds=order.seeds(step))
    calls = [(call.args, call.kwargs) for call in decode.call_args_list]
    start = time.process_time()
    for args, keywords in calls:
        simplejpeg.decode_jpeg(*args, **keywords)
    shown = steps * order.global_batch * data.clips
    seconds = (time.process_time() - start) / shown
    return seconds, len(calls) / shown, statistics.fmean(len(args[0]) for args, _ in calls)


def measure(data: VideoClips, args: argparse.Namespace) -> dict[str, object]:
    """A row of the table."""
    order = Order(args.videos, args.batch, seed=0)
    warm = -(-args.videos // args.batch)  # one epoch: fills the page cache, starts the workers
    batches = training_batches(data, order, np.arange(args.batch), 0, warm + args.windows * args.steps)
    for _ in range(warm):
        next(batches)
    per_core, by_clock = pairs.rates(
        lambda: next(batches), windows=args.windows, steps=args.steps, examples=args.batch * data.clips
    )
    seconds, images, size = decoding(data, order, 2)
    return {
        "JPEG kB": size / 1000,
        "images a clip": images,
        "clips/s per core, best": max(per_core),
        "median": statistics.median(per_core),
        "clips/s, median": statistics.median(by_clock),
        "decoding %": 100 * seconds * statistics.median(per_core),
    }


def profile(data: VideoClips, args: argparse.Namespace) -> None:
    order, clips = Order(args.videos, args.batch, seed=0), data.training_clips()
    pairs.print_profile(lambda s: data.read(clips[order(s)], train=True, seeds=order.seeds(s)), args.steps)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--length", type=int, default=180, help="frames of a video; UCF101's have 186 on average")
    parser.add_argument("--frames", type=int, default=16, help="of a clip")
    parser.add_argument("--batch", type=int, default=8, help="videos")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="batches a window")
    parser.add_argument("--workers", type=int, nargs="+", default=(0,))
    parser.add_argument("--folder", default="", help='where the columns are written and removed; "" for the system\'s')
    parser.add_argument("--profile", action="store_true", help="of the first and the last line of the table")
    return parser.parse_args()


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        root = synthetic.write_videos(Path(folder), videos=args.videos, frames=args.length, sizes=SIZES)

        def data_of(column: str, stored: str, clips: int, workers: int) -> VideoClips:
            name = f"{column}.{stored}"
            return KINDS[column](root=str(root), column=name, frames=args.frames, clips=clips, workers=workers)

        rows = [
            {"of": column, "stored": stored, "clips a video": clips, "workers": workers}
            | measure(data_of(column, stored, clips, workers), args)
            for (column, stored, clips), workers in itertools.product(CASES, args.workers)
        ]
        pairs.print_table(rows)
        about = {name: getattr(args, name) for name in ("videos", "length", "frames", "batch", "windows")}
        pairs.print_json("clip_pipeline", **about, rows=rows)
        for case in (CASES[0], CASES[-1]) if args.profile else ():
            print(*case)
            profile(data_of(*case, workers=0), args)


if __name__ == "__main__":
    main()
