"""Trains, resumes, evaluates.

    mtjax train --config=configs/movt_mannequin.py --workdir=runs/movt [--config.optimizer.lr=3e-4]

Running the same command again resumes. `python -m mtjax.train` is the same.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from mtjax import lookup
from mtjax.command import shell
from mtjax.command.errors import PREEMPTED, MtjaxError
from mtjax.compute import distributed, host_memory, sharding
from mtjax.compute.step import State, scalars_to_host
from mtjax.data.batches import training_batches
from mtjax.lookup import ConfigError
from mtjax.run import flags, scoring
from mtjax.run.dry_run import dry_run
from mtjax.run.evaluation import Interrupted
from mtjax.run.experiment import Experiment
from mtjax.run.metrics_log import MetricsLog, Progress
from mtjax.run.workdir import Run, refuse_overlap


class Preempted(MtjaxError):
    """The state is saved; the process shall leave with status 143, which schedulers requeue."""

    status = PREEMPTED


def feed(exp: Experiment, start: int) -> Iterator[tuple[Any, Any]]:
    """What `train_step` takes for each step from `start` on: (batch, fetch)."""
    if exp.data.cache == "device":
        clips = exp.data.read(exp.data.training_clips(), train=True)
        table = sharding.replicate(clips, exp.mesh)
        for step in range(start, exp.total_steps):
            yield (table, exp.order.cursor(step)), exp.fetch
    else:
        for batch in training_batches(exp.data, exp.order, exp.local, start, exp.total_steps):
            yield sharding.to_global(batch, exp.local, exp.rows, exp.mesh), None


def train(exp: Experiment, run: Run, preemption: distributed.Preemption) -> dict[str, float]:
    """The loop: evaluate what is due, save, stop or take the next step. Returns the final scores.

    Raises:
      Preempted: after a signal, with everything saved.
      FloatingPointError: too many steps with a non-finite loss or gradient.
    """
    state, step, evaluated = run.start()
    log = MetricsLog(run.workdir, resume_step=step, wandb_project=exp.train.wandb)
    run.checkpoints.closing.callback(log.close)
    progress = Progress(exp.total_steps, exp.train.batch, exp.steps_per_epoch)
    batches = feed(exp, step)
    skipped = int(state["skipped"]["count"])
    while True:
        if exp.eval_due(step) and not evaluated:
            try:
                state, metric = scoring.watch(exp, log, state, step, preemption)
            except Interrupted:  # saved as not yet evaluated: the resumed run evaluates first
                leave(run, state, step, evaluated=False)
            evaluated = True
            improved = metric is not None and scoring.improves(exp.train, run.history, metric)
            run.history += [] if metric is None else [metric]
            if improved or exp.save_due(step):
                run.save(step, state, evaluated=True, metric=metric)
            progress.restart(step)
        elif exp.save_due(step) and (step or not exp.total_steps):
            run.save(step, state, evaluated=evaluated)
        if preemption.requested(step):
            leave(run, state, step, evaluated)
        if step == exp.total_steps:
            break
        if scoring.stalled(exp.train, run.history):
            run.save(step, state, evaluated=True)
            break
        trace(exp, run, step)
        waiting = time.monotonic()
        batch, fetch = next(batches)
        progress.waited(time.monotonic() - waiting)
        state, metrics = exp.program.train_step(state, batch, fetch=fetch)
        step, evaluated = step + 1, not exp.eval_due(step + 1)
        if step % exp.train.log_every == 0 or step == exp.total_steps:
            numbers = scalars_to_host(metrics)
            if numbers["skipped"] > skipped:
                skipped = int(numbers["skipped"])
                report_skipped(exp, run, int(state["skipped"]["step"]), numbers)
            speed = progress.line(step, {k: numbers[k] for k in ("loss", "top1", "lr") if k in numbers})
            log.write(
                step, {f"train/{k}": v for k, v in (numbers | speed).items()} | {"batch_crc": run.batch_crc(step - 1)}
            )
    try:
        return scoring.final(exp, run, log, state, preemption)
    except Interrupted:
        raise Preempted from None  # the last step is saved; the resumed run comes straight back here


def leave(run: Run, state: State, step: int, evaluated: bool) -> None:
    run.save(step, state, evaluated=evaluated, wait=True)
    raise Preempted


def report_skipped(exp: Experiment, run: Run, step: int, numbers: dict[str, float]) -> None:
    """Names the clips of the last step that was left out; stops the run when there were too many."""
    path = run.dump_skipped(step, numbers)
    message = f"{numbers['skipped']:.0f} step(s) with a non-finite loss or gradient were not applied; the last, step {step}: {path}"
    if numbers["skipped"] > exp.train.max_skipped:
        raise FloatingPointError(f"{message} (config.train.max_skipped={exp.train.max_skipped})")
    logging.warning("%s", message)


def trace(exp: Experiment, run: Run, step: int) -> None:
    first, last = exp.train.profile
    if last and step == first:
        jax.profiler.start_trace(str(run.workdir / "profile"))
    elif last and step == last:
        with contextlib.suppress(RuntimeError):  # none was started: the run was resumed between the two
            jax.profiler.stop_trace()


@shell.command("train", again="the same command resumes")
def main(argv: Sequence[str] | None = None) -> int:
    argv, given = sys.argv[1:] if argv is None else argv, flags.define()
    host_memory.keep_freed()
    if {"-h", "--help"} & set(argv):
        print(flags.usage(given, __doc__))
        return 0
    config, rest = flags.parse(argv, given)
    if rest:
        raise ConfigError(f"unexpected arguments {rest}; settings are written --config.a.b=value")
    lookup.allow_code(given.allow_code)
    if given.distributed:
        distributed.initialize()
    if given.dry_run:
        return dry_run(config)
    if not given.workdir:
        raise ConfigError("needs --workdir=FOLDER, where checkpoints, metrics and scores of this run shall lie")
    if "://" in given.workdir:
        raise ConfigError(f"--workdir={given.workdir}: needs a folder; only --config.train.checkpoints may be a bucket")
    exp = Experiment(config)
    exp.check_fit()
    exp.announce()
    refuse_overlap(exp, given.allow_overlap)
    may_change = {"config_may_change": given.allow_config_change, "data_may_change": given.allow_data_change}
    run = Run(exp, Path(given.workdir), **may_change)
    try:
        train(exp, run, distributed.Preemption())
    finally:
        run.checkpoints.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
