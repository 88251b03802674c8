"""Predicts and scores splits: every example exactly once."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from mtjax.compute import sharding
from mtjax.compute.step import Asked, State
from mtjax.data import selection
from mtjax.data.batches import evaluation_batches
from mtjax.data.files import save_arrays
from mtjax.data.pipeline import Data
from mtjax.lookup import ConfigError
from mtjax.run.experiment import Experiment
from mtjax.types import Rows

ROWS = "rows"  # WORKDIR/rows/<eval>.npz: what the report draws from
PASSED_ON = ("clip", "label", "target", "valid")


class Interrupted(Exception):
    """A signal arrived during evaluation."""


def predict_rows(
    experiment: Experiment,
    state: State,
    clips: np.ndarray,
    stop: Callable[[], bool] = lambda: False,
    *,
    copy: int = 0,
    ask: Asked | None = None,
    data: Data | None = None,
) -> dict[str, np.ndarray]:
    """Predictions for some clips, gathered on every process, padding dropped, sorted by clip.

    Args:
      copy: n > 0 looks at the n-th augmented view of each clip, drawn as in training. ask: see `Program.predict`.
      data: reads the clips in place of the experiment's, see `Data.in_groups`.

    Raises:
      Interrupted: `stop()` became true between two batches.
      RuntimeError: a clip is missing or came twice.
    """
    batch, mesh, local = experiment.train.batch, experiment.mesh, experiment.local
    gathered: list[dict[str, np.ndarray]] = []
    view = (np.int32(copy),) if copy else ()
    for host_batch in evaluation_batches(data or experiment.data, clips, batch, local, copy):
        if stop():
            raise Interrupted
        arrays = sharding.to_global(host_batch, local, experiment.rows, mesh)
        rows = dict(experiment.program.predict_step(state, arrays, *view, ask=ask))
        rows |= {k: arrays[k] for k in PASSED_ON}
        if jax.process_count() > 1:
            rows = multihost_utils.process_allgather(rows, tiled=True)
        gathered.append(jax.device_get(rows))
    rows = {name: np.concatenate([g[name] for g in gathered]) for name in gathered[0]}
    rows = {name: values[rows["valid"]] for name, values in rows.items()}
    order = np.argsort(rows["clip"], kind="stable")
    rows = {name: values[order] for name, values in rows.items()}
    unreadable = len(clips) - len(rows["clip"])
    expected = np.sort(clips)
    if not np.isin(rows["clip"], expected).all() or len(np.unique(rows["clip"])) != len(rows["clip"]):
        raise RuntimeError(f"{len(rows['clip'])} rows for {len(clips)} clips: some came twice or from elsewhere")
    if unreadable and experiment.data.on_corrupt == "raise":
        raise RuntimeError(f"{unreadable} of {len(clips)} clips were lost between reading and scoring")
    return rows


def run_eval(
    experiment: Experiment, state: State, name: str, stop: Callable[[], bool] = lambda: False
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(`<name>/<metric>` → value, rows) of one entry of `config.evals`.

    Clips whose prediction is NaN or infinite are warned of and counted as `<name>/not_finite`; evaluators give them no hit.

    Raises:
      FloatingPointError: no prediction is finite.
    """
    evaluator = experiment.evaluators[name]
    rows = predict_rows(experiment, state, experiment.data.rows(evaluator.split), stop)
    wrong = np.flatnonzero(~finite_rows(rows))
    if len(wrong):
        ids = [experiment.data.catalog.clips[rows["clip"][i]].id for i in wrong[:3]]
        message = (
            f"config.evals.{name}: {len(wrong)} of {len(rows['clip'])} predictions are NaN or infinite, of {ids} …"
        )
        if len(wrong) == len(rows["clip"]):
            raise FloatingPointError(f"{message}; the weights or their moving average are not finite")
        logging.warning("%s", message)
    counted = {"not_finite": float(len(wrong))} if len(wrong) else {}
    return {f"{name}/{metric}": value for metric, value in (dict(evaluator.score(rows)) | counted).items()}, rows


def finite_rows(rows: Rows) -> np.ndarray:
    """bool [n]: whether all that is predicted of a clip is finite; what was passed on from the dataset is not looked at."""
    good = np.ones(len(next(iter(rows.values()))), bool)
    for field, values in rows.items():
        if field not in (*PASSED_ON, "loss") and np.issubdtype(values.dtype, np.floating):
            good &= np.isfinite(values.reshape(len(values), -1)).all(1)
    return good


def save_rows(workdir: Path, name: str, rows: Rows) -> None:
    """Keeps an eval's rows (without embeddings) for the report."""
    if jax.process_index() == 0:
        (workdir / ROWS).mkdir(parents=True, exist_ok=True)
        save_arrays(
            workdir / ROWS / f"{name}.npz", compressed=True, **{k: v for k, v in rows.items() if "embedding" not in k}
        )


def check_overlap(experiment: Experiment, train_ids: list[str], split: str, allow: bool) -> int:
    """How many clips of `split` were trained on, or share a group with a clip that was.

    Raises:
      ConfigError: there are some and `allow` is False.
    """
    data = experiment.data
    if data.only_selects(split):  # compared with the labelled clips when training began
        return 0
    known = {c.id for c in data.catalog.clips}
    shared = selection.overlap(data.catalog, data.catalog.rows_of(i for i in train_ids if i in known), data.rows(split))
    if shared and not allow:
        raise ConfigError(
            f"{len(shared)} of the {len(data.rows(split))} clips of split {split!r} were trained on or share a group with "
            f"clips that were: {shared[:5]} …; --allow_overlap scores them all the same"
        )
    return len(shared)
