"""What this machine has for a run: versions, devices, disk, shared memory. For bug reports, and before a long run.

mtjax doctor [--distributed]
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jax

from mtjax import __version__
from mtjax.command import arguments, shell
from mtjax.compute import distributed

CORE = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
OPENCV = ("opencv-contrib-python-headless", "opencv-python-headless", "opencv-contrib-python", "opencv-python")
EXTRAS = ("av", *OPENCV, "simplejpeg", "torch", "transformers", "libtpu", "gcsfs", "wandb")
SHARED_MEMORY = Path("/dev/shm")
ENOUGH_SHARED_MEMORY = 2**30
GIB = 2**30

Finding = tuple[str, str, str]  # what, value, warning or ""


def version_of(package: str) -> str:
    """Of an installed distribution, without importing it; "" if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def versions() -> Iterator[Finding]:
    """Of Python, of what training needs, and of the extras that are there."""
    yield "python", f"{platform.python_version()} on {platform.platform()}", ""
    yield "mtjax", f"{__version__} in {Path(__file__).parent}", ""
    for name in CORE:
        found = version_of(name)
        yield name, found or "-", "" if found else "not installed: pip install mtjax"
    installed = {name: found for name in EXTRAS if (found := version_of(name))}
    several = [name for name in OPENCV if name in installed]
    for name, found in installed.items():
        clash = name in several and len(several) > 1
        yield name, found, f"only one OpenCV may be installed, not {several}" if clash else ""
    if "av" in installed:
        yield "ffmpeg", *_ffmpeg()


def _ffmpeg() -> tuple[str, str]:
    try:
        import av
    except ImportError as e:
        return "-", f"av cannot be imported: {e}"
    return "  ".join(
        f"{name} {'.'.join(map(str, version))}" for name, version in sorted(av.library_versions.items())
    ), ""


def devices() -> Iterator[Finding]:
    """What JAX sees."""
    try:
        local = jax.local_devices()
    except Exception as e:  # whatever a driver raises, the other lines are wanted all the more
        yield "devices", "-", f"{type(e).__name__}: {str(e).strip().splitlines()[:1]} (JAX_PLATFORMS=cpu does without)"
        return
    yield "devices", f"{len(local)} × {local[0].device_kind} here, {jax.device_count()} in all", ""
    yield "processes", f"number {jax.process_index()} of {jax.process_count()}", ""


def host() -> Iterator[Finding]:
    """What the operating system gives."""
    yield "CPU cores", str(os.cpu_count()), ""
    yield "disk", f"{shutil.disk_usage('.').free / GIB:.1f} GiB free in {Path.cwd()}", ""
    if SHARED_MEMORY.is_dir():
        size = shutil.disk_usage(SHARED_MEMORY).total
        small = f"too little for config.data.workers > 0; docker run --shm-size=8g, or mount more on {SHARED_MEMORY}"
        yield str(SHARED_MEMORY), f"{size / GIB:.2f} GiB", small if size < ENOUGH_SHARED_MEMORY else ""
    has_gcs = importlib.util.find_spec("gcsfs") is not None
    yield "gs:// checkpoints", "yes (gcsfs)" if has_gcs else "no: pip install 'mtjax[gcs]'", ""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    yield "JAX_COMPILATION_CACHE_DIR", cache or "not set: every start compiles anew", ""


@shell.command("doctor")
def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser("doctor", __doc__)
    parser.add_argument("--distributed", action="store_true", help="join the other processes, as mtjax.train does")
    if parser.parse_args(argv).distributed:
        distributed.initialize()
    findings = [*versions(), *devices(), *host()]
    width = max(len(what) for what, _, _ in findings)
    for what, value, warning in findings:
        print(f"{what:{width}}  {value}" + (f"\n{'':{width}}  WARNING: {warning}" if warning else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
