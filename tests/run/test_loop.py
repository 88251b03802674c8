"""The loop in one process: signals during evaluation, non-finite steps, another batch size, a save that fails (faults 16-19)."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import tiny_config

from mtjax import train as loop
from mtjax.compute.distributed import Preemption
from mtjax.run.experiment import Experiment
from mtjax.run.metrics_log import read_metrics
from mtjax.run.workdir import Run

VALIDATED = {
    "data__holdout": 0.25,
    "evals": {"val": {"name": "top1.Top1", "split": "val"}, "test": {"name": "top1.Top1", "split": "test"}},
    "optimizer": {"lr": 3e-3, "schedule": "plateau", "patience": 0},
    "train": {"batch": 8, "steps": 12, "log_every": 2, "eval_every": 1.0, "watch": ("val",), "select": "val/top1"},
}


class Signals(Preemption):
    """Preemption at a chosen step, or at the n-th question during an evaluation."""

    def __init__(self, *, at_step: int = -1, in_eval: int = -1):
        self._at_step, self._in_eval, self._asked = at_step, in_eval, 0

    def requested(self, step: int) -> bool:
        return step == self._at_step

    def signalled(self) -> bool:
        self._asked += 1
        return self._asked == self._in_eval


def run_of(config, workdir, **may) -> Run:
    return Run(Experiment(config), workdir, **({"config_may_change": False, "data_may_change": False} | may))


def go(config, workdir, signals: Preemption, **may) -> dict[str, float]:
    run = run_of(config, workdir, **may)
    try:
        return loop.train(run.exp, run, signals)
    finally:
        run.checkpoints.close()


def last_state(config, workdir):
    run = run_of(config, workdir)
    state = jax.device_get(run.checkpoints.restore(12, run.template)[0])
    run.checkpoints.close()
    return state


@pytest.mark.parametrize("signals", [{"at_step": 4}, {"in_eval": 2}, {"in_eval": 3}], ids=str)
def test_a_signal_anywhere_saves_and_the_next_run_ends_bit_equal(dataset, tmp_path, signals):
    config = tiny_config(dataset, **VALIDATED)
    whole = go(config, tmp_path / "whole", Signals())
    with pytest.raises(loop.Preempted):
        go(config, tmp_path / "parts", Signals(**signals))
    assert go(config, tmp_path / "parts", Signals()) == whole
    jax.tree.map(np.testing.assert_array_equal, *(last_state(config, tmp_path / w) for w in ("whole", "parts")))
    evaluated = [line["step"] for line in read_metrics(tmp_path / "parts" / "metrics.jsonl") if "val/top1" in line]
    assert evaluated == [3, 6, 9, 12]


def test_a_run_stopped_before_its_last_evaluation_still_selects_by_it(dataset, tmp_path):
    config = tiny_config(dataset, **VALIDATED, train__eval_every=4.0)
    whole = go(config, tmp_path / "whole", Signals())
    with pytest.raises(loop.Preempted):
        go(config, tmp_path / "parts", Signals(in_eval=1))
    assert go(config, tmp_path / "parts", Signals()) == whole
    steps = [json.loads((tmp_path / w / "results.json").read_text())["step"] for w in ("whole", "parts")]
    assert steps == [12, 12]


def test_the_second_signal_leaves_at_once():
    code = (
        "import time, jax; from mtjax.compute.distributed import Preemption; p = Preemption(); print('ready', flush=True)\n"
        "while True: time.sleep(0.01)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout.readline().strip() == "ready"
    process.send_signal(signal.SIGTERM)
    assert "signal received" in process.stdout.readline()
    assert process.poll() is None
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143


def test_too_many_non_finite_steps_stop_the_run_and_name_the_clips(dataset, tmp_path):
    config = tiny_config(dataset, optimizer={"name": "sgd", "lr": 1e38}, train__max_skipped=2, train__log_every=1)
    with pytest.raises(FloatingPointError, match=r"3 step\(s\) with a non-finite loss .*skipped-"):
        go(config, tmp_path / "run", Signals())
    dumps = sorted((tmp_path / "run").glob("skipped-*.json"))
    last = json.loads(dumps[-1].read_text())
    assert len(last["clips"]) == 8 and last["clips"][0].startswith("clip-") and "loss" in last["metrics"]


def test_another_global_batch_goes_on_at_the_same_number_of_clips_when_told(dataset, tmp_path):
    config = tiny_config(dataset, train__steps=12)
    with pytest.raises(loop.Preempted):
        go(config, tmp_path / "run", Signals(at_step=8))
    wider = tiny_config(dataset, train__steps=12, train__batch=16)
    with pytest.raises(ValueError, match=r"train.batch: was 8, now 16"):
        go(wider, tmp_path / "run", Signals())
    with pytest.raises(ValueError, match=r"global_batch: was 8, now 16"):
        go(wider, tmp_path / "run", Signals(), config_may_change=True)
    run = run_of(wider, tmp_path / "run", config_may_change=True, data_may_change=True)
    state, step, _ = run.start()
    assert step == 4 and int(state["step"]) == 4  # 8 steps of 8 clips are 4 of 16
    run.checkpoints.close()


def test_a_launch_that_failed_does_not_hold_its_workdir(dataset, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        go(tiny_config(dataset, train__init=str(tmp_path / "nowhere")), tmp_path / "run", Signals())
    go(tiny_config(dataset, train__steps=2), tmp_path / "run", Signals())
    with pytest.raises(ValueError, match="holds a run of another config"):
        go(tiny_config(dataset, train__steps=2, seed=5), tmp_path / "run", Signals())


def test_a_save_that_fails_stops_the_run(dataset, tmp_path, monkeypatch):
    """Never a run that goes on without checkpoints: what Orbax raises comes out of the loop, at the next save at the latest."""

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    run = run_of(tiny_config(dataset, train__save_every=3, train__log_every=4), tmp_path / "run")
    monkeypatch.setattr(run.checkpoints._manager, "save", full)
    with pytest.raises(OSError, match="No space left"):
        loop.train(run.exp, run, Signals())
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == [4]  # the save at step 3 failed, the one at 6 said so
    run.checkpoints.close()


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(dataset, tmp_path):
    lines = [
        [line["batch_crc"] for line in read_metrics(tmp_path / name / "metrics.jsonl") if "train/loss" in line]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
        if go(tiny_config(dataset, seed=seed), tmp_path / name, Signals())
    ]
    assert lines[0] == lines[1] != lines[2]
