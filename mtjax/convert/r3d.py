"""R3D-18 from torchvision's `r3d_18` (models.md §1)."""

from collections.abc import Mapping
from typing import Any

from mtjax.convert import names, r2plus1d
from mtjax.convert.names import Entry

CONSTRUCTOR = "r3d.R3D18"
IGNORED = r2plus1d.IGNORED
settings = r2plus1d.settings


def table(keywords: Mapping[str, Any]) -> list[Entry]:
    """Of `r3d_18`."""
    entries = names.conv_norm("backbone/stem/0", "stem.0", "stem.1")
    for ours, theirs in r2plus1d.blocks():
        for i in range(2):
            conv = f"{theirs}.conv{i + 1}"
            entries += names.conv_norm(f"{ours}/main/{i}", f"{conv}.0", f"{conv}.1")
    return entries + r2plus1d.shortcuts() + names.linear("head", "fc")
