"""Multiple-instance teacher of body motion ("Size Doesn't Matter", Sec. 4.2; motion_guidance.md §2)."""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from mtjax.command.ranges import Count, Dtype, Positive, Range
from mtjax.models.layers import Dropout, EncoderLayer
from mtjax.types import Batch


class GatedAttention(nnx.Module):
    """Attention pooling of a bag (Ilse et al. 2018): a = w · (tanh(V h) * sigmoid(U h)), softmax over valid instances."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.tanh = nnx.Linear(width, hidden, rngs=rngs)
        self.gate = nnx.Linear(width, hidden, rngs=rngs)
        self.score = nnx.Linear(hidden, 1, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b t d"], valid: Bool[Array, "b t"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b t"]]:
        """The weighted sum of the instances and their weights; both 0 for a bag without a valid instance."""
        scores = self.score(jnp.tanh(self.tanh(x)) * nnx.sigmoid(self.gate(x)))[..., 0]
        weights = jax.nn.softmax(jnp.where(valid, scores, -1e30), axis=-1)
        weights = jnp.where(valid, weights, 0.0)
        return jnp.einsum("bt,btd->bd", weights, x), weights


class MotionMIL(nnx.Module):
    """Motion features → one embedding a clip: projection, positions, transformer encoder, gated attention."""

    def __init__(
        self,
        *,
        features: Positive = 51,
        width: Positive = 256,
        layers: Count = 2,
        heads: Positive = 4,
        feed_forward: Positive = 256,
        attention: Positive = 128,
        dropout: Annotated[float, Range(0.0, below=1.0)] = 0.1,
        dtype: Dtype = "float32",
        rngs: nnx.Rngs,
    ):
        """
        Args:
          features: columns of a motion row, three a joint.
          attention: hidden width of the gated attention.
          dtype: of the encoder's computation; attention pooling is always float32.
        """
        compute = jnp.dtype(dtype)
        self.width = width
        # PyTorch's first values. Not zero biases: without any, the LayerNorm makes still and lively rows look alike.
        first = nnx.initializers.uniform(2 * features**-0.5)
        self.project = nnx.Linear(
            features, width, dtype=compute, rngs=rngs,
            bias_init=lambda *args, **kwargs: first(*args, **kwargs) - features**-0.5,
        )  # fmt: skip
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, dtype=compute, rngs=rngs)
        self.dropout = Dropout(dropout)
        self.layers = nnx.List(
            [EncoderLayer(width, heads, feed_forward, dropout=dropout, dtype=compute, rngs=rngs) for _ in range(layers)]
        )
        self.pool = GatedAttention(width, attention, rngs=rngs)

    def __call__(self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> Float[Array, "b d"]:
        """Reads `motion` and `row_valid` of the batch."""
        return self.embed(batch["motion"], batch["row_valid"], train=train, rngs=rngs)[0]

    def attend(self, batch: Batch) -> tuple[Float[Array, "b d"], dict[str, Array]]:
        """See `types.Attending`."""
        valid = batch["row_valid"]
        embedding, attention = self.embed(batch["motion"], valid, train=False)
        return embedding, {"attention": attention, "row_frame": jnp.where(valid, batch["row_frame"], -1)}

    def embed(
        self, motion: Float[Array, "b t f"], valid: Bool[Array, "b t"], *, train: bool, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "b d"], Float[Array, "b t"]]:
        """The embedding r of the clip and how much each row counts for it."""
        x = nnx.relu(self.norm(self.project(motion)))
        x = self.dropout(x, train=train, rngs=rngs)
        x = x + jnp.asarray(sinusoids(x.shape[1], self.width), x.dtype)
        # A bag without instances attends to all of its padding, not to nothing: no NaN; its embedding is 0 all the same.
        attend = valid | ~valid.any(-1, keepdims=True)
        for layer in self.layers:
            x = layer(x, attend, train, rngs)
        return self.pool(x.astype(jnp.float32), valid)


def sinusoids(positions: int, width: int) -> np.ndarray:
    """float32 [positions, width]: sin in even and cos in odd columns, base 10,000 (Vaswani et al. 2017, Sec. 3.5)."""
    angle = np.arange(positions)[:, None] / 10_000.0 ** (np.arange(0, width, 2) / width)[None]
    table = np.zeros((positions, width), np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(angle), np.cos(angle[:, : width // 2])
    return table
