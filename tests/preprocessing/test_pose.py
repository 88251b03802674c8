"""`pose` and `frames` columns: real `transformers` classes with small random weights, and the rules around them by hand."""

import json
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import simplejpeg
import torch
import transformers
from test_extract import dataset
from test_video import grey_video

from mtjax.data import columns
from mtjax.modalities.pose import Pose
from preprocessing import extract
from preprocessing.extraction import backends
from preprocessing.extractors import frames, pose, pose_models
from preprocessing.extractors.pose_models import Detector, PoseModel
from preprocessing.videos.video_clip import Clip

LABELS = {0: "person", 1: "dog"}


def save_detector(folder, kind="RTDetr", labels=LABELS, **changes):
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    sizes = {"d_model": 32, "encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 20}
    layers = {"decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_denoising": 0}
    channels = {"encoder_in_channels": [16, 24, 32], "decoder_in_channels": [32, 32, 32]}
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone,
        id2label=labels,
        label2id={v: k for k, v in labels.items()},
        **sizes,
        **layers,
        **channels,
    )
    getattr(transformers, f"{kind}ForObjectDetection")(config).save_pretrained(folder)
    transformers.RTDetrImageProcessor(size={"height": 64, "width": 64}, **changes).save_pretrained(folder)
    return folder


def save_pose_model(folder, joints=17, experts=1):
    torch.manual_seed(1)
    backbone = transformers.VitPoseBackboneConfig(
        image_size=(64, 48),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_experts=experts,
        part_features=8,
        out_indices=[2],
    )
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=joints)
    transformers.VitPoseForPoseEstimation(config).save_pretrained(folder)
    transformers.VitPoseImageProcessor(size={"height": 64, "width": 48}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)  # for layers this small, threads only wait for each other
    root = tmp_path_factory.mktemp("models")
    save_detector(root / "rt_detr")
    save_detector(root / "rt_detr_v2", "RTDetrV2")
    save_pose_model(root / "vitpose_b")
    save_pose_model(root / "vitpose_plus_s", experts=6)
    return root


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "videos").mkdir()
    names = ["a.mp4", "b.mp4", "slow.mkv"]
    grey_video(tmp_path / "videos" / "a.mp4", 9)
    grey_video(tmp_path / "videos" / "b.mp4", 12, (96, 80))
    grey_video(tmp_path / "videos" / "slow.mkv", 4, pts_ms=80 * np.arange(4))
    return dataset(tmp_path, names)


def run(root, models, *options, detector="rt_detr", pose="vitpose_b"):
    given = [f"--detector={detector}", f"--detector_checkpoint={models / detector}"]
    given += [f"--pose={pose}", f"--pose_checkpoint={models / pose}", "--device=cpu", "--min_score=0.5"]
    return extract.main(["pose", str(root), *given, "--batch_size=4", "--person_batch=4", "--min_side_px=2", *options])


def records_of(root, name="pose.vitpose_b"):
    column = columns.Column(root, name)
    return dict(zip(column.ids.tolist(), column.read(list(range(len(column)))), strict=True))


@pytest.mark.parametrize("detector, model", [("rt_detr", "vitpose_b"), ("rt_detr_v2", "vitpose_plus_s")])
def test_a_pose_column(videos, models, capsys, detector, model):
    assert run(videos, models, detector=detector, pose=model) == 0
    assert f"mtjax data coverage {videos} --column=pose.{model}" in capsys.readouterr().out
    found = records_of(videos, f"pose.{model}")
    assert {clip: len(r["pose"]) for clip, r in found.items()} == {"a": 9, "b": 12, "slow": 7}
    for record in found.values():
        w, h = record["size_px"]
        people, box, frame = record["people"], record["box"], record["frame"]
        assert len(people) == len(box) == len(frame) > 0 and (np.diff(frame) >= 0).all()
        assert (box[:, :2] >= 0).all() and (box[:, 2:4] <= (w, h)).all() and (box[:, 2:4] > box[:, :2]).all()
        assert (box[:, 4] > 0.5).all() and np.bincount(frame).max() <= 10
        np.testing.assert_array_equal(record["pose"], pose.choose(people, frame, len(record["times_s"])))
        assert record["fps"] == pytest.approx(25 if w == 96 or len(record["pose"]) == 9 else 12.5, rel=1e-3)
    slow = found["slow"]  # of a repeated frame, everything repeats
    np.testing.assert_array_equal(slow["pose"][[0, 2, 4]], slow["pose"][[1, 3, 5]])
    np.testing.assert_array_equal(slow["people"][slow["frame"] == 0], slow["people"][slow["frame"] == 1])
    spec = columns.Column(videos, f"pose.{model}").spec
    assert len(spec.weights) == 33 and spec.licence == "Apache-2.0" and spec.parameters["fps"] == 25
    # A rerun does nothing; another model in the same column is told apart.
    assert run(videos, models, detector=detector, pose=model) == 0
    other = "rt_detr" if detector == "rt_detr_v2" else "rt_detr_v2"
    assert run(videos, models, detector=other, pose=model) == 2 and "begun differently" in capsys.readouterr().err


def test_poses_feed_the_data_section(videos, models):
    assert run(videos, models) == 0
    data = Pose(root=str(videos), train="train", column="pose.vitpose_b", min_score=0.0)
    assert data.element_spec()["pose"][0] == (12, 17, 3)
    batch = data.decode([(record,) for record in records_of(videos).values()], None)
    assert sorted(batch["length"].tolist()) == [7, 9, 12]
    column = columns.Column(videos, "pose.vitpose_b")
    assert column.longest("pose") == 12  # exactly, though `people` makes records longer
    assert column.longest("people") == max(len(r["people"]) for r in records_of(videos).values())


def test_batch_sizes_do_not_change_the_record(videos, models):
    assert run(videos, models) == run(videos, models, "--batch_size=1", "--person_batch=3", "--name=pose.other") == 0
    for clip, record in records_of(videos).items():
        other = records_of(videos, "pose.other")[clip]
        for field in record:
            np.testing.assert_allclose(record[field], other[field], atol=2e-3, rtol=1e-4)


def test_half_and_max_persons_and_nobody(videos, models):
    assert run(videos, models, "--half", "--max_persons=1", "--name=pose.half") == 0
    for record in records_of(videos, "pose.half").values():
        np.testing.assert_array_equal(record["frame"], np.unique(record["frame"]))
    assert run(videos, models, "--min_score=0.9999", "--name=pose.nobody") == 0
    nobody = records_of(videos, "pose.nobody")["a"]
    assert nobody["pose"].shape == (9, 17, 3) and not nobody["pose"].any()
    assert nobody["people"].shape == (0, 17, 3) and nobody["box"].shape == (0, 5) and nobody["frame"].shape == (0,)


def test_an_extractor_travels_to_workers_without_its_models(videos, models):
    """That workers write what one process writes is the engine's affair (test_extract); what is sent has to be small."""
    detector = Detector("rt_detr", str(models / "rt_detr"), "cpu", min_score=0.4)
    extractor = pose.Poses(detector, PoseModel("vitpose_b", str(models / "vitpose_b"), "cpu"))
    assert run(videos, models) == 0  # which loads the models in this process
    sent = pickle.dumps(extractor)
    assert len(sent) < 4096 and pickle.loads(sent) == extractor


def test_a_bad_video_is_a_failure_and_the_rest_is_done(videos, models):
    (videos / "videos" / "b.mp4").write_bytes(b"")
    assert run(videos, models) == 3
    assert set(records_of(videos)) == {"a", "slow"}
    [failure] = map(json.loads, (columns.column_dir(videos, "pose.vitpose_b") / "failures.jsonl").open())
    assert failure["clip"] == "b" and failure["stage"] == "open"


# The models.


def noise(rng, n=3, h=60, w=90):
    return np.stack([cv2.resize(rng.integers(0, 255, (12, 18, 3), np.uint8), (w, h)) for _ in range(n)])


def test_the_detector_sees_what_the_image_processor_gives(models):
    pictures = noise(np.random.default_rng(0))
    detector = Detector("rt_detr", str(models / "rt_detr"), "cpu", batch_size=2, min_score=0.4)
    model, processor, _ = pose_models._opened(detector)
    with torch.inference_mode():
        inputs = processor(list(pictures), return_tensors="pt")
        ours = pose_models._normalised(pose_models._resized(torch.from_numpy(pictures), processor), processor)
        assert (ours - inputs["pixel_values"]).abs().max() < 1.5 / 255
        outputs = model(pixel_values=ours)
    expected = processor.post_process_object_detection(outputs, threshold=0.4, target_sizes=[(60, 90)] * 3)
    for (boxes, scores), theirs in zip(detector.detect(pictures), expected, strict=True):
        person = theirs["labels"] == 0
        assert len(scores) == int(person.sum()) > 0
        np.testing.assert_allclose(scores, theirs["scores"][person], atol=1e-4)
        np.testing.assert_allclose(np.sort(boxes, 0), np.sort(theirs["boxes"][person].numpy(), 0), atol=0.01)


def test_joints_are_those_of_the_image_processor(models):
    rng = np.random.default_rng(0)
    pictures = noise(rng)
    boxes = np.array([[20, 10, 50, 55], [30, 12, 70, 40], [5, 5, 85, 55]], np.float32)  # tall, wide, beyond the edges
    frame = np.array([0, 0, 2])
    estimator = PoseModel("vitpose_b", str(models / "vitpose_b"), "cpu", batch_size=2)
    model, processor, _ = pose_models._opened(estimator)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    per_image = [xywh[frame == i].tolist() for i in (0, 2)]
    with torch.inference_mode():
        inputs = processor(list(pictures[[0, 2]]), boxes=per_image, return_tensors="pt")
        crops = [pose_models._crops(torch.from_numpy(pictures[i]), boxes[frame == i], processor) for i in (0, 2)]
        ours = pose_models._normalised(torch.cat(crops).round(), processor)
        # Inside the picture they agree; where a crop leaves it, theirs turns black a pixel earlier.
        white = torch.full((60, 90, 3), 255, dtype=torch.uint8)
        inside = pose_models._crops(white, boxes, processor) == 255
        assert 0.5 < inside.float().mean() < 1
        assert (ours - inputs["pixel_values"])[inside].abs().max() < 1.1 / 255 / 0.22  # a grey level
        outputs = model(pixel_values=ours)
    theirs = [p for image in processor.post_process_pose_estimation(outputs, boxes=per_image) for p in image]
    found = estimator.estimate(pictures, frame, boxes)
    assert found.shape == (3, 17, 3) and found.dtype == np.float32
    for mine, their in zip(found, theirs, strict=True):
        np.testing.assert_allclose(mine[:, 2], their["scores"], atol=1e-4)
        np.testing.assert_allclose(mine[:, :2], their["keypoints"], atol=0.05)


def test_regions_have_the_model_s_aspect_and_a_quarter_more():
    regions = pose_models.crop_regions(np.array([[10, 20, 40, 120], [0, 0, 80, 30]], np.float32), 192 / 256)
    np.testing.assert_allclose(regions, [[25, 70, 1.25 * 75, 1.25 * 100], [40, 15, 1.25 * 80, 1.25 * 80 * 4 / 3]])


def test_batches_are_halved_when_memory_runs_out():
    calls = []

    def work(rows, size):
        calls.append((rows.start, rows.stop, size))
        if size > 2:
            raise torch.OutOfMemoryError("full")
        return list(range(rows.start, rows.stop))

    assert backends.in_batches(work, 5, 8) == [0, 1, 2, 3, 4]
    assert calls == [(0, 5, 8), (0, 4, 4), (0, 2, 2), (2, 4, 2), (4, 5, 2)]

    def never(rows, size):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        backends.in_batches(never, 5, 4)


def test_nan_is_not_taken_for_nobody(models):
    detector = Detector("rt_detr", str(models / "rt_detr"), "cpu")
    model = pose_models._opened(detector)[0]
    saved = model.model.decoder.class_embed[-1].bias.detach().clone()
    with torch.no_grad():
        model.model.decoder.class_embed[-1].bias[0] = float("nan")
    try:
        with pytest.raises(FloatingPointError, match="without --half"):
            detector.detect(noise(np.random.default_rng(0)))
    finally:
        with torch.no_grad():
            model.model.decoder.class_embed[-1].bias.copy_(saved)


# What cannot begin.


def test_what_is_missing_is_named_with_the_command(videos, models, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.snapshot_download", unreachable)
        assert extract.main(["pose", str(videos), f"--detector_checkpoint={models / 'rt_detr'}"]) == 4
        said = capsys.readouterr().err
        command = (
            "`hf download usyd-community/vitpose-base-simple --local-dir FOLDER`, then pass --pose_checkpoint=FOLDER"
        )
        assert command in said and said.count("\n") == 1
        assert extract.main(["pose", str(videos)]) == 4
        assert "hf download PekingU/rtdetr_r50vd --local-dir FOLDER" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "none", "no such folder"),
        (tmp_path / "empty", "no config.json and no preprocessor_config.json and no *.safetensors"),
        (models / "vitpose_b", "config.json says model_type 'vitpose', rt_detr is 'rt_detr'"),
    ):
        assert run(videos, models, f"--detector_checkpoint={path}") in (2, 4)
        said = capsys.readouterr().err
        assert words in said and "--detector_checkpoint" in said
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert run(videos, models) == 4 and "pip install 'mtjax[extract]'" in capsys.readouterr().err
    assert not (videos / "columns").exists()


def unreachable(*_, **__):
    raise FileNotFoundError("ConnectError: Name or service not known\nmore")


def test_wrong_models_are_refused(videos, models, tmp_path, capsys):
    save_pose_model(tmp_path / "two", joints=2)
    assert run(videos, models, f"--pose_checkpoint={tmp_path / 'two'}") == 2
    assert "gives 2 joints" in capsys.readouterr().err
    save_detector(tmp_path / "dogs", labels={0: "cat", 1: "dog"})
    assert run(videos, models, f"--detector_checkpoint={tmp_path / 'dogs'}") == 2
    assert "no class 'person', but ['cat', 'dog']" in capsys.readouterr().err
    file = save_pose_model(tmp_path / "cut") / "model.safetensors"
    state = safetensors.torch.load_file(file)
    state.pop("head.conv.weight")
    safetensors.torch.save_file(state, file, {"format": "pt"})
    assert run(videos, models, f"--pose_checkpoint={tmp_path / 'cut'}") == 2
    assert "1 weights are missing, e.g. ['head.conv.weight']" in capsys.readouterr().err
    file.write_bytes(file.read_bytes()[:200])
    assert run(videos, models, f"--pose_checkpoint={tmp_path / 'cut'}") == 2
    assert "not a whole VitPoseForPoseEstimation" in capsys.readouterr().err
    for option in ("--fps=0", "--max_persons=0", "--batch_size=0"):
        assert run(videos, models, option) == 2


def test_the_hash_is_of_all_weights(models, tmp_path):
    whole = backends.folder_hash(models / "vitpose_b")
    assert whole != backends.folder_hash(models / "vitpose_plus_s") and len(whole) == 16
    (tmp_path / "model.safetensors").write_bytes((models / "vitpose_b" / "model.safetensors").read_bytes())
    assert backends.folder_hash(tmp_path) == whole


# The rules.


def test_boxes_are_cut_and_dropped():
    outside, flat, inverted, narrow = [-5, 2, 50, 300], [10, 10, 10, 50], [30, 30, 20, 60], [0, 0, 9, 90]
    unknown, beyond = [np.nan, 0, 9, 9], [200, 0, 300, 50]
    boxes = np.array([outside, flat, inverted, narrow, unknown, beyond, [0, 0, 40, 40], [5, 5, 60, 60]])
    scores = np.array([0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.7, 0.7])
    kept = pose.clean_boxes(boxes, scores, (100, 200), (10, 10), 10)
    assert kept.dtype == np.float32
    np.testing.assert_allclose(kept[:, :4], [[0, 0, 40, 40], [5, 5, 60, 60], [0, 2, 50, 200]])
    np.testing.assert_allclose(pose.clean_boxes(boxes, scores, (100, 200), (10, 10), 1)[:, 4], [0.7])
    assert pose.clean_boxes(np.zeros((0, 4)), np.zeros(0), (9, 9), (1, 1), 3).shape == (0, 5)


def test_the_person_of_a_frame_is_the_surest():
    people = np.zeros((5, 2, 3), np.float32)
    people[:, :, 0] = np.arange(5)[:, None] + 1
    people[:, :, 2] = [[0.9, 0.1], [0.6, 0.6], [0.4, 0.8], [1.3, 0.2], [-0.5, 0.1]]
    chosen = pose.choose(people, np.array([0, 0, 0, 2, 3]), 5)
    assert chosen[:, 0, 0].tolist() == [2, 0, 4, 5, 0]  # means .5, .6, .6: the first of equals; then alone; nobody
    assert chosen[2, 0, 2] == np.float32(1.3)
    assert pose.choose(people[:0], np.zeros(0, int), 3).shape == (3, 2, 3)


def test_nan_becomes_not_seen():
    people = np.ones((2, 2, 3), np.float32)
    people[0, 1, 0], people[1, 0, 2] = np.inf, np.nan
    found = pose.without_nan(people)
    assert found[0, 1].tolist() == found[1, 0].tolist() == [0, 0, 0] and found.sum() == 6 and found.dtype == np.float32


class StillDetector:
    kind, min_score, half, weights = "rt_detr", 0.3, False, "d"

    def detect(self, frames):
        return [(np.array([[10.0, 4, 30, 34]]), np.array([0.9]))] * len(frames)


class CentreModel:
    kind, half, weights = "vitpose_b", False, "p"

    def estimate(self, frames, frame, boxes):
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5  # edges → the place of a pixel's centre
        return np.concatenate([np.tile(centre[:, None], (1, 17, 1)), np.ones((len(boxes), 17, 1))], -1)


def test_coordinates_are_the_video_s_whatever_it_was_decoded_at():
    extractor = pose.Poses(StillDetector(), CentreModel())
    clip = Clip(np.zeros((2, 36, 64, 3), np.uint8), np.array([0, 0.04], np.float32), 25.0, (128, 72), (128, 72))
    [record] = extractor.extract(["a"], [clip])
    np.testing.assert_allclose(record["box"], [[20, 8, 60, 68, 0.9]] * 2, rtol=1e-6)
    np.testing.assert_allclose(record["people"][:, 0], [[39.5, 37.5, 1]] * 2)
    assert record["size_px"].tolist() == [128, 72]


# Frames.


def test_a_frames_column(videos):
    (videos / "videos" / "b.mp4").write_text("no video")
    assert extract.main(["frames", str(videos), "--frames=5", "--short_side=32", "--max_failures=1"]) == 0
    column = columns.Column(videos, "frames")
    assert column.spec.parameters == {"version": 1, "short_side": 32, "quality": 90, "frames": 5}
    found = records_of(videos, "frames")
    assert set(found) == {"a", "slow"}
    for record in found.values():
        assert len(record["frames"]) == len(record["times_s"]) == 5 and record["size_px"].tolist() == [64, 48]
        assert [simplejpeg.decode_jpeg(x).shape for x in record["frames"]] == [(32, 42, 3)] * 5
    [failure] = map(json.loads, (column.directory / "failures.jsonl").open())
    assert failure["clip"] == "b"


def test_dense_frames_and_their_quality(videos):
    assert extract.main(["frames", str(videos), "--fps=12.5", "--short_side=0", "--name=frames.dense"]) == 0
    dense = records_of(videos, "frames.dense")
    assert {clip: len(r["frames"]) for clip, r in dense.items()} == {"a": 5, "b": 6, "slow": 4}
    np.testing.assert_allclose(dense["a"]["times_s"], np.arange(5) * 0.08, atol=1e-3)
    assert simplejpeg.decode_jpeg(dense["b"]["frames"][0]).shape == (80, 96, 3)
    clip = Clip(noise(np.random.default_rng(0)), np.arange(3, dtype=np.float32), 25.0, (90, 60), (90, 60))
    errors, sizes = [], []
    for quality in (95, 30):
        [record] = frames.Frames(quality=quality).extract(["x"], [clip])
        errors.append(np.abs(simplejpeg.decode_jpeg(record["frames"][0]).astype(int) - clip.frames[0]).mean())
        sizes.append(len(record["frames"][0]))
    assert errors[0] < 4 < errors[1] and sizes[0] > sizes[1]


def test_too_much_for_a_record_is_a_failure(videos, monkeypatch):
    monkeypatch.setattr(frames, "MAX_BYTES", 3000)
    assert extract.main(["frames", str(videos), "--frames=20"]) == 3
    lines = Path(columns.column_dir(videos, "frames") / "failures.jsonl").read_text()
    assert lines.count("for a record") == 3


@pytest.mark.parametrize("option", ["--frames=0", "--quality=0", "--short_side=-1", "--fps=-1"])
def test_wrong_frame_options(videos, option, capsys):
    assert extract.main(["frames", str(videos), option]) == 2
    assert "must be" in capsys.readouterr().err
