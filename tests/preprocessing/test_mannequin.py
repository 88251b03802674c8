"""The embedded dataset: deterministic, balanced, fair (looks say nothing of the class), the same in all its columns."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import preprocessing
from mtjax.command.errors import Missing
from mtjax.data import columns
from mtjax.data.catalog import Catalog, CatalogError
from preprocessing.mannequin import __main__ as command
from preprocessing.mannequin import dataset as mannequin
from preprocessing.mannequin import scene as mannequin_scene
from preprocessing.mannequin.body import CAPSULE_PART, JOINTS
from preprocessing.mannequin.dataset import CLASSES, World

SMALL = {"clips": 48, "seed": 3, "frames_per_clip": 8, "points": 20, "size_px": 64}
ROOT = Path("unused")
NUM_BODY = len(CAPSULE_PART)
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_WRIST, RIGHT_WRIST = 5, 6, 9, 10


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def clips_of(label, number=12):
    return [CLASSES.index(label) + 16 * k for k in range(number)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return mannequin.generate(tmp_path_factory.mktemp("data") / "mannequin", **SMALL)


@pytest.fixture(scope="module")
def world():
    return World(clips=320, seed=0)


def test_same_arguments_same_bytes(dataset, tmp_path):
    again = mannequin.generate(tmp_path / "again", **SMALL)
    assert contents(dataset) == contents(again)
    other = mannequin.generate(tmp_path / "other", **SMALL | {"seed": 4})
    shards = [sorted((root / "columns" / "tracks").glob("*.tfrecord")) for root in (dataset, other)]
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(*shards, strict=True))


def test_a_larger_dataset_begins_with_the_smaller():
    small, large = World(clips=48, seed=5), World(clips=960, seed=5)
    assert large.catalog(ROOT).clips[:48] == small.catalog(ROOT).clips
    for index in (0, 17, 47):
        a, b = (w.record(index, ("pose", "tracks")) for w in (small, large))
        np.testing.assert_array_equal(a["pose"]["pose"], b["pose"]["pose"])
        np.testing.assert_array_equal(a["tracks"]["tracks"], b["tracks"]["tracks"])


def test_columns_do_not_depend_on_each_other(world):
    alone = world.record(7, ("pose",))["pose"]["pose"]
    np.testing.assert_array_equal(alone, world.record(7, ("pose", "tracks"))["pose"]["pose"])


def test_splits_are_balanced_and_share_no_person():
    clips = World(clips=960, seed=0).catalog(ROOT).clips
    groups = {}
    for split, share in (("train", 0.7), ("test", 0.15), ("test_shift", 0.15)):
        members = [c for c in clips if c.splits == (split,)]
        counts = np.unique([c.label for c in members], return_counts=True)[1]
        assert len(members) == share * 960 and len(counts) == 16 and np.ptp(counts) == 0
        groups[split] = {c.group for c in members}
    assert not groups["train"] & groups["test"] and not groups["train"] & groups["test_shift"]
    assert not groups["test"] & groups["test_shift"]
    assert set(World(clips=48, seed=0).catalog(ROOT).splits) == set(groups)


def test_finished_datasets_are_left_alone(dataset):
    before = {p: p.stat().st_mtime_ns for p in dataset.rglob("*")}
    assert mannequin.generate(dataset, **SMALL) == dataset
    assert {p: p.stat().st_mtime_ns for p in dataset.rglob("*")} == before


def test_other_parameters_and_other_datasets_are_refused(dataset, tmp_path):
    with pytest.raises(CatalogError, match=r"seed is 3 there, 9 here, points is 20 there, 21 here"):
        mannequin.generate(dataset, **SMALL | {"seed": 9, "points": 21})
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(CatalogError, match="another dataset"):
        mannequin.generate(tmp_path, **SMALL)
    with pytest.raises(CatalogError, match="clips must be at least 48, got 47"):
        mannequin.generate(tmp_path / "new", clips=47, seed=0)


def test_an_interrupted_run_is_resumed(dataset, tmp_path, monkeypatch):
    whole, calls = World.record, []

    def dies(self, index, names):
        calls.append(index)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return whole(self, index, names)

    monkeypatch.setattr(World, "record", dies)
    with pytest.raises(KeyboardInterrupt):
        mannequin.generate(tmp_path / "a", **SMALL)
    mannequin.generate(tmp_path / "a", **SMALL)
    assert len(calls) < 20 + 48  # finished shards were kept
    assert contents(tmp_path / "a") == contents(dataset)


def test_schema_and_catalog(dataset):
    catalog = Catalog.load(dataset)
    assert catalog.class_names == CLASSES and catalog.info["joint_names"] == list(JOINTS)
    assert catalog.info["source"] == "procedural" and catalog.info["generator"]["seed"] == 3
    assert catalog.clips[0].fps == 4.0 and catalog.clips[0].frames == 8
    pose, tracks = (columns.Column(dataset, name) for name in ("pose", "tracks"))
    assert sorted(pose.ids) == sorted(tracks.ids) == sorted(catalog.ids)
    for record in pose.read(list(range(48))):
        assert record["pose"].shape == (8, 17, 3) and record["pose"].dtype == np.float32
        assert record["pose"][..., 2].min() >= 0 and record["pose"][..., 2].max() <= 1
        assert record["size_px"].tolist() == [64, 64] and record["fps"] == 4.0
    for record in tracks.read(list(range(48))):
        assert record["tracks"].shape == (8, 20, 3) and record["tracks"].dtype == np.float16
        assert set(np.unique(record["tracks"][..., 2])) <= {0.0, 1.0}
        assert record["tracks"][..., :2].min() > -0.5 and record["tracks"][..., :2].max() < 1.5


def test_appearance_and_camera_do_not_know_the_class(world):
    for index in (0, 21, 34):
        a, b = (world.scene(index, label) for label in ("clap", "squat"))
        np.testing.assert_array_equal(a.camera.shake, b.camera.shake)
        np.testing.assert_array_equal(a.capsules[:, NUM_BODY:], b.capsules[:, NUM_BODY:])  # occluders
        np.testing.assert_array_equal(a.figure.radius_m, b.figure.radius_m)


def test_shifted_looks_are_disjoint(world):
    looks = {s: [world.look(i) for i in range(320) if world.split(i) == s] for s in ("train", "test", "test_shift")}
    girth = {s: [x.girth for x in members] for s, members in looks.items()}
    cloth = {s: [max(x.shirt) for x in members] for s, members in looks.items()}
    wall = {s: [max(x.wall) for x in members] for s, members in looks.items()}
    for usual in ("train", "test"):
        assert max(girth[usual]) < min(girth["test_shift"])
        assert min(cloth[usual]) > max(cloth["test_shift"]) and max(wall[usual]) < min(wall["test_shift"])
        assert not any(x.striped for x in looks[usual])
    assert all(x.striped for x in looks["test_shift"])


@pytest.mark.parametrize("label", CLASSES)
def test_bodies_stay_whole_and_in_view(world, label):
    for index in range(6):
        scene = world.scene(16 * index, label)
        joints = scene.figure.joints_m
        for a, b in ((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16), (11, 12), (5, 6)):
            assert np.ptp(np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)) < 1e-9
        assert joints[:, 15:, 1].min() > 0.05  # ankles above the floor
        assert ((scene.joints > 0) & (scene.joints < 1)).mean() > 0.97


def test_left_is_the_persons_left(world):
    for label in ("wave_left", "wave_right", "clap"):  # done facing the camera
        for index in clips_of(label):
            joints = world.scene(index).joints.mean(0)
            assert joints[LEFT_SHOULDER, 0] > joints[RIGHT_SHOULDER, 0]
    for label, waving, still in (("wave_left", LEFT_WRIST, RIGHT_WRIST), ("wave_right", RIGHT_WRIST, LEFT_WRIST)):
        for index in clips_of(label):
            joints = world.scene(index).figure.joints_m
            assert joints[:, waving].std(0).sum() > joints[:, still].std(0).sum()


def test_directions(world):
    for gait in ("walk", "run"):
        for direction, sign in (("left", -1), ("right", 1)):
            for index in clips_of(f"{gait}_{direction}", 6):
                scene = world.scene(index)
                ears = scene.joints[:, 3:5].mean(1)
                assert sign * (scene.joints[:, 0] - ears)[:, 0].mean() > 0  # looks where it goes
                assert sign * (scene.pan_unit[-1] - scene.pan_unit[0]) > 0  # the camera follows
    for label, sign in (("turn_left", 1), ("turn_right", -1)):
        for index in clips_of(label, 6):
            across = world.scene(index).figure.joints_m[:, 11] - world.scene(index).figure.joints_m[:, 12]
            heading = np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))
            assert sign * (heading[-1] - heading[0]) > 2  # seen from above, left is anticlockwise


def test_hidden_by_a_limb_an_occluder_or_the_border(world):
    scene = world.scene(0)
    torso = scene.capsules[:, :2].mean((1, 2))[:, None]
    depth = scene.depth_m[:, :2].mean((1, 2))[:, None]
    bare = dataclasses.replace(scene, capsules=scene.capsules.copy())
    bare.capsules[:, NUM_BODY:] = mannequin_scene.NOWHERE
    assert mannequin_scene.hidden(bare, torso, depth + 0.5).all()  # behind the back
    assert not mannequin_scene.hidden(bare, torso, depth - 2).any()  # between camera and figure
    assert mannequin_scene.hidden(bare, torso + 2, depth - 2).all()  # outside the picture
    covered = dataclasses.replace(bare, capsules=bare.capsules.copy(), radius=scene.radius.copy())
    covered.capsules[:, NUM_BODY] = torso
    covered.radius[:, NUM_BODY] = 0.05
    assert mannequin_scene.hidden(covered, torso, depth - 2).all()


def test_hidden_points_drift_and_come_back():
    steps = np.ones((5, 1, 2))
    hidden = np.array([[True], [False], [True], [True], [False]])
    np.testing.assert_array_equal(mannequin_scene._drift(steps, hidden)[:, 0, 0], [1, 0, 1, 2, 0])


def test_drawing_without_opencv_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "preprocessing.mannequin.render", None)
    monkeypatch.delattr(preprocessing.mannequin, "render", raising=False)
    with pytest.raises(Missing, match=r"pip install 'mtjax\[video\]'"):
        mannequin.generate(tmp_path / "a", frames=True, **SMALL)
    assert not (tmp_path / "a").exists()


def test_opencv_is_not_imported_for_geometry():
    code = "import sys, preprocessing.mannequin; assert not {'cv2', 'jax', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


class TestRendered:
    @pytest.fixture(scope="class")
    def render(self):
        pytest.importorskip("cv2")
        pytest.importorskip("simplejpeg")
        from preprocessing.mannequin import render as mannequin_render

        return mannequin_render

    def test_visible_points_lie_on_the_figure(self, world, render):
        import cv2

        on_figure, uncovered = [], []
        for index in range(16):
            scene = world.scene(index)
            tracks = world.record(index, ("tracks",))["tracks"]["tracks"].astype(np.float32)
            masks = render.label_masks(scene, world.size_px)
            frame, point = np.nonzero(tracks[..., 2] == 0)
            x, y = np.floor(tracks[frame, point, :2].T * world.size_px).astype(int).clip(0, world.size_px - 1)
            # One pixel of tolerance at the outline, for rounding and the tracker's jitter.
            body = ((masks > 0) & (masks < 255)).astype(np.uint8)
            figure = np.stack([cv2.dilate(m, np.ones((3, 3))) for m in body])
            occluder = np.stack([cv2.erode(m, np.ones((3, 3))) for m in (masks == 255).astype(np.uint8)])
            on_figure.append(figure[frame, y, x].mean())
            uncovered.append(1 - occluder[frame, y, x].mean())
        assert np.mean(on_figure) > 0.99 and min(on_figure) > 0.97
        assert np.mean(uncovered) > 0.995

    def test_background_is_the_same_whatever_the_figure_does(self, world, render):
        import cv2

        pictures = [world.render(5, label) for label in ("clap", "squat")]
        masks = [render.label_masks(world.scene(5, label), world.size_px) for label in ("clap", "squat")]
        for t in range(world.frames_per_clip):
            figures = sum(((m[t] > 0) & (m[t] < 255)).astype(np.uint8) for m in masks)
            free = cv2.dilate(figures, np.ones((5, 5))) == 0
            assert free.mean() > 0.5
            np.testing.assert_array_equal(pictures[0][t][free], pictures[1][t][free])

    def test_frames_are_added_to_a_finished_dataset(self, dataset, render, tmp_path):
        import simplejpeg

        root = shutil.copytree(dataset, tmp_path / "copy")
        before = (root / "columns/tracks/index.npz").stat().st_mtime_ns
        mannequin.generate(root, frames=True, **SMALL)
        assert (root / "columns/tracks/index.npz").stat().st_mtime_ns == before
        column = columns.Column(root, "frames")
        record = column.read(column.rows([mannequin.clip_id(1)]).tolist())[0]
        assert len(column) == 48 and len(record["frames"]) == 8
        picture = simplejpeg.decode_jpeg(record["frames"][0])
        expected = World(**SMALL).render(1)[0]
        assert picture.shape == (64, 64, 3) and np.abs(picture.astype(int) - expected).mean() < 8

    def test_command_line_and_contact_sheet(self, render, tmp_path, capsys):
        import cv2

        sheet = tmp_path / "sheet.png"
        flags = [f"--{k}={v}" for k, v in SMALL.items()]
        command.main([str(tmp_path / "a"), *flags, f"--contact_sheet={sheet}"])
        assert "'train': 16" in capsys.readouterr().out
        assert cv2.imread(str(sheet)).shape == (16 * 64, 150 + 8 * 64, 3)
        assert command.main([str(tmp_path / "a"), "--clips=64"]) == 2
        assert "clips is 48 there, 64 here" in capsys.readouterr().err
