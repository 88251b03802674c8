"""Optical flow: the bytes (MF-6), the methods on known motion, the column, and clips of it as a network sees them."""

import dataclasses
import io
import json
import re
import sys
import types
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg
import torch
from conftest import image_bytes, make_dataset
from PIL import Image
from test_extract import content, dataset
from test_video import grey_video

from mtjax import records
from mtjax.data import __main__ as data_cli
from mtjax.data import column_writer, columns
from mtjax.data.batches import evaluation_batches, training_batches
from mtjax.data.catalog import Catalog, Clip
from mtjax.data.order import Order
from mtjax.modalities import flow_bytes, images
from mtjax.modalities.flow import Flow
from mtjax.modalities.flow_bytes import STEP_PX, to_bytes, to_px
from preprocessing import extract
from preprocessing.extraction.backends import MissingBackend
from preprocessing.extraction.shards import Failure
from preprocessing.extractors import flow
from preprocessing.videos import video_clip

contrib = pytest.mark.skipif(not hasattr(cv2, "optflow"), reason="TV-L1 needs opencv-contrib-python-headless")
SHIFT = (2.0, -1.0)  # of the texture, in pixels a frame


def moving_texture(frames: int = 4, size=(48, 64), shift=SHIFT, seed: int = 0) -> np.ndarray:
    """uint8 [t h w 3]: smooth noise that moves as a whole."""
    margin = 40
    noise = np.random.default_rng(seed).normal(size=(size[0] + 2 * margin, size[1] + 2 * margin)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 1.5) + 2 * cv2.GaussianBlur(noise, (0, 0), 4)
    grey = (128 + 45 * noise / noise.std()).clip(0, 255).astype(np.uint8)
    x, y = (int(s) for s in shift)
    rows = [grey[margin - t * y :, margin - t * x :][: size[0], : size[1]] for t in range(frames)]
    return np.repeat(np.stack(rows)[..., None], 3, axis=-1)


def clip_of(frames: np.ndarray, times_s=None) -> video_clip.Clip:
    times_s = np.arange(len(frames)) / 25 if times_s is None else times_s
    size = frames.shape[2:0:-1]
    return video_clip.Clip(frames, np.asarray(times_s, np.float32), 25.0, size, size)


def stored_bytes(record) -> np.ndarray:
    """uint8 [t h w 2] of a record."""
    axes = [[simplejpeg.decode_jpeg(i, colorspace="GRAY")[..., 0] for i in record[f]] for f in ("flow_x", "flow_y")]
    return np.stack(axes, axis=-1)


# Bytes.


def test_mf6_bytes_by_hand():
    assert to_bytes(np.array([-20, -1, 0, 0.5, 20, 35])).tolist() == [0, 121, 127, 130, 255, 255]
    assert to_bytes(np.float32([-1e9, -20.1, -0.0, 20.1, 1e9])).tolist() == [0, 0, 127, 255, 255]


def test_bytes_round_trip_within_half_a_step_and_zero_is_zero():
    motion = np.linspace(-20, 20, 100_001)
    back = to_px(to_bytes(motion))
    assert back.dtype == np.float32 and np.abs(back - motion).max() <= STEP_PX / 2 + 1e-5
    assert to_px(to_bytes(np.zeros(3))).tolist() == [0.0, 0.0, 0.0]
    everything = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_bytes(to_px(everything)), everything)
    assert to_px(everything).min() >= -20 and to_px(everything).max() == 20


def test_what_is_not_finite_has_no_byte():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or inf"):
            to_bytes(np.array([0.0, bad]))


def test_no_motion_survives_jpeg_at_every_quality_that_is_allowed():
    still = np.full((24, 40, 1), flow_bytes.STILL, np.uint8)
    for quality in range(flow.LEAST_QUALITY, 101):
        back = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(still, quality, "GRAY"), "GRAY")
        assert not to_px(back).any(), quality
    below = simplejpeg.encode_jpeg(still, flow.LEAST_QUALITY - 1, "GRAY")
    assert to_px(simplejpeg.decode_jpeg(below, "GRAY")).any()


# Methods.


class FakeRaft(torch.nn.Module):
    """`torchvision.models.optical_flow.RAFT`: says what its weights say, and twice that before the last refinement."""

    def __init__(self):
        super().__init__()
        self.motion = torch.nn.Parameter(torch.zeros(2))
        self.sizes = []

    def forward(self, before, after):
        b, c, h, w = before.shape
        assert before.shape == after.shape and c == 3 and h % 8 == w % 8 == 0 and min(h, w) >= 128
        assert before.min() >= -1 and before.max() <= 1 and not self.training
        self.sizes.append(b)
        moved = (after - before).flatten(1).abs().sum(1)[:, None, None, None] > 0
        flow = self.motion[None, :, None, None].expand(b, 2, h, w) * moved
        return [2 * flow, flow]


@pytest.fixture
def raft(tmp_path, monkeypatch):
    """A checkpoint; torchvision is replaced by a module that makes `FakeRaft`."""
    made = []

    def raft_large(*, weights, progress):
        assert weights is None and not progress  # the real one would download and unpickle
        made.append(FakeRaft())
        return made[-1]

    for name in ("torchvision", "torchvision.models", "torchvision.models.optical_flow"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["torchvision.models.optical_flow"].raft_large = raft_large
    torch.save({"motion": torch.tensor(SHIFT)}, tmp_path / "raft.pth")
    return types.SimpleNamespace(checkpoint=tmp_path / "raft.pth", made=made)


@pytest.fixture(params=["dis", pytest.param("tvl1", marks=contrib), "raft"])
def method(request):
    if request.param != "raft":
        return flow.make_method(request.param)
    checkpoint = request.getfixturevalue("raft").checkpoint
    return flow.make_method("raft", checkpoint=str(checkpoint), device="cpu", batch_size=2)


def test_constant_motion_is_found(method):
    frames = moving_texture()
    fields = list(method.fields(list(frames)))
    assert len(fields) == 3
    for field in fields:
        assert field.shape == (48, 64, 2) and field.dtype == np.float32
        np.testing.assert_allclose(field[8:-8, 8:-8].mean((0, 1)), SHIFT, atol=0.1)


def test_a_record(method):
    clip = clip_of(moving_texture())
    extractor = flow.Flows(method)
    [record] = extractor.extract(["a"], [clip])
    records.encode(extractor.schema, "a", record)  # as the schema says
    assert extractor.name == f"flow.{method.name}" and len(record["flow_x"]) == len(record["flow_y"]) == 3
    np.testing.assert_allclose(to_px(stored_bytes(record))[:, 8:-8, 8:-8].mean((0, 1, 2)), SHIFT, atol=0.15)
    np.testing.assert_array_equal(record["times_s"], clip.times_s[:-1])
    json.dumps(extractor.parameters)


def test_between_repeated_frames_nothing_moves_and_nothing_is_computed(method):
    frames = moving_texture(3)[[0, 0, 1, 2, 2]]
    [record] = flow.Flows(method).extract(["a"], [clip_of(frames, [0.0, 0.0, 0.04, 0.08, 0.08])])
    still, field, again, still_too = to_px(stored_bytes(record))
    assert not still.any() and not still_too.any()
    [alone] = flow.Flows(method).extract(["a"], [clip_of(moving_texture(3))])
    np.testing.assert_array_equal(np.stack([field, again]), to_px(stored_bytes(alone)))


def test_without_contrib_tvl1_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.delattr(cv2, "optflow", raising=False)
    with pytest.raises(MissingBackend, match="pip install opencv-contrib-python-headless"):
        flow.make_method("tvl1")
    assert extract.main(["flow", str(images_dataset(tmp_path)), "--method=tvl1"]) == 4
    assert "pip uninstall -y opencv-python" in capsys.readouterr().err


def test_raft_takes_small_frames_and_any_batch(raft):
    frames = list(moving_texture(6, (50, 70)))
    options = {"checkpoint": str(raft.checkpoint), "device": "cpu"}
    in_fours, alone = (list(flow.make_method("raft", **options, batch_size=b).fields(frames)) for b in (4, 1))
    np.testing.assert_array_equal(in_fours, alone)
    assert in_fours[0].shape == (50, 70, 2) and raft.made[0].sizes == [4, 1, *[1] * 5]  # one model for both


def test_raft_says_what_is_missing(raft, monkeypatch, tmp_path):
    with pytest.raises(MissingBackend, match=r"curl -LO https://download.pytorch.org/models/raft_large"):
        flow.make_method("raft", checkpoint=str(tmp_path / "none.pth"))
    with pytest.raises(ValueError, match="batch_size 0"):
        flow.make_method("raft", checkpoint=str(raft.checkpoint), batch_size=0)
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)  # as if it were not installed
    with pytest.raises(MissingBackend, match="install it with: pip install torchvision"):
        flow.make_method("raft", checkpoint=str(raft.checkpoint))


# The column.


def images_dataset(root: Path, clips: int = 6, frames: int = 4, **more) -> Path:
    """Clips of moving texture in a column `frames`, without videos; `more` are columns' further fields."""
    listed = tuple(Clip(f"clip{i}", ("train",), label="ab"[i % 2]) for i in range(clips))
    Catalog(root, "images", "1", ("a", "b"), listed).save()
    values = {
        c.id: {"frames": [image_bytes(f, "JPEG") for f in moving_texture(frames, seed=i)]} | {k: v for k, (_, v) in more.items()}
        for i, c in enumerate(listed)
    }  # fmt: skip
    schema = {"frames": records.Feature("jpeg", (-1,))} | {k: feature for k, (feature, _) in more.items()}
    column_writer.write_column(root, columns.Spec("frames", schema, 2, "tests"), values)
    return root


def failures_of(root, name="flow.dis"):
    lines = (columns.column_dir(root, name) / "failures.jsonl").read_text().splitlines()
    return {f["clip"]: (f["stage"], f["reason"]) for f in map(json.loads, lines)}


def records_of(root, name="flow.dis"):
    column = columns.Column(root, name)
    return dict(zip(column.ids.tolist(), column.read(list(range(len(column)))), strict=True))


def test_videos_become_a_column_and_one_frame_does_not(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    grey_video(tmp_path / "videos" / "a.mp4", 5)
    grey_video(tmp_path / "videos" / "slow.mkv", 4, pts_ms=80 * np.arange(4))
    grey_video(tmp_path / "videos" / "one.mp4", 1)
    root = dataset(tmp_path, ["a.mp4", "slow.mkv", "one.mp4", "none.mp4"])
    assert extract.main(["flow", str(root), "--num_shards=2", "--max_failures=2"]) == 0
    out = capsys.readouterr().out
    assert "ms a frame pair, decoding not included, over 10 of them" in out
    assert f"mtjax data coverage {root} --column=flow.dis" in out
    found, spec = records_of(root), columns.Column(root, "flow.dis").spec
    assert {i: len(r["flow_x"]) for i, r in found.items()} == {"a": 4, "slow": 6}
    assert not to_px(stored_bytes(found["slow"])[::2]).any()  # the same frame twice
    assert spec.parameters["quality"] == 95 and spec.parameters["fps"] == 25 and spec.parameters["limit_px"] == 20
    assert spec.parameters["solver"]["opencv"] in cv2.__version__ and "images" not in spec.parameters
    failed = failures_of(root)
    assert failed["one"] == ("flow", "1 frame at 25 a second; flow needs 2") and failed["none"][0] == "open"
    # The rest of what was stopped, and nothing else, is done by the same command.
    directory = columns.column_dir(root, "flow.dis")
    before = content(root, "flow.dis")
    stamps = {p.name: p.stat().st_mtime_ns for p in directory.glob("*.tfrecord")}
    (directory / column_writer.MARKERS / "00001.json").unlink()
    assert extract.main(["flow", str(root), "--max_failures=2"]) == 0
    assert content(root, "flow.dis") == before
    changed = [p.name for p in directory.glob("*.tfrecord") if p.stat().st_mtime_ns != stamps[p.name]]
    assert changed == [spec.shard_name(1)]
    assert extract.main(["flow", str(root), "--quality=80"]) == 2 and "--overwrite" in capsys.readouterr().err


def test_without_videos_the_images_of_a_column_are_taken(tmp_path, capsys):
    root = images_dataset(tmp_path)
    assert extract.main(["flow", str(root)]) == 0
    assert "no videos; taking the images of column 'frames'" in capsys.readouterr().out
    found, spec = records_of(root), columns.Column(root, "flow.dis").spec
    assert len(found) == 6 and spec.parameters["fps"] == 0
    assert spec.parameters["images"] == f"frames {columns.Column(root, 'frames').fingerprint}"
    for record in found.values():
        assert len(record["flow_x"]) == 3 and record["size_px"].tolist() == [64, 48]
        np.testing.assert_allclose(to_px(stored_bytes(record))[:, 8:-8, 8:-8].mean((0, 1, 2)), SHIFT, atol=0.15)
    # Named, at another size, and by several processes: the motion is smaller with the frame.
    assert extract.main(["flow", str(root), "--from=frames", "--short_side=24", "--name=flow.half"]) == 0
    half = records_of(root, "flow.half")["clip0"]
    assert stored_bytes(half).shape == (3, 24, 32, 2)
    np.testing.assert_allclose(to_px(stored_bytes(half))[:, 4:-4, 4:-4].mean((0, 1, 2)), np.divide(SHIFT, 2), atol=0.15)
    # Other kinds of columns are made of images as well, but not the images themselves.
    assert extract.main(["tracks", str(root), "--frames=3", "--points=5"]) == 0
    tracks = records_of(root, "tracks.lk")["clip0"]
    np.testing.assert_allclose(tracks["times_s"], [0.0, 0.08, 0.12])  # evenly spaced among four, at 25 a second
    assert extract.main(["frames", str(root)]) == 2 and "cannot be made from itself" in capsys.readouterr().err


def test_columns_are_stored_at_the_size_that_training_wants(tmp_path, capsys):
    root = images_dataset(tmp_path)
    assert extract.main(["flow", str(root), "--size=20x16"]) == 0
    record = records_of(root)["clip0"]
    assert stored_bytes(record).shape == (3, 16, 20, 2) and record["size_px"].tolist() == [64, 48]
    moved = to_px(stored_bytes(record))[:, 3:-3, 3:-3].mean((0, 1, 2))
    np.testing.assert_allclose(moved, SHIFT, atol=0.15)  # in pixels of what it was computed on
    assert columns.Column(root, "flow.dis").spec.parameters["size"] == [20, 16]
    made = ["frames", str(root), "--from=frames", "--frames=4", "--quality=100", "--name=frames.20"]
    assert extract.main([*made, "--size=20x16"]) == 0
    images = [simplejpeg.decode_jpeg(i) for i in records_of(root, "frames.20")["clip0"]["frames"]]
    assert {i.shape for i in images} == {(16, 20, 3)}
    whole = simplejpeg.decode_jpeg(records_of(root, "frames")["clip0"]["frames"][0])
    wanted = cv2.resize(whole, (20, 16), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(images[0] - wanted).mean() < 1.5  # JPEG loses some
    assert extract.main([*made, "--size=16x20"]) == 2 and "--overwrite" in capsys.readouterr().err
    for wrong in ("20", "20x", "0x16", "axb"):
        with pytest.raises(SystemExit):
            extract.main([*made, f"--size={wrong}"])
        assert "expected WIDTHxHEIGHT" in capsys.readouterr().err


def test_coverage_of_a_flow_column(tmp_path, capsys):
    root = images_dataset(tmp_path)
    assert extract.main(["flow", str(root)]) == 0
    capsys.readouterr()
    assert data_cli.main(["coverage", str(root), "--column=flow.dis"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [train] = [line.split() for line in lines if line.strip().startswith("train  ") and " 6 " in line]
    assert train[:5] == ["train", "6", "6", "(100.0%)", "18"] and train[6:] == ["0.0%", "0"]
    assert float(train[5]) == pytest.approx(np.hypot(*SHIFT), abs=0.3)


def test_images_that_cannot_be_used_are_failures(tmp_path):
    times = (records.Feature("float32", (-1,)), np.float32([0, 0.1, 0.2, 0.2]))
    root = images_dataset(tmp_path, times_s=times, fps=(records.Feature("float32"), np.float32(10)))
    source = columns.Column(root, "frames")
    good = {i: r for i, r in zip(source.ids.tolist(), source.read(list(range(len(source)))), strict=True)}
    source.close()
    good["clip1"]["frames"] = good["clip1"]["frames"][:1]
    good["clip2"]["frames"] = [good["clip2"]["frames"][0][:200], *good["clip2"]["frames"][1:]]
    good["clip3"]["frames"] = [image_bytes(moving_texture(1, (48, 80))[0], "JPEG"), *good["clip3"]["frames"][1:]]
    good["clip4"] |= {"frames": good["clip4"]["frames"][:1], "times_s": np.float32([0])}
    del good["clip5"]
    bad = columns.Spec("kept", source.spec.schema, 1, "tests")
    column_writer.write_column(root, bad, good)
    assert extract.main(["flow", str(root), "--from=kept", "--max_failures=5"]) == 0
    reasons = failures_of(root)
    assert reasons["clip1"] == ("decode", "1 images at 4 times")
    assert reasons["clip2"][0] == "decode" and "cannot be decoded" in reasons["clip2"][1]
    assert reasons["clip3"] == ("decode", "images of (80, 48) and of (64, 48) pixels")
    assert reasons["clip4"] == ("flow", "1 frame; flow needs 2")
    assert reasons["clip5"] == ("open", "column 'kept' has no images of this clip")
    [record] = records_of(root).values()
    assert record["fps"] == 10 and not to_px(stored_bytes(record)[-1]).any()  # its last image comes twice
    # At a rate images repeat or are left out, as frames of a video.
    assert extract.main(["flow", str(root), "--from=kept", "--fps=5", "--name=flow.slow", "--max_failures=5"]) == 0
    np.testing.assert_allclose(records_of(root, "flow.slow")["clip0"]["times_s"], [0.0])


def test_what_cannot_begin_says_why(tmp_path, capsys):
    root = images_dataset(tmp_path / "images")
    empty = tmp_path / "none"
    Catalog(empty, "none", "1", (), (Clip("a", ("train",)),)).save()
    for folder, option, said in (
        (root, "--device=cuda", "--method=dis has no --device"),
        (root, "--quality=60", "61..100"),
        (root, "--from=flow.none", "does not exist"),
        (root, "--method=raft", "torchvision"),
        (empty, "--fps=10", "pass --videos=FOLDER or --from=COLUMN"),
    ):
        if option == "--method=raft" and "torchvision" in sys.modules:
            continue
        assert extract.main(["flow", str(folder), option]) == (4 if said == "torchvision" else 2)
        assert said in capsys.readouterr().err
    column_writer.write_column(root, columns.Spec("grey", {"grey": records.Feature("float32")}, 1, "t"), {})
    assert extract.main(["flow", str(root), "--from=grey"]) == 2 and "no JPEG images" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        extract.main(["flow", str(root), "--from=frames", "--videos=videos"])


def test_a_clip_of_too_many_bytes_fails(monkeypatch):
    monkeypatch.setattr(flow, "MAX_BYTES", 100)
    [outcome] = flow.Flows(flow.make_method("dis")).extract(["a"], [clip_of(moving_texture())])
    assert isinstance(outcome, Failure) and "too many for a record" in outcome.reason


# Clips of it.

SIZE, RESIZE = 24, (32, 40)


def grey_jpeg(plane: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(plane).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def numbered_fields(count: int, height: int = 32, width: int = 40) -> dict[str, list[bytes]]:
    """Field i is x = 100 + 3 i everywhere, y the column."""
    columns_of = np.tile(np.arange(width, dtype=np.uint8) * 4, (height, 1))
    return {
        "flow_x": [grey_jpeg(np.full((height, width), 100 + 3 * i, np.uint8)) for i in range(count)],
        "flow_y": [grey_jpeg(columns_of)] * count,
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Training clips of 3 to 14 fields; test clips of 20, the last two of them broken, and one without a record."""
    values = {f"train-{i:03}": numbered_fields(3 + i) for i in range(12)}
    values |= {f"test-{i:03}": numbered_fields(20) for i in range(5)}
    values["test-003"]["flow_y"] = values["test-003"]["flow_y"][:7]
    values["test-004"]["flow_x"] = [image[:90] for image in values["test-004"]["flow_x"]]
    fields = {f: (records.Feature("jpeg"), {i: v[f] for i, v in values.items()}) for f in ("flow_x", "flow_y")}
    folder = tmp_path_factory.mktemp("flow") / "data"
    return make_dataset(folder, per_split={"train": 12, "test": 6}, columns_of={"flow.dis": fields})


def flow_of(root, **changes) -> Flow:
    return Flow(**{"root": str(root), "frames": 4, "size": SIZE, "resize": RESIZE} | changes)


def cut(encoded: bytes, size: int, top: int, left: int) -> np.ndarray:
    pixels = images.decode_for(encoded, "GRAY", (128, 171))
    return images.cut_square(pixels, (128, 171), size, top, left)[..., 0]


def shown(batch: np.ndarray) -> np.ndarray:
    """Which fields of `numbered_fields` these are, [... t]."""
    return np.round((batch[..., 0].astype(float).mean((-1, -2)) - 100) / 3).astype(int)


def test_evaluation_sees_the_middle_of_the_clip_and_of_the_field(root):
    data = flow_of(root)
    batch = data.read(data.rows("test")[:2])
    assert batch["flow"].shape == (2, 4, SIZE, SIZE, 2) and batch["flow"].dtype == np.uint8 and batch["observed"].all()
    np.testing.assert_array_equal(shown(batch["flow"]), [[8, 9, 10, 11]] * 2)
    np.testing.assert_allclose(batch["flow"][0, 0, 0, :, 1], 4 * (8 + np.arange(SIZE)), atol=2)  # (40 - 24) / 2 = 8
    strided = flow_of(root, stride=3).read(data.rows("test")[:1])["flow"]
    np.testing.assert_array_equal(shown(strided), [[5, 8, 11, 14]])


def test_the_spec_of_what_a_network_sees(root):
    """128 x 171 and then 112: half-way between two pixels, the crop is where torchvision's is, at round(29.5) = 30."""
    data = Flow(root=str(root), frames=2)
    assert data.element_spec()["flow"][0] == (2, 112, 112, 2)
    plane = np.tile(np.arange(171, dtype=np.uint8), (128, 1))
    np.testing.assert_allclose(cut(grey_jpeg(plane), 112, 8, 30)[5], 30 + np.arange(112), atol=2)
    wide = np.random.default_rng(0).integers(0, 256, (256, 340), np.uint8)
    stored = grey_jpeg(wide)
    with Image.open(io.BytesIO(stored)) as image:
        whole = np.asarray(image.resize((171, 128), Image.Resampling.BILINEAR)).astype(int)
    for top, left in ((0, 0), (8, 30), (16, 59)):
        part = whole[top : top + 112, left : left + 112]
        assert np.abs(cut(stored, 112, top, left) - part).max() <= 1


def test_values_are_what_the_spec_says(root):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, SIZE, SIZE, 2), np.uint8)
    pixels[0, 0, 0, 0] = to_bytes(np.zeros(2))
    batch = {"flow": jnp.asarray(pixels), "valid": jnp.ones(2, bool)}
    for normalize, scale in (("bytes", 1.0), ("unit", 127.5)):
        data = flow_of(root, normalize=normalize, augment={"flip": 1.0})
        seen = data.prepare(batch, train=False)
        assert seen["flow"].dtype == jnp.float32 and seen["valid"].all()
        np.testing.assert_allclose(seen["flow"], (pixels - 127.5) / scale, atol=1e-6)
        np.testing.assert_allclose(seen["flow"][0, 0, 0, 0], -0.5 / scale)
        mirrored = data.prepare(batch, train=True, key=jax.random.key(0))["flow"]
        np.testing.assert_allclose(mirrored[..., 0], (255 - pixels[:, :, :, ::-1, 0] - 127.5) / scale, atol=1e-6)
        np.testing.assert_allclose(mirrored[..., 1], (pixels[:, :, :, ::-1, 1] - 127.5) / scale, atol=1e-6)
    off = flow_of(root).prepare(batch, train=True, key=jax.random.key(0))["flow"]
    np.testing.assert_allclose(off, pixels - 127.5)


def test_a_mirror_turns_whole_videos(root):
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 256, (64, 2, 3, 4, 4, 2), np.uint8))
    data = flow_of(root, clips=2, augment={"flip": 0.5})
    seen = data.prepare({"flow": pixels}, train=True, key=jax.random.key(1))["flow"]
    kept = np.asarray(seen == pixels.astype(jnp.float32) - 127.5).all((1, 2, 3, 4, 5))
    assert 16 < kept.sum() < 48
    mirrored = (pixels[..., ::-1, :].astype(jnp.float32) - 127.5) * jnp.array([-1.0, 1.0])
    np.testing.assert_array_equal(np.asarray(seen)[~kept], np.asarray(mirrored)[~kept])


def test_training_draws_where_and_when_but_all_fields_of_a_clip_are_cut_alike(root):
    data, clips = flow_of(root), flow_of(root).rows("train")
    corners, starts = set(), set()
    for seed in range(30):
        drawn = data.read(clips[11:], train=True, seeds=np.array([seed], np.uint64))["flow"][0]
        assert (drawn[..., 1] == drawn[:1, ..., 1]).all()  # y is the same picture in every field: so is the crop
        numbers = shown(drawn)
        assert (np.diff(numbers) == 1).all()
        starts.add(int(numbers[0]))
        corners.add(int(drawn[0, 0, 0, 1]) // 4)
    assert min(starts) == 0 and max(starts) == 10 and len(corners) > 8
    again = data.read(clips[11:], train=True, seeds=np.array([29], np.uint64))["flow"][0]
    np.testing.assert_array_equal(again, drawn)


def test_short_videos_are_looped(root):
    data, clips = flow_of(root, frames=8), flow_of(root).rows("train")[:1]
    expected = [[0, 1, 2, 0, 1, 2, 0, 1]]
    np.testing.assert_array_equal(shown(data.read(clips)["flow"]), expected)
    seeds = np.array([5], np.uint64)
    np.testing.assert_array_equal(shown(data.read(clips, train=True, seeds=seeds)["flow"]), expected)


def test_several_clips_a_video(root):
    data = flow_of(root, clips=3, views=10)
    clips = data.rows("test")[:2]
    seen = data.read(clips)["flow"]
    assert seen.shape == (2, 10, 4, SIZE, SIZE, 2) == (2, *data.element_spec()["flow"][0])
    starts = [i * 16 // 9 for i in range(10)]
    np.testing.assert_array_equal(shown(seen)[0], np.add.outer(starts, range(4)))
    drawn = data.read(clips, train=True, seeds=np.arange(2, dtype=np.uint64))["flow"]
    assert drawn.shape == (2, 3, 4, SIZE, SIZE, 2) == data.fake(2, 3)["flow"].shape
    assert len(np.unique(shown(drawn)[:, :, 0])) > 1 and (np.diff(shown(drawn), axis=-1) == 1).all()
    one = flow_of(root, views=2).read(clips, train=True, seeds=np.arange(2, dtype=np.uint64))["flow"]
    assert one.shape == (2, 1, 4, SIZE, SIZE, 2)  # the dimension is there in both or in neither


def test_only_the_images_that_are_shown_are_decoded(root, monkeypatch):
    decoded, decode = [], images.decode
    monkeypatch.setattr(images, "decode", lambda jpeg, *args, **kw: decoded.append(jpeg) or decode(jpeg, *args, **kw))
    flow_of(root).read(flow_of(root).rows("test")[:1])
    assert len(decoded) == 2 * 4
    decoded.clear()
    flow_of(root, frames=9).read(flow_of(root).rows("train")[:1])  # three fields, looped
    assert len(decoded) == 2 * 3
    decoded.clear()
    seeds = np.zeros(1, np.uint64)  # four clips of four out of twelve fields, each cut at a place of its own
    clips = flow_of(root, clips=4).read(flow_of(root).rows("train")[9:10], train=True, seeds=seeds)["flow"][0]
    assert len(decoded) == 2 * len(set(decoded[::2])) < 2 * 4 * 4
    assert (clips[..., 1] == clips[:, :1, ..., 1]).all() and len(np.unique(clips[:, 0, 0, 0, 1])) > 1


def steps(data: Flow, hosts: int = 1, start: int = 0, stop: int = 4, batch: int = 8) -> np.ndarray:
    order, per_host = Order(len(data.training_clips()), batch, seed=3), []
    for local in np.split(np.arange(batch), hosts):
        per_host.append([b["flow"] for b in training_batches(data, order, local, start, stop)])
    return np.concatenate(per_host, axis=1)


def test_flow_is_the_same_for_any_hosts_and_workers_and_after_a_resume(root):
    whole = steps(flow_of(root, clips=2))
    assert whole.shape == (4, 8, 2, 4, SIZE, SIZE, 2)
    np.testing.assert_array_equal(steps(flow_of(root, clips=2), hosts=4), whole)
    np.testing.assert_array_equal(steps(flow_of(root, clips=2), start=2), whole[2:])
    np.testing.assert_array_equal(steps(flow_of(root, clips=2, workers=1), start=1, stop=3), whole[1:3])


def test_missing_and_damaged_flow_goes_by_the_policies(root, caplog):
    assert len(flow_of(root).rows("test")) == 5
    data = flow_of(root, missing="mask", on_corrupt="skip")
    [batch] = evaluation_batches(data, data.rows("test"), 8, np.arange(8))
    assert batch["observed"].tolist() == [True] * 3 + [False] * 5
    assert batch["valid"].tolist() == [True] * 3 + [False, False, True, False, False]
    assert (batch["flow"][3:] == flow_bytes.STILL).all() and "skipped (data.on_corrupt=skip)" in caplog.text
    for row, said in ((3, "[20, 7] images in"), (4, "an image of 90 bytes cannot be decoded")):
        with pytest.raises(records.CorruptRecord, match=f"clip 'test-00{row}': .*{re.escape(said)}"):
            flow_of(root).read(data.rows("test")[[row]])


def test_settings_that_cannot_be_are_named(root):
    for changes, said in (
        ({"cache": "device"}, r"config.data.cache='device'"),
        ({"normalize": "px"}, r"config.data.normalize='px'"),
        ({"stride": 0}, r"config.data.stride=0: .* wants int at least 1"),
        ({"resize": (20, 40)}, r"config.data.resize=\(20, 40\): must be \(h, w\), at least size=24"),
        ({"augment": {"flop": 0.5}}, r"did you mean 'flip'"),
    ):
        with pytest.raises(ValueError, match=said):
            flow_of(root, **changes)
    with pytest.raises(ValueError, match=r"config.data.field='motion': .*mtjax extract`"):
        flow_of(root, field="motion").element_spec()
    alone = dataclasses.replace(flow_of(root), root="nowhere")  # a dry run needs no dataset
    assert alone.fake(2, 3)["flow"].shape == (2, 4, SIZE, SIZE, 2)
