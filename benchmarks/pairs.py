"""Timing that survives a busy machine: contestants take turns, and only ratios within one round are compared."""

import json
import statistics
import time
from collections.abc import Callable, Mapping

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
