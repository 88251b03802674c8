import collections
import importlib.metadata

from conftest import run_cli

from mtjax import doctor


def test_the_doctor_prints_what_a_bug_report_needs_without_importing_torch():
    code = "import sys; from mtjax import doctor; status = doctor.main([]); assert 'torch' not in sys.modules; sys.exit(status)"
    done = run_cli("-c", code, devices=3, JAX_COMPILATION_CACHE_DIR="/some/where")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    for name in ("jax", "flax", "grain"):
        assert lines[name] == importlib.metadata.version(name)
    assert lines["devices"].startswith("3 × cpu here, 3 in all") and lines["processes"] == "number 0 of 1"
    assert "GiB free" in lines["disk"] and lines["JAX_COMPILATION_CACHE_DIR"] == "/some/where"


def test_little_shared_memory_is_a_warning(monkeypatch, capsys):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(64 * 2**20, 0, 64 * 2**20))
    assert doctor.main([]) == 0
    assert "WARNING: too little for config.data.workers" in capsys.readouterr().out
