"""What makes running the same command twice one run: config and data are compared, the last good state comes back."""

import contextlib
import importlib.metadata
import json
import os
import subprocess
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from mtjax.compute.step import State
from mtjax.data import columns
from mtjax.data.files import write_atomically
from mtjax.data.selection import overlap
from mtjax.lookup import ConfigError
from mtjax.run import (
    checkpoint,
    complexity,
    initial_weights,
    plain_config,
    provenance,
    saved_config,
    workdir_lock,
)
from mtjax.run.experiment import Experiment, checkpoints_of
from mtjax.run.metrics_log import METRICS, read_metrics
from mtjax.run.results import RESULTS

LAST_SAVED = "last_checkpoint.json"  # in the workdir: {"step": the last one whose checkpoint was on disk}


class Run:
    """The workdir of one experiment: its config, its checkpoints, what belongs to them. Closing these lets go of it."""

    def __init__(self, exp: Experiment, workdir: Path, *, config_may_change: bool, data_may_change: bool):
        """Raises ConfigError when another run has the workdir open, or when it holds a run of another config and
        `config_may_change` is False."""
        self.exp, self.workdir = exp, workdir
        self.history: list[float] = []  # `train.select` at each evaluation so far
        self.origin: dict[str, Any] = {}  # see `provenance`; known once the run has started
        self._data_may_change = data_may_change
        self._ids = [exp.data.catalog.clips[row].id for row in exp.data.training_clips()]
        self._packed_ids = checkpoint.pack_ids(sorted(set(self._ids)))
        self._saving: int | None = None
        with contextlib.ExitStack() as held:
            held.enter_context(workdir_lock.owned(workdir))
            self.checkpoints = checkpoints_of(workdir, exp.train)
            self.checkpoints.closing = held.pop_all()
        try:
            if not config_may_change:
                self._refuse_another_config()
        except BaseException:
            self.checkpoints.close()
            raise

    def _refuse_another_config(self) -> None:
        begun = (self.workdir / METRICS).is_file() or self.checkpoints.steps()  # else it failed before its first line
        if not begun or not ((self.workdir / saved_config.CONFIG).is_file() or self.checkpoints.config()):
            return
        before = saved_config.read_config(self.workdir, self.checkpoints)
        if changed := plain_config.refused_on_resume(before, self.exp.config):
            shown = "; ".join(f"{k}: was {a!r}, now {b!r}" for k, (a, b) in changed.items())
            raise ConfigError(
                f"{self.workdir} holds a run of another config ({shown}); use a new --workdir or --allow_config_change"
            )

    @property
    def template(self) -> Any:
        return checkpoint.template_of(self.exp.program.shapes, self.exp.program.shardings)

    def identity(self) -> dict[str, Any]:
        """What has to be equal for a resumed run to see the same data in the same order."""
        order = self.exp.order
        return {
            "seed": order.seed,
            "global_batch": order.global_batch,
            "num_clips": order.num_clips,
            "fingerprint": self.exp.data.fingerprint,
            "class_names": list(self.exp.data.class_names),
            "ids": zlib.crc32("\n".join(self._ids).encode()),
        }

    def start(self) -> tuple[State, int, bool]:
        """(state, step, whether that step's evaluation is done): the newest good checkpoint, or a fresh state.

        Raises:
          ConfigError: the dataset is not the one that the checkpoint was trained on.
          checkpoint.NoGoodCheckpoint: there are checkpoints and all are damaged, or there were some. checkpoint.Misfit: they
            are of another model.
        """
        self._same_everywhere()
        found = self.checkpoints.restore_latest(self.template)
        started = self._first() if found is None else self._resumed(*found)
        if jax.process_index() == 0:  # not before: a run that is refused leaves the workdir as it was
            here = {
                "root": os.path.abspath(self.exp.config["data"]["root"])
            }  # who opens it may stand in another folder
            config = dict(self.exp.config) | {"data": dict(self.exp.config["data"]) | here}
            saved_config.write_config(self.workdir, config)
        return started

    def _first(self) -> tuple[State, int, bool]:
        finished = self.workdir / RESULTS
        if (known := self.workdir / LAST_SAVED).is_file() or finished.is_file():
            raise checkpoint.NoGoodCheckpoint(
                f"{self.workdir}: {(known if known.is_file() else finished).name} says that a checkpoint was saved, but "
                f"{self.checkpoints.directory} has none; put it back, or start again in an empty --workdir"
            )
        if jax.process_index() == 0 and (lines := read_metrics(self.workdir / METRICS)):
            logging.warning(
                "%s had come to step %d without a checkpoint; it begins anew", self.workdir, lines[-1]["step"]
            )
        self.origin = provenance.of_experiment(self.exp)
        if jax.process_index() == 0:
            begun = {"origin": self.origin, "fingerprint": self.exp.data.fingerprint}
            write_atomically(self.workdir / "origin.json", json.dumps(begun, indent=1) + "\n")
        first = self.exp.program.init(initial_weights.initial_weights(self.exp))
        return first, 0, self.exp.total_steps > 0  # without training the first weights are what is watched

    def _resumed(self, state: State, meta: dict[str, Any]) -> tuple[State, int, bool]:
        self.origin = meta.get("origin", {})
        changed = {k: (meta.get(k), v) for k, v in self.identity().items() if meta.get(k) != v}
        if changed and not self._data_may_change:
            shown = "; ".join(f"{k}: was {str(a)[:120]}, now {str(b)[:120]}" for k, (a, b) in changed.items())
            raise ConfigError(
                f"{self.workdir}: the data changed since step {meta['step']} ({shown}); --allow_data_change goes on"
            )
        if jax.process_index() == 0:
            print(f"resuming {self.workdir} at step {meta['step']} of {self.exp.total_steps}", flush=True)
        step = meta["step"]
        self.history = list(meta.get("history", []))
        if meta["global_batch"] != self.exp.train.batch:  # go on at the same number of examples seen
            step = round(step * meta["global_batch"] / self.exp.train.batch)
            state = state | {"step": jax.device_put(jnp.int32(step), self.exp.program.shardings["step"])}
        return state, step, meta["evaluated"]

    def _same_everywhere(self) -> None:
        """Raises ConfigError when the processes of one run see different data: each would train on its own idea of a batch."""
        if jax.process_count() == 1:
            return
        identity = self.identity()
        mine = np.array([zlib.crc32(json.dumps(v, sort_keys=True).encode()) for v in identity.values()], np.uint32)
        everyones = multihost_utils.process_allgather(mine)
        differing = [name for name, column in zip(identity, everyones.T, strict=True) if len(set(column.tolist())) > 1]
        if differing:
            raise ConfigError(
                f"the processes of this run disagree about {differing}; {self.exp.data.root} has to hold the same dataset, "
                f"and --config has to be the same, on every host (mtjax data info prints the fingerprint)"
            )

    def save(
        self, step: int, state: State, *, evaluated: bool, metric: float | None = None, wait: bool = False
    ) -> None:
        """Starts a checkpoint with all that a resumed run has to know; see `Checkpoints.save`."""
        made_of = {name: _facts(spec) for name, spec in self._made_of().items()}
        meta = (
            self.identity()
            | {
                "train_ids": self._packed_ids,
                "evaluated": evaluated,
                "history": list(self.history),  # a copy: the save goes on while the next evaluation is added
                "task": self.exp.task.outputs,
                "config": self.exp.config,
                "columns": made_of,
            }
            | ({"origin": self.origin} if self.origin else {})
        )
        self.wait()
        self.checkpoints.save(step, state, meta, metric=metric, wait=wait)
        self._saving = step
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until the save under way is on disk, and the workdir says so; raises what went wrong with it."""
        self.checkpoints.wait()
        if self._saving is not None and jax.process_index() == 0:
            write_atomically(self.workdir / LAST_SAVED, json.dumps({"step": self._saving}) + "\n")
        self._saving = None

    def _made_of(self) -> dict[str, columns.Spec]:
        """The columns that are read, and those whose images they were extracted from: what predicting a raw video imitates."""
        data = self.exp.data
        specs = {c.spec.name: c.spec for c in data.columns}
        images = {s.parameters["images"].partition(" ")[0] for s in specs.values() if "images" in s.parameters}
        there = sorted(images & set(columns.list_columns(data.root)) - set(specs))
        return specs | {name: columns.Spec.load(columns.column_dir(data.root, name)) for name in there}

    def best(self) -> tuple[int, float] | None:
        """(step, metric) of the best checkpoint so far."""
        step = self.checkpoints.best_step()
        return None if step is None else (step, self.checkpoints.read_meta(step)["metric"])

    def facts(self) -> dict[str, Any]:
        """What a result is worth nothing without: size, cost, data, code, versions."""
        exp = self.exp
        return {
            "seed": exp.seed,
            "params": exp.program.num_params,
            "gmacs": complexity.forward_gmacs(exp.program, exp.data.padding(exp.rows), exp.rows),
            "class_names": list(exp.data.class_names),
            "clips": {name: len(exp.data.rows(e.split)) for name, e in exp.evaluators.items()}
            | {"train": len(exp.data.rows("train"))},
            # Of the training clips; their pseudo labels where those are what is learnt.
            "labelled": int((exp.data.training_labels[exp.data.rows("train")] >= 0).sum()),
            "fingerprint": exp.data.fingerprint,
            "dataset": {"name": exp.data.catalog.name, "kind": exp.data.catalog.info.get("kind", "")},
            "git": _git_commit(),
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "grain", "mtjax")},
            "device": jax.devices()[0].device_kind,
        }

    def clip_ids(self, step: int) -> list[str]:
        """The clips that the update from `step` to `step + 1` saw, in order."""
        return [self._ids[i] for i in self.exp.order(step)]

    def batch_crc(self, step: int) -> int:
        """A hash of those ids for the log: equal runs show equal numbers."""
        return zlib.crc32("\n".join(self.clip_ids(step)).encode())

    def dump_skipped(self, step: int, metrics: dict[str, float]) -> Path:
        """Writes down which clips met a non-finite loss or gradient."""
        path = self.workdir / f"skipped-{step}.json"
        if jax.process_index() == 0:
            write_atomically(
                path, json.dumps({"step": step, "clips": self.clip_ids(step), "metrics": metrics}, indent=1)
            )
        return path


def _facts(spec: columns.Spec) -> dict[str, Any]:
    return {k: v for k, v in spec.to_json().items() if k in ("producer", "parameters", "weights", "origin")}


def _git_commit() -> str:
    """Of the checkout that this package lies in, "" outside one."""
    here = Path(__file__).parent
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
    except OSError:
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def refuse_overlap(exp: Experiment, allow: bool) -> None:
    """Raises ConfigError when an eval's clips are trained on; before the first step, not after the last."""
    for name, evaluator in exp.evaluators.items():
        trained_on = exp.data.rows("train")
        if exp.data.only_selects(evaluator.split):
            trained_on = trained_on[exp.data.training_labels[trained_on] >= 0]
        shared = overlap(exp.data.catalog, trained_on, exp.data.rows(evaluator.split))
        if not shared:
            continue
        message = f"config.evals.{name}: {len(shared)} clips of split {evaluator.split!r} are also trained on, or share a group"
        if not allow:
            raise ConfigError(f"{message}: {shared[:5]} …; --allow_overlap goes on all the same")
        logging.warning("%s", message)
