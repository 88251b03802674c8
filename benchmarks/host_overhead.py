"""Host time of a training step beyond its compute: the real loop (feed, dispatch, log, TensorBoard) on a tiny model.

    python -m benchmarks.host_overhead                # from TFRecord and from the cache on the device, batch 64

`train` runs as it is and its own log says how long a step took; the same compiled step over one batch that is already on
the device says what of that was compute. `overhead ms` is the difference, round by round, negative where it drowns in the
noise; below 2 ms is the aim. On a CPU the reading thread and the compute share the cores, so TFRecord also shows what
reading a batch costs there; on a GPU or TPU it overlaps.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax

from benchmarks import pairs, synthetic
from mtjax.compute import distributed
from mtjax.run.experiment import Experiment
from mtjax.run.metrics_log import METRICS, read_metrics
from mtjax.run.workdir import Run
from mtjax.train import feed, train

TINY = {
    "name": "movt.MovT",
    "motion": (4,),
    "branch": 4,
    "position": (4,),
    "fuse": False,
    "layers": 1,
    "heads": 1,
    "feed_forward": 8,
    "dropout": 0.1,
}


def make_experiment(root: Path, cache: str, args: argparse.Namespace) -> Experiment:
    steps = args.log_every * (args.windows + 1)  # the first window compiles
    config = synthetic.jester_config(
        root,
        data__cache=cache,
        data__frames=2,  # resampled on the device: whole records are read, and hardly anything is computed
        train__batch=args.batch,
        train__steps=steps,
        train__log_every=args.log_every,
        train__save_every=0,
    )
    return Experiment(config | {"model": TINY})


def real_loop(exp: Experiment, workdir: Path) -> float:
    """Median over log windows of ms a step, as the run's own log has it."""
    run = Run(exp, workdir, config_may_change=False, data_may_change=False)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        train(exp, run, distributed.Preemption())
    run.checkpoints.close()
    speeds = [
        line["train/examples_per_s"] for line in read_metrics(workdir / METRICS) if "train/examples_per_s" in line
    ]
    return statistics.median(1e3 * exp.train.batch / speed for speed in speeds[1:])


def compute_only(exp: Experiment, args: argparse.Namespace) -> float:
    """Median over windows of ms a step, over one batch (or cursor) that lies on the device."""
    batch, fetch = next(feed(exp, 0))
    if fetch is not None:
        table, cursor = batch
        batch = table, jax.device_put(cursor)
    state, seconds = exp.program.init(), []
    for _ in range(args.windows + 1):
        start = time.perf_counter()
        for _ in range(args.log_every):
            state, metrics = exp.program.train_step(state, batch, fetch=fetch)
        jax.block_until_ready((state, metrics))
        seconds.append((time.perf_counter() - start) / args.log_every)
    return 1e3 * statistics.median(seconds[1:])


def measure(root: Path, folder: Path, cache: str, args: argparse.Namespace) -> dict[str, object]:
    """Row of the table: a step in the real loop, the compiled step alone, and their difference round by round."""
    exp = make_experiment(root, cache, args)
    looped, computed = [], []
    for number in range(args.rounds):
        looped.append(real_loop(exp, folder / f"run-{cache}-{number}"))
        computed.append(compute_only(exp, args))
    overhead = [a - b for a, b in zip(looped, computed, strict=True)]
    return {
        "from": "TFRecord" if cache == "none" else "device cache",
        "step ms": statistics.median(looped),
        "compute ms": statistics.median(computed),
        "overhead ms, median": statistics.median(overhead),
        "min": min(overhead),
        "max": max(overhead),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--clips", type=int, default=4096)
    parser.add_argument("--log_every", type=int, default=50)
    parser.add_argument("--windows", type=int, default=6, help="of log_every steps in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--caches", nargs="+", choices=("none", "device"), default=("none", "device"))
    return parser.parse_args()


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        root = synthetic.write_dataset(Path(folder) / "data", clips=args.clips)
        rows = [measure(root, Path(folder), cache, args) for cache in args.caches]
    pairs.print_table(rows)
    pairs.print_json("host_overhead", device=jax.devices()[0].device_kind, **vars(args), rows=rows)


if __name__ == "__main__":
    main()
