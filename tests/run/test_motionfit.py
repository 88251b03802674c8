"""The whole regime of MotionFit in small: flow teaches clusters, clusters teach RGB, which is then fine-tuned (motionfit.md §1)."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import config_of, image_bytes, make_dataset, train_here

from mtjax import predict, records
from mtjax.clusters import pseudo_labels
from mtjax.data.catalog import Catalog
from mtjax.data.columns import Column
from mtjax.modalities.joined import Joined
from mtjax.run.experiment import Experiment

CLIP = {"frames": 4, "size": 16, "resize": (18, 20)}
NETWORK = {"name": "r2plus1d.R2Plus1D18", "width": 4}
SGD = {"name": "sgd", "lr": 1e-2, "momentum": 0.9, "weight_decay": 5e-4}
UCF = {"name": "classify.Classify"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Bright squares that move to the left or to the right over 9 to 12 frames at 10 a second, and their flow."""
    rng, counts = np.random.default_rng(0), {"train": 16, "test": 8}
    frames, flow_x, flow_y, times = {}, {}, {}, {}
    for split, count in counts.items():
        for i in range(count):
            name, direction, length = f"{split}-{i:03}", 1 - 2 * (i % 2), 9 + i % 4
            pictures = rng.integers(0, 60, (length, 18, 20, 3), np.uint8)
            x = np.full((length - 1, 18, 20), 127, np.uint8)
            for t in range(length):
                left = 8 + direction * (t - 5)
                pictures[t, 5:12, max(left, 0) : left + 6] = 220
                if t + 1 < length:
                    x[t, 5:12, max(left, 0) : left + 6] = 127 + 30 * direction
            frames[name] = [image_bytes(p, "PNG") for p in pictures]
            flow_x[name] = [image_bytes(p, "PNG") for p in x]
            flow_y[name] = [image_bytes(np.full((18, 20), 127, np.uint8), "PNG")] * (length - 1)
            times[name] = np.arange(length, dtype=np.float32) / 10
    jpeg, seconds = records.Feature("jpeg", (-1,)), records.Feature("float32", (-1,))
    columns_of = {
        "frames": {"frames": (jpeg, frames), "times_s": (seconds, times)},
        "flow.dis": {
            "flow_x": (jpeg, flow_x),
            "flow_y": (jpeg, flow_y),
            "times_s": (seconds, {k: v[:-1] for k, v in times.items()}),
        },
    }
    return make_dataset(tmp_path_factory.mktemp("mf") / "d", per_split=counts, classes=2, columns_of=columns_of)


@pytest.fixture(scope="module")
def generator(root, one_device, tmp_path_factory):
    """(workdir, scores) of the network on flow, trained with labels; three clips a video, ten in evaluation."""
    data = {"name": "flow.Flow", "clips": 3, "views": 4} | CLIP
    model = NETWORK | {"reads": "flow", "channels": 2}
    evals = {
        "test": {"name": "top1.Top1", "split": "test"},
        "probs": {"name": "top1.Top1", "split": "test", "field": "probs_mean"},
    }
    config = config_of(
        root, data=data, model=model, task=UCF, optimizer=SGD, evals=evals, train={"epochs": 12.0, "batch": 4}
    )
    workdir = tmp_path_factory.mktemp("mplg") / "run"
    return workdir, train_here(config, workdir)


@pytest.fixture(scope="module")
def pseudo(root, generator):
    """The summary of the clusters of all clips' features: of two directions, each early and late in the video."""
    assert predict.main([str(generator[0]), "--column=mplg.embedding", "--dense=4", "--batch=2"]) == 0
    return pseudo_labels.cluster(root, features="mplg.embedding", column="pseudo.k4", k=4, splits=("train",))


def test_the_generator_learns_directions_from_flow(generator):
    workdir, scores = generator
    assert scores["test/top1"] == scores["probs/top1"] == 100.0 and scores["test/n"] == 8
    rows = np.load(workdir / "rows" / "test.npz")
    assert rows["probs_mean"].shape == (8, 2) and not any("embedding" in name for name in rows)


def test_features_of_every_clip_become_a_column(root, pseudo):
    column = Column(root, "mplg.embedding")
    assert len(column) == 24 and column.spec.parameters["dense"] == 4
    record = column.read(column.rows(["test-003"]))[0]  # 12 frames, 11 fields: clips begin at 0 and 4
    assert record["embedding"].shape == (2, 32)
    np.testing.assert_allclose(record["centre_s"], [0.1, 0.5], atol=1e-6)
    assert pseudo["segments"] == sum(1 + (9 + i % 4 - 5) // 4 for n in (16, 8) for i in range(n))
    assert pseudo["purity"] > 90


def test_rgb_learns_the_clusters_and_is_fine_tuned(root, pseudo, one_device, tmp_path):
    data = {"name": "rgb.Rgb", "clips": 2, "pseudo": "pseudo.k4"} | CLIP
    task = {"name": "multi_clip.MultiClip"}
    evals = {"train": {"name": "top1.Top1", "split": "train"}}
    config = config_of(
        root, data=data, model=NETWORK, task=task, optimizer=SGD, evals=evals, train={"epochs": 24.0, "batch": 4}
    )
    scores = train_here(config, tmp_path / "self")
    assert scores["train/top1"] > 60  # direction alone gives 50; middle clips lie where early becomes late
    plain = {"name": "rgb.Rgb", "views": 2, "fraction": 0.5} | CLIP
    frozen = NETWORK | {"frozen": ("stem", "layer1", "layer2")}
    begin = {"init": str(tmp_path / "self"), "init_skip": ("^head",), "init_new": ("^head",)}
    tuned = config_of(
        root, data=plain, model=frozen, task=UCF, optimizer=SGD, train={"epochs": 12.0, "batch": 4} | begin
    )
    before, after = Experiment(config), tmp_path / "tuned"
    assert train_here(tuned, after)["test/top1"] > 60
    kept, learnt = (weights(path) for path in (tmp_path / "self", after))
    shared = [name for name in learnt if name in kept and kept[name].shape == learnt[name].shape]
    still = {name.split("/")[1] for name in shared if np.array_equal(kept[name], learnt[name])}
    moved = {name.split("/")[1] for name in shared if not np.array_equal(kept[name], learnt[name])}
    assert still >= {"stem", "layer1", "layer2"} and moved >= {"layer3", "layer4"}
    assert not moved & {"stem", "layer1", "layer2"}  # nor their running statistics
    assert before.data.class_names == tuple(f"cluster {i:04}" for i in range(4))


def weights(workdir) -> dict[str, np.ndarray]:
    from mtjax.run.initial_weights import weights_of

    return weights_of(str(workdir))


@pytest.mark.slow
def test_a_frozen_teacher_of_flow_sees_the_same_moments(root, generator, one_device, tmp_path):
    rgb, flow = {"name": "rgb.Rgb"} | CLIP, {"name": "flow.Flow"} | CLIP
    both = Joined(root=str(root), student=rgb, watched=flow)
    rows = both.rows("train")
    batch = both.read(rows, train=True, seeds=np.arange(len(rows), dtype=np.uint64))
    alone = both.parts[1].read(rows, train=True, seeds=np.arange(len(rows), dtype=np.uint64))
    assert np.abs(alone["centre_s"] - batch["centre_s"]).max() <= 0.1001  # one frame at most: flow has one item less
    assert batch["frames"].shape[:2] == batch["flow"].shape[:2]
    data = {"name": "joined.Joined", "student": rgb, "watched": flow}
    task = {"name": "distill.Distill", "teacher": str(generator[0]), "beta": 0.0, "match": 50.0}
    config = config_of(
        root, data=data, model=NETWORK, task=task, optimizer=SGD | {"lr": 1e-3}, train={"steps": 2, "log_every": 1}
    )
    train_here(config, tmp_path / "mars")
    logged = [json.loads(line) for line in (tmp_path / "mars" / "metrics.jsonl").read_text().splitlines()]
    assert any("train/match" in line for line in logged)


@pytest.fixture
def unnamed(root, tmp_path):
    """The same videos in a dataset that knows no class."""
    source = tmp_path / "source"
    shutil.copytree(root / "columns", source / "columns")
    named = Catalog.load(root)
    clips = tuple(dataclasses.replace(c, label="") for c in named.clips)
    dataclasses.replace(named, root=source, class_names=(), clips=clips).save()
    return source


def test_features_are_matched_on_videos_of_no_class(root, unnamed, generator, one_device, tmp_path):
    """MERS: its source has no labels, and need not name classes either; its features are then fine-tuned with labels."""
    rgb, flow = {"name": "rgb.Rgb"} | CLIP, {"name": "flow.Flow"} | CLIP
    data = {"name": "joined.Joined", "student": rgb, "watched": flow, "holdout": 0.2}
    task = {"name": "distill.Distill", "teacher": str(generator[0]), "alpha": 0.0, "beta": 0.0, "match": 50.0}
    of_mers = {"data": data, "model": NETWORK, "optimizer": SGD | {"lr": 1e-3}, "evals": {}}
    config = config_of(unnamed, task=task, train={"steps": 2, "batch": 4, "log_every": 1}, **of_mers)
    train_here(config, tmp_path / "mers")
    lines = [json.loads(line) for line in (tmp_path / "mers" / "metrics.jsonl").read_text().splitlines()]
    logged = set().union(*lines)
    assert "train/match" in logged and not {"train/top1", "train/hard"} & logged
    assert not any(name.startswith("head/") for name in weights(tmp_path / "mers"))
    assert predict.main([str(tmp_path / "mers"), "--column=mers", "--fields=embedding", "--splits=test"]) == 0
    column = Column(unnamed, "mers")
    assert len(column) == 8 and column.spec.parameters["class_names"] == []
    begin = {"init": str(tmp_path / "mers"), "init_skip": ("^(?!backbone/)",), "init_new": ("^head",)}
    plain = {"name": "rgb.Rgb"} | CLIP
    tuned = config_of(root, data=plain, model=NETWORK, task=UCF, optimizer=SGD, train={"steps": 1} | begin)
    train_here(tuned, tmp_path / "tuned")
    assert weights(tmp_path / "tuned")["head/kernel"].shape == (32, 2)


def test_a_task_with_classes_says_what_to_do_on_videos_of_no_class(unnamed, generator):
    data = {"name": "rgb.Rgb"} | CLIP
    for task in (UCF, {"name": "distill.Distill", "teacher": str(generator[0])}):
        with pytest.raises(ValueError, match="names no classes.*alpha=0.0 and beta=0.0"):
            Experiment(config_of(unnamed, data=data, model=NETWORK, task=task, evals={}, train={"steps": 1}))
    nothing = {"name": "distill.Distill", "teacher": str(generator[0]), "alpha": 0.0, "beta": 0.0}
    with pytest.raises(ValueError, match="nothing to learn"):
        Experiment(config_of(unnamed, data=data, model=NETWORK, task=nothing, evals={}, train={"steps": 1}))
