"""The README's first command in small: a dataset is made, a MovT trained on it, tested and reported."""

import json

import pytest
from conftest import run_main

from mtjax.run.metrics_log import read_metrics

pytestmark = pytest.mark.core

SMALL = (
    "data.generate.clips=96", "data.holdout=0.25", "data.frames=8", "data.points=8", "model.motion=(8,)", "model.branch=8",
    "model.position=(8,)", "model.layers=1", "model.heads=2", "model.feed_forward=16", "model.chunk=0", "train.batch=8",
    "train.steps=4", "train.log_every=2", "train.eval_every=2.0",
)  # fmt: skip


def test_the_quick_start_leaves_what_the_readme_says(tmp_path):
    workdir = tmp_path / "run"
    command = ["mtjax.train", "--config=configs/movt_mannequin.py", f"--workdir={workdir}"]
    flags = [f"--config.{setting}" for setting in (*SMALL, f"data.root={tmp_path / 'mannequin'}")]
    done = run_main(*command, *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads((workdir / "results.json").read_text())["scores"]
    assert {"val/top1", "test/top1", "test_shift/top1"} <= set(scores)
    assert [line["step"] for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line] == [2, 4]
    assert (workdir / "checkpoints" / "4").is_dir() and list((workdir / "tensorboard").glob("events*"))
    again = run_main(*command, *flags)
    assert again.returncode == 0 and f"resuming {workdir} at step 4 of 4" in again.stdout
    done = run_main("mtjax.report", workdir)
    assert done.returncode == 0, done.stderr
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3 and "http" not in page
