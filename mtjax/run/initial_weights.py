"""What a fresh state does not draw at random: converted checkpoints, the weights of another run, a frozen teacher."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtjax import convert
from mtjax.compute.step import weights_to_host
from mtjax.convert import positions
from mtjax.lookup import ConfigError
from mtjax.run.experiment import Experiment, open_run
from mtjax.types import Params, Weighted

BACKBONE = "backbone/"


def weights_of(source: str) -> Params:
    """Path → array of a workdir's selected checkpoint, or of a folder that `mtjax.convert` wrote: as the backbone's, unless
    it holds a classifier, which has the paths of ours already."""
    folder = Path(source)
    if (folder / convert.WEIGHTS).is_file():
        arrays = convert.arrays_of(folder)
        if any(name.startswith(BACKBONE) for name in arrays):
            return arrays
        return {f"{BACKBONE}{name}": array for name, array in arrays.items()}
    return weights_to_host(open_run(folder).state)


def weights_for(source: str, ours: Mapping[str, Any], *, skip: Sequence[str] = (), new: Sequence[str] = ()) -> Params:
    """The arrays of `source` by our paths; positions of patches are resized to our image size.

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
    table = f"{BACKBONE}{convert.POSITIONS}"
    if table in taken and len(taken[table]) != wanted[table].shape[0]:  # another image size
        taken[table] = positions.resize(taken[table], math.isqrt(wanted[table].shape[0] - 1))
    wrong = [f"{n} {taken[n].shape}, ours {wanted[n].shape}" for n in taken if taken[n].shape != wanted[n].shape]
    if wrong:
        raise ConfigError(f"config.train.init={source!r}: other shapes: {wrong[:3]}")
    return {n: np.asarray(array).astype(wanted[n].dtype) for n, array in taken.items()}


def initial_weights(experiment: Experiment) -> Params:
    """Path → array for a fresh state of this run: `train.init`, and a frozen teacher of the task's.

    Raises:
      ConfigError: `train.init` does not fit the model.
    """
    train, program = experiment.train, experiment.program
    weights = dict(experiment.task.weights) if isinstance(experiment.task, Weighted) else {}
    if train.init:
        ours = {n: leaf for n, leaf in (program.shapes["params"] | program.shapes["rest"]).items() if n not in weights}
        weights |= weights_for(train.init, ours, skip=train.init_skip, new=train.init_new)
    return weights
