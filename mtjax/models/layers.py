"""Layers that several models share."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mtjax.command.errors import InputError

ACTIVATIONS: dict[str, Callable] = {
    "relu": nnx.relu,
    "gelu": lambda x: nnx.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * nnx.sigmoid(1.702 * x),
}


def class_head(backbone: nnx.Module, classes: int, *, width: int = 0, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer from an embedding to logits, with zero biases.

    Its first weights are drawn from N(0, `backbone.head_deviation`²) where the network is published so, as torchvision's video
    networks are (motionfit.md §4), else from Flax's default, LeCun's normal distribution. `width`: of what the layer reads; 0
    for the backbone's embedding.
    """
    deviation = getattr(backbone, "head_deviation", None)
    init = nnx.initializers.lecun_normal() if deviation is None else nnx.initializers.normal(deviation)
    return nnx.Linear(width or backbone.width, classes, kernel_init=init, rngs=rngs)


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, width: int, heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        if width % heads:
            raise InputError(f"width {width} is not divisible by {heads} heads")
        per_head = width // heads
        self.qkv = nnx.LinearGeneral(width, (3, heads, per_head), dtype=dtype, rngs=rngs)
        self.out = nnx.LinearGeneral((heads, per_head), width, axis=(-2, -1), dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        attend: Bool[Array, "b n"] | None = None,
        *,
        causal: bool = False,
        outputs: int | None = None,
    ) -> Float[Array, "b m d"]:
        """`attend`: True for the tokens that may be looked at; `causal`: a token sees itself and those before it; `outputs`:
        compute the result of so many tokens, the first ones (all if None)."""
        if outputs is None:
            q, k, v = (part.squeeze(-3) for part in jnp.split(self.qkv(x), 3, axis=-3))
        else:
            x, kernel, bias = (a.astype(self.qkv.dtype) for a in (x, self.qkv.kernel[...], self.qkv.bias[...]))
            q = jnp.einsum("bnd,dhe->bnhe", x[:, :outputs], kernel[:, 0]) + bias[0]
            kv = jnp.einsum("bnd,dphe->bnphe", x, kernel[:, 1:]) + bias[1:]
            k, v = kv[:, :, 0], kv[:, :, 1]
        mask = None if attend is None else attend[:, None, None, :]
        return self.out(dot_product_attention(q, k, v, mask, causal=causal))


def dot_product_attention(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m h e"],
    v: Float[Array, "b m h e"],
    mask: Bool[Array, "b #h #n m"] | None = None,
    *,
    causal: bool = False,
) -> Float[Array, "b n h e"]:
    """`jax.nn.dot_product_attention`, dividing by the sum of the weights after the product with the values.

    That sum divides [n e] numbers a head instead of [n m] weights, and the gradient has one array of weights less to keep;
    exponentials and sums are float32. A row that may see nothing sees everything, as there.
    """
    # Heads before tokens, for all three: written as products of [b n h e], XLA on a CPU takes operands in orders that its
    # library multiplies at half the speed (docs/benchmarks.md).
    q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    scores = jnp.einsum("bhne,bhme->bhnm", q, k, preferred_element_type=jnp.float32)
    if causal:
        lower = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        mask = lower if mask is None else mask & lower
    if mask is not None:
        scores = jnp.where(mask, scores, -1e30)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    product = jnp.einsum("bhnm,bhme->bhne", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (product / weights.sum(-1, keepdims=True)).astype(v.dtype).swapaxes(1, 2)


class EncoderLayer(nnx.Module):
    """A transformer encoder layer in PyTorch's default form: post-norm, dropout on both branches and inside the MLP."""

    def __init__(
        self,
        width: int,
        heads: int,
        feed_forward: int,
        *,
        dropout: float,
        activation: str = "relu",
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.attention = SelfAttention(width, heads, dtype=dtype, rngs=rngs)
        self.attention_norm = nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, feed_forward, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(feed_forward, width, dtype=dtype, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.dropout = Dropout(dropout)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "b n d"], attend: Bool[Array, "b n"] | None, train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "b n d"]:
        def drop(y):
            return self.dropout(y, train=train, rngs=rngs)

        x = self.attention_norm(x + drop(self.attention(x, attend)))
        hidden = ACTIVATIONS[self.activation](self.up(x))
        return self.mlp_norm(x + drop(self.down(drop(hidden))))


class PreNormLayer(nnx.Module):
    """A transformer layer with the norms before attention and MLP, as in ViT and CLIP; no dropout."""

    def __init__(
        self,
        width: int,
        heads: int,
        feed_forward: int,
        *,
        activation: str = "quick_gelu",
        epsilon: float = 1e-5,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        norm = functools.partial(nnx.LayerNorm, width, epsilon=epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.attention = SelfAttention(width, heads, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, feed_forward, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(feed_forward, width, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "b n d"], *, causal: bool = False, outputs: int | None = None
    ) -> Float[Array, "b m d"]:
        """`outputs`: compute so many tokens, the first ones (all if None)."""
        return self.mlp(x[:, :outputs] + self.attention(self.attention_norm(x), causal=causal, outputs=outputs))

    def mlp(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """The second half of the layer, residual included."""
        return x + self.down(ACTIVATIONS[self.activation](self.up(self.mlp_norm(x))))


class Dropout(nnx.Module):
    """Zeroes elements with probability `rate`, in steps of 1/256, and scales the others so that the mean is kept.

    One random byte an element instead of the word that `nnx.Dropout` takes: MovT's encoder, forward and backward on a CPU,
    took 0.44 s for 32 clips instead of 0.50 (docs/benchmarks.md).
    """

    def __init__(self, rate: float):
        if not 0.0 <= rate < 1.0:
            raise InputError(f"dropout {rate}: must be at least 0 and below 1")
        self.dropped = max(round(256 * rate), 1) if rate else 0

    def __call__(self, x: Float[Array, "*lead d"], *, train: bool, rngs: nnx.Rngs | None) -> Float[Array, "*lead d"]:
        if not train or not self.dropped:
            return x
        *lead, d = x.shape
        words = jax.random.bits(rngs.dropout(), (*lead, -(-d // 4)), jnp.uint32)
        byte = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*lead, -1)[..., :d]
        return jnp.where(byte >= self.dropped, x * (256 / (256 - self.dropped)), 0)


class MLP(nnx.Module):
    """Linear layers with ReLU between them, and after the last one if `activate_last`."""

    def __init__(
        self, sizes: Sequence[int], *, activate_last: bool = False, dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs
    ):
        self.linears = nnx.List([nnx.Linear(a, b, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(sizes)])
        self.activate_last = activate_last

    def __call__(self, x: Float[Array, "*lead c"]) -> Float[Array, "*lead d"]:
        for i, linear in enumerate(self.linears):
            x = linear(x)
            if self.activate_last or i + 1 < len(self.linears):
                x = nnx.relu(x)
        return x


class TemporalConv(nnx.Module):
    """Convolution over time with zero padding that keeps the length: `nnx.Conv(…, padding="SAME")` as one product.

    Each frame is multiplied by the taps of the kernel at once and the products are shifted onto the frames that they
    belong to. XLA's convolutions on a CPU leave their fast path inside loops (`train.accumulate`).
    """

    def __init__(self, channels: int, out: int, kernel: int, *, dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs):
        if kernel % 2 == 0:
            raise InputError(f"kernel {kernel} must be odd")
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (kernel, channels, out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out,), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*lead t c"]) -> Float[Array, "*lead t d"]:
        return _temporal_product(x.astype(self.dtype), self.kernel[...].astype(self.dtype)) + self.bias[...].astype(
            self.dtype
        )


@jax.custom_vjp
def _temporal_product(x: Float[Array, "*lead t c"], kernel: Float[Array, "k c d"]) -> Float[Array, "*lead t d"]:
    """y_t = Σ_i x_(t + i - k//2) · kernel_i, with x = 0 outside of the clip."""
    taps, c, d = kernel.shape
    y = x @ kernel.transpose(1, 0, 2).reshape(c, taps * d)
    return sum(shifted(y[..., i * d : (i + 1) * d], taps // 2 - i) for i in range(taps))


def _temporal_product_forward(x, kernel):
    return _temporal_product(x, kernel), (x, kernel)


def _temporal_product_backward(saved, gradient):
    """Both gradients from one shifted copy of the incoming one; derived automatically, each tap pads and adds its own."""
    x, kernel = saved
    taps, c, d = kernel.shape
    stacked = jnp.concatenate([shifted(gradient, i - taps // 2) for i in range(taps)], -1)
    of_x = stacked @ kernel.transpose(0, 2, 1).reshape(taps * d, c)
    of_kernel = stacked.reshape(-1, taps * d).T @ x.reshape(-1, c)
    return of_x, of_kernel.reshape(taps, d, c).swapaxes(1, 2)


_temporal_product.defvjp(_temporal_product_forward, _temporal_product_backward)


def shifted(x: Float[Array, "*lead t c"], by: int) -> Float[Array, "*lead t c"]:
    """Moves frame i to frame i + `by`; zeros move in."""
    t = x.shape[-2]
    by = min(max(by, -t), t)
    keep = x[..., max(-by, 0) : t - max(by, 0), :]
    return jnp.pad(keep, [(0, 0)] * (x.ndim - 2) + [(max(by, 0), max(-by, 0)), (0, 0)])


def in_chunks(function: Callable[..., Array], size: int) -> Callable[..., Array]:
    """`function` over `size` rows of its arguments at a time, recomputed in the backward pass; 0: over all rows at once.

    Keeps the activations of one chunk in memory, in a CPU's cache if the chunk is small. Row i goes with row i + rows/size,
    so with a multiple of the number of devices as size each device keeps its own rows. Where `size` does not divide the
    rows, chunks have the largest size that divides both.
    """

    def call(*args: Array) -> Array:
        rows = args[0].shape[0]
        if not isinstance(rows, int):  # any number of rows, in `mtjax.export`
            return function(*args)
        together = math.gcd(size, rows)
        if together == rows:
            return function(*args)
        chunks = [a.reshape(together, -1, *a.shape[1:]).swapaxes(0, 1) for a in args]
        out = jax.lax.map(lambda chunk: jax.checkpoint(function)(*chunk), tuple(chunks))
        return out.swapaxes(0, 1).reshape(rows, *out.shape[2:])

    return call
