"""MotionFit's losses over several clips of a video (Sec. 3.2): their labels, their order, the labels beside them."""

import itertools
import math
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mtjax.command.errors import InputError
from mtjax.command.ranges import Count, Range, Share
from mtjax.models.layers import Dropout, class_head
from mtjax.tasks import losses
from mtjax.tasks.classify import Classifier, Classify
from mtjax.types import Batch, Scalars

if TYPE_CHECKING:
    from mtjax.data.pipeline import Data

NEIGHBOURS = ("label_before", "label_after")
NO_NEIGHBOURS = "config.task.neighbours: needs data.pseudo, whose column knows the labels of every time"


class OrderHead(nnx.Module):
    """Which order clips are in, as VCOP tells it: each pair of features, ReLU, all pairs, dropout, one logit an order."""

    def __init__(self, width: int, clips: int, *, hidden: int = 512, dropout: float = 0.5, rngs: nnx.Rngs):
        self.pairs = tuple(itertools.combinations(range(clips), 2))
        self.pair = nnx.Linear(2 * width, hidden, rngs=rngs)
        self.dropout = Dropout(dropout)
        self.order = nnx.Linear(hidden * len(self.pairs), math.factorial(clips), rngs=rngs)

    def __call__(
        self, features: Float[Array, "b k d"], *, train: bool, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b orders"]:
        """Logits over `orders(k)`."""
        first, second = (features[:, [p[i] for p in self.pairs]] for i in (0, 1))
        each = nnx.relu(self.pair(jnp.concatenate([first, second], -1)))
        return self.order(self.dropout(each.reshape(len(each), -1), train=train, rngs=rngs))


class MultiClipClassifier(Classifier):
    """A classifier with the heads that a task asks for beside its own."""

    def __init__(
        self, backbone: nnx.Module, num_classes: int, *, hidden: int, dropout: float, clips: int, neighbours: bool,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        """
        Args:
          clips: in an order to be told, 0 for no such head. neighbours: heads for the clips before and after.
        """
        super().__init__(backbone, num_classes, hidden=hidden, dropout=dropout, rngs=rngs)
        self.order_head = OrderHead(backbone.width, clips, rngs=rngs) if clips else None
        self.neighbour_heads = nnx.List(
            [class_head(backbone, num_classes, width=hidden, rngs=rngs) for _ in NEIGHBOURS * neighbours]
        )


class MultiClip(Classify):
    """`config.task`: lambda · L_mc + (1 - lambda) · L_co (MotionFit, Eqs. 1 to 3), for data with several clips a video."""

    def __init__(
        self,
        data: "Data | None" = None,
        *,
        num_classes: Count = 0,
        clips: Count = 0,
        label_share: Share = 1.0,
        neighbours: bool = False,
        hidden: Count = 0,
        dropout: Annotated[float, Range(0.0, below=1.0)] = 0.0,
        label_smoothing: Share = 0.0,
    ):
        """
        Args:
          num_classes, hidden, dropout, label_smoothing: see `Classify`.
          clips: checked against `data.clips`; 0 takes it.
          label_share: lambda, the weight of the labels' loss; the order's is the rest. 1.0 (the paper's final setting) has
            no order head; less needs `data.ordered`. Videos too short for clips in order count for their labels only.
          neighbours: two more heads predict the labels before and after each clip (Sec. 4.4), with equal weights. Needs
            `data.pseudo`.

        Raises:
          ValueError: settings that the data cannot feed.
        """
        super().__init__(data, num_classes=num_classes, hidden=hidden, dropout=dropout, label_smoothing=label_smoothing)
        found = getattr(data, "clips", 1) if data else clips
        if clips and clips != found:
            raise InputError(f"config.task.clips={clips}, but config.data.clips={found}")
        if label_share < 1.0 and (found < 2 or (data and not getattr(data, "ordered", False))):
            raise InputError(
                f"config.task.label_share={label_share}: the order's loss needs data.clips=2 or more and data.ordered"
            )
        if neighbours and data and not getattr(data, "pseudo", ""):
            raise InputError(NO_NEIGHBOURS)
        self.clips, self.label_share, self.neighbours = found, label_share, neighbours

    @property
    def outputs(self) -> dict[str, int]:
        return super().outputs | {"clips": self.clips}

    def assemble(self, model: nnx.Module, *, rngs: nnx.Rngs) -> MultiClipClassifier:
        clips = self.clips if self.label_share < 1.0 else 0
        return MultiClipClassifier(
            model, self.num_classes, hidden=self.hidden, dropout=self.dropout, clips=clips, neighbours=self.neighbours,
            rngs=rngs,
        )  # fmt: skip

    def loss(self, model: MultiClipClassifier, batch: Batch, *, rngs: nnx.Rngs) -> tuple[Float[Array, ""], Scalars]:
        """Eq. 3; logs the parts, top-1 in % of the clips, and how often, in %, the order is told.

        Raises:
          InputError: `neighbours`, and the data know no labels before and after a clip.
        """
        if self.neighbours and not set(NEIGHBOURS) <= set(batch):
            raise InputError(NO_NEIGHBOURS)
        embedding = model.backbone(batch, train=True, rngs=rngs).astype(jnp.float32)
        below = model.below_head(embedding, train=True, rngs=rngs)
        parts = [self.per_clip(model.head(below), batch, batch["label"])]
        parts += [
            self.per_clip(head(below), batch, batch[name])
            for head, name in zip(model.neighbour_heads, NEIGHBOURS, strict=False)
        ]
        labels = jnp.stack([loss for loss, _ in parts]).mean()
        scalars: dict[str, Array] = {"labels": labels, "top1": parts[0][1]}
        if model.order_head is None:
            return labels, scalars
        drawn = jax.random.randint(rngs.dropout(), (len(embedding),), 0, math.factorial(self.clips))
        shuffled = jnp.take_along_axis(embedding, jnp.asarray(orders(self.clips))[drawn][..., None], axis=1)
        logits = model.order_head(shuffled, train=True, rngs=rngs)
        weight = (batch["valid"] & batch["observed"] & batch["in_order"]).astype(jnp.float32)
        order = losses.weighted_mean(losses.cross_entropy(logits, drawn), weight)
        told = losses.weighted_mean((logits.argmax(-1) == drawn).astype(jnp.float32), weight)
        loss = self.label_share * labels + (1.0 - self.label_share) * order
        return loss, scalars | {"order": order, "order_top1": 100.0 * told}


def orders(clips: int) -> Int[np.ndarray, "orders k"]:
    """The orders of some clips, in the order of `itertools.permutations`: (2, 0, 1) is number 4 of 3! (MF-2)."""
    return np.array(list(itertools.permutations(range(clips))), np.int32)
