"""A teacher's soft labels or features beside hard labels ("Size Doesn't Matter", Sec. 4.3; MERS and MARS, Crasto et al. 2019)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mtjax.command.errors import InputError
from mtjax.command.ranges import Count, NotNegative, Positive, Range, Share
from mtjax.models.layers import class_head
from mtjax.tasks import losses
from mtjax.tasks.classify import Classifier, Classify, of_clips
from mtjax.types import Batch, Params, Scalars, Teacher

if TYPE_CHECKING:
    from mtjax.data.pipeline import Data

DIVERGENCES = {"cross_entropy": losses.soft_cross_entropy, "kl": losses.kl_divergence}
RULES = ("mean", "geometric", "sup", "weak")


class Student(Classifier):
    """A classifier with a second head for the teacher's labels if there are two, and the frozen teacher if it is a module."""

    def __init__(
        self,
        backbone: nnx.Module,
        num_classes: Count,
        *,
        hidden: Count,
        dropout: Annotated[float, Range(0.0, below=1.0)],
        heads: Positive,
        teacher: Teacher | None,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, num_classes, hidden=hidden, dropout=dropout, rngs=rngs)
        self.weak_head = class_head(backbone, num_classes, width=hidden, rngs=rngs) if heads == 2 else None
        self.teacher = teacher.make(rngs.params()) if teacher else None

    def both(
        self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "*b c"] | None, Float[Array, "*b c"] | None, Float[Array, "*b d"]]:
        """Logits of the head for labels, of the head for the teacher's (the same if there is one; None without a head), and
        the embedding."""
        embedding = self.backbone(batch, train=train, rngs=rngs).astype(jnp.float32)
        if self.head is None:
            return None, None, embedding
        below = self.below_head(embedding, train=train, rngs=rngs)
        supervised = self.head(below)
        return supervised, supervised if self.weak_head is None else self.weak_head(below), embedding


class Distill(Classify):
    """`config.task` for a student with a teacher: alpha · L_sup over the labelled clips + beta · L_weak over the taught ones
    + match · the mean squared difference of both embeddings.

    MERS is alpha=0.0, beta=0.0, match=50.0 with a frozen teacher of flow, MARS the same with alpha=1.0 (motionfit.md §9). The
    teacher is a column (`data.teacher`), or a module that sees the same batch, frozen inside the student's state. With alpha
    and beta 0.0 there is no head: the dataset needs no class names, and `predict` gives features alone.
    """

    trainable = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("teacher")))

    def __init__(
        self,
        data: "Data | None" = None,
        *,
        teacher: "Teacher | str" = "",
        num_classes: Count = 0,
        hidden: Count = 0,
        dropout: Annotated[float, Range(0.0, below=1.0)] = 0.0,
        label_smoothing: Share = 0.0,
        alpha: NotNegative = 1.0,
        beta: NotNegative = 1.0,
        temperature: Annotated[float, Range(above=0.0)] = 1.0,
        divergence: str = "cross_entropy",
        heads: Positive = 1,
        rule: str = "mean",
        match: NotNegative = 0.0,
    ):
        """
        Args:
          teacher: in a config the workdir of the teacher's training, "" for a column of soft labels.
          num_classes, hidden, dropout, label_smoothing: see `Classify`; smoothing is of hard labels.
          temperature, divergence: see `losses.soft_cross_entropy` and `losses.kl_divergence` ("kl").
          heads: 1, or 2 separate ones as in the paper.
          rule: what two heads predict together: "mean" of their probabilities, the renormalised "geometric" mean, "sup"
            or "weak" alone. The paper does not say; `predict` gives all of them.
          match: of features, which needs a frozen teacher whose embedding is as wide as the student's.

        Raises:
          ValueError: no teacher, two of them, or one of other classes.
        """
        self.alpha, self.beta, self.match = alpha, beta, match
        super().__init__(data, num_classes=num_classes, hidden=hidden, dropout=dropout, label_smoothing=label_smoothing)
        for field, known, value in (
            ("divergence", tuple(DIVERGENCES), divergence),
            ("rule", RULES, rule),
            ("heads", (1, 2), heads),
        ):
            if value not in known:
                raise InputError(f"config.task.{field}={value!r}: must be one of {known}")
        self.temperature = temperature
        self.divergence, self.heads, self.rule = DIVERGENCES[divergence], heads, rule
        self.teacher = teacher or None
        if data and bool(data.teacher) == bool(teacher):
            raise InputError("config: Distill needs either data.teacher (a column) or task.teacher (a workdir)")
        if not (alpha or beta or match):
            raise InputError("config.task: with alpha, beta and match all 0.0 there is nothing to learn")
        if match and not teacher:
            raise InputError("config.task.match: features come from a frozen teacher (task.teacher), not from a column")
        if data and self.teacher and beta and self.teacher.class_names != tuple(data.class_names):
            raise InputError(
                f"config.task.teacher was trained on {self.teacher.class_names[:5]} …, {data.root} has {data.class_names[:5]} …"
            )

    def _classes_of(self, data: "Data | None", num_classes: int) -> int:
        return super()._classes_of(data, num_classes) if self.alpha or self.beta else 0

    @property
    def weights(self) -> Params:
        """What a fresh state begins with: the teacher's parameters."""
        return {f"teacher/{name}": array for name, array in self.teacher.weights.items()} if self.teacher else {}

    def assemble(self, model: nnx.Module, *, rngs: nnx.Rngs) -> Student:
        return Student(
            model, self.num_classes, hidden=self.hidden, dropout=self.dropout, heads=self.heads, teacher=self.teacher,
            rngs=rngs,
        )  # fmt: skip

    def teacher_outputs(self, model: Student, batch: Batch) -> tuple[Mapping[str, Array], Bool[Array, " b"]]:
        """What the teacher says (its `probs` at least) and whether it says anything of a clip."""
        if self.teacher is None:
            return {"probs": batch["teacher"]}, batch["taught"]
        sees = dict(batch) | ({"observed": batch["taught"]} if "taught" in batch else {})
        said = jax.lax.stop_gradient(dict(self.teacher.predict(model.teacher, sees)))
        return said, jnp.broadcast_to(said.get("observed", True), batch["valid"].shape)

    def loss(self, model: Student, batch: Batch, *, rngs: nnx.Rngs) -> tuple[Float[Array, ""], Scalars]:
        """The weighted sum of the means; logs each that counts, and where there is a head top-1 in % of the labelled clips and
        agreement with the teacher in %."""
        supervised, weak, embedding = model.both(batch, train=True, rngs=rngs)
        said, taught = self.teacher_outputs(model, batch)
        taught = batch["valid"] & batch.get("observed", True) & taught
        weight = of_clips(taught, embedding.shape[:-1]).astype(jnp.float32)
        total, scalars = jnp.float32(0.0), {}
        if supervised is not None:
            hard, right = self.per_clip(supervised, batch, batch["label"])
            total, scalars = self.alpha * hard, {"hard": hard, "top1": right}
        if self.beta:
            probs = said["probs"] if weak.ndim == 2 else jnp.broadcast_to(said["probs"][:, None], weak.shape)
            soft = losses.weighted_mean(self.divergence(weak, probs, temperature=self.temperature), weight)
            agrees = (weak.argmax(-1) == probs.argmax(-1)).astype(jnp.float32)
            total = total + self.beta * soft
            scalars |= {"soft": soft, "agreement": 100.0 * losses.weighted_mean(agrees, weight)}
        if self.match:
            shown = said["embedding" if embedding.ndim == 2 else "clip_embedding"].astype(jnp.float32)
            if shown.shape != embedding.shape:
                raise InputError(
                    f"config.task.match: the student's embedding is {embedding.shape}, the teacher's {shown.shape}"
                )
            matched = losses.weighted_mean(losses.squared_error(embedding, shown), weight)
            total, scalars = total + self.match * matched, scalars | {"match": matched}
        return total, scalars

    def predict(self, model: Student, batch: Batch) -> Mapping[str, Array]:
        """What `Classify.predict` gives, by `rule`; with two heads also `probs_<rule>` [b c] of every rule. Without a head
        only what is about features."""
        supervised, weak, embedding = model.both(batch, train=False)
        if supervised is None:
            return self._features(batch, embedding)
        if self.heads == 1:
            return self._predictions(batch, supervised, embedding)
        p, q = jax.nn.softmax(supervised), jax.nn.softmax(weak)
        logits = {
            "mean": jnp.log(jnp.maximum((p + q) / 2, 1e-30)),
            "geometric": (jax.nn.log_softmax(supervised) + jax.nn.log_softmax(weak)) / 2,
            "sup": supervised,
            "weak": weak,
        }
        rules = {f"probs_{rule}": jax.nn.softmax(values) for rule, values in logits.items()}
        return self._predictions(batch, logits[self.rule], embedding) | rules
