"""Batch normalisation as PyTorch has it, with one pass over memory a direction."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mtjax.command.errors import InputError


class BatchNorm(nnx.Module):
    """Batch normalisation over all but the last dimension, with PyTorch's running statistics.

    Training normalises by the mean and the biased variance of the global batch (under jit there is no other; PyTorch without
    SyncBatchNorm takes those of each device's part) and keeps running means of the mean and the *unbiased* variance;
    `nnx.BatchNorm` would keep the biased one. Statistics are float32. With `train.accumulate` they are of a micro-batch. Rows
    that are no example (padding, damaged records) have no part in them.
    """

    def __init__(self, channels: int, *, epsilon: float = 1e-5, momentum: float = 0.1, dtype: jnp.dtype = jnp.float32):
        """
        Args:
          momentum: PyTorch's: how much of the running statistics each batch replaces.
          dtype: of the result.
        """
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(channels)), nnx.BatchStat(jnp.ones(channels))
        self.epsilon, self.momentum, self.dtype = epsilon, momentum, dtype
        self.frozen = False

    def __call__(
        self, x: Float[Array, "b *lead c"], *, train: bool, valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b *lead c"]:
        """With `train` (and not `frozen`) normalises by the batch and updates the running statistics.

        Args:
          valid: which rows the statistics are of, None for all. Without one that is, the running ones stay as they were.
        """
        scale, bias, mean, var = (jnp.asarray(v[...]) for v in (self.scale, self.bias, self.mean, self.var))
        if not train or self.frozen:
            scale = scale * jax.lax.rsqrt(var + self.epsilon)
            return (x.astype(jnp.float32) * scale + (bias - mean * scale)).astype(self.dtype)
        count, weight, new = math.prod(x.shape[:-1]), None, self.momentum
        if count < 2:
            raise InputError("BatchNorm in training needs more than one value a channel: a larger batch or clip")
        if valid is not None:
            weight = valid.astype(jnp.float32).reshape(-1, *(1,) * (x.ndim - 1))
            count = _count(x, weight)
            new = jnp.where(count > 1.0, self.momentum, 0.0)
        y, of_batch, biased = _normalised(x, scale, bias, weight, self.epsilon)
        unbiased = count / jnp.maximum(count - 1, 1)
        self.mean.set_value((1.0 - new) * mean + new * jax.lax.stop_gradient(of_batch))
        self.var.set_value((1.0 - new) * var + new * unbiased * jax.lax.stop_gradient(biased))
        return y.astype(self.dtype)


def _count(x: Float[Array, "b *lead c"], weight: Float[Array, "b *ones"] | None) -> Float[Array, ""] | int:
    """How many values of a channel count, 1 at least."""
    positions = math.prod(x.shape[1:-1])
    return len(x) * positions if weight is None else jnp.maximum(weight.sum() * positions, 1.0)


def _mean(
    x: Float[Array, "b *lead c"], weight: Float[Array, "b *ones"] | None, values: Float[Array, "b *lead c"]
) -> Float[Array, " c"]:
    """Of `values`, shaped as `x`, over what counts."""
    axes = tuple(range(x.ndim - 1))
    return values.mean(axes) if weight is None else (values * weight).sum(axes) / _count(x, weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalised(
    x: Float[Array, "b *lead c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    weight: Float[Array, "b *ones"] | None,
    epsilon: float,
) -> tuple[Float[Array, "b *lead c"], Float[Array, " c"], Float[Array, " c"]]:
    """x normalised by its own statistics, float32; these, mean and biased variance, have no gradient of their own. `weight`: 1
    for rows that the statistics are of, 0 for others; None for all.

    The variance is of differences from the mean. That of squares would read x once less, but lost three digits of S3D-G's
    logits where few positions are left; derived automatically, this one would cost one more sum in the gradient.
    """
    return _normalised_forward(x, scale, bias, weight, epsilon)[0]


def _normalised_forward(x, scale, bias, weight, epsilon):
    wide = x.astype(jnp.float32)
    mean = _mean(x, weight, wide)
    var = _mean(x, weight, jnp.square(wide - mean))
    inverse = jax.lax.rsqrt(var + epsilon)
    y = wide * (scale * inverse) + (bias - mean * (scale * inverse))
    return (y, mean, var), (x, scale, weight, mean, inverse)


def _normalised_backward(epsilon, saved, gradients):
    (x, scale, weight, mean, inverse), gradient = saved, gradients[0].astype(jnp.float32)
    axes, unit = tuple(range(x.ndim - 1)), (x.astype(jnp.float32) - mean) * inverse
    of_bias, of_scale = gradient.sum(axes), (gradient * unit).sum(axes)
    count = _count(x, weight)
    through = of_bias / count + unit * (of_scale / count)  # the statistics
    of_x = scale * inverse * (gradient - (through if weight is None else weight * through))
    return of_x.astype(x.dtype), of_scale, of_bias, None if weight is None else jnp.zeros_like(weight)


_normalised.defvjp(_normalised_forward, _normalised_backward)
