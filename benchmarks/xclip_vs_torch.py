"""X-CLIP base/16 embeds videos: our jitted `embed_video` against `transformers` with the same random weights, in turns.

    python -m benchmarks.xclip_vs_torch                                                 # CPU, float32: about 15 minutes
    python -m benchmarks.xclip_vs_torch --dtype=bfloat16 --batches 8 64 --peak_tflops=989    # the same on an H200
    python -m benchmarks.xclip_vs_torch --ours_only --batches 64                        # where PyTorch is not installed

The peer is `XCLIPModel.get_video_features` in evaluation and inference mode, with both of its kinds of attention; `speedup`
is its time over ours within one round, for each kind, so read the row of the faster kind. Both sides hold the frames on the
device, in their own layout. `difference` is the largest of any embedding, to be read beside `of`, the largest value.
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
from mtjax.models.xclip import VideoEncoder
from mtjax.run.complexity import multiplications

ATTENTION = ("sdpa", "eager")  # what transformers calls its kinds


class Ours:
    """The video side alone: what a student or `predict` runs."""

    def __init__(self, model: nnx.Module):
        graph, self.state = nnx.split(model)
        self.pure = lambda state, frames: nnx.merge(graph, state).embed_video(frames)
        self.embed = jax.jit(self.pure)

    def contestant(self, pixels: np.ndarray) -> pairs.Contestant:
        frames = jnp.asarray(pixels)

        def run(steps: int) -> None:
            for _ in range(steps):
                out = self.embed(self.state, frames)
            out.block_until_ready()

        return run

    def gmacs(self, frames: int) -> float:
        """Of one video."""
        shape = jax.ShapeDtypeStruct((1, frames, 224, 224, 3), jnp.float32)
        return multiplications(self.pure, self.state, shape) / 1e9


class Theirs:
    """`transformers`, in one kind of attention at a time."""

    def __init__(self, model: Any, device: str, dtype: str):
        import torch

        self.torch, self.device, self.dtype = torch, device, getattr(torch, dtype)
        self.model = model.to(device, self.dtype)

    def embed(self, frames: Any, attention: str) -> Any:
        if self.model.config._attn_implementation != attention:
            self.model.set_attn_implementation(attention)
        with self.torch.inference_mode():
            out = self.model.get_video_features(pixel_values=frames)
        return getattr(out, "pooler_output", out)  # before version 5 it was the embedding itself

    def frames(self, pixels: np.ndarray) -> Any:
        return self.torch.from_numpy(np.moveaxis(pixels, -1, -3).copy()).to(self.device, self.dtype)

    def contestant(self, pixels: np.ndarray, attention: str) -> pairs.Contestant:
        frames = self.frames(pixels)

        def run(steps: int) -> None:
            for _ in range(steps):
                self.embed(frames, attention)
            if self.device == "cuda":
                self.torch.cuda.synchronize()

        return run


def make(args: argparse.Namespace) -> tuple[Ours, Theirs | None]:
    """Both sides with the same weights."""
    changes = {"dtype": args.dtype, "chunk": args.chunk}
    if args.ours_only:
        return Ours(VideoEncoder(frames=args.frames, **changes, rngs=nnx.Rngs(0))), None
    import torch

    from benchmarks.clip_parity import reference

    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = reference("xclip", args.frames)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        ours = Ours(convert.load("xclip", folder, **changes))
    return ours, Theirs(model, device, args.dtype)


def measure(args: argparse.Namespace, batch: int, ours: Ours, theirs: Theirs | None, gmacs: float) -> None:
    """Prints one table and one JSON line."""
    pixels = np.random.default_rng(0).normal(size=(batch, args.frames, 224, 224, 3)).astype(np.float32)
    agreement, sides = {}, {}
    if theirs is not None:
        sides = {attention: theirs.contestant(pixels, attention) for attention in args.attention}
        found = np.asarray(ours.embed(ours.state, jnp.asarray(pixels)), np.float32)
        wanted = theirs.embed(theirs.frames(pixels), args.attention[0]).float().cpu().numpy()
        agreement = {"difference": float(np.abs(found - wanted).max()), "of": float(np.abs(wanted).max())}
    sides |= {"mtjax": ours.contestant(pixels)}
    steps = pairs.steps_for(args.block_s, sides)
    seconds = pairs.interleave(sides, rounds=args.rounds, steps=steps, clock=args.clock)
    rows = []
    for name, values in seconds.items():
        time_ms = pairs.spread([1e3 * s for s in values])
        row = {f"batch {batch}": name, "ms": time_ms["median"], "videos/s": batch / time_ms["median"] * 1e3}
        row |= {f"speedup {k}": v for k, v in pairs.spread(pairs.ratios(seconds, "mtjax", name)).items()}
        if args.peak_tflops:
            row["share of peak"] = 2e9 * gmacs * batch / (time_ms["median"] / 1e3) / (args.peak_tflops * 1e12)
        rows.append(row)
    pairs.print_table(rows)
    settings = {k: v for k, v in vars(args).items() if k != "batches"}
    pairs.print_json("xclip_vs_torch", batch=batch, steps_a_block=steps, **settings, **agreement, rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 2, 4), help="videos at a time")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block_s", type=float, default=1.0, help="a turn lasts about this long, one step at least")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--chunk", type=int, default=0, help="our model.chunk; 2 or 0 is best on a CPU, by its caches")
    parser.add_argument("--attention", nargs="+", choices=ATTENTION, default=ATTENTION)
    parser.add_argument("--device", default="auto", help="PyTorch's: cpu, cuda; ours follows JAX_PLATFORMS")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="PyTorch's on a CPU; XLA takes all cores")
    parser.add_argument("--clock", choices=pairs.CLOCKS, default="wall", help="cpu: on a busy machine, --threads=1")
    parser.add_argument("--ours_only", action="store_true", help="where PyTorch is not installed")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="of the device in --dtype; adds a share of it")
    args = parser.parse_args()
    ours, theirs = make(args)
    gmacs = ours.gmacs(args.frames)
    print(f"X-CLIP base/16, {args.frames} frames, {gmacs:.1f} GMAC a video, on {jax.devices()[0].device_kind}")
    for batch in args.batches:
        measure(args, batch, ours, theirs, gmacs)


if __name__ == "__main__":
    main()
