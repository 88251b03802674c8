"""Timing that survives a busy machine: contestants take turns, and only ratios within one round are compared."""

import cProfile
import json
import os
import pstats
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Contestant = Callable[[int], None]  # runs this many steps and waits until they are done
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def steps_for(seconds: float, contestants: Mapping[str, Contestant]) -> int:
    """How many steps make a block of about `seconds` for the faster contestant; warms every contestant up."""
    fastest = float("inf")
    for run in contestants.values():
        run(1)  # compiles, allocates, tunes itself
        start = time.perf_counter()
        run(1)
        fastest = min(fastest, time.perf_counter() - start)
    return max(1, round(seconds / fastest))


def interleave(
    contestants: Mapping[str, Contestant], *, rounds: int, steps: int, clock: str = "wall"
) -> dict[str, list[float]]:
    """Seconds a step of each contestant in each round: A B A B …, `steps` steps a turn.

    Args:
      clock: "wall", or "cpu": CPU seconds of this process, which other work on the machine disturbs less.
    """
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = now()
            run(steps)
            seconds[name].append((now() - start) / steps)
    return seconds


def cpu_seconds() -> float:
    """Used so far by this process and its living descendants."""
    parents: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(path.parent.name)
        parents.setdefault(int(fields[1]), []).append(pid)
        used[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    total, queue = time.process_time(), list(parents.get(os.getpid(), []))
    while queue:
        pid = queue.pop()
        total += used[pid]
        queue += parents.get(pid, [])
    return total


def rates(step: Callable[[], object], *, windows: int, steps: int, examples: int) -> tuple[list[float], list[float]]:
    """Examples per CPU second and examples per second, window by window; `steps` steps of `examples` each a window."""
    per_core, by_clock = [], []
    for _ in range(windows):
        cpu, clock = cpu_seconds(), time.perf_counter()
        for _ in range(steps):
            step()
        per_core.append(steps * examples / (cpu_seconds() - cpu))
        by_clock.append(steps * examples / (time.perf_counter() - clock))
    return per_core, by_clock


def print_profile(step: Callable[[int], object], steps: int) -> None:
    """cProfile of `step(0)` to `step(steps - 1)`; its own cost of a call inflates the small functions."""
    profiler = cProfile.Profile()
    profiler.enable()
    for i in range(steps):
        step(i)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(16)


def ratios(seconds: Mapping[str, list[float]], name: str, reference: str) -> list[float]:
    """How many times faster than `reference`, round by round."""
    return [r / s for s, r in zip(seconds[name], seconds[reference], strict=True)]


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def print_table(rows: list[Mapping[str, object]]) -> None:
    """Columns by the keys of the first row."""
    keys = list(rows[0])
    texts = [[f"{row[k]:.4g}" if isinstance(row[k], float) else str(row[k]) for k in keys] for row in rows]
    widths = [max(len(k), *(len(text[i]) for text in texts)) for i, k in enumerate(keys)]
    for line in (keys, *texts):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_json(benchmark: str, **values: object) -> None:
    """One line that starts with `{`, so that `grep '^{'` finds it."""
    print(json.dumps({"benchmark": benchmark, **values}), flush=True)
