"""Full-size CLIP and X-CLIP base/16 with random weights: ours against `transformers`, and the way back.

    python -m benchmarks.clip_parity                      # about 3 minutes and 5 GB of memory
    python -m benchmarks.clip_parity --kinds=xclip --frames=32

Prints the largest absolute difference of embeddings and logits in float32 (the bar: 1e-4), and whether the weights that come
back from our layout are bit-equal.
"""

import argparse
import tempfile

import jax.numpy as jnp
import numpy as np
import torch
import transformers

from benchmarks import pairs
from mtjax import convert
from mtjax.convert import names

KINDS = ("clip", "xclip")
TEXTS, LENGTH, END = 4, 16, 49_407


def reference(kind: str, frames: int) -> torch.nn.Module:
    """Random weights, norms and biases too."""
    torch.manual_seed(0)
    if kind == "clip":
        vision = {"patch_size": 16, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
        model = transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision))
    else:
        vision = {"patch_size": 16, "num_frames": frames}
        model = transformers.XCLIPModel(transformers.XCLIPConfig(vision_config=vision))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def measure(kind: str, frames: int) -> dict[str, object]:
    """Row of the table: largest differences of embeddings and logits, and whether the weights come back equal."""
    model = reference(kind, frames)
    rng = np.random.default_rng(0)
    ids = rng.integers(1, END, (TEXTS, LENGTH)).astype(np.int32)
    ids[:, -1] = END
    shape = (2, 224, 224, 3) if kind == "clip" else (1, frames, 224, 224, 3)
    pixels = rng.normal(size=shape).astype(np.float32)
    with torch.no_grad():
        out = model(torch.from_numpy(ids).long(), torch.from_numpy(np.moveaxis(pixels, -1, -3)))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        keywords, params = convert.convert(kind, folder)
    back = names.to_theirs(convert.room_of(kind).table(keywords), params)
    theirs = {k: v.numpy() for k, v in model.state_dict().items() if not k.endswith("position_ids")}
    ours = convert.build(kind, keywords, params)
    frames_or_images = jnp.asarray(pixels)
    if kind == "clip":
        embedding, wanted = ours.embed_image(frames_or_images), out.vision_model_output.pooler_output
        if wanted.shape[-1] != embedding.shape[-1]:  # transformers before version 5 gives it before the projection
            wanted = model.visual_projection(wanted)
        logits = out.logits_per_image
    else:
        embedding, wanted = ours.embed_video(frames_or_images), out.mit_output.pooler_output
        logits = out.logits_per_video
    found = ours.logits(frames_or_images, jnp.asarray(ids))
    return {
        "model": kind if kind == "clip" else f"{kind}, {frames} frames",
        "parameters": sum(p.size for p in params.values()),
        "embedding": float(np.abs(np.asarray(embedding) - wanted.detach().numpy()).max()),
        "of": float(wanted.detach().abs().max()),
        "logits": float(np.abs(np.asarray(found) - logits.numpy()).max()),
        "back is equal": back.keys() == theirs.keys() and all(np.array_equal(back[k], theirs[k]) for k in back),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--frames", type=int, default=8)
    args = parser.parse_args()
    rows = [measure(kind, args.frames) for kind in args.kinds]
    pairs.print_table(rows)
    pairs.print_json("clip_parity", rows=rows)


if __name__ == "__main__":
    main()
