"""The report: who is compared with whom, what is drawn, and which numbers stand under the pictures."""

import dataclasses
import html
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_tracks_dataset, run_main
from PIL import Image

from mtjax.command.errors import Missing
from mtjax.data import catalog, columns
from mtjax.data.catalog import Catalog
from mtjax.data.column_writer import write_column
from mtjax.evaluators import top1
from mtjax.lookup import ConfigError
from mtjax.modalities.pose import Pose
from mtjax.modalities.skeletons import COCO_17
from mtjax.records import Feature
from mtjax.report import __main__ as report
from mtjax.report import attention as report_attention
from mtjax.report import comparison, features, paper_tables, pictures
from mtjax.report.groups import group_runs
from mtjax.run.results import Result

NAMES = ("jump", "run", "walk")


def make_dataset(root: Path, clips: int = 12, names=NAMES, order=None, **info) -> Path:
    """Clips c00, c01, … of the split "test", classes in turn; `order`: their order in the catalog."""
    listed = [catalog.Clip(f"c{i:02d}", ("test",), label=NAMES[i % len(NAMES)]) for i in range(clips)]
    listed = [listed[i] for i in (order if order is not None else range(clips))]
    Catalog(root, root.name, "1", tuple(names), tuple(listed), info).save()
    return root


def make_run(workdir: Path, root: Path, answers: dict[str, str], *, evals=("test",), split="test", **rows) -> Result:
    """A finished run that answered some clips (id → class name); further arrays go into its rows as they are."""
    (workdir / "rows").mkdir(parents=True)
    data = Catalog.load(root)
    clips = np.sort(data.rows_of(answers))
    predicted = [data.class_names.index(answers[data.clips[c].id]) for c in clips]
    probs = np.full((len(clips), len(data.class_names)), 0.1, np.float32)
    probs[np.arange(len(clips)), predicted] = 0.6
    for name in evals:
        np.savez(
            workdir / "rows" / f"{name}.npz", **{"clip": clips, "label": data.labels()[clips], "probs": probs} | rows
        )
    config = {
        "data": {"name": "pose.Pose", "root": str(root), "train": "test"},
        "evals": {name: {"name": "top1.Top1", "split": split} for name in evals},
        "train": {"table": ["mg.t1/motion_raw/top1=test/top1"]},
        "seed": 0,
    }
    right = np.mean([p == t for p, t in zip(predicted, data.labels()[clips], strict=True)])
    facts = {
        "seed": 0, "params": 1, "gmacs": 1.0, "scores": {"test/top1": 100 * float(right)},
        "class_names": list(data.class_names), "fingerprint": {"catalog": data.fingerprint},
        "dataset": {"name": data.name, "kind": data.info.get("kind", "")},
    }  # fmt: skip
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "results.json").write_text(json.dumps(facts))
    (workdir / "metrics.jsonl").write_text("")
    return Result.load(workdir)


def truth(clips: int = 12) -> dict[str, str]:
    return {f"c{i:02d}": NAMES[i % 3] for i in range(clips)}


# Who is compared with whom.


def test_runs_are_joined_by_clip_id_and_class_name_whatever_the_order(tmp_path):
    """The teacher's dataset lists classes and clips the other way round; rows of equal number are other clips."""
    mine = make_dataset(tmp_path / "mine")
    its = make_dataset(tmp_path / "its", names=NAMES[::-1], order=range(11, -1, -1))
    student = make_run(tmp_path / "student", mine, truth() | {"c00": "run"})
    teacher = make_run(tmp_path / "teacher", its, truth() | {"c01": "walk", "c04": "walk"})
    pair = comparison.pairs(student, teacher)["test"]
    assert pair.names == NAMES and pair.left_out == 0 and pair.label.tolist() == [0, 1, 2] * 4
    assert pair.student.tolist() == [1, 1, 2, *[0, 1, 2] * 3]
    assert pair.other.tolist() == [0, 2, 2, 0, 2, 2, *[0, 1, 2] * 2]
    # jump: 4 clips, student 3 right; run: 4 clips, teacher 2 right
    gains = comparison.per_class_gain(pair)
    assert gains == [("run", 4, 50.0, 100.0, 50.0), ("walk", 4, 100.0, 100.0, 0.0), ("jump", 4, 100.0, 75.0, -25.0)]
    said = comparison.gains("test", pair, "teacher")
    assert "teacher 83.33 %, student 91.67 % of 12 clips; 1 of 3 classes gain, 1 lose." in said.notes
    assert said.tables[0].rows[0] == ["run", "4", "50.0", "100.0", "+50.0"] and len(said.plots) == 1


def test_a_clip_that_one_run_lacks_is_left_out_and_counted(tmp_path):
    root = make_dataset(tmp_path / "data")
    student = make_run(tmp_path / "student", root, truth())
    answers = truth()
    del answers["c05"]
    pair = comparison.pairs(student, make_run(tmp_path / "teacher", root, answers))["test"]
    assert len(pair.label) == 11 and pair.left_out == 1
    assert any(note.startswith("1 clip(s)") for note in comparison.confusions("test", pair).notes)


def test_runs_that_were_not_asked_the_same_are_refused(tmp_path):
    root = make_dataset(tmp_path / "data")
    student = make_run(tmp_path / "student", root, truth())
    half = make_run(tmp_path / "half", root, {k: v for k, v in truth().items() if k < "c06"}, split="test2")
    with pytest.raises(
        ConfigError, match=r"half \(split 'test2' of data\).*share 6 of 12 clips; score both on the same"
    ):
        comparison.pairs(student, half)
    named = make_dataset(tmp_path / "named", names=(*NAMES, "swim"))
    with pytest.raises(ConfigError, match=r"same classes, e.g. \['swim'\]"):
        comparison.pairs(student, make_run(tmp_path / "other", named, truth()))
    shifted = [dataclasses.replace(c, label=NAMES[(i + 1) % 3]) for i, c in enumerate(Catalog.load(root).clips)]
    Catalog(tmp_path / "shifted", "shifted", "1", NAMES, tuple(shifted), {}).save()
    with pytest.raises(ConfigError, match=r"label clip 'c00' differently \(here 'jump'\)"):
        comparison.pairs(student, make_run(tmp_path / "relabelled", tmp_path / "shifted", truth()))
    with pytest.raises(ConfigError, match=r"evals \['val'\], .*of \['test'\]: none in common"):
        comparison.pairs(student, make_run(tmp_path / "val", root, truth(), evals=("val",)))
    make_dataset(root, clips=13)  # the rows of the finished runs may now mean other clips
    with pytest.raises(ConfigError, match="has changed since the run"):
        comparison.pairs(student, student)


def test_an_unobserved_clip_is_an_error_in_every_picture(tmp_path):
    """Equal probabilities would make it right for the first class."""
    root, few = make_dataset(tmp_path / "data"), {"c00": "jump", "c01": "run", "c02": "walk"}
    equal = np.full((3, 3), 1 / 3, np.float32)
    run = make_run(tmp_path / "run", root, few, probs=equal, observed=np.array([False, True, True]))
    answers = comparison.Answers.read(run, "test")
    assert answers.predicted.tolist() == [1, 0, 0] and answers.ids.tolist() == ["c00", "c01", "c02"]
    assert report.main([str(run.workdir)]) == 0
    page = (run.workdir / "report.html").read_text()
    assert "<td>jump</td><td>1</td><td>0.0</td>" in page and "<td>jump</td><td>1</td><td>100.0</td>" not in page


# Confusion.


def test_the_most_confused_classes_have_the_largest_share_off_the_diagonal():
    """Shares 25, 50, none (no clips), 50, 0: by share, not by count, ties to the lower index."""
    matrix = np.array([[30, 10, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 2, 2, 0], [0, 0, 0, 0, 9]])
    assert comparison.most_confused(matrix).tolist() == [1, 3, 0, 4]
    assert comparison.most_confused(matrix, 2).tolist() == [1, 3]
    assert comparison.row_shares(matrix)[0].tolist() == [75, 25, 0, 0, 0]
    assert comparison.most_confused(np.zeros((3, 3), int)).tolist() == []
    assert comparison.most_confused(np.array([[5]])).tolist() == [0]  # a single class


def test_what_went_to_classes_not_shown_is_the_last_column(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        comparison.charts,
        "draw_shares",
        lambda axis, share, true, predicted: drawn.append((share, predicted)),
    )
    matrix = np.array([[2, 1, 1], [0, 4, 0], [0, 0, 0]])
    comparison.beside({"a": matrix, "b": np.eye(3, dtype=int)}, NAMES, np.array([0]))
    (share, predicted), (diagonal, _) = drawn
    assert (
        share.tolist() == [[50.0, 50.0]] and predicted == ["jump", "(others)"] and diagonal.tolist() == [[100.0, 0.0]]
    )
    comparison.beside({"a": matrix}, NAMES, np.arange(3))
    assert drawn[-1][1] == list(NAMES) and drawn[-1][0].shape == (3, 3)


def test_teacher_and_student_each_choose_their_classes(monkeypatch):
    """Of two classes shown, the teacher confuses 0 and 1, the student 1 and 2; with the same choice one picture is enough."""
    monkeypatch.setattr(comparison, "most_confused", lambda m: np.argsort(-(m.sum(1) - np.diag(m)), kind="stable")[:2])
    label = np.array([0, 0, 1, 1, 2, 2])
    pair = comparison.Pair(NAMES, label, np.array([0, 0, 2, 1, 1, 1]), np.array([1, 1, 0, 1, 2, 2]), 0)
    titles = [alt for alt, _ in comparison.confusions("test", pair).plots]
    assert titles == ["classes that the teacher confuses most", "classes that the student confuses most"]
    same = dataclasses.replace(pair, other=pair.student)
    assert len(comparison.confusions("test", same).plots) == 1
    monkeypatch.undo()
    empty = comparison.Pair(NAMES, *[np.zeros(0, np.int64)] * 3, 0)
    assert not comparison.confusions("test", empty).plots and not comparison.gains("e", empty, "t").plots


# Feature spaces.


def test_nearest_neighbours_by_hand():
    """Directions at 0, 10, 20 and 90, 100 degrees; lengths do not count. k=1: nearest by angle; k=2: a tie of votes goes to
    the more similar."""
    angle = np.deg2rad([0, 10, 20, 90, 101])
    x = np.stack([np.cos(angle), np.sin(angle)], 1) * [[1], [100], [1], [5], [0.01]]
    labels = np.array([0, 0, 1, 1, 1])
    # nearest: 0→1 right, 1→0 or 2 (tie, the earlier) right, 2→1 wrong, 3→4 right, 4→3 right
    assert features.knn_accuracy(x, labels, k=1) == pytest.approx(80)
    # k=2: 0→{1: 0, 2: 1}, 1 nearer: right; 1→{0, 2} equally near, lower class: right; 2→{1, 0}: wrong; 3→{4, 2}, 4→{3, 2}: right
    assert features.knn_accuracy(x, labels, k=2) == pytest.approx(80)
    # k=10 takes the four others: 0→{0, 1, 1, 1} wrong, 1 likewise wrong, 2→{0, 0, 1, 1}: the zeros are nearer, wrong;
    # 3→{1, 1, 0, 0} right, 4 right
    assert features.knn_accuracy(x, labels) == pytest.approx(40)
    assert features.knn_accuracy(x, np.full(5, 3)) == 100  # a single class
    assert np.isnan(features.knn_accuracy(x[:1], labels[:1]))
    assert features.knn_accuracy(np.zeros((4, 2)), np.array([0, 0, 0, 1]), k=1) == 75  # all equal: the earliest other


def make_features(root: Path) -> Path:
    """30 clips in three directions; `views` holds the same in row 0 and nonsense below; one clip has no record there."""
    make_dataset(root, clips=30)
    rng = np.random.default_rng(0)
    vector = {f"c{i:02d}": (np.eye(3)[i % 3] + 0.05 * rng.normal(size=3)).astype(np.float32) for i in range(30)}
    views = {i: np.stack([v, rng.normal(size=3).astype(np.float32)]) for i, v in vector.items() if i != "c07"}
    write_column(
        root, columns.Spec("own.features", {"embedding": Feature("float32", (3,))}, 2, "tests"),
        {i: {"embedding": v} for i, v in vector.items()},
    )  # fmt: skip
    write_column(
        root, columns.Spec("views", {"embedding": Feature("float32", (2, 3))}, 2, "tests"),
        {i: {"embedding": v} for i, v in views.items()},
    )  # fmt: skip
    return root


def test_feature_spaces_show_the_same_clips_and_their_accuracy(tmp_path, monkeypatch):
    root = make_features(tmp_path / "data")
    run = make_run(tmp_path / "run", root, truth(30))
    found = features.section(run, ["own.features", "views"], "train")  # the run trained on split "test"
    assert found.notes[0].startswith("29 clips of split 'test' of data (1 more have no record in every column)")
    assert "own.features 100.0 %, views 100.0 %" in found.below[0] and len(found.plots) == 1
    data = Catalog.load(root)
    both = [columns.Column(root, name) for name in ("own.features", "views")]
    ids, labels, left_out = features.chosen_clips(data, np.arange(30), both, most=7)
    assert len(ids) == 7 and left_out == 1 and ids == sorted(ids) and "c07" not in ids
    assert ids == features.chosen_clips(data, np.arange(30), both, most=7)[0]
    assert labels.tolist() == [int(i[1:]) % 3 for i in ids]
    np.testing.assert_array_equal(*[features.embeddings(column, ids) for column in both])
    points = features.embeddings(both[0], data.ids.tolist())
    np.testing.assert_array_equal(features.tsne(points), features.tsne(points))
    assert not features.tsne(np.ones((6, 3), np.float32)).any()
    for names, split, message in (
        (["nothing"], "test", "nothing/column.json does not exist"),
        (["own.features"], "test9", "no clips in split 'test9'"),
    ):
        with pytest.raises(ValueError, match=message):
            features.section(run, names, split)
    with pytest.raises(ConfigError, match="3 labelled clips have a record .* at least 5"):
        features.chosen_clips(data, np.arange(3), both)
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(Missing, match=r"pip install 'mtjax\[report\]'"):
        features.section(run, ["own.features"], "test")


def test_a_column_without_an_embedding_is_refused(tmp_path):
    root = make_tracks_dataset(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"column 'tracks' has the fields \['tracks'\], not 'embedding'"):
        features.embeddings(columns.Column(root, "tracks"), ["clip-0000"])


# Attention.


def attention_rows(labels, predicted, confidence, attention=None):
    probs = np.full((len(labels), 12), 0.0)
    probs[np.arange(len(labels)), predicted] = confidence
    seen = np.ones((len(labels), 2)) / 2 if attention is None else np.array(attention)
    return {"label": np.array(labels), "probs": probs, "attention": seen}


def picked(rows, **settings) -> list[tuple[int, bool]]:
    return [(e.row, e.right) for e in report_attention.examples(rows, **settings)]


def test_examples_are_one_a_class_by_turns_wrong_and_right_and_confident():
    #                      class 0: wrong .5, wrong .9, right .99   class 1: right .6, right .8
    rows = attention_rows([0, 0, 0, 1, 1], [1, 1, 0, 1, 1], [0.5, 0.9, 0.99, 0.6, 0.8])
    assert picked(rows) == [(1, False), (4, True)]
    # all chosen would be right: the wrong one takes the place of its class; with one class it stands beside the right one
    assert picked(attention_rows([0, 1, 1], [0, 1, 0], [0.9, 0.9, 0.8])) == [(0, True), (2, False)]
    assert picked(attention_rows([0, 0], [0, 1], [0.9, 0.8])) == [(1, False), (0, True)]
    assert picked(attention_rows([0, 1], [0, 1], [0.9, 0.8])) == [(0, True), (1, True)]
    # unlabelled clips and clips without attention are never drawn
    assert picked(attention_rows([-1, 0, 1], [0, 0, 1], [1.0, 0.9, 0.8], [[1, 0], [0, 0], [0, 1]])) == [(2, True)]
    assert picked(attention_rows([0], [0], [1.0], [[0, 0]])) == []
    assert len(picked(attention_rows(range(12), range(12), [0.9] * 12))) == 8
    many = picked(attention_rows([*range(12), 5], [*range(12), 6], [0.9] * 13), most=4)
    assert len(many) == 4 and many[2] == (12, False)  # classes 0, 3, 6, 9, and the only wrong clip there is


def test_frames_are_evenly_spaced_and_speed_is_the_joints():
    assert pictures.evenly(8, 4) == [1, 3, 5, 7] and pictures.evenly(3, 8) == [0, 1, 2]
    assert pictures.evenly(9, 2) == [2, 6] and pictures.evenly(1, 8) == [0]
    pose = np.zeros((5, 17, 3), np.float32)
    pose[..., 2] = 1
    pose[:, 5, :2], pose[:, 6, :2] = (0, 0), (10, 0)  # shoulders
    pose[:, 9, 0] = [0, 34, 68, 102, 136]  # one of 17 joints moves 3.4 shoulder widths a frame
    camera = pose + np.float32([7, -3, 0]) * np.arange(5, dtype=np.float32)[:, None, None]
    data = Pose(root="", train="train")
    for seen in (pose, camera):  # a moving camera moves nothing
        np.testing.assert_allclose(report_attention.speed(seen, data), [np.nan, 0.2, 0.2, 0.2, np.nan], rtol=1e-5)
    pose[4, 10, 2] = 0.1  # 16 joints are seen at frame 3
    assert report_attention.speed(pose, data)[3] == pytest.approx(3.4 / 16)
    assert np.isnan(report_attention.speed(pose[:2], data)).all()
    rows = {"row_frame": np.array([[5, 3, -1]]), "attention": np.array([[0.7, 0.3, 0.0]])}
    frame, attention = report_attention.curve(rows, 0)
    assert frame.tolist() == [3, 5] and attention.tolist() == [0.3, 0.7]


def test_a_line_is_broken_where_rows_are_missing_but_not_where_they_were_thinned_out():
    def cut(*frames):
        return [np.array(frames)[piece].tolist() for piece in report_attention.pieces(np.array(frames))]

    assert cut(1, 2, 3, 7, 8) == [[1, 2, 3], [7, 8]]
    assert cut(0, 3, 6, 10, 13) == [[0, 3, 6, 10, 13]] and cut(4) == [[4]]


def jpeg(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (grey, grey, grey)).save(file, "JPEG")
    return file.getvalue()


def make_attending(tmp_path: Path, pictures: bool) -> Result:
    """A run with attention over poses of 9 frames; the pictures have 20."""
    root = make_dataset(tmp_path / "data")
    pose = np.random.default_rng(0).uniform(0, 100, (9, 17, 3)).astype(np.float32)
    pose[..., 2] = 1
    schema = {"pose": Feature("float32", (-1, len(COCO_17), 3))}
    write_column(root, columns.Spec("pose", schema, 1, "tests"), {i: {"pose": pose} for i in truth()})
    if pictures:
        frames = {i: {"size_px": np.zeros(2, np.int32), "frames": [jpeg(10 * t) for t in range(20)]} for i in truth()}
        schema = {"size_px": Feature("int32", (2,)), "frames": Feature("jpeg", (-1,))}
        write_column(root, columns.Spec("frames", schema, 1, "tests"), frames)
    rows = {"attention": np.full((12, 8), 1 / 7), "row_frame": np.tile([1, 2, 3, 4, 5, 6, 7, -1], (12, 1))}
    rows["attention"][:, -1] = 0
    rows["attention"][3] = 0
    return make_run(tmp_path / "run", root, truth() | {"c01": "walk"}, **rows)


@pytest.mark.parametrize("pictures", [True, False])
def test_strips_show_pictures_or_else_the_skeleton(tmp_path, monkeypatch, pictures):
    run = make_attending(tmp_path, pictures)
    drawn = {"pictures": [], "skeletons": []}
    for name, where in drawn.items():
        real = getattr(report_attention, f"_draw_{name}")
        monkeypatch.setattr(
            report_attention,
            f"_draw_{name}",
            lambda axis, what, *more, real=real, where=where: (where.append(what), real(axis, what, *more)),
        )
    (section,) = report_attention.sections(run)
    assert [alt for alt, _ in section.plots] == ["attention, jump", "attention, run", "attention, walk"]
    assert "3 clips, at most one a class, 1 of them answered wrongly" in section.notes[0]
    assert len(drawn["pictures"]) == 3 * pictures and len(drawn["skeletons"]) == 3 * (not pictures)
    if pictures:  # 8 of 20: the middles of equal parts
        assert [round(float(p.mean()) / 10) for p in drawn["pictures"][0]] == [1, 3, 6, 8, 11, 13, 16, 18]


def test_attention_needs_neither_rows_nor_a_dataset_that_has_gone(tmp_path):
    root = make_dataset(tmp_path / "data")
    plain = make_run(tmp_path / "plain", root, truth())
    assert report_attention.sections(plain) == []
    run = make_attending(tmp_path / "attending", pictures=False)
    (tmp_path / "attending" / "data" / "dataset.json").unlink()
    (section,) = report_attention.sections(run)
    assert not section.plots and section.notes[0].startswith("Not drawn: ") and "no dataset.json" in section.notes[0]


# Tables.


def test_numbers_on_another_dataset_are_named_and_not_subtracted(tmp_path):
    other = make_run(tmp_path / "other", make_dataset(tmp_path / "jhmdb"), truth() | {"c00": "run"})
    tables = paper_tables.load_tables()

    def cells(*runs):
        return {r["label"]: r["cells"][0] for r in paper_tables.join("mg.t1", group_runs(runs), tables)}

    raw, random = "Raw motion (MIL teacher alone)", "Random guessing"
    found = cells(other)
    assert paper_tables.ours_of(found[raw]) == "91.67 on jhmdb" and paper_tables.difference_of(found[raw]) == "-"
    assert paper_tables.ours_of(found[random]) == "33.33 on jhmdb" and paper_tables.difference_of(found[random]) == "-"
    assert paper_tables.ours_of(found["CLIP zero-shot"]) == "-" and paper_tables.paper_of(found[raw]) == "79.35"
    # the paper's dataset, by its name or by its annotation set; both runs are shown, only one is comparable
    own = make_run(tmp_path / "own", make_dataset(tmp_path / "actions", clips=11, kind="ucf101"), truth(11))
    found = cells(other, own)
    assert (
        paper_tables.ours_of(found[raw]) == "91.67 on jhmdb; 100.00"
        and paper_tables.difference_of(found[raw]) == "+20.65"
    )
    assert paper_tables.ours_of(found[random]) == "33.33 on jhmdb; 33.33"
    assert paper_tables.same_dataset({"name": "ssv2_temporal18", "kind": ""}, "ssv2-temporal18")
    assert not paper_tables.same_dataset({"name": "", "kind": ""}, "") and not cells()[random]["ours"]


def finished(split: int, seed: int, top1: float, *, epochs: float = 120.0) -> Result:
    """A run of `configs/motionfit.py:tune`, as it would have been."""
    workdir = Path(f"runs/tune-ucf101-{split}-{seed}")
    config = {
        "seed": seed,
        "data": {"root": "data/ucf101", "train": f"train{split}", "subset_seed": seed},
        "task": {"name": "multi_clip.MultiClip"},
        "evals": {"test": {"name": "top1.Top1", "split": f"test{split}"}},
        "train": {
            "init": f"runs/self-ucf101-{split}-{seed}",
            "epochs": epochs,
            "table": ["mf.t4/f16/ucf101=test/top1"] + ["mf.t1/motion/R3=test/top1"] * (split == 1),
        },
    }
    facts = {"seed": seed, "params": 1, "gmacs": 1.0, "class_names": ["a"], "dataset": {"name": "ucf101", "kind": ""}}
    facts["origin"] = {"config": f"tune for {epochs} epochs"}
    return Result(workdir, config, facts | {"scores": {"test/top1": top1}}, [])


def test_official_splits_are_one_row_and_its_spread_is_over_their_means():
    runs = [finished(2, 0, 70.0), finished(1, 1, 90.0), finished(1, 0, 80.0), finished(3, 0, 85.0)]
    (group,) = group_runs(runs)
    assert group.summary("test/top1") == {"mean": 80.0, "std": pytest.approx(np.std([85, 70, 85], ddof=1)), "n": 3}
    assert (group.title, group.seeds) == ("tune-ucf101-1-0 and 3 more run(s)", "0,1; splits 1,2,3")
    (seeds,) = group_runs(runs[1:3])
    assert seeds.summary("test/top1") == {"mean": 85.0, "std": pytest.approx(50**0.5), "n": 2}
    assert seeds.title.endswith("1 more seed(s)")
    assert len(group_runs([*runs, finished(1, 0, 0.0, epochs=60.0)])) == 2
    # A table of one split holds the runs of that split alone.
    tables = paper_tables.load_tables()

    def of(table: str, label: str) -> list[str]:
        return [
            paper_tables.ours_of(c)
            for r in paper_tables.join(table, [group], tables)
            if r["label"] == label
            for c in r["cells"]
        ]

    assert of("mf.t4", "16 frames")[0] == "80.00 ± 8.66 (n=3)"
    assert of("mf.t1", "Motion") == ["-", "-", "-", "-", "85.00 ± 7.07 (n=2)", "-"]


def test_a_run_without_an_origin_belongs_to_those_whose_config_names_the_same():
    def old(split: int, seed: int, **data) -> Result:
        run = finished(split, seed, 0.0)
        config = run.config | {"data": run.config["data"] | data, "train": {"epochs": 1.0, "log_every": seed}}
        return Result(run.workdir, config, {k: v for k, v in run.results.items() if k != "origin"}, [])

    runs = [old(1, 1, teacher="teacher"), old(2, 2, teacher="teacher"), old(1, 1, teacher="teacher.1")]
    assert [len(group.runs) for group in group_runs([*runs, old(1, 2, teacher="teacher.2")])] == [2, 1, 1]


def test_every_table_says_its_datasets_for_all_columns_or_none():
    tables = paper_tables.load_tables()
    assert all(len(t["datasets"]) == len(t["columns"]) for t in tables.values() if "datasets" in t)
    assert tables["mg.t1"]["datasets"] == ["ucf101"] and tables["mt.t1"]["datasets"][0] == "jester"


# The page.


def test_one_page_holds_everything(tmp_path, capsys):
    run = make_attending(tmp_path, pictures=True)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        values = {i: {"embedding": rng.normal(size=4).astype(np.float32)} for i in truth()}
        spec = columns.Spec(name, {"embedding": Feature("float32", (4,))}, 1, "tests")
        write_column(tmp_path / "data", spec, values)
    teacher = make_run(tmp_path / "teacher", tmp_path / "data", truth())
    baseline = make_run(tmp_path / "baseline", tmp_path / "data", dict.fromkeys(truth(), "jump"))
    command = [str(run.workdir), f"--teacher={teacher.workdir}", f"--baseline={baseline.workdir}", "--features=a,b"]
    assert report.main([*command, "--table=mg.t1"]) == 0
    page = (run.workdir / "report.html").read_text()
    for heading in (
        "Teacher and student, test",
        "Gain over the baseline, test",
        "Feature spaces",
        "Attention over time, run",
    ):
        assert f"<h2>{heading}" in page, heading
    assert "91.67 on data" in page and "baseline 33.33 %, student 91.67 %" in page and "http" not in page
    assert "Gain over the teacher" not in page and page.count("data:image/png;base64,") >= 8
    assert report.main([str(run.workdir), "--teacher=/nowhere"]) == 2
    assert "no results.json" in capsys.readouterr().err


def test_names_are_text_to_every_renderer(tmp_path, capsys):
    """Matplotlib reads formulas, HTML tags, the console markup and emoji codes."""
    names = ("a $x^{ $b", "<b>&'\"</b>", "[/red] :smile: {{ 1 }}")
    listed = [catalog.Clip(f"c{i:02d}", ("test",), label=names[i % 3]) for i in range(12)]
    root = tmp_path / "[b]data $x^{$"
    Catalog(root, root.name, "1", names, tuple(listed), {}).save()
    right = {clip.id: clip.label for clip in listed}
    run = make_run(tmp_path / "[b]run <i> $^{$", root, right | {"c00": names[1], "c01": names[2]})
    teacher = make_run(tmp_path / "teacher", root, right)
    assert report.main([str(run.workdir), f"--teacher={teacher.workdir}", f"--baseline={teacher.workdir}"]) == 0
    page = (run.workdir / "report.html").read_text()
    for name in (*names, run.workdir.name, root.name):
        assert name in html.unescape(page), name
    assert "<b>" not in page and "<i>" not in page
    assert "[b]run <i>" in capsys.readouterr().out.partition("wrote")[0]


def test_a_mistake_is_one_line(tmp_path):
    run = make_run(tmp_path / "run", make_dataset(tmp_path / "data"), truth())
    done = run_main("mtjax.report", run.workdir, "--features=absent")
    assert done.returncode == 2 and "absent" in done.stderr and "Traceback" not in done.stderr
    assert not (run.workdir / "report.html").exists()


def test_labelled_puts_the_own_class_of_an_unobserved_item_last():
    rows = {"probs": np.array([[0.5, 0.5], [0.5, 0.5], [1, 0]]), "label": np.array([0, 0, -1])}
    probs, labels = top1.labelled(rows | {"observed": np.array([True, False, True])})
    assert probs.argmax(1).tolist() == [0, 1] and labels.tolist() == [0, 0]
