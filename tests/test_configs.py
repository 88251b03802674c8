"""Every config runs two shrunken steps through the real command line, on a tiny dataset of its own shape."""

import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import REPO, run_cli

from mtjax import records
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog, Clip
from mtjax.experiment import plain

CONFIGS = sorted(p.stem for p in (REPO / "configs").glob("*.py") if p.stem != "__init__")


def dataset_for(config: dict, root) -> None:
    """Clips of the shape and the splits that a config asks for."""
    data, task = config["data"], config["task"]
    rng = np.random.default_rng(0)
    classes = task.get("num_classes", 2)
    targets = task.get("num_targets", 0)
    names = [e["split"] for e in config["evals"].values()] + [data["train"]]
    splits = sorted({s for s in names if s != "val"} | ({data["val"]} if data.get("val") else set()))
    clips, values = [], {}
    for split in splits:
        for i in range(max(2 * classes, 12)):
            clip_id = f"{split}-{i}"
            numbers = tuple(rng.random(targets).tolist())
            clips.append(
                Clip(clip_id, (split,), label=f"class {i % classes:03}", targets=numbers, path=f"{split}/{i // 2}.mp4")
            )
            tracks = rng.random((data["frames"], data["points"], 3)).astype(np.float16)
            values[clip_id] = {data.get("field", "tracks"): tracks}
    info = {"target_names": ["stiffness", "area_weight"][:targets]}
    Catalog(root, "tiny", "1", tuple(f"class {i:03}" for i in range(classes)), tuple(clips), info).save()
    schema = {data.get("field", "tracks"): records.Feature("float16", (data["frames"], data["points"], 3))}
    column_writer.write_column(root, columns.Spec(data["column"], schema, 1, "tests"), values)


SHRUNKEN = [
    "--config.train.batch=2", "--config.train.steps=2", "--config.train.log_every=1", "--config.train.eval_every=0.0",
    "--config.model.motion=(8,)", "--config.model.position=(8,)", "--config.model.branch=8", "--config.model.layers=1",
    "--config.model.heads=2", "--config.model.feed_forward=16",
]  # fmt: skip


def test_there_are_configs():
    assert len(CONFIGS) >= 6


def test_every_config_runs_two_steps(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPO)

    def run(name: str):
        config = plain(importlib.import_module(f"configs.{name}").get_config())
        dataset_for(config, tmp_path / name)
        flags = [
            f"--config.data.root={tmp_path / name}",
            "--config.data.holdout=0.3" if config["data"].get("holdout") else "",
        ]
        command = ["-m", "mtjax.train", f"--config=configs/{name}.py", f"--workdir={tmp_path / 'runs' / name}"]
        return run_cli(*command, *filter(None, flags), *SHRUNKEN)

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
