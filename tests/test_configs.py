"""Every config runs two shrunken steps through the real command line, on a tiny dataset of its own shape."""

import importlib
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from conftest import REPO, image_bytes, run_cli

from mtjax import lookup, records
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog, Clip
from mtjax.plain_config import plain

CONFIGS = sorted(p.stem for p in (REPO / "configs").glob("*.py") if p.stem != "__init__")


def column_for(data: dict, width: int) -> tuple[str, str, records.Feature, Callable[[np.random.Generator], Any]]:
    """(column, field, feature, random value) of what a modality reads."""
    kind = data["name"]
    made = vars(lookup.resolve("data", kind)) | data  # the class's defaults stand for what a config leaves out
    if kind == "frames.Frames":

        def draw(rng):
            return [image_bytes(p, "JPEG") for p in rng.integers(0, 256, (3, 20, 26, 3), np.uint8)]

        return made["column"], made["field"], records.Feature("jpeg"), draw
    dtype, shape = np.float16, None
    if kind == "features.Features":
        dtype, shape = np.float32, (2, width) if made["views"] == "random" else (width,)
    elif kind == "pose.Pose":
        shape = (12, len(lookup.resolve("data", made["skeleton"])), 3)
    else:
        shape = (made["frames"], made["points"], 3)
    return (
        made["column"],
        made["field"],
        records.Feature(np.dtype(dtype).name, shape),
        lambda rng: rng.random(shape).astype(dtype),
    )


def dataset_for(config: dict, root) -> None:
    """Clips of the shape and the splits that a config asks for, enough of each class for its shots and its held-out part."""
    data, task = config["data"], config["task"]
    rng = np.random.default_rng(0)
    classes, targets = task.get("num_classes", 2), task.get("num_targets", 0)
    named = {e["split"] for e in config["evals"].values()} | {data.get("train", "train"), *data.get("unlabelled", ())}
    splits = sorted((named - {"val"}) | ({data["val"]} if data.get("val") else set()))
    of_split = max((2 + 2 * data.get("k_shot", 0)) * classes, 12)
    clips = []
    for split in splits:
        for i in range(of_split):
            numbers = tuple(rng.random(targets).tolist())
            label, path = f"class {i % classes:03}", f"{split}/{i // 2}.mp4"
            clips.append(Clip(f"{split}-{i}", (split,), label=label, targets=numbers, path=path))
    names = tuple(f"class {i:03}" for i in range(classes))
    info = {"target_names": ["stiffness", "area_weight"][:targets]}
    Catalog(root, "tiny", "1", names, tuple(clips), info).save()
    for part in (data["student"], data["watched"]) if data["name"] == "joined.Joined" else (data,):
        column, field, feature, draw = column_for(part, config["model"].get("width", 0))
        values = {clip.id: {field: draw(rng)} for clip in clips}
        column_writer.write_column(root, columns.Spec(column, {field: feature}, 1, "tests"), values)
    if data.get("teacher"):
        schema = {"probs": records.Feature("float32", (classes,))}
        spec = columns.Spec(data["teacher"], schema, 1, "mtjax.predict", parameters={"class_names": list(names)})
        soft = rng.dirichlet(np.ones(classes), len(clips)).astype(np.float32)
        column_writer.write_column(root, spec, {c.id: {"probs": p} for c, p in zip(clips, soft, strict=True)})


TWO_STEPS = ("train.batch=2", "train.steps=2", "train.log_every=1", "train.eval_every=0.0")
VIDEO = ("image=16", "patch=8", "width=16", "layers=1", "heads=2", "output=8", "mit_heads=2", "frames=2")
SHRUNKEN = {
    "movt.MovT": ("motion=(8,)", "position=(8,)", "branch=8", "layers=1", "heads=2", "feed_forward=16"),
    "mil.MotionMIL": ("width=16", "layers=1", "heads=2", "feed_forward=16", "attention=8"),
    "xclip.VideoEncoder": VIDEO,
    "frozen.Frozen": (),
}
SHRUNKEN_DATA = {"frames.Frames": ("frames=2", "size=16", "short_side=18")}


def test_there_are_configs():
    assert len(CONFIGS) >= 6


def test_every_config_runs_two_steps(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPO)

    def run(name: str):
        config = plain(importlib.import_module(f"configs.{name}").get_config())
        dataset_for(config, tmp_path / name)
        holdout = ("data.holdout=0.3",) if config["data"].get("holdout") else ()
        small = [f"model.{setting}" for setting in SHRUNKEN[config["model"]["name"]]]
        small += [f"data.{setting}" for setting in SHRUNKEN_DATA.get(config["data"]["name"], ())]
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


FRAMES = {"name": "frames.Frames", "size": 16, "short_side": 18, "frames": 2}
FEATURES = {"name": "features.Features", "column": "x.embedding", "views": "random"}
POSE = {"name": "pose.Pose", "skeleton": "skeletons.JHMDB_15", "scale": False}
SECTIONS = {
    "frames": FRAMES | {"train": "fit", "val": "val", "unlabelled": ("fit", "val"), "k_shot": 3, "teacher": "soft"},
    "features": FEATURES | {"k_shot": 2, "holdout": 0.3},
    "joined": {"name": "joined.Joined", "student": FEATURES, "watched": POSE, "unlabelled": ("train",), "k_shot": 1},
}


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_tiny_dataset_is_what_a_config_asks_for(kind, tmp_path):
    section, model = SECTIONS[kind], {"name": "frozen.Frozen", "width": 6}
    evals = {"test": {"name": "top1.Top1", "split": "test"}, "val": {"name": "top1.Top1", "split": "val"}}
    dataset_for({"data": section, "task": {"num_classes": 4}, "model": model, "evals": evals}, tmp_path / "data")
    data = lookup.build("data", section | {"root": str(tmp_path / "data")})
    data.check()
    labels = data.training_labels[data.rows("train")]
    assert np.bincount(labels[labels >= 0]).tolist() == [section["k_shot"]] * 4
    batch = data.read(data.rows("test"), train=True, seeds=np.arange(len(data.rows("test")), dtype=np.uint64))
    assert batch["valid"].all() and batch["observed"].all()
    shapes = {"frames": {"frames": (2, 16, 16, 3)}, "features": {"features": (2, 6)}, "joined": {"pose": (12, 15, 3)}}
    for name, shape in shapes[kind].items():
        assert batch[name].shape[1:] == shape
    assert ("taught" in batch) == (kind == "frames")


@pytest.mark.parametrize("name", CONFIGS)
def test_docstrings_say_command_and_expectation(name):
    sys.path.insert(0, str(REPO))
    doc = importlib.import_module(f"configs.{name}").__doc__
    assert f"python -m mtjax.train --config=configs/{name}.py" in doc
    assert "xpected" in doc or "not yet run here" in doc
