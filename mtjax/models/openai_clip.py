"""CLIP (Radford et al. 2021): a vision and a text transformer whose embeddings meet (models.md §3)."""

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mtjax.command.errors import InputError
from mtjax.command.ranges import Count, Dtype, Positive
from mtjax.models.layers import PreNormLayer
from mtjax.types import Batch


class VisionTower(nnx.Module):
    """Patches, class token, positions, transformer. `layer` is the class of its layers, so that X-CLIP can add messages."""

    def __init__(
        self,
        *,
        image: Positive,
        patch: Positive,
        width: Positive,
        layers: Count,
        heads: Positive,
        layer: type = PreNormLayer,
        remat: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if image % patch:
            raise InputError(f"image size {image} is not divisible by the patch size {patch}")
        norm = functools.partial(nnx.LayerNorm, width, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)
        small = nnx.initializers.normal(width**-0.5)
        self.patch, self.grid = patch, image // patch
        self.patches = nnx.Linear(3 * patch * patch, width, use_bias=False, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(small(rngs.params(), (width,)))
        self.positions = nnx.Param(small(rngs.params(), (self.grid**2 + 1, width)))
        self.pre_norm, self.post_norm = norm(), norm()
        self.layers = nnx.List([layer(width, heads, 4 * width, dtype=dtype, rngs=rngs) for _ in range(layers)])
        self.remat = remat

    def __call__(
        self, images: Float[Array, "b h w 3"], *, outputs: int | None = None, **of_layer: int
    ) -> Float[Array, "b n d"]:
        """Tokens of the last layer, the class token first, before the last norm. `of_layer` goes to each layer.

        Args:
          outputs: compute so many of them; 1 where the class token says all, which saves most of a layer.
        """
        x = self.patches(patchify(images, self.patch))
        if x.shape[1] != self.grid**2:
            side = self.grid * self.patch
            raise InputError(f"images are {images.shape[1]} × {images.shape[2]}, this tower takes {side} × {side}")
        token = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (len(x), 1, x.shape[-1]))
        x = self.pre_norm(jnp.concatenate([token, x], 1) + self.positions[...].astype(x.dtype))

        def call(layer, x):
            return layer(x, **of_layer)

        *before, last = self.layers
        for layer in before:
            x = (nnx.remat(call) if self.remat else call)(layer, x)
        # Recomputing the last layer would be the first thing the backward pass does: no memory saved.
        return last(x, outputs=outputs, **of_layer)


class TextTower(nnx.Module):
    """Tokens, positions, causal transformer, the embedding at the end token."""

    def __init__(
        self,
        *,
        vocabulary: Positive,
        context: Positive,
        width: Positive,
        layers: Count,
        heads: Positive,
        output: Positive,
        remat: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.tokens = nnx.Embed(vocabulary, width, dtype=dtype, rngs=rngs)
        self.positions = nnx.Param(nnx.initializers.normal(0.01)(rngs.params(), (context, width)))
        self.layers = nnx.List([PreNormLayer(width, heads, 4 * width, dtype=dtype, rngs=rngs) for _ in range(layers)])
        self.final_norm = nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)
        self.projection = nnx.Linear(width, output, use_bias=False, dtype=dtype, rngs=rngs)
        self.remat = remat

    def __call__(self, ids: Int[Array, "c l"]) -> Float[Array, "c d"]:
        """The projected embedding at each row's end token, which has the largest id (padding after it is 0, or repeats it)."""
        context = self.positions.shape[0]
        if ids.shape[1] > context:
            raise InputError(
                f"{ids.shape[1]} tokens, but this tower's context is {context}: truncate before the end token"
            )
        x = self.tokens(ids)
        x = x + self.positions[...][: ids.shape[1]].astype(x.dtype)

        def call(layer, x):
            return layer(x, causal=True)

        for layer in self.layers:
            x = (nnx.remat(call) if self.remat else call)(layer, x)
        end = jnp.take_along_axis(self.final_norm(x), ids.argmax(-1)[:, None, None], axis=1)[:, 0]
        return self.projection(end)


class CLIP(nnx.Module):
    """The defaults are ViT-B/16: 149,620,737 parameters."""

    def __init__(
        self,
        *,
        image: Positive = 224,
        patch: Positive = 16,
        width: Positive = 768,
        layers: Count = 12,
        heads: Positive = 12,
        vocabulary: Positive = 49_408,
        context: Positive = 77,
        text_width: Positive = 512,
        text_layers: Positive = 12,
        text_heads: Positive = 8,
        output: Positive = 512,
        remat: bool = False,
        dtype: Dtype = "float32",
        rngs: nnx.Rngs,
    ):
        """
        Args:
          remat: recompute transformer layers in the backward pass.
          dtype: of the computation; parameters stay float32.
        """
        shared = {"remat": remat, "dtype": jnp.dtype(dtype), "rngs": rngs}
        self.width = output
        self.vision = VisionTower(image=image, patch=patch, width=width, layers=layers, heads=heads, **shared)
        self.projection = nnx.Linear(width, output, use_bias=False, dtype=shared["dtype"], rngs=rngs)
        self.text = TextTower(
            vocabulary=vocabulary, context=context, width=text_width, layers=text_layers, heads=text_heads,
            output=output, **shared,
        )  # fmt: skip
        self.logit_scale = nnx.Param(jnp.float32(np.log(1 / 0.07)))

    def embed_image(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Of normalised images; not L2-normalised."""
        return self.projection(self.vision.post_norm(self.vision(images, outputs=1)[:, 0]))

    def embed_text(self, ids: Int[Array, "c l"]) -> Float[Array, "c d"]:
        """Of token ids; not L2-normalised."""
        return self.text(ids)

    def logits(self, images: Float[Array, "b h w 3"], ids: Int[Array, "c l"]) -> Float[Array, "b c"]:
        """exp(logit_scale) times the cosine of each image and each text."""
        images, texts = unit(self.embed_image(images)), unit(self.embed_text(ids))
        return jnp.exp(self.logit_scale[...]) * images @ texts.T

    def compare(
        self, batch: Batch, texts: Float[Array, "c d"], *, prompted: bool
    ) -> tuple[Float[Array, "b c"], Float[Array, "b d"]]:
        """exp(logit_scale) times the cosine of each clip's embedding and each text embedding, and the clips' embeddings.

        Raises:
          ValueError: `prompted`, which X-CLIP alone can.
        """
        if prompted:
            raise InputError("config.task.prompted: CLIP has no prompt generator, X-CLIP has")
        video = self(batch, train=False)
        return jnp.exp(self.logit_scale[...]) * unit(video) @ unit(texts).T, video

    def __call__(self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> Float[Array, "b d"]:
        """The mean over `frames` [b t h w 3] of their unit embeddings (motion_guidance.md §3)."""
        frames = batch["frames"]
        each = unit(self.embed_image(frames.reshape(-1, *frames.shape[2:])))
        return each.reshape(*frames.shape[:2], -1).mean(1)


def patchify(images: Float[Array, "b h w c"], size: int) -> Float[Array, "b n p"]:
    """Square patches from the top left, row by row; a patch's values are ordered row, column, channel."""
    b, h, w, c = images.shape
    tiles = images.reshape(b, h // size, size, w // size, size, c).swapaxes(2, 3)
    return tiles.reshape(b, -1, size * size * c)


def unit(x: Float[Array, "*lead d"]) -> Float[Array, "*lead d"]:
    """L2-normalised, in float32."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
