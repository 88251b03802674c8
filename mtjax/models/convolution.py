"""Convolutions and maximum pooling of clips, NTHWC, with zero padding spelled out on each side.

XLA's three-dimensional convolution is a slow path on a CPU, so every convolution here becomes a two-dimensional one: the
kernel's frames join the channels, or rows and columns join where the kernel has one pixel. Only the gradient with respect to
the kernel needs a form of its own there (docs/benchmarks.md); elsewhere JAX derives it.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

Triple = tuple[int, int, int]
Pads = tuple[tuple[int, int], ...]  # before and after, of each dimension

PATCHES_BYTES = 2 << 20  # patches that a CPU multiplies at a time: they shall stay in its second cache
MIN_ROWS = 256  # fewer positions a product would spend its time on adding up kernels


class Conv3D(nnx.Module):
    """A convolution without bias; the kernel is (t, h, w, in, out). Kaiming normal initialisation, fan out, as torchvision."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: Triple,
        *,
        stride: Triple = (1, 1, 1),
        padding: Pads | None = None,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """
        Args:
          padding: before and after, of frames, rows and columns; None for kernel // 2 on both sides.
          dtype: of the computation; the kernel stays float32.
        """
        # Of a normal distribution, not of a truncated one as `nnx.initializers.he_normal` draws.
        deviation = math.sqrt(2.0 / (out * math.prod(kernel)))
        init = nnx.initializers.normal(deviation)
        self.kernel = nnx.Param(init(rngs.params(), (*kernel, channels, out), jnp.float32))
        self.stride, self.padding = stride, padding or tuple((k // 2, k // 2) for k in kernel)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b s i j d"]:
        return convolve(x.astype(self.dtype), jnp.asarray(self.kernel[...], self.dtype), self.stride, self.padding)


def convolve(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c d"], stride: Triple, padding: Pads
) -> Float[Array, "b s i j d"]:
    """`torch.nn.functional.conv3d` without bias, in NTHWC; `padding` may differ before and after."""
    b, t, h, w, c = x.shape
    kt, kh, kw, _, d = kernel.shape
    if kh == kw == 1 and stride[1:] == (1, 1) and not any(map(any, padding[1:])):
        columns = x.reshape(b, 1, t, h * w, c)
        y = _planar(columns, kernel[:, 0], (stride[0], 1), (padding[0], (0, 0)))
        return y.reshape(b, -1, h, w, d)
    if kt > 1 or stride[0] > 1 or any(padding[0]):
        x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
        last = x.shape[1] - kt
        x = jnp.concatenate([x[:, i : i + last + 1 : stride[0]] for i in range(kt)], -1)
        kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(1, kh, kw, kt * c, d)
    return _planar(x, kernel[0], stride[1:], padding[1:])


def _forward(x: Float[Array, "b f h w c"], kernel: Float[Array, "kh kw c d"], stride: tuple[int, int], padding: Pads):
    frames = x.reshape(-1, *x.shape[2:])
    y = lax.conv_general_dilated(frames, kernel, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(*x.shape[:2], *y.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _planar(
    x: Float[Array, "b f h w c"], kernel: Float[Array, "kh kw c d"], stride: tuple[int, int], padding: Pads
) -> Float[Array, "b f i j d"]:
    """The same two-dimensional convolution of each frame."""
    return _forward(x, kernel, stride, padding)


def _planar_forward(x, kernel, stride, padding):
    return _forward(x, kernel, stride, padding), (x, kernel)


def _planar_backward(stride, padding, saved, gradient):
    x, kernel = saved
    (of_x,) = jax.linear_transpose(lambda x: _forward(x, kernel, stride, padding), x)(gradient)

    def derived(x, gradient):
        return jax.linear_transpose(lambda kernel: _forward(x, kernel, stride, padding), kernel)(gradient)[0]

    patches = functools.partial(_kernel_gradient, size=kernel.shape[:2], stride=stride, padding=padding)
    return of_x, lax.platform_dependent(x, gradient, cpu=patches, default=derived)


_planar.defvjp(_planar_forward, _planar_backward)


def _kernel_gradient(
    x: Float[Array, "b f h w c"],
    gradient: Float[Array, "b f i j d"],
    *,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: Pads,
) -> Float[Array, "kh kw c d"]:
    """patchesᵀ · gradient, a few rows of output at a time, of all examples (which may lie on several devices)."""
    b, f, i, j, d = gradient.shape
    c = x.shape[-1]
    x = jnp.pad(x, ((0, 0), (0, 0), *padding, (0, 0)))
    rows, columns = _block(b, i, j, math.prod(size) * c * x.dtype.itemsize)
    height, width = ((n - 1) * s + k for n, s, k in zip((rows, columns), stride, size, strict=True))
    down, across = i // rows, j // columns

    def product(frame, row, column):
        start = (0, frame, row * rows * stride[0], column * columns * stride[1], 0)
        seen = lax.dynamic_slice(x, start, (b, 1, height, width, c))
        of_y = lax.dynamic_slice(gradient, (0, frame, row * rows, column * columns, 0), (b, 1, rows, columns, d))
        taps = [
            seen[
                :, 0, y : y + (rows - 1) * stride[0] + 1 : stride[0], z : z + (columns - 1) * stride[1] + 1 : stride[1]
            ]
            for y in range(size[0])
            for z in range(size[1])
        ]
        flat = jnp.concatenate(taps, -1).reshape(-1, math.prod(size) * c)
        return jnp.matmul(of_y.reshape(-1, d).T, flat, preferred_element_type=jnp.float32)

    def add(total, number):
        frame, rest = number // (down * across), number % (down * across)
        return total + product(frame, rest // across, rest % across), None

    total = jnp.zeros((d, math.prod(size) * c), jnp.float32)
    total, _ = lax.scan(add, total, jnp.arange(f * down * across))
    return total.T.reshape(*size, c, d).astype(gradient.dtype)


def _block(examples: int, rows: int, columns: int, patch_bytes: int) -> tuple[int, int]:
    """Rows and columns of output, divisors of all, whose patches fit `PATCHES_BYTES`, or make up `MIN_ROWS` positions."""
    most = max(PATCHES_BYTES // patch_bytes, MIN_ROWS) // examples
    across = max(n for n in range(1, columns + 1) if columns % n == 0 and (n <= most or n == 1))
    down = max(n for n in range(1, rows + 1) if rows % n == 0 and (n * across <= most or n == 1))
    return (down, across) if across == columns else (1, across)


def max_pool(
    x: Float[Array, "b t h w c"], kernel: Triple, stride: Triple, padding: Pads = ((0, 0),) * 3
) -> Float[Array, "b s i j c"]:
    """The maximum of each window; what lies outside of the clip never wins. One dimension after another."""
    for axis, (k, s, pads) in enumerate(zip(kernel, stride, padding, strict=True), 1):
        if k == 1 and s == 1:
            continue
        around = [(0, 0)] * x.ndim
        around[axis] = pads
        x = jnp.pad(x, around, constant_values=-jnp.inf) if any(pads) else x
        last = x.shape[axis] - k
        shifts = [lax.slice_in_dim(x, i, i + last + 1, s, axis) for i in range(k)]
        x = functools.reduce(jnp.maximum, shifts)
    return x
