"""R(2+1)D-18 from torchvision's `r2plus1d_18` (models.md §1)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtjax.convert import names
from mtjax.convert.names import Entry

CONSTRUCTOR = "r2plus1d.R2Plus1D18"
IGNORED = names.BATCHES_SEEN
LAYERS, BLOCKS = 4, 2


def settings(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Constructor keywords, and `classes` of the classifier."""
    return {"channels": arrays["stem.0.weight"].shape[1], "classes": len(arrays["fc.weight"])}


def table(keywords: Mapping[str, Any]) -> list[Entry]:
    """Of `r2plus1d_18`."""
    entries = names.conv_norm("backbone/stem/0", "stem.0", "stem.1") + names.conv_norm(
        "backbone/stem/1", "stem.3", "stem.4"
    )
    for ours, theirs in blocks():
        for i in range(2):
            conv = f"{theirs}.conv{i + 1}"
            entries += names.conv_norm(f"{ours}/main/{2 * i}", f"{conv}.0.0", f"{conv}.0.1")
            entries += names.conv_norm(f"{ours}/main/{2 * i + 1}", f"{conv}.0.3", f"{conv}.1")
    return entries + shortcuts() + names.linear("head", "fc")


def blocks() -> list[tuple[str, str]]:
    """Our path and their prefix of every residual block."""
    return [(f"backbone/layer{i}/{j}", f"layer{i}.{j}") for i in range(1, LAYERS + 1) for j in range(BLOCKS)]


def shortcuts() -> list[Entry]:
    """Of the layers that halve the clip."""
    entries = []
    for i in range(2, LAYERS + 1):
        theirs = f"layer{i}.0.downsample"
        entries += names.conv_norm(f"backbone/layer{i}/0/shortcut", f"{theirs}.0", f"{theirs}.1")
    return entries
