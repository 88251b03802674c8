"""When a step is done, when what it made is stale: labels, weights and columns that have changed since."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from conftest import make_tracks_dataset, tiny_config, train_here, write_config

from mtjax import cluster, predict
from mtjax.chain import Cluster, Predict, Retrieve, Train, freshness
from mtjax.data import column_writer, columns
from mtjax.lookup import ConfigError
from mtjax.records import Feature


@pytest.fixture(scope="module")
def made(tmp_path_factory, one_device) -> Path:
    """A teacher, the column `soft` of its labels, clusters of its features, and a student of `soft`."""
    made = tmp_path_factory.mktemp("made")
    root = make_tracks_dataset(made / "data", clips=24)
    write_config(made / "teacher.py", tiny_config(root, train__steps=1))
    taught = {"data__teacher": "soft", "task": {"name": "distill.Distill"}}
    write_config(made / "student.py", tiny_config(root, train__steps=1, **taught))
    for step in (teacher(made), soft(made), clusters(made), student(made)):
        assert step.state(None) == freshness.State("to do")
        perform(step)
    return made


@pytest.fixture
def place(made, tmp_path) -> Path:
    """The same in a place of its own, by the paths that it was made with."""
    shutil.copytree(made, tmp_path / "kept")
    yield made
    shutil.rmtree(made)
    shutil.copytree(tmp_path / "kept", made)


def teacher(made: Path, **settings) -> Train:
    return Train(str(made / "runs/teacher"), str(made / "teacher.py"), settings)


def student(made: Path) -> Train:
    init = {"train.init": str(made / "runs/teacher"), "train.init_skip": (), "train.init_new": ()}
    return Train(str(made / "runs/student"), str(made / "student.py"), init)


def soft(made: Path, **changes) -> Predict:
    return Predict(str(made / "runs/teacher"), str(made / "data"), "soft", **changes)


def clusters(made: Path, **changes) -> Cluster:
    given = {"features": "soft", "k": 3} | changes
    return Cluster(str(made / "data"), "pseudo", **given)


def perform(step) -> None:
    """The command of a step, in this process."""
    if isinstance(step, Train):
        train_here(step.values, Path(step.workdir))
    else:
        command = predict if isinstance(step, Predict) else cluster
        assert command.main(list(step.argv[2:])) == 0


def again(step, **changes) -> None:
    """Makes a step's result once more, from other settings."""
    step.clear()
    perform(dataclasses.replace(step, **changes))


def test_what_was_made_from_what_is_there_is_done(made):
    for step in (teacher(made), soft(made), clusters(made), student(made)):
        assert step.state(None) == freshness.State("done"), step.name


def test_other_settings_are_stale(made):
    assert teacher(made, seed=4).state(None).reason == "config.seed was 0, now 4"
    assert teacher(made, **{"train.log_every": 7, "train.table": ("a",)}).state(None).name == "done"
    assert soft(made, splits=("train",)).state(None).reason == "splits was ['test', 'train'], now ['train']"
    assert soft(made, copies=2).state(None).reason == "copies was 0, now 2"
    assert clusters(made, k=5).state(None) == freshness.State("stale", "k was 3, now 5")


def test_a_teacher_trained_again_makes_its_labels_and_then_its_students_stale(place):
    again(teacher(place), settings={"seed": 5})
    assert soft(place).state(None) == freshness.State("stale", f"{place / 'runs/teacher'} has other weights now")
    assert student(place).state(None).reason == f"{place / 'runs/teacher'} (train.init) has other weights now"
    assert clusters(place).state(None).name == "done"  # of the features that are still there
    again(soft(place))
    assert soft(place).state(None).name == "done"
    changed = freshness.State("stale", f"column soft of {place / 'data'} has changed since")
    assert clusters(place).state(None) == changed == student(place).state(None)


def test_a_run_that_was_killed_goes_on_unless_what_it_is_made_from_has_changed(place):
    (place / "runs/student/results.json").unlink()
    assert student(place).state(None) == freshness.State("to do", "begun")
    (place / "data/columns/soft/index.npz").unlink()
    assert soft(place).state(None) == freshness.State("to do", "begun")
    again(teacher(place), settings={"seed": 5})
    assert student(place).state(None).name == soft(place).state(None).name == "stale"


def test_a_column_read_from_another_one_is_stale_when_that_has_changed(place):
    spec, new = columns.Spec.load(place / "data/columns/tracks"), {}
    column = columns.Column(place / "data", "tracks")
    for clip, record in zip(column.ids, column.read(list(range(len(column)))), strict=True):
        new[str(clip)] = {"tracks": record["tracks"] + 1}
    column_writer.write_column(place / "data", spec, new, overwrite=True)
    for step in (teacher(place), soft(place)):
        assert step.state(None) == freshness.State("stale", f"column tracks of {place / 'data'} has changed since")


def test_runs_that_do_not_say_what_they_are_made_from_leave_it_to_the_command(place):
    path = place / "runs/teacher/results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in results.items() if k != "origin"}))
    assert teacher(place).state(None).name == student(place).state(None).name == "done"
    assert soft(place).state(None).name == "to check"


def test_retrieval_belongs_to_the_weights_that_described_the_clips(place):
    step = Retrieve(str(place / "runs/teacher"), str(place / "data"))
    assert step.state(None) == freshness.State("to do")
    spec = columns.Spec.load(place / "data/columns/soft")
    column_writer.write_column(place / "data", dataclasses.replace(spec, name=step.column, schema={}), {})
    path = place / "runs/teacher/results.json"
    facts = {"retrieval": {"retrieval": {"queries": "test", "gallery": "train"}}}
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    assert step.state(None) == freshness.State("to do", "begun")  # killed before the neighbours were saved
    step.makes[0].write_bytes(b"")
    assert step.state(None) == freshness.State("done")
    assert dataclasses.replace(step, queries="val").state(None).reason == "queries was test, now val"
    again(teacher(place), settings={"seed": 5})
    assert step.state(None).name == "stale"


def test_a_column_of_another_program_is_never_taken_for_ones_own(made):
    column = columns.Spec("pose", {"pose": Feature("float32", (2,))}, 1, "preprocessing.extract pose")
    column_writer.write_column(made / "data", column, {})
    with pytest.raises(ConfigError, match="is a column of preprocessing.extract pose, not of mtjax.predict"):
        dataclasses.replace(soft(made), column="pose").state(None)
