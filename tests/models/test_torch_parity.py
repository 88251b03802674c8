"""Our MovT against the PyTorch reference (benchmarks/movt_torch.py) with the same weights: outputs, masks, gradients.

The golden file holds weights, inputs and outputs of a tiny reference, so that most of this also runs without PyTorch. After a
deliberate change of the model, write it anew:

    python tests/models/test_torch_parity.py --regenerate
"""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtjax.compute.step import Net
from mtjax.models import movt
from mtjax.tasks import losses
from mtjax.tasks.classify import Classify
from mtjax.types import random_streams

GOLDEN = Path(__file__).parent / "golden" / "movt.npz"
REFERENCE = Path(__file__).parents[2] / "benchmarks" / "movt_torch.py"
CLASSES = 3
TINY = {"motion": (6, 8), "branch": 8, "position": (6,), "fuse": True, "layers": 2, "heads": 4, "feed_forward": 12}
CONFIGS = {"tiny": TINY, "no_fusion": TINY | {"fuse": False}, "calibrated": movt.CALIBRATED, "full": movt.FULL_COUNT}

# How PyTorch lays out what we call by the same kind: to_torch(ours), from_torch(theirs, our shape).
LAYOUTS = {
    "same": (lambda a: a, lambda a, shape: a),
    "linear": (lambda a: a.T, lambda a, shape: a.T),  # [in, out] ↔ [out, in]
    "conv": (lambda a: a.transpose(2, 1, 0), lambda a, shape: a.transpose(2, 1, 0)),  # [k, in, out] ↔ [out, in, k]
    "qkv": (lambda a: a.reshape(len(a), -1).T, lambda a, shape: a.T.reshape(shape)),  # [d, 3, h, d/h] ↔ [3d, d]
    "flat": (lambda a: a.reshape(-1), lambda a, shape: a.reshape(shape)),  # [3, h, d/h] ↔ [3d]
    "out": (lambda a: a.reshape(-1, a.shape[-1]).T, lambda a, shape: a.T.reshape(shape)),  # [h, d/h, d] ↔ [d, d]
}


def name_table(config: dict) -> dict[str, tuple[str, str]]:
    """Our name → (PyTorch's name, layout): every leaf of the classifier."""
    table = {
        "backbone/temporal/kernel": ("temporal.weight", "conv"),
        "backbone/temporal/bias": ("temporal.bias", "same"),
    }
    linears = {"head": "head"} | ({"backbone/fusion": "fusion"} if config["fuse"] else {})
    for i in range(len(config["motion"])):
        linears[f"backbone/motion/linears/{i}"] = f"motion.{2 * i}"  # a ReLU stands between two
    for i in range(len(config["position"]) + 1):
        linears[f"backbone/position/linears/{i}"] = f"position.{2 * i}"
    for i in range(config.get("layers", 4)):
        ours, theirs = f"backbone/layers/{i}", f"encoder.layers.{i}"
        linears |= {f"{ours}/up": f"{theirs}.linear1", f"{ours}/down": f"{theirs}.linear2"}
        table[f"{ours}/attention/qkv/kernel"] = (f"{theirs}.self_attn.in_proj_weight", "qkv")
        table[f"{ours}/attention/qkv/bias"] = (f"{theirs}.self_attn.in_proj_bias", "flat")
        table[f"{ours}/attention/out/kernel"] = (f"{theirs}.self_attn.out_proj.weight", "out")
        table[f"{ours}/attention/out/bias"] = (f"{theirs}.self_attn.out_proj.bias", "same")
        for norm, number in (("attention_norm", 1), ("mlp_norm", 2)):
            table[f"{ours}/{norm}/scale"] = (f"{theirs}.norm{number}.weight", "same")
            table[f"{ours}/{norm}/bias"] = (f"{theirs}.norm{number}.bias", "same")
    for ours, theirs in linears.items():
        table[f"{ours}/kernel"], table[f"{ours}/bias"] = (f"{theirs}.weight", "linear"), (f"{theirs}.bias", "same")
    return table


def our_net(config: dict) -> Net:
    def make(key):
        rngs = random_streams(params=key)
        return Classify(num_classes=CLASSES).assemble(movt.MovT(**config, rngs=rngs), rngs=rngs)

    return Net(make, nnx.Param)


def our_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    return {k: v.shape for k, v in jax.eval_shape(our_net(config).init, jax.random.key(0))[0].items()}


def reference(config: dict, seed: int = 0):
    """The PyTorch model in evaluation mode, with random biases and scales too: their order shall matter."""
    torch = pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("movt_torch", REFERENCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(seed)
    model = module.MovT(classes=CLASSES, **config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def from_torch(model, config: dict) -> dict[str, np.ndarray]:
    """The reference's weights under our names."""
    theirs = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    return _ours(theirs, config)


def _ours(theirs: dict[str, np.ndarray], config: dict) -> dict[str, np.ndarray]:
    shapes = our_shapes(config)
    return {ours: LAYOUTS[kind][1](theirs[name], shapes[ours]) for ours, (name, kind) in name_table(config).items()}


def make_batch(b=4, t=7, n=5, *, masks: bool, seed=0) -> dict[str, np.ndarray]:
    """With `masks`: clips of different lengths padded at the end, points missing anywhere, rubbish in the padding."""
    rng = np.random.default_rng(seed)
    tracks = rng.normal(size=(b, t, n, 3)).astype(np.float32)
    tracks[..., 2] = tracks[..., 2] > 0.5
    frame_valid, point_valid = np.ones((b, t), bool), np.ones((b, n), bool)
    if masks:
        frame_valid = np.arange(t) < rng.integers(1, t + 1, b)[:, None]
        point_valid = rng.random((b, n)) < 0.6
        point_valid[:, n // 2] = True
        tracks[~frame_valid] = 9.0
        tracks = np.where(point_valid[:, None, :, None], tracks, np.float32(-9.0))
    label = rng.integers(0, CLASSES, b).astype(np.int32)
    return {"tracks": tracks, "frame_valid": frame_valid, "point_valid": point_valid, "label": label}


def our_logits(params, config: dict, batch: dict) -> np.ndarray:
    net = our_net(config)
    return np.asarray(jax.jit(lambda p, b: net.merge(p, {})(b, train=False)[0])(params, batch))


def our_gradients(params, config: dict, batch: dict) -> dict[str, np.ndarray]:
    """Of the mean cross-entropy, without dropout."""
    net = our_net(config)

    def loss(p, b):
        return losses.cross_entropy(net.merge(p, {})(b, train=False)[0], b["label"]).mean()

    return jax.tree.map(np.asarray, jax.jit(jax.grad(loss))({k: jnp.asarray(v) for k, v in params.items()}, batch))


def their_logits(model, batch: dict, *, masks: bool = True):
    import torch

    tracks, frames, points = (torch.from_numpy(batch[k]) for k in ("tracks", "frame_valid", "point_valid"))
    return model(tracks, frames, points) if masks else model(tracks)


def their_gradients(model, config: dict, batch: dict) -> dict[str, np.ndarray]:
    import torch

    model.zero_grad()
    label = torch.from_numpy(batch["label"]).long()
    torch.nn.functional.cross_entropy(their_logits(model, batch), label).backward()
    return _ours({name: p.grad.numpy() for name, p in model.named_parameters()}, config)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_leaf_has_its_counterpart_in_both_directions(name):
    config = CONFIGS[name]
    model, table, shapes = reference(config), name_table(config), our_shapes(config)
    assert set(table) == set(shapes)
    assert sorted(theirs for theirs, _ in table.values()) == sorted(model.state_dict())
    params = from_torch(model, config)
    assert {k: v.shape for k, v in params.items()} == shapes
    for ours, (theirs, kind) in table.items():
        np.testing.assert_array_equal(LAYOUTS[kind][0](params[ours]), model.state_dict()[theirs].numpy(), err_msg=ours)


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_agree(name):
    torch = pytest.importorskip("torch")
    config = CONFIGS[name]
    batch = make_batch(masks=False) if config["branch"] == 8 else make_batch(2, 32, 60, masks=False)
    model = reference(config)
    ours = our_logits(from_torch(model, config), config, batch)
    with torch.inference_mode():
        fast = their_logits(model, batch, masks=False)  # the encoder's fused inference path
    for theirs in (fast, their_logits(model, batch, masks=False), their_logits(model, batch)):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-4, rtol=0)


def test_padding_agrees_with_masks_and_with_cropping():
    torch = pytest.importorskip("torch")
    batch, model = make_batch(b=8, masks=True), reference(TINY)
    ours = our_logits(from_torch(model, TINY), TINY, batch)
    np.testing.assert_allclose(ours, their_logits(model, batch).detach().numpy(), atol=1e-4, rtol=0)
    for row, tracks in enumerate(batch["tracks"]):
        cropped = torch.from_numpy(tracks[batch["frame_valid"][row]][:, batch["point_valid"][row]])
        np.testing.assert_allclose(ours[row], model(cropped[None])[0].detach().numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("masks", [False, True])
def test_gradients_agree(masks):
    batch, model = make_batch(masks=masks), reference(TINY)
    ours = our_gradients(from_torch(model, TINY), TINY, batch)
    for name, theirs in their_gradients(model, TINY, batch).items():
        np.testing.assert_allclose(ours[name], theirs, atol=1e-5, rtol=1e-3, err_msg=name)


def test_golden_outputs_and_gradients():
    """What PyTorch gave when the file was written; needs no PyTorch now."""
    with np.load(GOLDEN) as arrays:
        golden = dict(arrays)

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}

    batch, params, gradients = part("batch/"), part("params/"), part("gradients/")
    assert {k: v.shape for k, v in params.items()} == our_shapes(TINY)
    np.testing.assert_allclose(our_logits(params, TINY, batch), golden["logits"], atol=1e-4, rtol=0)
    found = our_gradients(params, TINY, batch)
    for name, expected in gradients.items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5, rtol=1e-3, err_msg=name)


def regenerate() -> None:
    """Writes the golden file from the reference."""
    batch, model = make_batch(masks=True), reference(TINY)
    arrays = {f"batch/{k}": v for k, v in batch.items()}
    arrays |= {f"params/{k}": v for k, v in from_torch(model, TINY).items()}
    arrays |= {f"gradients/{k}": v for k, v in their_gradients(model, TINY, batch).items()}
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, logits=their_logits(model, batch).detach().numpy(), **arrays)
    print(f"wrote {GOLDEN}, {GOLDEN.stat().st_size:,} bytes")


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit(__doc__)
    regenerate()
