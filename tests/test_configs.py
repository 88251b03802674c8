"""Every config runs two shrunken steps through the real command line, on a tiny dataset of its own shape."""

import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import REPO, run_cli

from mtjax import lookup, records
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog, Clip
from mtjax.plain_config import plain

CONFIGS = sorted(p.stem for p in (REPO / "configs").glob("*.py") if p.stem != "__init__")


def dataset_for(config: dict, root) -> None:
    """Clips of the shape and the splits that a config asks for."""
    data, task = config["data"], config["task"]
    rng = np.random.default_rng(0)
    classes = task.get("num_classes", 2)
    targets = task.get("num_targets", 0)
    names = [e["split"] for e in config["evals"].values()] + [data["train"]]
    splits = sorted({s for s in names if s != "val"} | ({data["val"]} if data.get("val") else set()))
    if data["name"] == "pose.Pose":
        field, shape = "pose", (12, len(lookup.resolve("data", data["skeleton"])), 3)
    else:
        field, shape = data.get("field", "tracks"), (data["frames"], data["points"], 3)
    clips, values = [], {}
    for split in splits:
        for i in range(max(2 * classes, 12)):
            clip_id = f"{split}-{i}"
            numbers = tuple(rng.random(targets).tolist())
            clips.append(
                Clip(clip_id, (split,), label=f"class {i % classes:03}", targets=numbers, path=f"{split}/{i // 2}.mp4")
            )
            values[clip_id] = {field: rng.random(shape).astype(np.float16)}
    info = {"target_names": ["stiffness", "area_weight"][:targets]}
    Catalog(root, "tiny", "1", tuple(f"class {i:03}" for i in range(classes)), tuple(clips), info).save()
    schema = {field: records.Feature("float16", shape)}
    column_writer.write_column(root, columns.Spec(data["column"], schema, 1, "tests"), values)


TWO_STEPS = ("train.batch=2", "train.steps=2", "train.log_every=1", "train.eval_every=0.0")
SHRUNKEN = {
    "movt.MovT": ("motion=(8,)", "position=(8,)", "branch=8", "layers=1", "heads=2", "feed_forward=16"),
    "mil.MotionMIL": ("width=16", "layers=1", "heads=2", "feed_forward=16", "attention=8"),
}


def test_there_are_configs():
    assert len(CONFIGS) >= 6


def test_every_config_runs_two_steps(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPO)

    def run(name: str):
        config = plain(importlib.import_module(f"configs.{name}").get_config())
        dataset_for(config, tmp_path / name)
        holdout = ("data.holdout=0.3",) if config["data"].get("holdout") else ()
        small = [f"model.{setting}" for setting in SHRUNKEN[config["model"]["name"]]]
        flags = [f"--config.{setting}" for setting in (*TWO_STEPS, *small, *holdout, f"data.root={tmp_path / name}")]
        return run_cli(
            "-m", "mtjax.train", f"--config=configs/{name}.py", f"--workdir={tmp_path / 'runs' / name}", *flags
        )

    with ThreadPoolExecutor(2) as pool:
        finished = dict(zip(CONFIGS, pool.map(run, CONFIGS), strict=True))
    for name, done in finished.items():
        assert done.returncode == 0, f"{name}: {done.stderr[-1500:]}"
        results = json.loads((tmp_path / "runs" / name / "results.json").read_text())
        assert any(k.startswith("test") for k in results["scores"]), name


@pytest.mark.parametrize("name", CONFIGS)
def test_docstrings_say_command_and_expectation(name):
    sys.path.insert(0, str(REPO))
    doc = importlib.import_module(f"configs.{name}").__doc__
    assert f"python -m mtjax.train --config=configs/{name}.py" in doc
    assert "xpected" in doc or "not yet run here" in doc
