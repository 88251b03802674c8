"""Pseudo labels: k-means, what shares a label (MF-4), purity and NMI, the command; a killed run goes on (motionfit.md §5)."""

import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPO, make_dataset

from mtjax import cluster, records
from mtjax.clusters import kmeans, pseudo_labels, segments
from mtjax.data import column_writer
from mtjax.data.catalog import CatalogError
from mtjax.data.columns import Column, ColumnError, Spec
from mtjax.evaluators import clustering


def blobs(k: int = 12, each: int = 60, d: int = 8, spread: float = 0.3, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(k, d))
    return (np.repeat(centres, each, axis=0) + spread * rng.normal(size=(k * each, d)) + offset).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_inertia_is_within_a_hundredth_of_scikit_learns(offset):
    from sklearn.cluster import KMeans

    points = blobs(spread=0.6, offset=offset)
    theirs = KMeans(12, n_init=5, max_iter=100, algorithm="lloyd", random_state=0).fit(points)
    ours = min((kmeans.fit(points, 12, seed=seed, iterations=100) for seed in range(5)), key=lambda c: c.inertia)
    assert ours.inertia <= 1.01 * theirs.inertia_
    # From the same centroids Lloyd's algorithm has one answer.
    same = KMeans(12, init=points[::60], n_init=1, max_iter=7, tol=0.0, algorithm="lloyd").fit(points)
    found = kmeans.fit(points, 12, seed=0, iterations=same.n_iter_, first=points[::60])
    label, distance = kmeans.assign(points, found.centroids)
    assert distance.sum() <= same.inertia_ * (1 + 1e-4)
    np.testing.assert_array_equal(label, same.labels_)


def test_one_iteration_by_hand():
    points = np.array([[0, 0], [0, 2], [10, 0], [10, 4]], np.float32)
    found = kmeans.fit(points, 2, seed=0, iterations=1, first=np.array([[0, 0], [9, 0]], np.float32))
    np.testing.assert_allclose(found.centroids, [[0, 1], [10, 2]], atol=1e-5)
    np.testing.assert_allclose(found.inertia, 0 + 4 + 1 + 17, atol=1e-4)
    label, distance = kmeans.assign(points, found.centroids)
    assert label.tolist() == [0, 0, 1, 1] and label.dtype == np.int32
    np.testing.assert_allclose(distance, [1, 1, 4, 4], atol=1e-4)


def test_any_number_of_devices_finds_the_same_clusters():
    points = blobs(each=61)  # 732 points do not divide by 8
    alone = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,))
    first = kmeans.fit(points, 12, seed=3, mesh=alone)
    second = kmeans.fit(points, 12, seed=3)
    assert jax.device_count() == 8
    np.testing.assert_allclose(second.centroids, first.centroids, atol=1e-4)
    np.testing.assert_allclose(second.inertia, first.inertia, rtol=1e-5)
    again = kmeans.fit(points, 12, seed=3)
    np.testing.assert_array_equal(again.centroids, second.centroids)
    assert not np.array_equal(kmeans.fit(points, 12, seed=4, iterations=0).centroids, again.centroids)


def test_an_empty_cluster_takes_half_of_the_largest():
    points = blobs(k=2, each=50, spread=0.05)
    first = np.stack([points[0], points[60], np.full(8, 1e3), np.full(8, -1e3)]).astype(np.float32)
    found = kmeans.fit(points, 4, seed=0, iterations=10, first=first)
    assert found.split >= 2
    label, _ = kmeans.assign(points, found.centroids)
    assert len(set(label[:50]) | set(label[50:])) == 4 and not set(label[:50]) & set(label[50:])
    again = kmeans.fit(points, 4, seed=1, iterations=10, first=first)  # nothing is drawn
    np.testing.assert_array_equal(again.centroids, found.centroids)
    halves = kmeans.refill(jnp.float32([[1, 1], [5, 5], [2, 2], [3, 3]]), jnp.int32([0, 9, 0, 4]))
    np.testing.assert_allclose(halves[1] - halves[0], 5 * 2e-4 * np.array([1, -1]), atol=1e-6)
    np.testing.assert_allclose(halves[3] - halves[2], 3 * 2e-4 * np.array([1, -1]), atol=1e-6)
    whole = jnp.float32([[1, 1], [5, 5]])
    np.testing.assert_array_equal(kmeans.refill(whole, jnp.int32([3, 3])), whole)


def test_an_interrupted_fit_ends_as_a_whole_one():
    """Far from zero, too, where the two halves of a split cluster are one when the mean is added to them."""
    for points, k, first in (
        (blobs(spread=1.0), 12, None),
        (blobs(k=2, each=50, offset=3e3), 3, np.float32([[3e3] * 8, [3001] * 8, [-1e6] * 8])),
    ):
        seen = {}
        whole = kmeans.fit(
            points, k, seed=1, iterations=6, first=first, progress=lambda i, c, _, to=seen: to.setdefault(i, c.copy())
        )
        assert sorted(seen) == [1, 2, 3, 4, 5, 6] and whole.split == (first is not None)
        for at in (1, 4):
            rest = kmeans.fit(points, k, seed=1, iterations=6, resume=(at, seen[at]))
            np.testing.assert_array_equal(rest.centroids, whole.centroids)
            assert rest.inertia == whole.inertia


def test_what_cannot_be_clustered_is_said():
    with pytest.raises(ValueError, match=r"7 clusters need 1 to 5"):
        kmeans.fit(np.zeros((5, 2), np.float32), 7, seed=0)
    with pytest.raises(ValueError, match="1 of 5 points are not finite"):
        kmeans.fit(np.diag([1, np.nan, 1, 1, 1]).astype(np.float32), 2, seed=0)
    same = kmeans.fit(np.ones((5, 2), np.float32), 3, seed=0)  # more clusters than different points
    assert np.isfinite(same.centroids).all() and abs(same.inertia) < 1e-4
    assert kmeans.assign(np.zeros((0, 2), np.float32), same.centroids)[0].shape == (0,)
    with pytest.raises(ValueError, match="1 of 2 points are not finite"):
        kmeans.assign(np.float32([[0, 0], [np.nan, 0]]), same.centroids)


# What shares a label.


def test_mf4_segments_begin_where_the_steps_are_large():
    features = np.cumsum([[0.0], [0.1], [2.0], [0.1], [0.1], [2.9]], axis=0)
    assert segments.segments(features, "change", percentile=50.0).tolist() == [0, 0, 1, 1, 1, 2]  # boundaries {2, 5}
    assert segments.segments(features, "change", percentile=100.0).tolist() == [0] * 6  # strictly above
    assert segments.segments(features[:1], "change").tolist() == [0]


def test_granularities_by_hand():
    features = np.arange(14, dtype=np.float32).reshape(7, 2)
    assert segments.segments(features, "clip").tolist() == [0, 1, 2, 3, 4, 5, 6]
    thirds = segments.segments(features, "thirds")
    assert thirds.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert segments.segments(features[:2], "thirds").tolist() == [0, 1]
    assert segments.segments(features, "video").tolist() == [0] * 7
    np.testing.assert_allclose(segments.means(features, thirds), [[2, 3], [7, 8], [11, 12]])
    centres = 8.0 + 16.0 * np.arange(7)
    assert segments.starts(centres, thirds).tolist() == [0.0, 48.0, 80.0]
    with pytest.raises(ValueError, match="granularity 'frame'"):
        segments.segments(features, "frame")


def test_purity_and_mutual_information_by_hand():
    cluster_of, label = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 1])
    assert clustering.purity(cluster_of, label) == pytest.approx(100 * 5 / 6)
    assert clustering.normalised_mutual_information(label, label) == pytest.approx(1.0)
    assert clustering.normalised_mutual_information(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])) == pytest.approx(0)
    assert clustering.normalised_mutual_information(np.zeros(3, int), np.zeros(3, int)) == 1.0
    nothing = np.zeros(0, np.int64)
    assert clustering.purity(nothing, nothing) == 0.0
    from sklearn.metrics import normalized_mutual_info_score

    theirs = normalized_mutual_info_score(label, cluster_of)
    assert clustering.normalised_mutual_information(cluster_of, label) == pytest.approx(theirs)


# The command.


@pytest.fixture
def root(tmp_path):
    """Features whose first dimension says the class, four clips a video; one video of each split has none."""
    counts = {"train": 12, "test": 6}
    rng = np.random.default_rng(0)
    values = {}
    for split, count in counts.items():
        for i in range(count - 1):
            dense = rng.normal(size=(4, 3)).astype(np.float32) * 0.1
            dense[:, 0] += 10.0 * (i % 2)
            values[f"{split}-{i:03}"] = dense
    centre = {i: (8 + 16 * np.arange(4)).astype(np.float32) for i in values}
    columns_of = {
        "dense": {
            "embedding": (records.Feature("float32", (-1, 3)), values),
            "centre_s": (records.Feature("float32", (-1,)), centre),
        },
        "whole": {"embedding": (records.Feature("float32", (3,)), {i: v.mean(0) for i, v in values.items()})},
        "views": {"embedding": (records.Feature("float32", (4, 3)), values)},
    }
    return make_dataset(tmp_path / "data", per_split=counts, classes=2, columns_of=columns_of)


def run(root, **changes) -> dict:
    settings = {"features": "dense", "column": "pseudo.a", "k": 2, "splits": ("train",), "iterations": 5} | changes
    return pseudo_labels.cluster(root, **settings)


@pytest.mark.parametrize(("granularity", "each"), [("clip", 4), ("thirds", 3), ("video", 1), ("change", 2)])
def test_the_column_labels_every_clip_that_has_features(root, granularity, each):
    facts = run(root, granularity=granularity)
    assert facts["videos"] == 16 and facts["purity"] == 100.0 and facts["nmi"] == pytest.approx(1.0)
    column = Column(root, "pseudo.a")
    assert len(column) == 16 and column.spec.parameters["class_names"] == ["cluster 0000", "cluster 0001"]
    for record in column.read(list(range(16))):
        assert len(record["label"]) == len(record["start_s"]) == len(record["distance"]) == each
        assert len(set(record["label"].tolist())) == 1 and record["start_s"][0] == 0.0
    if granularity == "clip":
        assert record["start_s"].tolist() == [0.0, 16.0, 32.0, 48.0]
    assert json.loads((column.directory / "clusters.json").read_text()) == facts


def test_one_feature_a_video_needs_no_frames(root):
    facts = run(root, features="whole")
    assert facts["segments"] == 16 and facts["fitted"] == 11 and facts["sizes"] == {"4 to 7": 1, "8 to 15": 1}


def test_only_the_named_splits_are_fitted(root):
    at = run(root)["fitted"], run(root, column="pseudo.b", splits=("train", "test"))["fitted"]
    assert at == (44, 64)
    assert run(root, column="pseudo.c", points_per_centroid=5)["fitted"] == 10
    with pytest.raises(CatalogError, match="'trian'"):
        run(root, column="pseudo.d", splits=("trian",))


def test_classes_that_are_left_out_are_labelled_but_not_fitted(root, tmp_path):
    (tmp_path / "list.txt").write_text("# not these\nclass 001  # every other clip\n\n")
    flags = ("--features=dense", "--column=pseudo.b", "--k=2", f"--leave_out={tmp_path / 'list.txt'}")
    assert cluster.main([str(root), *flags]) == 0
    column = Column(root, "pseudo.b")
    facts = json.loads((column.directory / "clusters.json").read_text())
    assert facts["fitted"] == 24 and facts["segments"] == 64 and len(column) == 16  # class 000 is six clips of train
    assert column.spec.parameters["leave_out"] == ["class 001"]
    with pytest.raises(ColumnError, match="begun differently"):
        run(root, column="pseudo.b", iterations=25)
    with pytest.raises(CatalogError, match="'class 7'"):
        run(root, column="pseudo.c", leave_out=("class 7",))


def test_another_request_needs_another_name_and_the_same_is_done(root):
    facts, stamp = run(root), Column(root, "pseudo.a").directory.joinpath("centroids.npz").stat().st_mtime_ns
    assert run(root) == facts
    assert Column(root, "pseudo.a").directory.joinpath("centroids.npz").stat().st_mtime_ns == stamp
    with pytest.raises(ColumnError, match="begun differently"):
        run(root, seed=1)
    assert run(root, k=3, overwrite=True)["clusters"] == 3
    with pytest.raises(ColumnError, match="no centre_s"):
        run(root, features="views", column="pseudo.b")
    with pytest.raises(ColumnError, match="--field=probs"):
        run(root, field="probs", column="pseudo.b")
    assert not (root / "columns" / "pseudo.b").exists()  # what cannot be made leaves no trace


def test_a_killed_run_goes_on_and_ends_exactly_as_a_whole_one(root, monkeypatch):
    """Of points without clusters: centroids move for long."""
    ids, rng = Column(root, "dense").ids.tolist(), np.random.default_rng(1)
    schema = {"embedding": records.Feature("float32", (-1, 3)), "centre_s": records.Feature("float32", (-1,))}
    values = {
        i: {"embedding": rng.random((400, 3), np.float32), "centre_s": np.arange(400, dtype=np.float32)} for i in ids
    }
    column_writer.write_column(root, Spec("noise", schema, 1, "tests"), values)
    arguments = ["--features=noise", "--column=pseudo.killed", "--k=40", "--iterations=300"]
    command = [sys.executable, "-m", "mtjax.cluster", str(root), *arguments]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("iteration 5/300"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(ColumnError):
        Column(root, "pseudo.killed")  # nothing is visible
    partial = root / "columns" / "pseudo.killed" / pseudo_labels.PARTIAL
    with np.load(partial) as arrays:
        reached = int(arrays["iteration"])
    assert 5 <= reached < 300
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"after iteration {reached}\niteration {reached + 1}/300" in done.stdout and not partial.exists()
    monkeypatch.setattr(jax, "device_count", lambda: 1)  # as the command: the order of sums is that of the devices
    whole = run(root, features="noise", column="pseudo.whole", k=40, iterations=300)
    assert json.loads(done.stdout[done.stdout.index("{") :]) == whole
    mine, theirs = (Column(root, name) for name in ("pseudo.killed", "pseudo.whole"))
    assert mine.fingerprint == theirs.fingerprint
    centroids = [np.load(column.directory / pseudo_labels.CENTROIDS)["centroids"] for column in (mine, theirs)]
    np.testing.assert_array_equal(*centroids)


def test_a_run_killed_after_its_last_iteration_or_within_a_write(tmp_path):
    points, partial = np.eye(4, dtype=np.float32), tmp_path / pseudo_labels.PARTIAL
    np.savez(partial, about_mean=np.eye(2, 4, dtype=np.float32) - 0.25, iteration=2)
    found = pseudo_labels.fit(tmp_path, points, 2, seed=0, iterations=2)
    np.testing.assert_array_equal(found.centroids, np.eye(2, 4))
    partial.write_bytes(b"cut short")
    assert pseudo_labels.fit(tmp_path, points, 2, seed=0, iterations=2).centroids.shape == (2, 4)


def test_mistakes_are_one_line(root, capsys):
    assert cluster.main([str(root), "--features=nothing", "--column=pseudo.a", "--k=2"]) == 2
    assert capsys.readouterr().err.startswith("mtjax cluster: ")
    assert cluster.main([str(root), "--features=dense", "--column=pseudo.a", "--k=200"]) == 2
    assert "200 clusters need 1 to 44" in capsys.readouterr().err
