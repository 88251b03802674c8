"""Every config runs two shrunken steps through the real command line, on a tiny dataset of its own shape."""

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import REPO, image_bytes, run_main

from mtjax import lookup, records
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog, Clip
from mtjax.models.video_network import VideoNetwork
from mtjax.run import config_fields
from mtjax.run.plain_config import plain

sys.path.insert(0, str(REPO))
CONFIGS = sorted(p.stem for p in (REPO / "configs").glob("*.py") if p.stem != "__init__")


def column_for(data: dict, width: int) -> tuple[str, list[str], records.Feature, Callable[[np.random.Generator], Any]]:
    """(column, fields, feature, random value) of what a modality reads."""
    kind = data["name"]
    made = vars(lookup.resolve("modalities", kind)) | data  # the class's defaults stand for what a config leaves out
    if kind in ("frames.Frames", "rgb.Rgb", "flow.Flow"):
        shape = (20, 26) if kind == "flow.Flow" else (20, 26, 3)

        def draw(rng):
            return [image_bytes(p, "JPEG") for p in rng.integers(0, 256, (5, *shape), np.uint8)]

        fields = [f"{made['field']}_x", f"{made['field']}_y"] if kind == "flow.Flow" else [made["field"]]
        return made["column"], fields, records.Feature("jpeg", (-1,)), draw
    dtype, shape = np.float16, None
    if kind == "features.Features":
        dtype, shape = np.float32, (2, width) if made["views"] == "random" else (width,)
    elif kind == "pose.Pose":
        shape = (12, len(lookup.resolve("modalities", made["skeleton"])), 3)
    else:
        shape = (made["frames"], made["points"], 3)
    return (
        made["column"],
        [made["field"]],
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
        column, fields, feature, draw = column_for(part, config["model"].get("width", 0))
        values = {clip.id: {field: draw(rng) for field in fields} for clip in clips}
        column_writer.write_column(root, columns.Spec(column, dict.fromkeys(fields, feature), 1, "tests"), values)
    if data.get("teacher"):
        schema = {"probs": records.Feature("float32", (classes,))}
        spec = columns.Spec(data["teacher"], schema, 1, "mtjax.predict", parameters={"class_names": list(names)})
        soft = rng.dirichlet(np.ones(classes), len(clips)).astype(np.float32)
        column_writer.write_column(root, spec, {c.id: {"probs": p} for c, p in zip(clips, soft, strict=True)})


TWO_STEPS = ("train.batch=2", "train.steps=2", "train.log_every=1", "train.eval_every=0.0")
# Of every constructor that has an argument of such a name: small enough to compile fast, and fitting each other.
SMALL_MODEL = {
    "image": 16, "patch": 8, "width": 16, "layers": 1, "heads": 2, "mit_heads": 2, "output": 8, "feed_forward": 16,
    "attention": 8, "branch": 8, "motion": (8,), "position": (8,), "frames": 2,
}  # fmt: skip
SMALL_DATA = {
    "frames": 2, "stride": 1, "size": 16, "short_side": 18, "resize": (18, 20), "clips": 2, "views": 2, "workers": 0,
    "width": 16,
}  # fmt: skip


def shrunken(room: str, section: dict, small: dict) -> dict:
    """What of `small` the section's constructor takes, as a value of the same kind as its default."""
    constructor = lookup.resolve(room, section["name"])
    takes = inspect.signature(constructor.__init__).parameters
    wanted = {k: v for k, v in small.items() if k in takes and not isinstance(takes[k].default, str)}
    if issubclass(constructor, VideoNetwork):
        wanted["width"] = 2  # channels of the first stage; later ones have many times as many
    return wanted


def test_there_are_configs():
    assert len(CONFIGS) >= 6


SAME_NETWORK = ("movt_ssv2_temporal18", "movt_vb100")  # as movt_jester's


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SAME_NETWORK else n for n in CONFIGS])
def test_every_config_runs_two_steps(name, tmp_path):
    config = plain(importlib.import_module(f"configs.{name}").get_config())
    small = []
    for section, (room, values) in {"model": ("models", SMALL_MODEL), "data": ("modalities", SMALL_DATA)}.items():
        changes = shrunken(room, config[section], values)
        config[section] = config[section] | changes
        small += [f"{section}.{k}={str(v).replace(' ', '')}" for k, v in changes.items()]
    dataset_for(config, tmp_path / name)
    holdout = ("data.holdout=0.3",) if config["data"].get("holdout") else ()
    flags = [f"--config.{setting}" for setting in (*TWO_STEPS, *small, *holdout, f"data.root={tmp_path / name}")]
    done = run_main("mtjax.train", f"--config=configs/{name}.py", f"--workdir={tmp_path / 'run'}", *flags)
    assert done.returncode == 0, done.stderr[-1500:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert any(k.startswith("test") for k in results["scores"])


def resolved(config) -> dict[str, Any]:
    """Every value of a config by its path, with those that it leaves to the constructors."""
    return {field.path: field.value for field in config_fields.fields(plain(config))}


# Of the configs that begin with nothing; others set back what the one that they begin with has set. (None: the default row.)
ROWS_OF = {
    "mil_mannequin": (None,),
    "movt_jester": (None,),
    "movt_mannequin": (None,),
    "movt_jhmdb": ("1", "1,identity"),
}


@pytest.mark.parametrize("name", ROWS_OF)
def test_a_config_says_only_what_differs_from_the_defaults(name):
    module = importlib.import_module(f"configs.{name}")
    restated: dict[str, bool] = {}  # in every row
    for row in ROWS_OF[name]:
        for field in config_fields.fields(plain(module.get_config(*([row] if row else [])))):
            if field.given and not field.path.endswith(".name"):
                restated[field.path] = restated.get(field.path, True) and field.value == field.default
    assert [path for path, always in restated.items() if always] == []


MOTIONFIT = importlib.import_module("configs.motionfit")


@pytest.mark.parametrize("stage", MOTIONFIT.STAGES)
def test_stages_of_motionfit_are_what_the_paper_says(stage):
    c = MOTIONFIT.get_config(f"{stage},hmdb51,2")
    clips = c.data.get("student", c.data)
    lookup.check_keywords(
        lookup.resolve("modalities", c.data.name), {k: v for k, v in plain(c.data).items() if k != "name"}, "data"
    )
    assert c.data.train == ("train" if stage.startswith("self") or stage == "mers" else "train2")
    labels = c.data.train == "train2" and stage not in MOTIONFIT.ORDER
    assert ("test" in c.evals) == labels and c.evals.get("test", {"split": "test2"})["split"] == "test2"
    epochs, milestones = (45, (20, 40)) if c.data.train == "train" else (120, (40, 60, 80))
    assert c.train.epochs == epochs
    np.testing.assert_allclose(np.multiply(c.optimizer.milestones, epochs), milestones)
    of = resolved(c)
    assert [of[f"optimizer.{k}"] for k in ("name", "lr", "momentum", "weight_decay", "factor")] == [
        "sgd",
        1e-3,
        0.9,
        5e-4,
        0.1,
    ]
    assert c.train.batch == (32 if stage == "self_s3dg" else 16 if stage.startswith("self") or stage == "mers" else 8)
    assert clips.views == 10 and of.get("data.stride", 1) == 1 and of.get("data.gap", 8) == 8
    assert (clips.size, clips.frames) == (
        (224, 64) if "s3dg" in stage else (112, int(stage[-2:]) if "len" in stage else 16)
    )
    assert bool(c.model.frozen) == (stage.startswith("tune") and "order" not in stage)  # VCOP tunes everything
    assert c.model.channels == (2 if "motion" in stage else 3)
    if c.task.name == "multi_clip.MultiClip":
        assert (c.task.label_share, clips.ordered) == ((0.0, True) if stage in MOTIONFIT.ORDER else (1.0, False))
    else:
        assert (c.task.alpha, c.task.beta, c.task.match) == (float(stage == "mars"), 0.0, 50.0)
    assert all(cell.split("=")[0].split("/")[-1].startswith("hmdb") for cell in c.train.table)


def test_a_run_that_deviates_from_its_stage_says_where_it_stands():
    def table(which: str) -> tuple[str, ...]:
        return MOTIONFIT.get_config(which).train.table

    assert table("tune,ucf101,1,t3/kval/500") == ("mf.t3/kval/500=test/top1",)
    assert table("motion,ucf101,1,none") == () and table("motion,ucf101,1") == ("mf.t1/motion/R3=test/top1",)
    assert table("motion_order,ucf101,1") == () and table("tune_motion_order,ucf101,1") == (
        "mf.text/lambda0_motion/top1=test/top1",
    )
    assert table("self,ucf101,1")[0] == "mf.t7/ours_r21d/ucf_R1=retrieval/clip_R@1"


def test_a_stage_that_is_none_is_named():
    for wrong in ("teach,ucf101,1", "motion,ucf101,first"):
        with pytest.raises(ValueError, match="STAGE,DATASET,SPLIT"):
            MOTIONFIT.get_config(wrong)


GUIDANCE = importlib.import_module("configs.guidance_ucf101")


@pytest.mark.parametrize("row", GUIDANCE.ROWS)
def test_rows_of_motion_guidance_are_what_the_paper_says(row):
    """motion_guidance.md §2 to §7."""
    c = GUIDANCE.get_config(row)
    for room, section in (("modalities", c.data), ("models", c.model), ("tasks", c.task)):
        keywords = {k: v for k, v in plain(section).items() if k != "name"}
        fixed = {"models": ("rngs",), "tasks": ("data",)}.get(room, ())
        lookup.check_keywords(lookup.resolve(room, section.name), keywords, room, fixed=fixed)
    assert (c.data.train, c.data.val, c.evals.test.split) == ("train1_fit", "train1_val", "test1")
    shots = int(row.split("_k")[1][0]) if "_k" in row else 0
    assert c.data.get("k_shot", 0) == shots
    of = resolved(c)
    if row in GUIDANCE.PROBES:
        assert [of[f"train.{k}"] for k in ("batch", "patience", "min_delta")] == [0, 20, 0.1]
        assert (of["optimizer.name"], of["data.views"]) == ("lbfgs", "all")
        assert of["task.penalty"] == ("printed" if row.endswith("printed") else "sklearn_C1")
    if row in GUIDANCE.TAUGHT:
        assert [of[f"optimizer.{k}"] for k in ("name", "lr", "weight_decay")] == ["adamw", 1e-3, 1e-4]
        assert [of[k] for k in ("train.batch", "train.epochs", "task.alpha", "task.beta", "task.heads")] == [
            512,
            200,
            1,
            1,
            2,
        ]
        assert of["data.unlabelled"] == ("train1_fit", "train1_val")
    if row == "motion_raw":
        assert [of[f"optimizer.{k}"] for k in ("lr", "weight_decay", "warmup", "clip_norm")] == [1e-3, 1e-2, 620, 1.0]
        assert [of[k] for k in ("train.batch", "train.epochs", "task.label_smoothing")] == [64, 100, 0.1]
        assert [of[f"model.{k}"] for k in ("features", "width", "layers", "heads", "attention")] == [51, 256, 2, 4, 128]
    assert bool(c.train.table) == (row not in GUIDANCE.WITHOUT_CELL)


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
    data = lookup.build("modalities", section | {"root": str(tmp_path / "data")})
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
    doc = importlib.import_module(f"configs.{name}").__doc__
    assert f"python -m mtjax.train --config=configs/{name}.py" in doc
    assert "xpected" in doc or "not yet run here" in doc


def test_names_of_earlier_configs_are_found():
    assert lookup.resolve("models", "clip.CLIP") is lookup.resolve("models", "openai_clip.CLIP")
