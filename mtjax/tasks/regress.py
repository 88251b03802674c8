"""Regression of clip targets with mean squared error (materials, camera motion; movt.md §5 and §6)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mtjax.command.errors import InputError
from mtjax.command.ranges import Count
from mtjax.tasks import losses
from mtjax.types import Batch, Scalars

if TYPE_CHECKING:
    from mtjax.data.pipeline import Data


class Regressor(nnx.Module):
    """Backbone and linear head; carries the scale of the targets, so that a checkpoint predicts without the dataset."""

    def __init__(self, backbone: nnx.Module, mean: np.ndarray, std: np.ndarray, *, rngs: nnx.Rngs):
        self.backbone = backbone
        self.head = nnx.Linear(backbone.width, len(mean), rngs=rngs)
        self.mean, self.std = nnx.Variable(jnp.asarray(mean)), nnx.Variable(jnp.asarray(std))

    def __call__(
        self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "b c"], Float[Array, "b d"]]:
        """Standardised predictions and embedding, both float32."""
        embedding = self.backbone(batch, train=train, rngs=rngs).astype(jnp.float32)
        return self.head(embedding), embedding

    def standardise(self, targets: Float[Array, "b c"]) -> Float[Array, "b c"]:
        return (targets - self.mean[...]) / self.std[...]


class Regress:
    """`config.task` for regression: targets are standardised with the training clips' mean and standard deviation, and
    predictions come back on the original scale."""

    trainable: nnx.filterlib.Filter = nnx.Param

    def __init__(self, data: "Data | None" = None, *, num_targets: Count = 0):
        """
        Args:
          data: where the targets come from; None for a dry run without a dataset.
          num_targets: checked against the dataset; 0 takes the dataset's.

        Raises:
          ValueError: no targets, another number of them, or a training clip without one.
        """
        found = data.targets.shape[1] if data else num_targets
        if not found or (num_targets and num_targets != found):
            raise InputError(f"config.task.num_targets={num_targets}, but the dataset has {found} targets a clip")
        self.num_targets = found
        self.mean, self.std = np.zeros(found, np.float32), np.ones(found, np.float32)
        if data:
            targets = data.targets[data.rows("train")]
            if not np.isfinite(targets).all():
                without = data.catalog.clips[data.rows("train")[np.flatnonzero(~np.isfinite(targets).all(1))[0]]].id
                raise InputError(f"{data.root}: training clip {without!r} has no targets")
            self.mean = targets.mean(0)
            self.std = np.where(targets.std(0) > 1e-8, targets.std(0), 1.0).astype(np.float32)

    @property
    def outputs(self) -> dict[str, int]:
        """Keywords that rebuild this task without a dataset."""
        return {"num_targets": self.num_targets}

    def assemble(self, model: nnx.Module, *, rngs: nnx.Rngs) -> Regressor:
        return Regressor(model, self.mean, self.std, rngs=rngs)

    def loss(self, model: Regressor, batch: Batch, *, rngs: nnx.Rngs) -> tuple[Float[Array, ""], Scalars]:
        """Mean squared error of the standardised targets."""
        predicted, _ = model(batch, train=True, rngs=rngs)
        per_example = losses.squared_error(predicted, model.standardise(batch["target"]))
        return losses.weighted_mean(per_example, batch["valid"].astype(jnp.float32)), {}

    def predict(self, model: Regressor, batch: Batch) -> Mapping[str, Array]:
        """`prediction` [b c] on the original scale, `embedding` [b d], and the `loss` [b] of each example."""
        predicted, embedding = model(batch, train=False)
        loss = losses.squared_error(predicted, model.standardise(batch["target"]))
        return {"prediction": predicted * model.std[...] + model.mean[...], "embedding": embedding, "loss": loss}
