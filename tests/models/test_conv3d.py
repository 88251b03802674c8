"""R(2+1)D-18, R3D-18, S3D-G: parity with PyTorch (benchmarks/conv3d_torch.py), BatchNorm, frozen stages, conversion.

The golden file holds what the reference gave for weights that a seed determines, so that parity is also checked without
PyTorch. After a deliberate change of the networks, write it anew:

    python tests/models/test_conv3d.py --regenerate
"""

import functools
import importlib.util
import math
import shutil
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import config_of, image_bytes, make_dataset, run_main, train_here
from flax import nnx
from jax import lax
from safetensors.numpy import load_file, save_file

from mtjax import convert, records
from mtjax.compute import sharding
from mtjax.compute.optim import Optimizer
from mtjax.compute.step import Program
from mtjax.convert import names
from mtjax.models import batch_norm, convolution, r2plus1d, r3d, s3dg
from mtjax.models.batch_norm import BatchNorm
from mtjax.models.frozen import Frozen
from mtjax.models.video_network import ConvNorm, Fixed, VideoClassifier, VideoNetwork
from mtjax.run import checkpoint, initial_weights
from mtjax.run.complexity import multiplications
from mtjax.run.experiment import Experiment, checkpoints_of
from mtjax.tasks.classify import Classify
from mtjax.tasks.distill import Distill
from mtjax.tasks.multi_clip import MultiClip
from mtjax.types import random_streams

GOLDEN = Path(__file__).parent / "golden" / "conv3d.npz"
REFERENCE = Path(__file__).parents[2] / "benchmarks" / "conv3d_torch.py"
CLASSES, STEPS = 5, 3
# Peer → kind of `mtjax.convert`, constructor keywords, shape of a batch of clips.
TORCHVISION_S3D = {"gating": False, "average": "windows", "epsilon": 1e-3, "momentum": 1e-3}
HOWTO100M = {"gating": True, "stem": "space_to_depth", "average": "all", "epsilon": 1e-5, "momentum": 0.1}
PEERS = {
    "r2plus1d": ("r2plus1d", {"channels": 2}, (2, 8, 32, 32, 2)),
    "r3d": ("r3d", {"channels": 3}, (2, 8, 32, 32, 3)),
    "s3dg": ("s3dg", {"channels": 3} | HOWTO100M, (2, 16, 64, 64, 3)),
    "s3d": ("s3dg", {"channels": 3, "stem": "separable"} | TORCHVISION_S3D, (1, 16, 224, 224, 3)),
}
TRAINED = ("r2plus1d", "s3dg")  # with statistics of the batch; the others are made of the same parts


def keywords_of(peer: str) -> dict:
    return PEERS[peer][1] | {"classes": CLASSES}


@functools.cache
def weights_of(peer: str) -> dict[str, np.ndarray]:
    """Our parameters by path, each from its own seed; activations keep their size from layer to layer."""
    kind = PEERS[peer][0]
    module = nnx.eval_shape(lambda: convert._construct(kind, **keywords_of(peer)))
    out = {}
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        name, shape = "/".join(map(str, path)), variable.shape
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
        if name.endswith("kernel"):
            out[name] = noise * math.sqrt(2.0 / math.prod(shape[:-1]))
        elif name.endswith(("scale", "var")):
            out[name] = np.float32(0.8) + np.abs(np.float32(0.2) * noise)
        else:
            out[name] = np.float32(0.1) * noise
    return out


def clip_of(peer: str) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(PEERS[peer][2], np.float32)


def published(peer: str) -> dict[str, np.ndarray]:
    """The same weights under the published names."""
    room = convert.room_of(PEERS[peer][0])
    return names.to_theirs(room.table(keywords_of(peer)), weights_of(peer))


@functools.cache
def reference(peer: str):
    """The PyTorch network with the same weights."""
    import torch

    spec = importlib.util.spec_from_file_location("conv3d_torch", REFERENCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.make(peer, channels=PEERS[peer][1]["channels"], classes=CLASSES)
    model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in published(peer).items()})
    return model


def to_torch(clip: np.ndarray):
    import torch

    return torch.from_numpy(np.moveaxis(clip, -1, 1).copy())


def expected_of(peer: str) -> dict[str, np.ndarray]:
    """What the reference gives: logits, then logits and running statistics of training steps that update nothing else."""
    import copy

    import torch

    model, clip = copy.deepcopy(reference(peer)), clip_of(peer)
    out = {}
    with torch.no_grad():
        out["logits"] = model.eval()(to_torch(clip)).numpy()
        for i in range(STEPS if peer in TRAINED else 0):
            out[f"train{i}"] = model.train()(to_torch((1 + i) * clip)).numpy()
    if peer in TRAINED:
        state = {k: v.numpy() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        ours = names.to_ours(convert.room_of(PEERS[peer][0]).table(keywords_of(peer)), state)
        kept = [k for k in sorted(ours) if k.endswith(("mean", "var"))]
        out["statistics"] = np.concatenate([ours[k] for k in kept[:: 1 if peer == "r2plus1d" else 8]])
    return out


@functools.cache
def built(peer: str) -> tuple[nnx.GraphDef, dict]:
    model = convert.build(PEERS[peer][0], keywords_of(peer), weights_of(peer))
    return nnx.split(model)


@functools.cache
def forward(peer: str, train: bool):
    """(state, clip) → (logits, state), jitted."""
    graph, _ = built(peer)

    def call(state, clip):
        model = nnx.merge(graph, state, copy=True)
        return model(clip, train=train), nnx.state(model)

    return jax.jit(call)


def check(peer: str, expected: dict[str, np.ndarray]) -> None:
    state, clip = built(peer)[1], jnp.asarray(clip_of(peer))
    logits, same = forward(peer, False)(state, clip)
    assert 0.1 < np.abs(expected["logits"]).max() < 100
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), same, state)), "evaluation changed the state"
    if peer not in TRAINED:
        return
    for i in range(STEPS):
        logits, state = forward(peer, True)(state, (1 + i) * clip)
        np.testing.assert_allclose(logits, expected[f"train{i}"], atol=1e-3)
    flat = {"/".join(map(str, path)): v.get_value() for path, v in nnx.to_flat_state(state)}
    kept = [k for k in sorted(flat) if k.endswith(("mean", "var"))][:: 1 if peer == "r2plus1d" else 8]
    # As wide as the logits: few positions are left for a statistic of S3D-G; PyTorch differs by 2.4e-4 between processors.
    np.testing.assert_allclose(np.concatenate([flat[k] for k in kept]), expected["statistics"], rtol=1e-4, atol=1e-3)


# Parity.


@pytest.mark.parametrize("peer", PEERS)
def test_golden_logits_and_statistics(peer):
    with np.load(GOLDEN) as arrays:
        check(peer, {k.split("/")[1]: arrays[k] for k in arrays.files if k.startswith(f"{peer}/")})


@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS)
def test_the_golden_file_holds_what_the_reference_gives(peer):
    pytest.importorskip("torch")
    found = expected_of(peer)
    with np.load(GOLDEN) as arrays:
        assert {k.split("/")[1] for k in arrays.files if k.startswith(f"{peer}/")} == set(found)
        for name, value in found.items():  # PyTorch's statistics differ by 2.4e-4 between processors
            atol = 1e-4 if name == "logits" else 1e-3
            np.testing.assert_allclose(value, arrays[f"{peer}/{name}"], rtol=1e-4, atol=atol, err_msg=name)


@pytest.mark.parametrize("peer", ["r2plus1d", "r3d"])
def test_every_stage_agrees(peer):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        expected = reference(peer).eval().stages(to_torch(clip_of(peer)))
    model = nnx.merge(*built(peer), copy=True)
    found = nnx.jit(lambda m, x: m.backbone.stages(x, train=False))(model, jnp.asarray(clip_of(peer)))
    for name, theirs in zip(("stem", "layer1", "layer2", "layer3", "layer4"), expected, strict=True):
        np.testing.assert_allclose(np.moveaxis(found[name], -1, 1), theirs.numpy(), atol=1e-4)


def test_gradients_are_those_of_the_reference():
    """Through the first three stages: every kind of unit, strides and a shortcut among them."""
    pytest.importorskip("torch")
    import copy

    model, clip = copy.deepcopy(reference("r2plus1d")).train(), clip_of("r2plus1d")
    model.stages(to_torch(clip))[2].pow(3).sum().backward()
    gradients = {k: p.grad.numpy() for k, p in model.named_parameters() if p.grad is not None}
    graph, params, rest = nnx.split(nnx.merge(*built("r2plus1d"), copy=True), nnx.Param, ...)

    def loss(params, rest):
        backbone = nnx.merge(graph, params, rest, copy=True).backbone
        return (backbone.stages(jnp.asarray(clip), train=True)["layer2"] ** 3).sum()

    found = jax.jit(jax.grad(loss))(params, rest)
    flat = {"/".join(map(str, path)): np.asarray(v.get_value()) for path, v in nnx.to_flat_state(found)}
    flat = {k: v for k, v in flat.items() if k.split("/")[1] in ("stem", "layer1", "layer2")}
    table = [e for e in convert.room_of("r2plus1d").table(keywords_of("r2plus1d")) if e.ours in flat]
    for name, gradient in names.to_theirs(table, flat).items():
        theirs = gradients.pop(name)
        # Not closer: a ReLU whose input is nearly 0 may be on here and off there, and is worth percents of a small batch.
        cosine = (gradient * theirs).sum() / np.linalg.norm(gradient) / np.linalg.norm(theirs)
        assert cosine > 0.99 and abs(np.linalg.norm(gradient) / np.linalg.norm(theirs) - 1) < 0.1, name
    assert not gradients


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((1, 3, 3), (1, 1, 1), ((0, 0), (1, 1), (1, 1))),
        ((1, 7, 7), (1, 2, 2), ((0, 0), (3, 3), (3, 3))),
        ((3, 1, 1), (1, 1, 1), ((1, 1), (0, 0), (0, 0))),
        ((3, 1, 1), (2, 1, 1), ((1, 1), (0, 0), (0, 0))),
        ((1, 1, 1), (2, 2, 2), ((0, 0),) * 3),
        ((3, 3, 3), (2, 2, 2), ((1, 1),) * 3),
        ((2, 4, 4), (1, 1, 1), ((0, 1), (1, 2), (1, 2))),
    ],
)
@pytest.mark.parametrize("patches_bytes", [1 << 20, 1])
def test_convolutions_and_their_gradients_are_xlas(kernel, stride, padding, patches_bytes, monkeypatch):
    """Also where the gradient of the kernel is added up of many small blocks."""
    monkeypatch.setattr(convolution, "PATCHES_BYTES", patches_bytes)
    monkeypatch.setattr(convolution, "MIN_ROWS", 256 if patches_bytes > 1 else 8)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 6, 12, 10, 3), np.float32))
    weights = jnp.asarray(rng.standard_normal((*kernel, 3, 4), np.float32))

    def xlas(x, weights):
        numbers = ("NTHWC", "THWIO", "NTHWC")
        return lax.conv_general_dilated(x, weights, stride, padding, dimension_numbers=numbers)

    found, pull = jax.vjp(lambda x, w: convolution.convolve(x, w, stride, padding), x, weights)
    expected, pull_too = jax.vjp(xlas, x, weights)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    of_y = jnp.asarray(rng.standard_normal(expected.shape, np.float32))
    for ours, theirs in zip(pull(of_y), pull_too(of_y), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("kernel", "stride", "pads"), [((1, 3, 3), (1, 2, 2), 1), ((3, 3, 3), (1, 1, 1), 1), ((2, 2, 2), (2, 2, 2), 0)]
)
def test_max_pool_is_xlas(kernel, stride, pads):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 8, 10, 3), np.float32))
    padding = tuple((pads * (k // 2),) * 2 for k in kernel)
    window = ((1, *kernel, 1), (1, *stride, 1), ((0, 0), *padding, (0, 0)))
    expected = lax.reduce_window(x, -jnp.inf, lax.max, *window)
    np.testing.assert_array_equal(convolution.max_pool(x, kernel, stride, padding), expected)


def test_pools_at_the_end_keep_a_last_window_over_what_is_left():
    """TensorFlow's padding where the stride divides; HowTo100M's ceil_mode where it does not: 7 → 4 with one of padding."""
    pool = s3dg.Pool((3, 3, 3), (2, 2, 2), at_end=True)
    assert pool._padding((8, 8, 8)) == ((0, 1),) * 3
    assert pool(jnp.zeros((1, 7, 8, 7, 1)), train=False).shape == (1, 4, 4, 4, 1)
    assert s3dg.Pool((1, 3, 3), (1, 2, 2), at_end=True)._padding((5, 56, 56)) == ((0, 0), (0, 1), (0, 1))


# Sizes.


def count(make) -> int:
    return sum(p.size for p in jax.tree.leaves(nnx.state(nnx.eval_shape(make), nnx.Param)))


def classifier(make, classes: int, **keywords) -> VideoClassifier:
    return VideoClassifier(make(**keywords, rngs=random_streams(default=0)), classes, rngs=random_streams(default=0))


@pytest.mark.parametrize(
    ("make", "classes", "keywords", "parameters"),
    [
        (r2plus1d.R2Plus1D18, 400, {}, 31_505_325),
        (r2plus1d.R2Plus1D18, 101, {}, 31_351_938),
        (r2plus1d.R2Plus1D18, 51, {}, 31_326_288),
        (r2plus1d.R2Plus1D18, 1000, {}, 31_813_125),
        (r2plus1d.R2Plus1D18, 400, {"channels": 2}, 31_505_325 - 2_205),
        (r3d.R3D18, 400, {}, 33_371_472),
        (s3dg.S3DG, 400, TORCHVISION_S3D, 8_320_048),
    ],
)
def test_full_size_parameter_counts(make, classes, keywords, parameters):
    assert count(lambda: classifier(make, classes, **keywords)) == parameters


@pytest.mark.parametrize(("frames", "channels", "gmacs"), [(16, 3, 40.52), (16, 2, 40.41), (32, 3, 81.04)])
def test_macs_of_r2plus1d(frames, channels, gmacs):
    graph, state = nnx.split(nnx.eval_shape(lambda: classifier(r2plus1d.R2Plus1D18, 400, channels=channels)))
    clip = jax.ShapeDtypeStruct((1, frames, 112, 112, channels), jnp.float32)
    macs = multiplications(lambda state, clip: nnx.merge(graph, state)(clip, train=False), state, clip)
    assert round(macs / 1e9, 2) == gmacs


def test_stages_have_the_published_sizes():
    def shapes(make, *clip):
        graph, state = nnx.split(nnx.eval_shape(lambda: make(rngs=random_streams(default=0))))
        clip = jax.ShapeDtypeStruct((1, *clip), jnp.float32)
        features = jax.eval_shape(lambda state, x: nnx.merge(graph, state).stages(x, train=False), state, clip)
        return {name: f.shape[1:] for name, f in features.items()}

    found = shapes(r2plus1d.R2Plus1D18, 16, 112, 112, 3)
    assert found == {
        "stem": (16, 56, 56, 64), "layer1": (16, 56, 56, 64), "layer2": (8, 28, 28, 128), "layer3": (4, 14, 14, 256),
        "layer4": (2, 7, 7, 512),
    }  # fmt: skip
    assert shapes(r3d.R3D18, 16, 112, 112, 3) == found
    assert shapes(s3dg.S3DG, 64, 224, 224, 3) == {
        "conv1": (32, 112, 112, 64), "conv2": (32, 56, 56, 192), "mixed3": (32, 28, 28, 480),
        "mixed4": (16, 14, 14, 832), "mixed5": (8, 7, 7, 1024),
    }  # fmt: skip


def test_first_weights_are_torchvisions():
    """Kaiming normal of fan out, ones and zeros, a classifier of N(0, 0.01)."""
    unit = ConvNorm(256, 256, (3, 3, 3), dtype=jnp.dtype("float32"), rngs=random_streams(default=0))
    kernel = np.asarray(unit.conv.kernel[...])
    assert abs(kernel.std() - math.sqrt(2 / (256 * 27))) < 1e-4 and abs(kernel.mean()) < 1e-4
    assert np.abs(kernel).max() > 4 * kernel.std()  # not truncated
    assert (unit.norm.scale[...] == 1).all() and (unit.norm.var[...] == 1).all() and not unit.norm.mean[...].any()
    backbone, rngs = Tiny(rngs=random_streams(default=0)), random_streams(default=0)
    neighbours = MultiClip(num_classes=4000, clips=2, neighbours=True).assemble(backbone, rngs=rngs)
    heads = [VideoClassifier(backbone, 4000, rngs=rngs).head, neighbours.head, *neighbours.neighbour_heads]
    heads.append(Classify(num_classes=4000).assemble(backbone, rngs=rngs).head)  # what training builds
    student = Distill(num_classes=4000, heads=2).assemble(backbone, rngs=rngs)
    heads += [student.head, student.weak_head]
    assert len(heads) == 7
    for head in heads:
        assert abs(float(head.kernel[...].std()) - 0.01) < 2e-4 and not head.bias[...].any()
    # Papers that say nothing of it keep Flax's: N(0, 1 / width), here of features of another network.
    probe = Classify(num_classes=4000).assemble(Frozen(width=8, rngs=rngs), rngs=rngs).head
    assert abs(float(probe.kernel[...].std()) - 8**-0.5) < 5e-3


# BatchNorm, frozen stages, precision.


class Tiny(VideoNetwork):
    """Two stages of one convolution each."""

    def __init__(self, *, reads: str = "frames", frozen: tuple = (), remat: bool = False, dtype: str = "float32", rngs):
        conv = functools.partial(ConvNorm, dtype=jnp.dtype(dtype), rngs=rngs)
        super().__init__(
            {"stem": [conv(3, 4, (1, 3, 3), stride=(1, 2, 2))], "layer1": [conv(4, 8, (3, 1, 1))]}, width=8, channels=3,
            reads=reads, frozen=frozen, remat=remat, dtype=jnp.dtype(dtype),
        )  # fmt: skip


def test_running_statistics_are_pytorchs():
    """By hand: the normalising variance is biased, the running one is not."""
    norm = BatchNorm(1, momentum=0.1)
    x = jnp.asarray([1.0, 3.0, 8.0])[:, None]
    y = norm(x, train=True)
    biased = ((1 - 4) ** 2 + (3 - 4) ** 2 + (8 - 4) ** 2) / 3
    np.testing.assert_allclose(y[:, 0], (np.array([1, 3, 8]) - 4) / math.sqrt(biased + 1e-5), rtol=1e-5)
    np.testing.assert_allclose([norm.mean[0], norm.var[0]], [0.4, 0.9 + 0.1 * biased * 3 / 2], rtol=1e-6)
    with pytest.raises(ValueError, match="more than one value a channel"):
        norm(x[:1], train=True)


def test_the_gradient_of_a_norm_is_the_derived_one():
    rng = np.random.default_rng(0)
    x, of_y = (jnp.asarray(rng.standard_normal((3, 4, 5), np.float32)) for _ in range(2))
    scale, bias = jnp.asarray(rng.random(5, np.float32)), jnp.asarray(rng.random(5, np.float32))

    def derived(x, scale, bias):
        mean = x.mean((0, 1))
        return (x - mean) * lax.rsqrt(jnp.square(x - mean).mean((0, 1)) + 1e-3) * scale + bias

    found, pull = jax.vjp(lambda *args: batch_norm._normalised(*args, None, 1e-3)[0], x, scale, bias)
    expected, pull_too = jax.vjp(derived, x, scale, bias)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), pull(of_y), pull_too(of_y))


def test_statistics_keep_their_digits_far_from_zero():
    norm = BatchNorm(1, momentum=1.0)
    x = 1e4 + jnp.asarray(np.random.default_rng(0).standard_normal((4096, 1), np.float32))
    np.testing.assert_allclose(norm(x, train=True).std(), 1.0, rtol=1e-2)


def program(*, optimizer: Optimizer | None = None, accumulate: int = 1, one: bool = True, **keywords) -> Program:
    devices = jax.devices()[: 1 if one else 8]
    mesh = jax.make_mesh(
        (len(devices), 1, 1), sharding.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3, devices=devices
    )
    return Program(
        model=lambda rngs: Tiny(**keywords, rngs=rngs), task=Classify(num_classes=3),
        prepare=lambda batch, train, key: batch, optimizer=optimizer or Optimizer(name="sgd", lr=0.1, weight_decay=0.1),
        mesh=mesh, seed=0, total_steps=10, accumulate=accumulate,
    )  # fmt: skip


def batch_of(prog: Program, b: int = 8, seed: int = 0, field: str = "frames") -> dict:
    rng = np.random.default_rng(seed)
    host = {
        field: rng.standard_normal((b, 4, 8, 8, 3), np.float32), "label": rng.integers(0, 3, b).astype(np.int32),
        "clip": np.arange(b, dtype=np.int32), "valid": np.ones(b, bool),
    }  # fmt: skip
    return sharding.to_global(host, sharding.local_positions(b, prog.mesh), b, prog.mesh)


def stepped(prog: Program, steps: int = 3, **keywords) -> dict:
    state = prog.init()
    for i in range(steps):
        state, _ = prog.train_step(state, batch_of(prog, seed=i, **keywords))
    return state


def test_statistics_are_of_the_global_batch_on_any_mesh():
    one, eight = (jax.device_get(stepped(program(one=one))) for one in (True, False))
    assert {k for k in one["rest"]} == {
        f"backbone/{stage}/0/norm/{name}" for stage in ("stem", "layer1") for name in ("mean", "var")
    }
    for part in ("params", "rest"):
        for name in one[part]:
            np.testing.assert_allclose(eight[part][name], one[part][name], rtol=1e-3, atol=1e-5)


def test_training_carries_statistics_and_prediction_uses_them():
    prog = program(reads="flow")
    state, batch = stepped(prog, field="flow"), None
    assert float(jnp.abs(state["rest"]["backbone/layer1/0/norm/mean"]).max()) > 0
    batch = batch_of(prog, field="flow")
    module = prog.net.merge(state["params"], state["rest"])
    expected = module.head(module.backbone.embed(batch["flow"], train=False))
    np.testing.assert_allclose(prog.predict_step(state, batch)["logits"], expected, atol=1e-5)


def test_a_step_that_is_not_finite_leaves_statistics_alone():
    prog = program()
    state = stepped(prog)
    before = jax.device_get(state["rest"])
    batch = batch_of(prog)
    state, metrics = prog.train_step(state, batch | {"frames": batch["frames"].at[0].set(jnp.nan)})
    assert int(metrics["skipped"]) == 1
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state["rest"]), before)


def test_statistics_are_averaged_with_the_parameters():
    prog = program(optimizer=Optimizer(name="sgd", lr=0.1, ema=0.5))
    name = "backbone/stem/0/norm/mean"
    average, state = np.zeros(4), prog.init()
    for i in range(3):
        state, _ = prog.train_step(state, batch_of(prog, seed=i))
        average = 0.5 * average + 0.5 * np.asarray(state["rest"][name])
    np.testing.assert_allclose(state["ema"][name], average, rtol=1e-5)
    np.testing.assert_array_equal(prog.predictor(state).backbone.stem[0].norm.mean[...], state["ema"][name])
    assert set(state["ema"]) == set(state["params"]) | set(state["rest"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_frozen_stages_neither_train_nor_see_the_batch(accumulate):
    prog = program(frozen=("stem",), accumulate=accumulate, optimizer=Optimizer(name="sgd", lr=0.1, weight_decay=0.1))
    first, state = jax.device_get(prog.init()), jax.device_get(stepped(prog))
    still = {k for k in first["rest"] if k.startswith("backbone/stem")}
    assert len(still) == 5 and not [k for k in first["params"] if k.startswith("backbone/stem")]
    for name in still:
        np.testing.assert_array_equal(state["rest"][name], first["rest"][name])
    assert all((state["params"][k] != first["params"][k]).any() for k in state["params"])
    assert (state["rest"]["backbone/layer1/0/norm/var"] != 1).all()


def test_fine_tuning_as_motionfit_does_trains_two_layers_and_the_classifier():
    frozen = ("stem", "layer1", "layer2")
    model = nnx.eval_shape(lambda: classifier(r2plus1d.R2Plus1D18, 101, frozen=frozen))
    trained_in = {
        path[1] if path[0] == "backbone" else path[0] for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    assert trained_in == {"layer3", "layer4", "head"}
    kept = nnx.state(model, Fixed)
    assert {path[1] for path, _ in nnx.to_flat_state(kept)} == set(frozen)
    with pytest.raises(ValueError, match=r"config.model.frozen: \['conv5'\] are not stages"):
        nnx.eval_shape(lambda: r2plus1d.R2Plus1D18(frozen=("conv5",), rngs=random_streams(default=0)))


def test_remat_changes_nothing_and_bfloat16_little():
    plain, remat = jax.device_get(stepped(program())), jax.device_get(stepped(program(remat=True)))
    for part in ("params", "rest"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), remat[part], plain[part])
    half = jax.device_get(stepped(program(dtype="bfloat16")))
    assert all(v.dtype == np.float32 for part in ("params", "rest") for v in half[part].values())
    for name, value in plain["rest"].items():
        np.testing.assert_allclose(half["rest"][name], value, atol=0.02)


def test_a_published_network_runs_in_bfloat16():
    keywords = keywords_of("r2plus1d") | {"dtype": "bfloat16", "remat": True}
    model = convert.build("r2plus1d", keywords, weights_of("r2plus1d"))
    clip = jnp.asarray(clip_of("r2plus1d"))
    half = nnx.jit(lambda m, x: m(x, train=False))(model, clip)
    whole, _ = forward("r2plus1d", False)(built("r2plus1d")[1], clip)
    assert half.dtype == jnp.float32
    assert float(jnp.abs(half - whole).max()) < 0.05 * float(jnp.abs(whole).max())


@pytest.mark.parametrize(
    ("make", "keywords"), [(r2plus1d.R2Plus1D18, {}), (s3dg.S3DG, HOWTO100M), (s3dg.S3DG, TORCHVISION_S3D)]
)
def test_bfloat16_stays_from_stage_to_stage(make, keywords):
    """Traced alone: strict promotion would refuse a mixture of types, in training too."""
    graph, state = nnx.split(nnx.eval_shape(lambda: make(dtype="bfloat16", rngs=random_streams(default=0), **keywords)))

    def stages(state, clip):
        return nnx.merge(graph, state, copy=True).stages(clip, train=True)

    features = jax.eval_shape(stages, state, jax.ShapeDtypeStruct((2, 8, 64, 64, 3), jnp.float32))
    assert {f.dtype for f in features.values()} == {jnp.dtype("bfloat16")}


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"clips have 2 channels, this network's stem 3 \(model.channels\)"):
        Tiny(rngs=random_streams(default=0)).embed(jnp.zeros((1, 4, 16, 16, 2)), train=False)
    for wrong in ({"stem": "7x7"}, {"average": "mean"}):
        with pytest.raises(ValueError, match=f"config.model.{next(iter(wrong))}="):
            s3dg.S3DG(**wrong, rngs=random_streams(default=0))
    with pytest.raises(ValueError, match="even numbers"):
        s3dg.SpaceToDepth()(jnp.zeros((1, 5, 8, 8, 3)), train=False)
    windows = nnx.eval_shape(lambda: s3dg.S3DG(average="windows", rngs=random_streams(default=0)))
    with pytest.raises(ValueError, match="clips of 14 frames of 224 pixels at least"):
        windows.pool(jnp.zeros((1, 1, 7, 7, 1024)))


# The real loop.


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Clips of a colour a class."""
    rng = np.random.default_rng(0)
    values = {}
    for split, number in (("train", 16), ("test", 8)):
        for i in range(number):
            pixels = np.clip(rng.integers(0, 60, (4, 12, 12, 3)) + 150 * np.eye(3)[i % 3], 0, 255).astype(np.uint8)
            values[f"{split}-{i:03}"] = [image_bytes(frame) for frame in pixels]
    fields = {"frames": (records.Feature("jpeg"), values)}
    folder = tmp_path_factory.mktemp("videos") / "data"
    return make_dataset(folder, per_split={"train": 16, "test": 8}, columns_of={"frames": fields})


def network_config(root, **train) -> dict:
    return config_of(
        root,
        data={"name": "frames.Frames", "train": "train", "frames": 4, "size": 12, "short_side": 12},
        model={"name": "test_conv3d.Tiny", "frozen": ()},
        task={"name": "classify.Classify"},
        train={"steps": 6, "save_every": 3, **train},
        optimizer={"name": "sgd", "lr": 0.1, "ema": 0.9},
    )


def restored(config: dict, workdir: Path, step: int) -> dict:
    experiment = Experiment(config)
    checkpoints = checkpoints_of(workdir, experiment.train, read_only=True)
    template = checkpoint.template_of(experiment.program.shapes, experiment.program.shardings)
    state, _ = checkpoints.restore(step, template)
    checkpoints.close()
    return jax.device_get(state)


def test_a_resumed_run_has_the_same_statistics_bit_for_bit(videos, tmp_path, one_device):
    config, name = network_config(videos), "backbone/layer1/0/norm/var"
    scores = train_here(config, tmp_path)
    whole, half = restored(config, tmp_path, 6), restored(config, tmp_path, 3)
    assert (whole["rest"][name] != half["rest"][name]).all() and (half["rest"][name] != 1).all()
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    assert train_here(config, tmp_path) == scores
    again = restored(config, tmp_path, 6)
    jax.tree.map(np.testing.assert_array_equal, again, whole)


# Conversion.


@pytest.mark.parametrize(
    ("peer", "suffix"), [("r2plus1d", "pth"), ("r3d", "safetensors"), ("s3dg", "pth"), ("s3d", "safetensors")]
)
def test_converting_and_back_loses_nothing(peer, suffix, tmp_path):
    kind, expected = PEERS[peer][0], published(peer)
    source = tmp_path / f"weights.{suffix}"
    seen = {k.replace("running_mean", "num_batches_tracked"): np.array(7) for k in expected if "running_mean" in k}
    text = {"text_module.word_embd.weight": np.ones((3, 2), np.float32)} if peer == "s3dg" else {}
    if suffix == "pth":
        torch = pytest.importorskip("torch")
        torch.save({"state_dict": {k: torch.from_numpy(v.copy()) for k, v in (expected | seen | text).items()}}, source)
    else:
        save_file(expected | seen | text, source)
    keywords, params = convert.convert(kind, source)
    assert keywords == keywords_of(peer)
    assert all(np.array_equal(params[k], v) for k, v in weights_of(peer).items()) and len(params) == len(
        weights_of(peer)
    )
    convert.save(kind, keywords, params, tmp_path / "ours")
    again, same = convert.convert(kind, tmp_path / "ours")
    assert again == keywords and all(np.array_equal(same[k], params[k]) for k in params)
    back = names.to_theirs(convert.room_of(kind).table(keywords), same)
    assert back.keys() == expected.keys()
    assert all(np.array_equal(back[k], expected[k]) and back[k].shape == expected[k].shape for k in back)


def test_the_command_converts_and_load_gives_logits(tmp_path):
    save_file(published("r2plus1d"), tmp_path / "theirs.safetensors")
    done = run_main("mtjax.convert", "r2plus1d", tmp_path / "theirs.safetensors", tmp_path / "ours")
    assert done.returncode == 0, done.stderr
    done = run_main("mtjax.convert", "r2plus1d", tmp_path / "ours", tmp_path / "back.safetensors", "--back")
    assert done.returncode == 0, done.stderr
    assert load_file(tmp_path / "back.safetensors").keys() == published("r2plus1d").keys()
    model = convert.load("r2plus1d", tmp_path / "ours", frozen=("stem",))
    assert model.backbone.stem[0].norm.frozen
    logits = model(jnp.asarray(clip_of("r2plus1d")), train=False)
    with np.load(GOLDEN) as golden:
        np.testing.assert_allclose(logits, golden["r2plus1d/logits"], atol=1e-4)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "weights.safetensors"

    def refused(arrays: dict, kind: str, message: str) -> None:
        save_file(arrays, file)
        with pytest.raises(names.ConversionError, match=message):
            convert.load(kind, file)

    arrays = published("r2plus1d")
    without = {k: v for k, v in arrays.items() if k != "layer4.1.conv2.1.running_var"}
    refused(without | {"extra": np.zeros(2)}, "r2plus1d", r"missing \['layer4.1.conv2.1.running_var'\], 1 .*'extra'")
    refused(arrays, "r3d", "are missing")
    refused(arrays, "s3dg", "no array 'conv1.conv1.weight'; is this a checkpoint of s3dg")
    # VCOP counts the middle channels for each convolution, torchvision once a block (motionfit.md §12).
    wide = arrays | {"layer2.0.conv2.0.0.weight": np.zeros((288, 128, 1, 3, 3), np.float32)}
    refused(wide, "r2plus1d", r"layer2/0/main/2/conv/kernel needs \(1, 3, 3, 128, 230\), found \(1, 3, 3, 128, 288\)")
    stem = {"conv1.conv1.weight": np.zeros((64, 3, 3, 7, 7), np.float32), "fc.weight": np.zeros((2, 2), np.float32)}
    refused(stem, "s3dg", "only the space-to-depth stem")


def test_a_converted_classifier_starts_a_task_with_other_classes(tmp_path):
    convert.save("r2plus1d", keywords_of("r2plus1d"), weights_of("r2plus1d"), tmp_path)
    ours = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in weights_of("r2plus1d").items()}
    ours |= {
        "head/kernel": jax.ShapeDtypeStruct((512, 9), np.float32),
        "head/bias": jax.ShapeDtypeStruct((9,), np.float32),
    }
    found = initial_weights.weights_for(str(tmp_path), ours, skip=("^head",), new=("^head",))
    assert set(found) == {k for k in ours if k.startswith("backbone")}
    same = {k: v for k, v in ours.items() if not k.startswith("head")} | {
        k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in weights_of("r2plus1d").items() if k.startswith("head")
    }
    assert set(initial_weights.weights_for(str(tmp_path), same)) == set(same)


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit(__doc__)
    arrays = {f"{peer}/{key}": value for peer in PEERS for key, value in expected_of(peer).items()}
    np.savez_compressed(GOLDEN, **arrays)
    print(GOLDEN, f"{GOLDEN.stat().st_size:,} bytes")
