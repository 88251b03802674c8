"""Clip retrieval with a trained run: descriptors as a column, both readings, another dataset, pictures (motionfit.md §8)."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import config_of, edit_json, image_bytes, make_dataset, train_here
from flax import nnx

from mtjax import predict, records, retrieve
from mtjax.data.catalog import Catalog, CatalogError
from mtjax.data.columns import Column
from mtjax.lookup import ConfigError
from mtjax.modalities import images
from mtjax.models import r2plus1d
from mtjax.models.video_network import ConvNorm, VideoNetwork
from mtjax.report import __main__ as report
from mtjax.report import paper_tables, retrieval
from mtjax.report.groups import Group, group_runs
from mtjax.run import experiment, prediction_column
from mtjax.run import retrieval as run_retrieval
from mtjax.run.results import Result
from mtjax.types import Describing

CLIP = {"frames": 4, "size": 32, "resize": (36, 40)}
FLOAT = np.dtype("float32")
SETTINGS = {"channels": 3, "reads": "frames", "frozen": (), "remat": False, "dtype": FLOAT}
COUNTS = {"train": 9, "test": 5}
WIDTH = 2 * 2 * 2 * 8  # numbers of a descriptor of `Tiny`
GONE, SHORT = "test-004", "test-003"


class Tiny(VideoNetwork):
    """Compiles in no time; its last stage has 2 × 4 × 4 positions."""

    def __init__(self, *, rngs: nnx.Rngs):
        first = [ConvNorm(3, 4, (1, 3, 3), stride=(1, 4, 4), dtype=FLOAT, rngs=rngs)]
        last = [ConvNorm(4, 8, (3, 3, 3), stride=(2, 2, 2), dtype=FLOAT, rngs=rngs)]
        super().__init__({"first": first, "last": last}, width=8, **SETTINGS)


def make_videos(root, counts, *, gone=(), name="made", pseudo=False):
    """Pictures of noise whose brightness is the class, at 10 a second; the third is short; `gone` have no record."""
    rng = np.random.default_rng(0)
    frames, times, start, label = {}, {}, {}, {}
    for split, count in counts.items():
        for i in range(count):
            clip, length = f"{split}-{i:03}", 5 if i == 3 else 9 + i % 4
            start[clip], label[clip] = np.zeros(1, np.float32), np.array([i % 2], np.int32)
            if clip not in gone:
                pictures = rng.integers(0, 60, (length, 36, 40, 3), np.uint8) + np.uint8(60 * (i % 3))
                frames[clip] = [image_bytes(picture, "PNG") for picture in pictures]
                times[clip] = np.arange(length, dtype=np.float32) / 10
    jpeg, seconds = records.Feature("jpeg", (-1,)), records.Feature("float32", (-1,))
    columns_of = {"frames": {"frames": (jpeg, frames), "times_s": (seconds, times)}}
    if pseudo:
        of_cluster = (records.Feature("int32", (-1,)), label)
        columns_of["pseudo.k2"] = {"label": of_cluster, "start_s": (seconds, start)}
    make_dataset(root, per_split=counts, classes=3, columns_of=columns_of)
    if pseudo:
        names = {"class_names": ["cluster 0000", "cluster 0001"]}
        edit_json(root / "columns" / "pseudo.k2" / "column.json", parameters=names)
    dataclasses.replace(Catalog.load(root), name=name).save()
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Where the run learns: pseudo labels, no class that the other dataset has."""
    return make_videos(tmp_path_factory.mktemp("source") / "d", {"train": 8}, name="kinetics", pseudo=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("target") / "d", COUNTS, gone=(GONE,), name="ucf101")


@pytest.fixture(scope="module")
def workdir(source, one_device, tmp_path_factory):
    """MotionFit's self-training with some videos held out, as short as can be: the first weights are as good as others."""
    data = {"name": "rgb.Rgb", "clips": 2, "pseudo": "pseudo.k2", "holdout": 0.2} | CLIP
    train = {"epochs": 0.0, "batch": 2} | {
        "table": ("mf.t7/ours_r21d/ucf_R1=retrieval/video_R@1", "mf.t7/ours_r21d/hmdb_R1=retrieval/clip_R@1")
    }
    model = {"name": f"{__name__}.Tiny"}
    config = config_of(source, data=data, model=model, task={"name": "multi_clip.MultiClip"}, train=train, evals={})
    path = tmp_path_factory.mktemp("retrieve") / "self"
    train_here(config, path)
    return path


@pytest.fixture(scope="module")
def found(workdir, root):
    """(scores, facts) of the run on the other dataset."""
    return run_retrieval.retrieve(workdir, root=str(root), views=2, at=(1, 2, 5, 50), batch=4)


# Descriptors.


def test_a_descriptor_is_the_maximum_of_each_2_by_2_positions():
    """Odd sizes lose their last row and column, as PyTorch's MaxPool3d((1, 2, 2)) does."""
    unit = ConvNorm(3, 5, (1, 1, 1), dtype=FLOAT, rngs=nnx.Rngs(0))
    network = VideoNetwork({"only": [unit]}, width=5, **SETTINGS)
    clips = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 2, 5, 4, 3)), FLOAT)
    of_unit = jax.jit(lambda clips: unit(clips, train=False))(clips.reshape(6, *clips.shape[2:]))
    expected = np.asarray(of_unit)[:, :, :4].reshape(2, 3, 2, 2, 2, 2, 2, 5).max((4, 6)).reshape(2, 3, -1)
    described = jax.jit(lambda clips: network.describe({"frames": clips}))(clips)
    assert isinstance(network, Describing) and described.shape == (2, 3, 2 * 2 * 2 * 5)
    np.testing.assert_allclose(described, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"only has 1 × 4 positions, descriptors need 2 × 2"):
        jax.eval_shape(lambda clips: network.describe({"frames": clips}), clips[..., :1, :, :])


def test_a_published_network_describes_a_clip_by_as_many_numbers():
    def vectors(clips):
        return r2plus1d.R2Plus1D18(rngs=nnx.Rngs(0)).describe({"frames": clips})

    clips = jax.ShapeDtypeStruct((1, 16, 112, 112, 3), np.float32)
    assert jax.eval_shape(vectors, clips).shape == (1, 9216)


def test_a_backbone_without_stages_gives_its_embedding():
    class Mean(nnx.Module):
        def __call__(self, batch, *, train, rngs=None):
            return batch["frames"].mean((-2, -3, -4))

    module, frames = nnx.Module(), jnp.ones((2, 4, 3, 3, 5))
    module.backbone = Mean()
    batch = {"frames": frames, "centre_s": jnp.array([0.5, 1.5]), "observed": jnp.ones(2, bool)}
    said = run_retrieval.describe(module, batch)
    assert said["clip_embedding"].shape == (2, 1, 5) and said["clip_embedding"].dtype == np.float16
    assert said["centre_s"].tolist() == [[0.5], [1.5]]


# The command.


def test_a_run_on_pseudo_labels_describes_another_dataset(found, root, workdir):
    _, facts = found
    column = Column(root, "retrieval.self")
    assert column.spec.schema["embedding"] == records.Feature("float16", (-1, WIDTH)) and len(column) == 13
    assert column.spec.parameters["views"] == 2 and column.spec.parameters["ask"] == "describe"
    record = column.read(column.rows(["test-000"]))[0]
    assert record["embedding"].shape == (2, WIDTH)
    np.testing.assert_allclose(record["centre_s"], [0.1, 0.6], atol=1e-6)  # 9 frames, clips from 0 and 5
    exp, state, _ = experiment.open_run(workdir, data={"root": str(root), "views": 2})
    batch = exp.data.prepare(exp.data.read(exp.data.catalog.rows_of(["test-000"])), train=False)
    network = exp.program.predictor(state).backbone
    features = np.asarray(network.stages(batch["frames"][0], train=False)["last"])
    np.testing.assert_allclose(
        record["embedding"], features.reshape(2, 2, 2, 2, 2, 2, 8).max((3, 5)).reshape(2, -1), rtol=2e-3, atol=1e-4
    )
    assert facts["listed"] == {"test": 5, "train": 9} and facts["videos"] == {"test": 4, "train": 9}
    assert facts["clips"] == {"test": 8, "train": 18} and facts["trained_on"] == 0


def test_both_readings_are_those_of_the_descriptors(found, root, workdir):
    scores, _ = found
    catalog, column = Catalog.load(root), Column(root, "retrieval.self")
    ids = {split: [c.id for c in catalog.clips if split in c.splits and c.id in column] for split in COUNTS}
    of = {
        split: np.stack([r["embedding"] for r in column.read(column.rows(i))]).astype(np.float64)
        for split, i in ids.items()
    }
    label = {split: np.array([int(i[-3:]) % 3 for i in of_split]) for split, of_split in ids.items()}

    def share(queries, gallery, mine, its, k):
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, gallery)]
        nearest = np.argsort(-(unit[0] @ unit[1].T), axis=1, kind="stable")[:, :k]
        return 100 * (its[nearest] == mine[:, None]).any(1).mean()

    flat = {split: x.reshape(-1, WIDTH) for split, x in of.items()}
    twice = {split: x.repeat(2) for split, x in label.items()}
    for k in (1, 2, 5):
        video = share(of["test"].mean(1), of["train"].mean(1), label["test"], label["train"], k)
        assert scores[f"video_R@{k}"] == pytest.approx(video)
        assert scores[f"clip_R@{k}"] == pytest.approx(
            share(flat["test"], flat["train"], twice["test"], twice["train"], k)
        )
    assert set(scores) == {f"{reading}_R@{k}" for reading in ("video", "clip") for k in (1, 2, 5)}
    saved = json.loads((workdir / "results.json").read_text())
    assert saved["scores"]["retrieval/video_R@1"] == scores["video_R@1"]


def test_a_killed_run_goes_on_and_a_finished_column_is_used(workdir, root, monkeypatch):
    monkeypatch.setattr(prediction_column, "SHARD_BYTES", 2 * WIDTH * 2 * 3)  # of three videos
    settings = {"root": str(root), "views": 2, "at": (1,), "column": "retrieval.killed", "name": "killed"}
    real, seen = prediction_column.predict_rows, []

    def killed(exp, state, rows, **keywords):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(rows))
        return real(exp, state, rows, **keywords)

    monkeypatch.setattr(prediction_column, "predict_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        run_retrieval.retrieve(workdir, **settings)
    assert "killed" not in json.loads((workdir / "results.json").read_text())["retrieval"]
    first, counted = sum(seen), []
    monkeypatch.setattr(
        prediction_column, "predict_rows", lambda *a, **k: (counted.append(len(a[2])), real(*a, **k))[1]
    )
    scores, _ = run_retrieval.retrieve(
        workdir, **settings | {"batch": 1}
    )  # as many at once as memory allows: the same column
    assert 0 < first < 13 and sum(counted) == 13 - first
    counted.clear()
    assert run_retrieval.retrieve(workdir, **settings)[0] == scores and not counted
    with pytest.raises(ValueError, match="begun differently"):
        run_retrieval.retrieve(workdir, **settings | {"views": 3})


def test_clips_of_the_same_video_never_find_themselves(workdir, root, capsys):
    command = [str(workdir), f"--root={root}", "--name=same", "--relevant=video", "--at=1,9"]
    assert retrieve.main(command) == 2 and "give --dense=4 or more" in capsys.readouterr().err
    assert retrieve.main([*command, "--dense=4"]) == 0
    said = capsys.readouterr().out
    column = Column(root, "retrieval.self.dense4")
    counts = {i: len(r["centre_s"]) for i, r in zip(column.ids, column.read([0, 1, 2, 3]), strict=True)}
    assert counts == {"test-000": 2, "test-001": 2, "test-002": 2, SHORT: 1}
    assert "1 clip(s) are the only one of their video" in said and "too small for R@9 of the clip reading" in said
    with np.load(workdir / "same.npz") as rows:
        assert len(rows["query_clip"]) == 6 and len(rows["gallery_clip"]) == 7
        asked = np.flatnonzero(rows["gallery_clip"] != Catalog.load(root).rows_of([SHORT])[0])
        assert not (rows["nearest"] == asked[:, None]).any()
        same = rows["gallery_clip"][rows["nearest"]] == rows["query_clip"][:, None]
        np.testing.assert_array_equal(rows["relevant"], same)
    scores = json.loads((workdir / "results.json").read_text())["scores"]
    assert scores["same/clip_R@1"] == pytest.approx(100 * same[:, 0].mean()) and "same/video_R@1" not in scores


def test_prediction_over_another_dataset_needs_no_labels_either(workdir, root, source):
    assert predict.main([str(workdir), f"--root={root}", "--column=dense", "--dense=4", "--batch=4"]) == 0
    column = Column(root, "dense")
    assert len(column) == 13 and column.spec.schema["embedding"] == records.Feature("float32", (-1, 8))
    assert column.spec.parameters["class_names"] == ["cluster 0000", "cluster 0001"]
    # On its own dataset a run has the splits that it made of it.
    assert predict.main([str(workdir), f"--root={source}/.", "--column=own", "--splits=val", "--fields=probs"]) == 0
    assert 0 < len(Column(source, "own")) < 8


def test_a_section_that_shows_whole_splits_says_nothing_of_training():
    shared = {"root": "r", "train": "train1", "holdout": 0.1, "k_shot": 2, "subset_seed": 3, "missing": "mask"}
    alone = {"name": "rgb.Rgb", "size": 32, "pseudo": "p"}
    expected = {"name": "rgb.Rgb", "size": 32, "root": "r", "missing": "mask"}
    assert experiment.of_all_clips(shared | alone) == expected
    joined = {"name": "joined.Joined", "student": alone, "watched": {"name": "flow.Flow"}}
    assert experiment.of_all_clips(shared | joined) == expected


def test_mistakes_are_one_line(workdir, root, capsys, tmp_path):
    at_root = [str(workdir), f"--root={root}"]
    for arguments, message in (
        ([str(tmp_path)], "no results.json"),
        ([*at_root, "--at=0"], "--at=0: must be numbers"),
        ([*at_root, "--name=a/b"], "--name='a/b'"),
        ([*at_root, "--gallery=train", "--relevant=video"], "leave out --gallery=train"),
        ([*at_root, "--queries=val"], "no clips in split 'val'; splits are"),
        ([*at_root, "--at=10"], "R@10 needs as many neighbours, the gallery has 9"),
    ):
        assert retrieve.main(arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("mtjax retrieve: ") and message in said, said
    catalog = Catalog.load(root)
    with pytest.raises(ConfigError, match="splits 'train' and 'train' share 9 clips"):
        run_retrieval.rows_of(catalog, "train", "train", "label")
    with pytest.raises(CatalogError, match="no clips in split 'val'"):
        run_retrieval.rows_of(catalog, "test", "val", "video")
    bare = dataclasses.replace(catalog, clips=(dataclasses.replace(catalog.clips[0], label=""), *catalog.clips[1:]))
    with pytest.raises(ConfigError, match="1 clips of split 'train' have no label, 'train-000'"):
        run_retrieval.rows_of(bare, "test", "train", "label")
    column = Column(root, "frames")
    with pytest.raises(ConfigError, match="no record of any video"):
        run_retrieval.read_clips(catalog, column, catalog.rows_of([GONE]))


# The report.


def test_the_paper_table_names_the_dataset_that_was_searched(found, workdir):
    scores, _ = found
    groups = group_runs([Result.load(workdir)])
    assert groups[0].runs[0].dataset["name"] == "kinetics"
    rows = {r["label"]: r["cells"] for r in paper_tables.join("mf.t7", groups, paper_tables.load_tables())}
    ucf, hmdb = (next(c for c in rows["MotionFit R(2+1)D-18"] if c["column"] == name) for name in ("ucf_R1", "hmdb_R1"))
    assert paper_tables.ours_of(ucf) == f"{scores['video_R@1']:.2f}" and paper_tables.difference_of(ucf) != "-"
    assert paper_tables.ours_of(hmdb).endswith(" on ucf101") and paper_tables.difference_of(hmdb) == "-"
    header, own = paper_tables.own_table(groups)
    assert own[0][header.index("retrieval/video_R@1")] == f"{scores['video_R@1']:.2f} on ucf101"
    other = dataclasses.replace(groups[0].runs[0], results=groups[0].runs[0].results | {"retrieval": {}})
    assert Group((other, groups[0].runs[0])).dataset_of("retrieval/clip_R@1")["name"] == "ucf101"
    moved = {"retrieval": {"dataset": {"name": "hmdb51", "kind": ""}}}
    other = dataclasses.replace(other, results=other.results | {"retrieval": moved})
    with pytest.raises(ConfigError, match=r"\['hmdb51', 'ucf101'\]; score all seeds"):
        Group((other, groups[0].runs[0])).dataset_of("retrieval/clip_R@1")


def test_the_report_shows_what_clips_found(found, workdir, root, monkeypatch, tmp_path):
    drawn, real = [], retrieval.charts.png
    monkeypatch.setattr(retrieval.charts, "png", lambda figure: (drawn.append(figure), real(figure))[1])
    here = tmp_path / "self"
    shutil.copytree(workdir, here, ignore=shutil.ignore_patterns("checkpoints", "same*", "killed*"))
    told = json.loads((here / "results.json").read_text())
    told["retrieval"] = {"retrieval": told["retrieval"]["retrieval"]}
    (here / "results.json").write_text(json.dumps(told))
    run = Result.load(here)
    (section,) = retrieval.sections(run)
    assert (
        section.title == "Retrieval, self" and len(section.plots) == 3 and section.layout == "wide"
    )  # one query a class
    assert section.tables[0].header == ("reading", "R@1", "R@2", "R@5")
    assert section.tables[0].rows[0] == ["video", *(f"{found[0][f'video_R@{k}']:.2f}" for k in (1, 2, 5))]
    assert any("1 of 5 videos of 'test' have no record" in note for note in section.notes)
    with np.load(here / "retrieval.npz") as rows:
        catalog = Catalog.load(root)
        first = retrieval.right_and_wrong(retrieval.queries(rows, catalog, "label"), 6)[0]
        expected = [catalog.clips[c].label for c in rows["gallery_clip"][rows["nearest"][first.row]]]
    axes = drawn[0].axes
    assert [axis.get_title() for axis in axes] == ["class 000", *expected]
    colours = [axis.title.get_color() for axis in axes[1:]]
    assert colours == ["tab:green" if name == "class 000" else "tab:red" for name in expected]
    monkeypatch.setattr(retrieval, "strip", lambda *_: "")
    assert report.main([str(here), "--table=mf.t7"]) == 0
    page = (here / "report.html").read_text()
    assert "<h2>Retrieval, self</h2>" in page and "retrieval/video_R@1" in page
    gone = told | {"retrieval": {"retrieval": told["retrieval"]["retrieval"] | {"root": "/nowhere"}}}
    (section,) = retrieval.sections(dataclasses.replace(run, results=gone))
    assert not section.plots and section.notes[-1].startswith("Not drawn: ") and section.tables


def test_the_picture_is_the_one_nearest_in_time(root):
    pictures = retrieval.Pictures(root, ("absent", "frames"))
    record = pictures.column.read(pictures.column.rows(["test-000"]))[0]
    shown = [pictures.nearest("test-000", time_s) for time_s in (-1.0, 0.34, 0.36, 9.0)]
    expected = [images.decode(record["frames"][i], "RGB", at_least=(1, 1)) for i in (0, 3, 4, 8)]
    np.testing.assert_array_equal(shown, expected)
    assert pictures.nearest(GONE, 0.0) is None
    with pytest.raises(ConfigError, match="no images in a column 'pseudo.k2' or 'absent'"):
        retrieval.Pictures(root, ("pseudo.k2", "absent"))


def test_queries_are_kinds_by_turns_wrong_and_right(root):
    rows = {"query_clip": np.array([0, 0, 1, 1]), "relevant": np.array([[1], [0], [1], [0]], bool)}
    chosen = retrieval.right_and_wrong(retrieval.queries(rows, Catalog.load(root), "video"), 6)
    assert [(q.row, q.label, q.right) for q in chosen] == [(1, 0, False), (2, 1, True)]
