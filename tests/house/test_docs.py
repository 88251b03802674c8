"""The pages: every section that code cites exists, every link leads somewhere, and the site lists every page."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO

SPEC = REPO / "docs" / "spec"
PAGES = sorted([*REPO.glob("*.md"), *(REPO / "docs").rglob("*.md"), REPO / "benchmarks" / "README.md"])
CITED = re.compile(r"\b([a-z_]+)\.md\s+(§[\d.]+(?:(?:, | and )§[\d.]+)*)")


def citations() -> Iterator[tuple[str, str, str]]:
    """(where, page, section) of each `NAME.md §N` in code; a line break may stand before the §."""
    for room in ("mtjax", "preprocessing", "configs", "tests", "benchmarks"):
        for path in sorted((REPO / room).rglob("*.py")):
            for page, sections in CITED.findall(path.read_text()):
                for section in re.findall(r"[\d.]*\d", sections):
                    yield str(path.relative_to(REPO)), page, section


def headings(path: Path) -> list[str]:
    without_code = re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.M | re.S)
    return re.findall(r"^#+ +(.+?) *$", without_code, re.M)


def numbers(path: Path) -> set[str]:
    return {m[1] for h in headings(path) if (m := re.match(r"(\d+(?:\.\d+)*)\.? ", h))}


def anchor(heading: str) -> str:
    """As GitHub and the site make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def test_sections_that_code_cites_exist():
    found = list(citations())
    assert len(found) > 50
    missing = [
        f"{where}: {page}.md §{section}"
        for where, page, section in found
        if not (SPEC / f"{page}.md").is_file() or section not in numbers(SPEC / f"{page}.md")
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPO)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^ *```.*?^ *```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            broken.append(target)
        elif fragment and fragment not in {anchor(h) for h in headings(there)}:
            broken.append(f"{target} (no such heading)")
    assert not broken


def test_commands_of_the_readme_fit_a_terminal():
    """80 columns, comments too; what CI reads is one line."""
    long = []
    for block in re.findall(r"```bash\n(.*?)```", (REPO / "README.md").read_text(), re.S):
        long += [line for line in block.splitlines() if len(line) > 80 and "python -m pytest" not in line]
    assert not long, "\n".join(long)
