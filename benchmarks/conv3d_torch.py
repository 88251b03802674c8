"""R(2+1)D-18, R3D-18, S3D and S3D-G in PyTorch: peers of `mtjax.models.{r2plus1d,r3d,s3dg}` for parity
in tests/models/test_conv3d.py and speed in benchmarks/conv3d_vs_torch.py.

Written from models.md §1 and §2. The names in their `state_dict` are those of the published checkpoints: torchvision's
`r2plus1d_18`, `r3d_18` and `s3d`, and the video side of S3D_HowTo100M. Clips are [b c t h w].
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 128, 256, 512)
MODULES = {
    "3": {"b": (192, 64, 96, 128, 16, 32, 32), "c": (256, 128, 128, 192, 32, 96, 64)},
    "4": {
        "b": (480, 192, 96, 208, 16, 48, 64), "c": (512, 160, 112, 224, 24, 64, 64), "d": (512, 128, 128, 256, 24, 64, 64),
        "e": (512, 112, 144, 288, 32, 64, 64), "f": (528, 256, 160, 320, 32, 128, 128),
    },
    "5": {"b": (832, 256, 160, 320, 32, 128, 128), "c": (832, 384, 192, 384, 48, 128, 128)},
}  # fmt: skip


def conv(channels: int, out: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> nn.Conv3d:
    return nn.Conv3d(channels, out, kernel, stride, tuple(k // 2 for k in kernel), bias=False)


class ResidualBlock(nn.Module):
    """`separated`: each 3×3×3 convolution as a spatial and a temporal one."""

    def __init__(self, channels: int, out: int, *, separated: bool):
        super().__init__()
        stride = 1 if channels == out else 2
        middle = 27 * channels * out // (9 * channels + 3 * out)

        def whole(a: int, s: int) -> nn.Module:
            if not separated:
                return conv(a, out, (3, 3, 3), (s, s, s))
            spatial, temporal = conv(a, middle, (1, 3, 3), (1, s, s)), conv(middle, out, (3, 1, 1), (s, 1, 1))
            return nn.Sequential(spatial, nn.BatchNorm3d(middle), nn.ReLU(inplace=True), temporal)

        self.conv1 = nn.Sequential(whole(channels, stride), nn.BatchNorm3d(out), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(whole(out, 1), nn.BatchNorm3d(out))
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(conv(channels, out, (1, 1, 1), (stride,) * 3), nn.BatchNorm3d(out))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv2(self.conv1(x)) + (x if self.downsample is None else self.downsample(x)))


class VideoResNet(nn.Module):
    """`separated`: R(2+1)D-18, else R3D-18."""

    def __init__(self, *, separated: bool, channels: int = 3, classes: int = 400):
        super().__init__()
        if separated:
            self.stem = nn.Sequential(
                conv(channels, 45, (1, 7, 7), (1, 2, 2)), nn.BatchNorm3d(45), nn.ReLU(inplace=True),
                conv(45, 64, (3, 1, 1)), nn.BatchNorm3d(64), nn.ReLU(inplace=True),
            )  # fmt: skip
        else:
            self.stem = nn.Sequential(
                conv(channels, 64, (3, 7, 7), (1, 2, 2)), nn.BatchNorm3d(64), nn.ReLU(inplace=True)
            )
        for number, (a, b) in enumerate(itertools.pairwise((WIDTHS[0], *WIDTHS)), 1):
            blocks = (ResidualBlock(a, b, separated=separated), ResidualBlock(b, b, separated=separated))
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(WIDTHS[-1], classes)

    def stages(self, x: Tensor) -> list[Tensor]:
        """Features after the stem and each layer."""
        return list(itertools.accumulate((self.stem, *self.layers), lambda y, stage: stage(y), initial=x))[1:]

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(x)[-1].mean((2, 3, 4)))


def unit(channels: int, out: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> nn.Module:
    """Convolution, norm and ReLU, as torchvision's S3D names them."""
    return nn.Sequential(
        conv(channels, out, kernel, stride), nn.BatchNorm3d(out, eps=1e-3, momentum=1e-3), nn.ReLU(inplace=True)
    )


def units(channels: int, out: int, size: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        unit(channels, out, (1, size, size), (1, stride, stride)), unit(out, out, (size, 1, 1), (stride, 1, 1))
    )


class S3DModule(nn.Module):
    """An Inception module without gates."""

    def __init__(self, channels: int, a: int, b1: int, b: int, c1: int, c: int, d: int):
        super().__init__()
        self.branch0 = unit(channels, a, (1, 1, 1))
        self.branch1 = nn.Sequential(unit(channels, b1, (1, 1, 1)), units(b1, b, 3))
        self.branch2 = nn.Sequential(unit(channels, c1, (1, 1, 1)), units(c1, c, 3))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), unit(channels, d, (1, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], 1)


class S3D(nn.Module):
    """torchvision's `s3d`, without dropout: no gates, averages over windows of 2×7×7."""

    def __init__(self, *, channels: int = 3, classes: int = 400):
        super().__init__()
        modules = {name: [S3DModule(*sizes) for sizes in group.values()] for name, group in MODULES.items()}
        self.features = nn.Sequential(
            units(channels, 64, 7, 2), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            unit(64, 64, (1, 1, 1)), units(64, 192, 3), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *modules["3"], nn.MaxPool3d(3, 2, 1), *modules["4"], nn.MaxPool3d(2, 2), *modules["5"],
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Identity(), nn.Conv3d(1024, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(functional.avg_pool3d(self.features(x), (2, 7, 7), 1)).mean((2, 3, 4))


class Gate(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean((2, 3, 4))))[:, :, None, None, None]


class Separable(nn.Module):
    """One convolution, or with `size` a spatial and a temporal one; norm and ReLU after each."""

    def __init__(self, channels: int, out: int, *, size: int = 0):
        super().__init__()
        self.conv1, self.bn1 = conv(channels, out, (1, size or 1, size or 1)), nn.BatchNorm3d(out)
        if size:
            self.conv2, self.bn2 = conv(out, out, (size, 1, 1)), nn.BatchNorm3d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x))) if hasattr(self, "conv2") else x


class GatedModule(nn.Module):
    """An Inception module whose branches gate themselves."""

    def __init__(self, channels: int, a: int, b1: int, b: int, c1: int, c: int, d: int):
        super().__init__()
        self.conv_b0, self.gating_b0 = Separable(channels, a), Gate(a)
        self.conv_b1_a, self.conv_b1_b, self.gating_b1 = Separable(channels, b1), Separable(b1, b, size=3), Gate(b)
        self.conv_b2_a, self.conv_b2_b, self.gating_b2 = Separable(channels, c1), Separable(c1, c, size=3), Gate(c)
        self.conv_b3_b, self.gating_b3 = Separable(channels, d), Gate(d)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self.gating_b0(self.conv_b0(x)),
                self.gating_b1(self.conv_b1_b(self.conv_b1_a(x))),
                self.gating_b2(self.conv_b2_b(self.conv_b2_a(x))),
                self.gating_b3(self.conv_b3_b(functional.max_pool3d(x, 3, 1, 1))),
            ],
            1,
        )


class S3DG(nn.Module):
    """The video side of S3D_HowTo100M: space-to-depth stem, pools that pad at the end, gates."""

    def __init__(self, *, channels: int = 3, classes: int = 512):
        super().__init__()
        self.conv1 = Separable(8 * channels, 64)
        self.conv1.conv1 = nn.Conv3d(8 * channels, 64, (2, 4, 4), 1, (1, 2, 2), bias=False)
        self.conv_2b, self.conv_2c, self.gating = Separable(64, 64), Separable(64, 192, size=3), Gate(192)
        for name, group in MODULES.items():
            for letter, sizes in group.items():
                setattr(self, f"mixed_{name}{letter}", GatedModule(*sizes))
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).unflatten(6, (-1, 2))  # b c t 2 h 2 w 2
        x = self.conv1(x.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4))[:, :, 1:, 1:, 1:]
        x = self.conv_2b(_pool(x, (1, 3, 3), (1, 2, 2)))
        x = _pool(self.gating(self.conv_2c(x)), (1, 3, 3), (1, 2, 2))
        x = _pool(self._modules_of("3", x), (3, 3, 3), (2, 2, 2))
        x = _pool(self._modules_of("4", x), (2, 2, 2), (2, 2, 2))
        return self.fc(self._modules_of("5", x).mean((2, 3, 4)))

    def _modules_of(self, name: str, x: Tensor) -> Tensor:
        for letter in MODULES[name]:
            x = getattr(self, f"mixed_{name}{letter}")(x)
        return x


def _pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Zeros around it for sizes that the stride divides; a last window over what is left where it does not."""
    pads = [(max(k - s, 0) // 2, max(k - s, 0) - max(k - s, 0) // 2) for k, s in zip(kernel, stride, strict=True)]
    around = [p for pair in reversed(pads) for p in pair]
    return functional.max_pool3d(functional.pad(x, around), kernel, stride, ceil_mode=True)


def make(kind: str, *, channels: int = 3, classes: int = 400) -> nn.Module:
    """`kind`: "r2plus1d", "r3d", "s3d" (torchvision's) or "s3dg" (HowTo100M's). Random weights of PyTorch's own."""
    if kind in ("r2plus1d", "r3d"):
        return VideoResNet(separated=kind == "r2plus1d", channels=channels, classes=classes)
    return {"s3d": S3D, "s3dg": S3DG}[kind](channels=channels, classes=classes)
