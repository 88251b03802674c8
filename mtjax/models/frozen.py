"""Features that were computed once, as a backbone: heads on them are probes."""

from flax import nnx
from jaxtyping import Array, Float

from mtjax.command.errors import InputError
from mtjax.models.openai_clip import unit
from mtjax.types import Batch


class Frozen(nnx.Module):
    """Hands on the batch's `features`."""

    def __init__(self, *, width: int, unit_norm: bool = False, rngs: nnx.Rngs):
        """
        Args:
          width: of the features. unit_norm: L2-normalise them.
        """
        self.width, self.unit_norm = width, unit_norm

    def __call__(self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> Float[Array, "*b d"]:
        features = batch["features"]
        if features.shape[-1] != self.width:
            raise InputError(f"config.model.width={self.width}, but the column's features have {features.shape[-1]}")
        return unit(features) if self.unit_norm else features
