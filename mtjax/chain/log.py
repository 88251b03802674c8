"""RUNS/chain.jsonl: a line whenever the command of a step has ended, by which a chain knows how long its steps take."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAME = "chain.jsonl"


class Log:
    """The lines of one folder of runs, oldest first. A line: `step`, `key` (see `plan.Plan`), `argv`, `status` of exit, `seconds`,
    `ended` (Unix time), and what was `made`."""

    def __init__(self, runs: Path):
        self.path = runs / NAME
        self._lines: list[dict[str, Any]] = []
        if self.path.is_file():
            for line in self.path.read_text().splitlines():
                try:
                    self._lines.append(json.loads(line))
                except json.JSONDecodeError:  # of a machine that went down while it was written
                    continue

    def add(self, step: str, *, key: str, argv: Sequence[str], status: int, seconds: float, made: str) -> None:
        line = {"step": step, "key": key, "argv": list(argv), "status": status, "seconds": round(seconds, 2)}
        self._lines.append(line | {"ended": round(time.time()), "made": made})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(self._lines[-1]) + "\n")

    def last(self, step: str) -> dict[str, Any] | None:
        """The line of the last time that a step has finished."""
        return next((line for line in reversed(self._lines) if line["step"] == step and not line["status"]), None)

    def took(self, step: str) -> float | None:
        """Seconds of the last time that a step has finished, those of the attempts that it continues included."""
        total, found = 0.0, False
        for line in reversed([line for line in self._lines if line["step"] == step]):
            if not line["status"] and found:
                break
            found = found or not line["status"]
            total += line["seconds"] if found else 0.0
        return total if found else None

    def expected(self, key: str) -> float | None:
        """Seconds that finished steps with this key took, on average; None without any."""
        times = [self.took(step) for step in dict.fromkeys(line["step"] for line in self._lines if line["key"] == key)]
        known = [t for t in times if t is not None]
        return sum(known) / len(known) if known else None
