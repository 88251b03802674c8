"""How many clips a second one core reads, verifies (CRC) and stacks: the real input pipeline over a column of tracks.

    python -m benchmarks.track_pipeline                 # 20,000 clips of 32 × 60 × 3 float16, batch 256, workers 0 and 2
    python -m benchmarks.track_pipeline --profile       # and where the time goes, by function

`clips/s per core` is clips over CPU seconds of this process and its reader processes, so other work on the machine hardly
changes it; `clips/s` is by the clock. The files are in the page cache. Linux only (/proc). Aim: 40,000 a core without
workers (they pay for a copy between processes, which only a `decode` with real work is worth).
"""

import argparse
import cProfile
import os
import pstats
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import pairs, synthetic
from mtjax.data.batches import training_batches
from mtjax.data.order import Order
from mtjax.data.tracks import Tracks


def cpu_seconds() -> float:
    """Used so far by this process and its living descendants."""
    parents: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(path.parent.name)
        parents.setdefault(int(fields[1]), []).append(pid)
        used[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    total, queue = time.process_time(), list(parents.get(os.getpid(), []))
    while queue:
        pid = queue.pop()
        total += used[pid]
        queue += parents.get(pid, [])
    return total


def measure(data: Tracks, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Clips per CPU second and clips per second, window by window."""
    order = Order(args.clips, args.batch, seed=0)
    warm = -(-args.clips // args.batch)  # one epoch: fills the page cache, starts the workers
    steps = warm + args.windows * args.steps
    batches = training_batches(data, order, np.arange(args.batch), 0, steps)
    for _ in range(warm):
        next(batches)
    per_core, by_clock = [], []
    for _ in range(args.windows):
        cpu, clock = cpu_seconds(), time.perf_counter()
        for _ in range(args.steps):
            next(batches)
        per_core.append(args.steps * args.batch / (cpu_seconds() - cpu))
        by_clock.append(args.steps * args.batch / (time.perf_counter() - clock))
    return per_core, by_clock


def profile(data: Tracks, args: argparse.Namespace) -> None:
    """cProfile of `Data.read` alone; its own cost of a call inflates the small functions."""
    order, clips = Order(args.clips, args.batch, seed=0), data.training_clips()
    profiler = cProfile.Profile()
    profiler.enable()
    for step in range(args.steps):
        data.read(clips[order(step)])
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(16)


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
