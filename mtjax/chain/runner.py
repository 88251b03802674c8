"""Runs a plan: commands in processes of their own, several side by side, ended when the chain ends and taken up by the next one."""

import contextlib
import dataclasses
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mtjax.chain.freshness import DONE, STALE
from mtjax.chain.log import Log
from mtjax.chain.plan import Plan, duration
from mtjax.lookup import ConfigError

EXIT_STOPPED = 128 + signal.SIGTERM
# Runs before the command in the same process: if the chain is killed, Linux sends SIGTERM here, and training saves.
FOLLOW = """
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
except AttributeError:
    pass
if os.getppid() != int(sys.argv[1]):
    sys.exit(143)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@dataclasses.dataclass
class Running:
    """A command under way: of which step, since when, and what copies its output."""

    place: int
    process: subprocess.Popen
    began: float
    copier: threading.Thread | None


class Runner:
    """One walk through a plan."""

    def __init__(self, plan: Plan, log: Log, lock: int, *, jobs: int = 1, overwrite: bool = False):
        """`lock`: see `one_at_a_time`. `jobs`: commands side by side. `overwrite`: make again what is stale."""
        self.plan, self.log, self.jobs, self.overwrite = plan, log, jobs, overwrite
        self._lock = lock
        self._running: list[Running] = []
        self._signals = 0
        self._status = 0

    def run(self, chosen: frozenset[int]) -> int:
        """Of the chosen steps what is to do. Returns the exit status: 0, the first failed command's, 2 where something is stale,
        143 after a signal."""
        waiting, finished = sorted(chosen), set(range(len(self.plan.steps))) - chosen
        with self._handled():
            while waiting or self._running:
                for place in [i for i in waiting if self.plan.needs[i] <= finished]:
                    if self._signals or self._status or len(self._running) >= self.jobs:
                        break
                    waiting.remove(place)
                    if not self._begin(place):
                        finished.add(place)
                if not self._running and (self._signals or self._status):
                    break
                finished |= self._ended()
        if self._signals:
            return EXIT_STOPPED
        return self._status

    def _begin(self, place: int) -> bool:
        """Starts the command of a step, unless there is nothing to do or it may not be done. Returns whether it runs."""
        step = self.plan.steps[place]
        state = step.state(self.log.last(step.name))
        if state.name == DONE:
            print(f"== {step.name}: done", flush=True)
            return False
        if state.name == STALE and not self.overwrite:
            self._fail(f"{step.name} is stale: {state.reason}; --overwrite=stale makes it again", 2)
            return True  # what needs it has to wait
        if state.name == STALE:
            print(f"== {step.name}: {state.reason}; making it again", flush=True)
            step.clear()
        else:
            print(f"== {step.name}", flush=True)
        self._running.append(self._start(place, step.command(self.overwrite)))
        return True

    def _start(self, place: int, argv: tuple[str, ...]) -> Running:
        piped = self.jobs > 1
        process = subprocess.Popen(
            [sys.executable, "-c", FOLLOW, str(os.getpid()), *argv],
            env=os.environ | self._environment(),
            stdout=subprocess.PIPE if piped else None,
            stderr=subprocess.STDOUT if piped else None,
            pass_fds=(self._lock,),
            start_new_session=True,  # Ctrl-C comes to the chain alone, which passes it on once
        )
        copier = None
        if piped:
            name = self.plan.steps[place].name
            copier = threading.Thread(target=_copy_lines, args=(process.stdout, f"[{name}] "), daemon=True)
            copier.start()
        return Running(place, process, time.monotonic(), copier)

    def _environment(self) -> dict[str, str]:
        """Runs that differ in their seed are compiled once. NPROC, which XLA reads, is a job's share of the cores."""
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str((self.log.path.parent / ".compiled").resolve())
        share = {"NPROC": str(-(-(os.cpu_count() or 1) // self.jobs))} if self.jobs > 1 else {}
        return {"JAX_COMPILATION_CACHE_DIR": cache, "PYTHONUNBUFFERED": "1"} | share

    def _ended(self) -> set[int]:
        """Waits a moment. Returns the steps whose command has ended well."""
        if self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running[0].process.wait(0.1)
        well = set()
        for one in [r for r in self._running if r.process.poll() is not None]:
            self._running.remove(one)
            if one.copier is not None:
                one.copier.join(5)
            step, status = self.plan.steps[one.place], one.process.returncode
            seconds = time.monotonic() - one.began
            key, made = self.plan.keys[one.place], "" if status else step.made()
            self.log.add(step.name, key=key, argv=step.argv, status=status, seconds=seconds, made=made)
            if not status:
                print(f"== {step.name}: {duration(seconds)}", flush=True)
                well.add(one.place)
            elif not self._signals:
                self._fail(f"{step.name} ended with status {status}; the same command goes on from here", status)
        return well

    def _fail(self, message: str, status: int) -> None:
        print(f"mtjax: {message}", file=sys.stderr, flush=True)
        self._status = self._status or (status if status > 0 else 128 - status)
        if self._running:
            print(f"== waiting for {', '.join(self.plan.steps[r.place].name for r in self._running)}", flush=True)

    @contextlib.contextmanager
    def _handled(self) -> Iterator[None]:
        """Signals go to the commands: the first as SIGTERM, a second one kills."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = [signal.signal(number, self._stop) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
            for one in self._running:  # after an error of ours
                _send(one.process, signal.SIGTERM)

    def _stop(self, number: int, frame: object) -> None:
        self._signals += 1
        os.write(1, b"== stopping; a second signal kills\n" if self._signals == 1 else b"== killing\n")
        for one in self._running:
            _send(one.process, signal.SIGTERM if self._signals == 1 else signal.SIGKILL)


def _send(process: subprocess.Popen, number: int) -> None:
    """To the command and, when it is to be killed, to whatever it has started."""
    with contextlib.suppress(ProcessLookupError):
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


def _copy_lines(lines: IO[bytes], prefix: str) -> None:
    for line in lines:
        sys.stdout.write(prefix + line.decode(errors="replace"))
        sys.stdout.flush()


@contextlib.contextmanager
def one_at_a_time(runs: Path) -> Iterator[int]:
    """The file that a chain and its commands hold locked. The kernel's lock goes with the last of them: after a chain that was
    killed alone, the next one waits until its commands have saved and ended.

    Raises:
      ConfigError: another chain is at work on these runs.
    """
    runs.mkdir(parents=True, exist_ok=True)
    with open(runs / ".chain.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            if _is_alive(file.read().strip()):
                raise ConfigError(f"another chain is at work on {runs}; wait for it, or give another --runs") from None
            print("== waiting for the commands of a chain that was killed", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # of another user
        return True
    return True
