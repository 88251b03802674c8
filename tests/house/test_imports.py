"""The plan of the house, enforced: what may import what, what importing costs, and the rules of taste that a machine can check."""

import ast
import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO, run_cli

from mtjax.compute.optim import Optimizer
from mtjax.data.pipeline import Data
from mtjax.modalities import pose, tracks, video_clips
from mtjax.modalities.flow import Flow
from mtjax.modalities.frames import Frames
from mtjax.modalities.pose import Pose
from mtjax.modalities.rgb import Rgb
from mtjax.modalities.tracks import Tracks
from mtjax.run.experiment import Train

ERRORS, RANGES = "mtjax.command.errors", "mtjax.command.ranges"
FOUNDATION = ["mtjax.types", "mtjax.lookup", "mtjax.records", ERRORS, RANGES]
ALLOWED = {  # room or file → what of mtjax it may import, beside itself
    "mtjax.types": [],
    "mtjax.records": [ERRORS, RANGES],
    "mtjax.lookup": [ERRORS, RANGES],
    "mtjax.command": [],
    "mtjax.data": FOUNDATION,
    "mtjax.modalities": [*FOUNDATION, "mtjax.data"],
    "mtjax.models": [ERRORS, RANGES, "mtjax.types"],
    "mtjax.convert": [
        ERRORS,
        RANGES,
        "mtjax.models",
        "mtjax.lookup",
        "mtjax.types",
        *("mtjax.data.files", "mtjax.data.foreign_files"),
    ],
    "mtjax.tasks": [ERRORS, RANGES, "mtjax.models", "mtjax.types", "mtjax.data.openai_clip_tokens"],
    "mtjax.evaluators": [ERRORS, RANGES, "mtjax.types"],
    "mtjax.compute": [ERRORS, RANGES, "mtjax.types", "mtjax.lookup"],
    "mtjax.clusters": [*FOUNDATION, "mtjax.data", "mtjax.evaluators", "mtjax.compute.distributed"],
    "mtjax.run": [*FOUNDATION, "mtjax.data", "mtjax.modalities", "mtjax.compute", "mtjax.convert", "mtjax.evaluators"],
    "mtjax.raw_video": [*FOUNDATION, "mtjax.data", "mtjax.modalities", "mtjax.compute", "mtjax.run"],
    "mtjax.report": [*FOUNDATION, "mtjax.data", "mtjax.modalities", "mtjax.evaluators", "mtjax.clusters", "mtjax.run"],
    "mtjax.chain": [
        *FOUNDATION,
        "mtjax.data",
        "mtjax.convert",
        *(f"mtjax.run.{m}" for m in ("plain_config", "saved_config", "flags")),
    ],
    "preprocessing": [
        "mtjax.command",
        "mtjax.records",
        "mtjax.data.catalog",
        "mtjax.data.columns",
        "mtjax.data.column_writer",
        "mtjax.data.display",
        "mtjax.data.inspection",
        "mtjax.data.summary",
        "mtjax.modalities.flow_bytes",
    ],
}
JITS = {"mtjax.compute.step", "mtjax.run.checkpoint", "mtjax.clusters.kmeans"}  # a model is jitted in step alone
DOOR = "mtjax.run.preprocessing_door"
HEAVY = ("torch", "tensorflow", "transformers", "preprocessing", "cv2", "av", "wandb")
MAX_FUNCTION, MAX_FILE, MIN_DOCUMENTED, MAX_DOOR = 60, 300, 12, 14


def module_name(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(p): p for room in ("mtjax", "preprocessing") for p in sorted((REPO / room).rglob("*.py"))}


VERBS = {  # command lines: files at the root with a `main`, and what `python -m PACKAGE` runs
    m
    for m, p in PATHS.items()
    if p.name == "__main__.py" or (len(m.split(".")) == 2 and "\ndef main(" in p.read_text())
}


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text())


def where(module: str, node: ast.AST) -> str:
    return f"{PATHS[module].relative_to(REPO)}:{node.lineno}"


def below(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(module: str) -> Iterator[tuple[ast.AST, str]]:
    """Every import statement, lazy ones too, except those for annotations only; a name that is a module counts as that."""
    waiting: list[ast.AST] = [tree(module)]
    while waiting:
        node = waiting.pop()
        if is_type_checking(node):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{where(module, node)}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node, inner if inner in PATHS else node.module


def functions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree(module)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


# What importing costs.


def test_mtjax_is_light_and_nothing_in_it_imports_torch_tensorflow_or_preprocessing():
    code = """
import importlib, json, pkgutil, sys, time
import jax
start = time.perf_counter()
import mtjax
cost = time.perf_counter() - start
names = [m.name for m in pkgutil.walk_packages(mtjax.__path__, "mtjax.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([cost, names, sorted({name.split(".")[0] for name in sys.modules})]))
"""
    done = run_cli("-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
    cost_s, names, loaded = json.loads(done.stdout)
    assert cost_s < 0.5
    assert {n for n in PATHS if below(n, "mtjax")} - {"mtjax"} == set(names)
    assert not set(HEAVY) & set(loaded)


def test_logging_imports_neither_torch_nor_tensorflow(tmp_path):
    """What a training run imports late; tensorboardX takes torch along where it is installed."""
    code = f"""
import pathlib, sys
from mtjax.run.metrics_log import MetricsLog
log = MetricsLog(pathlib.Path({str(tmp_path)!r}))
log.write(1, {{"loss": 1.0}})
log.close()
print(*{{"torch", "tensorflow"}} & set(sys.modules))
"""
    assert run_cli("-c", code).stdout.strip() == ""


# Which way imports point.


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room):
    """Command lines apart: they bind the rooms."""
    members = [m for m in PATHS if below(m, room) and m not in VERBS]
    assert members, f"{room} is not in the house any more; take it out of ALLOWED"
    allowed = [room, *ALLOWED[room]]
    wrong = [
        f"{where(module, node)} imports {name}"
        for module in members
        for node, name in imports(module)
        if below(name, "mtjax") and not any(below(name, one) for one in allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_its_directions():
    rooms = {".".join(m.split(".")[:2]) for m in PATHS if below(m, "mtjax")} - VERBS - {"mtjax", "mtjax.__main__"}
    assert rooms == {room for room in ALLOWED if below(room, "mtjax")}


def test_every_command_ends_through_the_shell():
    """Exit statuses and messages are decided there alone, by the class of the error."""
    commands = VERBS - {"mtjax.__main__"}  # which only hands over to one of them
    mains = {m: f for m in commands for f in functions(m) if f.name == "main"}
    assert mains.keys() == commands
    bare = [m for m, f in mains.items() if not any("shell.command(" in ast.unparse(d) for d in f.decorator_list)]
    assert not bare
    handled = [
        where(m, line)
        for m in VERBS
        for handler in ast.walk(tree(m))
        if isinstance(handler, ast.ExceptHandler)
        for line in ast.walk(handler)
        if isinstance(line, ast.Return) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, int)
    ]
    assert not handled, "\n".join(handled)


def test_what_a_user_can_mend_is_told_from_a_fault_of_the_program():
    """A plain ValueError keeps its traceback, so ours are of a class of mtjax.command.errors."""
    wrong = [
        where(m, n)
        for m in PATHS
        for n in ast.walk(tree(m))
        if isinstance(n, ast.Raise)
        and n.exc
        and ast.unparse(n.exc).startswith(("ValueError", "SystemExit", "Exception"))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_command_line_is_imported():
    wrong = [f"{where(m, node)} imports {name}" for m in PATHS for node, name in imports(m) if name in VERBS]
    assert not wrong, "\n".join(wrong)


def test_few_files_stand_at_the_door():
    files = sorted(p.name for p in (REPO / "mtjax").iterdir() if p.is_file())
    assert len(files) <= MAX_DOOR, files


def test_only_the_door_leads_to_preprocessing():
    wrong = [where(m, n) for m in PATHS if below(m, "mtjax") for n, name in imports(m) if below(name, "preprocessing")]
    strings = {
        m: [n for n in ast.walk(tree(m)) if isinstance(n, ast.Call) and "import_module" in ast.unparse(n.func)]
        for m in PATHS
        if below(m, "mtjax")
    }
    wrong += [
        where(m, c) for m, calls in strings.items() for c in calls if m != DOOR and "preprocessing" in ast.unparse(c)
    ]
    assert not wrong and "preprocessing" in ast.unparse(tree(DOOR))


def test_nothing_imports_in_a_circle():
    graph = {m: sorted({name for _, name in imports(m) if name in PATHS} - {m}) for m in PATHS}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in graph[module]:
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_who_may_jit():
    jits = {"jax.jit", "nnx.jit", "jax.pmap", "nnx.pmap", "pjit.pjit"}
    found = {m for m in PATHS for n in ast.walk(tree(m)) if isinstance(n, ast.Attribute) and ast.unparse(n) in jits}
    found |= {m for m in PATHS for n, name in imports(m) for a in n.names if a.name in ("jit", "pmap", "pjit")}
    assert found == JITS


# Taste.


def test_files_are_named_after_what_they_hold():
    vague = re.compile(r"(^|_)(utils?|common|misc|helpers?)($|_)")
    assert not [str(p) for p in PATHS.values() if any(vague.search(part) for part in module_name(p).split("."))]


def test_functions_and_files_are_short():
    long = [
        f"{where(m, f)} {f.name}: {lines_of(f)} lines"
        for m in PATHS
        for f in functions(m)
        if lines_of(f) > MAX_FUNCTION
    ]
    counts = {p: len(p.read_text().splitlines()) for p in PATHS.values()}
    long += [f"{p.relative_to(REPO)}: {count} lines" for p, count in counts.items() if count > MAX_FILE]
    assert not long, "\n".join(long)


def test_nothing_is_left_for_later():
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b")
    found = [
        f"{p.relative_to(REPO)}:{number}: {line.strip()}"
        for p in PATHS.values()
        for number, line in enumerate(p.read_text().splitlines(), 1)
        if unfinished.search(line)
    ]
    assert not found, "\n".join(found)


def public(nodes: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Public functions and classes, and the public methods of public classes."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def test_what_is_public_and_not_tiny_has_a_docstring():
    """`main` has its module's, which --help prints."""
    assert not [m for m in PATHS if PATHS[m].read_text().strip() and not ast.get_docstring(tree(m))]
    bare = [
        f"{where(m, node)} {node.name}"
        for m in PATHS
        if below(m, "mtjax")
        for node in public(tree(m).body)
        if lines_of(node) >= MIN_DOCUMENTED and node.name != "main" and not ast.get_docstring(node)
    ]
    assert not bare, "\n".join(bare)


@pytest.mark.parametrize(
    "section",
    [Data, Tracks, tracks.Augment, Pose, pose.Augment, Frames, Flow, Rgb, video_clips.Augment, Optimizer, Train],
)
def test_every_option_is_read_and_explained(section):
    """Reading is `something.option`; checking its value with getattr in `__post_init__` is not enough."""
    read = {
        n.attr
        for m in PATHS
        if below(m, "mtjax")
        for n in ast.walk(tree(m))
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)
    }
    options = [f.name for f in dataclasses.fields(section)]
    assert not [o for o in options if o not in read]
    own = {o for o in options if o in inspect.get_annotations(section)}
    assert not [o for o in sorted(own) if not re.search(rf"\b{o}\b", section.__doc__)]
