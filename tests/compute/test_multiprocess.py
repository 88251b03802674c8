"""Several processes are one run: the same batches, losses and scores, and each process count continues the other's saves."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, make_tracks_dataset, run_cli, tiny_config, write_config

from mtjax.data.columns import Column
from mtjax.run.metrics_log import read_metrics

STEPS, SAVE_EVERY, LOG_EVERY = 24, 8, 4
LIMIT_S = 200


@contextlib.contextmanager
def launched(*command: str, **environment: str):
    """A running command with its output as `.stdout`; it and all its children are gone at the end, or after LIMIT_S."""
    run = subprocess.Popen(
        ["timeout", "--kill-after=1", str(LIMIT_S), *map(str, command)],
        cwd=REPO, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        run.stdout.close()


def two_processes(*arguments: str, **environment: str):
    return launched(REPO / "launch" / "local_multiprocess.sh", "2", "--", *arguments, **environment)


def train(processes: int, *arguments: str) -> str:
    """Output of a run that ends well, over two devices in one process or two processes of one device."""
    if processes == 1:
        done = run_cli("-m", "mtjax.train", *arguments, devices=2, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout
    with two_processes(*arguments) as run:
        output = run.stdout.read()
        assert run.wait() == 0, output[-2000:]
    return output


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(folder, arguments): a config whose loss depends on the batch, on augmentation and on dropout."""
    folder = tmp_path_factory.mktemp("processes")
    root = make_tracks_dataset(folder / "data")
    sections = {"batch": 8, "steps": STEPS, "log_every": LOG_EVERY, "save_every": SAVE_EVERY}
    config = tiny_config(root, train=sections, model__dropout=0.1, data__augment={"noise": 0.01}, data__cache="none")
    with pytest.MonkeyPatch.context() as environment:  # ten starts of two programs: compile everything once
        environment.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        environment.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield folder, [f"--config={write_config(folder / 'config.py', config)}"]


@pytest.fixture(scope="module")
def runs(case):
    """Number of processes → (workdir, output) of the same training."""
    folder, arguments = case
    return {n: (folder / f"run{n}", train(n, *arguments, f"--workdir={folder / f'run{n}'}")) for n in (1, 2)}


def assert_same_numbers(workdir: Path, expected: Path) -> None:
    """The same batches, losses, gradients and scores at the same steps."""
    lines, wanted = (read_metrics(w / "metrics.jsonl") for w in (workdir, expected))
    assert [(line["step"], line.get("batch_crc")) for line in lines] == [
        (w["step"], w.get("batch_crc")) for w in wanted
    ]
    assert [line["step"] for line in lines if "batch_crc" in line] == list(range(LOG_EVERY, STEPS + 1, LOG_EVERY))
    for line, want in zip(lines, wanted, strict=True):
        for name in want.keys() & {"train/loss", "train/grad_norm", "train/top1", "test/loss", "test/top1"}:
            assert line[name] == pytest.approx(want[name], rel=1e-5, abs=1e-5), f"{name} at step {want['step']}"
    scores, wanted = (json.loads((w / "results.json").read_text())["scores"] for w in (workdir, expected))
    assert scores == pytest.approx(wanted, rel=1e-5, abs=1e-5) and scores["test/n"] == 16


def test_two_processes_train_as_one_does(runs):
    assert_same_numbers(runs[2][0], runs[1][0])


def test_only_process_0_writes_and_talks(runs):
    workdir, output = runs[2]
    assert f"[0] step {STEPS}/{STEPS}" in output and "[1] step" not in output and "[1] checkpoint" not in output
    steps = [line["step"] for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line]
    assert steps == sorted(set(steps))
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert len(list((workdir / "rows").iterdir())) == 1


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_a_checkpoint_continues_on_another_number_of_processes(case, runs, before, after):
    folder, arguments = case
    workdir = shutil.copytree(runs[before][0], folder / f"from{before}to{after}")
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    (workdir / "results.json").unlink()
    output = train(after, *arguments, f"--workdir={workdir}")
    assert f"resuming {workdir} at step {STEPS - SAVE_EVERY} of {STEPS}" in output
    assert_same_numbers(workdir, runs[1][0])


@pytest.mark.slow
def test_sigterm_to_one_of_two_stops_both_and_a_rerun_completes(case, runs):
    """With the dataset on the devices, which draws the same batches in another way."""
    folder, arguments = case
    workdir = folder / "stopped"
    arguments = [*arguments, f"--workdir={workdir}", "--config.data.cache=device"]
    pids, output = {}, ""
    with two_processes(*arguments) as run:
        for line in run.stdout:
            output += line
            if " pid " in line:
                pids[line[:3]] = int(line.split()[-1])
            if f"[0] step {LOG_EVERY}/" in line:
                # JAX looks for signals once a second; the run shall not come to its end before.
                os.kill(pids["[0]"], signal.SIGSTOP)
                os.kill(pids["[1]"], signal.SIGTERM)
                time.sleep(1.5)
                os.kill(pids["[0]"], signal.SIGCONT)
        assert run.wait() == 143, output[-2000:]
    assert "[0] exit status 143" in output and "[1] exit status 143" in output
    stopped_at = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert LOG_EVERY <= stopped_at < STEPS and not (workdir / "results.json").exists()
    assert f"resuming {workdir} at step {stopped_at} of {STEPS}" in train(2, *arguments)
    assert_same_numbers(workdir, runs[1][0])


def test_processes_with_different_datasets_stop_before_the_first_step(case, tmp_path):
    """A copy of the data on each host, and one of them is old."""
    _, arguments = case
    other = make_tracks_dataset(tmp_path / "other", seed=1)
    text = Path(arguments[0].removeprefix("--config=")).read_text()
    file = tmp_path / "config.py"
    file.write_text(
        f"import os\n{text}\nsame = get_config\n\ndef get_config():\n    c = same()\n"
        f"    c.data.root = {str(other)!r} if os.environ['JAX_PROCESS_ID'] == '1' else c.data.root\n    return c\n"
    )
    with two_processes(f"--config={file}", f"--workdir={tmp_path / 'run'}") as run:
        output = run.stdout.read()
        assert run.wait() != 0 and "the processes of this run disagree about ['fingerprint'" in output, output[-2000:]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_process_that_finds_no_other_says_what_to_do():
    nobody = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:9", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    done = run_cli("-c", "from mtjax.compute import distributed; distributed.initialize(timeout_s=1)", **nobody)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "did not come within 1 s" in done.stderr and "the same command on every host" in done.stderr


FAKE_PYTHON = f"""#!/usr/bin/env bash
[[ $1 == -c ]] && exec {sys.executable} "$@"
case "$JAX_PROCESS_ID $*" in
  *"--quit --distributed") trap 'exit 143' TERM ;;
  "1 "*"--fail"*) exit 3 ;;
  *) trap '' TERM ;;
esac
echo "here with $*"
while :; do sleep 0.1; done
"""


@pytest.fixture
def fake_python(tmp_path) -> dict[str, str]:
    path = tmp_path / "python"
    path.write_text(FAKE_PYTHON)
    path.chmod(0o755)
    return {"PYTHON": str(path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def test_when_one_process_fails_the_others_do_not_stay(fake_python):
    start = time.monotonic()
    with two_processes("--fail", GRACE_S="1", **fake_python) as run:
        output = run.stdout.read()
        assert run.wait() == 3
    assert "[0] here with -m mtjax.train --fail --distributed" in output and "[1] exit status 3" in output
    assert time.monotonic() - start < 20


def test_a_signal_to_the_launcher_reaches_all_processes(fake_python):
    with two_processes("--quit", **fake_python) as run:
        output = ""
        while output.count("here with") < 2:
            output += run.stdout.readline()
        run.send_signal(signal.SIGTERM)  # to `timeout`, which passes it on to the script
        output += run.stdout.read()
        assert run.wait() == 143
    assert output.count("exit status 143") == 2


def stand_in(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


def test_tpu_pod_gives_every_host_the_command_unharmed(tmp_path):
    stand_in(
        tmp_path,
        "gcloud",
        'echo "$@" | head -1\nHOME=$FAKE_HOME; cd ~\nfor last; do :; done; bash -c "${last#--command=}"',
    )
    stand_in(tmp_path, "python", 'printf "<%s>" "$@"; echo; exit 143')
    (tmp_path / "mtjax" / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "mtjax" / ".venv" / "bin" / "activate").write_text("")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKE_HOME": str(tmp_path)}
    arguments = ["--config=a b.py", "--config.data.classes=('x', 'y')"]
    with launched(REPO / "launch" / "tpu_pod.sh", "pod", "us-central2-b", "--", *arguments, **environment) as run:
        output = run.stdout.read()
        assert run.wait() == 143, output
    assert "compute tpus tpu-vm ssh pod --zone=us-central2-b --worker=all" in output
    assert "<-m><mtjax.train><--config=a b.py><--config.data.classes=('x', 'y')><--distributed>" in output


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (2, False), (143, True)])
def test_slurm_requeues_what_was_stopped_and_nothing_else(tmp_path, status, requeued):
    stand_in(tmp_path, "srun", f'echo "srun $*"; exit {status}')
    stand_in(tmp_path, "scontrol", 'echo "scontrol $*"')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    with launched("bash", REPO / "launch" / "slurm.sbatch", "--config=x.py", **environment) as run:
        output = run.stdout.read()
        assert run.wait() == status
    assert "python -m mtjax.train --config=x.py --distributed" in output
    assert ("scontrol requeue 17" in output) == requeued


def test_gke_runs_the_same_command_and_gives_it_time_and_memory():
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((REPO / "launch" / "gke.yaml").read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert container["command"][:3] == ["python", "-m", "mtjax.train"] and container["command"][-1] == "--distributed"
    assert job["parallelism"] == job["completions"] and pod["terminationGracePeriodSeconds"] >= 120
    assert "/dev/shm" in [m["mountPath"] for m in container["volumeMounts"]]


@pytest.mark.slow
def test_two_processes_write_the_columns_that_one_does(case, runs, tmp_path):
    """Predictions and clusters; the first process alone writes and talks."""
    written = {}
    for processes in (1, 2):
        root = shutil.copytree(case[0] / "data", tmp_path / f"data{processes}")
        workdir = shutil.copytree(runs[1][0], tmp_path / f"run{processes}")
        config = json.loads((workdir / "config.json").read_text())
        config["data"]["root"] = str(root)
        del config["seal"]  # as who edits it by hand does
        (workdir / "config.json").write_text(json.dumps(config))
        for command, *arguments in (
            ("predict", workdir, "--column=p"),
            ("cluster", root, "--features=p", "--column=c", "--k=3", "--iterations=4"),
        ):
            if processes == 1:
                done = run_cli("-m", f"mtjax.{command}", *arguments, devices=2, timeout=LIMIT_S)
                assert done.returncode == 0, done.stderr[-2000:]
                continue
            with two_processes(*arguments, COMMAND=command) as run:
                output = run.stdout.read()
                assert run.wait() == 0, output[-2000:]
            assert ("48 records" in output) == (command == "predict") and "[1] {" not in output
        read = [Column(root, name) for name in ("p", "c")]
        written[processes] = [dict(zip(c.ids.tolist(), c.scan(), strict=True)) for c in read]
    (probs, labels), (probs_of_two, labels_of_two) = written[1], written[2]
    assert len(probs) == 48 and probs.keys() == probs_of_two.keys()
    for clip, record in probs.items():
        np.testing.assert_allclose(probs_of_two[clip]["embedding"], record["embedding"], atol=1e-5)
        assert labels_of_two[clip]["label"].tolist() == labels[clip]["label"].tolist()
