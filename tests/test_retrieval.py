"""R@k by hand (MF-7), ties, empty and degenerate cases, both readings of clip retrieval (motionfit.md §8)."""

import numpy as np
import pytest

from mtjax.evaluators import retrieval


def test_mf7_recall_counts_queries_with_one_of_their_kind():
    relevant = np.array([[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]], bool)
    found = retrieval.recalls(relevant, (1, 2, 3, 4))
    assert [found[f"R@{k}"] for k in (1, 2, 3, 4)] == pytest.approx([100 / 3, 200 / 3, 200 / 3, 100])
    assert retrieval.recalls(relevant[:0], (1, 2)) == {"R@1": 0.0, "R@2": 0.0}
    with pytest.raises(ValueError, match="R@5 needs as many neighbours, there are 4"):
        retrieval.recalls(relevant, (1, 5))


def test_neighbours_are_by_angle_nearest_first_and_of_equals_the_first():
    gallery = np.array([[0, 1], [5, 5], [9, 0], [2, 2], [-1, 0], [0, 0]], np.float32)
    queries = np.array([[3, 0], [1, 1], [0, 0]], np.float32)
    found = retrieval.nearest(queries, gallery, 6)
    assert found.tolist() == [[2, 1, 3, 0, 5, 4], [1, 3, 0, 2, 5, 4], [0, 1, 2, 3, 4, 5]]
    np.testing.assert_array_equal(retrieval.nearest(queries, gallery, 2), found[:, :2])
    assert retrieval.nearest(queries, gallery, 50).shape == (3, 6)
    assert retrieval.nearest(queries[:0], gallery, 2).shape == (0, 2)


def test_blocks_of_queries_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(50, 8)).astype(np.float32), rng.normal(size=(70, 8)).astype(np.float32)
    whole = retrieval.nearest(queries, gallery, 5)
    cosine = retrieval.unit(queries) @ retrieval.unit(gallery).T
    np.testing.assert_array_equal(whole, np.argsort(-cosine, axis=1, kind="stable")[:, :5])
    monkeypatch.setattr(retrieval, "BLOCK", 7)
    np.testing.assert_array_equal(retrieval.nearest(queries, gallery, 5), whole)


def test_the_video_reading_averages_clips_first():
    features = np.array([[1, 0], [3, 0], [0, 2], [0, 4], [8, 8]], np.float32)
    mean, videos = retrieval.mean_of_clips(features, np.array([7, 7, 2, 2, 5]))
    assert videos.tolist() == [2, 5, 7]
    np.testing.assert_allclose(mean, [[0, 3], [8, 8], [2, 0]])
