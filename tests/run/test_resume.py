"""Exact resume: kills at random moments, signals, other meshes; the same bits at the end (fault 16, 17, 18).

MTJAX_KILLS and MTJAX_SIGNALS set how many times each run is killed (10 and 3 were used for the figures in docs).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import FAST_COMPILE, REPO, make_tracks_dataset, run_cli, run_main, tiny_config, write_config

from mtjax.run import checkpoint
from mtjax.run.experiment import Experiment, Train
from mtjax.run.metrics_log import read_metrics
from mtjax.run.plain_config import from_json
from mtjax.run.workdir import checkpoints_of

KILLS = int(os.environ.get("MTJAX_KILLS", 2))
SIGNALS = int(os.environ.get("MTJAX_SIGNALS", 1))
STEPS = 96


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """(config file, workdir of an uninterrupted run, environment)."""
    folder = tmp_path_factory.mktemp("resume")
    config = tiny_config(
        make_tracks_dataset(folder / "data"),
        data__holdout=0.25,
        data__augment={"noise": 0.01, "time_crop": 0.2},
        optimizer={"lr": 3e-3, "clip_norm": 1.0, "schedule": "plateau", "patience": 0, "ema": 0.99},
        evals={"val": {"name": "top1.Top1", "split": "val"}, "test": {"name": "top1.Top1", "split": "test"}},
        train={"batch": 8, "steps": STEPS, "log_every": 5, "eval_every": 8.0, "watch": ("val",), "select": "val/top1",
               "save_every": 9},
    )  # fmt: skip
    file = write_config(folder / "config.py", config)
    environment = {"XLA_FLAGS": FAST_COMPILE}
    done = run_cli("-m", "mtjax.train", f"--config={file}", f"--workdir={folder / 'whole'}", **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return file, folder / "whole", environment


def final_state(workdir: Path) -> dict:
    """The last checkpoint's arrays, restored on this process's devices."""
    experiment = Experiment(from_json((workdir / "config.json").read_text()))
    checkpoints = checkpoints_of(workdir, Train(batch=1), read_only=True)
    template = checkpoint.template_of(experiment.program.shapes, experiment.program.shardings)
    state, meta = checkpoints.restore(STEPS, template)
    assert meta["step"] == STEPS
    return jax.device_get(state)


def start(file, workdir, environment, *flags) -> subprocess.Popen:
    command = [sys.executable, "-m", "mtjax.train", f"--config={file}", f"--workdir={workdir}", *flags]
    env = os.environ | environment
    return subprocess.Popen(command, cwd=REPO, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_progress(process: subprocess.Popen, lines: int) -> bool:
    """Reads until some progress lines came; False when the run ended first."""
    for line in process.stdout:
        lines -= line.startswith("step ")
        if lines <= 0:
            return True
    return False


def test_killed_and_signalled_runs_end_bit_equal(setting, tmp_path):
    file, whole, environment = setting
    rng = random.Random(0)
    workdir, attempts = tmp_path / "run", []
    plan = [signal.SIGKILL] * KILLS + [signal.SIGTERM] * SIGNALS
    rng.shuffle(plan)
    for number in plan:
        process = start(file, workdir, environment)
        if not wait_for_progress(process, rng.randint(1, max(2, 15 // len(plan)))):
            break
        time.sleep(rng.random() * 0.05)  # anywhere in a step, a save, an evaluation
        process.send_signal(number)
        process.communicate(timeout=120)
        attempts.append((number, process.returncode))
    assert len(attempts) == len(plan), f"the run ended before all kills: {attempts}"
    assert {code for number, code in attempts if number == signal.SIGTERM} <= {143}
    process = start(file, workdir, environment)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-2000:]
    jax.tree.map(np.testing.assert_array_equal, final_state(workdir), final_state(whole))
    steps = [line["step"] for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line]
    assert steps == [line["step"] for line in read_metrics(whole / "metrics.jsonl") if "train/loss" in line]
    ours, theirs = (
        {
            line["step"]: (line["batch_crc"], line["train/loss"])
            for line in read_metrics(w / "metrics.jsonl")
            if "train/loss" in line
        }
        for w in (workdir, whole)
    )
    assert ours == theirs
    scores = [json.loads((w / "results.json").read_text())["scores"] for w in (workdir, whole)]
    assert scores[0] == scores[1]


def test_a_damaged_latest_checkpoint_costs_only_time(setting, tmp_path):
    import shutil

    file, whole, environment = setting
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "results.json").unlink()
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    for file_ in (workdir / "checkpoints" / str(steps[-1]) / "state").rglob("d/*"):
        data = bytearray(file_.read_bytes())
        for part in range(1, 8):  # some bytes are never read again; not all seven places are
            data[part * len(data) // 8] ^= 4
        file_.write_bytes(data)
    done = run_cli("-m", "mtjax.train", f"--config={file}", f"--workdir={workdir}", **environment)
    assert done.returncode == 0 and f"resuming {workdir} at step {steps[-2]}" in done.stdout, done.stderr[-2000:]
    assert (workdir / "checkpoints" / f"{STEPS}.bad").is_dir()
    jax.tree.map(np.testing.assert_array_equal, final_state(workdir), final_state(whole))


@pytest.mark.slow
def test_another_mesh_continues_with_the_same_batches(setting, tmp_path):
    """Saved on (4, 2), continued on (8, 1) and then on one device: the same data, and losses equal up to rounding."""
    _, whole, _ = setting
    workdir = tmp_path / "run"
    meshes = [
        (8, ["--config.mesh.data=4", "--config.mesh.fsdp=2"]),
        (8, ["--config.mesh.data=8", "--config.mesh.fsdp=1"]),
        (1, []),
    ]
    config = write_config(
        tmp_path / "mesh.py", from_json((whole / "config.json").read_text()) | {"mesh": {"data": 1, "fsdp": 1}}
    )
    for i, (devices, flags) in enumerate(meshes):
        process = start(
            config, workdir, {"XLA_FLAGS": f"{FAST_COMPILE} --xla_force_host_platform_device_count={devices}"}, *flags
        )
        if i < 2:
            assert wait_for_progress(process, 6)
            process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == (143 if i < 2 else 0), output[-2000:]
    ours, theirs = (
        {line["step"]: line for line in read_metrics(w / "metrics.jsonl") if "train/loss" in line}
        for w in (workdir, whole)
    )
    assert {s: line["batch_crc"] for s, line in ours.items()} == {s: line["batch_crc"] for s, line in theirs.items()}
    early = [s for s in ours if s <= 60]  # rounding grows with the steps; the first sixty are still close
    np.testing.assert_allclose(
        [ours[s]["train/loss"] for s in early], [theirs[s]["train/loss"] for s in early], rtol=2e-2
    )


def test_all_checkpoints_damaged_stops_the_run(setting, tmp_path):
    import shutil

    file, whole, _ = setting
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    for step in (workdir / "checkpoints").iterdir():
        shutil.rmtree(step / "state", ignore_errors=True)
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={workdir}")
    assert done.returncode == 2 and "no checkpoint passes its checks" in done.stderr
