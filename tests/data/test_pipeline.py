"""Which clips a run uses and in what order they arrive: hosts, workers, subsets, missing and damaged records (faults 10, 18)."""

import dataclasses
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import make_dataset, make_tracks_dataset

from mtjax import records
from mtjax.compute import sharding
from mtjax.data import column_writer, columns
from mtjax.data.batches import evaluation_batches, training_batches
from mtjax.data.catalog import Catalog, CatalogError
from mtjax.data.order import Order
from mtjax.lookup import ConfigError
from mtjax.modalities.features import Features
from mtjax.modalities.joined import Joined
from mtjax.modalities.tracks import Tracks
from mtjax.run.evaluation import check_overlap
from mtjax.run.experiment import Experiment
from mtjax.run.workdir import refuse_overlap


def batches_of(data, *, hosts: int = 1, workers: int = 0, start: int = 0, stop: int = 10, batch: int = 8):
    """Clip ids of each step, as `hosts` processes together read them."""
    data = dataclasses.replace(data, workers=workers)
    order = Order(len(data.training_clips()), batch, seed=3)
    per_host = []
    for host in range(hosts):
        local = np.arange(batch).reshape(hosts, -1)[host]
        per_host.append([b["clip"] for b in training_batches(data, order, local, start, stop)])
    return np.concatenate(per_host, axis=1)


def test_hosts_and_start_steps_see_the_same_batches(dataset):
    data = Tracks(root=str(dataset), frames=8, points=5)
    whole = batches_of(data)
    assert whole.shape == (10, 8)
    for hosts in (2, 4):
        np.testing.assert_array_equal(batches_of(data, hosts=hosts), whole)
    np.testing.assert_array_equal(batches_of(data, start=6), whole[6:])
    np.testing.assert_array_equal(np.sort(whole[:4].ravel()), np.sort(data.rows("train")))  # 32 clips: an epoch


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_see_the_same_batches(dataset, workers):
    data = Tracks(root=str(dataset), frames=8, points=5)
    np.testing.assert_array_equal(batches_of(data, workers=workers, start=2, stop=6), batches_of(data)[2:6])


def test_device_cache_gives_the_batches_of_the_host_pipeline(dataset):
    import jax.numpy as jnp

    data = Tracks(root=str(dataset), frames=8, points=5)
    order, local = Order(len(data.training_clips()), 8, seed=3), np.arange(8)
    table = data.read(data.training_clips())
    fetch = jax.jit(lambda cursor: {k: jnp.asarray(v)[order.positions(cursor, jnp)] for k, v in table.items()})
    for step, host in enumerate(training_batches(data, order, local, 0, 6)):
        jax.tree.map(np.testing.assert_array_equal, host, jax.device_get(fetch(order.cursor(step))))


def test_evaluation_sees_every_clip_once_also_when_there_are_fewer_than_a_batch(dataset):
    data = Tracks(root=str(dataset), frames=8, points=5)
    for clips, size in ((data.rows("test"), 6), (data.rows("test")[:3], 8), (data.rows("test")[:8], 8)):
        seen = [b["clip"][b["valid"]] for b in evaluation_batches(data, clips, size, np.arange(size))]
        np.testing.assert_array_equal(np.concatenate(seen), clips)


def test_local_positions_cover_the_batch_once():
    mesh = sharding.make_mesh(data=4, fsdp=2)
    np.testing.assert_array_equal(sharding.local_positions(16, mesh), np.arange(16))


def test_holdout_keeps_groups_apart_and_fraction_is_of_the_labels(dataset):
    data = Tracks(root=str(dataset), frames=8, points=5, holdout=0.25)
    train, val = data.rows("train"), data.rows("val")
    groups = [{data.catalog.clips[r].group for r in rows} for rows in (train, val)]
    assert not groups[0] & groups[1] and len(train) + len(val) == 32 and 4 <= len(val) <= 12
    few = Tracks(root=str(dataset), frames=8, points=5, fraction=0.25)
    assert np.bincount(few.labels[few.rows("train")]).tolist() == [2, 2, 2, 2]
    shots = Tracks(root=str(dataset), frames=8, points=5, k_shot=3)
    assert np.bincount(shots.labels[shots.rows("train")]).tolist() == [3, 3, 3, 3]


def test_class_filter_renumbers_and_balance_repeats(dataset):
    data = Tracks(root=str(dataset), frames=8, points=5, classes=("direction_2", "direction_0"))
    assert set(data.labels[data.rows("train")]) == {0, 1} and data.class_names == ("direction_2", "direction_0")
    first = data.rows("train")[0]
    assert data.class_names[data.labels[first]] == data.catalog.clips[first].label
    without = Tracks(root=str(dataset), frames=8, points=5, leave_out=("direction_1",))
    assert set(without.labels[without.rows("train")]) == set(without.labels[without.rows("test")]) == {0, 2, 3}
    assert without.class_names == without.catalog.class_names
    balanced = Tracks(root=str(dataset), frames=8, points=5, balance=True)
    balanced.labels[balanced.rows("train")[:4]] = 0  # make class 0 more frequent than the others
    counts = np.bincount(balanced.labels[balanced.training_clips()])
    assert (counts == counts.max()).all()


def without_record(root, dropped: int):
    """Rewrites the column without some clips."""
    column = columns.Column(root, "tracks")
    values = dict(zip(column.ids.tolist(), column.read(list(range(len(column)))), strict=True))
    kept = {i: v for i, v in values.items() if int(i[-4:]) >= dropped}
    column_writer.write_column(root, columns.Spec("tracks", column.spec.schema, 2, "tests"), kept, overwrite=True)


def test_missing_records_are_dropped_or_masked_and_counted(dataset, caplog):
    without_record(dataset, 5)
    dropped = Tracks(root=str(dataset), frames=8, points=5)
    assert len(dropped.rows("train")) == 27 and "5 of 32 clips have no record" in caplog.text
    masked = Tracks(root=str(dataset), frames=8, points=5, missing="mask")
    assert len(masked.rows("train")) == 32
    batch = masked.read(masked.rows("train")[:8])
    assert batch["valid"].all() and (batch["length"] > 0).tolist() == [False] * 5 + [True] * 3


def test_damaged_records_raise_or_are_skipped_without_weight(dataset, caplog):
    data = Tracks(root=str(dataset), frames=8, points=5)
    column = data.columns[0]
    row = int(column.rows(["clip-0003"])[0])
    path = column.directory / column.spec.shard_name(int(column._index.shard[row]))
    content = bytearray(path.read_bytes())
    content[int(column._index.offset[row]) + 60] ^= 1
    path.write_bytes(content)
    os.utime(column.directory / columns.INDEX)  # as a copy would be: newer
    clips = data.rows("train")[:8]
    with pytest.raises(records.CorruptRecord, match="clip-0003 at byte .* checksum of the data differs"):
        Tracks(root=str(dataset), frames=8, points=5).read(clips)
    batch = Tracks(root=str(dataset), frames=8, points=5, on_corrupt="skip").read(clips)
    assert batch["valid"].tolist() == [True] * 3 + [False] + [True] * 4 and "skipped" in caplog.text


def test_unknown_policies_and_empty_splits_are_named(dataset):
    with pytest.raises(ValueError, match=r"config.data.missing='ignore'"):
        Tracks(root=str(dataset), missing="ignore")
    with pytest.raises(ValueError, match="exclude each other"):
        Tracks(root=str(dataset), val="test", holdout=0.1)
    with pytest.raises(CatalogError, match="no clips in split 'val'"):
        Tracks(root=str(dataset), frames=8, points=5).rows("val")


def test_fingerprint_names_catalog_and_columns(dataset, tmp_path):
    one = Tracks(root=str(dataset), frames=8, points=5).fingerprint
    same = Tracks(root=str(make_tracks_dataset(tmp_path / "same")), frames=8, points=5).fingerprint
    other = Tracks(root=str(make_tracks_dataset(tmp_path / "other", seed=1)), frames=8, points=5).fingerprint
    assert one == same and set(one) == {"catalog", "tracks"} and one["tracks"] != other["tracks"]
    assert Catalog.load(dataset).fingerprint == one["catalog"]


# Few labels, many clips.

CLASSES, PER_SPLIT = 3, {"train": 30, "val": 12, "test": 9}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """A column of embeddings and one of a teacher's soft labels, which has nothing to say about train-001 and val-000."""
    ids = [f"{split}-{i:03}" for split, count in PER_SPLIT.items() for i in range(count)]
    rng = np.random.default_rng(0)
    vectors = {i: rng.normal(size=5).astype(np.float32) for i in ids}
    soft = {i: rng.dirichlet(np.ones(CLASSES)).astype(np.float32) for i in ids if i not in ("train-001", "val-000")}
    fields = {
        "x.embedding": {"embedding": (records.Feature("float32", (5,)), vectors)},
        "soft": {"probs": (records.Feature("float32", (CLASSES,)), soft)},
        "half": {
            "embedding": (records.Feature("float32", (5,)), {i: v for i, v in vectors.items() if not int(i[-3:]) % 2})
        },
        "narrow": {"probs": (records.Feature("float32", (2,)), {i: v[:2] for i, v in soft.items()})},
    }
    folder = tmp_path_factory.mktemp("few") / "data"
    return make_dataset(folder, per_split=PER_SPLIT, classes=CLASSES, columns_of=fields, groups=3)


def few(root, **changes) -> Features:
    return Features(**{"root": str(root), "column": "x.embedding", "val": "val"} | changes)


def epoch(data: Features, batch: int = 6) -> dict[str, np.ndarray]:
    """All training batches of one epoch, together."""
    order = Order(len(data.training_clips()), batch, seed=0)
    found = list(training_batches(data, order, np.arange(batch), 0, order.num_clips // batch))
    return {name: np.concatenate([b[name] for b in found]) for name in found[0]}


def test_training_shows_k_labels_a_class_and_evaluation_all(embedded):
    data = few(embedded, k_shot=2, unlabelled=("train", "val"), teacher="soft")
    seen = epoch(data)
    assert sorted(seen["clip"]) == sorted([*data.rows("train")]) and len(seen["clip"]) == 42
    assert np.bincount(seen["label"][seen["label"] >= 0]).tolist() == [2, 2, 2]
    right = seen["label"] >= 0
    np.testing.assert_array_equal(seen["label"][right], data.labels[seen["clip"][right]])
    assert all(data.catalog.clips[c].splits == ("train",) for c in seen["clip"][right])
    for split in ("train", "val", "test"):
        rows = data.rows(split)
        found = [b["label"][b["valid"]] for b in evaluation_batches(data, rows, 8, np.arange(8))]
        np.testing.assert_array_equal(np.concatenate(found), data.labels[rows])
    other = few(embedded, k_shot=2, unlabelled=("train", "val"), subset_seed=1)
    assert (other.training_labels != data.training_labels).any()
    assert (np.bincount(few(embedded, k_shot=2).training_labels[few(embedded, k_shot=2).rows("train")]) == 2).all()


def test_a_cached_table_hides_the_same_labels(embedded):
    data = few(embedded, k_shot=1, unlabelled=("train",))
    table = data.read(data.training_clips(), train=True)
    assert (table["label"] >= 0).sum() == CLASSES and len(table["label"]) == 30


def test_the_held_out_part_leaves_before_labels_are_chosen(embedded):
    data = few(embedded, val="", k_shot=2, unlabelled=("train", "val"), holdout=0.2)
    train, val = data.rows("train"), data.rows("val")
    assert not set(train) & set(val) and len(train) + len(val) == 42 and 4 <= len(val) <= 13
    groups = [{data.catalog.clips[r].group for r in rows} for rows in (train, val)]
    assert not groups[0] & groups[1]
    assert np.bincount(epoch(data)["label"] + 1).tolist()[1:] == [2, 2, 2]
    assert (data.labels[val] >= 0).all()


def test_k_shots_are_k_beside_a_holdout_and_of_clips_with_a_record(embedded):
    data = few(embedded, val="", k_shot=2, holdout=0.2)
    assert np.bincount(data.labels[data.rows("train")]).tolist() == [2, 2, 2]
    assert 3 <= len(data.rows("val")) <= 9 and not set(data.rows("train")) & set(data.rows("val"))
    half = {"column": "half", "val": ""}  # has the clips with an even number alone
    data = few(embedded, k_shot=5, **half)
    assert np.bincount(data.labels[data.rows("train")]).tolist() == [5, 5, 5]
    for more in ({}, {"unlabelled": ("train",)}, {"unlabelled": ("train",), "k_shot": 1}):
        data = few(embedded, holdout=0.3, **half, **more)
        assert all(data.catalog.clips[r].id in data.columns[0] for s in ("train", "val") for r in data.rows(s))
        assert data.read(data.rows("val"))["observed"].all()


def test_a_file_of_shots_says_which_labels_are_used(embedded, tmp_path):
    file = tmp_path / "shots.txt"
    file.write_text("v_train_004.avi 1\ntrain-009 0\nvideos/train/v_train_002.avi 2\n")
    data = few(embedded, shots=str(file), unlabelled=("train",))
    seen = epoch(data)
    assert [data.catalog.clips[c].id for c in sorted(seen["clip"][seen["label"] >= 0])] == [
        "train-002",
        "train-004",
        "train-009",
    ]
    assert len(data.rows("train")) == 30 and len(few(embedded, shots=str(file)).rows("train")) == 3
    file.write_text("train-004\ntest-001\n")
    with pytest.raises(CatalogError, match=r"1 clips are not in split 'train' \(or held out\): \['test-001'\]"):
        few(embedded, shots=str(file)).rows("train")
    with pytest.raises(ValueError, match="k_shot and fraction have to be 0 and 1.0"):
        few(embedded, shots=str(file), k_shot=2)


def test_balance_repeats_labels_and_keeps_every_clip_without_one(embedded, tmp_path):
    file = tmp_path / "shots.txt"
    file.write_text("train-000\ntrain-003\ntrain-006\ntrain-001\ntrain-002\n")  # three of class 0, one of 1 and 2
    data = few(embedded, shots=str(file), unlabelled=("train",), balance=True)
    seen = data.training_labels[data.training_clips()]
    assert np.bincount(seen + 1).tolist() == [25, 3, 3, 3]
    assert set(data.training_clips()) == set(data.rows("train"))


def test_a_teacher_without_a_record_has_not_taught(embedded):
    data = few(embedded, unlabelled=("train", "val"), teacher="soft")
    batch = data.read(data.rows("train"), train=True)
    silent = [data.catalog.clips[c].id for c in batch["clip"][~batch["taught"]]]
    assert silent == ["train-001", "val-000"] and batch["valid"].all() and batch["observed"].all()
    np.testing.assert_allclose(batch["teacher"].sum(1), batch["taught"], atol=1e-5)
    row = data.rows("train")[5]
    stored = data.teacher_column.read(data.teacher_column.rows([data.catalog.clips[row].id]))[0]["probs"]
    np.testing.assert_array_equal(batch["teacher"][5], stored)
    assert "teacher" not in few(embedded).read(data.rows("train"))
    assert set(data.fingerprint) == {"catalog", "x.embedding", "soft"}
    padding = data.read(data.rows("train")[:2], np.array([True, False]))
    assert padding["taught"].tolist() == [True, False]


def test_a_teacher_of_other_classes_is_refused_before_anything_is_read(embedded):
    with pytest.raises(ValueError, match=r"config.data.teacher='narrow': needs a field `probs` \[3\]"):
        few(embedded, teacher="narrow").check()
    with pytest.raises(ValueError, match=r"config.data.teacher='x.embedding'"):
        few(embedded, teacher="x.embedding").check()
    with pytest.raises(ValueError, match=r"config.data.teacher='soft'.*\[2\]"):
        few(embedded, teacher="soft", classes=("class 000", "class 001")).check()
    with pytest.raises(columns.ColumnError, match="does not exist"):
        few(embedded, teacher="nobody").check()
    column = columns.Column(embedded, "soft")
    told = dataclasses.replace(
        column.spec, name="swapped", parameters={"class_names": ["class 001", "class 000", "class 002"]}
    )
    values = {i: {"probs": np.full(3, 1 / 3, np.float32)} for i in column.ids.tolist()}
    column_writer.write_column(embedded, told, values, overwrite=True)
    with pytest.raises(ValueError, match=r"over \['class 001'"):
        few(embedded, teacher="swapped").check()


def overlap_of(data: Features, split: str) -> None:
    experiment = Experiment.__new__(Experiment)  # all that matters here of a whole config
    experiment.data, experiment.evaluators = data, {"val": SimpleNamespace(split=split)}
    refuse_overlap(experiment, allow=False)


def test_validation_clips_may_be_taught_but_not_labelled(embedded):
    overlap_of(few(embedded, k_shot=2, unlabelled=("train", "val")), "val")
    with pytest.raises(ConfigError, match=r"config.evals.val: 9 clips of split 'test' are also trained on"):
        overlap_of(few(embedded, k_shot=2, unlabelled=("train", "test")), "test")  # not the split that selects
    experiment = Experiment.__new__(Experiment)
    experiment.data = few(embedded, k_shot=2, unlabelled=("train", "val"))
    ids = [experiment.data.catalog.clips[r].id for r in experiment.data.rows("train")]
    assert check_overlap(experiment, ids, "val", allow=False) == 0  # when the run is evaluated again
    with pytest.raises(ConfigError, match="were trained on"):
        check_overlap(experiment, ids, "train", allow=False)
    named = few(embedded, val="test", k_shot=2, unlabelled=("train", "test"))
    overlap_of(named, "test")
    overlap_of(named, "val")  # the same clips under the other name
    with pytest.raises(ConfigError, match=r"clips of split 'val' are also trained on"):
        overlap_of(few(embedded, val="train", unlabelled=("train",)), "val")  # with their labels


def test_random_views_are_for_training_and_the_centre_for_evaluation(tmp_path):
    ids = [f"train-{i:03}" for i in range(40)]
    views = {i: np.stack([np.full(2, 10 * n + v) for v in range(4)]).astype(np.float32) for n, i in enumerate(ids)}
    fields = {"v": {"embedding": (records.Feature("float32", (4, 2)), views)}}
    root = make_dataset(tmp_path / "data", per_split={"train": 40}, columns_of=fields)
    data = Features(root=str(root), column="v", views="random")
    batch = jax.tree.map(jax.numpy.asarray, data.read(data.rows("train")))
    base = 10.0 * np.arange(40)
    still = data.prepare(batch, train=False)["features"]
    np.testing.assert_array_equal(still[:, 0], base)
    drawn = np.asarray(data.prepare(batch, train=True, key=jax.random.key(0))["features"])
    assert set((drawn[:, 0] - base).tolist()) == {0.0, 1.0, 2.0, 3.0} and (drawn[:, 0] == drawn[:, 1]).all()
    centre = Features(root=str(root), column="v").prepare(batch, train=True, key=jax.random.key(0))["features"]
    np.testing.assert_array_equal(centre, still)
    together = Features(root=str(root), column="v", views="all")
    np.testing.assert_array_equal(together.prepare(batch, train=True)["features"], batch["features"])
    np.testing.assert_array_equal(together.prepare(batch, train=False)["features"], still)
    with pytest.raises(ValueError, match=r"config.data.views='every'"):
        Features(root=str(root), column="v", views="every")
    with pytest.raises(ValueError, match=r"config.data.field='probs'"):
        Features(root=str(root), column="v", field="probs").check()


def test_what_the_teacher_cannot_see_the_student_keeps(tmp_path):
    ids = [f"{split}-{i:03}" for split in ("train", "test") for i in range(6)]
    vectors = {i: np.full(2, n, np.float32) for n, i in enumerate(ids) if i != "test-005"}
    walk = np.ones((6, 17, 3), np.float32)
    walk[:, 5, 0], walk[:, 9, 0] = 20, np.arange(6)
    poses = {i: walk for i in ids if i not in ("train-002", "test-003")}
    tracks = {i: np.ones((4, 3, 3), np.float32) for i in poses}
    fields = {
        "tracks": {"tracks": (records.Feature("float32", (4, 3, 3)), tracks)},
        "x": {"embedding": (records.Feature("float32", (2,)), vectors)},
        "pose": {"pose": (records.Feature("float32", (6, 17, 3)), poses)},
    }
    root = make_dataset(tmp_path / "data", per_split={"train": 6, "test": 6}, columns_of=fields)
    student, watched = {"name": "features.Features", "column": "x"}, {"name": "pose.Pose", "column": "pose"}
    data = Joined(root=str(root), student=student, watched=watched)
    assert len(data.rows("train")) == 6 and len(data.rows("test")) == 5  # test-005 has no embedding
    assert set(data.fingerprint) == {"catalog", "x", "pose"}
    for split, silent in (("train", 2), ("test", 3)):
        rows = data.rows(split)
        batch = data.prepare(jax.tree.map(jax.numpy.asarray, data.read(rows)), train=False)
        assert batch["valid"].all() and batch["observed"].all()
        assert batch["taught"].tolist() == [i != silent for i in range(len(rows))]
        np.testing.assert_array_equal(batch["features"][:, 0], rows)
        assert not batch["row_valid"][silent].any() and batch["row_valid"][0].any()
    moving = {"name": "tracks.Tracks", "column": "tracks", "frames": 4, "points": 3}  # knows no `observed`
    data = Joined(root=str(root), student=student, watched=moving)
    batch = data.prepare(jax.tree.map(jax.numpy.asarray, data.read(data.rows("train"))), train=False)
    assert batch["taught"].tolist() == [i != 2 for i in range(6)] and batch["tracks"].shape == (6, 4, 3, 3)
    padded = data.read(data.rows("train")[:2], np.array([True, False]))
    assert padded["valid"].tolist() == [True, False] and padded["observed"].tolist() == [True, False]
    masked = Joined(root=str(root), student=student, watched=watched, missing="mask")
    assert masked.read(masked.rows("test"))["observed"].tolist() == [True] * 5 + [False]


# Pseudo labels.


def cluster_column(root, labels: dict[str, list[int]], starts: dict[str, list[float]], classes: int = 3) -> None:
    schema = {"label": records.Feature("int32", (-1,)), "start_s": records.Feature("float32", (-1,))}
    names = [f"cluster {i}" for i in range(classes)]
    spec = columns.Spec("pseudo.k3", schema, 1, "mtjax.cluster", parameters={"class_names": names})
    values = {i: {"label": np.array(labels[i], np.int32), "start_s": np.array(starts[i], np.float32)} for i in labels}
    column_writer.write_column(root, spec, values)


def test_pseudo_labels_of_tracks_are_those_of_most_of_a_clip(dataset):
    ids = [c.id for c in Catalog.load(dataset).clips]
    labels, starts = {i: [2] for i in ids[1:]}, {i: [0.0] for i in ids[1:]}
    labels[ids[1]], starts[ids[1]] = [0, 1, 0, 1], [0.0, 0.64, 1.28, 1.92]  # as much of each: the first
    labels[ids[2]], starts[ids[2]] = [0, 1, 2], [0.0, 0.5, 2.5]  # 0.5 s, 2 s, and 1.25 s in the mean
    labels[ids[3]], starts[ids[3]] = [1, 2, 2], [0.0, 1.0, 2.0]
    cluster_column(dataset, labels, starts)
    data = Tracks(root=str(dataset), frames=8, points=5, pseudo="pseudo.k3")
    data.check()
    assert data.class_names == ("cluster 0", "cluster 1", "cluster 2") and "pseudo.k3" in data.fingerprint
    assert data.labels[:5].tolist() == [-1, 0, 1, 2, 2]
    assert 0 not in data.rows("train") and data.read(np.array([1, 2]), train=True)["label"].tolist() == [0, 1]


def test_a_pseudo_label_that_is_no_class_is_refused_at_start(dataset):
    ids = [c.id for c in Catalog.load(dataset).clips]
    cluster_column(dataset, {i: [7] for i in ids}, {i: [0.0] for i in ids})
    with pytest.raises(ValueError, match="pseudo.k3'.*'clip-0000' has label 7, but the column names 3 classes"):
        Tracks(root=str(dataset), frames=8, points=5, pseudo="pseudo.k3").check()
    with pytest.raises(ValueError, match="`mtjax cluster` makes columns of pseudo labels"):
        Tracks(root=str(dataset), frames=8, points=5, pseudo="tracks").check()
