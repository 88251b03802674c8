"""Classification of clips: a linear head on the embedding, cross-entropy against labels (movt.md §2.5)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from mtjax.command.errors import InputError
from mtjax.command.ranges import Count, NotNegative, Range, Share
from mtjax.models.layers import Dropout, class_head
from mtjax.tasks import losses
from mtjax.types import Attending, Batch, Scalars

if TYPE_CHECKING:
    from mtjax.data.pipeline import Data

CLASS_WEIGHTS = ("none", "inverse", "sqrt")
PENALTIES = ("none", "printed", "sklearn_C1")


class Classifier(nnx.Module):
    """Backbone and linear head, with a hidden layer (ReLU, dropout) between them if `hidden`; no head for no classes."""

    def __init__(
        self, backbone: nnx.Module, num_classes: int, *, hidden: int = 0, dropout: float = 0.0, rngs: nnx.Rngs
    ):
        self.backbone = backbone
        self.hidden = nnx.Linear(backbone.width, hidden, rngs=rngs) if hidden else None
        self.dropout = Dropout(dropout)
        self.head = class_head(backbone, num_classes, width=hidden, rngs=rngs) if num_classes else None

    def __call__(
        self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "*b c"], Float[Array, "*b d"]]:
        """Logits and the backbone's embedding, both float32; [b k …] of data with k clips a video."""
        embedding = self.backbone(batch, train=train, rngs=rngs).astype(jnp.float32)
        return self.head(self.below_head(embedding, train=train, rngs=rngs)), embedding

    def below_head(
        self, embedding: Float[Array, "*b d"], *, train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "*b e"]:
        if self.hidden is None:
            return embedding
        return self.dropout(nnx.relu(self.hidden(embedding)), train=train, rngs=rngs)


def of_clips(values: Shaped[Array, "*b"], shape: tuple[int, ...]) -> Shaped[Array, "*shape"]:
    """Values [b] of videos for each of their clips [b k]; values that are of clips already, or [b] for [b], as they are."""
    return jnp.broadcast_to(values.reshape(*values.shape, *(1,) * (len(shape) - values.ndim)), shape)


class Classify:
    """`config.task` for classification."""

    trainable: nnx.filterlib.Filter = nnx.Param

    def __init__(
        self,
        data: "Data | None" = None,
        *,
        num_classes: Count = 0,
        hidden: Count = 0,
        dropout: Annotated[float, Range(0.0, below=1.0)] = 0.0,
        label_smoothing: Share = 0.0,
        focal_gamma: NotNegative = 0.0,
        class_weights: str = "none",
        logit_adjustment: float = 0.0,
        penalty: str = "none",
    ):
        """
        Args:
          data: where class names and counts come from; None for a dry run without a dataset.
          num_classes: checked against the dataset; 0 takes the dataset's.
          hidden, dropout: of a layer between embedding and logits; 0 for a linear head.
          label_smoothing, focal_gamma: see `losses.cross_entropy`.
          class_weights: "inverse" or "sqrt" of the training frequency, with mean 1 over examples; "none".
          logit_adjustment: tau added as tau * log prior while training (Menon et al. 2021); 0.0 disables.
          penalty: ½‖W‖² of the head's kernel, added to the mean cross-entropy as it is ("printed", the paper's Sec. 4.3), or
            divided by the number of labelled training clips ("sklearn_C1", scikit-learn's LogisticRegression(C=1)); MG-7.
        """
        for field, known, value in (("class_weights", CLASS_WEIGHTS, class_weights), ("penalty", PENALTIES, penalty)):
            if value not in known:
                raise InputError(f"config.task.{field}={value!r}: must be one of {known}")
        self.num_classes = found = self._classes_of(data, num_classes)
        self.hidden, self.dropout = hidden, dropout
        self.label_smoothing, self.focal_gamma = label_smoothing, focal_gamma
        labels = data.training_labels[data.rows("train")] if data else np.zeros(1, np.int32)
        self.penalty = {"none": 0.0, "printed": 1.0, "sklearn_C1": 1.0 / max((labels >= 0).sum(), 1)}[penalty]
        self.class_weight = np.ones(found, np.float32)
        self.log_prior = np.zeros(found, np.float32)
        if data and (class_weights != "none" or logit_adjustment):
            counts = np.bincount(labels[labels >= 0], minlength=found).astype(np.float64)
            prior = np.maximum(counts, 0.5) / counts.sum()
            if class_weights != "none":
                weight = prior ** (-1.0 if class_weights == "inverse" else -0.5)
                self.class_weight = (weight / (weight * prior).sum()).astype(np.float32)
            self.log_prior = (logit_adjustment * np.log(prior)).astype(np.float32)

    def _classes_of(self, data: "Data | None", num_classes: int) -> int:
        """How many logits there are. Raises InputError where nothing says so, or two numbers differ."""
        if data is None:
            if not num_classes:
                raise InputError(
                    "config.task.num_classes: without a dataset the number of classes has to be given here"
                )
            return num_classes
        if not (found := len(data.class_names)):
            raise InputError(
                f"config.task: {data.root} names no classes. Give its catalog class names, let data.pseudo=COLUMN label it, or "
                "choose a task that needs no class: regress.Regress, or distill.Distill with alpha=0.0 and beta=0.0"
            )
        if num_classes not in (0, found):
            raise InputError(f"config.task.num_classes={num_classes}, but {data.root} has {found} classes")
        return found

    @property
    def outputs(self) -> dict[str, int]:
        """Keywords that rebuild this task without a dataset."""
        return {"num_classes": self.num_classes}

    def assemble(self, model: nnx.Module, *, rngs: nnx.Rngs) -> Classifier:
        return Classifier(model, self.num_classes, hidden=self.hidden, dropout=self.dropout, rngs=rngs)

    def loss(self, model: Classifier, batch: Batch, *, rngs: nnx.Rngs) -> tuple[Float[Array, ""], Scalars]:
        """Mean cross-entropy over labelled valid examples, and top-1 in % of the training batch.

        Of k clips a video the mean over the clips' own losses (MotionFit, Eq. 1; MF-1), not the loss of their mean."""
        logits, _ = model(batch, train=True, rngs=rngs)
        loss, right = self.per_clip(logits, batch, batch["label"])
        if self.penalty:
            loss = loss + 0.5 * self.penalty * jnp.square(model.head.kernel[...]).sum()
        return loss, {"top1": right}

    def per_clip(
        self, logits: Float[Array, "*b c"], batch: Batch, labels: Int[Array, "*labels"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Mean loss and top-1 in % of labelled valid examples or clips; `labels` [b] are of all clips of a video."""
        labels = of_clips(labels, logits.shape[:-1])
        seen = of_clips(batch["valid"] & batch.get("observed", True), labels.shape)
        weight = (seen & (labels >= 0)).astype(jnp.float32)
        adjusted = logits + jnp.asarray(self.log_prior)
        per_example = losses.cross_entropy(
            adjusted, labels, smoothing=self.label_smoothing, focal_gamma=self.focal_gamma
        ) * jnp.take(jnp.asarray(self.class_weight), jnp.maximum(labels, 0))
        right = (logits.argmax(-1) == labels).astype(jnp.float32)
        return losses.weighted_mean(per_example, weight), 100.0 * losses.weighted_mean(right, weight)

    def predict(self, model: Classifier, batch: Batch) -> Mapping[str, Array]:
        """`logits` and `probs` [b c], `embedding` [b d], and the `loss` [b] of each labelled example.

        Of k clips a video, `logits` and `embedding` are means over its clips, `probs` of the mean logits (VCOP); `probs_mean`
        are the mean of the clips' probabilities, and `clip_embedding` [b k d] the clips' own.

        For data that says so, `observed` [b]: a clip that shows nothing gets equal probabilities and counts as an error.
        Of a backbone that is `types.Attending`, also the `attention` [b t] and `row_frame` [b t] of its rows.
        """
        if isinstance(model.backbone, Attending):
            embedding, attention = model.backbone.attend(batch)
            embedding = embedding.astype(jnp.float32)
            logits = model.head(model.below_head(embedding, train=False, rngs=None))
            return self._predictions(batch, logits, embedding) | dict(attention)
        return self._predictions(batch, *model(batch, train=False))

    def _predictions(
        self, batch: Batch, logits: Float[Array, "*b c"], embedding: Float[Array, "*b d"]
    ) -> dict[str, Array]:
        said = self._features(batch, embedding)
        if logits.ndim == 3:
            share = _share_of_clips(batch, logits.shape[:2])
            said["probs_mean"] = (share * jax.nn.softmax(logits)).sum(1)
            logits = (share * logits).sum(1)
        if "observed" in batch:
            logits = jnp.where(batch["observed"][:, None], logits, 0.0)
            if "probs_mean" in said:
                said["probs_mean"] = jnp.where(batch["observed"][:, None], said["probs_mean"], 1.0 / self.num_classes)
        label = batch["label"] if batch["label"].ndim == 1 else batch["label"][:, 0]
        loss = losses.cross_entropy(logits, label)
        return {"logits": logits, "probs": jax.nn.softmax(logits), "loss": loss} | said

    def _features(self, batch: Batch, embedding: Float[Array, "*b d"]) -> dict[str, Array]:
        """What `predict` gives that needs no head: `embedding`, `observed`, and of several clips a video their own."""
        found = {k: batch[k] for k in ("observed",) if k in batch}
        if embedding.ndim == 2:
            return {"embedding": embedding} | found
        found |= {"clip_embedding": embedding} | {k: batch[k] for k in ("centre_s",) if k in batch}
        return {"embedding": (_share_of_clips(batch, embedding.shape[:2]) * embedding).sum(1)} | found

    def saliency(self, model: Classifier, batch: Batch, label: Int[Array, " b"]) -> Float[Array, "b n"]:
        """How much each track matters: norm of the gradient of a class logit with respect to the track, divided by the
        largest of the clip (Sec. 6 of the paper; movt.md §7). 0 for padded points."""

        def logit(tracks):
            logits, _ = model(dict(batch) | {"tracks": tracks}, train=False)
            return jnp.take_along_axis(logits, label[:, None], axis=1).sum()

        norm = jnp.sqrt(jnp.square(jax.grad(logit)(batch["tracks"])).sum((1, 3)))
        norm = jnp.where(batch["point_valid"], norm, 0.0)
        return norm / jnp.maximum(norm.max(1, keepdims=True), 1e-12)


def _share_of_clips(batch: Batch, shape: tuple[int, int]) -> Float[Array, "b k 1"]:
    """How much each clip counts in the mean of its video. Views that only fill the batch have no time and count nothing; a
    video of which nothing is seen has no other."""
    real = jnp.ones(shape) if "centre_s" not in batch else (batch["centre_s"] >= 0).astype(jnp.float32)
    return (real / jnp.maximum(real.sum(1, keepdims=True), 1.0))[..., None]
