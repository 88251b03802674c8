"""`mtjax data`: what `check` finds, and what the other commands show."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import edit_json

from mtjax import records
from mtjax.data import __main__ as cli
from mtjax.data import column_writer, columns, inspection
from mtjax.data.catalog import Catalog, Clip
from mtjax.data.columns import Column, Index, Spec
from mtjax.data.files import save_arrays
from mtjax.modalities.tracks import Tracks
from mtjax.records import Feature

REPOSITORY = Path(__file__).parents[2]
SPEC = Spec("tracks.t", {"tracks": Feature("float32", (-1, 2, 3)), "note": Feature("str")}, 2, "tests")


def values_of(ids):
    return {i: {"tracks": np.full((3, 2, 3), n, np.float32), "note": f"clip {n}"} for n, i in enumerate(ids)}


@pytest.fixture
def root(tmp_path):
    clips = [
        Clip(f"a/{i}", ("train1",) if i % 4 else ("test1",), "a" if i % 2 else "b [x]", group=f"g{i}")
        for i in range(24)
    ]
    Catalog(tmp_path / "set", "set", "1.0.0", ("a", "b [x]"), tuple(clips)).save()
    column_writer.write_column(tmp_path / "set", SPEC, values_of([c.id for c in clips[:20]]))
    return tmp_path / "set"


def directory_of(root):
    return columns.column_dir(root, "tracks.t")


def shard(root, number=0):
    return directory_of(root) / SPEC.shard_name(number)


def run(capsys, *args) -> tuple[int, str]:
    code = cli.main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_whole_dataset_has_no_problems(root, capsys):
    code, out = run(capsys, "check", root)
    assert code == 0 and "24 clips, 1 column(s): no problems" in out


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_check_names_every_damaged_record_of_a_shard(root, capsys):
    index = Index.load(directory_of(root) / columns.INDEX)
    rows = np.flatnonzero(index.shard == 0)
    for row in (rows[1], rows[3]):
        flip(shard(root), int(index.offset[row]) + 1)
    code, out = run(capsys, "check", root)
    assert code == 1
    for number in (1, 3):
        assert f"{shard(root)}: record {number} at byte" in out
    assert "record 2 at" not in out and "2 problem(s)" in out


def test_check_reports_all_columns_and_the_catalog_together(root, capsys):
    column_writer.write_column(root, dataclasses.replace(SPEC, name="other"), values_of(["a/1", "stranger"]))
    shard(root, 1).unlink()
    with open(root / "clips.jsonl", "a") as file:
        file.write('{"id": "new", "splits": ["t"]}\n')
    code, out = run(capsys, "check", root)
    assert code == 1 and "clips.jsonl: changed since it was written" in out and "1 of 2 shards missing" in out
    code, out = run(capsys, "check", root, "--column=other")
    assert "shards missing" not in out


def test_check_lists_records_of_unknown_clips(root, capsys):
    column_writer.write_column(root, dataclasses.replace(SPEC, name="other"), values_of(["a/1", "stranger"]))
    code, out = run(capsys, "check", root)
    assert code == 1 and "1 records" in out and "['stranger']" in out


def raw_record(fields: dict) -> bytes:
    """A record that `records.encode` would refuse to write."""
    example = records._example_class()()
    for name, value in fields.items():
        example.features.feature[name].bytes_list.value.extend(value)
    return records.frame(example.SerializeToString(deterministic=True))


GOOD = {"tracks": [np.zeros((1, 2, 3), np.float32).tobytes()], "note": [b"x"]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tracks": [np.full((1, 2, 3), np.nan, np.float32).tobytes()]}, "field 'tracks': holds NaN or inf"),
        ({"tracks": [b"12345"]}, "field 'tracks': expected float32 of shape"),
        ({"tracks": []}, "field 'tracks': expected float32 of shape"),
        ({"note": [b"\xff"]}, "expected one UTF-8 string"),
        ({"note": []}, "expected one UTF-8 string"),
        ({"clip": [b"\xff"]}, "expected one UTF-8 string"),
    ],
)
def test_check_names_record_and_field_of_a_bad_value(root, capsys, change, message):
    clip_id = next(i for i in (f"a/{n}" for n in range(20, 24)) if SPEC.shard_of(i) == 1)
    position = shard(root, 1).stat().st_size
    number = int((Index.load(directory_of(root) / columns.INDEX).shard == 1).sum())
    with open(shard(root, 1), "ab") as file:
        file.write(raw_record({"clip": [clip_id.encode()]} | GOOD | change))
    code, out = run(capsys, "check", root)
    assert code == 1
    assert any(f"{shard(root, 1)}: record {number} at byte {position}" in x and message in x for x in out.splitlines())


def test_check_finds_images_that_are_none_and_a_missing_field(root, capsys):
    spec = Spec("frames", {"images": Feature("jpeg")}, 1, "tests")
    column_writer.write_column(root, spec, {"a/1": {"images": [b"\xff\xd8\xff", b"PNG"]}})
    code, out = run(capsys, "check", root, "--column=frames")
    assert code == 1 and "field 'images': image 1 is no JPEG" in out
    path = directory_of(root) / "column.json"
    edit_json(path, schema=json.loads(path.read_text())["schema"] | {"score": {"dtype": "float32", "shape": [1]}})
    code, out = run(capsys, "check", root, "--column=tracks.t")
    assert code == 1 and out.count("field 'score' is missing") == 20


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "../../elsewhere"}, "describes column"),
        ({"num_shards": 0}, "describes column"),
        ({"num_shards": "2"}, "column.json"),
        ({"num_shards": 1 << 60}, "describes column"),
        ({"schema_version": 9}, "versions"),
        ({"schema": []}, "column.json"),
    ],
)
def test_check_refuses_a_spec_that_is_not_ours(root, capsys, change, message):
    path = directory_of(root) / "column.json"
    edit_json(path, **change)
    code, out = run(capsys, "check", root)
    assert code == 1 and message in out and "1 problem(s)" in out


def test_check_finds_a_shard_cut_between_two_records(root, capsys):
    index = Index.load(directory_of(root) / columns.INDEX)
    last = np.flatnonzero(index.shard == 0)[-1]
    data = shard(root).read_bytes()
    shard(root).write_bytes(data[: int(index.offset[last]) - records.HEADER.size])
    assert len(list(records.scan(shard(root)))) == (index.shard == 0).sum() - 1  # a valid file
    code, out = run(capsys, "check", root)
    assert code == 1 and f"but {len(data)} were written; extract this shard again" in out
    code, out = run(capsys, "index", root)
    assert code == 2 and "extract this shard again" in out
    shard(root).write_bytes(b"")
    assert run(capsys, "check", root)[0] == 1


def shorten(directory):
    index = Index.load(directory / columns.INDEX)
    short = {name: getattr(index, name)[1:] for name in ("ids", "shard", "offset", "length")}
    save_arrays(directory / columns.INDEX, **dataclasses.asdict(dataclasses.replace(index, **short)))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: (d / columns.INDEX).unlink(), "does not exist"),
        (lambda d: (d / columns.INDEX).write_bytes(b""), "unreadable"),
        (lambda d: (d / columns.INDEX).write_bytes(b"PK\x03\x04 cut"), "unreadable"),
        (shorten, "'ids' (19 values) is not that of the shards (20)"),
    ],
)
def test_a_wrong_index_is_found_and_rebuilt(root, capsys, damage, message):
    damage(directory_of(root))
    code, out = run(capsys, "check", root)
    assert code == 1 and message in out and f"mtjax data index {root} --column=tracks.t" in out
    code, out = run(capsys, "index", root, "--column=tracks.t")
    assert code == 0 and "20 records in 2 shard(s)" in out
    assert run(capsys, "check", root)[0] == 0 and len(Column(root, "tracks.t")) == 20


def test_index_refuses_damaged_records_and_keeps_what_was_there(root, capsys):
    before = (directory_of(root) / columns.INDEX).read_bytes()
    flip(shard(root), 30)
    code, out = run(capsys, "index", root)
    assert code == 2 and str(shard(root)) in out and (directory_of(root) / columns.INDEX).read_bytes() == before


def test_index_of_a_copy_without_hidden_files_keeps_the_failures(root, capsys):
    failures = directory_of(root) / "failures.jsonl"
    failures.write_text('{"clip": "a/21", "stage": "decode", "reason": "broken"}\n')
    shutil.rmtree(directory_of(root) / column_writer.MARKERS)
    assert run(capsys, "index", root)[0] == 0
    assert "broken" in failures.read_text() and run(capsys, "check", root)[0] == 0


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"clip": "a/1", "stage": "s", "reason": "r"}', "1 clips failed and have a record"),
        ('{"clip": "stranger", "stage": "s", "reason": "r"}', "1 clips are not in the catalog"),
        ('{"clip": "a/21"}', "failures.jsonl:1: expected"),
        ("[" * 100_000, "failures.jsonl:1: expected"),
    ],
)
def test_check_reads_the_failures(root, capsys, line, message):
    (directory_of(root) / "failures.jsonl").write_text(line + "\n")
    code, out = run(capsys, "check", root)
    assert code == 1 and message in out


def test_check_reports_overlap_of_splits_of_the_same_number(tmp_path, capsys):
    clips = [
        Clip("a", ("train1", "test2")),
        Clip("b", ("train1", "test1")),
        Clip("c", ("train2",), group="film"),
        Clip("d", ("test2",), group="film"),
        Clip("e", ("train1",), group="film"),
    ]
    Catalog(tmp_path, "n", "1", (), tuple(clips)).save()
    lines = inspection.split_overlaps(Catalog.load(tmp_path))
    assert len(lines) == 2 and "'train1' and 'test1'" in lines[0] and "['b']" in lines[0]
    assert "'train2' and 'test2'" in lines[1] and "['d']" in lines[1]
    code, out = run(capsys, "check", tmp_path)
    assert code == 1 and "2 problem(s)" in out
    code, out = run(capsys, "check", tmp_path, "--allow_overlap")
    assert code == 0 and "notice: splits 'train1'" in out


def test_check_survives_json_of_another_shape(root, capsys):
    for text in ("[]", '{"catalog_version": 1}', "[" * 100_000):
        (root / "dataset.json").write_text(text)
        code, out = run(capsys, "check", root)
        assert code == 1 and "dataset.json" in out


def cells(out: str, first: str) -> list[str]:
    return next(line.split() for line in out.splitlines() if line.split()[:1] == [first])


def test_info_shows_splits_columns_and_coverage(root, capsys):
    (directory_of(root) / "failures.jsonl").write_text('{"clip": "a/20", "stage": "s", "reason": "r"}\n')
    code, out = run(capsys, "info", root)
    assert code == 0 and cells(out, "train1")[:3] == ["train1", "18", "2"]
    tracks = cells(out, "tracks.t")
    assert {"float32[-1,", "tests", "20", "1", "2"} <= set(tracks)
    coverage = out[out.index("Clips with a record") :]
    assert cells(coverage, "train1")[1:] == ["15/18", "(83.3%)"]
    assert cells(coverage, "test1")[1:] == ["5/6", "(83.3%),", "1", "failed"]
    assert "b [x]" not in out
    code, out = run(capsys, "info", root, "--classes")
    line = next(x for x in out.splitlines() if x.strip().startswith("b [x]"))  # brackets are no markup
    assert line.split()[2:5] == ["1", "6", "6"] and "10/12" in line


def test_info_says_why_a_column_cannot_be_opened(root, capsys):
    (directory_of(root) / columns.INDEX).unlink()
    code, out = run(capsys, "info", root)
    assert code == 0 and "column 'tracks.t' cannot be opened" in out and "was not finished" in out


def test_bench_measures_reading(root, capsys):
    code, out = run(capsys, "bench", root, "--seconds=0.05")
    row = cells(out, "tracks.t")
    assert code == 0 and row[1] == "20" and float(row[2].replace(",", "")) > 100
    speed = inspection.measure(Column(root, "tracks.t"), 0.01)
    assert speed.records % inspection.BATCH == 0 and speed.seconds > 0


def test_wrong_arguments_are_exit_code_2_without_a_traceback(root, tmp_path, capsys):
    for command in ("check", "info", "index", "bench"):
        code, out = run(capsys, command, tmp_path / "nowhere")
        assert code == 2 and "no such folder" in out
        code, out = run(capsys, command, root, "--column=../../etc")
        assert code == 2 and "no column '../../etc'" in out and "tracks.t" in out
    code, out = run(capsys, "info", tmp_path)
    assert code == 2 and "no dataset.json" in out


def test_the_commands_run_as_modules_and_without_heavy_imports(root):
    program = (
        "import sys, runpy; sys.argv = ['data', 'check', sys.argv[1]]\n"
        "try: runpy.run_module('mtjax.data', run_name='__main__')\n"
        "except SystemExit as e: assert e.code == 0, e.code\n"
        "import preprocessing.catalog\n"
        "heavy = {'jax', 'torch', 'tensorflow', 'cv2', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    process = subprocess.run([sys.executable, "-c", program, str(root)], cwd=REPOSITORY, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "no problems" in process.stdout


def test_shots_are_what_k_shot_draws(dataset, tmp_path, capsys):
    assert cli.main(["shots", str(dataset), "--k=2", "--seed=3"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "shots.txt").write_text(printed)
    drawn, listed = (Tracks(root=str(dataset), subset_seed=3, **by).rows("train") for by in (
        {"k_shot": 2}, {"shots": str(tmp_path / "shots.txt")}
    ))  # fmt: skip
    assert len(printed.split()) == 8 and drawn.tolist() == listed.tolist()
