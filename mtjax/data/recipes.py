"""What a modality reads when there is a raw video and no dataset."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Made = Mapping[
    str, Mapping[str, Any]
]  # column → `producer`, `parameters` and more: what a checkpoint knows of a run's columns
EXTRACT = "preprocessing.extract "  # how a producer of ours begins; the rest is the kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extraction:
    """A record is extracted from the video.

    Attributes:
      kind: of `preprocessing.extract`, a name or an import path.
      parameters: of the training column's column.json, which is imitated; {} where it was not extracted by us.
      flags: of the command, which go before.
      to_batch: the record → what `Data.decode` gives, with b = 1.
      overlay: field of the record with the tracks [t n 3] that are drawn over the video; "" for none.
    """

    kind: str
    to_batch: Callable[[Mapping[str, Any]], dict[str, np.ndarray]]
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    overlay: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """A record is what another run predicts of the video: the run that wrote the training column.

    Attributes:
      column: that was written. field: of the record, and of the run's outputs.
      workdir: of the run, as column.json says, "" where it does not; step: of its checkpoint.
      weights: the first digits of that checkpoint's seal, by which it is recognised.
      to_batch: see `Extraction`.
    """

    column: str
    field: str
    workdir: str
    step: int
    weights: str
    to_batch: Callable[[Mapping[str, Any]], dict[str, np.ndarray]]


Recipe = Extraction | Prediction


def extraction(
    made: Made,
    column: str,
    kind: str,
    to_batch: Callable[[Mapping[str, Any]], dict[str, np.ndarray]],
    *,
    flags: Mapping[str, Any] | None = None,
    overlay: str = "",
) -> Extraction:
    """As `column` was extracted, whatever kind it is of; with the defaults of `kind` where something else made it."""
    facts = made.get(column, {})
    if facts.get("producer", "").startswith(EXTRACT):
        kind, parameters = facts["producer"].removeprefix(EXTRACT), facts["parameters"]
    else:
        parameters = {}
    return Extraction(kind=kind, parameters=parameters, flags=flags or {}, to_batch=to_batch, overlay=overlay)
