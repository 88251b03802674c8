"""Video networks: a training step or inference, ours and eager PyTorch's in turns, with the same weights.

    python -m benchmarks.conv3d_vs_torch                                             # a step of R(2+1)D-18 on flow, 8 clips
    python -m benchmarks.conv3d_vs_torch --kind=s3dg --predict --frames=64 --size=224 --batches 1
    python -m benchmarks.conv3d_vs_torch --dtype=bfloat16 --batches 8 64 --peak_tflops=989    # the same on an H200
    python -m benchmarks.conv3d_vs_torch --ours_only                                 # where PyTorch is not installed

The step is our real `Program.train_step` (clips on the device; forward, cross-entropy, backward, SGD with momentum and decay,
the non-finite guard) against the same in PyTorch; `--predict` compares logits of a clip, BatchNorm with running statistics. The
peer (benchmarks/conv3d_torch.py) runs in both of its layouts, channels first and `channels_last_3d`: read the row of the faster.
`speedup` is its time over ours within one round. `difference` in the JSON line is the largest of any logit in evaluation, to be
read beside `of`, the largest logit.
"""

import argparse
import os
import tempfile
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some of the same GPU's memory

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import pairs
from mtjax import convert
from mtjax.compute import sharding
from mtjax.compute.optim import Optimizer
from mtjax.compute.step import Program
from mtjax.models.r2plus1d import R2Plus1D18
from mtjax.models.r3d import R3D18
from mtjax.models.s3dg import S3DG
from mtjax.models.video_network import VideoClassifier, VideoNetwork
from mtjax.run.complexity import multiplications
from mtjax.tasks.classify import Classify

OPTIMIZER = {"name": "sgd", "lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}  # motionfit.md §4
ROOMS = {"r2plus1d": "r2plus1d", "r3d": "r3d", "s3dg": "s3dg", "s3d": "s3dg"}  # peer → kind of `mtjax.convert`
NETWORKS = {
    "r2plus1d": (R2Plus1D18, {}), "r3d": (R3D18, {}), "s3dg": (S3DG, {"stem": "space_to_depth"}),
    "s3d": (S3DG, {"gating": False, "average": "windows"}),
}  # fmt: skip
TRAIN_COST = 3.0  # forward passes: one forward, and the backward pass's two products for each of its products


class Ours:
    """A network with the peer's weights, as a converted classifier and inside a `Program`."""

    def __init__(self, args: argparse.Namespace, source: str):
        """`source`: the peer's checkpoint, "" for random weights."""
        changes = {"dtype": args.dtype, "remat": args.remat}
        if source:
            keywords, self.params = convert.convert(ROOMS[args.kind], source)
            self.keywords = {k: v for k, v in keywords.items() if k != "classes"} | changes
            model = convert.build(ROOMS[args.kind], keywords | changes, self.params)
        else:
            make, keywords = NETWORKS[args.kind]
            self.keywords, self.params = keywords | {"channels": args.channels} | changes, {}
            model = VideoClassifier(make(**self.keywords, rngs=nnx.Rngs(0)), args.classes, rngs=nnx.Rngs(0))
        graph, self.state = nnx.split(model)
        self.pure = lambda state, clip: nnx.merge(graph, state)(clip, train=False)
        self.logits = jax.jit(self.pure)
        self.args, self.network = args, type(model.backbone)

    def gmacs(self, clip: np.ndarray) -> float:
        """Of one clip's forward pass."""
        return multiplications(self.pure, self.state, jax.ShapeDtypeStruct((1, *clip.shape[1:]), jnp.float32)) / 1e9

    def predictor(self, clip: np.ndarray) -> pairs.Contestant:
        """Logits of this clip, as `pairs.interleave` times them."""
        held = jnp.asarray(clip)

        def run(steps: int) -> None:
            for _ in range(steps):
                out = self.logits(self.state, held)
            out.block_until_ready()

        return run

    def trainer(self, clip: np.ndarray, label: np.ndarray) -> pairs.Contestant:
        """The training step on this batch, as `pairs.interleave` times it."""

        def backbone(rngs: nnx.Rngs) -> VideoNetwork:
            return self.network(**self.keywords, rngs=rngs)

        program = Program(
            model=backbone, task=Classify(num_classes=self.args.classes), prepare=lambda batch, train, key: batch,
            optimizer=Optimizer(**OPTIMIZER), mesh=sharding.make_mesh(), seed=0, total_steps=1,
        )  # fmt: skip
        holder = {"state": program.init(self.params)}
        rows = np.arange(len(label), dtype=np.int32)
        batch = {"frames": clip, "label": label, "clip": rows, "valid": np.ones(len(label), bool)}
        batch = sharding.to_global(batch, sharding.local_positions(len(label), program.mesh), len(label), program.mesh)

        def run(steps: int) -> None:
            for _ in range(steps):
                holder["state"], metrics = program.train_step(holder["state"], batch)
            jax.block_until_ready((holder["state"], metrics))

        return run


class Theirs:
    """The peer in one memory layout."""

    def __init__(self, args: argparse.Namespace, weights: dict[str, Any], layout: str):
        import torch

        self.args, self.torch = args, torch
        self.device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self.layout = getattr(torch, layout)
        self.model = peer(args).to(self.device)
        self.model.load_state_dict(weights)
        self.model.to(memory_format=self.layout)

    def clip(self, clip: np.ndarray) -> Any:
        first = self.torch.from_numpy(np.moveaxis(clip, -1, 1).copy()).to(self.device)
        return first.to(memory_format=self.layout)

    def autocast(self) -> Any:
        return self.torch.autocast(self.device, self.torch.bfloat16, enabled=self.args.dtype == "bfloat16")

    def logits(self, clip: Any) -> Any:
        with self.torch.inference_mode(), self.autocast():
            return self.model.eval()(clip)

    def wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def predictor(self, clip: np.ndarray) -> pairs.Contestant:
        """Logits of this clip, as `pairs.interleave` times them."""
        held = self.clip(clip)

        def run(steps: int) -> None:
            for _ in range(steps):
                self.logits(held)
            self.wait()

        return run

    def trainer(self, clip: np.ndarray, label: np.ndarray) -> pairs.Contestant:
        """The training step on this batch, as `pairs.interleave` times it."""
        held, label = self.clip(clip), self.torch.from_numpy(label).long().to(self.device)
        settings = {k: v for k, v in OPTIMIZER.items() if k != "name"}
        optimizer = self.torch.optim.SGD(self.model.parameters(), **settings)

        def run(steps: int) -> None:
            self.model.train()
            for _ in range(steps):
                optimizer.zero_grad(set_to_none=True)
                with self.autocast():
                    loss = self.torch.nn.functional.cross_entropy(self.model(held), label)
                loss.backward()
                optimizer.step()
            self.wait()

        return run


def peer(args: argparse.Namespace) -> Any:
    from benchmarks import conv3d_torch

    return conv3d_torch.make(args.kind, channels=args.channels, classes=args.classes)


def weights_of(args: argparse.Namespace) -> dict[str, Any]:
    """The peer's random ones; also sets PyTorch up."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return peer(args).state_dict()


def saved(weights: dict[str, Any], file: str) -> str:
    import torch

    torch.save(weights, file)
    return file


def measure(args: argparse.Namespace, batch: int) -> None:
    """Prints one table and one JSON line."""
    weights = None if args.ours_only else weights_of(args)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(args, saved(weights, f"{folder}/weights.pth") if weights else "")
    rng = np.random.default_rng(0)
    clip = rng.normal(size=(batch, args.frames, args.size, args.size, args.channels)).astype(np.float32)
    label = rng.integers(0, args.classes, batch).astype(np.int32)
    gmacs, sides, agreement = ours.gmacs(clip), {}, {}
    for layout in args.layouts if weights else ():
        theirs = Theirs(args, weights, layout)
        wanted = theirs.logits(theirs.clip(clip)).float().cpu().numpy()
        found = np.asarray(ours.logits(ours.state, jnp.asarray(clip)), np.float32)
        agreement = {"difference": float(np.abs(found - wanted).max()), "of": float(np.abs(wanted).max())}
        sides[f"torch {layout}"] = theirs.predictor(clip) if args.predict else theirs.trainer(clip, label)
    sides["mtjax"] = ours.predictor(clip) if args.predict else ours.trainer(clip, label)
    steps = pairs.steps_for(args.block_s, sides)
    seconds = pairs.interleave(sides, rounds=args.rounds, steps=steps, clock=args.clock)
    rows = []
    for name, values in seconds.items():
        time_ms = pairs.spread([1e3 * s for s in values])
        row = {f"batch {batch}": name, "ms": time_ms["median"], "clips/s": batch / time_ms["median"] * 1e3}
        row |= {f"speedup {k}": v for k, v in pairs.spread(pairs.ratios(seconds, "mtjax", name)).items()}
        if args.peak_tflops:
            flops = 2e9 * gmacs * batch * (1.0 if args.predict else TRAIN_COST)
            row["share of peak"] = flops / (time_ms["median"] / 1e3) / (args.peak_tflops * 1e12)
        rows.append(row)
    pairs.print_table(rows)
    settings = {k: v for k, v in vars(args).items() if k != "batches"}
    pairs.print_json(
        "conv3d_vs_torch", batch=batch, gmacs=gmacs, steps_a_block=steps, **settings, **agreement, rows=rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=tuple(ROOMS), default="r2plus1d")
    parser.add_argument("--predict", action="store_true", help="logits in evaluation instead of a training step")
    parser.add_argument("--batches", type=int, nargs="+", default=(8,), help="clips at a time")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--channels", type=int, default=2, help="2: flow, 3: RGB")
    parser.add_argument("--classes", type=int, default=101)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block_s", type=float, default=1.0, help="a turn lasts about this long, one step at least")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="PyTorch: autocast")
    parser.add_argument("--remat", action="store_true", help="our model.remat")
    parser.add_argument("--layouts", nargs="+", default=("contiguous_format", "channels_last_3d"), help="PyTorch's")
    parser.add_argument("--device", default="auto", help="PyTorch's: cpu, cuda; ours follows JAX_PLATFORMS")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="PyTorch's on a CPU; XLA takes all cores")
    parser.add_argument("--clock", choices=pairs.CLOCKS, default="wall", help="cpu: on a busy machine, --threads=1")
    parser.add_argument("--ours_only", action="store_true", help="where PyTorch is not installed")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="of the device in --dtype; adds a share of it")
    args = parser.parse_args()
    print(f"{args.kind}, {args.frames} frames of {args.size} × {args.size}, on {jax.devices()[0].device_kind}")
    for batch in args.batches:
        measure(args, batch)


if __name__ == "__main__":
    main()
