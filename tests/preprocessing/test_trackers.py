"""Points and trackers: where points are drawn, how true `lk` is on scenes of known motion, how the adapters convert."""

import sys
import types

import cv2
import numpy as np
import pytest
import torch

from preprocessing.extraction import backends
from preprocessing.extractors import points
from preprocessing.extractors.track_lk import LucasKanade
from preprocessing.extractors.tracks import Tracks, make_tracker
from preprocessing.videos.video_clip import Clip

FRAME = np.zeros((90, 160, 3), np.uint8)


def texture(height, width, seed):
    rng = np.random.default_rng(seed)
    noise = rng.random((height, width)).astype(np.float32)
    mixed = cv2.GaussianBlur(noise, (0, 0), 2) + 1.5 * cv2.GaussianBlur(noise, (0, 0), 8)
    return cv2.normalize(mixed, None, 0, 255, cv2.NORM_MINMAX)


def scene(size, frames, shift_px, degrees=0.0, occluder_px=0, seed=0):
    """A noisy textured plane that moves and turns each frame, and a textured square that crosses it from the left.

    Returns uint8 [t h w 3], the plane's motion float64 [t 2 3] (x' = A x), and the square's boxes [t 4].
    """
    h, w = size
    plane, square = texture(3 * h, 3 * w, seed), texture(400, 400, seed + 9)
    rng, centre = np.random.default_rng(seed + 1), np.array([w / 2, h / 2])
    images, motions, boxes = [], [], []
    for t in range(frames):
        c, s = np.cos(np.deg2rad(degrees * t)), np.sin(np.deg2rad(degrees * t))
        turn = np.array([[c, -s], [s, c]])
        motion = np.c_[turn, centre - turn @ centre + np.array(shift_px) * t]
        corner = motion[:, 2] - turn @ (w, h)  # the plane reaches a frame's size beyond the frame
        image = cv2.warpAffine(plane, np.c_[turn, corner], (w, h), borderMode=cv2.BORDER_REFLECT)
        x, y = round(t * w / frames * 1.3 - occluder_px), h // 3
        if occluder_px:
            x0, x1 = max(x, 0), min(x + occluder_px, w)
            image[y : y + occluder_px, x0:x1] = square[:occluder_px, x0 - x : max(x1, x0) - x]
        image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        images.append(np.repeat(image[..., None], 3, axis=2))
        motions.append(motion)
        boxes.append((x, y, x + occluder_px, y + occluder_px))
    return np.stack(images), np.stack(motions), np.array(boxes)


def follow(size, frames, shift_px, **options):
    """Runs `lk` on a scene: errors [t n] in pixels; bool [t n]: said to be occluded, really covered, really inside."""
    video, motions, boxes = scene(size, frames, shift_px, **options)
    h, w = size
    start = np.random.default_rng(5).uniform((8, 8), (w - 8, h - 8), (60, 2)).astype(np.float32)
    [(xy, occluded)] = LucasKanade().track([video], [start])
    truth = np.einsum("tij,nj->tni", motions, np.c_[start, np.ones(len(start))])
    covered = ((truth >= boxes[:, None, :2]) & (truth < boxes[:, None, 2:])).all(-1)
    inside = ((truth >= 0) & (truth <= (w - 1, h - 1))).all(-1)
    assert xy.dtype == np.float32 and np.isfinite(xy).all() and occluded.dtype == bool
    np.testing.assert_allclose(xy[0], start, atol=1e-3)
    return np.linalg.norm(xy - truth, axis=-1), occluded, covered, inside


@pytest.mark.parametrize(
    "size, frames, shift_px, degrees",
    [
        ((240, 320), 24, (1.7, -0.9), 0.0),
        ((240, 320), 24, (0.5, 0.5), 0.5),
        ((240, 320), 8, (20.0, 5.0), 0.0),
        ((100, 150), 24, (0.8, 0.3), 0.5),
        ((1080, 1920), 5, (12.0, 5.0), 0.0),
    ],
)
def test_lk_follows_known_motion(size, frames, shift_px, degrees):
    error, occluded, _, inside = follow(size, frames, shift_px, degrees=degrees)
    visible = ~occluded & inside
    assert error[visible].mean() < 0.5
    assert visible.sum() > 0.95 * inside.sum()
    deep = ~inside & np.roll(~inside, 1, axis=0)  # out for two frames: no rounding at the border
    assert not deep.any() or occluded[deep].mean() > 0.95


@pytest.mark.parametrize("size, side", [((240, 320), 70), ((100, 150), 30)])
def test_lk_flags_what_an_occluder_covers_and_finds_some_of_it_again(size, side):
    error, occluded, covered, inside = follow(size, 32, (0.3, 0.1), occluder_px=side)
    assert covered.sum() > 50
    assert occluded[covered].mean() > 0.85
    visible = inside & ~covered
    assert (~occluded[visible]).mean() > 0.85
    assert error[visible & ~occluded].mean() < 0.5
    again = covered.any(axis=0) & ~covered[-1] & inside[-1]
    assert (~occluded[-1, again]).mean() > 0.3
    final, never, *_ = follow(size, 4, (0.3, 0.1))
    assert not never.any() and final.max() < 2


def test_lk_survives_empty_pictures():
    flat = np.full((6, 64, 64, 3), 90, np.uint8)
    start = np.random.default_rng(0).uniform(0, 63, (10, 2)).astype(np.float32)
    for video in (flat, flat[:1], np.random.default_rng(0).integers(0, 255, flat.shape, np.uint8)):
        [(xy, occluded)] = LucasKanade().track([video], [start])
        assert xy.shape == (len(video), 10, 2) and np.isfinite(xy).all() and not occluded[0].any()


def test_grid_has_cotrackers_margin():
    grid = points.sample("grid", FRAME, 16, "a")
    xs, ys = np.unique(grid[:, 0]), np.unique(grid[:, 1])
    np.testing.assert_allclose(xs, np.linspace(2.5, 157.5, 4))  # 160 / 64 = 2.5, on both axes
    np.testing.assert_allclose(ys, np.linspace(2.5, 87.5, 4))
    for n in (1, 2, 3, 60, 250):
        grid = points.sample("grid", FRAME, n, "a")
        assert grid.shape == (n, 2) and len(np.unique(grid, axis=0)) == n
        assert (grid >= 0).all() and (grid < (160, 90)).all()


def test_corners_are_found_and_filled_up():
    frame = FRAME.copy()
    for x in range(20, 150, 40):
        frame[30:60, x : x + 15] = 255
    corners = points.sample("shi_tomasi", frame, 40, "a")
    truth = np.array([(x + dx, y) for x in range(20, 150, 40) for dx in (-0.5, 14.5) for y in (29.5, 59.5)])
    assert (np.linalg.norm(corners[:, None] - truth, axis=-1).min(axis=0) < 3).all()
    filled = points.sample("shi_tomasi", frame, 40, "a", box=(0.5, 0.0, 1.0, 1.0))
    assert filled.shape == (40, 2) and (filled[:, 0] >= 79).all()
    assert points.sample("shi_tomasi", FRAME, 40, "a").shape == (40, 2)  # no corner at all


def test_points_depend_on_the_clips_id_alone():
    one, again, other = (points.sample("random", FRAME, 30, i, box=(0.25, 0.5, 0.5, 1.0)) for i in ("a", "a", "b"))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert (one >= (39.5, 44.5)).all() and (one < (79.5, 89.5)).all()
    with pytest.raises(points.PointsError, match="holds no pixel"):
        points.sample("random", FRAME, 3, "a", box=(0.5, 0.5, 0.501, 0.501))


def test_points_in_a_mask():
    mask = np.zeros((9, 16), np.uint8)  # a tenth of the frame's size, laid over all of it
    mask[4, 2:6] = 1
    four = points.sample("mask", FRAME, 4, "a", mask=mask)
    np.testing.assert_allclose(np.sort(four[:, 0]), [24.5, 34.5, 44.5, 54.5])  # each once: without replacement
    np.testing.assert_allclose(four[:, 1], 44.5)
    assert len(np.unique(points.sample("mask", FRAME, 9, "a", mask=mask), axis=0)) <= 4
    with pytest.raises(points.PointsError, match="empty"):
        points.sample("mask", FRAME, 4, "a", mask=mask * 0)


class FakePredictor(torch.nn.Module):
    """`cotracker.predictor.CoTrackerPredictor`: points move by (3, 2) of its pixels a frame; odd ones are hidden."""

    def __init__(self, checkpoint="", offline=True, v2=False, window_len=60):
        super().__init__()
        assert checkpoint is None and offline and not v2  # the real one would unpickle whatever is in the file
        self.interp_shape = (384, 512)
        self.model = torch.nn.Linear(2, 1)

    def forward(self, video, queries):
        b, t, c, h, w = video.shape
        assert (c, h, w) == (3, 384, 512) and video.dtype == torch.float32 and video.max() > 2  # 0..255
        assert queries.shape[0] == b and (queries[..., 0] == 0).all()
        step = torch.arange(t)[None, :, None, None] * torch.tensor([3.0, 2.0])
        visible = torch.ones(b, t, queries.shape[1], dtype=torch.bool)
        visible[:, 1:, 1::2] = False
        return queries[:, None, :, 1:] + step, visible


class FakeTapir(torch.nn.Module):
    """`tapnet.torch.tapir_model.TAPIR`: queries (t, y, x) in, tracks [b n t 2] (x, y) out, moving by (4, 8) a frame."""

    def __init__(self, pyramid_level):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, video, query_points):
        b, t, h, w, c = video.shape
        assert (h, w, c) == (256, 256, 3) and video.min() >= -1 and video.max() <= 1
        step = torch.arange(t)[None, None, :, None] * torch.tensor([4.0, 8.0])
        occlusion = torch.full((b, query_points.shape[1], t), -5.0)
        uncertain = occlusion.clone()
        occlusion[:, 1::3] = 5.0
        uncertain[:, 2::3] = 5.0
        # Rough on the query's own frame, as the real one.
        tracks = query_points[:, :, None, [2, 1]] + step + 0.3 * (step == 0)
        return {"tracks": tracks, "occlusion": occlusion, "expected_dist": uncertain}


@pytest.fixture
def fake_packages(tmp_path, monkeypatch):
    for name in ("cotracker", "cotracker.predictor", "tapnet", "tapnet.torch", "tapnet.torch.tapir_model"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["cotracker.predictor"].CoTrackerPredictor = FakePredictor
    sys.modules["tapnet.torch.tapir_model"].TAPIR = FakeTapir
    torch.save({"model": torch.nn.Linear(2, 1).state_dict()}, tmp_path / "cotracker3.pth")
    torch.save({"weight": torch.ones(1)}, tmp_path / "tapir.pth")
    return tmp_path


def fake_clips(rng, count=3):
    sizes = [(120, 160), (96, 128), (64, 200)][:count]
    return [
        Clip(rng.integers(0, 255, (5, h, w, 3), np.uint8), np.arange(5, dtype=np.float32), 25.0, (2 * w, 2 * h), (w, h))
        for h, w in sizes
    ]


def test_cotracker_adapter(fake_packages):
    tracker = make_tracker("cotracker3", checkpoint=str(fake_packages / "cotracker3.pth"), device="cpu")
    assert tracker.licence == "CC-BY-NC-4.0" and len(tracker.weights) == 16 and tracker.batch_size > 1
    clips = fake_clips(np.random.default_rng(0))
    starts = [np.random.default_rng(i).uniform(5, 50, (4, 2)).astype(np.float32) for i in range(3)]
    for clip, start, (xy, occluded) in zip(
        clips, starts, tracker.track([c.frames for c in clips], starts), strict=True
    ):
        h, w = clip.frames.shape[1:3]
        step = np.array([3 * (w - 1) / 511, 2 * (h - 1) / 383])  # corner pixels' centres correspond
        np.testing.assert_allclose(xy, start + np.arange(5)[:, None, None] * step, atol=1e-3)
        assert not occluded[:, ::2].any() and not occluded[0].any() and occluded[1:, 1::2].all()


def test_tapir_adapter(fake_packages):
    tracker = make_tracker("tapir", checkpoint=str(fake_packages / "tapir.pth"), device="cpu")
    assert tracker.licence == "Apache-2.0" and len(tracker.weights) == 16
    clips = fake_clips(np.random.default_rng(0))
    starts = [np.random.default_rng(i).uniform(5, 50, (6, 2)).astype(np.float32) for i in range(3)]
    for clip, start, (xy, occluded) in zip(
        clips, starts, tracker.track([c.frames for c in clips], starts), strict=True
    ):
        h, w = clip.frames.shape[1:3]
        step = np.array([4 * w / 256, 8 * h / 256])  # corners of the frame correspond
        np.testing.assert_allclose(xy[1:], start + np.arange(1, 5)[:, None, None] * step, atol=1e-3)
        np.testing.assert_array_equal(xy[0], start)
        assert not occluded[0].any() and not occluded[:, ::3].any()
        assert occluded[1:, 1::3].all() and occluded[1:, 2::3].all()


def test_records_are_fractions_of_the_upright_source(fake_packages):
    tracker = make_tracker("cotracker3", checkpoint=str(fake_packages / "cotracker3.pth"), device="cpu")
    extractor = Tracks(tracker, frames=3, substeps=2, num_points=9, sampling="grid", dtype="float32", partial=True)
    assert extractor.name == "tracks.cotracker3" and extractor.num_frames == 5
    clips = fake_clips(np.random.default_rng(0), 2)
    for clip, record in zip(clips, extractor.extract(["a", "b"], clips), strict=True):
        h, w = clip.frames.shape[1:3]
        start = points.sample("grid", clip.frames[0], 9, "a")
        np.testing.assert_array_equal(record["size_px"], [2 * w, 2 * h])
        # Decoded at half the size: pixel x covers the source's 2x and 2x + 1, whose middle is 2x + 0.5.
        np.testing.assert_allclose(record["tracks"][0, :, :2], (2 * start + 0.5) / (2 * w, 2 * h), atol=1e-5)
        step = 2 * 2 * np.array([3 * (w - 1) / 511, 2 * (h - 1) / 383]) / (2 * w, 2 * h)  # two substeps
        np.testing.assert_allclose(np.diff(record["tracks"][:, 0, :2], axis=0), [step, step], atol=1e-5)
        np.testing.assert_array_equal(record["tracks"][1, :, 2], [0, 1] * 4 + [0])  # 1 is occluded
        np.testing.assert_array_equal(record["times_s"], [0, 2, 4])
        assert {k: np.asarray(v).dtype.name for k, v in record.items()} == {
            "tracks": "float32",
            "size_px": "int32",
            "fps": "float32",
            "times_s": "float32",
            "partial": "uint8",
        }


@pytest.mark.parametrize(
    "backend, install",
    [("cotracker3", "pip install git+https://github.com/facebookresearch/co-tracker"), ("tapir", "tapnet")],
)
def test_a_missing_package_or_checkpoint_says_what_to_do(backend, install, monkeypatch, fake_packages):
    with pytest.raises(backends.MissingBackend, match=r"no checkpoint at none.pth; download https://\S+ \(curl -LO"):
        make_tracker(backend, checkpoint="none.pth")
    for name in ("cotracker", "cotracker.predictor", "tapnet", "tapnet.torch", "tapnet.torch.tapir_model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(backends.MissingBackend) as error:
        make_tracker(backend)
    assert install in str(error.value)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        backends.load_state(tmp_path / "evil.pth")
    assert not (tmp_path / "evil").exists()
