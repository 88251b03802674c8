"""Checkpoints: kept steps, other meshes, and every kind of damage (fault 17)."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mtjax.compute import sharding
from mtjax.run.checkpoint import Checkpoints, NoGoodCheckpoint, checksums, pack_ids, unpack_ids

pytestmark = pytest.mark.core
REPLICATED = P()


def state(k: int, mesh=None, spec=REPLICATED):
    tree = {
        "params": {"a/b": jnp.arange(64.0).reshape(8, 8) + k, "c": jnp.float32(k)},
        "opt": (jnp.int32(k), {}),
        "mask": jnp.ones(3, bool),
        "half": jnp.arange(4, dtype=jnp.bfloat16),
    }
    return jax.device_put(tree, shardings(tree, mesh, spec)) if mesh else tree


def shardings(tree, mesh, spec):
    return jax.tree.map(lambda a: NamedSharding(mesh, spec if a.ndim == 2 else P()), tree)


def template(mesh=None, spec=REPLICATED):
    mesh = mesh or sharding.make_mesh()
    tree = jax.eval_shape(lambda: state(0))
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings(tree, mesh, spec)
    )


@pytest.fixture
def three(tmp_path):
    """A folder with steps 10, 20, 30."""
    checkpoints = Checkpoints(str(tmp_path / "ck"), keep=3)
    for step in (10, 20, 30):
        checkpoints.save(step, state(step), {"evaluated": True}, metric=step / 100)
    checkpoints.wait()
    checkpoints.close()
    return tmp_path / "ck"


def largest_file(step_dir: Path) -> Path:
    return max((f for f in (step_dir / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(path: Path, at: float = 0.5, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1 << bit
    path.write_bytes(data)


def test_keeps_the_latest_and_the_best(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), keep=2)
    for step, metric in ((1, 0.2), (2, 0.9), (3, 0.1), (4, None), (5, 0.3)):
        checkpoints.save(step, state(step), {}, metric=metric)
    checkpoints.wait()
    assert checkpoints.steps() == [2, 4, 5] and checkpoints.best_step() == 2


def test_lowest_is_best_when_asked(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), keep=1, best_mode="min")
    for step, metric in ((1, 0.2), (2, 0.9), (3, 0.3)):
        checkpoints.save(step, state(step), {}, metric=metric, wait=True)
    assert checkpoints.steps() == [1, 3] and checkpoints.best_step() == 1


def test_nothing_saved_is_none_and_read_only_says_so(tmp_path):
    assert Checkpoints(str(tmp_path / "new")).restore_latest(template()) is None
    with pytest.raises(NoGoodCheckpoint, match="does not exist"):
        Checkpoints(str(tmp_path / "none"), read_only=True)


@pytest.mark.parametrize("shape", [{"data": 8}, {"data": 2, "fsdp": 4}, {"fsdp": 8}])
def test_restores_on_another_mesh(tmp_path, shape):
    saved_on = sharding.make_mesh(data=4, fsdp=2)
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(7, state(7, saved_on, P("fsdp", "data")), {"x": 1}, wait=True)
    found, meta = checkpoints.restore_latest(template(sharding.make_mesh(**shape), P("data", "fsdp")))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(state(7)))
    assert meta["x"] == 1 and meta["step"] == 7


def damage_flip(step_dir):
    flip(largest_file(step_dir))


def damage_truncate(step_dir):
    path = largest_file(step_dir)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_missing_file(step_dir):
    largest_file(step_dir).unlink()


def damage_empty(step_dir):
    shutil.rmtree(step_dir)
    step_dir.mkdir()


def damage_meta(step_dir):
    path = next(p for p in (step_dir / "meta").rglob("*") if p.is_file() and b"checksums" in p.read_bytes())
    path.write_bytes(path.read_bytes().replace(b'"step": 30', b'"step": 31').replace(b'"step":30', b'"step":31'))


def damage_manifest(step_dir):
    next((step_dir / "state").glob("manifest.ocdbt")).unlink()


DAMAGES = [damage_flip, damage_truncate, damage_missing_file, damage_empty, damage_meta, damage_manifest]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_a_damaged_step_is_set_aside_and_the_previous_one_used(three, damage):
    damage(three / "30")
    checkpoints = Checkpoints(str(three), keep=3)
    found, meta = checkpoints.restore_latest(template())
    assert meta["step"] == 20 and float(found["params"]["c"]) == 20
    assert (three / "30.bad").is_dir() and checkpoints.steps() == [10, 20]
    checkpoints.save(30, state(30), {}, wait=True)
    assert checkpoints.steps() == [10, 20, 30]


def test_no_good_step_is_an_error_now_and_later(three):
    for step in (10, 20, 30):
        flip(largest_file(three / str(step)))
    for _ in range(2):  # the second time only the *.bad folders are left
        with pytest.raises(NoGoodCheckpoint, match="30.bad"):
            Checkpoints(str(three)).restore_latest(template())


def test_a_half_written_step_is_ignored(three):
    (three / "40.orbax-checkpoint-tmp").mkdir()
    (three / "40.orbax-checkpoint-tmp" / "state").mkdir()
    found = Checkpoints(str(three), keep=3).restore_latest(template())
    assert found[1]["step"] == 30


def test_read_only_leaves_damaged_steps_where_they_are(three):
    damage_flip(three / "30")
    found = Checkpoints(str(three), read_only=True).restore_latest(template())
    assert found[1]["step"] == 20 and (three / "30").is_dir()


def test_every_single_bit_flip_changes_the_checksum():
    values = np.arange(16, dtype=np.float32)
    expected = np.asarray(checksums({"x": jnp.asarray(values)}))
    for byte in range(values.nbytes):
        for bit in range(8):
            raw = bytearray(values.tobytes())
            raw[byte] ^= 1 << bit
            assert np.asarray(checksums({"x": jnp.asarray(np.frombuffer(raw, np.float32))})) != expected


def test_ids_round_trip():
    ids = ["a", "ünï/code", "with space#;"]
    assert unpack_ids(json.loads(json.dumps(pack_ids(ids)))) == ids
