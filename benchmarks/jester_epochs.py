"""Wall time of 50 epochs of MovT over 118,562 clips of Jester's size, cached on the device: the real config and the real steps.

    python -m benchmarks.jester_epochs --steps=300 --dtype=bfloat16 --peak_tflops=989    # an H200; extrapolates
    python -m benchmarks.jester_epochs --steps=0 --dtype=bfloat16                        # really all 50 epochs
    python -m benchmarks.jester_epochs --steps=10 --clips=1024 --batch=32                # does it run? (CPU)

`50 epochs min` = reading the column + compiling + all steps at the median speed of the log windows, without evaluations
(the paper needed 50 minutes on its hardware). `share of peak` counts three forward passes a step (see `step_vs_torch`).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax

from benchmarks import pairs, synthetic
from benchmarks.step_vs_torch import PRESETS, TRAIN_COST
from mtjax.compute.step import scalars_to_host
from mtjax.run import complexity
from mtjax.run.experiment import Experiment
from mtjax.train import feed

EPOCHS = 50.0


def make_experiment(root: Path, args: argparse.Namespace) -> Experiment:
    config = synthetic.jester_config(
        root, data__cache=args.cache, train__batch=args.batch, train__epochs=EPOCHS, train__log_every=args.log_every
    )
    config["model"] |= dict(PRESETS[args.preset]) | {"dtype": args.dtype}
    return Experiment(config)


def run_steps(exp: Experiment, count: int) -> tuple[float, list[float]]:
    """Seconds until the first step was done (reading, compiling), and seconds a step of each log window after it."""
    begin, windows, every = time.perf_counter(), [], exp.train.log_every
    state = exp.program.init()
    batches = feed(exp, 0)
    batch, fetch = next(batches)
    state, metrics = exp.program.train_step(state, batch, fetch=fetch)
    scalars_to_host(metrics)
    since = time.perf_counter()
    start_up = since - begin
    for step in range(1, count):
        batch, fetch = next(batches)
        state, metrics = exp.program.train_step(state, batch, fetch=fetch)
        if step % every == 0 or step == count - 1:
            scalars_to_host(metrics)
            now = time.perf_counter()
            windows.append((now - since) / (step % every or every))
            since = now
    return start_up, windows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=118_562)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=300, help="0 takes them all")
    parser.add_argument("--log_every", type=int, default=50)
    parser.add_argument("--preset", choices=PRESETS, default="full_count")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--cache", choices=("device", "none"), default="device")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="of all devices in --dtype; adds a share of it")
    parser.add_argument("--folder", default="", help='for the column, 1.4 GB, removed afterwards; "" for the system\'s')
    return parser.parse_args()


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        root = synthetic.write_dataset(Path(folder), clips=args.clips)
        exp = make_experiment(root, args)
        count = min(args.steps or exp.total_steps, exp.total_steps)
        start_up, windows = run_steps(exp, max(count, 2))
        seconds = statistics.median(windows)
        gmacs = complexity.forward_gmacs(exp.program, exp.data.read(exp.data.rows("train")[: args.batch]), args.batch)
    row = {
        "steps run": count,
        "start-up s": start_up,
        "ms/step": 1e3 * seconds,
        "clips/s": args.batch / seconds,
        f"{EPOCHS:.0f} epochs min": (start_up + exp.total_steps * seconds) / 60,
    }
    if args.peak_tflops:
        row["share of peak"] = 2e9 * gmacs * TRAIN_COST * args.batch / seconds / (args.peak_tflops * 1e12)
    pairs.print_table([row])
    pairs.print_json("jester_epochs", device=jax.devices()[0].device_kind, **vars(args), gmacs=gmacs, **row)


if __name__ == "__main__":
    main()
