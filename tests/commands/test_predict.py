"""Prediction on raw video with a trained workdir, the dataset away; overlays; fusion of columns is a matter of reading them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_tracks_dataset, run_main, tiny_config, write_config

import mtjax
from mtjax.data import columns

av = pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")


def write_video(path: Path, frames: int = 20, size=(160, 120)) -> Path:
    """A textured square that moves to the right."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (40, 40, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for t in range(frames):
            picture = np.full((size[1], size[0], 3), 90, np.uint8)
            picture[40:80, 10 + 4 * t : 50 + 4 * t] = texture
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A run whose dataset is gone: prediction must not need it."""
    folder = tmp_path_factory.mktemp("predict")
    root = make_tracks_dataset(folder / "data")
    file = write_config(folder / "config.py", tiny_config(root, train__epochs=2.0))
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={folder / 'run'}")
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.rmtree(root)
    return folder / "run"


def test_raw_videos_become_json_and_overlays_and_a_bad_one_is_reported(workdir, tmp_path):
    good = write_video(tmp_path / "square moves.mp4")
    bad = tmp_path / "bad.mp4"
    bad.write_text("not a video")
    done = run_main("mtjax.predict", workdir, good, bad, f"--out={tmp_path / 'out'}", "--top=2")
    assert done.returncode == 3, done.stderr[-2000:]
    first, second = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert [p["label"].startswith("direction_") for p in first["predictions"]] == [True, True]
    assert first["predictions"][0]["probability"] >= first["predictions"][1]["probability"]
    assert "bad.mp4" in second["video"] and "error" in second
    saved = json.loads((tmp_path / "out" / "square moves.json").read_text())
    assert saved == first
    picture = cv2.imread(str(tmp_path / "out" / "square moves.png"))
    assert picture.shape[:2] == (480, 640)
    with av.open(str(tmp_path / "out" / "square moves.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8  # the model's number of frames


def test_an_overlay_never_takes_the_place_of_a_video(workdir, tmp_path):
    video = write_video(tmp_path / "a.mp4")
    before = video.read_bytes()
    done = run_main("mtjax.predict", workdir, video, f"--out={tmp_path}")
    assert done.returncode == 2 and "would overwrite a video" in done.stderr and video.read_bytes() == before
    (tmp_path / "b").mkdir()
    done = run_main("mtjax.predict", workdir, video, write_video(tmp_path / "b" / "a.mp4"), f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and "would both be written" in done.stderr and not (tmp_path / "out").exists()


def test_a_loaded_run_is_asked_about_videos_and_arrays(workdir, tmp_path):
    model = mtjax.load(workdir)
    of_video = model.predict(write_video(tmp_path / "a.mp4"), top=2)
    assert len(of_video["predictions"]) == 2 and of_video["fps"] == 10
    of_tracks = model.predict({"tracks": of_video["tracks"]}, top=2)
    assert of_tracks == {"predictions": of_video["predictions"]} and model.class_names[0] == "direction_0"


def test_a_prediction_that_is_no_number_is_no_answer(workdir):
    run = mtjax.load(workdir)
    state = run.state | {"params": {k: v * np.nan if k == "head/bias" else v for k, v in run.state["params"].items()}}
    clip = {"tracks": np.random.default_rng(0).random((8, 5, 3)).astype(np.float32)}
    assert run.predict(clip)["predictions"]
    with pytest.raises(ValueError, match="NaN or infinite"):
        dataclasses.replace(run, state=state).predict(clip)


def test_a_run_on_frames_predicts_raw_videos_from_frames(tmp_path):
    """Frames are extracted as the training column was; the dataset, and its cache on the device, are not needed."""
    for i in range(8):
        (tmp_path / "videos" / f"class_{i % 2}").mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "videos" / f"class_{i % 2}" / f"{i}.mp4", frames=8 + i)
    root = tmp_path / "data"
    for command in (
        ("preprocessing.catalog", "folder", tmp_path / "videos", root),
        ("preprocessing.extract", "frames", root, "--frames=5", "--short_side=24", "--quality=80"),
    ):
        done = run_main(*command)
        assert done.returncode == 0, done.stderr[-2000:]
    config = tiny_config(root, train__steps=2, train__batch=4, evals={}, task__name="classify.Classify")
    config["data"] = {
        "name": "frames.Frames", "root": str(root), "train": "train", "frames": 2, "size": 16, "short_side": 18, "cache": "device",
    }  # fmt: skip
    config["model"] = {
        "name": "xclip.VideoEncoder", "frames": 2, "image": 16, "patch": 8, "width": 8, "layers": 1, "heads": 2, "output": 8,
        "mit_heads": 2,
    }  # fmt: skip
    file = write_config(tmp_path / "config.py", config)
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr[-2000:]
    done = run_main("mtjax.predict", tmp_path / "run", "--column=video.probs", "--fields=probs")
    assert done.returncode == 0, done.stderr[-2000:]
    column = columns.Column(root, "video.probs")
    expected = column.read(column.rows(["class_1/3"]))[0]["probs"]
    shutil.rmtree(root)
    done = run_main("mtjax.predict", tmp_path / "run", tmp_path / "videos" / "class_1" / "3.mp4")
    assert done.returncode == 0, done.stderr[-2000:]
    predicted = {p["label"]: p["probability"] for p in json.loads(done.stdout.splitlines()[-1])["predictions"]}
    # The cache on the device is scaled before it is cut, so that pixels at the edge of the square differ a little.
    np.testing.assert_allclose([predicted["class_0"], predicted["class_1"]], expected, atol=1e-3)


def test_wrong_workdirs_and_steps_are_one_line(workdir, tmp_path):
    video = write_video(tmp_path / "a.mp4", frames=3)
    done = run_main("mtjax.predict", tmp_path, video)
    assert done.returncode == 2 and "no config.json" in done.stderr
    done = run_main("mtjax.predict", workdir, video, "--step=77")
    assert done.returncode == 2 and "no step 77" in done.stderr
