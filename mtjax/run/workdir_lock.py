"""One run owns a workdir."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from mtjax.lookup import ConfigError

LOCK = ".lock"


@contextlib.contextmanager
def owned(workdir: Path) -> Iterator[None]:
    """Makes the folder and holds the kernel's lock in it, which goes with the process: a killed run leaves nothing behind.

    Raises:
      ConfigError: another run holds it, or the folder cannot be made.
    """
    with contextlib.ExitStack() as held:
        problem = _take(workdir, held) if jax.process_index() == 0 else ""
        if jax.process_count() > 1 and multihost_utils.process_allgather(np.array(bool(problem))).any():
            problem = problem or f"--workdir={workdir}: process 0 cannot use it"
        if problem:
            raise ConfigError(problem)
        yield


def _take(workdir: Path, held: contextlib.ExitStack) -> str:
    """Why the lock cannot be taken, "" when it is."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = held.enter_context(open(workdir / LOCK, "a+"))  # noqa: SIM115 (closed by `held`)
    except OSError as e:
        return f"--workdir={workdir} cannot be used: {e.strerror}; choose another folder"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        return f"{workdir} is in use by another run ({owner}); wait for its end, or take another --workdir"
    except OSError as e:
        logging.warning("%s: its file system has no locks (%s); start only one run there", workdir, e.strerror)
        return ""
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return ""
