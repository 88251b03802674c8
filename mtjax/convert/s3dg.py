"""S3D-G from S3D_HowTo100M's file and S3D from torchvision's `s3d` (models.md §2).

Of HowTo100M's file the text side (`text_module`: word embeddings and two linear layers) is left out; its `fc` is the
projection to the joint embedding of clips and texts, and becomes our head. torchvision's network has no gates: `gating`
says which of the two a converted folder holds.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtjax.convert import names
from mtjax.convert.names import ConversionError, Entry
from mtjax.models.s3dg import MODULES

CONSTRUCTOR = "s3dg.S3DG"
IGNORED = re.compile(names.BATCHES_SEEN.pattern + r"|text_module\..*")
STEM, TORCHVISION_STEM = "conv1.conv1.weight", "features.0.0.0.weight"
SPACE_TO_DEPTH = (2, 4, 4)
# Where torchvision's list of features has each module.
FEATURES = {"mixed3": (5, 6), "mixed4": (8, 9, 10, 11, 12), "mixed5": (14, 15)}


def settings(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Constructor keywords, and `classes` of the classifier.

    Raises:
      ConversionError: HowTo100M's network with its other stem, for which there are no weights and no module of ours.
    """
    if TORCHVISION_STEM in arrays:
        return {
            "channels": arrays[TORCHVISION_STEM].shape[1], "classes": len(arrays["classifier.1.weight"]), "gating": False,
            "stem": "separable", "average": "windows", "epsilon": 1e-3, "momentum": 1e-3,
        }  # fmt: skip
    stem = arrays[STEM]
    if stem.shape[2:] != SPACE_TO_DEPTH:
        raise ConversionError(f"{STEM} has shape {stem.shape}: only the space-to-depth stem of 2×4×4 is known")
    return {
        "channels": stem.shape[1] // 8, "classes": len(arrays["fc.weight"]), "gating": True, "stem": "space_to_depth",
        "average": "all", "epsilon": 1e-5, "momentum": 0.1,
    }  # fmt: skip


def table(keywords: Mapping[str, Any]) -> list[Entry]:
    """Of S3D_HowTo100M's video side if `gating`, else of torchvision's `s3d`."""
    return _howto100m() if keywords["gating"] else _torchvision()


def _howto100m() -> list[Entry]:
    entries = _units("backbone/conv1", 1, "conv1", 1)
    entries += _units("backbone/conv2", 1, "conv_2b", 1) + _units("backbone/conv2", 2, "conv_2c", 2)
    entries += names.linear("backbone/conv2/4/linear", "gating.fc")
    for stage, modules in MODULES.items():
        for i in range(len(modules)):
            ours, theirs = f"backbone/{stage}/{i + 1}", f"mixed_{stage[-1]}{'bcdef'[i]}"
            entries += _units(f"{ours}/branch0", 0, f"{theirs}.conv_b0", 1)
            entries += names.linear(f"{ours}/branch0/1/linear", f"{theirs}.gating_b0.fc")
            for branch in (1, 2):
                entries += _units(f"{ours}/branch{branch}", 0, f"{theirs}.conv_b{branch}_a", 1)
                entries += _units(f"{ours}/branch{branch}", 1, f"{theirs}.conv_b{branch}_b", 2)
                entries += names.linear(f"{ours}/branch{branch}/3/linear", f"{theirs}.gating_b{branch}.fc")
            entries += _units(f"{ours}/branch3", 1, f"{theirs}.conv_b3_b", 1)
            entries += names.linear(f"{ours}/branch3/2/linear", f"{theirs}.gating_b3.fc")
    return entries + names.linear("head", "fc")


def _units(ours: str, first: int, theirs: str, count: int) -> list[Entry]:
    """`count` convolutions with their norms, at position `first` of our list and on."""
    entries = []
    for i in range(count):
        entries += names.conv_norm(f"{ours}/{first + i}", f"{theirs}.conv{i + 1}", f"{theirs}.bn{i + 1}")
    return entries


def _torchvision() -> list[Entry]:
    def unit(ours: str, theirs: str) -> list[Entry]:
        return names.conv_norm(f"backbone/{ours}", f"{theirs}.0", f"{theirs}.1")

    entries = [
        *unit("conv1/0", "features.0.0"), *unit("conv1/1", "features.0.1"), *unit("conv2/1", "features.2"),
        *unit("conv2/2", "features.3.0"), *unit("conv2/3", "features.3.1"),
    ]  # fmt: skip
    for stage, positions in FEATURES.items():
        for i, position in enumerate(positions, 1):
            ours, theirs = f"{stage}/{i}", f"features.{position}"
            entries += unit(f"{ours}/branch0/0", f"{theirs}.branch0")
            for branch in (1, 2):
                entries += unit(f"{ours}/branch{branch}/0", f"{theirs}.branch{branch}.0")
                entries += unit(f"{ours}/branch{branch}/1", f"{theirs}.branch{branch}.1.0")
                entries += unit(f"{ours}/branch{branch}/2", f"{theirs}.branch{branch}.1.1")
            entries += unit(f"{ours}/branch3/1", f"{theirs}.branch3.1")
    return entries + names.pointwise("head", "classifier.1")
