"""A workdir that was damaged, comes from elsewhere, or is used twice; scores that are no numbers."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
from conftest import make_tracks_dataset, tiny_config, train_here

from mtjax import evaluate, export, lookup, predict
from mtjax import train as loop
from mtjax.compute.distributed import Preemption
from mtjax.lookup import ConfigError
from mtjax.run import checkpoint, checkpoint_folder, scoring
from mtjax.run.experiment import Experiment
from mtjax.run.metrics_log import UNREADABLE, MetricsLog, read_metrics
from mtjax.run.results import Result, read_results
from mtjax.run.saved_config import read_config, write_config
from mtjax.run.workdir import LAST_SAVED, Run

pytestmark = pytest.mark.usefixtures("one_device")
SELECTED = {
    "data__holdout": 0.25,
    "evals": {"val": {"name": "top1.Top1", "split": "val"}, "test": {"name": "top1.Top1", "split": "test"}},
    "train": {"batch": 8, "steps": 6, "log_every": 2, "eval_every": 1.0, "watch": ("val",), "select": "val/loss",
              "select_mode": "min"},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(one_device, tmp_path_factory):
    """(config, workdir) of a finished run that selects by its validation loss."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny_config(make_tracks_dataset(folder / "data"), **SELECTED)
    train_here(config, folder / "run")
    return config, folder / "run"


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of that run, to be damaged."""
    shutil.copytree(finished[1], tmp_path / "run")
    return finished[0], tmp_path / "run"


def opened(config, workdir, **may) -> Run:
    return Run(Experiment(config), workdir, **({"config_may_change": False, "data_may_change": False} | may))


def contents(workdir) -> dict[str, bytes]:
    return {str(p.relative_to(workdir)): p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file()}


# Whose workdir it is.


def test_one_run_owns_a_workdir(copied):
    config, workdir = copied
    first = opened(config, workdir)
    try:
        with pytest.raises(ConfigError, match=r"is in use by another run \(process \d+ on "):
            opened(config, workdir)
    finally:
        first.checkpoints.close()
    opened(config, workdir).checkpoints.close()


def test_a_file_in_the_workdirs_place_is_one_clear_error(finished, tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"cannot be used: .*; choose another folder"):
            opened(finished[0], workdir)


@pytest.mark.parametrize("scheme", ["gs", "s4"])
def test_a_bucket_that_cannot_be_reached_is_one_clear_error(finished, tmp_path, scheme):
    with pytest.raises(ValueError, match=rf"train.checkpoints={scheme}://nowhere/run: cannot be opened"):
        opened(tiny_config(finished[0]["data"]["root"], train__checkpoints=f"{scheme}://nowhere/run"), tmp_path / "run")


# A workdir from elsewhere.


def test_a_workdir_from_elsewhere_runs_nothing(copied, tmp_path, capsys):
    config, workdir = copied
    trace = tmp_path / "trace"
    for section, hostile in (
        ("data", {"name": "os.system", "command": f"touch {trace}"}),
        ("data", {"name": "pose.Pose", "root": config["data"]["root"], "skeleton": "os.system"}),
        ("model", {"name": "subprocess.getoutput", "cmd": f"touch {trace}"}),
        ("task", {"name": "os.system", "command": f"touch {trace}"}),
        ("evals", {"test": {"name": "os.system", "command": f"touch {trace}"}}),
    ):
        write_config(workdir, config | {section: hostile})
        assert evaluate.main([str(workdir)]) == 2
        assert "could run anything" in capsys.readouterr().err and not trace.exists()
    write_config(workdir, config | {"model": {"name": "subprocess.getoutput", "cmd": f"touch {trace}"}})
    begin = tiny_config(config["data"]["root"], train__init=str(workdir))
    with pytest.raises(ConfigError, match="could run anything"):
        train_here(begin, tmp_path / "begun")
    with pytest.raises(ConfigError, match="could run anything"):
        Experiment(config | {"task": {"name": "distill.Distill", "teacher": str(workdir)}})
    assert not trace.exists()


def test_no_command_runs_what_a_workdir_names_or_a_file_beside_it(copied, tmp_path, monkeypatch, capsys):
    config, workdir = copied
    trace = tmp_path / "trace"
    (workdir / "beside.py").write_text(f"open({str(trace)!r}, 'w').close()\n\n\nclass Net:\n    pass\n")
    monkeypatch.syspath_prepend(workdir)  # as `python -m` does for the folder one stands in
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"")
    commands = {
        evaluate: [workdir],
        predict: [workdir, video, f"--out={tmp_path / 'out'}"],
        export: [workdir, f"--out={tmp_path / 'model'}"],
    }
    for section in ("model", "task", "data"):
        write_config(workdir, config | {section: config[section] | {"name": "beside.Net"}})
        for command, arguments in commands.items():
            assert command.main([str(a) for a in arguments]) == 2
            error = capsys.readouterr().err
            assert "could run anything" in error and "--allow_code=beside" in error, (command, section, error)
        assert predict.main([str(workdir), "--column=seen"]) == 2 and "could run anything" in capsys.readouterr().err
    assert not trace.exists() and "beside" not in sys.modules


def test_a_users_own_class_is_evaluated_when_it_is_allowed(dataset, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_nets.py").write_text("from mtjax.models.movt import MovT\n\n\nclass Mine(MovT):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lookup, "_allowed", set())
    train_here(tiny_config(dataset, model__name="my_nets.Mine", train__steps=1), tmp_path / "run")
    assert evaluate.main([str(tmp_path / "run")]) == 2 and "--allow_code=my_nets" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "run"), "--allow_code=my_nets"]) == 0


def test_a_run_is_scored_from_whatever_folder_one_stands_in(tmp_path, monkeypatch, capsys):
    make_tracks_dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    train_here(tiny_config("data", train__steps=1), tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluate.main(["../run"]) == 0, capsys.readouterr().err
    shutil.move(tmp_path / "data", tmp_path / "moved")
    capsys.readouterr()
    assert evaluate.main(["../run"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "data") in error and "--root=DIR says where it is" in error
    assert evaluate.main(["../run", "--root=../moved"]) == 0


# Damage.


def test_a_changed_config_gives_way_to_what_the_checkpoint_knows(copied):
    config, workdir = copied
    path = workdir / "config.json"
    whole = path.read_text()
    changed = whole.replace('"points": 5', '"points": 4')
    assert changed != whole
    for damaged in (changed, whole[:-40], "[]", "{}", "\xff", whole.replace('"model"', '"modem"')):
        path.write_text(damaged, encoding="latin-1")
        assert read_config(workdir)["data"]["points"] == 5
        opened(config, workdir).checkpoints.close()
    path.unlink()
    other = tiny_config(config["data"]["root"], **SELECTED, optimizer__lr=0.5)
    with pytest.raises(ConfigError, match=r"optimizer.lr: was 0.003, now 0.5"):
        opened(other, workdir)


def test_a_config_that_is_edited_on_purpose_says_so_by_leaving_its_seal(copied):
    _, workdir = copied
    edited = {k: v for k, v in json.loads((workdir / "config.json").read_text()).items() if k != "seal"}
    edited["data"]["points"] = 4
    (workdir / "config.json").write_text(json.dumps(edited))
    assert read_config(workdir)["data"]["points"] == 4


def test_a_damaged_config_without_a_checkpoint_names_the_file(tmp_path):
    (tmp_path / "config.json").write_text('{"data": ')
    with pytest.raises(ConfigError, match=r"config.json cannot be read .*; put a good copy back"):
        read_config(tmp_path)
    with pytest.raises(ConfigError, match="is this the --workdir of a training run"):
        read_config(tmp_path / "nowhere")


def test_the_selected_step_is_what_sealed_meta_data_say(copied):
    config, workdir = copied
    run = opened(config, workdir)
    best, steps = run.checkpoints.best_step(), run.checkpoints.steps()
    run.checkpoints.close()
    assert best in steps and not list((workdir / "checkpoints").glob("*/metrics"))
    meta = next(p for p in (workdir / "checkpoints" / str(best) / "meta").rglob("*") if b"checksums" in p.read_bytes())
    meta.write_bytes(meta.read_bytes().replace(b'"metric"', b'"metrix"'))
    run = opened(config, workdir)
    assert run.checkpoints.best_step() in set(steps) - {best}
    run.checkpoints.close()
    (workdir / "results.json").unlink()
    assert train_here(config, workdir)["test/n"] == 16  # what is damaged is set aside, and the run ends all the same


def test_damaged_lines_of_the_log_are_kept_aside_and_no_other_is_lost(copied):
    _, workdir = copied
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    damaged = {1: b'{"step": 2, "train/lo\xf3s": 1', 3: lines[3].replace(b'"step"', b'"stfp"')}
    path.write_bytes(b"\n".join(damaged.get(i, line) for i, line in enumerate(lines)) + b"\n" + b'{"step": 6, "unfini')
    left = [json.loads(line) for i, line in enumerate(lines) if i not in damaged]
    assert read_metrics(path) == left
    MetricsLog(workdir, resume_step=6).close()
    assert read_metrics(path) == left
    assert (workdir / UNREADABLE).read_bytes().splitlines() == list(damaged.values())


def test_a_damaged_results_file_names_itself(copied):
    _, workdir = copied
    for text in ("{", "[]", '{"scores": 3, "fingerprint": {}}'):
        (workdir / "results.json").write_text(text)
        with pytest.raises(ConfigError, match=r"results.json is damaged; remove it"):
            Result.load(workdir)


# Nothing is lost.


def test_a_model_that_does_not_fit_leaves_the_workdir_as_it_was(copied):
    config, workdir = copied
    (workdir / ".lock").unlink()
    before = contents(workdir)
    for change in ({"model__layers": 2}, {"model__feed_forward": 24}, {"optimizer": {"name": "sgd", "lr": 1e-3}}):
        run = opened(tiny_config(config["data"]["root"], **SELECTED | change), workdir, config_may_change=True)
        try:
            with pytest.raises(checkpoint.Misfit, match="is of another model or optimizer"):
                run.start()
        finally:
            run.checkpoints.close()
        (workdir / ".lock").unlink()
        assert contents(workdir) == before


class Killed(BaseException):
    """In place of SIGKILL: nothing that the program does comes after it."""


@pytest.mark.parametrize("operation", range(1, 5))
def test_a_step_that_is_written_anew_is_there_whenever_the_run_is_killed(tmp_path, monkeypatch, operation):
    """Before each of the operations that put the new one in its place: two renames and two removals."""
    state = {"params": {"w": np.arange(8.0, dtype=np.float32)}}
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    template = {"params": {"w": jax.ShapeDtypeStruct((8,), "float32", sharding=one)}}
    checkpoints = checkpoint.Checkpoints(str(tmp_path))
    checkpoints.save(3, jax.device_put(state), {"evaluated": False}, wait=True)
    kind, calls, real = type(checkpoints.directory), [], checkpoint_folder.replace

    def counted(change):
        def call(self, *arguments):
            calls.append(change)
            if len(calls) == operation:
                raise Killed
            return change(self, *arguments)

        return call

    def killed_within(folder, step):
        with monkeypatch.context() as patch:
            for name in ("rename", "rmtree"):
                patch.setattr(kind, name, counted(getattr(kind, name)))
            real(folder, step)

    monkeypatch.setattr(checkpoint_folder, "replace", killed_within)
    with pytest.raises(Killed):
        checkpoints.save(3, jax.device_put(state), {"evaluated": True}, metric=1.0, wait=True)
    monkeypatch.setattr(checkpoint_folder, "replace", real)
    again = checkpoint.Checkpoints(str(tmp_path))
    found, meta = again.restore_latest(template)
    assert meta["step"] == 3 and meta["evaluated"] == (operation > 2)
    np.testing.assert_array_equal(found["params"]["w"], state["params"]["w"])
    assert [p.name for p in tmp_path.iterdir()] == ["3"]
    again.save(3, jax.device_put(state), {"evaluated": True}, metric=1.0, wait=True)
    assert again.read_meta(3)["evaluated"] and again.best_step() == 3
    again.close()


def test_a_workdir_whose_checkpoints_are_gone_does_not_start_over(copied):
    config, workdir = copied
    shutil.rmtree(workdir / "checkpoints")
    before = (workdir / "metrics.jsonl").read_bytes()
    for known in (LAST_SAVED, "results.json"):
        with pytest.raises(checkpoint.NoGoodCheckpoint, match=rf"{known} says that a checkpoint was saved"):
            train_here(config, workdir)
        (workdir / known).unlink()
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert train_here(config, workdir)["test/n"] == 16  # as after a kill before the first checkpoint


# Scores that are no numbers.


def test_no_step_is_selected_by_a_score_that_is_no_number(finished, tmp_path, monkeypatch):
    config, _ = finished
    real, calls = scoring.run_eval, []

    def third_is_nan(experiment, state, name, stop):
        calls.append(name)
        scores, rows = real(experiment, state, name, stop)
        return {k: float("nan") if len(calls) == 1 else v for k, v in scores.items()}, rows

    monkeypatch.setattr(scoring, "run_eval", third_is_nan)
    train_here(config, tmp_path / "run")
    results = read_results(tmp_path / "run")
    assert results["step"] == 6 and calls[0] == "val"


def test_predictions_that_are_no_numbers_stop_a_run_or_are_counted(finished, tmp_path):
    config, workdir = finished
    run = opened(config, workdir)
    state = run.start()[0]
    run.checkpoints.close()
    exp = run.exp
    numbers, _ = scoring.run_eval(exp, state, "test")
    name = "head/bias"
    broken = dict(state) | {"params": state["params"] | {name: state["params"][name] * np.nan}}
    with pytest.raises(FloatingPointError, match=r"evals.test: 16 of 16 predictions are NaN or infinite"):
        scoring.run_eval(exp, broken, "test")
    real = exp.data.read

    def one_is_nan(clips, *arguments, **keywords):
        batch = real(clips, *arguments, **keywords)
        tracks = batch["tracks"].copy()
        tracks[np.asarray(clips) == exp.data.rows("test")[0]] = np.nan
        return batch | {"tracks": tracks}

    object.__setattr__(exp.data, "read", one_is_nan)
    found, _ = scoring.run_eval(exp, state, "test")
    assert (
        found["test/not_finite"] == 1
        and found["test/top1"] <= numbers["test/top1"]
        and "test/not_finite" not in numbers
    )


def test_a_moving_average_that_is_no_number_is_not_scored(finished, tmp_path):
    """It is what predicts, while loss and gradients of the parameters stay finite."""
    config = tiny_config(finished[0]["data"]["root"], **SELECTED, optimizer__ema=0.9)
    run = opened(config, tmp_path / "run")
    state = run.start()[0]
    run.checkpoints.close()
    broken = dict(state) | {"ema": {k: v * np.nan for k, v in state["ema"].items()}}
    with pytest.raises(FloatingPointError, match="moving average"):
        scoring.run_eval(run.exp, broken, "test")
    with pytest.raises(lookup.ConfigError, match=r"config\.optimizer\.ema=2\.0"):
        opened(tiny_config(config["data"]["root"], **SELECTED, optimizer__ema=2.0), tmp_path / "other")


def test_json_of_scores_has_no_nan(copied):
    _, workdir = copied
    from mtjax.run.results import to_json

    text = to_json({"scores": {"a": float("nan"), "b": [1.0, float("inf")], "c": 2}})
    assert json.loads(text, parse_constant=pytest.fail) == {"scores": {"a": None, "b": [1.0, None], "c": 2}}
    results = json.loads((workdir / "results.json").read_text())
    (workdir / "results.json").write_text(to_json(results | {"scores": {"test/r": float("nan")}}))
    assert np.isnan(Result.load(workdir).scores["test/r"])


def test_scores_are_printed_when_their_rows_cannot_be_kept(copied, capsys):
    config, workdir = copied
    shutil.rmtree(workdir / "rows")
    (workdir / "rows").write_text("")
    assert evaluate.main([str(workdir), "--evals=test"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["test/n"] == 16 and "rows" in captured.err
    run = opened(config, workdir)
    try:
        with pytest.raises(OSError, match="rows"):
            loop.train(run.exp, run, Preemption())
    finally:
        run.checkpoints.close()
    assert "test/top1" in capsys.readouterr().out
