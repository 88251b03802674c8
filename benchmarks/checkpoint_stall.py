"""How long a save stops the training loop: real `Checkpoints.save` of MovT's state, once a second while steps go on.

    python -m benchmarks.checkpoint_stall                     # the quick start's model
    python -m benchmarks.checkpoint_stall --model=full_count  # 4.6 M parameters, 55 MB of state

`stall ms` is the time inside `save`, after the step before it was waited for (that wait is the device's work, not the
save's); `share` of a save interval, under 5 % is the aim. `step ms` compares steps with and without saves beside them: on a
CPU the background writer takes its share of the cores.
"""

import argparse
import statistics
import tempfile
import time

import jax

from benchmarks import pairs
from benchmarks.step_vs_torch import CLASSES, PRESETS, make_batch, make_program
from configs import movt_mannequin
from mtjax.compute import sharding
from mtjax.compute.step import Program
from mtjax.run import plain_config
from mtjax.run.checkpoint import Checkpoints

# What `Run.save` adds to a checkpoint, at the quick start's size.
META = {
    "evaluated": False,
    "train_ids": "x" * 20_000,
    "seed": 0,
    "global_batch": 32,
    "class_names": ["class"] * CLASSES,
}


def model_widths(model: str) -> dict[str, object]:
    """Constructor keywords of MovT: the quick start's, or a preset's."""
    quick_start = {k: v for k, v in plain_config.plain(movt_mannequin.get_config())["model"].items() if k != "name"}
    return quick_start if model == "quick_start" else PRESETS[model]


def interval(program: Program, state, batch, seconds: float) -> tuple[object, list[float]]:
    """Steps for about this long: the state, and ms of each step."""
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        state, _ = program.train_step(state, batch)
        jax.block_until_ready(state)
        times.append(1e3 * (time.perf_counter() - start))
    return state, times


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    """Row of the table: how long a save into `folder` stops the loop, and steps alone and beside a save."""
    program = make_program(model_widths(args.model))
    batch = sharding.to_global(
        make_batch(args.batch, 32, 32), sharding.local_positions(args.batch, program.mesh), args.batch, program.mesh
    )
    state, _ = interval(program, program.init(), batch, 0.1)  # compiles
    checkpoints = Checkpoints(folder)
    stalls, alone, beside = [], [], []
    for number in range(args.saves + 2):
        state, times = interval(program, state, batch, args.interval_s)
        alone += times
        start = time.perf_counter()
        checkpoints.save(number, state, META)
        stalls.append(1e3 * (time.perf_counter() - start))
        state, times = interval(program, state, batch, args.interval_s)
        beside += times
        checkpoints.wait()
    checkpoints.close()
    stalls = stalls[2:]  # the first save compiles the checksums and starts Orbax's threads
    return {
        "model": args.model,
        "state MB": sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6,
        "stall ms, median": statistics.median(stalls),
        "min": min(stalls),
        "max": max(stalls),
        "share of interval": statistics.median(stalls) / (1e3 * args.interval_s),
        "step ms alone": statistics.median(alone),
        "beside a save": statistics.median(beside),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("quick_start", *PRESETS), default="quick_start")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--saves", type=int, default=12)
    parser.add_argument("--interval_s", type=float, default=1.0)
    parser.add_argument("--folder", default="", help='where checkpoints are written and removed; "" for the system\'s')
    return parser.parse_args()


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        row = measure(args, folder)
    pairs.print_table([row])
    pairs.print_json("checkpoint_stall", device=jax.devices()[0].device_kind, interval_s=args.interval_s, **row)


if __name__ == "__main__":
    main()
