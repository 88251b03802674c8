"""Which commands there are: files and packages of mtjax and preprocessing with a `main`. Found, not listed; nothing is imported."""

import ast
import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("mtjax", "preprocessing")
# In the order of work; others follow by name.
ORDER = (
    "doctor", "catalog", "extract", "import_skeletons", "mannequin", "data", "config", "train", "evaluate", "predict", "cluster",
    "retrieve", "chain", "report", "export", "convert",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Command:
    """`module` is where its `main` is; `summary` the first line of its docstring."""

    name: str
    module: str
    summary: str


def commands() -> dict[str, Command]:
    """By name, in the order in which they are shown."""
    found = {c.name: c for package in PACKAGES for c in _of_package(package)}
    rank = {name: i for i, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def _of_package(package: str) -> Iterator[Command]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return
    for folder in map(Path, spec.submodule_search_locations):
        for path in [*folder.glob("*.py"), *folder.glob("*/__main__.py")]:
            if path == folder / "__main__.py":
                continue
            text = path.read_text(encoding="utf-8")
            if "\ndef main(" in text:
                name = path.parent.name if path.name == "__main__.py" else path.stem
                doc = ast.get_docstring(ast.parse(text)) or ""
                module = f"{package}.{name}" + (".__main__" if path.name == "__main__.py" else "")
                yield Command(name, module, doc.split("\n", 1)[0].partition(": `")[0].rstrip("."))
