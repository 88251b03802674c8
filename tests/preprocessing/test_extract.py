"""Extraction from end to end: real and bad videos, interrupted and shared runs, exit codes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from conftest import image_bytes
from dying_extractor import Dying
from test_video import grey_video

from mtjax import records
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog, Clip
from mtjax.modalities import images
from preprocessing import extract
from preprocessing.extraction import backends, column_run, kinds, workers
from preprocessing.extraction.shards import Decoding, Failure, extract_shard
from preprocessing.extractors import tracks
from preprocessing.videos.video_file import VideoError, locate

pytestmark = pytest.mark.core

REPOSITORY = Path(__file__).parents[2]
REAL = Path(__file__).parents[3] / "shared" / "data" / "videos"


def dataset(root, names, videos="videos"):
    clips = tuple(Clip(Path(name).stem, ("train",), path=name) for name in names)
    Catalog(root, "test", "1.0.0", (), clips, {"videos": videos}).save()
    return root


@pytest.fixture
def moving(tmp_path_factory):
    """A dataset of 12 short videos; three shards hold all of them."""
    root = tmp_path_factory.mktemp("moving")
    (root / "videos").mkdir()
    names = [f"clip{i}.mp4" for i in range(12)]
    for i, name in enumerate(names):
        grey_video(root / "videos" / name, 6 + i)
    return dataset(root, names)


def run(root, *options):
    small = ["--frames=4", "--points=5", "--sampling=random"]
    return extract.main(["tracks", str(root), *small, *options])


def content(root, name="tracks.lk"):
    """Everything in a column that a reader sees, byte by byte."""
    directory = columns.column_dir(root, name)
    return {p.name: p.read_bytes() for p in directory.glob("*") if p.is_file() and p.suffix != ".npz"}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real videos are not beside this checkout (../shared/data/videos)")
def test_real_videos_and_bad_ones_beside_them(tmp_path, capsys):
    videos = tmp_path / "videos"
    shutil.copytree(REAL, videos)
    whole = (videos / "mma_part0.mp4").read_bytes()
    (videos / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").touch()
    (videos / "text.avi").write_text("not a video\n" * 100)
    grey_video(videos / "bomb.mp4", 1, (7680, 4320), options={"preset": "ultrafast"})
    names = sorted(os.listdir(videos))
    root = dataset(tmp_path, names)
    assert len(names) == 15
    assert extract.main(["tracks", str(root)]) == 3
    column = columns.Column(root, "tracks.lk")
    assert len(column) == 11 and column.spec.parameters["backend"] == "lk"
    for record in column.read(list(range(11))):
        unit, occluded = record["tracks"][..., :2].astype(np.float32), record["tracks"][..., 2]
        assert record["tracks"].shape == (32, 60, 3) and record["tracks"].dtype == np.float16
        assert set(np.unique(occluded)) <= {0, 1} and not occluded[0].any()
        inside = unit[occluded == 0]
        assert inside.min() > -0.01 and inside.max() < 1.01
        assert (np.diff(record["times_s"]) >= 0).all() and record["size_px"].min() >= 256
    failures = {f["clip"]: f for f in map(json.loads, (column.directory / "failures.jsonl").read_text().splitlines())}
    assert {clip: f["stage"] for clip, f in failures.items()} == {
        "truncated": "open",
        "empty": "open",
        "text": "open",
        "bomb": "limits",
    }
    assert "max_pixels" in failures["bomb"]["reason"] and "7680x4320" in failures["bomb"]["reason"]
    assert failures["empty"]["bytes"] == "0" and len(failures["text"]["sha256"]) == 64
    # The run goes by what is there: nothing is done again, and the threshold decides.
    stamp = column.directory.joinpath("index.npz").stat().st_mtime_ns
    for allowed, code in (("3", 3), ("4", 0), ("26%", 3), ("27%", 0)):
        assert extract.main(["tracks", str(root), f"--max_failures={allowed}"]) == code
    assert column.directory.joinpath("index.npz").stat().st_mtime_ns == stamp
    assert "11 records, 4 failures" in capsys.readouterr().out


def test_workers_and_machines_make_the_same_column(moving, tmp_path, capsys):
    machines, workers = shutil.copytree(moving, tmp_path / "m"), shutil.copytree(moving, tmp_path / "w")
    assert run(moving, "--num_shards=3") == 0
    assert run(workers, "--num_shards=3", "--num_workers=2") == 0
    assert run(machines, "--num_shards=3", "--shard=0/2") == 0
    assert "1 of 3 shards are still missing: 1" in capsys.readouterr().out
    with pytest.raises(columns.ColumnError, match="not finished"):
        columns.Column(machines, "tracks.lk")
    assert run(machines, "--shard=1/2") == 0  # the number of shards is the column's
    assert content(moving) == content(workers) == content(machines)
    assert len(columns.Column(machines, "tracks.lk")) == 12


def extractor_process(root):
    command = [sys.executable, "-m", "preprocessing.extract", "tracks", str(root), "--num_shards=5"]
    command += ["--frames=4", "--points=5", "--sampling=random"]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_killed_and_run_again_equals_an_uninterrupted_run(moving, tmp_path):
    killed = shutil.copytree(moving, tmp_path / "killed")
    assert run(moving, "--num_shards=5") == 0
    markers = columns.column_dir(killed, "tracks.lk") / column_writer.MARKERS
    process = extractor_process(killed)
    deadline = time.monotonic() + 60
    while len(list(markers.glob("*.json"))) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {p: p.stat().st_mtime_ns for p in markers.glob("*.json")}
    assert 2 <= len(done) < 5
    assert not (markers.parent / columns.INDEX).exists()
    assert run(killed) == 0
    assert content(killed) == content(moving)
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in done.items())  # only the rest was done
    assert not list(markers.parent.glob(".*.tfrecord*"))


def test_two_extractors_at_once(moving, tmp_path):
    shared = shutil.copytree(moving, tmp_path / "shared")
    both = [extractor_process(shared), extractor_process(shared)]
    assert [p.wait(60) for p in both] == [0, 0]
    assert run(moving, "--num_shards=5") == 0
    assert content(shared) == content(moving)
    assert len(columns.Column(shared, "tracks.lk")) == 12


def test_a_busy_shard_is_left_alone(moving, capsys):
    catalog = Catalog.load(moving)
    extractor = tracks.Tracks(tracks.make_tracker("lk"), frames=4, num_points=5, sampling="random")
    spec = columns.Spec(extractor.name, extractor.schema, 1, "p", dict(extractor.parameters))
    directory = column_writer.create(moving, spec)
    ids = [c.id for c in catalog.clips]
    with pytest.raises(ZeroDivisionError), column_writer.shard_writer(directory, spec, 0, ids):
        report = extract_shard(moving, spec, 0, catalog.clips, extractor, Decoding(moving / "videos"))
        assert report.busy and not report.written
        raise ZeroDivisionError  # and a shard that was given up leaves nothing
    assert not list(directory.glob("*.tfrecord"))


def test_overwrite(moving, capsys):
    assert run(moving, "--num_shards=2") == 0
    before = content(moving)
    assert run(moving, "--points=6") == 2 and "--overwrite" in capsys.readouterr().err
    assert content(moving) == before
    assert run(moving, "--points=6", "--overwrite=stale") == 0
    assert columns.Column(moving, "tracks.lk").spec.schema["tracks"].shape == (4, 6, 3)
    stamps = [p.stat().st_mtime_ns for p in sorted(columns.column_dir(moving, "tracks.lk").glob("*.tfrecord"))]
    dataset(moving, [f"clip{i}.mp4" for i in range(11)])  # the catalog changes by one clip, which is in one shard
    assert run(moving, "--points=6") == 2 and "other clips" in capsys.readouterr().err
    assert run(moving, "--points=6", "--overwrite=stale") == 0
    after = [p.stat().st_mtime_ns for p in sorted(columns.column_dir(moving, "tracks.lk").glob("*.tfrecord"))]
    assert sorted(a == b for a, b in zip(stamps, after, strict=True)) == [False, True]
    assert len(columns.Column(moving, "tracks.lk")) == 11
    assert run(moving, "--overwrite=always") == 0 and content(moving).keys() != before.keys()
    assert run(moving, "--overwrite=always", "--shard=0/2") == 2


def test_failures_can_be_tried_again(moving):
    (moving / "videos" / "clip3.mp4").rename(moving / "videos" / "away.mp4")
    assert run(moving) == 3
    (moving / "videos" / "away.mp4").rename(moving / "videos" / "clip3.mp4")
    assert run(moving) == 3
    assert run(moving, "--retry_failures") == 0
    assert len(columns.Column(moving, "tracks.lk")) == 12


def test_a_path_cannot_leave_the_videos_folder(moving, tmp_path):
    outside = grey_video(tmp_path / "outside.mp4", 3)
    (moving / "videos" / "link.mp4").symlink_to(outside)
    (moving / "videos" / "inner.mp4").symlink_to("clip0.mp4")
    for path in ("../outside.mp4", str(outside), "link.mp4", ""):
        with pytest.raises(VideoError, match=r"outside of|no path"):
            locate(moving / "videos", path)
    assert locate(moving / "videos", "inner.mp4").name == "clip0.mp4"
    dataset(moving, ["clip0.mp4", "link.mp4"])
    assert run(moving) == 3
    [failure] = map(json.loads, (columns.column_dir(moving, "tracks.lk") / "failures.jsonl").read_text().splitlines())
    assert failure["clip"] == "link" and failure["stage"] == "open" and "sha256" not in failure


def test_masks(moving):
    half = np.zeros((4, 4), np.uint8)
    half[:, 2:] = 1
    masks = {f"clip{i}": {"mask": half if i else half * 0} for i in range(11)}
    column_writer.write_column(moving, columns.Spec("mask", {"mask": records.Feature("uint8", (4, 4))}, 1, "p"), masks)
    assert run(moving, "--sampling=mask", "--max_failures=2") == 0
    column = columns.Column(moving, "tracks.lk")
    assert all((r["tracks"][0, :, 0] > 0.5).all() for r in column.read(list(range(len(column)))))
    lines = (column.directory / "failures.jsonl").read_text()
    assert "the mask is empty" in lines and "has no mask for this clip" in lines and len(column) == 10
    assert "points" in lines


class Fussy:
    """Extracts the mean grey; cannot take two clips at once, nor clip7 at all."""

    name, weights, licence, num_frames, fps, short_side, batch_size, window = "grey", "", "", 2, 0.0, 0, 8, 1
    schema = {"grey": records.Feature("float32")}
    parameters = {}

    def __init__(self):
        self.sizes = []

    def extract(self, clip_ids, clips):
        self.sizes.append(len(clips))
        if len(clips) > 2:
            raise MemoryError("too many")
        if "clip7" in clip_ids:
            raise ValueError("not this one")
        return [
            Failure("grey", "too dull")
            if i == "clip5"
            else {"grey": np.float32("nan" if i == "clip4" else c.frames.mean())}
            for i, c in zip(clip_ids, clips, strict=True)
        ]


def test_batches_are_halved_down_to_the_clip_at_fault(moving):
    extractor = Fussy()
    code = column_run.run(moving, extractor, Decoding(moving / "videos"), producer="test", max_failures="25%")
    assert code == 0 and extractor.sizes[:4] == [8, 4, 2, 2]
    column = columns.Column(moving, "grey")
    failures = {
        f["clip"]: (f["stage"], f["reason"]) for f in map(json.loads, (column.directory / "failures.jsonl").open())
    }
    assert failures["clip5"] == ("grey", "too dull") and failures["clip7"] == ("extract", "ValueError: not this one")
    assert failures["clip4"][0] == "write" and "NaN" in failures["clip4"][1]
    assert len(column) == 9 and "clip6" in column


def test_a_damaged_or_missing_shard_is_written_again_by_the_same_command(moving, capsys):
    assert run(moving, "--num_shards=3") == 0
    whole, directory = content(moving), columns.column_dir(moving, "tracks.lk")
    first, second = sorted(directory.glob("*.tfrecord"))[:2]
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    assert run(moving) == 0
    assert "shard 0 is written again: " in capsys.readouterr().out and content(moving) == whole
    second.unlink()
    assert run(moving) == 0
    assert content(moving) == whole
    assert run(moving) == 0 and "written again" not in capsys.readouterr().out


def test_a_shard_replaced_by_another_run_s_is_written_again(moving, tmp_path):
    other = shutil.copytree(moving, tmp_path / "other")
    assert run(moving, "--num_shards=3") == 0 and run(other, "--num_shards=3", "--box=0,0,0.5,0.5") == 0
    whole, theirs = content(moving), sorted(columns.column_dir(other, "tracks.lk").glob("*.tfrecord"))[0]
    ours = columns.column_dir(moving, "tracks.lk") / theirs.name
    assert theirs.stat().st_size == ours.stat().st_size and theirs.read_bytes() != ours.read_bytes()
    shutil.copy(theirs, ours)
    assert run(moving) == 0 and content(moving) == whole


def test_a_worker_that_dies_is_started_again(moving, tmp_path, capsys):
    code = column_run.run(
        moving, Dying(tmp_path, 1), Decoding(moving / "videos"), producer="test", num_workers=2, num_shards=4
    )
    assert code == 0 and len(columns.Column(moving, "grey")) == 12
    said = capsys.readouterr().err
    assert said.count("and is started again; 1 so far") == 1 and "Traceback" not in said and "12/12 clips" in said


def test_workers_that_die_of_one_shard_every_time_end_the_run(moving, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "MAX_DEATHS", 1)
    with pytest.raises(BrokenProcessPool):
        column_run.run(
            moving, Dying(tmp_path, 99), Decoding(moving / "videos"), producer="test", num_workers=2, num_shards=2
        )
    assert len(list(tmp_path.glob("death*"))) == 1


@pytest.mark.parametrize(
    "asked, devices, used",
    [("auto", 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]), ("cuda", 2, ["cuda:0", "cuda:1", "cuda:0"]),
     ("cuda", 1, ["cuda", "cuda"]), ("cuda:1", 4, ["cuda:1", "cuda:1"]), ("auto", 0, ["cpu", "cpu"])],
)  # fmt: skip
def test_workers_are_spread_over_devices(monkeypatch, asked, devices, used):
    cuda = types.SimpleNamespace(is_available=lambda: devices > 0, device_count=lambda: devices)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(backends, "_worker", 0)
    found = []
    for number in range(len(used)):
        backends.use_device_of_worker(number)
        found.append(backends.torch_device(asked))
    assert found == used


def test_an_extraction_beside_another_is_told_in_one_line(moving, capsys):
    assert run(moving) == 0
    directory = columns.column_dir(moving, "tracks.lk")
    with column_writer._locked(directory / column_writer.MARKERS / "00000.lock"):
        assert run(moving, "--overwrite=always") == 2
    said = capsys.readouterr().err
    assert "shard 00000 of" in said and "is being written by another process" in said and "Traceback" not in said
    assert len(columns.Column(moving, "tracks.lk")) == 12  # and nothing was deleted


def test_an_image_of_few_bytes_that_asks_for_gigabytes_costs_one_clip(tmp_path, capsys):
    jpeg = bytearray(image_bytes(np.zeros((8, 8, 3), np.uint8), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    bomb = bytes(jpeg[:at]) + b"\xff\xdc\xff\xdc" + bytes(jpeg[at + 4 :])
    good = [bytes(jpeg)] * 3
    Catalog(tmp_path, "n", "1", (), (Clip("a", ("t",)), Clip("b", ("t",)))).save()
    spec = columns.Spec("frames", {"frames": records.Feature("jpeg", (-1,))}, 1, "tests")
    column_writer.write_column(tmp_path, spec, {"a": {"frames": good}, "b": {"frames": [bomb] * 3}})
    assert extract.main(["flow", str(tmp_path)]) == 3
    assert "b: limits: max_pixels: pixels of a 65500x65500 image" in capsys.readouterr().out
    with pytest.raises(records.CorruptRecord, match="65500x65500 pixels, more than"):
        images.decode(bomb, "RGB", at_least=(8, 8))


class Broken(Fussy):
    def extract(self, clip_ids, clips):
        return [clip.no_such_field for clip in clips]


def test_a_fault_of_an_extractor_s_program_ends_the_run(moving):
    with pytest.raises(AttributeError, match="no_such_field"):
        column_run.run(moving, Broken(), Decoding(moving / "videos"), producer="test")


def test_one_video_is_tracked_as_in_a_dataset(moving):
    assert run(moving) == 0
    column = columns.Column(moving, "tracks.lk")
    assert run(moving, "--sampling=grid", "--name=tracks.grid") == 0
    stored = columns.Column(moving, "tracks.grid")
    made, asked = stored.spec.parameters, {"frames": 4, "points": 5}
    values, frames = kinds.extract_video("tracks", moving / "videos" / "clip9.mp4", made, asked)
    assert frames.shape == (4, 48, 64, 3) and frames.dtype == np.uint8
    [record] = stored.read(stored.rows(["clip9"]).tolist())
    assert set(values) == set(record) == set(column.spec.schema)
    for field, value in record.items():
        np.testing.assert_array_equal(values[field], value)
    with pytest.raises(VideoError, match="open"):
        kinds.extract_video("tracks", moving / "none.mp4", {}, {})
    with pytest.raises(ValueError, match="`preprocessing.extract tracks` has no --fps"):
        kinds.extract_video("tracks", moving / "videos" / "clip9.mp4", {}, {"fps": 3})
    with pytest.raises(ValueError, match="no kind of column 'depth': there are flow, frames, pose, tracks"):
        kinds.named("depth")


def test_partial_videos_are_marked(moving):
    source = (moving / "videos" / "clip11.mp4").read_bytes()
    middle = source.index(b"mdat") + 60 + (len(source) - source.index(b"mdat")) // 3
    (moving / "videos" / "clip11.mp4").write_bytes(source[:middle] + bytes(200) + source[middle + 200 :])
    assert run(moving) == 3
    assert run(moving, "--allow_partial", "--overwrite=stale", "--max_failures=1") == 0
    column = columns.Column(moving, "tracks.lk")
    flags = dict(zip(column.ids, (int(r["partial"]) for r in column.read(list(range(len(column))))), strict=True))
    assert flags.pop("clip11", 1) == 1 and set(flags.values()) == {0}


def test_number_of_shards():
    schema = {"tracks": records.Feature("float16", (32, 60, 3))}
    shards_for = lambda clips, workers=1: column_run.default_num_shards(schema, clips, workers)  # noqa: E731
    assert shards_for(1) == shards_for(10_000) == 1
    assert shards_for(148_000) == pytest.approx(148_000 * 11520 / (150 << 20), abs=1)  # Jester
    assert shards_for(10_000, 8) == 32 and shards_for(40, 8) == 8 and shards_for(3, 8) == 3


@pytest.mark.parametrize(
    "options, said",
    [
        (["--backend=cotracker3"], "install it with: pip install git+https"),
        (["--videos=nowhere"], "nowhere: no such folder"),
        (["--device=cuda"], "--backend=lk has no --device"),
        (["--sampling=mask"], "column.json does not exist"),
        (["--frames=0"], "must be at least 1"),
    ],
)
def test_what_cannot_begin_says_why(moving, capsys, options, said):
    assert run(moving, *options) == (4 if "install" in said else 2)  # what is missing has a status of its own
    assert said in capsys.readouterr().err
    assert not (moving / "columns").exists()


@pytest.mark.parametrize("option", ["--shard=2/2", "--max_failures=many", "--box=0,0,2,1", "--backend=none"])
def test_wrong_options(moving, capsys, option):
    with pytest.raises(SystemExit) as error:
        run(moving, option)
    assert error.value.code == 2


def test_nothing_is_asked_of_torch():
    code = "import preprocessing.extract, sys; print({'torch', 'jax', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
