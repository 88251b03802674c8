"""Layers that several models share."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

ACTIVATIONS: dict[str, Callable] = {
    "relu": nnx.relu,
    "gelu": lambda x: nnx.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * nnx.sigmoid(1.702 * x),
}


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, width: int, heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        per_head = width // heads
        self.qkv = nnx.LinearGeneral(width, (3, heads, per_head), dtype=dtype, rngs=rngs)
        self.out = nnx.LinearGeneral((heads, per_head), width, axis=(-2, -1), dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"], attend: Bool[Array, "b n"] | None = None) -> Float[Array, "b n d"]:
        """`attend`: True for the tokens that may be looked at."""
        q, k, v = jnp.moveaxis(self.qkv(x), -3, 0)
        mask = None if attend is None else attend[:, None, None, :]
        return self.out(jax.nn.dot_product_attention(q, k, v, mask=mask))


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
        self.dropout = nnx.Dropout(dropout)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "b n d"], attend: Bool[Array, "b n"] | None, train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "b n d"]:
        def drop(y):
            return self.dropout(y, deterministic=not train, rngs=rngs)

        x = self.attention_norm(x + drop(self.attention(x, attend)))
        hidden = ACTIVATIONS[self.activation](self.up(x))
        return self.mlp_norm(x + drop(self.down(drop(hidden))))


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
