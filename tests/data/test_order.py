"""The data order: exact epochs, the same on host and device, and independent of everything but seed, clips and step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax.data.order import Order


@pytest.mark.parametrize("clips", [1, 2, 3, 7, 100, 433])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_every_epoch_is_a_permutation(clips, batch):
    order = Order(clips, batch, seed=3)
    seen = np.concatenate([order(step) for step in range(-(-3 * clips // batch))])
    for epoch in range(3):
        assert np.array_equal(np.sort(seen[epoch * clips : (epoch + 1) * clips]), np.arange(clips))


@pytest.mark.parametrize(("clips", "batch"), [(1000, 64), (5, 16), (118_562, 256)])
def test_host_and_device_agree(clips, batch):
    order = Order(clips, batch, seed=1)
    on_device = jax.jit(lambda cursor: order.positions(cursor, jnp))
    for step in (0, 1, 17, 999):
        assert np.array_equal(order(step), on_device(order.cursor(step)))


def test_epochs_and_seeds_differ_and_positions_are_uniform():
    first = [Order(16, 16, seed)(0) for seed in range(4000)]
    assert not np.array_equal(Order(100, 100, 0)(0), Order(100, 100, 0)(1))
    counts = np.stack([np.bincount(column, minlength=16) for column in np.array(first).T])
    chi_square = ((counts - 250) ** 2 / 250).sum() / 15**2
    assert 0.7 < chi_square < 1.4  # 225 degrees of freedom: five standard deviations on either side of 1


def test_neighbours_are_uncorrelated():
    epoch = np.concatenate([Order(10_000, 100, 5)(step) for step in range(100)])
    assert abs(np.corrcoef(epoch[:-1], epoch[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(epoch, np.arange(10_000))[0, 1]) < 0.05


def test_late_steps_do_not_overflow():
    order = Order(118_562, 4096, 0)
    late = order(2_000_000)  # 8e9 examples, beyond 32 bits
    assert late.min() >= 0 and late.max() < 118_562 and len(np.unique(late)) > 4000
