"""What a run was made from: teachers and seeds, columns that are named as anybody likes, weights to begin with."""

import json
from pathlib import Path

import pytest
from conftest import make_tracks_dataset, tiny_config, train_here

from mtjax import predict
from mtjax.data import column_writer, columns, origin
from mtjax.report.groups import group_runs
from mtjax.run import provenance
from mtjax.run.results import Result


@pytest.fixture(scope="module")
def place(tmp_path_factory, one_device) -> Path:
    """Teachers t1 and t2 (one config, two seeds) and `other` (another config), each with a column of its name."""
    place = tmp_path_factory.mktemp("provenance")
    root = make_tracks_dataset(place / "data", clips=24)
    for name, changes in (("t1", {"seed": 1}), ("t2", {"seed": 2}), ("other", {"seed": 1, "optimizer__lr": 1e-4})):
        train_here(tiny_config(root, train__steps=1, **changes), place / name)
        assert predict.main([str(place / name), f"--column={name}"]) == 0
    return place


def student(place: Path, name: str, seed: int, teacher: str, **changes) -> Result:
    config = tiny_config(
        place / "data", seed=seed, data__teacher=teacher, data__subset_seed=seed, train__steps=1,
        task={"name": "distill.Distill"}, **changes,
    )  # fmt: skip
    train_here(config, place / name)
    return Result.load(place / name)


def test_runs_are_grouped_by_what_their_teachers_were_made_from(place):
    fixed = [student(place, f"fixed-{seed}", seed, "t1") for seed in (1, 2)]
    own = [student(place, f"own-{seed}", seed, f"t{seed}") for seed in (1, 2)]
    others = [student(place, "of-other", 2, "other"), student(place, "k", 1, "t1", data__k_shot=2)]
    groups = group_runs([*fixed, *own, *others])
    assert [[run.workdir.name for run in group.runs] for group in groups] == [
        ["fixed-1", "own-1", "fixed-2", "own-2"],  # seeds of one config, whatever their columns are called
        ["of-other"],
        ["k"],
    ]
    assert fixed[0].origin["recipe"] == others[1].origin["recipe"] != others[0].origin["recipe"]
    said = columns.Spec.load(place / "data/columns/t2").origin
    assert own[1].origin["inputs"] == {"t2": said["config"]} == {"t2": fixed[0].origin["inputs"]["t1"]}
    assert said["seed"] == 2 and said["workdir"] == str(place / "t2") and set(said["read"]) == {"tracks"}


def test_weights_to_begin_with_are_an_input(place):
    def begun(init: str, seed: int) -> dict:
        config = tiny_config(place / "data", seed=seed, train__init=str(place / init), train__steps=1)
        train_here(config, place / f"from-{init}-{seed}")
        return Result.load(place / f"from-{init}-{seed}").origin

    first, second, third = begun("t1", 1), begun("t2", 2), begun("other", 1)
    assert first["config"] == second["config"] != third["config"]
    teacher = json.loads((place / "t1/results.json").read_text())["origin"]
    assert first["inputs"] == {"train.init": teacher["config"]} and first["content"] == {
        "train.init": teacher["weights"]
    }
    assert provenance.of_weights(place / "t1")["weights"] == teacher["weights"]


def test_a_column_of_another_config_is_begun_differently_and_an_origin_is_no_parameter(tmp_path):
    def begin(**origin) -> Path:
        return column_writer.create(tmp_path, columns.Spec("soft", {}, 1, "mtjax.predict", origin=origin))

    assert "origin" not in json.loads((begin() / "column.json").read_text())
    begin(config="a", seed=0, workdir="here")
    assert columns.Spec.load(begin(config="a", seed=1, workdir="there")).origin["workdir"] == "there"
    with pytest.raises(columns.ColumnError, match=r"begun differently \(origin.config: there 'a', now 'b'\)"):
        begin(config="b")


def test_paths_seeds_and_what_is_logged_are_left_out_and_official_splits_are_one():
    one = tiny_config(
        "here/data", seed=1, data__train="train1", train__log_every=5, train__table=("a",), data__unlabelled=["train1"]
    )
    two = tiny_config(
        "here/data", seed=2, data__train="train2", data__subset_seed=4, data__workers=3, data__unlabelled=["train2"]
    )
    for config, split in ((one, "test1"), (two, "test2")):
        config["evals"]["test"]["split"] = split
    assert provenance.without_seed(one) == provenance.without_seed(two)
    assert origin.unnumbered("train1_fit") == "train_fit" and one["evals"]["test"]["split"] == "test1"
