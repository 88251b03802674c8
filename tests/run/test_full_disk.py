"""Disks that are full and places that cannot be written to: one line that names them, and what is computed is shown."""

import errno
import logging
import sys

import orbax.checkpoint as ocp
import pytest
from absl import logging as absl_logging
from conftest import make_tracks_dataset, run_main, tiny_config, train_here, write_config

from mtjax.data.files import replacing, write_atomically
from mtjax.run import checkpoint_folder
from mtjax.run.metrics_log import MetricsLog, read_metrics

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def finished(one_device, tmp_path_factory):
    """(config file, workdir) of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny_config(make_tracks_dataset(folder / "data"), train__steps=2)
    train_here(config, folder / "run")
    return write_config(folder / "c.py", config), folder / "run"


def one_line(done, status: int) -> str:
    """The message of a command that ends with this status, which is its last line."""
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mtjax ") and sum(line.startswith("mtjax ") for line in done.stderr.splitlines()) == 1
    return last


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        ValueError('RESOURCE_EXHAUSTED: Error opening "zarr" driver'),
    ],
)
def test_a_checkpoint_that_cannot_be_saved_is_one_line(finished, tmp_path, monkeypatch, error):
    def save(*arguments, **keywords):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    done = run_main("mtjax.train", f"--config={finished[0]}", f"--workdir={tmp_path / 'run'}")
    message = one_line(done, 1)
    assert f"{tmp_path / 'run' / 'checkpoints'}: a checkpoint could not be saved" in message
    assert "room" in message or "choose a place" in message
    assert message.endswith("the same command resumes")


def test_tracebacks_of_the_checkpoint_library_are_not_printed_beside_the_error():
    checkpoint_folder.without_tracebacks()
    logger = absl_logging.get_absl_logger()
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        failed = sys.exc_info()
    theirs = "site-packages/orbax/checkpoint/_src/futures/future.py"
    for path, info, kept in ((theirs, failed, False), (theirs, None, True), ("mtjax/run/workdir.py", failed, True)):
        record = logging.LogRecord("absl", logging.ERROR, path, 1, "said", (), info)
        assert bool(logger.filter(record)) == kept


class Full:
    """In place of an open file on a full disk."""

    def write(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    flush = close = write


@pytest.mark.parametrize(
    ("part", "name"), [("_file", "metrics.jsonl"), ("_tensorboard._writer", "events.out.tfevents")]
)
def test_a_log_that_cannot_be_written_stops_the_loop_with_its_name(tmp_path, part, name):
    log = MetricsLog(tmp_path)
    log.write(1, {"loss": 1.0})
    *owner, attribute = part.split(".")
    setattr(getattr(log, owner[0]) if owner else log, attribute, Full())
    with pytest.raises(OSError, match="No space left") as caught:
        log.write(2, {"loss": 1.0})
    assert name in caught.value.filename
    log.close()  # and says it once
    assert read_metrics(tmp_path / "metrics.jsonl")[0] == {"step": 1, "loss": 1.0}


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    for error in (OSError(errno.ENOSPC, "full"), OSError(errno.ENOSPC, "full", "elsewhere")):
        with pytest.raises(OSError) as caught, replacing(tmp_path / "model.bin"):
            raise error
        assert caught.value.filename == (error.filename or str(tmp_path / "model.bin"))
    with pytest.raises(FileNotFoundError) as missing:
        write_atomically(tmp_path / "no" / "model.bin", "")
    assert missing.value.filename == str(tmp_path / "no" / "model.bin")
    assert not list(tmp_path.iterdir())


def test_commands_name_the_place_that_cannot_be_written_to(finished, tmp_path):
    _, workdir = finished
    (tmp_path / "file").write_text("")
    video = tmp_path / "video.mp4"
    video.write_bytes(b"")
    for command in (
        ["mtjax.export", workdir, f"--out={tmp_path / 'file' / 'model'}", "--platforms=cpu"],
        ["mtjax.predict", workdir, video, f"--out={tmp_path / 'file' / 'out'}"],
        ["mtjax.report", workdir, f"--out={tmp_path / 'file' / 'report.html'}"],
    ):
        message = one_line(run_main(*command), 1)
        assert str(tmp_path / "file") in message and "is in the way" in message, message


def test_scores_are_printed_when_results_cannot_be_kept(finished, tmp_path, monkeypatch):
    real = write_atomically

    def refuse(path, content):
        if path.name == "results.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr("mtjax.run.scoring.write_atomically", refuse)
    done = run_main("mtjax.train", f"--config={finished[0]}", f"--workdir={tmp_path / 'run'}")
    assert "results.json: No space left on device; make room there" in one_line(done, 1) and "test/top1" in done.stdout
