"""Layers that models share, against Flax's own and against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtjax.compute import sharding
from mtjax.models.layers import Dropout, PreNormLayer, SelfAttention, TemporalConv, dot_product_attention, in_chunks


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("kernel", [1, 3, 9])
def test_temporal_convolution_is_flax_s_with_its_gradients(kernel):
    ours = TemporalConv(5, 7, kernel, rngs=nnx.Rngs(0))
    flax = nnx.Conv(5, 7, kernel_size=kernel, padding="SAME", rngs=nnx.Rngs(1))
    flax.kernel[...], flax.bias[...] = ours.kernel[...], normal(7)
    ours.bias[...] = flax.bias[...]
    x, weight = normal(2, 6, 5), normal(2, 6, 7, seed=1)
    np.testing.assert_allclose(ours(x), flax(x), atol=1e-5)

    def loss(module, x):
        return (module(x) * weight).sum()

    of_ours, of_flax = (nnx.jit(nnx.grad(loss, argnums=(0, 1)))(module, x) for module in (ours, flax))
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(of_ours[0][name][...], of_flax[0][name][...], atol=1e-4)
    np.testing.assert_allclose(of_ours[1], of_flax[1], atol=1e-5)


def test_temporal_convolution_longer_than_the_clip_and_even_kernels():
    wide = TemporalConv(2, 3, 9, rngs=nnx.Rngs(0))
    assert wide(normal(4, 3, 2)).shape == (4, 3, 3)
    with pytest.raises(ValueError, match="kernel 4 must be odd"):
        TemporalConv(2, 3, 4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_jax_s_with_its_gradients(causal, masked):
    q, k, v = (3 * normal(2, 7, 3, 4, seed=i) for i in range(3))
    mask = jax.random.bernoulli(jax.random.key(3), 0.6, (2, 1, 1, 7)).at[..., 0].set(True)
    mask = mask.at[1].set(False) if masked and not causal else mask  # nothing to see at all

    def both(call):
        def total(q, k, v):
            return (call(q, k, v) * v.mean(2, keepdims=True)).sum()

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(q, k, v)

    found = both(lambda q, k, v: dot_product_attention(q, k, v, mask if masked else None, causal=causal))
    expected = both(
        lambda q, k, v: jax.nn.dot_product_attention(q, k, v, mask=mask if masked else None, is_causal=causal)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), found, expected)
    half = (a.astype(jnp.bfloat16) for a in (q, k, v))
    rounded = dot_product_attention(*half, causal=causal)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(rounded, np.float32), jax.nn.dot_product_attention(q, k, v, is_causal=causal), atol=0.2
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_first_tokens_alone_are_those_of_all(causal, outputs):
    x = normal(2, 5, 8)
    layer = PreNormLayer(8, 2, 16, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    layer.attention.qkv.bias[...] = normal(3, 2, 4, seed=1)
    few, all_of_them = nnx.jit(lambda m, x: (m(x, causal=causal, outputs=outputs), m(x, causal=causal)))(layer, x)
    np.testing.assert_allclose(few, all_of_them[:, :outputs], atol=1e-6)
    assert few.shape == (2, outputs, 8)

    attention = SelfAttention(8, 2, dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0))
    attend = jnp.arange(5)[None] < jnp.array([[3], [5]])
    few, all_of_them = nnx.jit(lambda m, x: (m(x, attend, outputs=outputs), m(x, attend)))(attention, x)
    assert few.dtype == jnp.bfloat16
    np.testing.assert_allclose(few.astype(jnp.float32), all_of_them[:, :outputs].astype(jnp.float32), atol=1e-2)


def test_dropout_keeps_the_mean_and_drops_the_rate():
    x = jnp.ones((64, 64, 33))
    for rate in (0.1, 0.5, 0.9):
        out = Dropout(rate)(x, train=True, rngs=nnx.Rngs(dropout=0))
        assert float((out == 0).mean()) == pytest.approx(rate, abs=0.005)
        assert float(out.mean()) == pytest.approx(1.0, abs=0.02)
    assert Dropout(0.001).dropped == 1 and Dropout(0.0).dropped == 0
    assert Dropout(0.5)(x, train=False, rngs=None) is x
    with pytest.raises(ValueError, match=r"dropout 1.0"):
        Dropout(1.0)


def test_dropout_of_columns_is_independent():
    """Four bytes come from one word; they must not repeat each other."""
    dropped = np.asarray(Dropout(0.5)(jnp.ones((4000, 8)), train=True, rngs=nnx.Rngs(dropout=1)) == 0, np.float32)
    correlation = np.corrcoef(dropped.T) - np.eye(8)
    assert np.abs(correlation).max() < 0.08


@pytest.mark.parametrize("size", [0, 1, 4, 6, 12, 100])
def test_chunks_change_neither_values_nor_gradients(size):
    matrix, x, y = normal(3, 5), normal(12, 3), normal(12, 5, seed=2)

    def whole(matrix):
        return lambda a, b: jnp.tanh(a @ matrix) * b

    expected = jax.jit(jax.value_and_grad(lambda m: (whole(m)(x, y) ** 2).sum()))(matrix)
    found = jax.jit(jax.value_and_grad(lambda m: (in_chunks(whole(m), size)(x, y) ** 2).sum()))(matrix)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_chunks_of_as_many_rows_as_devices_move_nothing_between_devices():
    mesh = sharding.make_mesh()
    rows = jax.ShapeDtypeStruct(
        (32, 3), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    )
    compiled = jax.jit(in_chunks(jnp.tanh, jax.device_count())).lower(rows).compile().as_text()
    assert "all-gather" not in compiled and "all-to-all" not in compiled and "collective-permute" not in compiled
