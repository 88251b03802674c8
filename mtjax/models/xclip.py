"""X-CLIP (Ni et al. 2022): CLIP for video, with messages between frames and prompts from the video (models.md §4)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mtjax.command.errors import InputError
from mtjax.command.ranges import Count, Dtype, Positive
from mtjax.models.layers import ACTIVATIONS, PreNormLayer, in_chunks
from mtjax.models.openai_clip import TextTower, VisionTower, unit
from mtjax.types import Batch


class CrossFrameLayer(PreNormLayer):
    """A vision layer in which each frame sends a message: its class token, after attention over the clip's messages, is one
    more token to look at in its frame."""

    def __init__(self, width: int, heads: int, feed_forward: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        super().__init__(width, heads, feed_forward, dtype=dtype, rngs=rngs)
        # PreNormLayer's own attention is over the tokens of a frame, this one over the frames of a clip.
        self.message = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.message_norm = nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)
        self.message_attention = type(self.attention)(width, heads, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "bt n d"], *, frames: int, chunk: int = 0, outputs: int | None = None
    ) -> Float[Array, "bt m d"]:
        """The frames of a clip follow each other in the first dimension; `chunk` frames at a time look at their tokens.
        `outputs`: compute so many tokens, the first ones (all if None)."""
        width = x.shape[-1]
        message = self.message(x[:, 0]).reshape(-1, frames, width)
        message = message + self.message_attention(self.message_norm(message))
        within_frames = functools.partial(self._within_frames, outputs=outputs)
        return in_chunks(within_frames, chunk)(x, message.reshape(-1, 1, width))

    def _within_frames(
        self, x: Float[Array, "bt n d"], message: Float[Array, "bt 1 d"], *, outputs: int | None
    ) -> Float[Array, "bt m d"]:
        joined = self.attention_norm(jnp.concatenate([x, message], 1))
        wanted = x[:, :outputs]
        return self.mlp(wanted + self.attention(joined, outputs=outputs)[:, : wanted.shape[1]])


class FrameIntegration(nnx.Module):
    """The multi-frame integration transformer: one layer over the frames' embeddings, their residual, the mean."""

    def __init__(self, width: int, frames: int, layers: int, heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.positions = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (frames, width)))
        self.layers = nnx.List([PreNormLayer(width, heads, 4 * width, dtype=dtype, rngs=rngs) for _ in range(layers)])

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b d"]:
        """
        Raises:
          ValueError: the clip has another number of frames than the position table, which is not interpolated.
        """
        if x.shape[1] != self.positions.shape[0]:
            raise InputError(
                f"clips have {x.shape[1]} frames, this X-CLIP's position table {self.positions.shape[0]}: the 8-frame and the "
                "32-frame checkpoints do not replace each other"
            )
        y = x + self.positions[...].astype(x.dtype)
        for layer in self.layers:
            y = layer(y)
        return (x + y).mean(1)


class CrossAttention(nnx.Module):
    """Texts look at the patches of a video; no biases but the last."""

    def __init__(self, width: int, heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        into = functools.partial(
            nnx.LinearGeneral, width, (heads, width // heads), use_bias=False, dtype=dtype, rngs=rngs
        )
        self.query, self.key, self.value = into(), into(), into()
        self.out = nnx.LinearGeneral((heads, width // heads), width, axis=(-2, -1), dtype=dtype, rngs=rngs)

    def __call__(self, text: Float[Array, "b c d"], visual: Float[Array, "b n d"]) -> Float[Array, "b c d"]:
        return self.out(jax.nn.dot_product_attention(self.query(text), self.key(visual), self.value(visual)))


class PromptLayer(nnx.Module):
    """Cross-attention and MLP, pre-norm; the visual tokens are not normalised again."""

    def __init__(self, width: int, heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        norm = functools.partial(nnx.LayerNorm, width, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.attention = CrossAttention(width, heads, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, text: Float[Array, "b c d"], visual: Float[Array, "b n d"]) -> Float[Array, "b c d"]:
        text = text + self.attention(self.attention_norm(text), visual)
        return text + self.down(ACTIVATIONS["quick_gelu"](self.up(self.mlp_norm(text))))


class PromptGenerator(nnx.Module):
    """What a video adds to each text's embedding."""

    def __init__(self, vision_width: int, width: int, layers: int, heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        norm = functools.partial(nnx.LayerNorm, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)
        self.patch_norm = norm(vision_width)
        self.patch_projection = nnx.Linear(vision_width, width, use_bias=False, dtype=dtype, rngs=rngs)
        self.norm = norm(width)
        self.layers = nnx.List([PromptLayer(width, heads, dtype=dtype, rngs=rngs) for _ in range(layers)])
        self.alpha = nnx.Param(jnp.full((width,), 0.1))

    def __call__(self, text: Float[Array, "b c d"], patches: Float[Array, "b t n e"]) -> Float[Array, "b c d"]:
        visual = self.norm(self.patch_projection(self.patch_norm(patches)).mean(1))
        prompt = text
        for layer in self.layers:
            prompt = layer(prompt, visual)
        return text + self.alpha[...].astype(prompt.dtype) * prompt


class VideoEncoder(nnx.Module):
    """X-CLIP without its text side: what a student that classifies needs. The defaults are base/16 with 8 frames."""

    def __init__(
        self,
        *,
        frames: Positive = 8,
        image: Positive = 224,
        patch: Positive = 16,
        width: Positive = 768,
        layers: Count = 12,
        heads: Positive = 12,
        output: Positive = 512,
        mit_layers: Positive = 1,
        mit_heads: Positive = 8,
        chunk: Count = 0,
        remat: bool = False,
        dtype: Dtype = "float32",
        rngs: nnx.Rngs,
    ):
        """
        Args:
          frames: of a clip; the position table of the multi-frame integration has this length.
          chunk: frames that a layer of the tower takes at a time and recomputes in the backward pass, a multiple of the number
            of devices; 0: all frames of the batch. 2 saved time on one CPU and cost none on another (docs/benchmarks.md).
          remat: recompute the tower's layers in the backward pass.
          dtype: of the computation; parameters stay float32.
        """
        compute = jnp.dtype(dtype)
        self.width, self.chunk = output, chunk
        self.vision = VisionTower(
            image=image, patch=patch, width=width, layers=layers, heads=heads, layer=CrossFrameLayer, remat=remat,
            dtype=compute, rngs=rngs,
        )  # fmt: skip
        self.projection = nnx.Linear(width, output, use_bias=False, dtype=compute, rngs=rngs)
        self.integration = FrameIntegration(output, frames, mit_layers, mit_heads, dtype=compute, rngs=rngs)

    def embed_video(self, frames: Float[Array, "b t h w 3"]) -> Float[Array, "b d"]:
        """Of normalised frames; not L2-normalised."""
        return self._video(frames, outputs=1)[0]

    def _video(
        self, frames: Float[Array, "b t h w 3"], *, outputs: int | None = None
    ) -> tuple[Float[Array, "b d"], Float[Array, "b t n e"]]:
        """The video's embedding and its patch tokens, without these if `outputs` is 1."""
        b, t = frames.shape[:2]
        flat = frames.reshape(b * t, *frames.shape[2:])
        tokens = self.vision(flat, frames=t, chunk=self.chunk, outputs=outputs)
        each = self.projection(self.vision.post_norm(tokens[:, 0])).reshape(b, t, -1)
        return self.integration(each), tokens[:, 1:].reshape(b, t, -1, tokens.shape[-1])

    def __call__(self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> Float[Array, "b d"]:
        """`embed_video` of the batch's `frames`."""
        return self.embed_video(batch["frames"])


class XCLIP(VideoEncoder):
    """The defaults are base/16 with 8 frames: 194,929,153 parameters (194,941,441 with 32)."""

    def __init__(
        self,
        *,
        frames: Positive = 8,
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
        mit_layers: Positive = 1,
        mit_heads: Positive = 8,
        prompt_layers: Count = 2,
        prompt_heads: Positive = 8,
        chunk: Count = 0,
        remat: bool = False,
        dtype: Dtype = "float32",
        rngs: nnx.Rngs,
    ):
        """See `VideoEncoder`; in addition the text tower and the prompts that a video adds to texts."""
        shared = {"remat": remat, "dtype": dtype, "rngs": rngs}
        super().__init__(
            frames=frames, image=image, patch=patch, width=width, layers=layers, heads=heads, output=output,
            mit_layers=mit_layers, mit_heads=mit_heads, chunk=chunk, **shared,
        )  # fmt: skip
        compute = jnp.dtype(dtype)
        self.text = TextTower(
            vocabulary=vocabulary, context=context, width=text_width, layers=text_layers, heads=text_heads,
            output=output, **shared | {"dtype": compute},
        )  # fmt: skip
        self.prompts = PromptGenerator(width, output, prompt_layers, prompt_heads, dtype=compute, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.float32(np.log(1 / 0.07)))

    def embed_text(self, ids: Int[Array, "c l"]) -> Float[Array, "c d"]:
        """Of token ids, without a video's prompt; not L2-normalised."""
        return self.text(ids)

    def logits(self, frames: Float[Array, "b t h w 3"], ids: Int[Array, "c l"]) -> Float[Array, "b c"]:
        """exp(logit_scale) times the cosine of each video and each text with that video's prompt."""
        return self.compare({"frames": frames}, self.embed_text(ids), prompted=True)[0]

    def compare(
        self, batch: Batch, texts: Float[Array, "c d"], *, prompted: bool
    ) -> tuple[Float[Array, "b c"], Float[Array, "b d"]]:
        """exp(logit_scale) times the cosine of each video and each text embedding, and the videos' embeddings.

        Args:
          prompted: add to each text what its video says (the prompt generator).
        """
        video, patches = self._video(batch["frames"], outputs=None if prompted else 1)
        each = jnp.broadcast_to(texts[None], (len(video), *texts.shape))
        each = self.prompts(each, patches) if prompted else each
        return jnp.exp(self.logit_scale[...]) * jnp.einsum("bd,bcd->bc", unit(video), unit(each)), video
