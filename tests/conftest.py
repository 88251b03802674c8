"""Strict by default: 8 fake devices, no silent dtype promotion, every shape annotation of mtjax enforced."""

import contextlib
import gc
import importlib.metadata
import importlib.util
import inspect
import io
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
import zlib
from pathlib import Path

REPO = Path(__file__).parents[1]
SHARED = REPO.parent / "shared"

# Compiling dominates these tests and their arrays are tiny. Without XLA's fusion emitters it takes a third of the time. Later
# releases have no other way (the flag is gone in 0.12), and XLA ends a process that names a flag it does not know.
JAXLIB = tuple(int(n) for n in importlib.metadata.version("jaxlib").split(".")[:2])
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true" + (
    " --xla_cpu_use_fusion_emitters=false" if JAXLIB < (0, 11) else ""
)


def compilation_cache() -> Path:
    """The folder of compiled programs that all processes and sessions share. A program's key holds its text, the versions of
    JAX and XLA, and the flags: nothing stale is ever found. Code for one kind of processor may not run on another, and
    several machines may see one checkout: each kind has a folder.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [platform.processor()]
    kind = "".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))} or lines[:1])
    )
    return REPO / ".pytest_cache" / "jax" / f"{platform.machine()}-{zlib.crc32(kind.encode()):08x}"


CACHE, CACHE_DAYS = compilation_cache(), 14
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": FAST_COMPILE,
    "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")

import jaxtyping

jaxtyping.install_import_hook("mtjax", "beartype.beartype")

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from jax.sharding import AxisType
from PIL import Image

from mtjax import lookup, records
from mtjax import train as loop
from mtjax.compute import sharding
from mtjax.compute.distributed import Preemption
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog, Clip
from mtjax.data.files import sealed
from mtjax.run.experiment import Experiment
from mtjax.run.workdir import Run

flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl flags


def pytest_configure(config: pytest.Config) -> None:
    """Forgets compiled programs of long ago, once a session."""
    if not hasattr(config, "workerinput") and CACHE.exists():
        for program in CACHE.iterdir():
            if time.time() - program.stat().st_mtime > CACHE_DAYS * 86400:
                program.unlink(missing_ok=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Looks for garbage less often: modules stay, and JAX keeps millions of objects (CPU time of three files: 92 → 86 s)."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture
def shared() -> Path:
    """Real data beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real data in ../shared/data, which is not part of the project")
    return SHARED


def make_tracks_dataset(
    root: Path,
    *,
    clips: int = 48,
    classes: int = 4,
    frames: int = 8,
    points: int = 5,
    ragged: bool = False,
    seed: int = 0,
    labelled: tuple[str, ...] = ("train", "test"),
) -> Path:
    """A tiny dataset whose classes are directions of motion: learnable in a few steps.

    Splits: train (2/3 of the clips) and test, those `labelled` with labels and targets; `shape` of a record (frames or fewer,
    points, 3).
    """
    rng = np.random.default_rng(seed)
    names = tuple(f"direction_{c}" for c in range(classes))
    listed, values = [], {}
    for i in range(clips):
        label, clip_id = i % classes, f"clip-{i:04d}"
        length = int(rng.integers(2, frames + 1)) if ragged else frames
        angle = 2 * np.pi * label / classes
        xy = rng.random((1, points, 2)) + 0.1 * np.arange(length)[:, None, None] * [np.cos(angle), np.sin(angle)]
        xy += rng.normal(0, 0.01, xy.shape)
        tracks = np.concatenate([xy, np.zeros((length, points, 1))], -1).astype(np.float32)
        split = "train" if i < clips * 2 // 3 else "test"
        known = {"label": names[label], "targets": (float(label), float(i))} if split in labelled else {}
        listed.append(Clip(clip_id, (split,), group=f"group-{i // classes}", **known))
        values[clip_id] = {"tracks": tracks}
    Catalog(Path(root), "directions", "1", names, tuple(listed), {"target_names": ["label", "number"]}).save()
    schema = {"tracks": records.Feature("float32", (-1 if ragged else frames, points, 3))}
    column_writer.write_column(root, columns.Spec("tracks", schema, 2, "tests"), values)
    return Path(root)


@pytest.fixture
def dataset(tmp_path) -> Path:
    return make_tracks_dataset(tmp_path / "data")


@pytest.fixture
def ragged_dataset(tmp_path) -> Path:
    return make_tracks_dataset(tmp_path / "ragged", ragged=True)


def edit_json(path: Path, **changes) -> None:
    """Changes values of a sealed JSON file, and its seal with them."""
    path.write_text(sealed(json.loads(path.read_text()) | changes))


def image_bytes(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """uint8 [h w 3] as it would lie in a file; PNG (which decodes like JPEG) loses nothing."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def make_dataset(
    root: Path, *, per_split: dict[str, int], classes: int = 3, columns_of: dict[str, dict], groups: int = 0
) -> Path:
    """A dataset whose clips are "<split>-<number>", class number % classes.

    Args:
      columns_of: column → field → (feature, clip id → value); a clip without a value has no record.
      groups: how many clips follow each other in one group; 0 for none.
    """
    names = tuple(f"class {c:03}" for c in range(classes))
    clips = tuple(
        Clip(f"{split}-{i:03}", (split,), label=names[i % classes], group=f"{split}-{i // groups}" if groups else "",
             path=f"videos/{split}/v_{split}_{i:03}.avi")
        for split, count in per_split.items() for i in range(count)
    )  # fmt: skip
    Catalog(Path(root), "made", "1", names, clips).save()
    for name, fields in columns_of.items():
        schema = {field: feature for field, (feature, _) in fields.items()}
        present = set.intersection(*(set(values) for _, values in fields.values()))
        values = {i: {field: of[i] for field, (_, of) in fields.items()} for i in sorted(present)}
        column_writer.write_column(root, columns.Spec(name, schema, 2, "tests"), values)
    return Path(root)


def tiny_config(root, **changes) -> dict:
    """A config over `make_tracks_dataset` that trains in seconds; changes are dotted paths with `__` for the dot."""
    config = {
        "seed": 0,
        "data": {
            "name": "tracks.Tracks",
            "root": str(root),
            "column": "tracks",
            "train": "train",
            "frames": 8,
            "points": 5,
        },
        "model": {
            "name": "movt.MovT",
            "motion": (8,),
            "branch": 8,
            "position": (8,),
            "layers": 1,
            "heads": 2,
            "feed_forward": 16,
        },
        "task": {"name": "classify.Classify"},
        "optimizer": {"lr": 3e-3, "clip_norm": 1.0},
        "evals": {"test": {"name": "top1.Top1", "split": "test"}},
        "train": {"batch": 8, "epochs": 4.0, "log_every": 4},
        "mesh": {},
    }
    for path, value in changes.items():
        *sections, key = path.split("__")
        section = config
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return config


def config_of(
    root, *, data: dict, model: dict, task: dict, train: dict, optimizer: dict | None = None, evals: dict | None = None
) -> dict:
    """A whole config from the sections that matter."""
    return {
        "seed": 0,
        "data": {"root": str(root)} | data,
        "model": model,
        "task": task,
        "optimizer": optimizer or {"lr": 1e-2},
        "evals": {"test": {"name": "top1.Top1", "split": "test"}} if evals is None else evals,
        "train": {"batch": 8, "log_every": 10} | train,
        "mesh": {},
    }


def train_here(config: dict, workdir: Path) -> dict[str, float]:
    """The real loop in this process; the final scores."""
    run = Run(Experiment(config), workdir, config_may_change=False, data_may_change=False)
    try:
        return loop.train(run.exp, run, Preemption())
    finally:
        run.checkpoints.close()


@pytest.fixture(autouse=True, scope="module")
def allowed_code(request):
    """The configs of workdirs may name what a test's own file defines, and nothing else outside of mtjax."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "_allowed", {request.module.__name__})
        yield


@pytest.fixture(scope="module")
def one_device():
    """Every mesh is one device: compiling for eight takes several times as long, where nothing is about the mesh."""
    mesh = jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda **_: mesh)
        yield mesh


def run_main(module: str, *arguments: str, devices: int = 1, **environment: str) -> subprocess.CompletedProcess:
    """What `run_cli("-m", MODULE, …)` returns, from the module's `main` in this process: nothing is imported anew, and `mtjax` is
    checked by its annotations. Of the 8 fake devices the command sees the first `devices`."""
    package = importlib.util.find_spec(module).submodule_search_locations is not None
    main = importlib.import_module(f"{module}.__main__" if package else module).main
    takes_program = inspect.signature(main).parameters["argv"].default is inspect.Parameter.empty  # as absl wants it
    argv = list(map(str, arguments))
    seen = jax.devices()[:devices]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("devices", "local_devices"):
            patch.setattr(jax, name, lambda *_, **__: seen)
        patch.setattr(jax, "device_count", lambda *_: devices)
        make_mesh = jax.make_mesh
        patch.setattr(jax, "make_mesh", lambda *a, **k: make_mesh(*a, **{"devices": seen} | k))
        patch.chdir(REPO)
        patch.setattr(sys, "argv", [module, *argv])  # ml_collections reads overrides there
        for name, value in environment.items():
            patch.setenv(name, value)
        stack.enter_context(flagsaver.flagsaver())
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            status = main([module, *argv] if takes_program else argv)
        except SystemExit as e:
            status = e.code
        except Exception:
            traceback.print_exc()
            status = 1
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess([module, *argv], status or 0, out.getvalue(), err.getvalue())


def write_config(path: Path, config: dict) -> Path:
    """A config file for the real command line."""
    path.write_text(
        f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({config!r})\n"
    )
    return path


def run_cli(*arguments: str, devices: int = 1, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess:
    """`python ARGUMENTS` from the repository's root, on `devices` fake devices. Imports alone take seconds: where the process is
    not the point there is `run_main`."""
    flags = f"{FAST_COMPILE} --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags} | environment
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=REPO, env=env, capture_output=True, text=True, timeout=timeout
    )
