"""Lower bounds of what we depend on: one number a package, and not below what the code calls."""

import re
import tomllib

from conftest import REPO

CALLED = {"jax": ("jax.lax.pcast", (0, 8, 2))}  # package → (what sets its bound, the release that brought it)


def test_bounds_are_one_number_and_as_high_as_what_is_called():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    bounds: dict[str, set[tuple[int, ...]]] = {}
    for requirement in required:
        if found := re.match(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)", requirement):
            bounds.setdefault(found[1], set()).add(tuple(map(int, found[2].split("."))))
    assert not {name: numbers for name, numbers in bounds.items() if len(numbers) > 1}
    code = "".join(path.read_text() for path in (REPO / "mtjax").rglob("*.py"))
    for name, (call, release) in CALLED.items():
        assert call in code and min(bounds[name]) >= release
