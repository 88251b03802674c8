"""R3D-18 (Tran et al. 2018) as torchvision has it: ResNet-18 with 3×3×3 convolutions (models.md §1)."""

import functools
from collections.abc import Sequence
from typing import Annotated

import jax.numpy as jnp
from flax import nnx

from mtjax.command.ranges import Dtype, Positive, Range, Share
from mtjax.models.r2plus1d import residual_layers
from mtjax.models.video_network import ConvNorm, VideoNetwork


class R3D18(VideoNetwork):
    """Stages `stem`, `layer1` … `layer4`; 33,166,272 parameters without a classifier (33,371,472 with 400 classes)."""

    def __init__(
        self,
        *,
        width: Positive = 64,
        channels: Positive = 3,
        reads: str = "frames",
        frozen: Sequence[str] = (),
        epsilon: Annotated[float, Range(above=0.0)] = 1e-5,
        momentum: Share = 0.1,
        remat: bool = False,
        dtype: Dtype = "float32",
        rngs: nnx.Rngs,
    ):
        """`width`: channels of layer1, an eighth of the embedding's. See `VideoNetwork`, and `BatchNorm` for the rest."""
        compute = jnp.dtype(dtype)
        conv = functools.partial(ConvNorm, epsilon=epsilon, momentum=momentum, dtype=compute, rngs=rngs)

        def main(channels: int, out: int, stride: int) -> list[nnx.Module]:
            first = conv(channels, out, (3, 3, 3), stride=(stride,) * 3)
            return [first, conv(out, out, (3, 3, 3), activate=False)]

        stem = [conv(channels, width, (3, 7, 7), stride=(1, 2, 2))]
        super().__init__(
            {"stem": stem} | residual_layers(width, main, conv), width=8 * width, channels=channels, reads=reads,
            frozen=frozen, remat=remat, dtype=compute,
        )  # fmt: skip
