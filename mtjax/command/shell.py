"""How every command line ends: one line for what the user can mend, a traceback for what only we can, and an exit status.

0 done · 1 failed midway (disk, memory, a dead worker; the same command goes on) · 2 wrong arguments, config or data · 3 more
failures than allowed · 4 a package or file of weights is not installed · 130 interrupted · 143 preempted, with everything saved.
"""

import contextlib
import errno
import functools
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

FAILED, WRONG, MISSING, INTERRUPTED = 1, 2, 4, 130
# Of the system's errors those that say that a path is wrong, not that a disk or a machine failed.
WRONG_PATH = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG,
    errno.ELOOP,
)  # fmt: skip
EXTRAS = {  # package → the extra that installs it
    "av": "video", "cv2": "video", "torch": "extract", "torchvision": "extract", "transformers": "extract", "scipy": "extract",
    "huggingface_hub": "extract", "sklearn": "report", "gcsfs": "gcs", "wandb": "wandb",
}  # fmt: skip
OURS = tuple(
    str(Path(spec.origin).parent) + os.sep
    for spec in map(importlib.util.find_spec, ("mtjax", "preprocessing"))
    if spec and spec.origin
)


class MissingPackage(RuntimeError):
    """A package or a file of weights is not here; the message says how to get it. Status 4."""


class Failed(RuntimeError):
    """Something broke midway and the message says what to do. Status 1."""


def command(name: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Decorates a `main(argv) -> exit status`: exceptions become one line on stderr, `mtjax NAME: message`, and a status.

    An error that our own code raises (ValueError and its kin) is a message for the user. The same error out of a library, a
    TypeError, a KeyError are mistakes of ours: their traceback is shown. `MTJAX_TRACEBACK=1` shows it always.
    """

    def decorate(main: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(main)
        def shell(argv: Sequence[str] | None = None) -> int:
            # Names and our own – and × must not end a program whose console knows ASCII or Latin-1 only.
            for stream in (sys.stdout, sys.stderr):
                if hasattr(stream, "reconfigure"):
                    stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
            try:
                status = main(sys.argv[1:] if argv is None else list(argv))
                sys.stdout.flush()
                return status
            except BrokenPipeError:  # `| head` has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                return 0
            except KeyboardInterrupt:
                return _say(name, "interrupted; the same command goes on", INTERRUPTED)
            except Exception as e:
                status, message = verdict(e)
                if not status or os.environ.get("MTJAX_TRACEBACK"):
                    raise
                return _say(name, message, status)

        return shell

    return decorate


@contextlib.contextmanager
def importing(name: str) -> Iterator[None]:
    """Around the imports of a command line that needs packages of an extra: without them one line, and status 4."""
    try:
        yield
    except ModuleNotFoundError as e:
        status, message = verdict(e)
        if not status:
            raise
        sys.exit(_say(name, message, status))


def verdict(e: Exception) -> tuple[int, str]:
    """(exit status, message) of an exception; status 0 for one that deserves its traceback."""
    if isinstance(e, MissingPackage):
        return MISSING, str(e)
    if isinstance(e, ModuleNotFoundError):
        package = (e.name or "").split(".")[0]
        if package in EXTRAS:
            return MISSING, f"needs the package {package}: pip install 'mtjax[{EXTRAS[package]}]'"
        return 0, ""
    if isinstance(e, BrokenProcessPool):
        return FAILED, "a worker died (out of memory?); the same command does what is left"
    if isinstance(e, OSError):
        status = WRONG if e.errno in WRONG_PATH else FAILED
        again = "; with room again the same command goes on" if e.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return status, f"{e.filename}: {e.strerror}{again}" if e.filename and e.strerror else f"{e}{again}"
    if isinstance(e, MemoryError) or "RESOURCE_EXHAUSTED" in str(e):
        return FAILED, f"out of memory: {_first_line(e)}"
    if isinstance(e, Failed | FloatingPointError):
        return FAILED, str(e)
    if isinstance(e, ValueError | RuntimeError) and _raised_by_us(e):
        return WRONG, str(e)
    return 0, ""


def _raised_by_us(e: Exception) -> bool:
    frames = traceback.extract_tb(e.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(OURS)


def _first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0]


def _say(name: str, message: str, status: int) -> int:
    print(f"mtjax {name}: {message}", file=sys.stderr, flush=True)
    return status
