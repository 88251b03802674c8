"""S3D-G (Xie et al. 2018): Inception modules of separated convolutions, each branch gated by itself (models.md §2)."""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from mtjax.command.errors import InputError
from mtjax.command.ranges import Dtype, Positive, Range, Share
from mtjax.models.convolution import Pads, Triple, max_pool
from mtjax.models.video_network import ConvNorm, VideoNetwork

STEMS, AVERAGES = ("separable", "space_to_depth"), ("all", "windows")
WINDOW = (2, 7, 7)
# Channels of each Inception module: branch 0; branch 1, reduced and out; branch 2, reduced and out; branch 3.
MODULES = {
    "mixed3": ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    "mixed4": (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    "mixed5": ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
}
Conv = Callable[..., ConvNorm]


class Gate(nnx.Module):
    """x · sigmoid(linear(mean of x over time and space)): a clip weighs its channels."""

    def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.linear = nnx.Linear(channels, channels, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b t h w c"], *, train: bool, valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b t h w c"]:
        mean = x.mean((1, 2, 3), dtype=jnp.float32).astype(x.dtype)
        return x * nnx.sigmoid(self.linear(mean))[:, None, None, None]


class Pool(nnx.Module):
    """Maximum pooling of what a ReLU gave: the published networks that pad with zeros pad with what never wins, too."""

    def __init__(self, kernel: Triple, stride: Triple, *, at_end: bool):
        """`at_end`: TensorFlow's padding for sizes that the stride divides, one in all and after the last; and where it does
        not, a last window over what is left. Else torchvision's, kernel // 2 on both sides for kernels of three."""
        self.kernel, self.stride, self.at_end = kernel, stride, at_end

    def __call__(
        self, x: Float[Array, "b t h w c"], *, train: bool, valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b s i j c"]:
        return max_pool(x, self.kernel, self.stride, self._padding(x.shape[1:4]))

    def _padding(self, sizes: Sequence[int]) -> Pads:
        if not self.at_end:
            return tuple((k // 2, k // 2) if k % 2 else (0, 0) for k in self.kernel)
        pads = []
        for size, k, s in zip(sizes, self.kernel, self.stride, strict=True):
            before, whole = (k - s) // 2, size + max(k - s, 0)
            windows = -(-(whole - k) // s) + 1
            pads.append((max(before, 0), (windows - 1) * s + k - size - max(before, 0)))
        return tuple(pads)


class Inception(nnx.Module):
    """Four branches, side by side in the channels."""

    def __init__(self, channels: int, sizes: Sequence[int], *, gating: bool, conv: Conv, gate: Callable[[int], Gate]):
        first, reduced, second, reduced_too, third, fourth = sizes
        self.branch0 = nnx.List([conv(channels, first, (1, 1, 1))])
        self.branch1 = nnx.List([conv(channels, reduced, (1, 1, 1)), *separated(conv, reduced, second, 3)])
        self.branch2 = nnx.List([conv(channels, reduced_too, (1, 1, 1)), *separated(conv, reduced_too, third, 3)])
        pool = Pool((3, 3, 3), (1, 1, 1), at_end=False)
        self.branch3 = nnx.List([pool, conv(channels, fourth, (1, 1, 1))])
        if gating:
            for branch, out in zip(self._branches(), (first, second, third, fourth), strict=True):
                branch.append(gate(out))

    def _branches(self) -> tuple[nnx.List, ...]:
        return self.branch0, self.branch1, self.branch2, self.branch3

    def __call__(
        self, x: Float[Array, "b t h w c"], *, train: bool, valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b t h w d"]:
        said = []
        for branch in self._branches():
            y = x
            for unit in branch:
                y = unit(y, train=train, valid=valid)
            said.append(y)
        return jnp.concatenate(said, -1)


class SpaceToDepth(nnx.Module):
    """Cubes of 2×2×2 pixels become channels: frame, row and column of the pixel, then its colour."""

    def __call__(
        self, x: Float[Array, "b t h w c"], *, train: bool, valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b s i j d"]:
        b, t, h, w, c = x.shape
        if t % 2 or h % 2 or w % 2:
            raise InputError(f"clips of {t} frames of {h} × {w}: a space-to-depth stem needs even numbers")
        cubes = x.reshape(b, t // 2, 2, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
        return cubes.reshape(b, t // 2, h // 2, w // 2, 8 * c)


class WithoutFirst(nnx.Module):
    """Drops the first frame, row and column: an even kernel padded on both sides then is as TensorFlow pads it."""

    def __call__(
        self, x: Float[Array, "b t h w c"], *, train: bool, valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b s i j c"]:
        return x[:, 1:, 1:, 1:]


class S3DG(VideoNetwork):
    """Stages `conv1`, `conv2`, `mixed3`, `mixed4`, `mixed5`; the defaults are the network for training from scratch."""

    def __init__(
        self,
        *,
        channels: Positive = 3,
        gating: bool = True,
        stem: str = "separable",
        average: str = "all",
        reads: str = "frames",
        frozen: Sequence[str] = (),
        epsilon: Annotated[float, Range(above=0.0)] = 1e-3,
        momentum: Share = 0.1,
        remat: bool = False,
        dtype: Dtype = "float32",
        rngs: nnx.Rngs,
    ):
        """See `VideoNetwork`, and `BatchNorm` for epsilon and momentum (torchvision's is 0.001, for very long training).

        Args:
          gating: S3D-G; without it S3D, torchvision's.
          stem: "separable" 7×7×7, or "space_to_depth", the network of HowTo100M, whose pools between stages pad at the end.
          average: of features over "all" positions, or torchvision's over all "windows" of 2×7×7, which weighs positions at
            the borders less; they are the same for clips of 16 frames of 224 pixels.

        Raises:
          ValueError: an unknown stem or average.
        """
        for field, known, value in (("stem", STEMS, stem), ("average", AVERAGES, average)):
            if value not in known:
                raise InputError(f"config.model.{field}={value!r}: must be one of {known}")
        compute = jnp.dtype(dtype)
        conv = functools.partial(ConvNorm, epsilon=epsilon, momentum=momentum, dtype=compute, rngs=rngs)
        gate = functools.partial(Gate, dtype=compute, rngs=rngs)
        pool = functools.partial(Pool, at_end=stem == "space_to_depth")
        self.average = average
        conv2 = [pool((1, 3, 3), (1, 2, 2)), conv(64, 64, (1, 1, 1)), *separated(conv, 64, 192, 3)]
        stages = {"conv1": _stem(stem, channels, conv), "conv2": conv2 + ([gate(192)] if gating else [])}
        pools = {"mixed3": ((1, 3, 3), (1, 2, 2)), "mixed4": ((3, 3, 3), (2, 2, 2)), "mixed5": ((2, 2, 2), (2, 2, 2))}
        width = 192
        for name, modules in MODULES.items():
            stages[name] = [pool(*pools[name])]
            for sizes in modules:
                stages[name].append(Inception(width, sizes, gating=gating, conv=conv, gate=gate))
                width = sum(sizes[i] for i in (0, 2, 4, 5))
        super().__init__(stages, width=width, channels=channels, reads=reads, frozen=frozen, remat=remat, dtype=compute)

    def pool(self, features: Float[Array, "b t h w d"]) -> Float[Array, "b d"]:
        """The mean of all positions, or of all windows of 2×7×7 (`average`).

        Raises:
          ValueError: windows, and less than one fits.
        """
        if self.average == "all":
            return super().pool(features)
        if any(n < k for n, k in zip(features.shape[1:4], WINDOW, strict=True)):
            raise InputError(
                f"features of {features.shape[1:4]} positions, average='windows' needs {WINDOW}: clips of 14 frames of 224 "
                "pixels at least"
            )
        sums = lax.reduce_window(features, 0.0, lax.add, (1, *WINDOW, 1), (1, 1, 1, 1, 1), "VALID")
        return sums.mean((1, 2, 3)) / (WINDOW[0] * WINDOW[1] * WINDOW[2])


def separated(conv: Conv, channels: int, out: int, size: int, stride: int = 1) -> list[nnx.Module]:
    """A spatial and a temporal convolution."""
    return [
        conv(channels, out, (1, size, size), stride=(1, stride, stride)),
        conv(out, out, (size, 1, 1), stride=(stride, 1, 1)),
    ]


def _stem(kind: str, channels: int, conv: Conv) -> list[nnx.Module]:
    if kind == "separable":
        return separated(conv, channels, 64, 7, stride=2)
    whole = conv(8 * channels, 64, (2, 4, 4), padding=((1, 1), (2, 2), (2, 2)))
    # Dropped after the norm: the published network's statistics in training include what it drops.
    return [SpaceToDepth(), whole, WithoutFirst()]
