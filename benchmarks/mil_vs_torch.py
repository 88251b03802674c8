"""A training step of the motion teacher (MIL): our real `Program.train_step` against PyTorch, taking turns.

    python -m benchmarks.mil_vs_torch                                         # CPU, float32: about 10 minutes
    python -m benchmarks.mil_vs_torch --dtype=bfloat16 --batches 64 1024      # the same on a GPU
    python -m benchmarks.mil_vs_torch --padded --rows 256                     # clips of different lengths, masks on both sides

The sizes are those of motion_guidance.md §2, 963,046 parameters on both sides (asserted). Both take the same batch of motion
rows, already on the device, and run forward, label-smoothed cross-entropy, backward, clipping at norm 1.0 and AdamW, with the
same dropout (`--attention_dropout` adds PyTorch's default dropout of attention weights to its side). PyTorch appears with AdamW
"fused" and "foreach". Ours always applies its masks and guards against non-finite steps; without `--padded` the peer gets no
mask. `mtjax+prepare` is our whole step: it starts from poses and makes the motion rows, augmented, inside the same jit, which
the peer does not do at all. `speedup` is PyTorch's time over that of `mtjax` within one round.
"""

import argparse
import copy
import os
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some of the same GPU's memory

import jax
import numpy as np

from benchmarks import pairs
from mtjax.compute import sharding
from mtjax.compute.optim import Optimizer
from mtjax.compute.step import Program
from mtjax.modalities.pose import Pose
from mtjax.models.mil import MotionMIL
from mtjax.run.complexity import forward_gmacs
from mtjax.tasks.classify import Classify

CLASSES, JOINTS, PARAMETERS = 101, 17, 963_046
OPTIMIZER = {"lr": 1e-3, "weight_decay": 0.01, "clip_norm": 1.0}
SMOOTHING = 0.1
AUGMENT = {
    "mirror": 0.5,
    "rotate_deg": 10.0,
    "scale": 0.2,
    "time_crop": 0.3,
}  # configs/mil_mannequin.py, and mirror images
TRAIN_COST = 3.0  # forward passes: one forward, and the backward pass's two products for each of its products


def make_batch(batch: int, rows: int, padded: bool) -> dict[str, np.ndarray]:
    """Motion rows, and poses of as many frames: `padded`, clips are between half as long and whole."""
    rng = np.random.default_rng(0)
    length = rng.integers(rows // 2, rows + 1, batch) if padded else np.full(batch, rows)
    valid = np.arange(rows) < length[:, None]
    pose = rng.uniform(0, 300, (batch, rows, JOINTS, 3)).astype(np.float32)
    pose[..., 2] = 1.0
    return {
        "motion": rng.normal(size=(batch, rows, 3 * JOINTS)).astype(np.float32) * valid[..., None],
        "row_valid": valid,
        "pose": pose,
        "length": length.astype(np.int32),
        "label": rng.integers(0, CLASSES, batch).astype(np.int32),
        "clip": np.arange(batch, dtype=np.int32),
        "valid": np.ones(batch, bool),
    }


def make_program(args: argparse.Namespace, rows: int, *, prepare: bool) -> Program:
    pose = Pose(root="", max_rows=rows, augment=AUGMENT) if prepare else None
    return Program(
        model=lambda rngs: MotionMIL(dtype=args.dtype, rngs=rngs),
        task=Classify(num_classes=CLASSES, hidden=256, dropout=0.1, label_smoothing=SMOOTHING),
        prepare=pose.prepare if pose else lambda batch, train, key: batch,
        optimizer=Optimizer(**OPTIMIZER),
        mesh=sharding.make_mesh(),
        seed=0,
        total_steps=1,
        accumulate=args.accumulate,
    )


def ours(program: Program, arrays: dict[str, np.ndarray], names: set[str]) -> pairs.Contestant:
    size = len(arrays["valid"])
    arrays = {name: arrays[name] for name in names | {"label", "clip", "valid"}}
    batch = sharding.to_global(arrays, sharding.local_positions(size, program.mesh), size, program.mesh)
    holder = {"state": program.init()}

    def train(steps: int) -> None:
        for _ in range(steps):
            holder["state"], metrics = program.train_step(holder["state"], batch)
        jax.block_until_ready((holder["state"], metrics))

    return train


def pytorch(args: argparse.Namespace, arrays: dict[str, np.ndarray]) -> dict[str, pairs.Contestant]:
    """One contestant for each way to run AdamW."""
    import torch

    from benchmarks import mil_torch

    device = torch.device(args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = mil_torch.MotionMIL(classes=CLASSES, attention_dropout=args.attention_dropout).to(device)
    count = sum(p.numel() for p in model.parameters())
    assert count == PARAMETERS, count
    motion = torch.from_numpy(arrays["motion"]).to(device)
    valid = torch.from_numpy(arrays["row_valid"]).to(device) if args.padded else None
    label = torch.from_numpy(arrays["label"]).long().to(device)
    # A micro-batch each, as one writes it where memory is the limit.
    micros = list(zip(*(x.chunk(args.torch_accumulate) for x in (motion, label)), strict=True))
    masks = valid.chunk(args.torch_accumulate) if args.padded else [None] * len(micros)
    return {f"torch {kind}": _trainer(copy.deepcopy(model), micros, masks, kind, args) for kind in args.adamw}


def _trainer(eager: Any, micros: list, masks: list, kind: str, args: argparse.Namespace) -> pairs.Contestant:
    import torch
    from torch.nn import functional

    device = micros[0][0].device.type
    settings = {k: v for k, v in OPTIMIZER.items() if k != "clip_norm"}
    optimizer = torch.optim.AdamW(eager.parameters(), **settings, **{kind: True})
    model = torch.compile(eager) if args.torch_compile else eager

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            for (x, y), valid in zip(micros, masks, strict=True):
                with torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16"):
                    loss = functional.cross_entropy(model(x, valid), y, label_smoothing=SMOOTHING) / len(micros)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(eager.parameters(), OPTIMIZER["clip_norm"])
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return train


def measure(args: argparse.Namespace, batch: int, rows: int) -> None:
    """Prints one table and one JSON line."""
    arrays = make_batch(batch, rows, args.padded)
    bare, whole = (make_program(args, rows, prepare=prepare) for prepare in (False, True))
    assert bare.num_params == whole.num_params == PARAMETERS, bare.num_params
    gmacs = forward_gmacs(
        bare, {k: v for k, v in arrays.items() if k not in ("pose", "length")} | _row_frame(arrays), batch
    )
    sides = {} if args.ours_only else pytorch(args, arrays)
    sides |= {
        "mtjax": ours(bare, arrays, {"motion", "row_valid"}),
        "mtjax+prepare": ours(whole, arrays, {"pose", "length"}),
    }
    steps = pairs.steps_for(args.block_s, sides)
    seconds = pairs.interleave(sides, rounds=args.rounds, steps=steps, clock=args.clock)
    table = []
    for name, values in seconds.items():
        time_ms = pairs.spread([1e3 * s for s in values])
        row = {f"batch {batch}, {rows} rows": name, "ms/step": time_ms["median"]}
        row |= {"clips/s": batch / time_ms["median"] * 1e3}
        row |= {f"speedup {k}": v for k, v in pairs.spread(pairs.ratios(seconds, "mtjax", name)).items()}
        if args.peak_tflops:
            flops = 2e9 * gmacs * batch * TRAIN_COST
            row["share of peak"] = flops / (time_ms["median"] / 1e3) / (args.peak_tflops * 1e12)
        table.append(row)
    pairs.print_table(table)
    settings = {k: v for k, v in vars(args).items() if k not in ("batches", "rows")}
    pairs.print_json("mil_vs_torch", batch=batch, rows=rows, steps_a_block=steps, **settings, table=table)


def _row_frame(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a prediction says about its rows, and training does not read."""
    return {"row_frame": np.zeros(arrays["row_valid"].shape, np.int32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=(64,), help="clips a step")
    parser.add_argument("--rows", type=int, nargs="+", default=(40, 256), help="motion rows a clip")
    parser.add_argument("--padded", action="store_true", help="clips of different lengths; the peer gets masks")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--block_s", type=float, default=1.0, help="a turn lasts about this long, one step at least")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches of our step (train.accumulate)")
    parser.add_argument("--torch_accumulate", type=int, default=1, help="the same for PyTorch")
    parser.add_argument("--adamw", nargs="+", choices=("fused", "foreach"), default=("fused", "foreach"))
    parser.add_argument("--attention_dropout", action="store_true", help="as PyTorch's layers have it by default")
    parser.add_argument("--torch_compile", action="store_true")
    parser.add_argument("--device", default="auto", help="PyTorch's: cpu, cuda; ours follows JAX_PLATFORMS")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="PyTorch's on a CPU; XLA takes all cores")
    parser.add_argument("--clock", choices=pairs.CLOCKS, default="wall", help="cpu: on a busy machine, --threads=1")
    parser.add_argument("--ours_only", action="store_true", help="where PyTorch is not installed")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="of the device in --dtype; adds a share of it")
    args = parser.parse_args()
    print(f"MIL, {PARAMETERS:,} parameters, on {jax.devices()[0].device_kind}")
    for batch in args.batches:
        for rows in args.rows:
            measure(args, batch, rows)


if __name__ == "__main__":
    main()
