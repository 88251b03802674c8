"""Prediction on raw video with a trained workdir, the dataset away; overlays; fusion of columns is a matter of reading them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_tracks_dataset, run_cli, tiny_config, write_config

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
    done = run_cli("-m", "mtjax.train", f"--config={file}", f"--workdir={folder / 'run'}")
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.rmtree(root)
    return folder / "run"


def test_raw_videos_become_json_and_overlays_and_a_bad_one_is_reported(workdir, tmp_path):
    good = write_video(tmp_path / "square moves.mp4")
    bad = tmp_path / "bad.mp4"
    bad.write_text("not a video")
    done = run_cli("-m", "mtjax.predict", workdir, good, bad, f"--out={tmp_path / 'out'}", "--top=2")
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


def test_wrong_workdirs_and_steps_are_one_line(workdir, tmp_path):
    video = write_video(tmp_path / "a.mp4", frames=3)
    done = run_cli("-m", "mtjax.predict", tmp_path, video)
    assert done.returncode == 2 and "no config.json" in done.stderr
    done = run_cli("-m", "mtjax.predict", workdir, video, "--step=77")
    assert done.returncode == 2 and "no step 77" in done.stderr
