"""RGB frames: which of a clip, which part of an image, what becomes of colours; damage, hosts, resumes (MG-4)."""

import colorsys
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import image_bytes, make_dataset

from mtjax import records
from mtjax.data.batches import evaluation_batches, training_batches
from mtjax.data.order import Order, copy_seeds
from mtjax.modalities import frame_transforms
from mtjax.modalities.frames import Augment, Frames, cut, frame_indices

CLIPS = 12


def pictures(seed: int, count: int, height: int = 24, width: int = 32) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [image_bytes(p, "JPEG") for p in rng.integers(0, 256, (count, height, width, 3), np.uint8)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Clips of 2 to 9 noisy frames; eight more test clips, of which the last two have a broken record."""
    values = {f"train-{i:03}": pictures(i, 2 + i % 8) for i in range(CLIPS)}
    values |= {f"test-{i:03}": pictures(100 + i, 4) for i in range(6)}
    values["test-006"] = [values["test-000"][0][:200]]  # cut off, as a full disk leaves it
    values["test-007"] = []
    fields = {"frames": (records.Feature("jpeg"), values)}
    folder = tmp_path_factory.mktemp("frames") / "data"
    return make_dataset(folder, per_split={"train": CLIPS, "test": 8}, columns_of={"frames": fields})


def frames_of(root, **changes) -> Frames:
    return Frames(**{"root": str(root), "frames": 4, "size": 16, "short_side": 20} | changes)


# Which frames.


def test_mg4_the_middle_of_each_part_by_hand():
    assert frame_indices(100, 8, None).tolist() == [6, 18, 31, 43, 56, 68, 81, 93]
    assert frame_indices(164, 32, None)[:4].tolist() == [2, 7, 12, 17]
    assert frame_indices(8, 8, None).tolist() == list(range(8))


@pytest.mark.parametrize(("stored", "wanted"), [(100, 8), (37, 8), (9, 8), (64, 32)])
def test_training_draws_one_frame_of_each_part_and_every_frame_can_come(stored, wanted):
    draws = np.stack([frame_indices(stored, wanted, np.random.default_rng(s)) for s in range(2000)])
    edges = [i * stored // wanted for i in range(wanted + 1)]
    for i in range(wanted):
        assert set(draws[:, i]) == set(range(edges[i], edges[i + 1]))


def test_short_clips_start_again_at_their_beginning():
    assert frame_indices(3, 8, None).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert frame_indices(3, 8, np.random.default_rng(0)).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert frame_indices(1, 4, np.random.default_rng(0)).tolist() == [0, 0, 0, 0]


# Which part of an image.


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    """Red says x, green says y: 2 a pixel."""
    y, x = np.mgrid[:height, :width]
    return np.stack([2 * x, 2 * y, np.zeros_like(x)], -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("corner", "left", "top"), [((0.0, 0.0), 0, 0), ((1.0, 1.0), 32, 16), ((0.5, 0.5), 16, 8), ((1.0, 0.0), 32, 0)]
)
def test_crops_lie_where_the_corner_says(corner, left, top):
    image = gradient()
    got = cut(image_bytes(image), 32, 48, corner)  # 32 of 48: the crop is not scaled
    np.testing.assert_array_equal(got, image[top : top + 32, left : left + 32])
    tall = cut(image_bytes(image.swapaxes(0, 1)), 32, 48, corner[::-1])
    np.testing.assert_array_equal(tall, got.swapaxes(0, 1))


def test_a_crop_is_a_share_of_the_short_side_whatever_the_stored_size():
    small, large = (cut(image_bytes(gradient(h, w)), 16, 24, (0.5, 0.5)) for h, w in ((24, 32), (48, 64)))
    inside = slice(1, -1)  # 24 x 32: pixels as they are; 48 x 64: two by two, so that red grows by 4 a column
    np.testing.assert_array_equal(small[0, :, 0], 2 * (8 + np.arange(16)))
    expected = 2 * (16 + 2 * np.arange(16) + 0.5)
    np.testing.assert_allclose(large[8, inside, 0], expected[inside], atol=1)
    up = cut(image_bytes(gradient(12, 16)), 16, 24, (0.5, 0.5))
    np.testing.assert_allclose(up[8, inside, 0], 2 * (4 + (np.arange(16) + 0.5) / 2 - 0.5)[inside], atol=1)


def test_gray_and_odd_images_become_rgb():
    gray = np.full((31, 57), 77, np.uint8)
    assert (cut(image_bytes(gray), 16, 20, (0.99, 0.01)) == 77).all()


def test_what_is_no_image_is_a_corrupt_record():
    whole = pictures(0, 1)[0]
    at = whole.index(b"\xff\xc0") + 5  # height and width of the frame header
    enormous = whole[:at] + b"\xff\x00\xff\x00" + whole[at + 4 :]
    for bad in (b"", b"not an image", whole[:200], image_bytes(gradient())[:100], enormous):
        with pytest.raises(records.CorruptRecord, match=f"an image of {len(bad)} bytes cannot be decoded"):
            cut(bad, 16, 20, (0.5, 0.5))


# Batches.


def test_evaluation_sees_middles_and_training_what_its_seed_says(root):
    data = frames_of(root)
    clips, seeds = data.rows("train")[:5], np.arange(5, dtype=np.uint64)
    images = [data.columns[0].read(data.columns[0].rows([data.catalog.clips[r].id]))[0]["frames"] for r in clips]
    still = data.read(clips)["frames"]
    expected = [[cut(one[i], 16, 20, (0.5, 0.5)) for i in frame_indices(len(one), 4, None)] for one in images]
    np.testing.assert_array_equal(still, np.array(expected))
    drawn = data.read(clips, train=True, seeds=seeds)["frames"]
    assert (drawn != still).any() and (drawn != data.read(clips, train=True, seeds=seeds + 5)["frames"]).any()
    rows = [2, 0, 4]  # a row's frames depend on its own seed, not on its neighbours
    np.testing.assert_array_equal(data.read(clips[rows], train=True, seeds=seeds[rows])["frames"], drawn[rows])


def steps(data: Frames, hosts: int = 1, start: int = 0, stop: int = 5, batch: int = 8) -> np.ndarray:
    order, per_host = Order(len(data.training_clips()), batch, seed=3), []
    for local in np.split(np.arange(batch), hosts):
        per_host.append([b["frames"] for b in training_batches(data, order, local, start, stop)])
    return np.concatenate(per_host, axis=1)


def test_frames_are_the_same_for_any_hosts_and_workers_and_after_a_resume(root):
    whole = steps(frames_of(root))
    assert whole.shape == (5, 8, 4, 16, 16, 3)
    for hosts in (2, 4):
        np.testing.assert_array_equal(steps(frames_of(root), hosts=hosts), whole)
    np.testing.assert_array_equal(steps(frames_of(root), start=3), whole[3:])
    np.testing.assert_array_equal(steps(frames_of(root, workers=2), start=1, stop=4), whole[1:4])


def test_seeds_belong_to_step_and_position_and_never_repeat():
    order = Order(10, 8, seed=3)
    seeds = np.stack([order.seeds(s) for s in range(200)])
    assert len(np.unique(seeds)) == seeds.size
    np.testing.assert_array_equal(Order(10, 16, seed=3).seeds(7), seeds[14:16].ravel())  # by example, not by batch
    assert not np.isin(Order(10, 8, seed=4).seeds(0), seeds).any()
    views = np.stack([copy_seeds(np.arange(50), c) for c in range(1, 5)])
    assert len(np.unique(views)) == views.size
    np.testing.assert_array_equal(copy_seeds(np.array([7, 3]), 2), views[1][[7, 3]])


def test_views_of_a_clip_do_not_depend_on_the_batch_that_it_comes_in(root):
    data, clips = frames_of(root), frames_of(root).rows("train")[:6]

    def views(size: int, copy: int) -> np.ndarray:
        batches = evaluation_batches(data, clips, size, np.arange(size), copy)
        return np.concatenate([b["frames"][b["valid"]] for b in batches])

    np.testing.assert_array_equal(views(4, 1), views(6, 1))
    assert (views(4, 1) != views(4, 2)).any() and (views(4, 0) != views(4, 1)).any()


def test_damaged_images_raise_with_the_clip_or_are_skipped_without_weight(root, caplog):
    clips = frames_of(root).rows("test")
    with pytest.raises(records.CorruptRecord, match=r"clip 'test-006': an image of 200 bytes cannot be decoded"):
        frames_of(root).read(clips)
    with pytest.raises(records.CorruptRecord, match=r"clip 'test-007': .*a clip without an image"):
        frames_of(root).read(clips[7:])
    batch = frames_of(root, on_corrupt="skip").read(clips)
    assert batch["valid"].tolist() == [True] * 6 + [False] * 2 and not batch["frames"][6:].any()
    assert batch["observed"].tolist() == [True] * 6 + [False] * 2 and "skipped (data.on_corrupt=skip)" in caplog.text
    np.testing.assert_array_equal(batch["frames"][:6], frames_of(root).read(clips[:6])["frames"])
    seeded = frames_of(root, on_corrupt="skip").read(clips, train=True, seeds=np.arange(8, dtype=np.uint64))
    alone = frames_of(root).read(clips[:1], train=True, seeds=np.zeros(1, np.uint64))
    np.testing.assert_array_equal(seeded["frames"][:1], alone["frames"])


def test_settings_that_cannot_be_are_named(root):
    with pytest.raises(ValueError, match=r"config.data.short_side=12: must be at least size=16"):
        frames_of(root, short_side=12)
    with pytest.raises(ValueError, match=r"config.data.augment.flop.*did you mean 'flip'"):
        frames_of(root, augment={"flop": 0.5})
    with pytest.raises(ValueError, match=r"config.data.field='images'"):
        frames_of(root, field="images").element_spec()


# The whole split on the device.


def test_on_the_device_the_same_frames_and_squares_are_seen(root):
    """Images as large as `short_side` are cut without scaling, so host and device agree to the pixel."""
    host, device = (frames_of(root, short_side=24, cache=cache) for cache in ("none", "device"))
    clips = host.rows("train")
    expected = host.prepare(jax.tree.map(jnp.asarray, host.read(clips)), train=False)["frames"]
    table = jax.tree.map(jnp.asarray, device.read(clips))
    assert table["frames"].shape == (CLIPS, 9, 24, 24, 3) and table["length"].tolist() == [
        2 + i % 8 for i in range(CLIPS)
    ]
    np.testing.assert_allclose(device.prepare(table, train=False)["frames"], expected, atol=1e-6)


def test_on_the_device_training_draws_one_frame_of_each_part_and_any_square():
    length, seen, corners = jnp.asarray([9, 2], jnp.int32), set(), set()
    y, x = np.mgrid[:6, :6]
    picture = np.stack([np.zeros_like(x), 10 * y, 10 * x], -1).astype(np.uint8)
    clips = np.repeat(np.repeat(picture[None, None], 9, 1), 2, 0)
    clips[..., 0] = np.arange(9)[None, :, None, None]  # red says which frame
    for seed in range(60):
        drawn = np.asarray(frame_transforms.draw(jnp.asarray(clips), length, 4, 4, jax.random.key(seed)))
        seen.add(tuple(drawn[0, :, 0, 0, 0].tolist()))
        corners |= {tuple(c) for c in (drawn[:, 0, 0, 0, 1:] // 10).tolist()}
        assert drawn[1, :, 0, 0, 0].tolist() == [0, 1, 0, 1]  # a short clip starts again
    assert [set(part) for part in zip(*seen, strict=True)] == [{0, 1}, {2, 3}, {4, 5}, {6, 7, 8}]
    assert corners == {(i, j) for i in range(3) for j in range(3)}


# Colours, on the device.


def test_hue_turns_as_colorsys_turns_it():
    rng = np.random.default_rng(0)
    rgb = np.concatenate([rng.random((300, 3)), [[0, 0, 0], [1, 1, 1], [0.4, 0.4, 0.4], [1, 0, 0], [0.2, 0.7, 0.7]]])
    turn = rng.uniform(-1, 1, len(rgb))
    got = frame_transforms.turn_hue(jnp.asarray(rgb, jnp.float32), jnp.asarray(turn, jnp.float32))
    hsv = [colorsys.rgb_to_hsv(*color) for color in rgb]
    expected = [colorsys.hsv_to_rgb((h + by) % 1.0, s, v) for (h, s, v), by in zip(hsv, turn, strict=True)]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def jittered(pixels, draws, **options) -> np.ndarray:
    """Of pixels [h w 3], with the four draws brightness, contrast, saturation, hue."""
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    strengths = jnp.asarray(draws, jnp.float32).reshape(4, 1, 1, 1, 1, 1)
    frames = jnp.asarray(pixels, jnp.float32)[None, None]
    return np.asarray(frame_transforms.jitter(frames, Augment(**off | options), strengths))[0, 0]


def test_jitter_by_hand():
    pixels = np.array([[[0.2, 0.4, 0.6], [0.8, 0.6, 0.4]]])
    luma = pixels @ [0.299, 0.587, 0.114]  # 0.363, 0.637
    np.testing.assert_allclose(jittered(pixels, [1, 0, 0, 0], brightness=0.4), np.minimum(pixels * 1.4, 1), atol=1e-6)
    expected = luma.mean() + (pixels - luma.mean()) * 0.6
    np.testing.assert_allclose(jittered(pixels, [0, -1, 0, 0], contrast=0.4), expected, atol=1e-6)
    expected = luma[..., None] + (pixels - luma[..., None]) * 1.1
    np.testing.assert_allclose(jittered(pixels, [0, 0, 0.5, 0], saturation=0.2), expected, atol=1e-6)
    third = jittered(pixels, [0, 0, 0, 1], hue=1 / 3)  # red's place goes to green: r, g, b → b, r, g
    np.testing.assert_allclose(third, pixels[..., [2, 0, 1]], atol=1e-6)


def augmented(frames, key=0, **options) -> np.ndarray:
    return np.asarray(
        frame_transforms.augment(jnp.asarray(frames, jnp.float32), Augment(**options), jax.random.key(key))
    )


def test_certain_changes_change_everything_and_impossible_ones_nothing():
    frames = np.random.default_rng(0).random((3, 2, 4, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(augmented(frames), frames)
    np.testing.assert_array_equal(augmented(frames, flip=1.0), frames[:, :, :, ::-1])
    gray = augmented(frames, grayscale=1.0)
    np.testing.assert_allclose(
        gray, np.repeat(frames @ np.float32([0.299, 0.587, 0.114]), 3).reshape(gray.shape), atol=1e-6
    )
    colours = augmented(frames, jitter=1.0)
    assert ((colours != frames).any((2, 3, 4))).all() and colours.min() >= 0 and colours.max() <= 1 + 1e-6


def test_clips_flip_and_turn_gray_whole_and_frames_change_colour_alone():
    frames = np.broadcast_to(np.random.default_rng(0).random((1, 1, 4, 4, 3), np.float32), (200, 3, 4, 4, 3))
    flipped = augmented(frames, flip=0.5)[..., 0] == frames[..., ::-1, 0]
    per_clip = flipped.all((2, 3))
    assert (per_clip.all(1) | ~per_clip.any(1)).all() and 70 < per_clip.all(1).sum() < 130
    colours = augmented(frames, grayscale=0.5)
    gray = (colours == colours[..., :1]).all((2, 3, 4))
    assert (gray.all(1) | ~gray.any(1)).all() and 70 < gray.all(1).sum() < 130
    negative = (augmented(frames, invert=0.5) == 1 - frames).all((2, 3, 4))
    assert (negative.all(1) | ~negative.any(1)).all() and 70 < negative.all(1).sum() < 130
    per_frame = (augmented(frames, jitter=0.5) != frames).any((2, 3, 4))
    assert 0.4 < per_frame.mean() < 0.6 and len(np.unique(per_frame, axis=0)) == 8
    different = augmented(frames, jitter=1.0)[:, :, 0, 0, 0]
    assert len(np.unique(different.round(5))) > 300  # strengths are drawn for each frame


def test_evaluation_only_normalises(root):
    data = frames_of(root, augment={"flip": 1.0, "jitter": 1.0, "grayscale": 1.0})
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    batch = {"frames": jnp.asarray(pixels), "valid": jnp.ones(2, bool)}
    expected = (pixels - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    still = data.prepare(batch, train=False, key=jax.random.key(0))["frames"]
    np.testing.assert_allclose(still, expected, atol=1e-5)
    assert still.dtype == jnp.float32
    without = dataclasses.replace(data, augment={}).prepare(batch, train=True, key=jax.random.key(0))["frames"]
    np.testing.assert_allclose(without, expected, atol=1e-5)
    assert np.abs(data.prepare(batch, train=True, key=jax.random.key(0))["frames"] - expected).max() > 0.1


def test_a_clip_can_be_normalised_by_itself(root):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
    pixels[1] = pixels[0] // 4 + np.array([9, 40, 2], np.uint8)  # darker and tinted
    pixels[2] = 7
    found = frame_transforms.normalize(jnp.asarray(pixels, jnp.float32) / 255, "clip")
    np.testing.assert_allclose(found.mean((1, 2, 3)), 0.0, atol=1e-5)
    np.testing.assert_allclose(found[:2].std((1, 2, 3)), 1.0, atol=1e-5)
    np.testing.assert_allclose(found[1], found[0], atol=0.03)  # but for what // rounds off
    np.testing.assert_allclose(found[2], 0.0, atol=1e-4)
    data = frames_of(root, normalize="clip")
    batch = {"frames": jnp.asarray(pixels), "valid": jnp.ones(3, bool)}
    np.testing.assert_allclose(data.prepare(batch, train=False)["frames"], found, atol=1e-5)
    pixels[:2, :, :8] = pixels[:2, :1, :8]  # the upper half stands still
    moving = frame_transforms.normalize(jnp.asarray(pixels, jnp.float32) / 255, "background")
    np.testing.assert_allclose(moving[:, :, :8], 0.0, atol=1e-4)
    np.testing.assert_allclose(moving[:2].std((1, 2, 3)), 1.0, atol=1e-5)
    with pytest.raises(ValueError, match="data.normalize='imagenette'"):
        frames_of(root, normalize="imagenette")
