"""Body motion: the worked examples MG-1 to MG-4 and MG-8, padding, mirror images, clips that show nobody."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config
from flax import nnx

from mtjax import lookup
from mtjax.compute.step import Net
from mtjax.data.catalog import Catalog, Clip
from mtjax.data.column_writer import write_column
from mtjax.data.columns import Spec
from mtjax.evaluators.top1 import Top1
from mtjax.modalities import motion_features, skeletons
from mtjax.modalities.pose import Pose
from mtjax.modalities.skeletons import COCO_17, JHMDB_15
from mtjax.models.mil import GatedAttention, MotionMIL, sinusoids
from mtjax.models.movt import MovT
from mtjax.records import Feature
from mtjax.run.complexity import multiplications
from mtjax.run.experiment import Experiment
from mtjax.tasks.classify import Classify
from mtjax.types import Attending, random_streams


def worked_example(frames: int = 5) -> np.ndarray:
    """[1 t 17 3]: shoulders 10 px apart at (15, 20), the left wrist moves (4, 3) px a frame."""
    pose = np.full((1, frames, 17, 3), 0.9, np.float32)
    pose[..., :2] = np.stack([np.linspace(0, 32, 17), np.linspace(0, 64, 17)], -1)
    pose[:, :, 5, :2], pose[:, :, 6, :2] = (10, 20), (20, 20)
    pose[0, :, 9, :2] = np.array([15, 20]) + np.arange(frames)[:, None] * np.array([4, 3])
    return pose


def motion_of(pose: np.ndarray, length: int | None = None, **settings) -> motion_features.Motion:
    b, t = pose.shape[:2]
    valid = jnp.broadcast_to(jnp.arange(t)[None] < (t if length is None else length), (b, t))
    return motion_features.motion(jnp.asarray(pose, jnp.float32), valid, COCO_17, **settings)


def test_mg1_centred_difference_in_shoulder_widths():
    found = motion_of(worked_example())
    np.testing.assert_allclose(found.features[0, 2, 27:30], [0.4, 0.3, 0.5], rtol=1e-5)
    assert not found.seen[0, 0].any() and not found.seen[0, 4].any() and found.seen[0, 1:4].all()
    assert not found.features[0, 0].any() and not found.features[0, 4].any()


def test_mg2_a_joint_is_needed_before_and_after_not_at_the_frame():
    pose = worked_example()
    pose[0, 2, 9, 2] = 0.5
    assert motion_of(pose).seen[0, :, 9].tolist() == [False, False, True, False, False]
    pose[0, 2, :9, 2] = 0.1  # 8 visible joints: the whole frame is gone, and with it its neighbours' differences
    assert motion_of(pose).seen[0].any(-1).tolist() == [False, False, True, False, False]


def test_mg3_shoulders_closer_than_8_px_give_nothing():
    for x, seen in ((17.9, False), (18.0, True)):
        pose = worked_example()
        pose[..., 6, 0] = x
        assert bool(motion_of(pose).seen.any()) == seen
    pose[..., 6, 0] = 11.0
    assert motion_of(pose, scale=False).seen.any()  # poses that come normalised have no such limit


def test_score_of_exactly_the_threshold_is_visible_and_padding_is_not():
    pose = worked_example(8)
    pose[..., 2] = np.float32(0.8)
    assert motion_of(pose).seen[0, 1:7].all()
    assert motion_of(pose, length=4).seen[0].any(-1).tolist() == [False, True, True, False] + [False] * 4
    for frames in (1, 2):
        found = motion_of(worked_example(frames))
        assert found.features.shape == (1, frames, 51) and not found.seen.any()


def test_rows_that_show_nobody_are_left_out_and_long_clips_thinned_evenly():
    seen = np.zeros((2, 10, 3), bool)
    seen[0, [2, 3, 7], 1] = True
    seen[1] = True
    features = np.arange(20, dtype=np.float32).reshape(2, 10, 1) + 1
    rows, valid, frame = motion_features.keep_rows(jnp.asarray(features), jnp.asarray(seen), 5)
    assert rows[0, :, 0].tolist() == [3, 4, 8, 0, 0] and valid[0].tolist() == [True] * 3 + [False] * 2
    assert frame[0, :3].tolist() == [2, 3, 7] and frame[1].tolist() == [0, 2, 4, 6, 8] and valid[1].all()


def test_the_motion_of_a_mirrored_pose_is_the_mirrored_motion():
    rng = np.random.default_rng(0)
    pose = np.concatenate([rng.uniform(0, 100, (2, 6, 17, 2)), rng.uniform(0.5, 1, (2, 6, 17, 1))], -1)
    mirrored = pose[:, :, list(COCO_17.mirror)].copy()
    mirrored[..., 0] = 100 - mirrored[..., 0]
    expected = motion_of(mirrored, min_score=0.6)
    found = motion_of(pose, min_score=0.6)
    np.testing.assert_allclose(motion_features.mirror_motion(found.features, COCO_17), expected.features, atol=1e-5)


def test_a_clip_that_plays_faster_is_shorter_and_moves_more():
    pose = np.repeat(worked_example(12), 4, axis=0)
    pose[2, 3, 9, 2] = 0.1  # one frame of the wrist is lost
    length = np.array([9, 9, 9, 0])
    pose[:, 9:] = 0.0  # padding
    played, left = motion_features.play(jnp.asarray(pose), jnp.asarray(length), jnp.array([2.0, 0.5, 1.5, 1.0]))
    np.testing.assert_array_equal(left, [5, 12, 6, 0])  # at half speed 17 frames, of which 12 fit
    np.testing.assert_allclose(played[0, :5], pose[0, :9:2], atol=1e-5)
    np.testing.assert_allclose(played[1, ::2], pose[1, :6], atol=1e-5)
    np.testing.assert_allclose(played[1, 1:11:2, 9, :2], (pose[1, :5, 9, :2] + pose[1, 1:6, 9, :2]) / 2, atol=1e-5)
    np.testing.assert_allclose(
        played[2, :6, 9, 2], [0.9, 0.9, 0.1, 0.9, 0.9, 0.9], atol=1e-6
    )  # 3.0 and 4.5 of 0, 1.5, 3 …
    assert played[2, 3, 9, 2] == np.float32(0.9)  # 4.5: between frames 4 and 5


def test_speed_changes_velocities_and_nothing_that_is_evaluated(dataset):
    data = Pose(root=str(dataset), augment={"speed": 0.5})
    pose = np.repeat(worked_example(12), 64, axis=0)
    batch = {"pose": jnp.asarray(pose), "length": jnp.full(64, 12, jnp.int32)}
    wrist = np.asarray(data.prepare(batch, train=True, key=jax.random.key(0))["motion"][:, 1, 29])  # speed of joint 9
    assert wrist.min() > 0.24 and wrist.max() < 0.76 and wrist.std() > 0.1  # 0.5 at the speed of the recording
    still = data.prepare(batch, train=False)["motion"][:, 1, 29]
    np.testing.assert_allclose(still, 0.5, atol=1e-5)


def test_skeletons():
    assert COCO_17.mirror == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert COCO_17.shoulder_indices == (5, 6) and JHMDB_15.shoulder_indices == (4, 3)
    for skeleton in (COCO_17, JHMDB_15):
        assert sorted(skeleton.mirror) == list(range(len(skeleton))) and len(skeleton.limb_indices) > 10
        assert tuple(skeleton.mirror[skeleton.mirror[i]] for i in range(len(skeleton))) == tuple(range(len(skeleton)))
    with pytest.raises(ValueError, match="tail"):
        skeletons.Skeleton(joints=("left_shoulder", "right_shoulder"), limbs=(("tail", "left_shoulder"),))


def test_mg4_gated_attention():
    pool = GatedAttention(2, 2, rngs=random_streams(default=0))
    pool.tanh.kernel[...], pool.gate.kernel[...] = jnp.eye(2), jnp.diag(jnp.array([1.0, -1.0]))
    pool.score.kernel[...] = jnp.array([[1.0], [2.0]])
    bag, valid = jnp.array([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]]), jnp.array([[True, True, False]])
    pooled, weights = pool(bag, valid)
    np.testing.assert_allclose(weights[0], [0.536714, 0.463286, 0.0], atol=1e-6)
    np.testing.assert_allclose(pooled[0], [0.536714, 0.463286], atol=1e-6)
    empty, nothing = pool(bag, jnp.zeros((1, 3), bool))
    assert not empty.any() and not nothing.any()


@pytest.mark.parametrize(
    ("layers", "feed_forward", "parameters"), [(1, 1024, 961_254), (2, 256, 963_046), (2, 512, 1_225_702)]
)
def test_mg8_parameters_of_the_teacher(layers, feed_forward, parameters):
    task = Classify(num_classes=101, hidden=256, dropout=0.1)

    def make(key):
        rngs = random_streams(params=key)
        return task.assemble(MotionMIL(layers=layers, feed_forward=feed_forward, rngs=rngs), rngs=rngs)

    params, _ = jax.eval_shape(Net(make, nnx.Param).init, jax.random.key(0))
    assert sum(p.size for p in params.values()) == parameters


def test_positions_are_sinusoids():
    table = sinusoids(50, 8)
    assert table.shape == (50, 8) and table[0].tolist() == [0, 1] * 4
    np.testing.assert_allclose(table[3, :2], [np.sin(3), np.cos(3)], rtol=1e-6)
    np.testing.assert_allclose(table[3, 6], np.sin(3 / 1000), rtol=1e-6)


def test_padding_and_invalid_rows_change_nothing():
    model = MotionMIL(
        features=6, width=16, layers=1, heads=2, feed_forward=16, attention=8, rngs=random_streams(default=0)
    )
    rows, valid = jax.random.normal(jax.random.key(0), (2, 5, 6)), jnp.ones((2, 5), bool)
    embed = nnx.jit(lambda model, rows, valid: model.embed(rows, valid, train=False))
    embedding, weights = embed(model, rows, valid)
    longer = jnp.concatenate([rows, 100 * jnp.ones((2, 3, 6))], 1)
    padded, attention = embed(model, longer, jnp.arange(8)[None] < jnp.array([[5], [5]]))
    np.testing.assert_allclose(padded, embedding, atol=1e-5)
    np.testing.assert_allclose(attention[:, :5], weights, atol=1e-6)
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-5)
    nothing, _ = embed(model, rows, jnp.zeros((2, 5), bool))
    assert not nothing.any()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two classes of wrist motion; clip 3 shows nobody, clip 11 has no record."""
    root, rng, values, clips = tmp_path_factory.mktemp("pose"), np.random.default_rng(0), {}, []
    for i in range(24):
        pose = worked_example(6 + i % 5)[0] + np.float32([50, 20, 0]) * rng.random()
        pose[:, 9, 1] += (3 if i % 2 else -3) * np.arange(len(pose))
        pose[:, :, 2] = 0.1 if i == 3 else 0.95
        clips.append(Clip(f"c{i:02d}", ("test",) if i >= 16 or i == 3 else ("train",), label=("up", "down")[i % 2]))
        if i != 11:
            values[f"c{i:02d}"] = {"pose": pose}
    Catalog(root, "pose", "1", ("up", "down"), tuple(clips), {"joint_names": list(COCO_17.joints)}).save()
    write_column(root, Spec("pose", {"pose": Feature("float32", (-1, 17, 3))}, 2, "test"), values)
    return root


def config_of(root, **changes):
    pose = {"name": "pose.Pose", "root": str(root), "train": "train", "max_rows": 8, "cache": "none"}
    model = {"name": "mil.MotionMIL", "width": 16, "layers": 1, "heads": 2, "feed_forward": 16, "attention": 8}
    task = {"name": "classify.Classify", "num_classes": 0, "hidden": 16}
    evals = {"test": {"name": "top1.Top1", "split": "test"}}
    return tiny_config(root, evals=evals) | {"data": pose | changes, "model": model, "task": task}


def test_a_clip_that_shows_nobody_gets_equal_probabilities_and_counts_as_an_error(dataset):
    exp = Experiment(config_of(dataset, augment={"mirror": 0.5, "rotate_deg": 10.0, "time_crop": 0.3, "noise": 0.01}))
    host = exp.data.read(np.array([3, 16, 17, 18, 19, 20, 21, 22]))
    rows = jax.device_get(exp.program.predict_step(exp.program.init(), host))
    assert rows["observed"].tolist() == [False] + [True] * 7
    np.testing.assert_allclose(rows["probs"][0], 0.5)
    scores = Top1(exp.data, split="test").score(rows | {"clip": np.arange(8), "label": rows["probs"].argmax(-1)})
    assert scores["top1"] == pytest.approx(87.5) and scores["top5"] == 100 and scores["unobserved"] == 1
    state, metrics = exp.program.train_step(exp.program.init(), host)
    assert np.isfinite(float(metrics["loss"])) and all(np.isfinite(p).all() for p in state["params"].values())


def test_predictions_hold_the_attention_of_the_frames_and_cost_one_pass(dataset):
    exp = Experiment(config_of(dataset))
    host, state = exp.data.read(np.array([3, 16, 17, 18, 19, 20, 21, 22])), exp.program.init()
    rows = jax.device_get(exp.program.predict_step(state, host))
    model = exp.program.net.merge(state["params"], state["rest"])
    batch = exp.data.prepare(jax.tree.map(jnp.asarray, host), train=False)
    logits, embedding = nnx.jit(lambda model, batch: model(batch, train=False))(model, batch)
    np.testing.assert_allclose(rows["embedding"], embedding, atol=1e-5)
    np.testing.assert_allclose(rows["logits"][1:], logits[1:], atol=1e-5)
    _, weights = model.backbone.embed(batch["motion"], batch["row_valid"], train=False)
    np.testing.assert_allclose(rows["attention"], weights, atol=1e-6)
    assert not rows["attention"][0].any() and (rows["row_frame"][0] == -1).all()  # nobody is seen in clip 3
    lengths = [6 + i % 5 for i in (16, 17, 18, 19, 20, 21, 22)]  # no row for the first and the last frame
    expected = [[*range(1, n - 1), *[-1] * (10 - n)] for n in lengths]
    assert rows["row_frame"][1:].tolist() == expected
    np.testing.assert_allclose(rows["attention"][1:].sum(1), 1, rtol=1e-5)
    both = multiplications(exp.program.predict, state, host), multiplications(lambda b: model(b, train=False), batch)
    assert both[0] == both[1] > 0


def test_only_a_backbone_that_pools_rows_is_asked_for_attention():
    assert isinstance(MotionMIL(rngs=random_streams(default=0)), Attending) and not issubclass(MovT, Attending)


def test_mistakes_name_the_field(dataset):
    with pytest.raises(lookup.ConfigError, match="'COCO'; did you mean 'COCO_17'"):
        Pose(root=str(dataset), train="train", skeleton="skeletons.COCO")
    with pytest.raises(ValueError, match=r"needs \(t, 15, 3\), found \(-1, 17, 3\)"):
        Pose(root=str(dataset), train="train", skeleton="skeletons.JHMDB_15").element_spec()
    with pytest.raises(lookup.ConfigError, match="data.augment.miror"):
        Pose(root=str(dataset), train="train", augment={"miror": 0.5})
