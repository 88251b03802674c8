"""How far a long run is: a bar on a terminal, a line now and then anywhere else."""

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mtjax.command import console

LINE_EVERY_S = 10.0


class Progress:
    """Counts clips; a context manager. Writes to stderr, so that stdout keeps the results alone."""

    def __init__(self, title: str, total: int):
        self._title, self._total = title, total
        self._written = self._failed = 0
        self._start = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
            self._bar = Bar(*columns, TimeRemainingColumn(), console=Console(file=console.terminal()))
            self._task = self._bar.add_task("", total=total, rate="")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()
        elif self._total:
            self._line()

    def add(self, written: int, failed: int) -> None:
        self._written += written
        self._failed += failed
        if self._bar:
            self._bar.update(self._task, advance=written + failed, rate=self._rate())
        elif time.monotonic() - self._last_line > LINE_EVERY_S:
            self._line()

    def say(self, text: str) -> None:
        """A message that does not tear the bar."""
        print(f"{self._title}: {text}", file=sys.stderr) if self._bar is None else self._bar.print(
            console.printable(text)
        )

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        return f"{(self._written + self._failed) / seconds:.1f} clips/s, {self._failed} failed"

    def _line(self) -> None:
        self._last_line = time.monotonic()
        done = self._written + self._failed
        left = (self._last_line - self._start) * (self._total - done) / max(done, 1)
        eta = timedelta(seconds=round(left))
        print(f"{self._title}: {done}/{self._total} clips, {self._rate()}, {eta} left", file=sys.stderr, flush=True)
