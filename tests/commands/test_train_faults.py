"""What goes wrong at a start and in a step of `mtjax train` is one line and a status, never a traceback."""

import sys

import orbax.checkpoint as ocp
import pytest
from conftest import make_tracks_dataset, run_main, tiny_config, write_config

from mtjax.data import columns


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_tracks_dataset(tmp_path_factory.mktemp("faults") / "data")


def ends(done, status: int, *words: str) -> None:
    """Checks that a command ended with this status and one line of ours, the last one, that says these words."""
    lines = done.stderr.splitlines()
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert [line.startswith("mtjax train: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("mtjax train: ") and all(word in lines[-1] for word in words), lines[-1]


WRONG = {
    "mesh.fsdp=0": ("config.mesh.fsdp=0", "at least 1"),
    "mesh.tensor=-2": ("config.mesh.tensor=-2", "at least 1"),
    "mesh.data=0": ("config.mesh: data=0",),
    "train.log_every=0": ("config.train.log_every=0", "at least 1"),
    "model.dtype=float17": ("config.model.dtype='float17'", "bfloat16"),
    "data.workers=-1": ("config.data.workers=-1", "at least 0"),
    "train.select_mode=best": ("config.train.select_mode='best'", "max"),
    "train.profile=(1,)": ("config.train.profile=(1,)",),
    "train.profile=(5,2)": ("config.train.profile=(5, 2)", "first"),
    "train.checkpoints=gs://nowhere/run": ("gs://nowhere/run", "mtjax[gcs]"),
    "train.checkpoints=s4://nowhere/run": ("s4://nowhere/run", "cannot be opened"),
}


@pytest.mark.parametrize("setting", WRONG)
def test_a_value_that_cannot_be_used(root, tmp_path, setting, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as where the extra is not installed
    file = write_config(tmp_path / "config.py", tiny_config(root))
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}", f"--config.{setting}")
    ends(done, 2, *WRONG[setting])


@pytest.mark.parametrize("workdir", ["gs://bucket/run", "s4://bucket/run", "{}/file", "{}/file/run"])
def test_a_workdir_that_cannot_be_one(root, tmp_path, workdir):
    (tmp_path / "file").write_text("")
    file = write_config(tmp_path / "config.py", tiny_config(root))
    workdir = workdir.format(tmp_path)
    ends(run_main("mtjax.train", f"--config={file}", f"--workdir={workdir}"), 2, workdir)


def test_a_damaged_record_in_training_names_shard_and_clip(tmp_path):
    root = make_tracks_dataset(tmp_path / "data")
    shard = max(columns.column_dir(root, "tracks").glob("*.tfrecord"), key=lambda p: p.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    file = write_config(tmp_path / "config.py", tiny_config(root))
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    ends(done, 2, shard.name, "clip-", "checksum")


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_library_that_runs_out_of_space_or_memory(root, tmp_path, monkeypatch, error):
    def restore(*_, **__):
        raise error("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12 bytes.\n more")

    monkeypatch.setattr(ocp.CheckpointManager, "all_steps", restore)
    file = write_config(tmp_path / "config.py", tiny_config(root))
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    ends(done, 1, "no space or memory left", "the same command resumes")
