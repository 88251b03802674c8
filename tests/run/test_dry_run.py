"""`--dry_run`: any config, any mesh, no dataset."""

import importlib

import pytest
from conftest import REPO, make_tracks_dataset, run_main, tiny_config, write_config

from mtjax import lookup
from mtjax.compute import sharding
from mtjax.run import dry_run
from mtjax.run.experiment import Experiment
from mtjax.run.plain_config import plain

SMALL = {
    "rgb.Rgb": {"frames": 2, "size": 16, "resize": (18, 20)},
    "flow.Flow": {"frames": 2, "size": 16, "resize": (18, 20)},
    "frames.Frames": {"frames": 2, "size": 16, "short_side": 18},
    "r2plus1d.R2Plus1D18": {"width": 2},
    "openai_clip.CLIP": {"width": 16, "layers": 1, "heads": 2, "patch": 8, "image": 16, "output": 8},
}
STAGES = ("motion_order", "self_neighbours", "tune")
ROWS = ("motion_raw", "clip_zs", "xclip_k2", "motion_ts_k2")


def shrunken(config: dict, **task) -> dict:
    """The config with a small network on small clips, and its dataset nowhere."""
    data = config["data"] | SMALL.get(config["data"]["name"], {}) | {"root": f"/nowhere/{config['data']['root']}"}
    model = config["model"] | SMALL.get(config["model"]["name"], {})
    return config | {
        "data": data,
        "model": model,
        "task": config["task"] | task,
        "train": config["train"] | {"batch": config["train"]["batch"] and 8},
    }


def lower(exp: Experiment) -> None:
    """Traces a training step on fake data."""
    host = exp.data.fake(exp.rows, max(exp.task.num_classes, 2))
    arrays = sharding.to_global(host, exp.local, exp.rows, exp.mesh)
    exp.program.lower_train_step(exp.program.shapes, arrays)


@pytest.fixture(autouse=True)
def repository(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO))


@pytest.mark.parametrize(
    ("name", "argument", "classes"),
    [
        *(("guidance_ucf101", row, 101) for row in ROWS),
        *(("motionfit", f"{stage},ucf101,1", 101) for stage in STAGES),
        ("motionfit", "tune,hmdb51,2", 51),
        ("motionfit", "self,something,0", dry_run.OTHER_CLASSES),
        ("motionfit_mannequin", "", 0),
    ],
)
def test_published_configs_need_no_dataset(one_device, name, argument, classes):
    get_config = importlib.import_module(f"configs.{name}").get_config
    config = shrunken(plain(get_config(argument) if argument else get_config()))
    config, note = dry_run.without_dataset(config)
    if argument.startswith("self_neighbours"):
        with pytest.raises(ValueError, match="needs data.pseudo"):
            lower(Experiment(config, fake=True))
        config = config | {"data": config["data"] | {"pseudo": "clusters"}}
    exp = Experiment(config, fake=True)
    if classes:
        assert exp.task.num_classes == classes and "--config.task.num_classes=N" in note
    lower(exp)


def test_a_student_of_features_needs_its_teacher():
    config = shrunken(plain(importlib.import_module("configs.motionfit").get_config("mers,ucf101,1")))
    with pytest.raises(ValueError, match=r"frozen teacher \(task.teacher\)"):
        Experiment(dry_run.without_dataset(config)[0], fake=True)


def test_the_number_of_classes_is_the_datasets_or_is_said_to_be_assumed(tmp_path):
    config = tiny_config(make_tracks_dataset(tmp_path / "ucf101", classes=3))
    assert dry_run.without_dataset(config) == (config | {"task": config["task"] | {"num_classes": 3}}, "")
    given = tiny_config("/nowhere/ucf101", task__num_classes=7)
    assert dry_run.without_dataset(given) == (given, "")
    with pytest.raises(lookup.ConfigError, match="config.task"):
        dry_run.without_dataset({"task": {}})
    file = write_config(tmp_path / "config.py", tiny_config("/nowhere/hmdb51"))
    done = run_main("mtjax.train", f"--config={file}", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "classes          51 (assumed: /nowhere/hmdb51 is not here" in done.stdout
