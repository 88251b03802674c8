"""The dimension alphabet and the three protocols that hold the house together.

Dimensions in shapes: `b` examples of a batch, `t` frames, `n` points or tokens, `h` `w` image rows and columns, `c` channels
or classes, `d` embedding width, `k` clips of one video.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

# Always holds `valid` (bool [b], False for padding) and `clip` (int32 [b], row in the catalog).
Batch = Mapping[str, Array]
Rows = Mapping[str, np.ndarray]  # what predict returned, gathered: each valid example once, sorted by clip
Scalars = dict[str, Float[Array, ""]]
Params = dict[str, Any]
RandomKey = Key[Array, ""]


class _Stream(nnx.RngStream):
    """The keys of `nnx.RngStream`, fast under tracing.

    That one counts by `self.count[...] += 1`, which asks for the sharding of a traced number. JAX then looks through everything
    traced so far to say why there is none, for each key anew.
    """

    def __call__(self) -> RandomKey:
        key = jax.random.fold_in(self.key[...], self.count[...])
        self.count.set_value(self.count[...] + 1)
        return key


def random_streams(**keys: Array | int) -> nnx.Rngs:
    """`nnx.Rngs(**keys)`, with the same keys."""
    rngs = nnx.Rngs()
    for name, key in keys.items():
        setattr(rngs, name, _Stream(key, tag=name))
    return rngs


@runtime_checkable
class Backbone(Protocol):
    """A model: from a batch to one embedding a clip. Holds no mesh, no loss, no config."""

    width: int  # d of the embedding

    def __call__(self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> Float[Array, "b d"]: ...


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained module that a task freezes inside its own. A task's keyword `teacher` names a workdir and gets one of these.

    Attributes:
      make: builds the assembled module with random weights. weights: path in it → array.
      predict: (module, batch) → what its own task predicts. class_names: of its probabilities.
    """

    make: Callable[[Array], nnx.Module]
    weights: Params
    predict: Callable[[nnx.Module, Batch], Mapping[str, Array]]
    class_names: tuple[str, ...]


@runtime_checkable
class Attending(Protocol):
    """What a backbone may add when it pools the rows of a clip by weights: tasks ask with `isinstance` and keep them."""

    def attend(self, batch: Batch) -> tuple[Float[Array, "b d"], Mapping[str, Array]]:
        """What `__call__` gives with `train=False`, and of the same pass `attention` [b t], 0 for padding, and `row_frame`
        int32 [b t]: the frame that a row shows, -1 for padding."""


@runtime_checkable
class Describing(Protocol):
    """What a backbone may add when its clips have a better description for retrieval than their embedding."""

    def describe(self, batch: Batch) -> Float[Array, "*b d"]:
        """One vector a clip, in evaluation; [b k d] of k clips a video."""


@runtime_checkable
class Task(Protocol):
    """What a method optimises and predicts. Constructed as `Task(data, **config.task)`.

    A task may also be `Weighted`, `Settling` or `Salient`; a module that it assembles may have a `backbone` (`Headed`).
    """

    trainable: nnx.filterlib.Filter
    outputs: dict[str, int]  # keywords that rebuild the task without a dataset

    def assemble(self, model: nnx.Module, *, rngs: nnx.Rngs) -> nnx.Module:
        """Adds heads, or a frozen teacher as a submodule."""

    def loss(self, model: nnx.Module, batch: Batch, *, rngs: nnx.Rngs) -> tuple[Float[Array, ""], Scalars]:
        """A mean over the valid examples, and scalars to log."""

    def predict(self, model: nnx.Module, batch: Batch) -> Mapping[str, Array]:
        """Arrays with leading dimension b."""


@runtime_checkable
class Weighted(Protocol):
    """What a task may add that has weights of its own, such as a frozen teacher's."""

    weights: Params  # path in the assembled module → array: what a fresh state begins with


@runtime_checkable
class Settling(Protocol):
    """What a task may add when something follows from the first weights, such as the embeddings of class names."""

    def settle(self, model: nnx.Module) -> None:
        """Computes it once and writes it into the assembled module, inside the jit that makes a fresh state."""


@runtime_checkable
class Salient(Protocol):
    """What a task may add that can say which tracks a prediction depends on."""

    def saliency(self, model: nnx.Module, batch: Batch, label: Int[Array, " b"]) -> Float[Array, "b n"]:
        """Of each track of a prepared batch for a class, in [0, 1]; 0 for padding."""


@runtime_checkable
class Headed(Protocol):
    """An assembled module whose backbone can be asked for its embedding (`mtjax.retrieve`)."""

    backbone: Backbone


@runtime_checkable
class Evaluator(Protocol):
    """Scores gathered rows. Constructed as `Evaluator(data, **config.evals.NAME)`; sees rows, never a model."""

    split: str

    def score(self, rows: Rows) -> dict[str, float]: ...
