"""How every command ends: an exit status, and one line on standard error in place of a traceback.

0 done · 1 failed midway · 2 wrong arguments, config or data · 3 done, with more failures than allowed
4 an optional package or its weights are missing · 130 interrupted · 143 stopped by a signal, after saving
"""

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from typing import ParamSpec

from mtjax.command import errors
from mtjax.command.console import Printable
from mtjax.command.errors import Missing, MtjaxError

P = ParamSpec("P")
EXTRA_OF = {  # module that is not a dependency of every command → the extra that installs it
    "av": "video", "cv2": "video", "huggingface_hub": "extract", "scipy": "extract", "torch": "extract",
    "torchvision": "extract", "transformers": "extract", "sklearn": "report", "gcsfs": "gcs", "wandb": "wandb",
}  # fmt: skip
NEXT_STEP = {  # of an error of the file system
    errno.ENOSPC: "make room there", errno.EDQUOT: "make room there",
    errno.EACCES: "give yourself the right to it, or choose another place",
    errno.EPERM: "give yourself the right to it, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOTDIR: "a file is in the way of this folder", errno.EISDIR: "a folder is in the way of this file",
    errno.EEXIST: "something else is in the way",
}  # fmt: skip
NO_SPACE = "RESOURCE_EXHAUSTED"  # Orbax and XLA raise a ValueError or RuntimeError whose text says so


def command(name: str, *, again: str = "") -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorates a command's `main`: it returns an exit status, whatever happens short of a fault of the program.

    Args:
      name: as in `mtjax NAME`, in front of each message.
      again: what a user does after a failure or an interruption, behind the message.
    """

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> int:
            with (
                contextlib.redirect_stdout(Printable(sys.stdout)),
                contextlib.redirect_stderr(Printable(sys.stderr)),
            ):
                status, message = _end_of(lambda: main(*args, **kwargs))
                if message:
                    advice = f"; {again}" if again and status in (errors.FAILED, errors.INTERRUPTED) else ""
                    print(f"mtjax {name}: {message}{advice}", file=sys.stderr, flush=True)
                return status

        return run

    return decorate


def _end_of(body: Callable[[], int]) -> tuple[int, str]:
    """The exit status of `body`, and a message if it did not come to its end."""
    try:
        status = body()
        sys.stdout.flush()
        return status, ""
    except MtjaxError as e:
        return e.status, str(e)
    except KeyboardInterrupt:
        return errors.INTERRUPTED, "interrupted"
    except BrokenPipeError:  # `mtjax … | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.FAILED, ""
    except ImportError as e:
        if missing := _missing(e):
            return Missing.status, str(missing)
        raise
    except BrokenExecutor:
        return errors.FAILED, "a worker process died (out of memory?)"
    except OSError as e:
        reason = f"{e.filename}: {e.strerror}" if e.filename and e.strerror else str(e)
        return errors.FAILED, "; ".join([reason, *([NEXT_STEP[e.errno]] if e.errno in NEXT_STEP else [])])
    except FloatingPointError as e:
        return errors.FAILED, str(e)
    except (ValueError, RuntimeError) as e:
        if NO_SPACE not in str(e):
            raise
        return errors.FAILED, f"no space or memory left: {' '.join(str(e).split())[:400]}"


def _missing(e: ImportError) -> Missing | None:
    module = (e.name or "").partition(".")[0]
    if extra := EXTRA_OF.get(module):
        return Missing(f"{module} is not installed or cannot be imported ({e}): pip install 'mtjax[{extra}]'")
    return None


@contextlib.contextmanager
def imports_extras(name: str) -> Iterator[None]:
    """Around imports at the top of a command's file: ends the process with one line where an optional package is missing.

    Args:
      name: as in `mtjax NAME`.
    """
    try:
        yield
    except ImportError as e:
        if not (missing := _missing(e)):
            raise
        print(f"mtjax {name}: {missing}", file=sys.stderr)
        sys.exit(missing.status)
