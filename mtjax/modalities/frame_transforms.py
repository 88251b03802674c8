"""From stored frames to a model's input, inside jit: colours, mirror image, normalisation (motion_guidance.md §3)."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mtjax.types import Batch

if TYPE_CHECKING:
    from mtjax.modalities.frames import Augment, Frames

# ImageNet's, as X-CLIP normalises (motion_guidance.md §3), of values 0 to 255.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
LEAST_STD = 1 / 255  # a step of a stored value: a clip of one colour becomes 0
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision weigh


def prepare(data: "Frames", batch: Batch, key: Array | None) -> Batch:
    """uint8 → normalised float32; draws and augments when `key` is given."""
    frames, rest = batch["frames"], {k: v for k, v in batch.items() if k != "length"}
    if data.cache == "device":
        key, drawn = (None, None) if key is None else jax.random.split(key)
        frames = draw(frames, batch["length"], data.frames, data.size, drawn)
    frames = frames.astype(jnp.float32) / 255.0
    if key is not None and data.augment:
        frames = augment(frames, data.augmentation, key)
    return rest | {"frames": normalize(frames, data.normalize)}


def normalize(frames: Float[Array, "b t h w 3"], by: str) -> Float[Array, "b t h w 3"]:
    """Of RGB in [0, 1]; see `Frames.normalize`."""
    if by == "imagenet":
        return (frames - jnp.array(MEAN) / 255.0) / (jnp.array(STD) / 255.0)
    return standardised(frames, without_still=by == "background")


def standardised(frames: Float[Array, "*b t h w 3"], *, without_still: bool) -> Float[Array, "*b t h w 3"]:
    """Each clip with mean 0 and deviation 1 of each colour; one that is all of one colour becomes 0.

    Args:
      without_still: first takes away each pixel's mean over the clip, so that what stands still vanishes.
    """
    if without_still:
        frames = frames - frames.mean(-4, keepdims=True)
    axes = (-4, -3, -2)
    mean, std = frames.mean(axes, keepdims=True), frames.std(axes, keepdims=True)
    return (frames - mean) / jnp.maximum(std, LEAST_STD)


def draw(
    frames: UInt8[Array, "b n s s 3"], length: Int[Array, " b"], wanted: int, size: int, key: Array | None
) -> UInt8[Array, "b t h w 3"]:
    """`wanted` frames and a square of `size` of each clip: in the middle, or with `key` at random (`frames.frame_indices`)."""
    b, side = frames.shape[0], frames.shape[2]
    part = jnp.arange(wanted)[None]
    span = jnp.maximum(length, wanted)[:, None]
    if key is None:
        index = (2 * part + 1) * span // (2 * wanted)
        corner = jnp.full((b, 2), (side - size) // 2)
    else:
        when, where = jax.random.split(key)
        first, end = part * span // wanted, (part + 1) * span // wanted
        index = jax.random.randint(when, (b, wanted), first, end)
        corner = jax.random.randint(where, (b, 2), 0, side - size + 1)
    index = index % jnp.maximum(length, 1)[:, None]
    chosen = jnp.take_along_axis(frames, index[:, :, None, None, None], axis=1)
    return jax.vmap(lambda clip, at: jax.lax.dynamic_slice(clip, (0, at[0], at[1], 0), (wanted, size, size, 3)))(
        chosen, corner
    )


def augment(frames: Float[Array, "b t h w 3"], options: "Augment", key: Array) -> Float[Array, "b t h w 3"]:
    """Of RGB in [0, 1]: colours of each frame, then colours and direction of whole clips."""
    b, t = frames.shape[:2]
    keys = jax.random.split(key, 5)
    if options.jitter:
        chosen = jax.random.uniform(keys[0], (b, t, 1, 1, 1)) < options.jitter
        draws = jax.random.uniform(keys[1], (4, b, t, 1, 1, 1), minval=-1.0, maxval=1.0)
        frames = jnp.where(chosen, jitter(frames, options, draws), frames)
    if options.grayscale:
        gray = jax.random.uniform(keys[2], (b, 1, 1, 1, 1)) < options.grayscale
        frames = jnp.where(gray, luminance(frames), frames)
    if options.invert:
        negative = jax.random.uniform(keys[4], (b, 1, 1, 1, 1)) < options.invert
        frames = jnp.where(negative, 1.0 - frames, frames)
    if options.flip:
        flipped = jax.random.uniform(keys[3], (b, 1, 1, 1, 1)) < options.flip
        frames = jnp.where(flipped, frames[:, :, :, ::-1], frames)
    return frames


def jitter(
    frames: Float[Array, "b t h w 3"], options: "Augment", draws: Float[Array, "4 b t 1 1 1"]
) -> Float[Array, "b t h w 3"]:
    """torchvision's ColorJitter in the order brightness, contrast, saturation, hue; `draws` in [-1, 1] pick the strengths."""
    x = (frames * (1 + options.brightness * draws[0])).clip(0, 1)
    mean = luminance(x).mean((2, 3, 4), keepdims=True)
    x = (mean + (x - mean) * (1 + options.contrast * draws[1])).clip(0, 1)
    gray = luminance(x)
    x = (gray + (x - gray) * (1 + options.saturation * draws[2])).clip(0, 1)
    return turn_hue(x, options.hue * draws[3][..., 0])


def luminance(rgb: Float[Array, "*lead 3"]) -> Float[Array, "*lead 1"]:
    return (rgb * jnp.array(LUMA)).sum(-1, keepdims=True)


def turn_hue(rgb: Float[Array, "*lead 3"], turn: Float[Array, "..."]) -> Float[Array, "*lead 3"]:
    """Turns the hue by a share of its circle; value and saturation (HSV) stay."""
    value, least = rgb.max(-1), rgb.min(-1)
    chroma = value - least
    safe = jnp.where(chroma > 0, chroma, 1.0)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    sixth = jnp.where(
        value == r, ((g - b) / safe) % 6.0, jnp.where(value == g, (b - r) / safe + 2.0, (r - g) / safe + 4.0)
    )
    hue = sixth + 6.0 * turn

    def channel(n: float) -> Array:
        k = (n + hue) % 6.0
        return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], -1)
