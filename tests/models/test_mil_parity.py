"""Our motion teacher against the PyTorch module that benchmarks/mil_vs_torch.py times, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_torch_parity import LAYOUTS

from mtjax.compute.step import Net
from mtjax.models.mil import MotionMIL
from mtjax.tasks import losses
from mtjax.tasks.classify import Classify
from mtjax.types import random_streams

CLASSES = 5
SIZES = {"features": 6, "width": 16, "layers": 2, "heads": 4, "feed_forward": 12, "attention": 8}
LINEARS = {
    "backbone/project": "project.0", "backbone/pool/tanh": "tanh", "backbone/pool/gate": "gate",
    "backbone/pool/score": "score", "hidden": "head.0", "head": "head.3",
}  # fmt: skip


def name_table() -> dict[str, tuple[str, str]]:
    """Our name → (PyTorch's name, layout)."""
    linears, norms = dict(LINEARS), {"backbone/norm": "project.1"}
    table = {}
    for i in range(SIZES["layers"]):
        ours, theirs = f"backbone/layers/{i}", f"encoder.layers.{i}"
        linears |= {f"{ours}/up": f"{theirs}.linear1", f"{ours}/down": f"{theirs}.linear2"}
        norms |= {f"{ours}/attention_norm": f"{theirs}.norm1", f"{ours}/mlp_norm": f"{theirs}.norm2"}
        for leaf, theirs_leaf, kind in (
            ("qkv/kernel", "in_proj_weight", "qkv"), ("qkv/bias", "in_proj_bias", "flat"),
            ("out/kernel", "out_proj.weight", "out"), ("out/bias", "out_proj.bias", "same"),
        ):  # fmt: skip
            table[f"{ours}/attention/{leaf}"] = (f"{theirs}.self_attn.{theirs_leaf}", kind)
    for kernel, names, kind in (("kernel", linears, "linear"), ("scale", norms, "same")):
        for ours, theirs in names.items():
            table[f"{ours}/{kernel}"] = (f"{theirs}.weight", kind)
            table[f"{ours}/bias"] = (f"{theirs}.bias", "same")
    return table


@pytest.mark.parametrize("masked", [False, True])
def test_logits_and_gradients_are_those_of_the_timed_peer(masked):
    torch = pytest.importorskip("torch")
    from benchmarks.mil_torch import MotionMIL as Theirs

    torch.manual_seed(0)
    theirs = Theirs(classes=CLASSES, hidden=10, **SIZES).eval()

    def make(key):
        rngs = random_streams(params=key)
        return Classify(num_classes=CLASSES, hidden=10).assemble(MotionMIL(**SIZES, rngs=rngs), rngs=rngs)

    net, table = Net(make, nnx.Param), name_table()
    shapes = {k: v.shape for k, v in jax.eval_shape(net.init, jax.random.key(0))[0].items()}
    assert shapes.keys() == table.keys()
    assert sorted(name for name, _ in table.values()) == sorted(name for name, _ in theirs.named_parameters())

    def ours_of(arrays) -> dict[str, jax.Array]:
        return {
            k: jnp.asarray(LAYOUTS[kind][1](arrays[name].detach().numpy(), shapes[k]))
            for k, (name, kind) in table.items()
        }

    rng = np.random.default_rng(0)
    motion = rng.normal(size=(3, 9, SIZES["features"])).astype(np.float32)
    valid = np.arange(9) < np.array([[9], [4], [7]]) if masked else np.ones((3, 9), bool)
    label = np.array([0, 4, 2])
    logits = theirs(torch.from_numpy(motion), torch.from_numpy(valid) if masked else None)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(label), label_smoothing=0.1).backward()

    batch = {"motion": jnp.asarray(motion), "row_valid": jnp.asarray(valid)}

    def loss(params):
        found, _ = net.merge(params, {})(batch, train=False)
        return losses.cross_entropy(found, jnp.asarray(label), smoothing=0.1).mean(), found

    (_, found), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(ours_of(theirs.state_dict()))
    np.testing.assert_allclose(found, logits.detach().numpy(), atol=1e-5)
    for name, expected in ours_of({k: p.grad for k, p in theirs.named_parameters()}).items():
        np.testing.assert_allclose(gradients[name], expected, atol=1e-5, rtol=1e-3, err_msg=name)
