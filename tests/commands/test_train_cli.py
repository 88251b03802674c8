"""The real command line: mistakes are one line and exit 2; a run leaves everything it promises."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_tracks_dataset, run_cli, run_main, tiny_config, write_config

from mtjax import lookup
from mtjax.compute import optim
from mtjax.run import experiment, plain_config
from mtjax.run.experiment import Experiment
from mtjax.run.metrics_log import read_metrics
from mtjax.run.plain_config import difference, refused_on_resume


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir, config file, stdout) of a finished tiny run with a validation split."""
    folder = tmp_path_factory.mktemp("trained")
    root = make_tracks_dataset(folder / "data")
    config = tiny_config(
        root,
        data__holdout=0.25,
        evals={"val": {"name": "top1.Top1", "split": "val"}, "test": {"name": "top1.Top1", "split": "test"}},
        train={"batch": 8, "epochs": 20.0, "log_every": 5, "eval_every": 5.0, "watch": ("val",), "select": "val/top1",
               "table": ("mt.t1/movt/jester_acc=test/top1",)},
    )  # fmt: skip
    file = write_config(folder / "config.py", config)
    done = run_cli("-m", "mtjax.train", f"--config={file}", f"--workdir={folder / 'run'}")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "run", file, done.stdout


def test_a_run_leaves_metrics_results_rows_tensorboard_and_checkpoints(trained):
    workdir, _, stdout = trained
    lines = read_metrics(workdir / "metrics.jsonl")
    names = {k for line in lines for k in line}
    assert {"step", "train/loss", "train/top1", "train/grad_norm", "train/examples_per_s", "train/data_wait", "batch_crc",
            "val/top1", "test/top1", "test/macro"} <= names  # fmt: skip
    results = json.loads((workdir / "results.json").read_text())
    assert results["scores"]["test/n"] == 16 and results["clips"]["test"] == 16 and results["gmacs"] > 0
    assert results["fingerprint"]["catalog"] and results["versions"]["jax"]
    with np.load(workdir / "rows" / "test.npz") as rows:
        assert rows["probs"].shape == (16, 4) and np.array_equal(np.sort(rows["clip"]), rows["clip"])
    assert list((workdir / "tensorboard").glob("events*")) and (workdir / "config.json").exists()
    assert "eta" in stdout and "clips/s" in stdout and "data wait" in stdout
    assert results["scores"]["test/top1"] > 60  # four directions of motion: it did learn


def test_tensorboard_reads_back_what_was_logged(trained):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(trained[0] / "tensorboard"))
    events.Reload()
    logged = {
        line["step"]: line["train/loss"] for line in read_metrics(trained[0] / "metrics.jsonl") if "train/loss" in line
    }
    assert {e.step: pytest.approx(e.value, rel=1e-5) for e in events.Scalars("train/loss")} == logged


def test_checkpoints_may_lie_elsewhere(dataset, tmp_path):
    file = write_config(tmp_path / "config.py", tiny_config(dataset))
    where = tmp_path / "bucket" / "run"
    command = ["mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}"]
    done = run_main(*command, f"--config.train.checkpoints={where}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert any(p.name.isdigit() for p in where.iterdir()) and not (tmp_path / "run" / "checkpoints").exists()
    assert run_main("mtjax.evaluate", tmp_path / "run", "--evals=test").returncode == 0


def test_running_again_only_prints_the_result(trained):
    workdir, file, _ = trained
    before = json.loads((workdir / "results.json").read_text())["scores"]
    again = run_main("mtjax.train", f"--config={file}", f"--workdir={workdir}")
    assert again.returncode == 0 and "resuming" in again.stdout
    assert json.loads((workdir / "results.json").read_text())["scores"] == before


def test_a_changed_config_is_refused_with_the_difference(trained):
    workdir, file, _ = trained
    changed = run_main("mtjax.train", f"--config={file}", f"--workdir={workdir}", "--config.optimizer.lr=0.5")
    assert changed.returncode == 2 and "optimizer.lr: was 0.003, now 0.5" in changed.stderr
    free = run_main("mtjax.train", f"--config={file}", f"--workdir={workdir}", "--config.train.log_every=7")
    assert free.returncode == 0


def test_a_changed_dataset_is_refused(trained, tmp_path):
    import shutil

    workdir, file, _ = trained
    shutil.copytree(workdir, tmp_path / "run")
    other = make_tracks_dataset(tmp_path / "other", seed=1)
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}", f"--config.data.root={other}")
    assert done.returncode == 2 and "the data changed since step" in done.stderr and "fingerprint" in done.stderr


def test_evaluate_agrees_with_training_and_refuses_what_was_trained_on(trained):
    workdir, _, _ = trained
    scores = json.loads((workdir / "results.json").read_text())["scores"]
    done = run_main("mtjax.evaluate", workdir, "--evals=test")
    found = json.loads(done.stdout)
    assert found["test/top1"] == pytest.approx(scores["test/top1"]) and found["test/n"] == 16
    refused = run_main("mtjax.evaluate", workdir, "--evals=test", "--split=train")
    assert refused.returncode == 2 and "were trained on" in refused.stderr
    allowed = run_main("mtjax.evaluate", workdir, "--evals=test", "--split=train", "--allow_overlap")
    assert json.loads(allowed.stdout)["test/overlap"] == 24


def test_a_split_without_labels_is_refused_before_it_is_read(trained, tmp_path):
    """By its training, and by `evaluate --split` whatever the evaluator."""
    root = make_tracks_dataset(tmp_path / "data", labelled=("train",))
    file = write_config(tmp_path / "config.py", tiny_config(root))
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    assert (
        done.returncode == 2 and "split 'test' has no labelled clip" in done.stderr and "process 0" not in done.stdout
    )
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}", "--config.evals.test.split=train",
                    "--allow_overlap")  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run_main("mtjax.evaluate", tmp_path / "run", "--split=test")
    assert done.returncode == 2 and "split 'test' has no labelled clip" in done.stderr and not done.stdout


def test_report_prints_ours_beside_the_papers_and_writes_one_page(trained):
    workdir, _, _ = trained
    done = run_main("mtjax.report", workdir, "--table=mt.t1", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "70.01" in done.stdout and "VideoMAE-small 1 frame" in done.stdout
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5 and "direction_3" in page and "http" not in page
    wrong = run_main("mtjax.report", workdir, "--table=mt.t99")
    assert wrong.returncode == 2 and "mt.t1" in wrong.stderr


def test_predict_writes_a_column_that_others_can_read(trained):
    from mtjax.data.columns import Column

    workdir, _, _ = trained
    done = run_main("mtjax.predict", workdir, "--column=movt.probs", "--splits=test", "--fields=probs,embedding")
    assert done.returncode == 0, done.stderr
    root = json.loads((workdir / "config.json").read_text())["data"]["root"]
    column = Column(root, "movt.probs")
    assert len(column) == 16 and column.spec.weights
    values = column.read([0])[0]
    assert values["probs"].shape == (4,) and values["probs"].sum() == pytest.approx(1, abs=1e-5)
    again = run_main("mtjax.predict", workdir, "--column=movt.probs", "--splits=test", "--fields=nonsense")
    assert again.returncode == 2 and "nonsense" in again.stderr


def test_an_export_needs_only_jax_and_gives_what_evaluation_gave(trained):
    from mtjax.run.experiment import open_run

    workdir, _, _ = trained
    done = run_main("mtjax.export", workdir)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads((workdir / "model.json").read_text())
    assert facts["inputs"]["tracks"]["shape"][0] == "b" and facts["outputs"]["probs"]["shape"] == ["b", 4]
    exp, _, _ = open_run(workdir, scored=True)
    rows = np.load(workdir / "rows" / "test.npz")
    inputs = {name: exp.data.read(rows["clip"][:5])[name] for name in facts["inputs"]}
    np.savez(workdir / "inputs.npz", **inputs)
    alone = (
        "import sys, jax.export, numpy as np; "
        f"m = jax.export.deserialize(bytearray(open({str(workdir / 'model.jaxexport')!r}, 'rb').read())); "
        f"out = m.call(dict(np.load({str(workdir / 'inputs.npz')!r}))); "
        f"np.save({str(workdir / 'probs.npy')!r}, out['probs']); assert 'mtjax' not in sys.modules and 'flax' not in sys.modules"
    )
    called = run_cli("-c", alone)
    assert called.returncode == 0, called.stderr[-2000:]
    np.testing.assert_allclose(np.load(workdir / "probs.npy"), rows["probs"][:5], atol=1e-5)
    wrong = run_main("mtjax.export", workdir, "--step=7777")
    assert wrong.returncode == 2 and "no step 7777" in wrong.stderr


MISTAKES = [
    (["--config.optimizer.lrr=3"], "lr"),
    (["--config.modle.layers=3"], "model"),
    (["--config.train.batch=abc"], "invalid literal"),
    (["--config.train.keep=abc"], "config.train.keep='abc': Train wants int"),  # a key that the file leaves out
    (["--config.model.kernal=5"], "did you mean 'kernel'"),
    (["--config.model.layers=1.5"], "invalid literal"),
    (["--config.model.name=movt.MoVT"], "did you mean 'MovT'"),
    (["--config.data.root=/nowhere"], "no dataset.json"),
    (["--config.data.column=tracks.lk"], "does not exist; extract the column first"),
    (["--config.data.train=training"], "splits are"),
    (["--config.train.batch=9", "--config.train.accumulate=3"], "does not divide over 2"),
    (["--config.evals.test.split=train"], "also trained on"),
    (["--unknown=1"], "Unknown command line flag"),
    (["train.batch=3"], "settings are written --config.a.b=value"),
]


def test_mistakes_are_one_line_and_exit_2(dataset, tmp_path):
    file = write_config(tmp_path / "config.py", tiny_config(dataset))
    for arguments, expected in MISTAKES:
        done = run_main("mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}", *arguments, devices=2)
        lines = [line for line in done.stderr.splitlines() if line.startswith("mtjax train:")]
        assert done.returncode == 2 and len(lines) == 1 and expected in lines[0], (
            arguments,
            done.returncode,
            done.stderr[-500:],
        )
        assert "Traceback" not in done.stderr, arguments
    assert not (tmp_path / "run" / "checkpoints" / "0").exists()


def test_missing_config_file_is_one_line(tmp_path):
    done = run_cli("-m", "mtjax.train", "--config=configs/nope.py", f"--workdir={tmp_path}")
    assert done.returncode == 2 and "configs/nope.py" in done.stderr and "Traceback" not in done.stderr


def test_dry_run_needs_no_dataset(tmp_path):
    file = write_config(tmp_path / "config.py", tiny_config("/nowhere", task__num_classes=7))
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}", "--dry_run", devices=4)
    assert done.returncode == 0, done.stderr
    for word in ("parameters", "GMAC a clip", "2 per device", "memory"):
        assert word in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "mesh", [{"fsdp": 2}, {"fsdp": 4, "tensor": 2, "rules": ((r"up/kernel$", ("", "tensor")),)}, {"tensor": 2}]
)
def test_any_mesh_compiles_and_divides_what_it_shards(tmp_path, mesh):
    """The state is donated: what goes in has to lie on the devices as what comes out."""
    config = tiny_config("/nowhere", task__num_classes=4, model__feed_forward=256, mesh=mesh)
    file = write_config(tmp_path / "config.py", config)
    done = run_main("mtjax.train", f"--config={file}", "--dry_run", devices=8)
    assert done.returncode == 0, done.stderr[-1500:]
    shape = {"fsdp": 1, "tensor": 1} | {k: v for k, v in mesh.items() if k != "rules"}
    assert all(f"'{axis}': {size}" in done.stdout for axis, size in shape.items())


def test_unknown_sections_and_keys_name_the_nearest(dataset):
    config = tiny_config(dataset)
    with pytest.raises(lookup.ConfigError, match="did you mean 'optimizer'"):
        Experiment(config | {"optimiser": {}})
    with pytest.raises(lookup.ConfigError, match=r"config.model.layer: MovT takes no 'layer'; did you mean 'layers'"):
        Experiment(tiny_config(dataset, model__layer=3))
    with pytest.raises(ValueError, match="config.optimizer.lr=0.0: must be positive"):
        Experiment(tiny_config(dataset, optimizer={}))
    with pytest.raises(lookup.ConfigError, match="no module 'mvt'"):
        Experiment(tiny_config(dataset, model__name="mvt.MovT"))
    with pytest.raises(lookup.ConfigError, match="must be in train.watch"):
        Experiment(tiny_config(dataset, train__select="val/top1"))


def test_a_users_own_module_needs_no_list(dataset, tmp_path, monkeypatch):
    (tmp_path / "one_file_lab.py").write_text("from mtjax.models.movt import MovT\n\n\nclass Mine(MovT):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Experiment(tiny_config(dataset, model__name="one_file_lab.Mine")).program.num_params > 0


def test_difference_of_configs():
    before = {"a": {"b": 1, "c": (1, 2)}, "mesh": {"fsdp": 1}, "train": {"log_every": 1}}
    now = {"a": {"b": 2, "c": (1, 2)}, "mesh": {"fsdp": 2}, "train": {"log_every": 3}}
    assert difference(before, now) == {"a.b": (1, 2), "mesh.fsdp": (1, 2), "train.log_every": (1, 3)}
    assert refused_on_resume(before, now) == {"a.b": (1, 2)}


def test_free_fields_exist():
    """A renamed field must not silently become one that blocks a resume."""
    from mtjax.modalities.tracks import Tracks

    fields = {"data": Tracks, "train": experiment.Train, "optimizer": optim.Optimizer}
    for name in plain_config.FREE_ON_RESUME:
        section, _, key = name.partition(".")
        if section in fields:
            assert key in fields[section].__dataclass_fields__, name


def test_regression_runs_end_to_end(dataset, tmp_path):
    config = tiny_config(
        dataset,
        task={"name": "regress.Regress"},
        evals={"test": {"name": "regression.PearsonR", "split": "test"}},
        optimizer={"lr": 3e-3, "schedule": "plateau", "patience": 0},
        train={"batch": 8, "epochs": 3.0, "watch": ("test",), "log_every": 5},
    )
    file = write_config(tmp_path / "config.py", config)
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads((Path(tmp_path) / "run" / "results.json").read_text())["scores"]
    assert {"test/r_label", "test/r_number", "test/loss", "test/n"} == set(scores)
