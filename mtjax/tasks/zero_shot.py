"""Classification by texts: a clip belongs to the class whose prototype is nearest ("Size Doesn't Matter", Sec. 4.4)."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mtjax.command.errors import InputError
from mtjax.command.ranges import Count
from mtjax.data import openai_clip_tokens
from mtjax.models.openai_clip import unit
from mtjax.tasks import losses
from mtjax.types import Batch, Scalars

if TYPE_CHECKING:
    from mtjax.data.pipeline import Data

# motion_guidance.md §6: one of the five is the paper's, the others are our default.
PROMPTS = (
    "a video of a person {}",
    "a video of {}",
    "a person is {}",
    "a person doing {}",
    "footage of a person {}",
)


class Compared(nnx.Module):
    """A video–text model and one text embedding a class."""

    def __init__(self, backbone: nnx.Module, num_classes: int):
        self.backbone = backbone
        self.prototypes = nnx.Variable(jnp.zeros((num_classes, backbone.width)))


class ZeroShot:
    """`config.task` for CLIP and X-CLIP. Without training (`train.epochs=0.0`) it scores zero-shot; with it, the video side
    learns against the frozen texts."""

    trainable = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("text")))

    def __init__(
        self,
        data: "Data | None" = None,
        *,
        tokenizer: str,
        prompts: tuple[str, ...] = PROMPTS,
        prompted: bool = False,
        num_classes: Count = 0,
    ):
        """
        Args:
          tokenizer: see `openai_clip_tokens.load`.
          prompts: texts with {} for the class name; the prototype is the mean of their unit embeddings, normalised. ("{}",)
            is the bare name.
          prompted: let each video's prompt change the prototypes (X-CLIP's generator), as X-CLIP's own figures do.
          num_classes: for a dry run without a dataset.

        Raises:
          ValueError: no class names, or a prompt without {}.
        """
        if wrong := [p for p in prompts if "{}" not in p]:
            raise InputError(f"config.task.prompts: {wrong} have no {{}} for the class name")
        names = data.class_names if data else tuple(f"class {i}" for i in range(num_classes))
        if not names:
            raise InputError("config.task: the dataset has no classes to name in a text")
        if data:
            words = openai_clip_tokens.load(tokenizer)
            texts = [prompt.format(spoken(name)) for prompt in prompts for name in names]
            ids = openai_clip_tokens.encode(words, texts)
        else:  # a dry run, or a trained run, whose prototypes are in its checkpoint
            ids = np.zeros((len(prompts) * len(names), openai_clip_tokens.CONTEXT), np.int32)
        self.ids = ids.reshape(len(prompts), len(names), -1)
        self.prompted, self.num_classes = prompted, len(names)

    @property
    def outputs(self) -> dict[str, int]:
        return {"num_classes": self.num_classes}

    def assemble(self, model: nnx.Module, *, rngs: nnx.Rngs) -> Compared:
        return Compared(model, self.num_classes)

    def settle(self, model: Compared) -> None:
        """Computes the prototypes from the first weights."""
        each = [unit(model.backbone.embed_text(jnp.asarray(ids))) for ids in self.ids]
        model.prototypes.set_value(unit(jnp.stack(each).mean(0)))

    def loss(self, model: Compared, batch: Batch, *, rngs: nnx.Rngs) -> tuple[Float[Array, ""], Scalars]:
        logits, _ = model.backbone.compare(batch, model.prototypes[...], prompted=self.prompted)
        weight = (batch["valid"] & (batch["label"] >= 0) & batch.get("observed", True)).astype(jnp.float32)
        right = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
        return losses.weighted_mean(losses.cross_entropy(logits, batch["label"]), weight), {
            "top1": 100.0 * losses.weighted_mean(right, weight)
        }

    def predict(self, model: Compared, batch: Batch) -> Mapping[str, Array]:
        """`logits`, `probs` [b c], `embedding` [b d] (of the video, not normalised), `loss` [b]."""
        logits, embedding = model.backbone.compare(batch, model.prototypes[...], prompted=self.prompted)
        observed = {"observed": batch["observed"]} if "observed" in batch else {}
        return observed | {
            "logits": logits,
            "probs": jax.nn.softmax(logits.astype(jnp.float32)),
            "embedding": embedding.astype(jnp.float32),
            "loss": losses.cross_entropy(logits, batch["label"]),
        }


def spoken(name: str) -> str:
    """A class name as words: split at capitals, underscores and digits' ends, lower case ("YoYo" → "yo yo")."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\-]+", " ", name)
    return " ".join(apart.lower().split())
