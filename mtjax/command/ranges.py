"""Which values an option of a config takes, said beside its type. Imports nothing: reader processes need it, too."""

import dataclasses
import math
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers a constructor takes, as `Annotated[int, Range(1)]`; `lookup.check_keywords` refuses others.

    Attributes:
      low, high: the bounds, which belong to the range. above, below: numbers that the value has to lie between, and may not be.
    """

    low: float | int = -math.inf
    high: float | int = math.inf
    above: float | int = -math.inf
    below: float | int = math.inf

    def __contains__(self, value: float | int) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        words = {"at least": self.low, "at most": self.high, "above": self.above, "below": self.below}
        return " and ".join(f"{word} {bound:g}" for word, bound in words.items() if math.isfinite(bound))


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Which strings a constructor takes, as `Annotated[str, OneOf("max", "min")]`; see `Range`."""

    values: tuple[str, ...]

    def __init__(self, *values: str):
        object.__setattr__(self, "values", values)

    def __contains__(self, value: str) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return f"one of {self.values}"


Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
NotNegative = Annotated[float, Range(0.0)]
Share = Annotated[float, Range(0.0, 1.0)]
Dtype = Annotated[str, OneOf("float32", "bfloat16", "float16")]
