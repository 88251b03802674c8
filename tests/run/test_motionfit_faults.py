"""What is wrong with videos and does not stop MotionFit: too short, without flow, with a broken image (motionfit.md §2, §9)."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg
from conftest import make_dataset
from flax import nnx

from mtjax import records
from mtjax.data.pipeline import Data
from mtjax.modalities import flow_bytes
from mtjax.modalities.flow import Flow
from mtjax.modalities.joined import Joined
from mtjax.modalities.rgb import Rgb
from mtjax.records import CorruptRecord
from mtjax.tasks.classify import Classify
from mtjax.tasks.distill import Distill
from mtjax.types import Teacher

SIZE, RESIZE = 8, (8, 10)
CLIP = {"frames": 4, "size": SIZE, "resize": RESIZE}
NO_FLOW, BROKEN_FLOW, BROKEN_FRAME = 2, 3, 4  # rows of the catalog


def jpegs(count: int, colours: str) -> list[bytes]:
    """Image i is 20 i everywhere."""
    planes = np.ones((count, *RESIZE, 3 if colours == "RGB" else 1), np.uint8)
    planes *= (20 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    return [simplejpeg.encode_jpeg(plane, 95, colours) for plane in planes]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Videos of 3, 9, 9, 9 and 9 frames at 10 a second. Broken images end after 100 bytes; their records' checksums are right."""
    ids = [f"train-{i:03}" for i in range(5)]
    frames = {i: jpegs(3 if n == 0 else 9, "RGB") for n, i in enumerate(ids)}
    flow = {i: jpegs(2 if n == 0 else 8, "GRAY") for n, i in enumerate(ids) if n != NO_FLOW}
    flow_y = {i: list(images) for i, images in flow.items()}
    flow_y[ids[BROKEN_FLOW]][4] = flow_y[ids[BROKEN_FLOW]][4][:100]
    frames[ids[BROKEN_FRAME]][5] = frames[ids[BROKEN_FRAME]][5][:100]
    jpeg, fps = records.Feature("jpeg", (-1,)), (records.Feature("float32"), dict.fromkeys(ids, np.float32(10)))
    columns_of = {
        "frames": {"frames": (jpeg, frames), "fps": fps},
        "flow.dis": {"flow_x": (jpeg, flow), "flow_y": (jpeg, flow_y), "fps": fps},
    }
    return make_dataset(
        tmp_path_factory.mktemp("faults") / "d", per_split={"train": 5}, classes=2, columns_of=columns_of
    )


def shown(frames: np.ndarray) -> list:
    return np.round(frames[..., 0, 0, 0] / 20.0).astype(int).tolist()


def ready(data: Data, rows: list[int], **keywords) -> dict[str, jax.Array]:
    return data.prepare(jax.tree.map(jnp.asarray, data.read(np.array(rows), **keywords)), train=False)


class Colour(nnx.Module):
    """The mean colour of a clip."""

    width = 3

    def __call__(self, batch, *, train, rngs=None):
        return batch["frames"].mean((1, 2, 3))


def loss_of(batch, task=None) -> tuple[float, dict, jax.Array]:
    """Loss, scalars and the gradient of the head."""
    task = task or Classify(num_classes=2)
    graph, params, rest = nnx.split(task.assemble(Colour(), rngs=nnx.Rngs(0)), task.trainable, ...)

    def of(params):
        return task.loss(nnx.merge(graph, params, rest), batch, rngs=nnx.Rngs(0))

    (loss, scalars), gradient = jax.value_and_grad(of, has_aux=True)(params)
    return float(loss), scalars, gradient["head"]["kernel"][...]


def test_a_video_shorter_than_a_clip_is_looped(root):
    def of_short(train: bool = False, **changes):
        data = Rgb(root=str(root), **CLIP | {"frames": 8} | changes)
        return data.read(np.array([0]), **({"train": True, "seeds": np.array([7], np.uint64)} if train else {}))

    looped = [0, 1, 2, 0, 1, 2, 0, 1]
    whole = of_short()
    assert shown(whole["frames"]) == [looped] and whole["observed"].all()
    np.testing.assert_allclose(whole["centre_s"], 0.0)  # the clip's fourth frame is the video's first
    assert shown(of_short(stride=2)["frames"]) == [[0, 2, 1, 0, 2, 1, 0, 2]]
    assert shown(of_short(views=3)["frames"]) == [[looped] * 3]
    dense = of_short(dense=2)  # as many views as the longest video has
    assert shown(dense["frames"])[0][0] == looped and dense["centre_s"][0].tolist() == [0.0] + [-1.0] * (
        dense["centre_s"].shape[1] - 1
    )
    assert shown(of_short(train=True, clips=2)["frames"]) == [[looped] * 2]
    ordered = of_short(train=True, clips=2, ordered=True)
    assert shown(ordered["frames"]) == [[looped] * 2] and ordered["in_order"].tolist() == [False]


def test_a_video_without_flow_is_dropped_or_masked_and_counted(root, caplog):
    flow = {"root": str(root)} | CLIP
    assert Flow(**flow).rows("train").tolist() == [0, 1, 3, 4]
    assert "train: 1 of 5 clips have no record in ('flow.dis',) and are dropped: ['train-002']" in caplog.text
    masked = Flow(**flow, missing="mask")
    assert masked.rows("train").tolist() == [0, 1, 2, 3, 4] and "kept with nothing visible" in caplog.text
    batch = masked.read(np.array([1, NO_FLOW]))
    assert batch["observed"].tolist() == [True, False] and batch["valid"].all()
    assert (batch["flow"][1] == flow_bytes.STILL).all()
    seen = {"frames": jnp.ones((2, 4, SIZE, SIZE, 3))} | {k: jnp.asarray(batch[k]) for k in ("label", "valid")}
    both = loss_of(seen | {"observed": jnp.array([True, False])})
    assert both[0] == pytest.approx(loss_of(jax.tree.map(lambda x: x[:1], seen))[0], abs=1e-6)


def says(module, batch):
    """Of flow its mean, as an embedding as wide as the student's."""
    embedding = jnp.pad(batch["flow"].mean((1, 2, 3)), ((0, 0), (0, 1)))
    return {"probs": jnp.full((len(embedding), 2), 0.5), "embedding": embedding, "observed": batch["observed"]}


TEACHER = Teacher(lambda key: Colour(), {}, says, ("class 000", "class 001"))


def joined(root, **changes) -> Joined:
    student, watched = {"name": "rgb.Rgb"} | CLIP, {"name": "flow.Flow"} | CLIP
    return Joined(root=str(root), student=student, watched=watched, **changes)


def test_a_student_learns_from_a_video_without_flow_untaught(root):
    data = joined(root)
    assert data.rows("train").tolist() == [0, 1, 2, 3, 4]
    batch = ready(data, [1, NO_FLOW])
    assert batch["taught"].tolist() == [True, False] and batch["valid"].all() and batch["observed"].all()
    task = Distill(num_classes=2, teacher=TEACHER, beta=0.0, match=50.0)
    alone = ready(data, [NO_FLOW])
    loss, scalars, gradient = loss_of(alone, task)
    assert float(scalars["match"]) == 0.0 and loss == pytest.approx(float(scalars["hard"])) and loss > 0.1
    assert float(jnp.abs(gradient).max()) > 0.01
    taught, both = loss_of(ready(data, [1]), task), loss_of(batch, task)
    assert float(taught[1]["match"]) > 0 and float(both[1]["match"]) == pytest.approx(
        float(taught[1]["match"]), rel=1e-5
    )
    assert float(both[1]["hard"]) == pytest.approx((loss + float(taught[1]["hard"])) / 2, rel=1e-5)


def test_a_broken_image_in_a_good_record_is_named_or_has_no_weight(root, caplog):
    rgb = {"root": str(root)} | CLIP  # the middle of nine frames: 2 to 5
    said = "clip 'train-004': column 'frames': item 5 in ('frames',): an image of 100 bytes cannot be decoded"
    with pytest.raises(CorruptRecord, match=re.escape(said)):
        Rgb(**rgb).read(np.array([1, BROKEN_FRAME]))
    skipping = Rgb(**rgb, on_corrupt="skip")
    batch = ready(skipping, [1, BROKEN_FRAME])
    assert batch["valid"].tolist() == [True, False] and said in caplog.text
    assert loss_of(batch)[0] == pytest.approx(loss_of(ready(skipping, [1]))[0], abs=1e-6)
    assert shown(skipping.read(np.array([1, BROKEN_FRAME]))["frames"])[0] == [2, 3, 4, 5]  # its neighbour is as it was


def test_a_broken_image_of_flow_only_takes_the_teacher_away(root, caplog):
    said = "clip 'train-003': column 'flow.dis': item 4 in ('flow_x', 'flow_y'): an image of 100 bytes"
    with pytest.raises(CorruptRecord, match=re.escape(said)):
        joined(root).read(np.array([BROKEN_FLOW]))
    rows = [1, NO_FLOW, BROKEN_FLOW, BROKEN_FRAME]
    batch = ready(joined(root, on_corrupt="skip"), rows)
    assert said in caplog.text
    assert joined(root, on_corrupt="skip").read(np.array(rows))["recorded"].tolist() == [True, False, False, True]
    assert batch["valid"].tolist() == [True, True, True, False]
    assert batch["taught"].tolist() == [True, False, False, True]
    assert batch["observed"].tolist() == [True, True, True, False]
