"""The train state and step: sharding, accumulation, the non-finite guard, frozen submodules, averages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from mtjax.compute import sharding
from mtjax.compute.optim import Optimizer
from mtjax.compute.step import Program, scalars_to_host
from mtjax.lookup import ConfigError
from mtjax.models import movt
from mtjax.tasks.classify import Classify
from mtjax.types import random_streams

WIDTHS = {"motion": (8, 8), "branch": 16, "position": (8,), "layers": 1, "heads": 2, "feed_forward": 64, "dropout": 0.1}


# Compiling for eight devices takes several times as long as for one; only what is about the mesh pays for it.
ONE_DEVICE = jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])


def program(*, mesh=None, task=None, optimizer=None, rules=(), accumulate=1, seed=0, **widths) -> Program:
    return Program(
        model=lambda rngs: movt.MovT(**(WIDTHS | widths), rngs=rngs),
        task=task or Classify(num_classes=3),
        prepare=lambda batch, train, key: batch,
        optimizer=optimizer or Optimizer(name="sgd", lr=0.1, momentum=0.9, clip_norm=1.0),
        mesh=mesh or ONE_DEVICE,
        rules=rules,
        seed=seed,
        total_steps=10,
        accumulate=accumulate,
    )


def host_batch(b=16, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "tracks": rng.random((b, 6, 4, 3)).astype(np.float32),
        "frame_valid": np.ones((b, 6), bool),
        "point_valid": np.ones((b, 4), bool),
        "label": rng.integers(0, 3, b).astype(np.int32),
        "clip": np.arange(b, dtype=np.int32),
        "valid": np.ones(b, bool),
    }


def test_runs_of_several_seeds_are_one_program_to_the_compiler():
    first, second = (program(seed=seed) for seed in (0, 1))
    lowered = [p.lower_train_step(p.shapes, host_batch()).as_text() for p in (first, second)]
    assert lowered[0] == lowered[1]
    weights = [p.init()["params"]["head/kernel"] for p in (first, second)]
    assert not np.array_equal(*weights)


def run(prog: Program, steps=3, batch=None):
    batch = batch or host_batch()
    size = len(batch["valid"])
    local = sharding.local_positions(size, prog.mesh)
    state = prog.init()
    for _ in range(steps):
        state, metrics = prog.train_step(state, sharding.to_global(batch, local, size, prog.mesh))
    return state, scalars_to_host(metrics)


def test_every_mesh_trains_to_the_same_parameters():
    """With dropout on, and SGD: Adam's first steps turn rounding into signs."""
    expected, loss = run(program())
    for shape in ({}, {"fsdp": 2, "tensor": 2}):
        state, found = run(program(mesh=sharding.make_mesh(**shape)))
        assert found["loss"] == pytest.approx(loss["loss"], abs=1e-5)
        for name, value in expected["params"].items():
            np.testing.assert_allclose(state["params"][name], value, atol=2e-5, err_msg=name)


def test_fsdp_shards_parameters_and_optimiser_alike():
    prog = program(mesh=sharding.make_mesh(fsdp=4), optimizer=Optimizer(lr=1e-3))
    state, _ = run(prog, steps=1)
    name = "backbone/layers/0/up/kernel"
    assert state["params"][name].sharding.spec == P(None, "fsdp")
    moments = [
        s.mu[name] for s in jax.tree.leaves(state["opt"], is_leaf=lambda x: hasattr(x, "mu")) if hasattr(s, "mu")
    ]
    assert [m.sharding.spec for m in moments] == [P(None, "fsdp")]
    assert state["params"]["head/bias"].sharding.is_fully_replicated


def test_rules_come_first_and_must_match():
    mesh = sharding.make_mesh(tensor=2)
    prog = program(mesh=mesh, rules=((r"up/kernel$", ("", "tensor")), (r"down/kernel$", ("tensor", ""))))
    state, _ = run(prog, steps=1)
    assert state["params"]["backbone/layers/0/up/kernel"].sharding.spec == P(None, "tensor")
    assert state["params"]["backbone/layers/0/down/kernel"].sharding.spec == P("tensor", None)
    with pytest.raises(ConfigError, match=r"\['upp/kernel'\] match no parameter"):
        program(mesh=mesh, rules=(("upp/kernel", ("", "tensor")),))
    with pytest.raises(ConfigError, match="does not fit"):
        program(mesh=mesh, rules=(("up/kernel", ("", "model")),))


def test_wrong_meshes_and_batches_are_named():
    with pytest.raises(ConfigError, match=r"data=3 × fsdp=1 × tensor=1 is not the 8 devices"):
        sharding.make_mesh(data=3)
    with pytest.raises(ConfigError, match=r"config.train.batch=12 does not divide over 8"):
        sharding.local_positions(12, sharding.make_mesh())


@dataclasses.dataclass(frozen=True)
class OfSlice:
    """A device of a machine with several slices, of which there is none here."""

    id: int
    slice_index: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def test_slices_are_told_apart_along_data_alone(monkeypatch):
    """Listed in turns; `fsdp` and `tensor`, which talk in every layer, stay within a slice."""
    devices = [OfSlice(i, slice_index=i % 2, process_index=i) for i in range(8)]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    monkeypatch.setattr(jax, "device_count", lambda *_: 8)
    for shape in ({}, {"fsdp": 2}, {"fsdp": 2, "tensor": 2}):
        mesh = sharding.make_mesh(**shape)
        assert mesh.axis_names == sharding.AXES and sorted(d.id for d in mesh.devices.flat) == list(range(8))
        slices = np.vectorize(lambda d: d.slice_index)(mesh.devices)
        half = len(slices) // 2
        assert {*slices[:half].flat} == {0} and {*slices[half:].flat} == {1}, slices
    with pytest.raises(ConfigError, match="data=1 must be a multiple of the 2 slices"):
        sharding.make_mesh(fsdp=4, tensor=2)


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    whole, _ = run(program(dropout=0.0), steps=2)
    parts, _ = run(program(dropout=0.0, accumulate=2), steps=2)
    for name, value in whole["params"].items():
        np.testing.assert_allclose(parts["params"][name], value, atol=2e-5, err_msg=name)


def test_a_non_finite_step_changes_nothing_but_the_counters():
    prog = program(optimizer=Optimizer(lr=1e-2, ema=0.9))
    good, bad = host_batch(), host_batch(seed=1)
    bad["tracks"][3, 0, 0, 0] = np.nan
    local = sharding.local_positions(16, prog.mesh)
    state, _ = prog.train_step(prog.init(), sharding.to_global(good, local, 16, prog.mesh))
    before = jax.device_get({k: state[k] for k in ("params", "opt", "ema")})
    state, metrics = prog.train_step(state, sharding.to_global(bad, local, 16, prog.mesh))
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get({k: state[k] for k in before}))
    assert int(state["step"]) == 2 and int(state["skipped"]["count"]) == 1 and int(state["skipped"]["step"]) == 1
    assert not np.isfinite(float(metrics["loss"]))
    state, metrics = prog.train_step(state, sharding.to_global(good, local, 16, prog.mesh))
    assert np.isfinite(float(metrics["loss"])) and int(state["skipped"]["count"]) == 1


def test_padding_has_no_weight():
    full, short = host_batch(8), host_batch(16)
    for name in full:
        short[name][:8] = full[name]
    short["valid"][8:] = False
    _, one = run(program(dropout=0.0), steps=1, batch=full)
    _, two = run(program(dropout=0.0), steps=1, batch=short)
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-6)


def test_moving_average_is_what_predicts():
    prog = program(optimizer=Optimizer(name="sgd", lr=0.5, momentum=0.0, ema=0.5))
    start = jax.device_get(prog.init()["params"])
    state, _ = run(prog, steps=1)
    after = jax.device_get(state["params"])
    for name, average in jax.device_get(state["ema"]).items():
        np.testing.assert_allclose(average, 0.5 * (start[name] + after[name]), atol=1e-6)
    batch = sharding.to_global(host_batch(), sharding.local_positions(16, prog.mesh), 16, prog.mesh)
    averaged = prog.predict_step(state, batch)["logits"]
    latest = prog.predict_step(state | {"ema": state["params"]}, batch)["logits"]
    assert np.abs(averaged - latest).max() > 1e-4


class FrozenBackbone(Classify):
    """Trains the head alone: what a frozen teacher needs."""

    trainable = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("backbone")))


def test_a_frozen_submodule_is_invisible_to_the_optimiser():
    prog = program(task=FrozenBackbone(num_classes=3), optimizer=Optimizer(lr=0.1, weight_decay=0.5))
    start = jax.device_get(prog.init())
    state, _ = run(prog)
    assert set(state["params"]) == {"head/kernel", "head/bias"} and "backbone/fusion/kernel" in state["rest"]
    for name, value in start["rest"].items():
        np.testing.assert_array_equal(state["rest"][name], value)


def test_gradients_agree_with_finite_differences():
    prog = program(dropout=0.0)
    batch = {k: jnp.asarray(v) for k, v in host_batch(8).items()}
    state = prog.init()
    _, _, _, grads = jax.jit(prog._gradients)(state, batch, jax.random.key(0))

    def loss(params):
        module = prog.net.merge(params, state["rest"])
        return prog.task.loss(module, batch, rngs=nnx.Rngs(dropout=jax.random.key(0)))[0]

    loss = jax.jit(loss)
    name, epsilon = "head/kernel", 1e-2
    for index in [(0, 0), (5, 2)]:
        moved = [state["params"] | {name: state["params"][name].at[index].add(s * epsilon)} for s in (1, -1)]
        slope = float(loss(moved[0]) - loss(moved[1])) / (2 * epsilon)
        assert slope == pytest.approx(float(grads[name][index]), abs=2e-3)


def test_random_streams_are_those_of_flax():
    """Eagerly, under tracing, and of streams that begin in others."""

    def keys(make):
        rngs = make(params=jax.random.key(3), default=5)
        drawn = [rngs.params(), rngs.params(), rngs.other(), rngs.params.fork()(), rngs.params()]
        return jnp.stack([jax.random.key_data(key) for key in drawn])

    expected = keys(nnx.Rngs)
    for found in (keys(random_streams), jax.jit(lambda: keys(random_streams))()):
        np.testing.assert_array_equal(found, expected)
    assert len({tuple(key) for key in expected.tolist()}) == len(expected)
