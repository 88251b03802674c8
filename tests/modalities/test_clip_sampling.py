"""Which items of a video make a clip (MF-5)."""

from pathlib import Path

import numpy as np
import pytest

from mtjax.modalities import clip_sampling
from mtjax.modalities.clip_sampling import even_starts, extent, items, random_starts


def test_mf5_ten_clips_by_hand():
    assert even_starts(60, 16, 10).tolist() == [0, 4, 9, 14, 19, 24, 29, 34, 39, 44]


def test_even_starts_are_vcops_rule():
    """Its formula, with what floating point takes away from whole numbers given back."""
    for length in (1, 15, 16, 32, 61):
        for stored in range(length, 150):
            for clips in (2, 3, 10):
                centres = np.linspace(length / 2, stored - length / 2, clips)
                expected = (centres - length / 2 + 1e-9).astype(int)
                np.testing.assert_array_equal(even_starts(stored, length, clips), expected)


def test_one_clip_is_the_middle():
    assert even_starts(60, 16, 1).tolist() == [22]
    assert even_starts(16, 16, 1).tolist() == [0]


@pytest.mark.parametrize(("frames", "stride", "span"), [(16, 1, 16), (16, 2, 31), (1, 5, 1)])
def test_the_extent_of_a_clip(frames, stride, span):
    assert extent(frames, stride) == span
    [clip] = items(np.array([3]), frames, stride, 100)
    assert clip[0] == 3 and clip[-1] - clip[0] + 1 == span and len(clip) == frames and set(np.diff(clip)) <= {stride}


def test_random_starts_reach_every_place_and_are_independent():
    draws = np.stack([random_starts(20, 16, 3, np.random.default_rng(s)) for s in range(2000)])
    assert draws.shape == (2000, 3) and set(draws.ravel().tolist()) == set(range(5))
    pairs = np.unique(draws[:, :2], axis=0)
    assert len(pairs) == 25  # any with any
    counts = np.bincount(draws.ravel())
    assert counts.min() > 0.9 * counts.mean() and counts.max() < 1.1 * counts.mean()


def test_short_videos_begin_at_0_and_are_looped():
    rng = np.random.default_rng(0)
    for starts in (even_starts(5, 16, 10), even_starts(5, 16, 1), random_starts(5, 16, 4, rng)):
        assert not starts.any()
    assert items(np.array([0]), 8, 1, 3).tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]]
    assert items(np.array([0]), 4, 2, 5).tolist() == [[0, 2, 4, 1]]
    assert items(np.array([0, 0]), 3, 1, 1).tolist() == [[0, 0, 0]] * 2


def test_a_clip_that_just_fits_is_not_looped():
    last = even_starts(31, extent(16, 2), 10)
    assert items(last, 16, 2, 31).max() == 30 and not last.any()
    assert (np.diff(items(random_starts(40, extent(16, 2), 50, np.random.default_rng(1)), 16, 2, 40)) == 2).all()


def test_it_is_numpy_alone():
    source = Path(clip_sampling.__file__).read_text()
    assert [line for line in source.splitlines() if line.startswith(("import", "from"))] == ["import numpy as np"]
