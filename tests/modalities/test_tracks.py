"""Tracks on the device: resampling, subsets, normalisation, augmentation, and what happens to clips without data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_tracks_dataset

from mtjax.modalities import track_transforms
from mtjax.modalities.tracks import Augment, Tracks


def ramp(length: int, padded: int, points: int = 2) -> np.ndarray:
    """A clip whose x is the frame number; padding holds 99."""
    tracks = np.full((1, padded, points, 3), 99.0, np.float32)
    tracks[0, :length, :, 0] = np.arange(length)[:, None]
    tracks[0, :length, :, 1:] = 0
    return tracks


@pytest.mark.parametrize(("length", "frames"), [(10, 4), (4, 10), (7, 7), (1, 5), (2, 3)])
def test_nearest_takes_the_frames_of_the_paper(length, frames):
    tracks, valid = track_transforms.resample(
        jnp.asarray(ramp(length, 12)), jnp.array([length], jnp.int32), frames, "nearest"
    )
    expected = np.round(np.linspace(0, length - 1, frames))
    np.testing.assert_allclose(tracks[0, :, 0, 0], expected)
    assert valid.all()


def test_linear_interpolates_positions_but_not_the_occlusion_flag():
    stored = ramp(5, 8)
    stored[0, 2:5, :, 2] = 1.0
    tracks, _ = track_transforms.resample(jnp.asarray(stored), jnp.array([5], jnp.int32), 9, "linear")
    np.testing.assert_allclose(tracks[0, :, 0, 0], np.linspace(0, 4, 9), atol=1e-6)
    assert set(np.unique(tracks[..., 2])) == {0.0, 1.0}


def test_pad_keeps_frames_and_masks_the_rest():
    tracks, valid = track_transforms.resample(jnp.asarray(ramp(3, 4)), jnp.array([3], jnp.int32), 6, "pad")
    assert tracks.shape == (1, 6, 2, 3) and valid[0].tolist() == [True] * 3 + [False] * 3


def test_point_subsets_depend_on_the_clip_alone():
    tracks = jnp.tile(jnp.arange(20.0)[None, None, :, None], (2, 3, 1, 3))
    present = jnp.ones((2, 20), bool)
    one, _ = track_transforms.choose_points(tracks, present, jnp.array([5, 9], jnp.int32), 6)
    two, valid = track_transforms.choose_points(tracks, present, jnp.array([9, 5], jnp.int32), 6)
    np.testing.assert_array_equal(one, two[::-1])
    assert len(np.unique(one[0, 0, :, 0])) == 6 and valid.all()
    padded, valid = track_transforms.choose_points(tracks, present, jnp.array([5, 9], jnp.int32), 22)
    assert padded.shape[2] == 22 and valid.sum(1).tolist() == [20, 20]


def test_normalisation_undoes_shift_and_scale_and_ignores_what_is_not_seen():
    rng = np.random.default_rng(0)
    tracks = rng.random((1, 6, 4, 3)).astype(np.float32)
    tracks[..., 2] = 0
    tracks[0, :, 3, 2] = 1  # the fourth point is never seen
    masks = jnp.ones((1, 6), bool), jnp.ones((1, 4), bool)
    moved = tracks.copy()
    moved[..., :2] = 3 * moved[..., :2] + 5
    moved[0, :, 3, :2] = -77
    a, b = (np.asarray(track_transforms.normalize_clip(jnp.asarray(x), *masks)) for x in (tracks, moved))
    np.testing.assert_allclose(a[:, :, :3], b[:, :, :3], atol=1e-5)
    seen = a[0, :, :3, :2]
    np.testing.assert_allclose(seen.mean((0, 1)), 0, atol=1e-6)
    assert np.sqrt((seen**2).sum(-1).mean()) == pytest.approx(1, abs=1e-5)


def test_normalisation_survives_constant_and_fully_occluded_clips():
    for occluded in (0.0, 1.0):
        tracks = jnp.ones((1, 3, 2, 3)).at[..., 2].set(occluded)
        out = track_transforms.normalize_clip(tracks, jnp.ones((1, 3), bool), jnp.ones((1, 2), bool))
        assert np.isfinite(out).all() and np.abs(out[..., :2]).max() == 0


AUGMENT = {"rotate_deg": 20.0, "scale": 0.2, "stretch": 0.1, "shift": 0.1, "time_crop": 0.4, "time_warp": 0.4, "noise": 0.01,
           "drop_points": 0.3, "mirror": 0.5}  # fmt: skip


def test_augmentation_is_a_function_of_the_key_and_off_in_evaluation(dataset):
    data = Tracks(root=str(dataset), frames=8, points=5, normalize="clip", augment=AUGMENT)
    batch = {k: jnp.asarray(v) for k, v in data.read(data.rows("train")[:4]).items()}
    one, same = (data.prepare(batch, train=True, key=jax.random.key(1)) for _ in range(2))
    other = data.prepare(batch, train=True, key=jax.random.key(2))
    plain = data.prepare(batch, train=False, key=jax.random.key(1))
    np.testing.assert_array_equal(one["tracks"], same["tracks"])
    assert np.abs(one["tracks"] - other["tracks"]).max() > 1e-3
    unaugmented = Tracks(root=str(dataset), frames=8, points=5, normalize="clip").prepare(batch, train=False)
    np.testing.assert_array_equal(plain["tracks"], unaugmented["tracks"])
    assert one["point_valid"].any(1).all()


@pytest.mark.parametrize("name", sorted(AUGMENT))
def test_each_augmentation_changes_something(dataset, name):
    data = Tracks(root=str(dataset), frames=8, points=5, augment={name: AUGMENT[name]})
    batch = {k: jnp.asarray(v) for k, v in data.read(data.rows("train")[:8]).items()}
    with_, without = (data.prepare(batch, train=train, key=jax.random.key(1)) for train in (True, False))
    changed = any((np.asarray(with_[k]) != np.asarray(without[k])).any() for k in ("tracks", "point_valid"))
    assert changed and np.isfinite(with_["tracks"]).all()


def test_time_augmentation_stays_inside_the_clip_and_in_order():
    augment = Augment(time_crop=0.5, time_warp=0.9)
    tracks, _ = track_transforms.resample(
        jnp.tile(jnp.asarray(ramp(20, 25)), (64, 1, 1, 1)),
        jnp.full(64, 20, jnp.int32),
        16,
        "nearest",
        augment,
        jax.random.key(0),
    )
    x = np.asarray(tracks[:, :, 0, 0])
    assert x.min() >= -1e-4 and x.max() <= 19 + 1e-4 and (np.diff(x) > -1e-4).all()
    assert (x[:, -1] - x[:, 0]).min() >= 9.4  # at least half of the clip is kept


def test_mirror_swaps_left_and_right_joints(tmp_path):
    root = make_tracks_dataset(tmp_path, points=3)
    data = Tracks(root=str(root), frames=8, points=3, augment={"mirror": 1.0})
    data.catalog.info["joint_names"] = ["neck", "left_hand", "right_hand"]
    assert data.mirror_order == (0, 2, 1)
    batch = {k: jnp.asarray(v) for k, v in data.read(data.rows("train")[:2]).items()}
    flipped = data.prepare(batch, train=True, key=jax.random.key(0))["tracks"]
    np.testing.assert_allclose(flipped[..., 1, 0], 1 - batch["tracks"][..., 2, 0], atol=1e-6)


def test_ragged_clips_and_missing_clips(ragged_dataset):
    data = Tracks(root=str(ragged_dataset), frames=8, points=5)
    batch = data.read(data.rows("train"), np.arange(len(data.rows("train"))) > 0)
    assert batch["length"][0] == 0 and batch["length"][1:].min() >= 2 and batch["length"].max() <= 8
    ready = data.prepare({k: jnp.asarray(v) for k, v in batch.items()}, train=False)
    assert not ready["point_valid"][0].any() and ready["point_valid"][1:].all()
    assert np.isfinite(ready["tracks"]).all()


def test_wrong_settings_are_named(dataset):
    with pytest.raises(ValueError, match="resample='nearst'"):
        Tracks(root=str(dataset), resample="nearst")
    with pytest.raises(ValueError, match="no 'rotate'; did you mean 'rotate_deg'"):
        Tracks(root=str(dataset), augment={"rotate": 3.0})
    with pytest.raises(ValueError, match="time_crop and time_warp need"):
        Tracks(root=str(dataset), resample="pad", augment={"time_crop": 0.1})
    with pytest.raises(ValueError, match="clips of up to 8 frames"):
        Tracks(root=str(dataset), resample="pad", frames=4).element_spec()
    with pytest.raises(ValueError, match="column 'tracks' has \\['tracks'\\]"):
        Tracks(root=str(dataset), field="points").element_spec()
