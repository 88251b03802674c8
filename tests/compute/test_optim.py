"""Optimisers and schedules against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtjax.compute.optim import Optimizer

torch = pytest.importorskip("torch")


def trajectories(optimizer: Optimizer, make_torch, steps: int = 30):
    """The same quadratic minimised by both; returns both paths of the parameters."""
    start, centre = np.array([1.0, -2.0, 3.0], np.float32), np.array([0.3, 0.1, -0.5], np.float32)
    tx = optimizer.transform(steps)
    params = {"w": jnp.asarray(start)}
    state = tx.init(params)
    weight = torch.nn.Parameter(torch.tensor(start))
    theirs = make_torch([weight])
    ours_path, their_path = [], []
    for _ in range(steps):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update({"w": 2 * (params["w"] - centre)}, state, params)
        params = optax.apply_updates(params, updates)
        theirs.zero_grad()
        ((weight - torch.tensor(centre)) ** 2).sum().backward()
        if optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_([weight], optimizer.clip_norm)
        theirs.step()
        ours_path.append(np.asarray(params["w"]))
        their_path.append(weight.detach().numpy().copy())
    return np.array(ours_path), np.array(their_path)


def test_adamw_with_clipping_equals_pytorch():
    optimizer = Optimizer(lr=0.05, weight_decay=0.01, clip_norm=1.0)
    ours, theirs = trajectories(optimizer, lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_sgd_with_momentum_and_decay_equals_pytorch():
    optimizer = Optimizer(name="sgd", lr=0.02, momentum=0.9, weight_decay=0.1)
    ours, theirs = trajectories(optimizer, lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=0.1))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_plateau_equals_pytorchs_reduce_lr_on_plateau():
    rng = np.random.default_rng(0)
    values = np.concatenate([np.linspace(2, 1, 8), 1 + 0.05 * rng.random(30), [0.5], np.full(20, 0.5)])
    optimizer = Optimizer(lr=1.0, schedule="plateau", factor=0.5, patience=3)
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=3, threshold=1e-4)
    state = optimizer.init_plateau()
    for value in values:
        state = optimizer.update_plateau(state, jnp.float32(value))
        schedule.step(float(np.float32(value)))
        assert float(state["factor"]) == pytest.approx(theirs.param_groups[0]["lr"])
    assert float(state["factor"]) < 0.1  # it did reduce, several times


def test_warmup_cosine_and_step_schedules():
    cosine = Optimizer(lr=1.0, schedule="cosine", warmup=10, end_lr=0.1).learning_rate(110)
    step = Optimizer(lr=1.0, schedule="step", milestones=(0.5, 0.75), factor=0.1).learning_rate(100)
    with jax.numpy_dtype_promotion("standard"):
        assert [float(cosine(s)) for s in (0, 5, 10, 60, 110)] == pytest.approx([0, 0.5, 1.0, 0.55, 0.1], abs=1e-6)
        assert [float(step(s)) for s in (0, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_matrices_only_decay():
    tx = Optimizer(lr=1.0, weight_decay=0.5, decayed="matrices", b1=0.0, b2=0.0).transform(1)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.5)
    np.testing.assert_allclose(updates["bias"], 0.0)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="config.optimizer.schedule='cosin'"):
        Optimizer(lr=1.0, schedule="cosin")
