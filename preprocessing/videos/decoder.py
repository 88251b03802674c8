"""Decoding in a child process: a crash, a hang or a memory bomb costs one video, not the run.

One child serves many videos and is replaced when it dies; it is told the next one while the last is being worked on.
Both sides speak JSON and raw bytes over a socket: a child taken over by a hostile video can send nothing that would be
executed here, and `/dev/shm`, small in containers, is not needed.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from preprocessing.videos.video_clip import Clip
from preprocessing.videos.video_file import PROGRAM_ERRORS, Limits, ProgramError, VideoError

Request = tuple[str | os.PathLike, dict[str, Any]]  # a path and keyword arguments of `video.decode`
REPOSITORY = Path(__file__).resolve().parents[2]
START_S = 60.0


class Decoder:
    """`video.decode` with a time limit. Use as a context manager, from one thread."""

    def __init__(self, timeout_s: float = 120.0, target: str = "preprocessing.videos.video:decode"):
        """Starts nothing yet.

        Args:
          timeout_s: for one video; 0 disables. A video that exceeds it, or kills the child, is tried twice.
          target: module:function that the child calls.
        """
        self._timeout_s, self._target = timeout_s, target
        self._child: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._sent_at = 0.0

    def decode(self, path: str | os.PathLike, **options) -> Clip:
        """As `video.decode`.

        Raises:
          VideoError: also with the stages "timeout" and "crash".
          ProgramError: the fault is not the video's.
        """
        self._send((path, options))
        return self._receive((path, options))

    def map(self, requests: Iterable[Request]) -> Iterator[Clip | VideoError]:
        """Results in order, errors as values; while the caller looks at one clip the child decodes the next."""
        requests = iter(requests)
        request = next(requests, None)
        if request is not None:
            self._send(request)
        while request is not None:
            try:
                result = self._receive(request)
            except VideoError as e:
                result = e
            request = next(requests, None)
            if request is not None:
                self._send(request)
            yield result

    def close(self) -> None:
        """Ends the child, whatever it is doing."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._connection.close()
            self._child = None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _send(self, request: Request) -> None:
        path, options = request
        if isinstance(options.get("limits"), Limits):
            options = options | {"limits": dataclasses.asdict(options["limits"])}
        message = json.dumps({"path": os.fspath(path), "options": options, "timeout_s": self._timeout_s}).encode()
        if self._child is None or self._child.poll() is not None:
            self._start()
        with contextlib.suppress(OSError):  # a child that died just now is met again in _receive
            self._connection.send_bytes(message)
        self._sent_at = time.monotonic()

    def _start(self) -> None:
        self.close()
        self._connection, theirs = Pipe()
        # Not multiprocessing: its children import the caller's main module, which need not be importable.
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        code = f"from preprocessing.videos import decoder; decoder.serve({theirs.fileno()}, {self._target!r})"
        self._child = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
        )
        theirs.close()
        try:  # so that a video's time limit does not include the imports
            if not self._connection.poll(START_S):
                raise EOFError
            self._connection.recv_bytes()
        except (EOFError, OSError):
            self.close()
            raise RuntimeError("the decoder's process does not start; its error, if any, is printed above") from None

    def _receive(self, request: Request) -> Clip:
        for last_try in (False, True):
            left_s = max(0.0, self._sent_at + self._timeout_s - time.monotonic()) if self._timeout_s else None
            try:
                if self._connection.poll(left_s):
                    return self._read_reply()
                error = VideoError("timeout", f"not decoded within {self._timeout_s:g} s, twice")
            except (EOFError, OSError):
                code = self._child.wait()
                name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                error = VideoError("crash", f"the decoder died ({name}), twice")
                if code == -signal.SIGALRM:
                    error = VideoError("timeout", f"not decoded within {self._timeout_s:g} s, twice")
            self.close()
            if last_try:
                raise error
            self._send(request)
        raise AssertionError("unreachable")

    def _read_reply(self) -> Clip:
        reply = json.loads(self._connection.recv_bytes())
        if "program_error" in reply:
            versions = f"Python {sys.version.split()[0]}, PyAV {av.__version__}"
            raise ProgramError(f"decoding failed by a fault of the program ({versions}):\n{reply['program_error']}")
        if "stage" in reply:
            raise VideoError(reply["stage"], reply["reason"])
        frames = np.empty(reply["shape"], np.uint8)
        self._connection.recv_bytes_into(memoryview(frames).cast("B"))
        times_s = np.array(reply["times_s"], np.float32)
        sizes = tuple(reply["size_px"]), tuple(reply["source_px"])
        return Clip(frames, times_s, reply["fps"], *sizes, reply["partial"])


def serve(descriptor: int, target: str) -> None:
    """The child's life: decode what is asked for, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # kills even a decoder that hangs outside Python and has no parent
    cv2.setNumThreads(1)  # as many children as workers share the machine
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    connection = Connection(descriptor)
    connection.send_bytes(b"ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = json.loads(connection.recv_bytes())
            options = request["options"]
            if "limits" in options and options["limits"] is not None:
                options["limits"] = Limits(**options["limits"])
            signal.setitimer(signal.ITIMER_REAL, 1.5 * request["timeout_s"])
            try:
                clip = function(request["path"], **options)
                signal.setitimer(signal.ITIMER_REAL, 0)  # the parent may be busy with another clip for long
            except Exception as e:
                signal.setitimer(signal.ITIMER_REAL, 0)
                connection.send_bytes(json.dumps(_error_reply(e)).encode())
                continue
            reply = dataclasses.asdict(dataclasses.replace(clip, frames=None, times_s=clip.times_s.tolist()))
            connection.send_bytes(json.dumps(reply | {"shape": clip.frames.shape}).encode())
            connection.send_bytes(memoryview(np.ascontiguousarray(clip.frames)).cast("B"))
            clip = None  # or it would stay in memory beside the next one


def _error_reply(error: Exception) -> dict[str, str]:
    """What the parent is told of a failed request."""
    if isinstance(error, PROGRAM_ERRORS):
        return {"program_error": "".join(traceback.format_exception(error))}
    if isinstance(error, VideoError):
        return {"stage": error.stage, "reason": error.reason}
    return {"stage": "decode", "reason": f"{type(error).__name__}: {error!s:.300}"}
