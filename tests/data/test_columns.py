"""Columns: writing that survives being killed, reading that trusts nothing on disk."""

import dataclasses
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import edit_json

from mtjax import records
from mtjax.data import __main__ as data_cli
from mtjax.data import column_index, column_writer, columns, inspection
from mtjax.data.columns import Column, ColumnError, Index, Spec
from mtjax.data.files import save_arrays
from mtjax.records import CorruptRecord, Feature, RecordError

REPOSITORY = Path(__file__).parents[2]
SCHEMA = {"x": Feature("float32", (-1, 2))}


def spec_of(**changes) -> Spec:
    return dataclasses.replace(Spec("pose.test", SCHEMA, 3, "tests", {"step": 1}), **changes)


def values_of(n=30, seed=0):
    rng = np.random.default_rng(seed)
    return {f"clip {i}": {"x": rng.normal(size=(i % 4, 2)).astype(np.float32)} for i in range(n)}


@pytest.fixture
def written(tmp_path):
    values = values_of()
    column_writer.write_column(tmp_path, spec_of(), values)
    return tmp_path, columns.column_dir(tmp_path, "pose.test"), values


def shard(directory, number=0):
    return directory / spec_of().shard_name(number)


def test_every_clip_reads_back(written):
    root, _, values = written
    column = Column(root, "pose.test")
    assert sorted(column.ids) == sorted(values) and len(column) == 30
    ids = list(values)[::-1]
    for clip_id, record in zip(ids, column.read(column.rows(ids).tolist()), strict=True):
        np.testing.assert_array_equal(record["x"], values[clip_id]["x"])
    assert column.rows(["clip 3", "nobody"])[1] == -1 and "nobody" not in column and "clip 3" in column
    assert columns.list_columns(root) == ["pose.test"]


def test_a_column_pickles_without_its_open_files(written):
    column = Column(written[0], "pose.test")
    copy = pickle.loads(pickle.dumps(column))
    np.testing.assert_array_equal(copy.read([5])[0]["x"], column.read([5])[0]["x"])


def test_fingerprint_changes_with_content_and_not_with_location(written, tmp_path):
    root, _, values = written
    original = Column(root, "pose.test").fingerprint
    shutil.copytree(root / "columns", tmp_path / "elsewhere" / "columns")
    assert Column(tmp_path / "elsewhere", "pose.test").fingerprint == original
    values["clip 7"]["x"] = values["clip 7"]["x"] + 1
    column_writer.write_column(tmp_path / "changed", spec_of(), values)
    assert Column(tmp_path / "changed", "pose.test").fingerprint != original


def flip(path, offset, mask=0xFF):
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def test_a_flipped_byte_is_named_by_shard_clip_and_offset(written):
    root, directory, _ = written
    column = Column(root, "pose.test")
    index = Index.load(directory / columns.INDEX)
    row = int(np.flatnonzero(index.shard == 1)[2])
    flip(shard(directory, 1), int(index.offset[row]) + 3)
    with pytest.raises(CorruptRecord, match=rf"00001-of-00003.*clip {index.ids[row]} at byte {index.offset[row]}"):
        column.read([row])
    assert column.read([row - 1])  # its neighbours are whole


def test_a_damaged_shard_is_refused_when_the_index_is_made(written):
    _, directory, _ = written
    flip(shard(directory, 2), 20)
    with pytest.raises(CorruptRecord, match="00002-of-00003"):
        columns.build_index(directory)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: shard(d, 1).unlink(), "1 of 3 shards missing"),
        (lambda d: shutil.copy(shard(d), d / "pose.test-00003-of-00004.tfrecord"), "unexpected files"),
        (lambda d: truncate(shard(d)), "have changed since"),
        (lambda d: shard(d).write_bytes(b""), "have changed since"),
        (lambda d: (d / columns.INDEX).unlink(), "does not exist: the extraction was not finished"),
        (lambda d: (d / columns.INDEX).write_bytes(b"garbage"), "unreadable"),
        (lambda d: (d / "column.json").unlink(), "extract the column first"),
        (lambda d: (d / "column.json").write_text("{"), "unreadable"),
    ],
)
def test_an_incomplete_column_is_refused(written, damage, message):
    root, directory, _ = written
    damage(directory)
    with pytest.raises(ColumnError, match=message):
        Column(root, "pose.test")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("column_version", 99, "versions"),
        ("schema_version", 99, "versions"),
        ("surprise", 1, "missing, unknown"),
    ],
)
def test_another_version_or_field_of_the_spec_is_refused(written, key, value, message):
    root, directory, _ = written
    path = directory / "column.json"
    edit_json(path, **{key: value})
    with pytest.raises(ColumnError, match=message):
        Column(root, "pose.test")


@pytest.mark.parametrize(
    "schema, message",
    [
        ({"y": {"dtype": "float32", "shape": [-1, 2]}}, "'y' is missing"),
        ({"x": {"dtype": "float32", "shape": [-1, 7]}}, "'x': expected float32 of shape"),
        ({"x": {"dtype": "float32", "shape": []}}, "expected float32 of shape"),
        ({"x": {"dtype": "int32", "shape": [-1, 2]}}, ""),  # of the same bytes: no record tells
    ],
)
def test_another_schema_than_the_records_have_is_refused_on_opening(written, schema, message):
    root, directory, _ = written
    edit_json(directory / "column.json", schema=schema)
    with pytest.raises(ColumnError, match="its schema .* is not the one that the records were indexed with"):
        Column(root, "pose.test")
    with pytest.raises((RecordError, ColumnError), match=message or "another schema than .* was written with"):
        inspection.rebuild_index(root, "pose.test") if not message else columns.build_index(directory)


def test_an_edited_column_json_is_told_apart_and_may_be_accepted(written):
    root, directory, _ = written
    path = directory / "column.json"
    path.write_text(path.read_text().replace('"producer": "tests"', '"producer": "me"'))
    with pytest.raises(ColumnError, match="changed since it was written; .*mtjax data accept .* --column=pose.test"):
        Column(root, "pose.test")
    assert data_cli.main(["accept", str(root), "--column=pose.test"]) == 0
    assert Column(root, "pose.test").spec.producer == "me"


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "index of an earlier release"])
def test_lengths_of_records_are_known_from_the_index(tmp_path, earlier, monkeypatch):
    schema = {
        "name": Feature("str"),
        "a": Feature("jpeg", (-1,)),
        "b": Feature("float32", (-1, 2)),
        "c": Feature("int8", (3,)),
    }
    values = {
        f"clip-{i}": {
            "name": "x",
            "a": [b"jpeg"] * (i % 4),
            "b": np.zeros((7 - i, 2), np.float32),
            "c": np.zeros(3, np.int8),
        }
        for i in range(8)
    }
    column_writer.write_column(tmp_path, spec_of(name="lengths", schema=schema), values)
    directory = columns.column_dir(tmp_path, "lengths")
    if earlier:
        of_an_earlier_release(directory)
    column = Column(tmp_path, "lengths")
    if not earlier:  # the one that is not read at all
        monkeypatch.setattr(column, "read", None)
    rows = column.rows([f"clip-{i}" for i in (5, 0, 7)])
    assert [column.counts(name, rows).tolist() for name in "abc"] == [[1, 0, 3], [2, 7, 0], [3, 3, 3]]
    assert column.counts("a", rows[:0]).tolist() == []


def test_a_wrong_length_in_the_index_is_found(tmp_path):
    schema = {"a": Feature("float32", (-1,))}
    column_writer.write_column(
        tmp_path, spec_of(name="lengths", schema=schema), {"one": {"a": np.zeros(5, np.float32)}}
    )
    path = columns.column_dir(tmp_path, "lengths") / columns.INDEX
    assert inspection.check_column(tmp_path, "lengths", None) == []
    with np.load(path) as arrays:
        np.savez(path, **(dict(arrays) | {"entries": np.array([[4]], np.int32)}))
    (problem,) = inspection.check_column(tmp_path, "lengths", None)
    assert "'entries'" in problem and "mtjax data index" in problem


def of_an_earlier_release(directory):
    """Without what indices, markers and column.json have got since."""
    with np.load(directory / columns.INDEX) as arrays:
        kept = {k: v for k, v in arrays.items() if k not in ("crcs", "schema", "entries")}
    np.savez(directory / columns.INDEX, **kept)
    for marker in (directory / column_writer.MARKERS).glob("*.json"):
        fields = json.loads(marker.read_text())
        marker.write_text(json.dumps({k: v for k, v in fields.items() if k not in ("digest", "schema")}))
    fields = json.loads((directory / "column.json").read_text())
    (directory / "column.json").write_text(json.dumps({k: v for k, v in fields.items() if k != "seal"}))


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "index of an earlier release"])
@pytest.mark.parametrize("seconds", [-1, 0, 1])
def test_a_shard_replaced_by_another_of_the_same_size_is_refused_whatever_its_time(written, tmp_path, earlier, seconds):
    root, directory, _ = written
    if earlier:
        of_an_earlier_release(directory)
    assert len(Column(root, "pose.test").read(list(range(30)))) == 30
    column_writer.write_column(tmp_path / "other", spec_of(), values_of(seed=1))
    replacement = shard(columns.column_dir(tmp_path / "other", "pose.test"))
    assert replacement.stat().st_size == shard(directory).stat().st_size
    shutil.copy(replacement, shard(directory))
    then = (directory / columns.INDEX).stat().st_mtime_ns + seconds * 10**9
    os.utime(shard(directory), ns=(then, then))
    with pytest.raises(ColumnError, match="was replaced since"):
        Column(root, "pose.test")


def test_a_single_replaced_record_is_found_when_it_is_read(written, monkeypatch):
    root, directory, values = written
    monkeypatch.setattr(column_index, "SAMPLES", 1)
    index = Index.load(directory / columns.INDEX)
    row = max(np.flatnonzero(index.shard == 0)[1:].tolist(), key=lambda r: len(values[index.ids[r]]["x"]))
    changed = {"x": values[index.ids[row]]["x"] + 1}
    record = records.frame(records.encode(spec_of().schema, str(index.ids[row]), changed))
    data, start = bytearray(shard(directory).read_bytes()), int(index.offset[row]) - records.HEADER.size
    data[start : start + len(record)] = record
    shard(directory).write_bytes(data)
    column = Column(root, "pose.test")
    with pytest.raises(ColumnError, match="another record than was indexed"):
        column.read([row])
    assert column_writer.damaged(directory, spec_of(), [0, 1]).keys() == {0}
    with pytest.raises(ColumnError, match="not the shard that was written here"):
        column_writer.finish(directory)


def test_a_copied_column_opens_though_its_shards_are_newer_than_the_index(written):
    root, directory, _ = written
    newer = (directory / columns.INDEX).stat().st_mtime_ns + 10**9
    for number in range(3):
        os.utime(shard(directory, number), ns=(newer, newer))
    assert len(Column(root, "pose.test")) == 30


def test_a_stale_index_is_rebuilt_by_build_index(written):
    root, directory, values = written
    (directory / columns.INDEX).write_bytes(b"garbage")
    columns.build_index(directory)
    assert sorted(Column(root, "pose.test").ids) == sorted(values)


def test_a_record_twice_or_in_the_wrong_shard_is_refused(written):
    _, directory, _ = written
    whole = shard(directory).read_bytes()
    shard(directory).write_bytes(whole + whole)
    with pytest.raises(ColumnError, match="more than one record"):
        columns.build_index(directory)
    shard(directory).write_bytes(shard(directory, 1).read_bytes())
    with pytest.raises(ColumnError, match="belongs to shard 1"):
        columns.build_index(directory)


def test_writing_resumes_with_the_missing_shards_only(tmp_path):
    spec, values = spec_of(), values_of()
    directory = column_writer.create(tmp_path, spec)
    todo = column_writer.pending(directory, spec, list(values))
    assert sorted(todo) == [0, 1, 2] and sorted(itertools.chain(*todo.values())) == sorted(values)
    with column_writer.shard_writer(directory, spec, 1, todo[1]) as writer:
        for clip_id in todo[1]:
            writer.write(clip_id, values[clip_id])
    before = shard(directory, 1).stat().st_mtime_ns
    assert sorted(column_writer.pending(directory, spec, list(values))) == [0, 2]
    with pytest.raises(ColumnError, match="2 of 3 shards are not finished"):
        column_writer.finish(directory)
    column_writer.write_column(tmp_path, spec, values)
    assert shard(directory, 1).stat().st_mtime_ns == before
    assert len(Column(tmp_path, "pose.test")) == 30


def test_a_shard_of_other_clips_or_of_another_size_is_written_again(written):
    _, directory, values = written
    fewer = {k: v for k, v in values.items() if k != "clip 0"}
    changed = spec_of().shard_of("clip 0")
    assert sorted(column_writer.pending(directory, spec_of(), list(fewer))) == [changed]
    truncate(shard(directory, 2))
    assert sorted(column_writer.pending(directory, spec_of(), list(values))) == [2]


KILLED = """
import os, signal, sys
import numpy as np
from mtjax.data import column_writer, columns
from mtjax.records import Feature
spec = columns.Spec("pose.test", {"x": Feature("float32", (-1, 2))}, 3, "tests", {"step": 1})
directory = column_writer.create(sys.argv[1], spec)
values = {f"clip {i}": {"x": np.ones((2, 2), np.float32)} for i in range(30)}
for shard, ids in column_writer.pending(directory, spec, list(values)).items():
    with column_writer.shard_writer(directory, spec, shard, ids) as writer:
        for clip_id in ids:
            writer.write(clip_id, values[clip_id])
        if shard == 1:
            writer._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_of_a_shard_leaves_nothing_visible(tmp_path):
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], cwd=REPOSITORY)
    assert process.returncode == -signal.SIGKILL
    directory = columns.column_dir(tmp_path, "pose.test")
    assert [p.name for p in directory.glob("*.tfrecord")] == [shard(directory).name]
    assert len(list(directory.glob(".*tfrecord.*"))) == 1  # the unfinished file, under a hidden name
    with pytest.raises(ColumnError, match="was not finished"):
        Column(tmp_path, "pose.test")
    values = {f"clip {i}": {"x": np.ones((2, 2), np.float32)} for i in range(30)}
    before = shard(directory).stat().st_mtime_ns
    assert sorted(column_writer.pending(directory, spec_of(), list(values))) == [1, 2]
    column_writer.write_column(tmp_path, spec_of(), values)
    assert shard(directory).stat().st_mtime_ns == before
    assert not list(directory.glob(".*tfrecord.*"))
    assert len(Column(tmp_path, "pose.test")) == 30


def test_an_exception_in_a_shard_leaves_neither_shard_nor_temporary_file(tmp_path):
    directory = column_writer.create(tmp_path, spec_of())
    clip_id = next(f"c{i}" for i in range(99) if spec_of().shard_of(f"c{i}") == 0)
    with pytest.raises(RecordError), column_writer.shard_writer(directory, spec_of(), 0, [clip_id]) as writer:
        writer.write(clip_id, {"x": np.zeros((1, 2), np.float32)})
        writer.write(clip_id, {"x": np.zeros((1, 3), np.float32)})
    assert not [p for p in directory.iterdir() if "tfrecord" in p.name]
    assert 0 in column_writer.pending(directory, spec_of(), [clip_id])


def test_a_second_writer_of_a_shard_is_told_that_it_is_busy(tmp_path):
    directory = column_writer.create(tmp_path, spec_of())
    with column_writer.shard_writer(directory, spec_of(), 0, []):
        with (
            pytest.raises(column_writer.Busy, match="shard 00000"),
            column_writer.shard_writer(directory, spec_of(), 0, []),
        ):
            pytest.fail("two writers of one shard")
        with column_writer.shard_writer(directory, spec_of(), 1, []):
            pass  # another shard is free
    with column_writer.shard_writer(directory, spec_of(), 0, []):
        pass  # and so is this one again


def test_a_column_begun_with_another_spec_is_refused_and_overwritten_when_asked(written):
    root, directory, values = written
    different = spec_of(parameters={"step": 2})
    with pytest.raises(ColumnError, match=r"parameters: there \{'step': 1\}, now \{'step': 2\}.*--overwrite"):
        column_writer.create(root, different)
    assert len(Column(root, "pose.test")) == 30  # nothing was touched
    few = {k: values[k] for k in list(values)[:4]}
    smaller = dataclasses.replace(different, num_shards=1)
    column_writer.write_column(root, smaller, few, overwrite=True)
    assert sorted(Column(root, "pose.test").ids) == sorted(few)
    assert len(list(directory.glob("*.tfrecord"))) == 1


def test_failures_are_gathered_and_a_clip_of_another_shard_is_refused(tmp_path):
    spec = spec_of(num_shards=2)
    directory = column_writer.create(tmp_path, spec)
    ids = [f"c{i}" for i in range(8)]
    for number, members in column_writer.pending(directory, spec, ids).items():
        with column_writer.shard_writer(directory, spec, number, members) as writer:
            for clip_id in members:
                writer.fail(clip_id, "decode", f"no frames in {clip_id}")
            stranger = next(i for i in ids if i not in members)
            with pytest.raises(ColumnError, match="belongs to shard"):
                writer.write(stranger, {"x": np.zeros((1, 2), np.float32)})
    column_writer.finish(directory)
    lines = [json.loads(x) for x in (directory / "failures.jsonl").read_text().splitlines()]
    assert [x["clip"] for x in lines] == ids and lines[0]["reason"] == "no frames in c0"
    assert len(Column(tmp_path, "pose.test")) == 0


def test_tfds_opens_a_column_and_parses_its_records(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    cv2 = pytest.importorskip("cv2")
    from tensorflow_datasets.core import example_parser

    schema = {"x": Feature("float16", (-1, 2)), "seen": Feature("bool", (3,)), "note": Feature("str")}
    schema["images"] = Feature("jpeg")
    jpeg = cv2.imencode(".jpg", np.full((8, 12, 3), 200, np.uint8))[1].tobytes()
    value = {"x": np.ones((2, 2), np.float16), "seen": np.array([True, False, True]), "note": "é", "images": [jpeg] * 2}
    column_writer.write_column(tmp_path, spec_of(schema=schema), {f"c{i}": value for i in range(7)})
    builder = tfds.builder_from_directory(columns.column_dir(tmp_path, "pose.test"))
    split = builder.info.splits["all"]
    assert builder.name == "pose.test" and split.num_examples == 7 and split.num_shards == 3
    parser = example_parser.ExampleParserNp(builder.info.features.get_serialized_info())
    found = {}
    for path in split.filepaths:
        for *_, payload in records.scan(path):
            example = builder.info.features.decode_example_np(parser.parse_example(payload))
            found[example["clip"].decode() if isinstance(example["clip"], bytes) else example["clip"]] = example
    assert sorted(found) == [f"c{i}" for i in range(7)]
    example = found["c3"]
    np.testing.assert_array_equal(example["x"], value["x"])
    np.testing.assert_array_equal(example["seen"], value["seen"])
    assert np.asarray(list(example["images"])).shape == (2, 8, 12, 3)


# Faults of the contract that were found while these tests were written: each is reported, and is to pass when mended.


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 truncated"])
def test_a_truncated_index_is_refused_with_the_remedy(written, data):
    root, directory, _ = written
    (directory / columns.INDEX).write_bytes(data)
    with pytest.raises(ColumnError, match="unreadable"):
        Column(root, "pose.test")


def test_an_index_that_lists_fewer_records_than_the_shards_hold_is_refused(written):
    root, directory, _ = written
    index = Index.load(directory / columns.INDEX)
    short = {name: getattr(index, name)[1:] for name in ("ids", "shard", "offset", "length")}
    save_arrays(directory / columns.INDEX, **dataclasses.asdict(dataclasses.replace(index, **short)))
    with pytest.raises(ColumnError):
        Column(root, "pose.test")


def test_the_row_of_an_absent_clip_is_not_read_as_the_last_record(written):
    column = Column(written[0], "pose.test")
    with pytest.raises((ColumnError, IndexError, RecordError)):
        column.read(column.rows(["nobody"]).tolist())


def test_a_record_of_another_clip_than_the_index_says_is_refused(tmp_path):
    values = {f"clip {i}": {"x": np.full((2, 2), i, np.float32)} for i in range(10)}  # records of one size
    column_writer.write_column(tmp_path, spec_of(), values)
    path = shard(columns.column_dir(tmp_path, "pose.test"))
    payloads = [p for *_, p in records.scan(path)]
    path.write_bytes(b"".join(map(records.frame, payloads[::-1])))
    os.utime(path, (1, 1))  # as rsync and `cp -p` leave it: older than the index
    with pytest.raises((ColumnError, RecordError)):
        column = Column(tmp_path, "pose.test")
        column.read(list(range(len(column))))


def test_finishing_without_markers_keeps_the_failures(tmp_path):
    directory = column_writer.create(tmp_path, spec_of(num_shards=1))
    with column_writer.shard_writer(directory, spec_of(num_shards=1), 0, ["a"]) as writer:
        writer.fail("a", "decode", "broken")
    column_writer.finish(directory)
    shutil.rmtree(directory / column_writer.MARKERS)
    with pytest.raises(columns.ColumnError, match="not finished"):
        column_writer.finish(directory)
    assert "broken" in (directory / "failures.jsonl").read_text()


def test_scanning_reads_every_record_once_in_blocks(tmp_path, monkeypatch):
    values = {f"clip-{i}": {"x": np.int32(i)} for i in range(7)}
    column_writer.write_column(tmp_path, columns.Spec("a", {"x": records.Feature("int32")}, 2, "tests"), values)
    column, sizes = columns.Column(tmp_path, "a"), []
    read = columns.Column.read
    monkeypatch.setattr(columns.Column, "read", lambda self, rows: sizes.append(len(rows)) or read(self, rows))
    assert [int(r["x"]) for r in column.scan(block=3)] == [int(i.split("-")[1]) for i in column.ids]
    assert sizes == [3, 3, 1]
    assert [int(r["x"]) for r in column.scan(column.rows(["clip-4", "clip-1"]))] == [4, 1]
    assert list(column.scan(column.rows([]))) == []
