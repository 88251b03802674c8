"""What happens to tracks on the device, inside jit: resampling, point subsets, normalisation, augmentation."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtjax.types import Batch

if TYPE_CHECKING:
    from mtjax.modalities.tracks import Augment, Tracks


def prepare(data: "Tracks", batch: Batch, key: Array | None) -> Batch:
    """From stored clips to a model's input; see `Tracks` for what comes out. Augments when `key` is given."""
    tracks, length = batch["tracks"].astype(jnp.float32), batch["length"]
    augment = data.augmentation if key is not None else None
    keys = jax.random.split(key, 3) if key is not None else (None,) * 3
    if augment and augment.mirror:
        tracks = _mirror(tracks, data, keys[0])
    tracks, frame_valid = resample(tracks, length, data.frames, data.resample, augment, keys[1])
    # A clip without any frame (missing, masked) has no valid point; its one frame stays valid so that a max over time exists.
    present = jnp.broadcast_to((length > 0)[:, None], (tracks.shape[0], tracks.shape[2]))
    tracks, point_valid = choose_points(tracks, present, batch["clip"], data.points)
    if data.normalize == "clip":
        tracks = normalize_clip(tracks, frame_valid, point_valid)
    if augment:
        tracks, point_valid = _augment(tracks, point_valid, augment, data.normalize == "clip", keys[2])
    rest = {k: v for k, v in batch.items() if k not in ("tracks", "length")}
    return rest | {"tracks": tracks, "frame_valid": frame_valid, "point_valid": point_valid}


def resample(
    tracks: Float[Array, "b m n 3"],
    length: Int[Array, " b"],
    frames: int,
    how: str,
    augment: "Augment | None" = None,
    key: Array | None = None,
) -> tuple[Float[Array, "b t n 3"], Bool[Array, "b t"]]:
    """Brings clips of `length` frames (padded to m) to `frames` frames.

    With `augment`, the window in time and the speed within it are random. The occlusion flag always comes from the
    nearest frame: half an occlusion means nothing.
    """
    b, m, _, _ = tracks.shape
    if how == "pad":
        tracks = jnp.pad(tracks, ((0, 0), (0, frames - m), (0, 0), (0, 0)))
        return tracks, jnp.arange(frames)[None] < jnp.maximum(length, 1)[:, None]
    last = jnp.maximum(length - 1, 0).astype(jnp.float32)[:, None]
    phase = jnp.broadcast_to(jnp.arange(frames, dtype=jnp.float32)[None] / max(frames - 1, 1), (b, frames))
    if augment and (augment.time_crop or augment.time_warp):
        how = "linear"
        cut, start, amplitude, shift = jax.random.uniform(key, (4, b, 1))
        # d/dphase of this warp lies in [1 - time_warp, 1 + time_warp]; it keeps both ends.
        warp = jnp.sin(2 * jnp.pi * (phase + shift)) - jnp.sin(2 * jnp.pi * shift)
        phase = phase + augment.time_warp * (2 * amplitude - 1) * warp / (2 * jnp.pi)
        kept = 1 - augment.time_crop * cut
        phase = start * (1 - kept) + kept * phase
    position = phase * last
    nearest = jnp.round(position).astype(jnp.int32)
    at_nearest = _take_frames(tracks, nearest)
    if how == "linear":
        before = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, m - 1)
        after = jnp.clip(before + 1, 0, jnp.maximum(length - 1, 0)[:, None])
        weight = (position - before.astype(jnp.float32))[:, :, None, None]
        xy = _take_frames(tracks, before)[..., :2] * (1 - weight) + _take_frames(tracks, after)[..., :2] * weight
        at_nearest = jnp.concatenate([xy, at_nearest[..., 2:]], -1)
    return at_nearest, jnp.ones((b, frames), bool)


def _take_frames(tracks: Float[Array, "b m n 3"], index: Int[Array, "b t"]) -> Float[Array, "b t n 3"]:
    return jnp.take_along_axis(tracks, index[:, :, None, None], axis=1)


def choose_points(
    tracks: Float[Array, "b t m 3"], present: Bool[Array, "b m"], clip: Int[Array, " b"], points: int
) -> tuple[Float[Array, "b t n 3"], Bool[Array, "b n"]]:
    """Pads to `points` points, or keeps a random subset that depends on the clip's number alone."""
    stored = tracks.shape[2]
    if points < stored:
        keys = jax.vmap(lambda c: jax.random.fold_in(jax.random.key(0), c))(clip)
        chosen = jax.vmap(lambda k: jax.random.permutation(k, stored)[:points])(keys)
        tracks = jnp.take_along_axis(tracks, chosen[:, None, :, None], axis=2)
        return tracks, jnp.take_along_axis(present, chosen, axis=1)
    missing = points - stored
    return jnp.pad(tracks, ((0, 0), (0, 0), (0, missing), (0, 0))), jnp.pad(present, ((0, 0), (0, missing)))


def normalize_clip(
    tracks: Float[Array, "b t n 3"], frame_valid: Bool[Array, "b t"], point_valid: Bool[Array, "b n"]
) -> Float[Array, "b t n 3"]:
    """Centres each clip on the mean of its visible positions and divides by their root mean square distance from it.

    Where nothing is visible, all valid positions count; a clip whose points all coincide keeps its scale.
    """
    xy, occluded = tracks[..., :2], tracks[..., 2:]
    valid = (frame_valid[:, :, None] & point_valid[:, None, :])[..., None]
    seen = valid & (occluded < 0.5)
    weight = jnp.where(seen.any((1, 2, 3), keepdims=True), seen, valid).astype(jnp.float32)
    count = jnp.maximum(weight.sum((1, 2), keepdims=True), 1.0)
    centred = xy - (weight * xy).sum((1, 2), keepdims=True) / count
    spread = jnp.sqrt((weight * centred**2).sum((1, 2, 3), keepdims=True) / count)
    return jnp.concatenate([centred / jnp.where(spread > 1e-6, spread, 1.0), occluded], -1)


def _mirror(tracks: Float[Array, "b m n 3"], data: "Tracks", key: Array) -> Float[Array, "b m n 3"]:
    # Mirrors about x = 0.5, the middle of the image; with normalize="clip" any axis gives the same clip.
    flipped = tracks.at[..., 0].set(1.0 - tracks[..., 0])[:, :, jnp.array(data.mirror_order)]
    chosen = jax.random.uniform(key, (len(tracks), 1, 1, 1)) < data.augmentation.mirror
    return jnp.where(chosen, flipped, tracks)


def _augment(tracks, point_valid, augment: "Augment", centred: bool, key: Array):
    """Rotation, scale and stretch about the clip's centre (or the image's), then shift, noise and hidden points."""
    b = len(tracks)
    keys = jax.random.split(key, 4)
    angle, scale, stretch, dx, dy = jax.random.uniform(keys[0], (5, b, 1, 1), minval=-1.0, maxval=1.0)
    angle = jnp.deg2rad(augment.rotate_deg) * angle
    x, y, occluded = jnp.moveaxis(tracks, -1, 0)
    middle = 0.0 if centred else 0.5
    x, y = x - middle, y - middle
    size, wide = 1 + augment.scale * scale, 1 + augment.stretch * stretch
    cos, sin = jnp.cos(angle) * size, jnp.sin(angle) * size
    x, y = (cos * x - sin * y) * wide + middle, sin * x + cos * y + middle
    xy = jnp.stack([x + augment.shift * dx, y + augment.shift * dy], -1)
    if augment.noise:
        xy = xy + augment.noise * jax.random.normal(keys[1], xy.shape)
    if augment.drop_points:
        kept = point_valid & (jax.random.uniform(keys[2], point_valid.shape) >= augment.drop_points)
        point_valid = jnp.where(kept.any(1, keepdims=True), kept, point_valid)
    return jnp.concatenate([xy, occluded[..., None]], -1), point_valid
