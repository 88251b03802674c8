"""Raw videos are predicted as clips of the dataset are, whatever the run reads: RGB, flow, features of another run."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import config_of, train_here
from flax import nnx

from mtjax.data import columns
from mtjax.lookup import ConfigError
from mtjax.modalities.features import Features
from mtjax.modalities.flow import Flow
from mtjax.modalities.joined import Joined
from mtjax.modalities.pose import Pose
from mtjax.raw_video import predict as raw_video
from mtjax.run import preprocessing_door
from mtjax.run.experiment import open_run
from mtjax.run.prediction_column import write_column

pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")


class Pooled(nnx.Module):
    """The mean of each quarter of the images, of one input or of several clips."""

    def __init__(self, *, reads: str, rngs: nnx.Rngs):
        self.reads, self.width = reads, 4

    def __call__(self, batch, *, train, rngs=None):
        x = batch[self.reads].mean((-1, -4))
        h, w = x.shape[-2] // 2, x.shape[-1] // 2
        parts = [x[..., a : a + h, b : b + w].mean((-1, -2)) for a in (0, h) for b in (0, w)]
        return jnp.stack(parts, -1)


def write_video(path: Path, shift: int) -> None:
    rng = np.random.default_rng(shift)
    texture = rng.integers(0, 255, (24, 24, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (48, 40))
    for t in range(9):
        picture = np.full((40, 48, 3), 20 * shift, np.uint8)
        picture[8:32, 2 * t : 2 * t + 24] = texture
        writer.write(picture)
    writer.release()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    from preprocessing import catalog, extract

    folder = tmp_path_factory.mktemp("raw")
    for i in range(8):
        write_video(folder / "videos" / f"class_{i % 2}" / f"{i}.mp4", i)
    assert catalog.main(["folder", str(folder / "videos"), str(folder / "data")]) == 0
    for kind in ("frames", "flow"):
        assert extract.main([kind, str(folder / "data"), "--fps=5", "--short_side=32"]) == 0
    return folder / "data"


CLIPS = {"train": "train", "frames": 2, "size": 16, "resize": (18, 20)}
TRAIN = {"steps": 2, "batch": 8}
CLASSIFY = {"name": "classify.Classify"}


def trained(root: Path, workdir: Path, data: dict, model: dict) -> Path:
    train_here(config_of(root, data=data, model=model, task=CLASSIFY, train=TRAIN, evals={}), workdir)
    return workdir


def stored(root: Path, workdir: Path, name: str, field: str) -> np.ndarray:
    """What the run predicts of clip 3 in the dataset, and writes into a column."""
    loaded = open_run(workdir, data={"root": str(root)})
    write_column(*loaded, name, (), ("probs", "embedding"))
    column = columns.Column(root, name)
    return column.read(column.rows(["class_1/3"]))[0][field]


def probs_of(predicted: dict) -> np.ndarray:
    return np.array([p["probability"] for p in sorted(predicted["predictions"], key=lambda p: p["label"])])


@pytest.mark.parametrize("modality", ["rgb.Rgb", "flow.Flow"])
def test_clips_of_rgb_and_flow_and_a_probe_on_their_features(one_device, root, tmp_path, modality):
    reads = "frames" if modality == "rgb.Rgb" else "flow"
    column = {"column": "flow.dis"} if reads == "flow" else {"views": 2}
    data = {"name": modality, **CLIPS, **column}
    run = trained(root, tmp_path / "run", data, {"name": f"{__name__}.Pooled", "reads": reads})
    video = root.parent / "videos" / "class_1" / "3.mp4"
    expected = stored(root, run, f"{reads}.out", "probs")
    np.testing.assert_allclose(probs_of(raw_video.load(run).predict(video)), expected, atol=1e-5)

    features = {"name": "features.Features", "column": f"{reads}.out", "train": "train"}
    probe = trained(root, tmp_path / "probe", features, {"name": "frozen.Frozen", "width": 4})
    expected = stored(root, probe, f"{reads}.probe", "probs")
    found = raw_video.load(probe).predict(video)  # the column says which run wrote it
    np.testing.assert_allclose(probs_of(found), expected, atol=1e-5)
    moved = run.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="run, whose run wrote column .* is not there"):
        raw_video.load(probe)
    np.testing.assert_array_equal(
        probs_of(raw_video.load(probe, features_from=str(moved)).predict(video)), probs_of(found)
    )
    with pytest.raises(ConfigError, match="nowhere, whose run wrote column .* is not there; --features_from"):
        raw_video.load(probe, features_from="nowhere")
    with pytest.raises(ConfigError, match="reads no features"):
        raw_video.load(moved, features_from=str(probe))


def test_what_cannot_be_extracted_is_one_line():
    with pytest.raises(ConfigError, match="made by tests: .* needs features"):
        Features(root="gone", column="x").raw_video({"x": {"producer": "tests", "parameters": {}}})
    with pytest.raises(ConfigError, match="reads Pose of tests"):
        Pose(root="gone").raw_video({"pose": {"producer": "tests", "parameters": {}}})
    with pytest.raises(ConfigError, match="Joined has no recipe"):
        Joined(root="gone", student={}, watched={}).raw_video({})


def test_flow_between_stored_images_takes_their_rate():
    flow = {"producer": "preprocessing.extract flow", "parameters": {"fps": 0.0, "images": "frames 12ab"}}
    recipe = Flow(root="gone").raw_video({"flow.dis": flow, "frames": {"parameters": {"fps": 12.5}}})
    assert (recipe.kind, recipe.flags) == ("flow", {"fps": 12.5})
    with pytest.raises(ConfigError, match="column 'frames', whose rate is not known"):
        Flow(root="gone").raw_video({"flow.dis": flow})


def test_a_column_is_extracted_by_the_kind_that_made_it():
    made = {"producer": "preprocessing.extract my_lab.depth", "parameters": {"fps": 5.0}}
    recipe = Flow(root="gone").raw_video({"flow.dis": made})
    assert (recipe.kind, recipe.parameters) == ("my_lab.depth", {"fps": 5.0})
    with pytest.raises(ConfigError, match="extracted by 'my_lab.depth', .* --allow_code=my_lab.depth"):
        preprocessing_door.extract_video(recipe.kind, "video.mp4", recipe.parameters, {})
