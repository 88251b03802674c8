"""Losses by hand and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax.tasks import losses


def test_mg5_label_smoothing_by_hand():
    loss = losses.cross_entropy(jnp.array([[2.0, 0.0, -1.0]]), jnp.array([0], jnp.int32), smoothing=0.1)
    assert float(loss[0]) == pytest.approx(0.3365128, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_pytorch(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(16, 5)).astype(np.float32), rng.integers(0, 5, 16)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), label_smoothing=smoothing, reduction="none"
    )
    found = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels, jnp.int32), smoothing=smoothing)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_unlabelled_examples_and_empty_batches_cost_nothing():
    loss = losses.cross_entropy(jnp.zeros((2, 3)), jnp.array([-1, 1], jnp.int32))
    np.testing.assert_allclose(loss, [0, np.log(3)], atol=1e-6)
    assert float(losses.weighted_mean(loss, jnp.zeros(2))) == 0


def test_focal_loss_by_hand():
    p = 0.8
    logits = jnp.log(jnp.array([[p, 1 - p]]))
    loss = losses.cross_entropy(logits, jnp.array([0], jnp.int32), focal_gamma=2.0)
    assert float(loss[0]) == pytest.approx((1 - p) ** 2 * -np.log(p), abs=1e-6)


def test_squared_error_is_the_mean_over_targets():
    assert float(losses.squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]]))[0]) == pytest.approx(2.5)


def test_mg6_cross_entropy_against_soft_labels():
    logits, teacher = jnp.array([[2.0, 0.0, -1.0]]), jnp.array([[0.7, 0.2, 0.1]])
    assert float(losses.soft_cross_entropy(logits, teacher)[0]) == pytest.approx(0.869846, abs=1e-6)


def test_soft_losses_meet_their_definitions():
    logits, other = jnp.array([[2.0, 0.0, -1.0], [0.5, 0.4, 3.0]]), jnp.array([[0.3, 1.0, -2.0], [1.0, 1.0, 1.0]])
    teacher = jax.nn.softmax(other)
    for temperature in (1.0, 3.0):
        soft = jax.nn.softmax(other / temperature)
        student = jax.nn.log_softmax(logits / temperature)
        expected = temperature**2 * (soft * (jnp.log(soft) - student)).sum(-1)
        np.testing.assert_allclose(losses.kl_divergence(logits, teacher, temperature=temperature), expected, rtol=1e-5)
        agreeing = losses.kl_divergence(other, teacher, temperature=temperature)
        np.testing.assert_allclose(agreeing, 0.0, atol=1e-5)
        gradients = [
            jax.grad(lambda x, f=f, t=temperature: f(x, teacher, temperature=t).sum())(logits)
            for f in (losses.soft_cross_entropy, losses.kl_divergence)
        ]
        np.testing.assert_allclose(*gradients, atol=1e-6)
    certain = jnp.array([[1.0, 0.0, 0.0]])
    assert np.isfinite(losses.kl_divergence(logits[:1], certain, temperature=2.0)).all()
