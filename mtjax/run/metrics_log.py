"""Where a run's numbers go: metrics.jsonl (the source of truth), TensorBoard, optionally Weights & Biases, the console.

Only process 0 writes; the other processes hold a log that does nothing.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging

from mtjax.command.errors import Missing
from mtjax.data.files import named, write_atomically

METRICS = "metrics.jsonl"
UNREADABLE = "metrics.unreadable"  # beside it: its damaged lines
FLUSH_S = 30.0  # between what TensorBoard can see


class MetricsLog:
    """Numbers of one run. Resuming at a step drops what a killed run had logged beyond it."""

    def __init__(self, workdir: Path, *, resume_step: int = 0, wandb_project: str = ""):
        self._file = self._tensorboard = self._wandb = None
        if jax.process_index():
            return
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / METRICS
        kept = [line for line in read_metrics(path) if line["step"] <= resume_step] if resume_step else []
        if damaged := _read(path)[1]:
            with open(path.with_name(UNREADABLE), "ab") as file:
                file.write(b"".join(line + b"\n" for line in damaged))
            logging.error("%s: %d line(s) cannot be read and are kept in %s", path, len(damaged), UNREADABLE)
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._path, self._file = path, open(path, "a", buffering=1)  # noqa: SIM115 (closed by `close`)
        self._tensorboard = _Events(workdir / "tensorboard", resume_step)
        if wandb_project:
            self._wandb = _start_wandb(workdir, wandb_project)

    def write(self, step: int, values: Mapping[str, float | int]) -> None:
        """Non-finite values are written as null: JSON has no NaN. Raises OSError, with the file, when they cannot be written."""
        if self._file is None:
            return
        numbers = {k: v if isinstance(v, int) else float(v) for k, v in values.items()}
        finite = {k: v if abs(v) < float("inf") else None for k, v in numbers.items()}
        with named(self._path):
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._tensorboard.write(step, numbers)
        if self._wandb:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        """Lets go of the files; may come again. What cannot be written any more is in no checkpoint either."""
        if self._file is not None:
            for part in (self._file, self._tensorboard):
                with contextlib.suppress(OSError):
                    part.close()
            if self._wandb:
                self._wandb.finish()


class _Events:
    """An event file of TensorBoard, written by the loop itself: tensorboardX's own writer is a thread that ends at a full disk,
    after which the loop waits for it for ever."""

    def __init__(self, folder: Path, resume_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        writer, self._proto, self._summary = _tensorboard()
        self._flushed = 0.0
        self._writer = writer(str(self._path))
        self._add(file_version="brain.Event:2")
        if resume_step:  # TensorBoard forgets what a killed run had shown from here on
            start = self._proto.SessionLog(status=self._proto.SessionLog.START)
            self._add(step=resume_step + 1, session_log=start)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._add(step=step, summary=self._summary(value=values))

    def _add(self, **fields: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), **fields)
        with named(self._path):
            self._writer.write(event.SerializeToString())
            if time.monotonic() - self._flushed > FLUSH_S:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()


def _tensorboard() -> tuple[Any, Any, Any]:
    """tensorboardX's writer of records, its events and its summaries, without the torch that it imports (seconds) wherever torch
    is installed, to know its tensors."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None
    try:
        from tensorboardX import RecordWriter
        from tensorboardX.proto import event_pb2, summary_pb2
    finally:
        if hidden:
            del sys.modules["torch"]
    return RecordWriter, event_pb2, summary_pb2.Summary


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl; those that are damaged, and an unfinished last one, left by a kill, are left out."""
    return _read(path)[0]


def _read(path: Path) -> tuple[list[dict[str, Any]], list[bytes]]:
    """(lines, damaged lines as they are)."""
    lines, damaged = [], []
    *finished, _ = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    for text in finished:
        try:
            line = json.loads(text)
            sound = isinstance(line, dict) and type(line["step"]) is int
        except (ValueError, KeyError, RecursionError):
            sound = False
        if sound:
            lines.append(line)
        elif text.strip():
            damaged.append(text)
    return lines, damaged


def _start_wandb(workdir: Path, project: str):
    try:
        import wandb
    except ImportError:
        raise Missing("config.train.wandb is set but wandb is not installed: pip install 'mtjax[wandb]'") from None
    identity = workdir / "wandb_id.txt"  # one run a workdir, however often it restarts
    if not identity.exists():
        write_atomically(identity, wandb.util.generate_id())
    return wandb.init(project=project, id=identity.read_text(), resume="allow", dir=str(workdir), name=workdir.name)


class Progress:
    """One line on the console at each log step: where the run is, how fast, how long still."""

    def __init__(self, total_steps: int, global_batch: int, steps_per_epoch: float):
        self._total, self._batch, self._epoch = total_steps, global_batch, steps_per_epoch
        self._step, self._since, self._waited = None, time.monotonic(), 0.0

    def waited(self, seconds: float) -> None:
        """Time the loop stood still for data."""
        self._waited += seconds

    def restart(self, step: int) -> None:
        """Forgets time that was not training (evaluation, compilation)."""
        self._step, self._since, self._waited = step, time.monotonic(), 0.0

    def line(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Prints a line; returns examples/s and the share of time spent waiting for data since the last one."""
        elapsed = max(time.monotonic() - self._since, 1e-9)
        steps = step - (self._step or 0)
        speed = steps * self._batch / elapsed
        left = int((self._total - step) * elapsed / max(steps, 1))
        wait = min(self._waited / elapsed, 1.0)
        if jax.process_index() == 0:
            shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
            clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
            epoch = step / self._epoch
            print(f"step {step}/{self._total} (epoch {epoch:.1f})  {shown}  "
                  f"| {speed:,.0f} clips/s  data wait {wait:.0%}  eta {clock}", flush=True)  # fmt: skip
        self.restart(step)
        return {"examples_per_s": speed, "data_wait": wait}
