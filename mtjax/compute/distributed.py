"""Several processes as one run, and leaving when the machine is taken away."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mtjax.command.errors import PREEMPTED, Failure


def initialize(timeout_s: int = 300) -> None:
    """Joins the other processes, before anything touches a device. On TPU pods, Slurm and Open MPI JAX finds them itself;
    elsewhere JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say where (launch/local_multiprocess.sh).

    Raises:
      Failure: nothing tells where the others are. If they do not come in time the process ends here with status 1.
    """
    number = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    given = {k: int(os.environ[v]) for k, v in number.items() if v in os.environ}
    # JAX's own time limit ends in SIGABRT and a C++ stack trace, never in an exception.
    late = threading.Timer(timeout_s, _give_up, [f"the others did not come within {timeout_s} s"])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(initialization_timeout=timeout_s + 60, **given)
    except (RuntimeError, ValueError) as e:
        raise Failure(_advice(str(e).splitlines()[0])) from None
    finally:
        late.cancel()


def _advice(reason: str) -> str:
    return (
        f"the processes of this run did not find each other ({reason}). Start the same command on every host "
        "(see docs/launch.md), or leave --distributed out to run on this host alone"
    )


def _give_up(reason: str) -> None:
    print(f"mtjax: {_advice(reason)}", file=sys.stderr, flush=True)
    os._exit(1)


def on_first(action: Callable[[], Any]) -> Any:
    """What `action` returns, run on process 0 alone while the others wait; None on the others.

    Raises:
      what `action` raises, on process 0; Failure on the others.
    """
    result = error = None
    if not jax.process_index():
        try:
            result = action()
        except Exception as e:  # whatever it is: the others must not wait for ever
            error = e
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.array(error is not None))
        if error is None and failed.any():
            raise Failure("process 0 has failed; it says why")
    if error is not None:
        raise error
    return result


class Preemption:
    """Asked once a step: shall we save and leave? SIGTERM and SIGINT set it; a second signal leaves at once.

    With several processes JAX's preemption service makes all of them stop after the same step, whichever got the signal.
    """

    def __init__(self):
        self._signalled = False
        if jax.process_count() == 1:  # otherwise JAX's own handler has SIGTERM
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._handle)

    def _handle(self, number, frame):
        if self._signalled:
            os._exit(PREEMPTED)
        self._signalled = True
        print("mtjax: signal received; saving after this step (a second signal leaves at once)", flush=True)

    def requested(self, step: int) -> bool:
        """The same answer on every process for the same step."""
        if jax.process_count() == 1:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)

    def signalled(self) -> bool:
        """Between the batches of an evaluation, on one process; several processes wait for the next step."""
        return self._signalled
