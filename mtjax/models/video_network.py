"""Convolutional networks of clips: stages of units, each `unit(x, train=, valid=)`; frozen stages; the classifier on top."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mtjax.command.errors import InputError
from mtjax.models.batch_norm import BatchNorm
from mtjax.models.convolution import Conv3D, Pads, Triple, max_pool
from mtjax.models.layers import class_head
from mtjax.types import Batch


class Fixed(nnx.Variable):
    """A parameter of a frozen stage. Tasks train `nnx.Param`, so it has neither gradient nor optimiser state, nor decays."""


class ConvNorm(nnx.Module):
    """Convolution, BatchNorm, and ReLU if `activate`."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: Triple,
        *,
        stride: Triple = (1, 1, 1),
        padding: Pads | None = None,
        activate: bool = True,
        epsilon: float = 1e-5,
        momentum: float = 0.1,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """See `Conv3D` and `BatchNorm`."""
        self.conv = Conv3D(channels, out, kernel, stride=stride, padding=padding, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(out, epsilon=epsilon, momentum=momentum, dtype=dtype)
        self.activate = activate

    def __call__(
        self, x: Float[Array, "b t h w c"], *, train: bool, valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b s i j d"]:
        x = self.norm(self.conv(x), train=train, valid=valid)
        return nnx.relu(x) if self.activate else x


class Residual(nnx.Module):
    """ReLU(main(x) + shortcut(x)); without a shortcut x itself."""

    def __init__(self, main: Sequence[nnx.Module], shortcut: nnx.Module | None):
        self.main, self.shortcut = nnx.List(main), shortcut

    def __call__(
        self, x: Float[Array, "b t h w c"], *, train: bool, valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b s i j d"]:
        y = x
        for unit in self.main:
            y = unit(y, train=train, valid=valid)
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x, train=train, valid=valid)))


class VideoNetwork(nnx.Module):
    """A backbone made of named stages; each is an attribute, a list of units that follow each other.

    Attributes:
      head_deviation: standard deviation of the first weights of the classifier on top (`layers.class_head`), torchvision's.
    """

    head_deviation: ClassVar[float] = 0.01

    def __init__(
        self,
        stages: Mapping[str, Sequence[nnx.Module]],
        *,
        width: int,
        channels: int,
        reads: str,
        frozen: Sequence[str],
        remat: bool,
        dtype: jnp.dtype,
    ):
        """
        Args:
          width: channels of the last stage, the width of the embedding. channels: of a clip, 3 for RGB and 2 for flow.
          reads: field of the batch that holds the clip.
          frozen: stages whose parameters are not trained (they become `Fixed`) and whose BatchNorm never sees the batch.
          remat: recompute each unit in the backward pass.
          dtype: of the computation; parameters, statistics and the embedding stay float32.

        Raises:
          ValueError: `frozen` names no stage.
        """
        for name, units in stages.items():
            setattr(self, name, nnx.List(units))
        self.names, self.width, self.channels = tuple(stages), width, channels
        self.reads, self.remat, self.dtype = reads, remat, dtype
        if wrong := [name for name in frozen if name not in self.names]:
            raise InputError(f"config.model.frozen: {wrong} are not stages of this network, {self.names} are")
        for name in frozen:
            _freeze(getattr(self, name))

    def stages(
        self, clip: Float[Array, "b t h w c"], *, train: bool, valid: Bool[Array, " b"] | None = None
    ) -> dict[str, Float[Array, "b _t _h _w _d"]]:
        """Each stage's features by its name, in order. With `train`, BatchNorm sees the batch, of it what is `valid`, and updates
        its statistics.

        Raises:
          ValueError: a clip has other channels than the first convolution.
        """
        if clip.shape[-1] != self.channels:
            raise InputError(
                f"clips have {clip.shape[-1]} channels, this network's stem {self.channels} (model.channels)"
            )

        def call(unit: nnx.Module, x: Array) -> Array:
            return unit(x, train=train, valid=valid)

        x, features = clip.astype(self.dtype), {}
        for name in self.names:
            for unit in getattr(self, name):
                x = (nnx.remat(call) if self.remat else call)(unit, x)
            features[name] = x
        return features

    def embed(
        self, clip: Float[Array, "b t h w c"], *, train: bool, valid: Bool[Array, " b"] | None = None
    ) -> Float[Array, "b d"]:
        """The last stage's features, averaged over time and space, float32. See `stages`."""
        return self.pool(self.stages(clip, train=train, valid=valid)[self.names[-1]].astype(jnp.float32))

    def pool(self, features: Float[Array, "b t h w d"]) -> Float[Array, "b d"]:
        """From the last stage's features to the embedding."""
        return features.mean((1, 2, 3))

    def __call__(self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> Float[Array, "*b d"]:
        """`embed` of the field `reads` of the batch; [b k d] of several clips a video [b k t h w c]."""
        valid = batch.get("valid") if train else None
        if valid is not None:  # of a video: of each of its clips
            valid = jnp.repeat(valid, math.prod(batch[self.reads].shape[1:-4]))
        return self._of_clips(batch, lambda clip: self.embed(clip, train=train, valid=valid))

    def describe(self, batch: Batch) -> Float[Array, "*b d"]:
        """See `types.Describing`: of the last stage, the largest of each 2 × 2 positions (VCOP; motionfit.md §8), float32.
        9,216 numbers for R(2+1)D-18 and 16 frames of 112 × 112.

        Raises:
          ValueError: the last stage has fewer positions than that.
        """

        def largest(clip: Float[Array, "b t h w c"]) -> Float[Array, "b d"]:
            features = self.stages(clip, train=False)[self.names[-1]]
            if min(features.shape[2:4]) < 2:
                raise InputError(
                    f"{self.names[-1]} has {features.shape[2]} × {features.shape[3]} positions, descriptors need 2 × 2: larger "
                    "clips (data.size)"
                )
            return max_pool(features, (1, 2, 2), (1, 2, 2)).astype(jnp.float32).reshape(len(clip), -1)

        return self._of_clips(batch, largest)

    def _of_clips(
        self, batch: Batch, vector: Callable[[Float[Array, "n t h w c"]], Float[Array, "n d"]]
    ) -> Float[Array, "*b d"]:
        clips = batch[self.reads]
        return vector(clips.reshape(-1, *clips.shape[-4:])).reshape(*clips.shape[:-4], -1)


class VideoClassifier(nnx.Module):
    """A network with the classifier it was published with; its parameters have the paths they have under `tasks.classify`."""

    def __init__(self, backbone: VideoNetwork, classes: int, *, rngs: nnx.Rngs):
        self.backbone = backbone
        self.head = class_head(backbone, classes, rngs=rngs)

    def __call__(self, clip: Float[Array, "b t h w c"], *, train: bool) -> Float[Array, "b k"]:
        return self.head(self.backbone.embed(clip, train=train))


def _freeze(stage: nnx.Module) -> None:
    for module in _modules(stage):
        if isinstance(module, BatchNorm):
            module.frozen = True
        for name, value in list(vars(module).items()):
            if isinstance(value, nnx.Param):
                setattr(module, name, Fixed(value[...]))


def _modules(module: nnx.Module) -> Iterator[nnx.Module]:
    return (node for _, node in nnx.iter_modules(module))
