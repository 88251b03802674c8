"""From poses to motion: velocities and speeds of joints in units of the shoulders (motion_guidance.md §1), inside jit."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtjax.modalities.skeletons import Skeleton
from mtjax.types import Batch

if TYPE_CHECKING:
    from mtjax.modalities.pose import Augment, Pose


class Motion(NamedTuple):
    """What `motion` gives. Columns 3j, 3j+1, 3j+2 of a row are vx, vy and speed of joint j, 0 where it is not seen.

    Attributes:
      features: per frame (divided by the shoulder distance if that is the unit).
      seen: whether joint j has a velocity at this frame: it is visible one frame before and one after.
    """

    features: Float[Array, "b t f"]
    seen: Bool[Array, "b t n"]


def motion(
    pose: Float[Array, "b t n 3"],
    frame_valid: Bool[Array, "b t"],
    skeleton: Skeleton,
    *,
    min_score: float = 0.8,
    min_visible: int = 9,
    min_scale: float = 8.0,
    scale: bool = True,
) -> Motion:
    """Centred differences of normalised joints (Sec. 4.1 of the paper; MG-1 to MG-3).

    Args:
      pose: x, y, score of each joint of the chosen person. Image y points down, and so do velocities.
      frame_valid: False for padding.
      min_score: a joint below it is invisible; the paper's 0.8 itself is visible.
      min_visible: a frame with fewer visible joints gives nothing.
      min_scale: a frame whose shoulders are closer than this (in the pose's unit; the paper: pixels) gives nothing.
      scale: divide by the shoulder distance; False where the poses come normalised. Then `min_scale` is not used.
    """
    xy, visible = pose[..., :2], (pose[..., 2] >= min_score) & frame_valid[..., None]
    left, right = skeleton.shoulder_indices
    origin = (xy[:, :, left] + xy[:, :, right]) / 2
    distance = jnp.linalg.norm(xy[:, :, left] - xy[:, :, right], axis=-1)
    usable = (visible.sum(-1) >= min_visible) & visible[:, :, left] & visible[:, :, right]
    if scale:
        usable &= distance >= min_scale
    unit = jnp.where(usable, distance, 1.0)[..., None, None] if scale else 1.0
    normalised = (xy - origin[:, :, None]) / unit
    here = visible & usable[..., None]
    t = pose.shape[1]
    seen = _between(here[:, 2:] & here[:, :-2], t)
    velocity = _between((normalised[:, 2:] - normalised[:, :-2]) / 2, t)
    velocity = jnp.where(seen[..., None], velocity, 0.0)
    speed = jnp.linalg.norm(velocity, axis=-1, keepdims=True)
    rows = jnp.concatenate([velocity, speed], -1)
    return Motion(rows.reshape(*rows.shape[:2], -1), seen)


def _between(differences: Array, t: int) -> Array:
    """Puts them between a first and a last frame, which have no centred difference; `t` frames in all."""
    return jnp.pad(differences, [(0, 0), (1, 1), *[(0, 0)] * (differences.ndim - 2)])[:, :t]


def keep_rows(
    features: Float[Array, "b t f"], seen: Bool[Array, "b t n"], rows: int
) -> tuple[Float[Array, "b r f"], Bool[Array, "b r"], Int[Array, "b r"]]:
    """The rows that show any joint, in order, thinned out evenly to at most `rows`.

    Returns:
      features, 0 for padding; whether a row is real; the frame that it comes from.
    """
    valid = seen.any(-1)
    count = valid.sum(-1, keepdims=True).astype(jnp.int32)
    first = jnp.argsort(~valid, axis=-1, stable=True).astype(jnp.int32)
    place = jnp.arange(rows, dtype=jnp.int32)[None]
    thinned = jnp.where(count > rows, place * count // rows, place)
    kept = place < jnp.minimum(count, rows)
    frame = jnp.take_along_axis(first, jnp.where(kept, thinned, 0), axis=1)
    taken = jnp.take_along_axis(features, frame[..., None], axis=1)
    return jnp.where(kept[..., None], taken, 0.0), kept, frame


def mirror_motion(features: Float[Array, "b t f"], skeleton: Skeleton) -> Float[Array, "b t f"]:
    """The motion of the mirror image: vx changes its sign, left and right joints change places, speeds go with them."""
    per_joint = features.reshape(*features.shape[:2], len(skeleton), 3)[:, :, jnp.array(skeleton.mirror)]
    return (per_joint * jnp.array([-1.0, 1.0, 1.0])).reshape(features.shape)


def prepare(data: "Pose", batch: Batch, key: Array | None) -> Batch:
    """From stored poses to a model's input; see `Pose` for what comes out. Augments when `key` is given."""
    pose, length = batch["pose"], batch["length"]
    frame_valid = jnp.arange(pose.shape[1])[None] < length[:, None]
    augment = data.augmentation if key is not None else None
    if augment and augment.speed:
        key, drawn = jax.random.split(key)
        speed = 1 + augment.speed * jax.random.uniform(drawn, length.shape, minval=-1.0, maxval=1.0)
        pose, length = play(pose, length, speed)
        frame_valid = jnp.arange(pose.shape[1])[None] < length[:, None]
    if augment and augment.time_crop:
        key, crop = jax.random.split(key)
        frame_valid &= _window(crop, length, pose.shape[1], augment.time_crop)
    found = motion(
        pose, frame_valid, data.body,
        min_score=data.min_score, min_visible=data.min_visible, min_scale=data.min_scale, scale=data.scale,
    )  # fmt: skip
    found = Motion(data.gain * found.features, found.seen)
    if augment:
        found = _augment(found, data.body, augment, key)
    rows, row_valid, row_frame = keep_rows(found.features, found.seen, data.max_rows)
    rest = {k: v for k, v in batch.items() if k not in ("pose", "length")}
    return rest | {"motion": rows, "row_valid": row_valid, "row_frame": row_frame, "observed": row_valid.any(-1)}


def play(
    pose: Float[Array, "b t n 3"], length: Int[Array, " b"], speed: Float[Array, " b"]
) -> tuple[Float[Array, "b t n 3"], Int[Array, " b"]]:
    """Poses as if the clips played at `speed` (2.0: twice as fast), as many as there is room for, and the new lengths.

    Positions are interpolated; a joint scores what it scores in the worse of the two frames.
    """
    t = pose.shape[1]
    place = jnp.arange(t, dtype=jnp.float32)[None] * speed[:, None]
    last = jnp.maximum(length - 1, 0)[:, None]
    before = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, last)
    after = jnp.minimum(before + 1, last)
    share = (place - before.astype(jnp.float32))[..., None, None].clip(0, 1)
    a, b = (jnp.take_along_axis(pose, i[:, :, None, None], axis=1) for i in (before, after))
    xy = (1 - share) * a[..., :2] + share * b[..., :2]
    score = jnp.where(share[..., 0] > 0, jnp.minimum(a[..., 2], b[..., 2]), a[..., 2])
    fits = jnp.floor(last[:, 0].astype(jnp.float32) / speed).astype(jnp.int32) + 1
    return jnp.concatenate([xy, score[..., None]], -1), jnp.where(length > 0, jnp.minimum(fits, t), 0)


def _window(key: Array, length: Int[Array, " b"], t: int, share: float) -> Bool[Array, "b t"]:
    """A random part of each clip, at least 1 - `share` of it."""
    cut, start = jax.random.uniform(key, (2, length.shape[0], 1))
    frames = length[:, None].astype(jnp.float32)
    kept = frames * (1 - share * cut)
    first = start * (frames - kept)
    place = jnp.arange(t, dtype=jnp.float32)[None]
    return (place >= jnp.floor(first)) & (place < jnp.ceil(first + kept))


def _augment(found: Motion, skeleton: Skeleton, augment: "Augment", key: Array) -> Motion:
    """Rotation and scale of all velocities of a clip, hidden joints, noise, the mirror image."""
    b, t, n = found.seen.shape
    keys = jax.random.split(key, 4)
    velocity = found.features.reshape(b, t, n, 3)[..., :2]
    turn, size = jax.random.uniform(keys[0], (2, b, 1, 1), minval=-1.0, maxval=1.0)
    angle, size = jnp.deg2rad(augment.rotate_deg) * turn, 1 + augment.scale * size
    cos, sin = jnp.cos(angle) * size, jnp.sin(angle) * size
    x, y = velocity[..., 0], velocity[..., 1]
    velocity = jnp.stack([cos * x - sin * y, sin * x + cos * y], -1)
    if augment.noise:
        velocity = velocity + augment.noise * jax.random.normal(keys[1], velocity.shape)
    seen = found.seen
    if augment.drop_joints:
        seen = seen & (jax.random.uniform(keys[2], (b, 1, n)) >= augment.drop_joints)
    velocity = jnp.where(seen[..., None], velocity, 0.0)
    rows = jnp.concatenate([velocity, jnp.linalg.norm(velocity, axis=-1, keepdims=True)], -1).reshape(b, t, 3 * n)
    mirrored = jax.random.uniform(keys[3], (b, 1, 1)) < augment.mirror
    return Motion(
        jnp.where(mirrored, mirror_motion(rows, skeleton), rows),
        jnp.where(mirrored, seen[:, :, jnp.array(skeleton.mirror)], seen),
    )
