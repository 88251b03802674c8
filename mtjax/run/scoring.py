"""What is scored during and after training, and which checkpoint the final scores belong to."""

import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtjax.compute.distributed import Preemption
from mtjax.compute.step import State
from mtjax.data.files import write_atomically
from mtjax.data.origin import SEAL
from mtjax.lookup import ConfigError
from mtjax.run.evaluation import run_eval, save_rows
from mtjax.run.experiment import Experiment, Train
from mtjax.run.metrics_log import MetricsLog
from mtjax.run.workdir import Run


def watch(
    exp: Experiment, log: MetricsLog, state: State, step: int, preemption: Preemption
) -> tuple[State, float | None]:
    """Runs the watched evals; moves the plateau schedule. Returns the state and the selection metric.

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
    return state, scores.get(exp.train.select)


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
    run.checkpoints.wait()
    chosen = run.best() if exp.train.select else None
    if chosen:
        state = run.checkpoints.restore(chosen[0], run.template)[0]
    selected = chosen[0] if chosen else int(state["step"])
    scores: dict[str, float] = {}
    for name in exp.evaluators:
        numbers, rows = run_eval(exp, state, name, preemption.signalled)
        scores |= numbers
        save_rows(run.workdir, name, rows)
    log.write(exp.total_steps, {k: v for k, v in scores.items() if k.split("/")[0] not in exp.train.watch})
    origin = run.origin and run.origin | {"weights": run.checkpoints.read_meta(selected)["seal"][:SEAL]}
    if jax.process_index() == 0:
        results = {"step": selected, **run.facts(), **({"origin": origin} if origin else {}), "scores": scores}
        write_atomically(run.workdir / "results.json", json.dumps(results, indent=1) + "\n")
        print(f"checkpoint {selected}  " + "  ".join(f"{k} {v:.4g}" for k, v in scores.items()), flush=True)
    return scores
