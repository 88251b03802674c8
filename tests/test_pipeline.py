"""Which clips a run uses and in what order they arrive: hosts, workers, subsets, missing and damaged records (faults 10, 18)."""

import jax
import numpy as np
import pytest
from conftest import make_tracks_dataset

from mtjax import records, sharding
from mtjax.data import column_writer, columns
from mtjax.data.batches import evaluation_batches, training_batches
from mtjax.data.catalog import Catalog, CatalogError
from mtjax.data.order import Order
from mtjax.data.tracks import Tracks


def batches_of(data, *, hosts: int = 1, workers: int = 0, start: int = 0, stop: int = 10, batch: int = 8):
    """Clip ids of each step, as `hosts` processes together read them."""
    data = Tracks(**{f: getattr(data, f) for f in data.__dataclass_fields__} | {"workers": workers})
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
    columns.Index.load(column.directory / columns.INDEX).save(
        column.directory / columns.INDEX
    )  # as a copy would be: newer
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
