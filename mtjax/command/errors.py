"""What a command line reports in one line: each error knows the exit status it ends a command with.

Anything else that is raised is a fault of the program and keeps its traceback.
"""

DONE, FAILED, REFUSED, INCOMPLETE, MISSING, INTERRUPTED, PREEMPTED = 0, 1, 2, 3, 4, 130, 143


class MtjaxError(Exception):
    """Base of our errors. The message names the file, record or field, and the next step.

    Attributes:
      status: exit status of a command that ends with it.
    """

    status = REFUSED


class InputError(MtjaxError, ValueError):
    """Arguments, a config or data that cannot be used as they are."""


class Failure(MtjaxError, RuntimeError):
    """Something outside of the program broke down midway; the same command may work later."""

    status = FAILED


class Missing(MtjaxError, RuntimeError):
    """An optional package or published weights are not on this machine; says how to get them."""

    status = MISSING
