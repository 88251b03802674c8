"""The sections of a report: modules of this folder that say so, and others by their import path.

A section is a module with

- ORDER: a number; sections stand on the page from the least to the greatest;
- add_flags(parser): adds its own flags, if it has any;
- make(context) → a list of `page.Section`, empty where there is nothing to show.
"""

import argparse
import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType

from mtjax import report
from mtjax.lookup import ConfigError
from mtjax.report.groups import Group
from mtjax.run.results import Result

REQUIRED = ("ORDER", "add_flags", "make")


@dataclasses.dataclass(frozen=True)
class Context:
    """What a report is about.

    Attributes:
      runs: in the order in which they were named. groups: the same, over seeds and splits. args: all flags.
    """

    runs: Sequence[Result]
    groups: Sequence[Group]
    args: argparse.Namespace


def sections(outside: Sequence[str] = ()) -> list[ModuleType]:
    """All sections of the house and those `outside`, by import path, in the order of the page.

    Raises:
      ConfigError: there is no such module, or it is no section.
    """
    names = [m.name for m in pkgutil.iter_modules(report.__path__) if not m.name.startswith("_")]
    ours = [importlib.import_module(f"{report.__name__}.{name}") for name in names]
    found = [module for module in ours if is_section(module)]
    for path in outside:
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as e:
            if e.name and not (path == e.name or path.startswith(f"{e.name}.")):
                raise  # the module exists, one of its own imports does not
            raise ConfigError(f"--section={path!r}: there is no such module") from None
        if not is_section(module):
            raise ConfigError(f"--section={path!r}: a section needs {', '.join(REQUIRED)} (`mtjax.report.found`)")
        found.append(module)
    return sorted(found, key=lambda module: module.ORDER)


def is_section(module: ModuleType) -> bool:
    return all(hasattr(module, name) for name in REQUIRED)
