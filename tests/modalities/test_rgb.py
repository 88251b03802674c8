"""RGB clips of consecutive frames: values, several clips a video in order, dense views, pseudo labels by time (motionfit.md)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg
from conftest import edit_json, image_bytes, make_dataset

from mtjax import records
from mtjax.data.columns import Column
from mtjax.modalities import clip_sampling, images
from mtjax.modalities.rgb import MEAN, STD, Rgb
from mtjax.records import CorruptRecord

SIZE, RESIZE = 8, (8, 10)


def numbered(count: int) -> list[bytes]:
    """Frame i is red 10 i everywhere, green the column."""
    pixels = np.zeros((count, *RESIZE, 3), np.uint8)
    pixels[..., 0] = 10 * np.arange(count)[:, None, None]
    pixels[..., 1] = 20 * np.arange(RESIZE[1])
    return [image_bytes(p, "PNG") for p in pixels]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Videos of 6, 10, 14 and 20 frames at 10 a second; a pseudo label 0 until 0.5 s, then 1, then 2 from 1 s on."""
    lengths = {"train-000": 6, "train-001": 10, "train-002": 14, "train-003": 20, "test-000": 20, "test-001": 6}
    fps = dict.fromkeys(lengths, np.float32(10))
    label = dict.fromkeys(lengths, np.array([0, 1, 2], np.int32))
    start = dict.fromkeys(lengths, np.array([0.0, 0.5, 1.0], np.float32))
    del label["train-001"]
    columns_of = {
        "frames": {
            "frames": (records.Feature("jpeg", (-1,)), {i: numbered(n) for i, n in lengths.items()}),
            "fps": (records.Feature("float32"), fps),
        },
        "pseudo.a": {
            "label": (records.Feature("int32", (-1,)), label),
            "start_s": (records.Feature("float32", (-1,)), start),
        },
    }
    made = make_dataset(tmp_path_factory.mktemp("rgb") / "d", per_split={"train": 4, "test": 2}, columns_of=columns_of)
    edit_json(made / "columns" / "pseudo.a" / "column.json", parameters={"class_names": ["a", "b", "c", "d"]})
    return made


def clips_of(root, **changes) -> Rgb:
    return Rgb(**{"root": str(root), "frames": 4, "size": SIZE, "resize": RESIZE} | changes)


def shown(frames: np.ndarray) -> np.ndarray:
    return frames[..., 0, 0, 0] // 10


def draw(data: Rgb, row: int, seed: int) -> dict[str, np.ndarray]:
    return data.read(np.array([row]), train=True, seeds=np.array([seed], np.uint64))


def test_values_are_normalised_by_kinetics_or_not_at_all(root):
    data = clips_of(root)
    batch = data.read(data.rows("test")[:1])
    np.testing.assert_array_equal(shown(batch["frames"]), [[8, 9, 10, 11]])
    np.testing.assert_array_equal(batch["frames"][0, 0, 0, :, 1], 20 * np.arange(1, 9))  # (10 - 8) / 2 = 1
    np.testing.assert_allclose(batch["centre_s"], [0.9], atol=1e-6)  # of 8, 9, 10, 11 at 10 a second: frame 9
    unit = clips_of(root, normalize="unit").prepare(batch, train=False)["frames"]
    np.testing.assert_allclose(unit, batch["frames"] / 255.0, atol=1e-6)
    seen = data.prepare(batch, train=False)["frames"]
    assert seen.dtype == jnp.float32
    np.testing.assert_allclose(seen, (batch["frames"] / 255.0 - MEAN) / STD, atol=1e-5)
    mirrored = clips_of(root, augment={"flip": 1.0}).prepare(batch, train=True, key=jax.random.key(0))["frames"]
    np.testing.assert_allclose(mirrored, seen[..., ::-1, :], atol=1e-5)
    with pytest.raises(ValueError, match="data.normalize='imagenet'"):
        clips_of(root, normalize="imagenet")


def test_clips_are_normalised_by_themselves_and_without_what_stands_still(root):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 3, 4, 8, 8, 3), np.uint8)
    frames[0, 1] = 77  # all of one colour
    clips = frames.astype(np.float64)

    def prepared(by: str) -> np.ndarray:
        return np.asarray(clips_of(root, normalize=by).prepare({"frames": jnp.asarray(frames)}, train=False)["frames"])

    def by_hand(values: np.ndarray) -> np.ndarray:
        of_clip = values.reshape(2, 3, -1, 3)
        mean, std = of_clip.mean(2), of_clip.std(2)
        return (values - mean[:, :, None, None, None]) / np.maximum(std, 1e-3)[:, :, None, None, None]

    np.testing.assert_allclose(prepared("clip"), by_hand(clips), atol=1e-4)
    np.testing.assert_allclose(prepared("background"), by_hand(clips - clips.mean(2, keepdims=True)), atol=1e-4)
    assert max(np.abs(prepared(by)[0, 1]).max() for by in ("clip", "background")) < 1e-3


def test_clips_in_order_do_not_overlap_and_short_videos_are_told_apart(root):
    data = clips_of(root, clips=3, ordered=True, gap=2)  # 3 · 4 + 2 · 2 = 16 frames
    starts = {tuple(shown(draw(data, 3, seed)["frames"])[0, :, 0].tolist()) for seed in range(60)}
    assert starts == {(s, s + 6, s + 12) for s in range(5)}
    assert draw(data, 3, 0)["in_order"].tolist() == [True]
    short = draw(data, 2, 0)
    assert short["in_order"].tolist() == [False]
    np.testing.assert_array_equal(shown(short["frames"])[0, :, 0], [0, 5, 10])
    assert "in_order" not in data.read(data.rows("test"))
    with pytest.raises(ValueError, match="data.ordered"):
        clips_of(root, ordered=True)
    rng = np.random.default_rng(0)
    assert clip_sampling.ordered_starts(64, 16, 3, 8, rng)[1] and not clip_sampling.ordered_starts(63, 16, 3, 8, rng)[1]


def test_dense_views_cover_each_video_and_the_rest_is_padding(root):
    data = clips_of(root, dense=4)
    batch = data.read(data.rows("test"))
    assert batch["frames"].shape == (2, 5, 4, SIZE, SIZE, 3) == (2, *data.element_spec()["frames"][0])
    np.testing.assert_array_equal(shown(batch["frames"])[0, :, 0], [0, 4, 8, 12, 16])
    np.testing.assert_allclose(batch["centre_s"], [[0.1, 0.5, 0.9, 1.3, 1.7], [0.1, -1, -1, -1, -1]], atol=1e-6)
    assert (batch["frames"][1, 1:] == 0).all()
    assert draw(data, 3, 0)["frames"].shape == (1, 1, 4, SIZE, SIZE, 3)


def test_dense_views_are_counted_without_reading_and_padded_to_less_than_twice(root, monkeypatch):
    """Videos of 6, 10, 14 and 20 frames, clips of 4 that begin every other one: 2, 4, 6 and 9 views; the limit is that of all."""
    data = clips_of(root, dense=2)
    assert (len(data.catalog.clips), len(data.columns[0])) == (6, 6)

    def read(*_):
        raise AssertionError("records are read only to count them")

    with monkeypatch.context() as patch:
        patch.setattr(Column, "read", read)
        assert data.dense_views == 9
        groups = data.in_groups(np.arange(6))
    assert [rows.tolist() for _, rows in groups] == [[0, 5], [1], [2], [3, 4]]
    seen = [of.read(rows)["centre_s"] for of, rows in groups]
    assert [s.shape for s in seen] == [(2, 2), (1, 4), (1, 8), (2, 9)] and data.dense_views == 9
    assert [(s >= 0).sum(1).tolist() for s in seen] == [[2, 2], [4], [6], [9, 9]]
    whole = data.read(np.arange(6))
    for (of, rows), centre in zip(groups, seen, strict=True):
        np.testing.assert_array_equal(whole["centre_s"][rows, : centre.shape[1]], centre)
        np.testing.assert_array_equal(whole["frames"][rows, : centre.shape[1]], of.read(rows)["frames"])
    (same,) = clips_of(root).in_groups(np.arange(6))
    assert same[1].tolist() == list(range(6))


def test_pseudo_labels_are_those_of_the_time_of_each_clip(root):
    data = clips_of(root, clips=2, pseudo="pseudo.a")
    assert data.class_names == ("a", "b", "c", "d")
    assert data.rows("train").tolist() == [0, 2, 3]  # train-001 has none
    assert data.labels.tolist() == [0, -1, 0, 0, 0, 0]
    seen = set()
    for seed in range(30):
        batch = draw(data, 3, seed)
        centre = batch["centre_s"][0]
        np.testing.assert_array_equal(batch["label"][0], np.searchsorted([0.499, 0.999], centre))
        for name, at in (("label_before", centre - 0.4), ("label_after", centre + 0.4)):
            expected = np.where((at < 0) | (at > 1.9), -1, np.searchsorted([0.499, 0.999], at))
            np.testing.assert_array_equal(batch[name][0], expected)
        seen |= set(batch["label"][0].tolist())
    assert seen == {0, 1, 2}
    assert data.read(np.array([4, 5]))["label"].tolist() == [1, 0]  # 0.9 s and 0.1 or 0.2 s
    with pytest.raises(ValueError, match="mtjax.cluster"):
        clips_of(root, pseudo="frames").check()


def test_what_is_scored_by_pseudo_labels_is_the_clip_that_has_them(root):
    """Ten clips see three labels; one of them cannot be right about all."""
    data = clips_of(root, views=10, pseudo="pseudo.a")
    one = data.read(np.array([4, 5]))
    assert one["frames"].shape == (2, 1, 4, SIZE, SIZE, 3) == (2, *data.element_spec()["frames"][0])
    np.testing.assert_array_equal(shown(one["frames"])[0], [[8, 9, 10, 11]])  # its middle, 0.9 s, has label 1
    assert one["label"].tolist() == [1, 0] and one["label"].dtype == np.int32
    assert data.views_of({"frames": numbered(20), "fps": 10.0})["frames"].shape[1] == 10  # a video without such labels
    dense = clips_of(root, dense=4, pseudo="pseudo.a").read(np.array([4, 5]))
    assert dense["frames"].shape[1] == 5 and dense["label"].tolist() == [0, 0]  # of most of the video


def test_hidden_videos_stay_hidden_and_a_dry_run_needs_no_dataset(root):
    data = clips_of(root, clips=2, pseudo="pseudo.a", unlabelled=("train",), k_shot=1)
    labels = data.training_labels
    hidden = data.rows("train")[labels[data.rows("train")] < 0]
    assert len(hidden)
    batch = draw(data, int(hidden[0]), 0)
    assert (batch["label"] == -1).all() and (batch["label_after"] == -1).all()
    alone = Rgb(root="nowhere", clips=3, ordered=True, pseudo="pseudo.a").fake(2, 7)
    assert alone["frames"].shape == (2, 3, 16, 112, 112, 3) and alone["label_after"].shape == (2, 3)


def test_images_of_any_size_are_decoded_once_and_cut_alike():
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    smooth = np.asarray(images.resized(picture, (200, 160), (0.0, 0.0, 50.0, 40.0)))
    stored = simplejpeg.encode_jpeg(np.ascontiguousarray(smooth), quality=95)
    whole = images.resized(images.decode(stored, "RGB", at_least=(160, 200)), (10, 8), (0.0, 0.0, 200.0, 160.0)).astype(
        int
    )
    part = images.cut_square(images.decode_for(stored, "RGB", (8, 10)), (8, 10), 6, 1, 2)
    assert part.shape == (6, 6, 3) and np.abs(part - whole[1:7, 2:8]).max() <= 6
    assert images.decode(stored, "RGB", at_least=(16, 20)).shape[0] < 160
    as_is = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=95)
    part = images.cut_square(images.decode_for(as_is, "RGB", (40, 50)), (40, 50), 30, 4, 5)
    np.testing.assert_array_equal(part, images.decode(as_is, "RGB", at_least=(40, 50))[4:34, 5:35])
    for broken in (stored[:200], b"", b"GIF89a"):
        with pytest.raises(CorruptRecord, match="cannot be decoded"):
            images.decode(broken, "RGB", at_least=(8, 8))
