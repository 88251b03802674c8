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


def on_a_circle(*degrees, videos=None) -> retrieval.Clips:
    """Clips of the lengths 1, 2, …, one a video unless `videos` says which."""
    angle, length = np.deg2rad(degrees), 1 + np.arange(len(degrees))[:, None]
    embedding = (length * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32)
    video = np.arange(len(degrees)) if videos is None else np.array(videos)
    return retrieval.Clips(video, np.zeros(len(degrees), np.float32), embedding)


def test_mf7_by_label():
    """Gallery A 0°, B 90°, C 40°, C 130°. Query A at 25° finds C A B C, query C at 30° C A B C, query B at 270° A C C B."""
    gallery, queries = on_a_circle(0, 90, 40, 130), on_a_circle(25, 30, 270, videos=(4, 5, 6))
    labels = np.array([0, 1, 2, 2, 0, 2, 1])
    scores, found = retrieval.by_label(queries, gallery, labels, (1, 2, 3, 4, 5))
    assert found.relevant.tolist() == [[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]]
    for reading in ("clip", "video"):
        values = [scores[f"{reading}_R@{k}"] for k in (1, 2, 3, 4)]
        assert values == pytest.approx([100 / 3, 200 / 3, 200 / 3, 100])
    assert not any(name.endswith("@5") for name in scores)
    with pytest.raises(ValueError, match="R@5 needs as many neighbours, the gallery has 4"):
        retrieval.by_label(queries, gallery, labels, (5, 9))


def test_a_video_may_find_what_its_clips_do_not():
    """A's clips lie at 0° and 80°, B's one at 45°: clips at 10° and 70° find A, their mean is B's."""
    gallery = on_a_circle(0, 80, 45, videos=(0, 0, 1))._replace(embedding=on_a_circle(0, 80, 45).embedding)
    queries = on_a_circle(10, 70, videos=(2, 2))
    labels = np.array([0, 1, 1])
    scores, found = retrieval.by_label(queries, gallery, labels, (1, 3))
    # means: A (1, 0) + 2 at 80° points to 53°, B to 45°, the query's (1 at 10°, 2 at 70°) to 51°
    assert found.nearest[:, 0].tolist() == [0, 1] and scores["clip_R@1"] == 0.0 and scores["clip_R@3"] == 100.0
    assert scores["video_R@1"] == 0.0 and "video_R@3" not in scores
    turned = retrieval.by_label(queries._replace(embedding=on_a_circle(10, 40).embedding), gallery, labels, (1,))[0]
    assert turned == {"video_R@1": 100.0, "clip_R@1": 50.0}


def test_clips_of_one_video_find_each_other_and_never_themselves():
    """Videos 7: 0°, 10°; 8: 5° alone; 9: 100°, 100°. A clip of 7 finds 8's first; those of 9, equal, each other."""
    scores, found = retrieval.by_video(on_a_circle(0, 10, 5, 100, 100, videos=(7, 7, 8, 9, 9)), (1, 2, 4, 5))
    assert found.query.tolist() == [0, 1, 3, 4] and found.nearest[:, 0].tolist() == [2, 2, 4, 3]
    assert scores == {"clip_R@1": 50.0, "clip_R@2": 100.0, "clip_R@4": 100.0}
    assert found.nearest.shape == (4, 4) and not (found.nearest == found.query[:, None]).any()
    with pytest.raises(ValueError, match="no video has two clips"):
        retrieval.by_video(on_a_circle(0, 10), (1,))


def test_a_query_is_taken_out_or_else_the_last():
    found = retrieval.without(np.array([[3, 1, 2], [0, 1, 2], [2, 0, 1]]), np.array([1, 9, 2]))
    assert found.tolist() == [[3, 2], [0, 1], [0, 1]]
