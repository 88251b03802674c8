"""Metrics: one case by hand each, the degenerate ones, and the worked examples MT-2 to MT-5, MT-8, MF-8."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from mtjax.data.catalog import Catalog, Clip
from mtjax.evaluators import aggregation, regression, retrieval, top1


def test_top_k_by_hand_and_ties():
    scores = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.4, 0.4, 0.2]])
    assert top1.top_k(scores, np.array([0, 2, 1]), 1) == pytest.approx(200 / 3)  # a tie goes to the lower class
    assert top1.top_k(scores, np.array([0, 2, 1]), 2) == 100
    assert math.isnan(top1.top_k(np.zeros((0, 3)), np.zeros(0, int), 1))


def test_accuracies_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    probs, labels = rng.random((300, 7)), rng.integers(0, 7, 300)
    assert top1.top_k(probs, labels, 3) / 100 == pytest.approx(sklearn_metrics.top_k_accuracy_score(labels, probs, k=3))
    predicted = probs.argmax(-1)
    expected = sklearn_metrics.balanced_accuracy_score(labels, predicted)
    assert top1.macro_accuracy(predicted, labels) / 100 == pytest.approx(expected)
    assert np.array_equal(
        top1.confusion_matrix(predicted, labels, 7), sklearn_metrics.confusion_matrix(labels, predicted)
    )


def test_macro_accuracy_of_a_single_class_and_of_nothing():
    assert top1.macro_accuracy(np.array([0, 0, 1]), np.array([0, 0, 0])) == pytest.approx(200 / 3)
    assert math.isnan(top1.macro_accuracy(np.array([], int), np.array([], int)))


def test_per_class_table():
    table = top1.per_class(np.array([0, 1, 1]), np.array([0, 0, 1]), 3)
    assert table[0] == {"n": 2, "accuracy": 50, "precision": 100}
    assert table[1] == {"n": 1, "accuracy": 100, "precision": 50}
    assert table[2]["n"] == 0 and math.isnan(table[2]["accuracy"])


def test_mt8_coverage_and_accuracy_above_a_threshold():
    confidence, right = np.array([0.99, 0.95, 0.9, 0.6]), [1, 1, 0, 1]
    probs = np.stack([confidence, 1 - confidence], 1)
    labels = np.array([0 if r else 1 for r in right])
    curve = top1.coverage_curve(probs, labels)
    assert curve["threshold"].tolist() == [0.99, 0.95, 0.9, 0.6]
    assert curve["coverage"].tolist() == [25, 50, 75, 100]
    assert curve["accuracy"].tolist() == pytest.approx([100, 100, 200 / 3, 75])
    assert top1.at_coverage(curve, 50.0) == {"threshold": 0.95, "coverage": 50, "accuracy": 100}
    assert top1.at_coverage(curve, 60.0)["coverage"] == 75  # the realised coverage is what is printed


def test_mt4_late_fusion_and_mt5_mean_of_clips():
    fused = aggregation.fuse([np.array([[2.0, 1.0, 0.0]]), np.array([[0.0, 3.0, 0.0]])])
    np.testing.assert_allclose(fused, [[1, 2, 0]])
    clips = np.array([[0.6, 0.4], [0.3, 0.7], [0.55, 0.45]])
    videos, mean = aggregation.aggregate(clips, np.array([5, 5, 5]), "probs")
    assert videos.tolist() == [5] and mean.argmax() == 1
    np.testing.assert_allclose(mean, [[0.483333, 0.516667]], atol=1e-6)


def test_mf8_means_of_logits_and_of_probabilities_can_disagree():
    logits = np.array([[10.0, 0.0, 9.0], [0.0, 2.0, 1.9]])
    group = np.zeros(2, int)
    assert aggregation.aggregate(logits, group, "logits")[1].argmax() == 2
    assert aggregation.aggregate(aggregation.softmax(logits), group, "probs")[1].argmax() == 0
    with pytest.raises(ValueError, match="kind 'votes'"):
        aggregation.aggregate(logits, group, "votes")


def data_with(clips):
    catalog = Catalog(Path("."), "x", "1", ("a", "b"), tuple(clips), {"target_names": ["stiffness"]})
    targets = np.array([c.targets for c in clips], np.float32)
    rows = np.arange(len(catalog.clips))
    return SimpleNamespace(
        catalog=catalog, class_names=("a", "b"), targets=targets, labels=catalog.labels(), rows=lambda split: rows
    )


def test_top1_scores_videos_by_the_mean_of_their_clips():
    clips = [Clip(f"c{i}", ("test",), label="b", path=p) for i, p in enumerate(["v.mp4", "v.mp4", "v.mp4", "w.mp4"])]
    rows = {
        "clip": np.arange(4),
        "label": np.array([1, 1, 1, -1]),
        "probs": np.array([[0.6, 0.4], [0.3, 0.7], [0.55, 0.45], [0.9, 0.1]]),
        "loss": np.ones(4),
    }
    by_clip = top1.Top1(data_with(clips), split="test").score(rows)
    by_video = top1.Top1(data_with(clips), split="test", aggregate="probs").score(rows)
    assert by_clip["top1"] == pytest.approx(100 / 3) and by_clip["n"] == 3  # the unlabelled clip does not count
    assert by_video["top1"] == 100 and by_video["n"] == 1


def test_mt2_pearson_r_and_its_degenerate_cases():
    x, y = np.array([1, 2, 3, 4.0]), np.array([1.1, 1.9, 3.5, 3.9])
    assert regression.pearson_r(x, y) == pytest.approx(0.976831, abs=1e-6)
    assert regression.pearson_r(2 * x + 3, y) == pytest.approx(0.976831, abs=1e-6)
    assert math.isnan(regression.pearson_r(np.ones(4), y)) and math.isnan(regression.pearson_r(x[:1], y[:1]))


def test_pearson_r_is_over_videos():
    clips = [
        Clip(f"c{i}", ("test",), targets=(t,), path=p)
        for i, (t, p) in enumerate([(1.0, "a"), (1.0, "a"), (2.0, "b"), (3.0, "c")])
    ]
    rows = {
        "clip": np.arange(4),
        "target": np.array([[1.0], [1.0], [2.0], [3.0]]),
        "prediction": np.array([[0.0], [2.0], [2.0], [3.0]]),
        "loss": np.ones(4),
    }
    scores = regression.PearsonR(data_with(clips), split="test").score(rows)
    assert scores["r_stiffness"] == pytest.approx(1.0) and scores["n"] == 3


def pose(yaw, translation):
    c, s = math.cos(yaw), math.sin(yaw)
    matrix = np.eye(4)
    matrix[:2, :2] = [[c, -s], [s, c]]
    matrix[:3, 3] = translation
    return matrix


def test_mt3_relative_pose_errors():
    truth = np.stack([pose(0, [0, 0, 0]), pose(0, [1, 0, 0]), pose(math.pi / 2, [2, 0, 0])])
    predicted = np.stack([pose(0, [0, 0, 0]), pose(0, [1.1, 0, 0]), pose(math.pi / 2 + 0.1, [2.1, 0.2, 0])])
    translation, rotation = regression.relative_pose_errors(truth, predicted)
    np.testing.assert_allclose(translation, [0.1, 0.2], atol=1e-9)
    np.testing.assert_allclose(rotation, [0, 5.729578], atol=1e-5)
    assert np.sqrt(np.mean(translation**2)) == pytest.approx(0.158114, abs=1e-6)
    assert np.sqrt(np.mean(rotation**2)) == pytest.approx(4.051423, abs=1e-6)
    moved = pose(0.7, [3, -1, 2]) @ predicted
    np.testing.assert_allclose(regression.relative_pose_errors(truth, moved)[0], [0.1, 0.2], atol=1e-9)


def test_relative_pose_evaluator_chains_steps():
    steps = np.array([[1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, math.pi / 2]], float)
    poses = regression.trajectory(steps)
    np.testing.assert_allclose(poses[-1], pose(math.pi / 2, [2, 0, 0]), atol=1e-9)
    off = steps + np.array([[0.1, 0, 0, 0, 0, 0], [0, 0.2, 0, 0, 0, 0.1]])
    rows = {"target": steps.reshape(1, -1), "prediction": off.reshape(1, -1), "loss": np.zeros(1)}
    data = data_with([Clip("a", ("test",), targets=(0.0,) * 12)])
    scores = regression.RelativePose(data, split="test").score(rows)
    assert scores["rpe_trans_m"] == pytest.approx(0.158114, abs=1e-6) and scores["rpe_rot_deg"] == pytest.approx(
        4.051423, abs=1e-5
    )


def test_another_field_is_scored_and_averaged_over_videos(tmp_path):
    clips = tuple(Clip(f"c{i}", ("test",), "ab"[i % 2], path=f"{i // 2}.mp4") for i in range(4))
    catalog = Catalog(tmp_path, "n", "1", ("a", "b"), clips)
    data = SimpleNamespace(catalog=catalog, labels=catalog.labels(), rows=lambda split: np.arange(len(clips)))
    right = np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.2, 0.8]])
    rows = {
        "clip": np.arange(4), "label": np.array([0, 1, 0, 1]), "loss": np.zeros(4), "logits": np.log(right),
        "probs": 1 - right, "probs_sup": right,
    }  # fmt: skip
    assert top1.Top1(data, split="test").score(rows)["top1"] == 0
    assert top1.Top1(data, split="test", field="probs_sup").score(rows)["top1"] == 100
    rows["label"] = np.array([0, 0, 1, 1])
    rows["probs_sup"] = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    assert top1.Top1(data, split="test", field="probs_sup", aggregate="probs").score(rows)["top1"] == 100
    with pytest.raises(ValueError, match="aggregate='logits' averages `logits`, not field='probs_sup'"):
        top1.Top1(data, split="test", field="probs_sup", aggregate="logits")


def test_a_prediction_that_is_no_number_is_never_a_hit():
    labels = np.array([0, 1, 2, 0, 1])
    good = np.eye(3)[labels]
    assert top1.top_k(good, labels, 1) == 100
    for bad in (np.nan, np.inf, -np.inf):
        scores = good.copy()
        scores[0], scores[1, 1], scores[2, 0] = bad, bad, bad  # all of it, the label's own, another's
        probs, kept = top1.labelled({"probs": scores, "label": labels})
        for found in (top1.top_k(scores, labels, 1), top1.top_k(scores, labels, 3), top1.top_k(probs, kept, 1)):
            assert found == 40
        assert top1.macro_accuracy(probs.argmax(-1), kept) == pytest.approx(100 * (0.5 + 0.5 + 0) / 3)
        assert top1.coverage_curve(probs, kept)["accuracy"][-1] == 40


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("how", ["none", "probs", "logits"])
def test_no_video_is_right_by_a_clip_that_is_no_number(how, bad):
    """Two clips a video: the mean with a NaN is none, whatever the other clip says."""
    clips = [Clip(f"c{i}", ("test",), label="ab"[i // 2], path=f"v{i // 2}.mp4") for i in range(4)]
    probs = np.repeat(np.eye(2) * 0.8 + 0.1, 2, axis=0)
    probs[1] = bad
    rows = {"clip": np.arange(4), "label": np.array([0, 0, 1, 1]), "probs": probs, "logits": probs, "loss": np.ones(4)}
    scores = top1.Top1(data_with(clips), split="test", aggregate=how).score(rows)
    assert scores["top1"] == (75 if how == "none" else 50)


def test_other_evaluators_give_no_score_to_what_is_no_number():
    truth, wrong = np.arange(4.0), np.array([0.0, 1.0, np.nan, 3.0])
    assert np.isnan(regression.pearson_r(wrong, truth))
    with pytest.raises(ValueError, match="NaN or infinite"):
        retrieval.nearest(np.array([[np.nan, 1.0]]), np.eye(2), 1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        retrieval.nearest(np.eye(2), np.array([[np.inf, 1.0]]), 1)


def test_a_split_without_labels_or_targets_is_refused():
    bare = [Clip("a", ("test",)), Clip("b", ("test",))]
    data = data_with(bare)
    with pytest.raises(ValueError, match="split 'test' has no labelled clip"):
        top1.Top1(data, split="test")
    data.targets = np.array([[1.0], [np.nan]])
    for evaluator in (regression.PearsonR, regression.RelativePose):
        with pytest.raises(ValueError, match="1 of 2 clips have no target, 'b'"):
            evaluator(data, split="test")
