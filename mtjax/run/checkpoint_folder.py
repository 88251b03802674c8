"""The folder of a run's checkpoints: which steps stay there, and how one makes way for another."""

import contextlib
import errno
import logging as std_logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from absl import logging
from etils import epath

from mtjax.command.errors import InputError

REWRITING, REPLACED = "rewriting", ".replaced"  # folder where a step is written anew; ending of the one that makes way


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keeps Orbax from warning of what is meant: a manager that only reads, a step without a metric."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _is_news(record: std_logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


def without_tracebacks() -> None:
    """Keeps Orbax's threads from printing the traceback of an error, hundreds of lines, that `Checkpoints.wait` raises."""
    logging.get_absl_logger().addFilter(_is_news)


class Kept:
    """Orbax's policy of which steps stay: the latest ones and the best one, by what their own sealed meta data say."""

    def __init__(self, latest: int, best_step: Callable[[Iterable[int]], int | None]):
        self.latest, self.best_step = latest, best_step

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [info.step for info in checkpoints]
        kept = {*sorted(steps)[-self.latest :], self.best_step(steps)}
        return [step in kept for step in steps]


def opened(directory: str) -> epath.Path:
    """A folder here or in a bucket. Raises InputError when a URL cannot be reached."""
    try:
        folder = epath.Path(directory)
        folder.exists()
        return folder
    except Exception as e:  # etils, fsspec and their clients raise what they like
        if "://" not in directory:
            raise
        reason = " ".join(str(e).split())[:200]
        raise InputError(
            f"config.train.checkpoints={directory}: cannot be opened ({type(e).__name__}: {reason}); gs:// needs "
            "pip install 'mtjax[gcs]' and access to the bucket"
        ) from None


def recover(folder: epath.Path) -> None:
    """Ends what a killed `replace` has begun: a step that was moved away comes back unless its replacement is there."""
    if not folder.exists():
        return
    for moved in folder.glob(f"*{REPLACED}"):
        place = folder / moved.name.removesuffix(REPLACED)
        if place.exists():
            moved.rmtree()
        else:
            moved.rename(place)
    if (leftover := folder / REWRITING).exists():
        leftover.rmtree()


def replace(folder: epath.Path, step: int) -> None:
    """Puts the complete step in REWRITING in the place of the one that is there."""
    place, moved = folder / str(step), folder / f"{step}{REPLACED}"
    place.rename(moved)
    (folder / REWRITING / str(step)).rename(place)
    moved.rmtree()
    (folder / REWRITING).rmtree()


def set_aside(folder: epath.Path, step: int) -> None:
    """Renames a damaged step to `N.bad`."""
    target = folder / f"{step}.bad"
    if target.exists():
        target.rmtree()
    (folder / str(step)).rename(target)


@contextlib.contextmanager
def named_in_errors(folder: epath.Path) -> Iterator[None]:
    """Says in errors of the file system where it was: Orbax's own name a temporary file, or nothing."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as e:  # the latter two of TensorStore
        if not isinstance(e, OSError) and not any(word in str(e) for word in ("RESOURCE_EXHAUSTED", "No space left")):
            raise
        number = getattr(e, "errno", None) or errno.ENOSPC
        raise OSError(number, f"a checkpoint could not be saved: {os.strerror(number)}", str(folder)) from e
