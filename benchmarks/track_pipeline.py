"""How many clips a second one core reads, verifies (CRC) and stacks: the real input pipeline over a column of tracks.

    python -m benchmarks.track_pipeline                 # 20,000 clips of 32 × 60 × 3 float16, batch 256, workers 0 and 2
    python -m benchmarks.track_pipeline --profile       # and where the time goes, by function

`clips/s per core` is clips over CPU seconds of this process and its reader processes, so other work on the machine hardly
changes it; `clips/s` is by the clock. The files are in the page cache. Linux only (/proc). Aim: 40,000 a core without
workers (they pay for a copy between processes, which only a `decode` with real work is worth).
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import pairs, synthetic
from mtjax.data.batches import training_batches
from mtjax.data.order import Order
from mtjax.modalities.tracks import Tracks


def measure(data: Tracks, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Clips per CPU second and clips per second, window by window."""
    order = Order(args.clips, args.batch, seed=0)
    warm = -(-args.clips // args.batch)  # one epoch: fills the page cache, starts the workers
    batches = training_batches(data, order, np.arange(args.batch), 0, warm + args.windows * args.steps)
    for _ in range(warm):
        next(batches)
    return pairs.rates(lambda: next(batches), windows=args.windows, steps=args.steps, examples=args.batch)


def profile(data: Tracks, args: argparse.Namespace) -> None:
    order, clips = Order(args.clips, args.batch, seed=0), data.training_clips()
    pairs.print_profile(lambda step: data.read(clips[order(step)]), args.steps)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--steps", type=int, default=80, help="batches a window")
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 2))
    parser.add_argument("--folder", default="", help='where the column is written and removed; "" for the system\'s')
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        root = synthetic.write_dataset(Path(folder), clips=args.clips)
        rows = []
        for workers in args.workers:
            per_core, by_clock = measure(Tracks(root=str(root), workers=workers), args)
            rows.append(
                {
                    "workers": workers,
                    "clips/s per core, best": max(per_core),
                    "median": statistics.median(per_core),
                    "clips/s, median": statistics.median(by_clock),
                }
            )
        pairs.print_table(rows)
        pairs.print_json("track_pipeline", batch=args.batch, clips=args.clips, windows=args.windows, rows=rows)
        if args.profile:
            profile(Tracks(root=str(root)), args)


if __name__ == "__main__":
    main()
