"""Batch normalisation as PyTorch has it, with one pass over memory a direction."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mtjax.command.errors import InputError


class BatchNorm(nnx.Module):
    """Batch normalisation over all but the last dimension, with PyTorch's running statistics.

    Training normalises by the mean and the biased variance of the global batch (under jit there is no other; PyTorch without
    SyncBatchNorm takes those of each device's part) and keeps running means of the mean and the *unbiased* variance;
    `nnx.BatchNorm` would keep the biased one. Statistics are float32. With `train.accumulate` they are of a micro-batch.
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

    def __call__(self, x: Float[Array, "*lead c"], *, train: bool) -> Float[Array, "*lead c"]:
        """With `train` (and not `frozen`) normalises by the batch and updates the running statistics."""
        scale, bias, mean, var = (jnp.asarray(v[...]) for v in (self.scale, self.bias, self.mean, self.var))
        if not train or self.frozen:
            scale = scale * jax.lax.rsqrt(var + self.epsilon)
            return (x.astype(jnp.float32) * scale + (bias - mean * scale)).astype(self.dtype)
        count = math.prod(x.shape[:-1])
        if count < 2:
            raise InputError("BatchNorm in training needs more than one value a channel: a larger batch or clip")
        y, of_batch, biased = _normalised(x, scale, bias, self.epsilon)
        keep, new = 1.0 - self.momentum, self.momentum
        self.mean.set_value(keep * mean + new * jax.lax.stop_gradient(of_batch))
        self.var.set_value(keep * var + new * count / (count - 1) * jax.lax.stop_gradient(biased))
        return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalised(
    x: Float[Array, "*lead c"], scale: Float[Array, " c"], bias: Float[Array, " c"], epsilon: float
) -> tuple[Float[Array, "*lead c"], Float[Array, " c"], Float[Array, " c"]]:
    """x normalised by its own statistics, float32; these, mean and biased variance, have no gradient of their own.

    The variance is of differences from the mean. That of squares would read x once less, but lost three digits of S3D-G's
    logits where few positions are left; derived automatically, this one would cost one more sum in the gradient.
    """
    return _normalised_forward(x, scale, bias, epsilon)[0]


def _normalised_forward(x, scale, bias, epsilon):
    axes, wide = tuple(range(x.ndim - 1)), x.astype(jnp.float32)
    mean = wide.mean(axes)
    var = jnp.square(wide - mean).mean(axes)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = wide * (scale * inverse) + (bias - mean * (scale * inverse))
    return (y, mean, var), (x, scale, mean, inverse)


def _normalised_backward(epsilon, saved, gradients):
    (x, scale, mean, inverse), gradient = saved, gradients[0].astype(jnp.float32)
    axes, unit = tuple(range(x.ndim - 1)), (x.astype(jnp.float32) - mean) * inverse
    of_bias, of_scale = gradient.sum(axes), (gradient * unit).sum(axes)
    count = math.prod(x.shape[:-1])
    of_x = scale * inverse * (gradient - of_bias / count - unit * (of_scale / count))
    return of_x.astype(x.dtype), of_scale, of_bias


_normalised.defvjp(_normalised_forward, _normalised_backward)
