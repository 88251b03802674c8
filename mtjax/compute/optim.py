"""Optimisers: an optax chain from the `optimizer` section, and the plateau schedule that watches validation."""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtjax import lookup
from mtjax.command.errors import InputError
from mtjax.command.ranges import Count, NotNegative, Positive, Range, Share

NAMES = ("adamw", "sgd", "lbfgs")
SCHEDULES = ("constant", "cosine", "step", "plateau")
DECAYED = ("all", "matrices")

PlateauState = dict[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The `optimizer` section.

    Attributes:
      name: "adamw" (decoupled decay), "sgd" (momentum; decay added to the gradient, as PyTorch does), or "lbfgs" for small
        convex problems: full batches, no dropout. It searches its own step length, so `lr` and schedules do not apply.
      b1, b2, eps: Adam's. momentum: SGD's; 0.0 for none.
      memory: gradients that L-BFGS remembers.
      lr: peak learning rate. warmup: steps of linear warm-up from 0.
      weight_decay: 0.0 disables. decayed: "all" parameters (PyTorch's default) or "matrices" only.
      clip_norm: of the global gradient; 0.0 disables.
      schedule: after warm-up. "cosine" to `end_lr`; "step" multiplies by `factor` at each of `milestones` (shares of the
        run); "plateau" multiplies by `factor` when the watched evaluation loss has not fallen by the share `threshold` in
        more than `patience` evaluations (PyTorch's ReduceLROnPlateau, the paper's: movt.md §5).
      ema: decay of an exponential moving average of the parameters, used for evaluation; 0.0 disables.
    """

    name: str = "adamw"
    lr: NotNegative = 0.0
    memory: Positive = 10
    b1: Annotated[float, Range(0.0, below=1.0)] = 0.9
    b2: Annotated[float, Range(0.0, below=1.0)] = 0.999
    eps: Annotated[float, Range(above=0.0)] = 1e-8
    momentum: Annotated[float, Range(0.0, below=1.0)] = 0.9
    weight_decay: NotNegative = 0.0
    decayed: str = "all"
    clip_norm: NotNegative = 0.0
    warmup: Count = 0
    schedule: str = "constant"
    end_lr: NotNegative = 0.0
    milestones: tuple[Share, ...] = (0.5, 0.75)
    factor: Annotated[float, Range(0.0, high=1.0)] = 0.1
    patience: Count = 10
    threshold: NotNegative = 1e-4
    ema: Annotated[float, Range(0.0, below=1.0)] = 0.0

    def __post_init__(self):
        lookup.check_fields(self, "optimizer")
        for field, known in (("name", NAMES), ("schedule", SCHEDULES), ("decayed", DECAYED)):
            if getattr(self, field) not in known:
                raise InputError(f"config.optimizer.{field}={getattr(self, field)!r}: must be one of {known}")
        if self.searches:
            useless = ("lr", "weight_decay", "clip_norm", "warmup", "ema")
            if given := [name for name in useless if getattr(self, name)] + ["schedule"] * (
                self.schedule != "constant"
            ):
                raise InputError(f"config.optimizer: lbfgs takes no {given}; regularise with task.penalty")
        elif self.lr <= 0:
            raise InputError(f"config.optimizer.lr={self.lr}: must be positive")

    @property
    def searches(self) -> bool:
        """Whether an update evaluates the loss at other parameters."""
        return self.name == "lbfgs"

    def learning_rate(self, total_steps: int) -> optax.Schedule:
        """Step → learning rate, before the plateau factor."""
        after = max(total_steps - self.warmup, 1)
        if self.schedule == "cosine":
            schedule = optax.cosine_decay_schedule(self.lr, after, alpha=self.end_lr / self.lr)
        elif self.schedule == "step":
            at = {max(round(m * total_steps) - self.warmup, 1): self.factor for m in self.milestones}
            schedule = optax.piecewise_constant_schedule(self.lr, at)
        else:
            schedule = optax.constant_schedule(self.lr)
        if not self.warmup:
            return schedule
        return optax.join_schedules([optax.linear_schedule(0.0, self.lr, self.warmup), schedule], [self.warmup])

    def transform(self, total_steps: int) -> optax.GradientTransformationExtraArgs:
        if self.searches:
            return optax.lbfgs(memory_size=self.memory)
        mask = (lambda params: {k: v.ndim > 1 for k, v in params.items()}) if self.decayed == "matrices" else None
        decay = optax.add_decayed_weights(self.weight_decay, mask) if self.weight_decay else optax.identity()
        if self.name == "adamw":
            direction = optax.chain(optax.scale_by_adam(self.b1, self.b2, self.eps), decay)
        else:
            direction = optax.chain(decay, optax.trace(self.momentum) if self.momentum else optax.identity())
        clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
        return optax.chain(clip, direction, optax.scale_by_learning_rate(self.learning_rate(total_steps)))

    def init_plateau(self) -> PlateauState:
        return {"best": jnp.float32(jnp.inf), "bad": jnp.int32(0), "factor": jnp.float32(1.0)}

    def update_plateau(self, state: PlateauState, loss: Float[Array, ""]) -> PlateauState:
        """ReduceLROnPlateau's rule (mode "min", relative threshold, no cooldown). A NaN loss counts as no improvement."""
        better = loss < state["best"] * (1.0 - self.threshold)
        bad = jnp.where(better, 0, state["bad"] + 1)
        reduce = bad > self.patience
        return {
            "best": jnp.where(better, loss, state["best"]),
            "bad": jnp.where(reduce, 0, bad),
            "factor": jnp.where(reduce, state["factor"] * self.factor, state["factor"]),
        }
