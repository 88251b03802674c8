"""What is scored during and after training, and which checkpoint the final scores belong to."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from absl import logging

from mtjax.compute.distributed import Preemption
from mtjax.compute.step import State
from mtjax.data.files import write_atomically
from mtjax.data.origin import SEAL
from mtjax.lookup import ConfigError
from mtjax.run.checkpoint import NoGoodCheckpoint
from mtjax.run.evaluation import run_eval, save_rows
from mtjax.run.experiment import Experiment, Train
from mtjax.run.metrics_log import MetricsLog
from mtjax.run.results import RESULTS, to_json
from mtjax.run.workdir import Run


def watch(
    exp: Experiment, log: MetricsLog, state: State, step: int, preemption: Preemption
) -> tuple[State, float | None]:
    """Runs the watched evals; moves the plateau schedule. Returns the state and the selection metric, None where there is none
    or it is NaN or infinite, which no step is selected by.

    Raises:
      Interrupted: a signal came between two batches.
    """
    scores: dict[str, float] = {}
    for name in exp.train.watch:
        scores |= run_eval(exp, state, name, preemption.signalled)[0]
    log.write(step, scores)
    if exp.optimizer.schedule == "plateau":
        loss = jnp.float32(scores[f"{exp.train.watch[0]}/loss"])
        state = state | {"plateau": exp.program.update_plateau(state["plateau"], loss)}
    if jax.process_index() == 0:
        print(f"step {step}  " + "  ".join(f"{k} {v:.4g}" for k, v in scores.items()), flush=True)
    if exp.train.select and exp.train.select not in scores:
        raise ConfigError(f"config.train.select={exp.train.select!r} is not among {sorted(scores)}")
    metric = scores.get(exp.train.select, math.nan)
    return state, metric if math.isfinite(metric) else None


def improves(train: Train, history: Sequence[float], metric: float) -> bool:
    """Whether `metric` is better than all before. From the run's memory: the save of the best one may still be going on."""
    sign = 1 if train.select_mode == "max" else -1
    return all(sign * metric > sign * before for before in history)


def stalled(train: Train, history: Sequence[float]) -> bool:
    """Whether the last `patience` evaluations brought the best value of `select` forward by less than `min_delta`."""
    if not train.patience or len(history) <= train.patience:
        return False
    sign = 1 if train.select_mode == "max" else -1
    signed = [sign * value for value in history]
    gain = max(signed) - max(signed[: -train.patience])
    return gain <= 0 or gain < train.min_delta


def final(exp: Experiment, run: Run, log: MetricsLog, state: State, preemption: Preemption) -> dict[str, float]:
    """All evals on the selected checkpoint; kept as results.json and rows/*.npz for the report.

    Raises:
      Interrupted: a signal came between two batches.
    """
    run.wait()
    selected = int(state["step"])
    while exp.train.select and (chosen := run.best()):
        try:
            state, selected = run.checkpoints.restore(chosen[0], run.template)[0], chosen[0]
            break
        except NoGoodCheckpoint as e:  # it is set aside: the next best one is as good as what there is
            logging.error("the selected step cannot be used: %s", e)
    scores: dict[str, float] = {}
    unwritable: OSError | None = None
    for name in exp.evaluators:
        numbers, rows = run_eval(exp, state, name, preemption.signalled)
        scores |= numbers
        try:
            save_rows(run.workdir, name, rows)
        except OSError as e:  # the scores are there, and are printed all the same
            unwritable = e
    log.write(exp.total_steps, {k: v for k, v in scores.items() if k.split("/")[0] not in exp.train.watch})
    origin = run.origin and run.origin | {"weights": run.checkpoints.read_meta(selected)["seal"][:SEAL]}
    if jax.process_index() == 0:
        results = {"step": selected, **run.facts(), **({"origin": origin} if origin else {}), "scores": scores}
        print(f"checkpoint {selected}  " + "  ".join(f"{k} {v:.4g}" for k, v in scores.items()), flush=True)
        write_atomically(run.workdir / RESULTS, to_json(results) + "\n")
    if unwritable:
        raise unwritable
    return scores
