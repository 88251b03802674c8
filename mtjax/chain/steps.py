"""Steps of a chain: what each makes and needs, whether that is there and current, and the command that makes it."""

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from mtjax.chain.freshness import CHECK, DONE, TO_DO, State
from mtjax.data import columns
from mtjax.data.origin import config_hash

Last = Mapping[str, Any] | None  # what the chain's log says of the time when the step last finished
Configs = Mapping[str, Mapping[str, Any]]  # absolute workdir → plain config of the step that trains it


class Step:
    """One command of a chain. Paths are as the command line takes them.

    Attributes:
      name: one line, unlike that of any other step. argv: what follows `python`.
      makes: folders and files that are there afterwards.
      alike: what steps that take equally long have in common, beside what they need.
      after_all: it comes after every step before it, whatever these make.
    """

    name: str
    argv: tuple[str, ...]
    makes: tuple[Path, ...]
    alike: tuple
    after_all: ClassVar[bool] = False

    def needs(self, configs: Configs) -> tuple[Path, ...]:
        """Folders and files that have to be there first, if a step of the chain makes them."""
        return ()

    def state(self, last: Last) -> State:
        """Of now, when all that it needs is there: to do, where a kind of step does not know better."""
        return State(TO_DO)

    def command(self, overwrite: bool) -> tuple[str, ...]:
        """`argv`; with `overwrite` it may replace what is stale."""
        return self.argv

    def clear(self) -> None:
        """Takes away what is stale."""
        for path in self.makes:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def made(self) -> str:
        """A hash of what a finished step has made, as far as it may be changed by others; "" where its files say it themselves."""
        return ""


@dataclasses.dataclass(frozen=True)
class Command(Step):
    """Any command of Python that is quick when nothing is left to do, e.g. ("-m", "preprocessing.mannequin", "data/m").

    Attributes:
      argv: what follows `python`. makes: files and folders that it leaves. needs_first: what has to be there.
    """

    argv: tuple[str, ...]
    makes: tuple[Path, ...]
    needs_first: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        return " ".join(part for part in self.argv if part != "-m")

    @property
    def alike(self) -> tuple:
        return self.argv

    def needs(self, configs: Configs) -> tuple[Path, ...]:
        return self.needs_first

    def state(self, last: Last) -> State:
        if not all(path.exists() for path in self.makes):
            return State(TO_DO)
        return State(DONE if _same(self, last) else CHECK)

    def made(self) -> str:
        return _content(path / "column.json" if path.is_dir() else path for path in self.makes)


@dataclasses.dataclass(frozen=True)
class Extract(Command):
    """`preprocessing.extract`; see `extract`."""

    def command(self, overwrite: bool) -> tuple[str, ...]:
        return (*self.argv, "--overwrite=stale") if overwrite else self.argv


def extract(kind: str, root: str, name: str, *flags: str, images: str = "") -> Extract:
    """The step that makes the column `name` of `root`.

    Args:
      kind: frames, flow, pose, tracks. flags: of the command, beside --name.
      images: column of JPEG images that takes the place of videos.
    """
    where = (f"--from={images}",) if images else ()
    argv = ("-m", "preprocessing.extract", kind, root, f"--name={name}", *where, *flags)
    needed = (Path(root) / "dataset.json", *([columns.column_dir(root, images)] if images else []))
    return Extract(argv, (columns.column_dir(root, name),), needed)


def mannequin(root: str, clips: int) -> Command:
    """The step that makes the embedded dataset, with images."""
    argv = ("-m", "preprocessing.mannequin", root, f"--clips={clips}", "--frames")
    made = (columns.column_dir(root, name) for name in ("pose", "tracks", "frames"))
    return Command(argv, (Path(root) / "dataset.json", *made))


@dataclasses.dataclass(frozen=True)
class Report(Step):
    """`mtjax.report` of workdirs, after all steps before it."""

    workdirs: tuple[str, ...]
    out: str
    flags: tuple[str, ...] = ()

    after_all: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return f"report {self.out}"

    @property
    def alike(self) -> tuple:
        return ("Report",)

    @property
    def argv(self) -> tuple[str, ...]:
        return ("-m", "mtjax.report", *self.workdirs, *self.flags, f"--out={self.out}")

    @property
    def makes(self) -> tuple[Path, ...]:
        return (Path(self.out),)

    def state(self, last: Last) -> State:
        if not Path(self.out).is_file() or not _same(self, last):
            return State(TO_DO)
        written = Path(self.out).stat().st_mtime_ns
        results = [Path(workdir) / "results.json" for workdir in self.workdirs]
        return State(DONE if all(r.is_file() and r.stat().st_mtime_ns < written for r in results) else TO_DO)


def _same(step: Step, last: Last) -> bool:
    """Whether the command that ran last is this one, and what it made is still there."""
    return last is not None and tuple(last["argv"]) == step.argv and last["made"] == step.made()


def _content(files: Iterable[Path]) -> str:
    return config_hash({os.path.normpath(f): f.read_text() for f in files if f.is_file()})
