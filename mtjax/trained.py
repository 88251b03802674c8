"""Trained weights, for whatever comes next: prediction without a dataset, a frozen teacher, a start for fine-tuning."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from mtjax import checkpoint, convert
from mtjax.experiment import Experiment, Train, from_json
from mtjax.lookup import ConfigError
from mtjax.resume import checkpoints_of
from mtjax.step import State
from mtjax.types import Batch, Params

BACKBONE = "backbone/"


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained module that another task freezes inside its own.

    Attributes:
      make: builds the module with random weights. weights: path in it → array.
      predict: (module, batch) → what its task predicts. class_names: of its probabilities.
    """

    make: Callable[[jax.Array], nnx.Module]
    weights: Params
    predict: Callable[[nnx.Module, Batch], Mapping[str, Array]]
    class_names: tuple[str, ...]


def load_without_data(workdir: Path, step: str = "selected") -> tuple[Experiment, State, dict[str, Any]]:
    """(experiment, state, checkpoint meta) for prediction on raw videos: the dataset need not be on this machine."""
    path = workdir / "config.json"
    if not path.is_file():
        raise ConfigError(f"{workdir}: no config.json; is this the --workdir of a training run?")
    config = from_json(path.read_text())
    select = config["train"].get("select")
    checkpoints = checkpoints_of(workdir, Train(**config["train"]), read_only=True)
    best = checkpoints.best_step() if select and step == "selected" else None
    number = int(step) if step.isdigit() else best or max(checkpoints.steps(), default=-1)
    if number not in checkpoints.steps():
        raise checkpoint.NoGoodCheckpoint(f"{workdir}: no step {step}; there are {checkpoints.steps()}")
    config["task"] = config["task"] | checkpoints.read_meta(number)["task"]
    config["train"] = config["train"] | {"batch": jax.device_count(), "accumulate": 1}
    experiment = Experiment(config, fake=True)
    template = checkpoint.template_of(experiment.program.shapes, experiment.program.shardings)
    state, meta = checkpoints.restore(number, template)
    checkpoints.close()
    return experiment, state, meta


def teacher(workdir: str) -> Teacher:
    """Raises ConfigError, NoGoodCheckpoint: there is no trained model in `workdir`."""
    experiment, state, meta = load_without_data(Path(workdir))
    task = experiment.task
    return Teacher(experiment.program.make, _weights(state), task.predict, tuple(meta["class_names"]))


def _weights(state: State) -> Params:
    return jax.device_get((state["ema"] or state["params"]) | state["rest"])


def weights_of(source: str) -> Params:
    """Path → array of a workdir's selected checkpoint, or of a folder that `mtjax.convert` wrote (as the backbone's)."""
    folder = Path(source)
    if (folder / convert.WEIGHTS).is_file():
        return {f"{BACKBONE}{name}": array for name, array in convert.arrays_of(folder).items()}
    return _weights(load_without_data(folder)[1])


def fitting(source: str, ours: Mapping[str, Any], *, skip: Sequence[str] = (), new: Sequence[str] = ()) -> Params:
    """The arrays of `source` by our paths.

    Args:
      ours: path → shape and dtype of what is to be filled. skip, new: see `experiment.Train`.

    Raises:
      ConfigError: an array is left over, missing, or of another shape; a regex that matches nothing.
    """
    found = weights_of(source)
    for field, patterns, names in (("init_skip", skip, found), ("init_new", new, ours)):
        if idle := [p for p in patterns if not any(re.search(p, n) for n in names)]:
            raise ConfigError(f"config.train.{field}: {idle} match nothing; paths look like {sorted(names)[:3]}")
    taken = {n: a for n, a in found.items() if not any(re.search(p, n) for p in skip)}
    wanted = {n: leaf for n, leaf in ours.items() if not any(re.search(p, n) for p in new)}
    left, missing = sorted(set(taken) - set(wanted)), sorted(set(wanted) - set(taken))
    if left or missing:
        raise ConfigError(
            f"config.train.init={source!r}: {len(left)} arrays have no place {left[:3]} (train.init_skip leaves them out), "
            f"{len(missing)} of our parameters are not there {missing[:3]} (train.init_new draws them at random)"
        )
    wrong = [f"{n} {taken[n].shape}, ours {wanted[n].shape}" for n in taken if taken[n].shape != wanted[n].shape]
    if wrong:
        raise ConfigError(f"config.train.init={source!r}: other shapes: {wrong[:3]}")
    return {n: np.asarray(array).astype(wanted[n].dtype) for n, array in taken.items()}
