"""R(2+1)D-18 (Tran et al. 2018) as torchvision has it: spatial and temporal convolutions in turn (models.md §1)."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Annotated

import jax.numpy as jnp
from flax import nnx

from mtjax.command.ranges import Dtype, Positive, Range, Share
from mtjax.models.convolution import Triple
from mtjax.models.video_network import ConvNorm, Residual, VideoNetwork


def residual_layers(
    width: int, main: Callable[[int, int, int], list[nnx.Module]], conv: Callable
) -> dict[str, list[Residual]]:
    """Four layers of two residual blocks; the first of layers 2 to 4 halves frames, rows and columns, and doubles channels.

    Args:
      width: channels of the first layer.
      main: (channels in, channels out, stride) → a block's convolutions. conv: makes the shortcut's.
    """
    layers = {}
    for number, (channels, out) in enumerate(itertools.pairwise((width, width, 2 * width, 4 * width, 8 * width)), 1):
        stride = 1 if channels == out else 2
        shortcut = conv(channels, out, (1, 1, 1), stride=(stride,) * 3, activate=False) if stride > 1 else None
        first = Residual(main(channels, out, stride), shortcut)
        layers[f"layer{number}"] = [first, Residual(main(out, out, 1), None)]
    return layers


class R2Plus1D18(VideoNetwork):
    """Stages `stem`, `layer1` … `layer4`; 31,300,125 parameters without a classifier (31,505,325 with 400 classes)."""

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
        """`width`: channels of layer1, an eighth of the embedding's; the published one is 64, smaller ones are for small data.
        See `VideoNetwork`, and `BatchNorm` for epsilon and momentum. Fine-tuning as MotionFit does trains layer3 and layer4:
        frozen=("stem", "layer1", "layer2")."""
        compute = jnp.dtype(dtype)
        conv = functools.partial(ConvNorm, epsilon=epsilon, momentum=momentum, dtype=compute, rngs=rngs)

        def separated(channels: int, middle: int, out: int, stride: int, activate: bool) -> list[nnx.Module]:
            temporal: Triple = (stride, 1, 1)
            return [
                conv(channels, middle, (1, 3, 3), stride=(1, stride, stride)),
                conv(middle, out, (3, 1, 1), stride=temporal, activate=activate),
            ]

        def main(channels: int, out: int, stride: int) -> list[nnx.Module]:
            # As many parameters as 3×3×3 would have (Sec. 3.5); torchvision takes the first convolution's count for both.
            middle = 27 * channels * out // (9 * channels + 3 * out)
            return separated(channels, middle, out, stride, True) + separated(out, middle, out, 1, False)

        middle = 45 * width // 64
        stem = [conv(channels, middle, (1, 7, 7), stride=(1, 2, 2)), conv(middle, width, (3, 1, 1))]
        super().__init__(
            {"stem": stem} | residual_layers(width, main, conv), width=8 * width, channels=channels, reads=reads,
            frozen=frozen, remat=remat, dtype=compute,
        )  # fmt: skip
