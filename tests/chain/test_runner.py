"""Running a chain: order, what is skipped, kills and signals, several jobs, what is shown beforehand."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO

from mtjax.chain import Command, load, plan
from mtjax.chain import __main__ as chain
from mtjax.lookup import ConfigError

TINY = '''
from pathlib import Path
from mtjax.chain import Command

def step(name, needs="", wait=0.0, status=0):
    """Notes that it began, waits, and makes a file."""
    code = (
        "import os, sys, time; from pathlib import Path; p = Path(sys.argv[1]);"
        "open(f'{p}.began', 'a').write(f'{os.getpid()}\\\\n'); time.sleep(float(sys.argv[2]));"
        "sys.exit(int(sys.argv[3])) if int(sys.argv[3]) else p.write_text('made')"
    )
    return Command(("-c", code, name, str(wait), str(status)), (Path(name),), tuple(Path(n) for n in needs.split()))

def chain(runs: str, wait: float = 0.0, status: int = 0):
    """Three steps in a row, listed backwards, and one beside them."""
    a, b, c, d = (f"{runs}/{name}" for name in "abcd")
    return [step(c, needs=b), step(b, needs=a, wait=wait, status=status), step(a), step(d)]
'''


@pytest.fixture
def tiny(tmp_path) -> list[str]:
    (tmp_path / "tiny.py").write_text(TINY)
    (tmp_path / "runs").mkdir()
    return [str(tmp_path / "tiny.py"), f"--runs={tmp_path / 'runs'}"]


def began(tmp_path: Path, name: str) -> list[int]:
    """Process ids, one for each time that a step has begun."""
    path = tmp_path / "runs" / f"{name}.began"
    return [int(line) for line in path.read_text().split()] if path.is_file() else []


def until(condition, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_steps_run_in_order_once_and_again_when_their_command_or_result_changes(tiny, tmp_path, capfd):
    assert chain.main(tiny) == 0 == chain.main(tiny)
    assert [len(began(tmp_path, n)) for n in "abcd"] == [1, 1, 1, 1]
    said = capfd.readouterr().out
    assert said.count(": done") == 4
    (tmp_path / "runs/c").unlink()
    (tmp_path / "runs/a").write_text("changed")
    assert chain.main([*tiny, "--wait=0.01"]) == 0
    assert [len(began(tmp_path, n)) for n in "abcd"] == [2, 2, 2, 1]


def test_a_failed_step_stops_what_needs_it_and_its_status_is_the_chains(tiny, tmp_path, capfd):
    assert chain.main([*tiny, "--status=3"]) == 3
    assert not began(tmp_path, "c") and "ended with status 3; the same command goes on" in capfd.readouterr().err
    assert chain.main(tiny) == 0 and len(began(tmp_path, "a")) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not end the commands of a killed chain")
def test_a_chain_that_ends_takes_its_commands_with_it_and_the_next_one_goes_on(number, tiny, tmp_path):
    command = [sys.executable, "-m", "mtjax.chain", *tiny, "--wait=60", "--jobs=2"]
    running = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL)
    try:
        until(lambda: began(tmp_path, "b") and (tmp_path / "runs/d").is_file(), 60)
        with pytest.raises(ConfigError, match="another chain is at work"), chain.one_at_a_time(tmp_path / "runs"):
            pass
        running.send_signal(number)
        assert running.wait(20) == (-9 if number == signal.SIGKILL else 143)
    finally:
        running.kill()
    (process,) = began(tmp_path, "b")
    until(lambda: not is_running(process))
    assert not (tmp_path / "runs/b").exists() and not began(tmp_path, "c")
    assert chain.main(tiny) == 0
    assert [len(began(tmp_path, n)) for n in "abcd"] == [1, 2, 1, 1]


CHAIN_WITH_A_SLOW_END = """
import subprocess, sys, time
from pathlib import Path
from mtjax.chain.runner import one_at_a_time
with one_at_a_time(Path(sys.argv[1])) as lock:
    command = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)"], pass_fds=(lock,))
    print(command.pid, flush=True)
    time.sleep(60)
"""


def test_a_chain_waits_for_the_commands_of_one_that_was_killed(tmp_path, capfd):
    """They may still be saving, and own their workdirs."""
    killed = subprocess.Popen([sys.executable, "-c", CHAIN_WITH_A_SLOW_END, tmp_path], cwd=REPO, stdout=subprocess.PIPE)
    command = int(killed.stdout.readline())
    killed.kill()
    killed.wait()
    with chain.one_at_a_time(tmp_path):
        assert not is_running(command)
    assert "waiting for the commands of a chain that was killed" in capfd.readouterr().out
    killed.stdout.close()


def test_the_plan_shows_states_and_times(tiny, tmp_path, capsys):
    assert chain.main([*tiny, "--only=*/a", "--wait=0.5"]) == 0
    log = tmp_path / "runs/chain.jsonl"
    line = json.loads(log.read_text())
    assert (line["status"], line["seconds"] > 0) == (0, True)
    # Of another seed, in two attempts.
    steps = plan.Plan.of(load.function_of(tiny[0])(str(tmp_path / "runs"), 0.5))
    more = line | {"step": "elsewhere", "key": steps.keys[1], "seconds": 3000.0}
    log.write_text(
        "".join(json.dumps(one) + "\n" for one in (line | {"seconds": 65.0}, more | {"status": 143}, more)) + "{cut"
    )
    capsys.readouterr()
    assert chain.main([*tiny, "--wait=0.5", "--dry_run"]) == 0
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in said.splitlines() if "│" in row]
    states = [row[1:] for row in rows if row[1]]  # long names take several lines
    assert states == [["done", "65 s"], ["to do", "about 1 h 40 min"], ["to do", "-"], ["to do", "-"]]
    assert said.endswith("left, one after the other: about 1 h 40 min, and 2 step(s) whose time is not known yet\n")
    assert not began(tmp_path, "b")


def test_chains_that_cannot_be_run_are_told(tiny, tmp_path, capsys):
    def message(*argv: str) -> str:
        assert chain.main(list(argv)) == 2
        return capsys.readouterr().err

    assert "no such file; chains are in configs/chains/" in message("nowhere.py")
    assert f"chains of this file are ['{tiny[0]}:chain']" in message(f"{tiny[0]}:teach")
    assert "--only='zzz' fits no step" in message(*tiny, "--only=zzz")
    (tmp_path / "broken.py").write_text("1 / 0")
    assert "ZeroDivisionError: division by zero" in message(str(tmp_path / "broken.py"))
    with pytest.raises(SystemExit):
        chain.main([*tiny, "--wit=3"])
    a, b = (Command(("-c", "pass", n), (Path(n),), (Path(m),)) for n, m in ("ab", "ba"))
    with pytest.raises(ConfigError, match="steps need each other"):
        plan.Plan.of([a, b])
    with pytest.raises(ConfigError, match="both make"):
        plan.Plan.of([a, Command(("-c", "other"), (Path("a"),))])
