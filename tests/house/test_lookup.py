"""Names and values of a config: what is refused, and what a workdir's config may name."""

import sys

import pytest
from conftest import tiny_config

from mtjax import lookup
from mtjax.run.experiment import Experiment, Train

OUT_OF_RANGE = {
    "data__workers": -1,
    "data__points": -1,
    "data__frames": 0,
    "data__holdout": 1.0,
    "data__train": 3,
    "data__classes": "direction_1",
    "data__augment": {"drop_points": 1.5},
    "model__layers": -1,
    "model__heads": 0,
    "model__dropout": 1.0,
    "model__motion": (8, 0),
    "model__dtype": "float17",
    "task__label_smoothing": 2.0,
    "task__hidden": -4,
    "optimizer__ema": 2.0,
    "optimizer__b1": 1.0,
    "optimizer__lr": float("nan"),
    "optimizer__warmup": -1,
    "train__batch": -8,
    "train__keep": 0,
    "train__save_every": -1,
    "train__eval_every": -1.0,
    "train__log_every": 0,
    "train__epochs": -1.0,
    "train__accumulate": 0,
    "train__profile": (1,),
    "train__table": ("x",),
    "train__watch": "val",
    "mesh__fsdp": 0,
    "mesh__tensor": 0,
    "mesh__data": 3,
}


@pytest.mark.parametrize("field", OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_with_its_field(dataset, field):
    path = field.split("__")
    with pytest.raises(lookup.ConfigError, match=rf"config\.{path[0]}\b.*{path[-1]}"):
        Experiment(tiny_config(dataset, **{field: OUT_OF_RANGE[field]}))


def test_sections_check_their_values_however_they_are_made():
    with pytest.raises(lookup.ConfigError, match=r"config.train.keep=0: Train wants int at least 1"):
        Train(batch=8, keep=0)


HOSTILE = ("os.system", "subprocess.Popen", "builtins.exec", "mtjax.train.main", "mtjax.data.files.write_atomically")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("room", ["modalities", "models", "tasks", "evaluators"])
def test_a_workdirs_config_names_nothing_outside_of_its_room(room, name):
    with pytest.raises(lookup.ConfigError, match=r"could run anything; .* --allow_code="):
        lookup.resolve(room, lookup.from_workdir({"name": name})["name"])
    assert lookup.resolve(room, name)  # the user's own config may


def test_what_a_file_of_ours_imports_is_not_ours():
    with pytest.raises(lookup.ConfigError, match="could run anything"):
        lookup.resolve("modalities", lookup.FromWorkdir("one_column.check_keywords"))
    assert lookup.resolve("modalities", lookup.FromWorkdir("tracks.Tracks")).__name__ == "Tracks"
    assert lookup.resolve("modalities", lookup.FromWorkdir("skeletons.COCO_17"))  # no class, and nothing to call


def test_a_module_that_is_allowed_is_imported_and_no_other_is(tmp_path, monkeypatch):
    (tmp_path / "their_lab.py").write_text("class Net:\n    pass\n")
    (tmp_path / "my_labs.py").write_text("raise SystemExit('this ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lookup, "_allowed", set())
    with pytest.raises(lookup.ConfigError, match="--allow_code=their_lab"):
        lookup.resolve("models", lookup.FromWorkdir("their_lab.Net"))
    assert "their_lab" not in sys.modules
    lookup.allow_code(["their_lab"])
    assert lookup.resolve("models", lookup.FromWorkdir("their_lab.Net")).__name__ == "Net"
    with pytest.raises(lookup.ConfigError, match="--allow_code=my_labs"):
        lookup.resolve("models", lookup.FromWorkdir("my_labs.Net"))
