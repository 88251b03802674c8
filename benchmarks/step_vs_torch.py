"""A training step and inference of MovT: our real `Program.train_step` and `predict_step` against PyTorch, taking turns.

    python -m benchmarks.step_vs_torch                                   # CPU, float32, batch 256: about 10 minutes
    python -m benchmarks.step_vs_torch --dtype=bfloat16 --peak_tflops=989   # the same on an H200
    python -m benchmarks.step_vs_torch --torch_compile --equal_work

Both sides take the same batch, already on the device, and run forward, cross-entropy, backward, clipping at norm 1.0 and
AdamW; ours also applies its masks (the peer gets none: everything is valid) and guards against non-finite steps.
`speedup` is PyTorch's time over ours within one round, so above 1 we are faster; read the median, with min and max as its
uncertainty. Absolute times mean nothing while something else runs on the machine; there `taskset -c 0 … --threads=1
--clock=cpu` still gives the ratio on one core.
"""

import argparse
import copy
import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some of the same GPU's memory

import jax
import numpy as np

from benchmarks import pairs
from mtjax.compute import sharding
from mtjax.compute.optim import Optimizer
from mtjax.compute.step import Program
from mtjax.models import movt
from mtjax.run import complexity
from mtjax.tasks.classify import Classify

PRESETS = {"full_count": movt.FULL_COUNT, "calibrated": movt.CALIBRATED}
CLASSES = 27
OPTIMIZER = {"lr": 1e-4, "weight_decay": 0.01, "clip_norm": 1.0}
TRAIN_COST = 3.0  # forward passes: one forward, and the backward pass's two products for each of its products


def make_batch(batch: int, frames: int, points: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tracks = rng.random((batch, frames, points, 3), np.float32)
    tracks[..., 2] = tracks[..., 2] > 0.9
    return {
        "tracks": tracks,
        "frame_valid": np.ones((batch, frames), bool),
        "point_valid": np.ones((batch, points), bool),
        "label": rng.integers(0, CLASSES, batch).astype(np.int32),
        "clip": np.arange(batch, dtype=np.int32),
        "valid": np.ones(batch, bool),
    }


def make_program(widths: Mapping[str, Any], dtype: str = "float32", accumulate: int = 1, chunk: int = 0) -> Program:
    return Program(
        model=lambda rngs: movt.MovT(**{**widths, "dtype": dtype, "chunk": chunk}, rngs=rngs),
        task=Classify(num_classes=CLASSES),
        prepare=lambda batch, train, key: batch,
        optimizer=Optimizer(**OPTIMIZER),
        mesh=sharding.make_mesh(),
        seed=0,
        total_steps=1,
        accumulate=accumulate,
    )


def ours(program: Program, arrays: dict[str, np.ndarray]) -> dict[str, pairs.Contestant]:
    """Our training step and prediction, as `pairs.interleave` times them."""
    size = len(arrays["valid"])
    batch = sharding.to_global(arrays, sharding.local_positions(size, program.mesh), size, program.mesh)
    holder = {"state": program.init()}

    def train(steps: int) -> None:
        for _ in range(steps):
            holder["state"], metrics = program.train_step(holder["state"], batch)
        jax.block_until_ready((holder["state"], metrics))

    def infer(steps: int) -> None:
        for _ in range(steps):
            out = program.predict_step(holder["state"], batch)
        jax.block_until_ready(out)

    return {"train": train, "infer": infer}


def pytorch(args: argparse.Namespace, arrays: dict[str, np.ndarray]) -> dict[str, pairs.Contestant]:
    """The same of the PyTorch MovT."""
    import torch
    from torch.nn import functional

    from benchmarks import movt_torch

    device = torch.device(args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    half = args.dtype == "bfloat16"
    eager = movt_torch.MovT(classes=CLASSES, **PRESETS[args.preset], attention_dropout=not args.equal_work).to(device)
    # Inference in half precision without autocast, which the encoder's fast path does not go with.
    frozen = copy.deepcopy(eager).eval().to(torch.bfloat16 if half else torch.float32)
    wrap = torch.compile if args.torch_compile else lambda module: module
    model, server = wrap(eager), wrap(frozen)
    optimizer = torch.optim.AdamW(
        eager.parameters(), lr=OPTIMIZER["lr"], weight_decay=OPTIMIZER["weight_decay"], fused=True
    )
    tracks = torch.from_numpy(arrays["tracks"]).to(device)
    label = torch.from_numpy(arrays["label"]).long().to(device)
    micros = list(zip(tracks.chunk(args.torch_accumulate), label.chunk(args.torch_accumulate), strict=True))

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            for x, y in micros:
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    loss = functional.cross_entropy(model(x), y) / len(micros)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(eager.parameters(), OPTIMIZER["clip_norm"])
            optimizer.step()
        wait()

    def infer(steps: int) -> None:
        inputs = tracks.to(torch.bfloat16 if half else torch.float32)
        with torch.inference_mode():
            for _ in range(steps):
                server(inputs).float().softmax(-1)
        wait()

    return {"train": train, "infer": infer}


def measure(args: argparse.Namespace, kind: str, sides: dict[str, pairs.Contestant], gmacs: float) -> None:
    """Prints one table and one JSON line for `kind` "train" or "infer"."""
    steps = pairs.steps_for(args.block_s, sides)
    seconds = pairs.interleave(sides, rounds=args.rounds, steps=steps, clock=args.clock)
    flops = 2e9 * gmacs * args.batch * (TRAIN_COST if kind == "train" else 1.0)
    rows, machine = [], {}
    for name, values in seconds.items():
        faster = pairs.spread(pairs.ratios(seconds, name, "torch")) if "torch" in seconds else {}
        time_ms = pairs.spread([1e3 * s for s in values])
        row = {"ms/step": time_ms["median"], "clips/s": args.batch / time_ms["median"] * 1e3}
        row |= {f"speedup {k}": v for k, v in faster.items()}
        if args.peak_tflops:
            row["share of peak"] = flops / (time_ms["median"] / 1e3) / (args.peak_tflops * 1e12)
        rows.append({kind: name} | row)
        machine[name] = row
    pairs.print_table(rows)
    settings = {k: v for k, v in vars(args).items() if k != "kinds"}
    pairs.print_json("step_vs_torch", kind=kind, steps_a_block=steps, **settings, **machine)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="full_count")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--points", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--block_s", type=float, default=1.0, help="a turn lasts about this long, one step at least")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="auto", help="PyTorch's: cpu, cuda; ours follows JAX_PLATFORMS")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="PyTorch's on a CPU; XLA takes all cores")
    parser.add_argument("--kinds", nargs="+", choices=("train", "infer"), default=("train", "infer"))
    parser.add_argument("--torch_compile", action="store_true")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches of our step (train.accumulate)")
    parser.add_argument("--chunk", type=int, default=0, help="our model.chunk; 1 is best on a CPU")
    parser.add_argument("--torch_accumulate", type=int, default=1, help="the same for PyTorch")
    parser.add_argument(
        "--clock", choices=pairs.CLOCKS, default="wall", help="cpu: on a busy machine, with --threads=1"
    )
    parser.add_argument("--equal_work", action="store_true", help="no dropout of attention weights in PyTorch either")
    parser.add_argument("--ours_only", action="store_true", help="where PyTorch is not installed")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="of the device in --dtype; adds a share of it")
    return parser.parse_args()


def main() -> None:
    args = parse()
    arrays = make_batch(args.batch, args.frames, args.points)
    program = make_program(PRESETS[args.preset], args.dtype, args.accumulate, args.chunk)
    gmacs = complexity.forward_gmacs(program, arrays, args.batch)
    sides = {} if args.ours_only else {"torch": pytorch(args, arrays)}
    sides |= {"mtjax": ours(program, arrays)}
    print(
        f"{args.preset}: {program.num_params:,} parameters, {gmacs:.3f} GMAC a clip, on {jax.devices()[0].device_kind}"
    )
    for kind in args.kinds:
        measure(args, kind, {name: contestants[kind] for name, contestants in sides.items()}, gmacs)


if __name__ == "__main__":
    main()
