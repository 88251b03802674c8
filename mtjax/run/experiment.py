"""From a config to the objects of a run. The sections of a config are exactly SECTIONS; each is a constructor's keywords."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from mtjax import lookup
from mtjax.command.ranges import Count, NotNegative, OneOf, Positive
from mtjax.compute import sharding
from mtjax.compute.optim import Optimizer
from mtjax.compute.step import Program, State, weights_to_host
from mtjax.data.columns import list_columns
from mtjax.data.order import Order
from mtjax.data.pipeline import Data
from mtjax.lookup import ConfigError
from mtjax.run import checkpoint
from mtjax.run.plain_config import refuse_moved
from mtjax.run.saved_config import read_config
from mtjax.types import Evaluator, Task, Teacher

# Of a `data` section: how it reads a dataset. What else all modalities share is about which clips and labels training uses.
READING = ("root", "missing", "on_corrupt", "cache", "workers")
SECTIONS = ("seed", "data", "model", "task", "optimizer", "evals", "train", "mesh")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """The `train` section.

    Attributes:
      batch: examples a step over all devices, padded where it does not divide over them, which changes no result; 0 takes all
        training clips (L-BFGS). accumulate: micro-batches of it; then it has to divide.
      epochs: passes over the training clips, 0.0 scores the first weights as they are; steps: overrides epochs unless 0.
      init: weights to begin with, a folder of `mtjax.convert` (they become the backbone's) or a workdir; "" for random ones.
      init_skip: regexes of what is not taken from there. init_new: regexes of our parameters that are not there, e.g. "^head".
      log_every: steps between progress lines. eval_every: epochs between evaluations of `watch`; 0.0 only at the end.
      watch: names of evals to run while training; the first one's loss drives the plateau schedule.
      select: metric that picks the checkpoint to keep and to test, e.g. "val/top1"; "" tests the last step.
      select_mode: "max" or "min". patience: stop once so many evaluations in a row have not brought `select` forward by
        `min_delta` (in its unit, %) all together; 0 disables.
      save_every: steps between checkpoints; 0 saves at evaluations and at the end only. keep: latest checkpoints kept.
      checkpoints: their folder, in WORKDIR unless absolute, or a gs:// URL that no other run uses (extra `gcs`).
      max_skipped: steps with a non-finite loss or gradient that may be left out before the run stops.
      profile: (first, last) step of a profiler trace in WORKDIR/profile; (0, 0) for none.
      table: where the report puts which result beside the paper's: "table/row/column=metric", e.g.
        "mt.t1/movt/jester_acc=test/top1"; names as in paper_tables.json.
      wandb: Weights & Biases project, "" for none.
    """

    batch: Count
    epochs: NotNegative = 1.0
    steps: Count = 0
    accumulate: Positive = 1
    log_every: Positive = 50
    eval_every: NotNegative = 1.0
    watch: tuple[str, ...] = ()
    select: str = ""
    select_mode: Annotated[str, OneOf("max", "min")] = "max"
    patience: Count = 0
    min_delta: NotNegative = 0.0
    init: str = ""
    init_skip: tuple[str, ...] = ()
    init_new: tuple[str, ...] = ()
    save_every: Count = 0
    keep: Positive = 2
    checkpoints: str = "checkpoints"
    max_skipped: Count = 10
    profile: tuple[Count, Count] = (0, 0)
    table: tuple[str, ...] = ()
    wandb: str = ""

    def __post_init__(self):
        lookup.check_fields(self, "train")
        if self.batch % self.accumulate:
            raise ConfigError(f"config.train.batch={self.batch} must be a multiple of accumulate={self.accumulate}")
        if self.profile[0] >= self.profile[1] > 0:
            raise ConfigError(f"config.train.profile={self.profile}: the first step has to come before the last")
        for entry in self.table:
            if not re.fullmatch(r"[^/=]+/[^/=]+/[^/=]+=.+", entry):
                raise ConfigError(f"config.train.table={entry!r}: needs the form 'table/row/column=metric'")
        if self.select and self.select.split("/")[0] not in self.watch:
            raise ConfigError(f"config.train.select={self.select!r}: its eval must be in train.watch={self.watch}")
        if self.patience and not self.select:
            raise ConfigError(f"config.train.patience={self.patience}: needs a metric to watch in train.select")


class Experiment:
    """A config, built: data, task, evaluators, and the compiled program. Raises before anything is trained."""

    def __init__(self, config: Mapping[str, Any], *, fake: bool = False):
        """`fake`: no dataset (dry run); class count comes from the task section."""
        if unknown := [k for k in config if k not in SECTIONS]:
            raise ConfigError(
                f"config.{unknown[0]}: sections are {SECTIONS}{lookup.did_you_mean(unknown[0], SECTIONS)}"
            )
        if missing := [k for k in SECTIONS if k not in config]:
            raise ConfigError(f"config needs the sections {missing}")
        self.config, self.seed = config, int(config["seed"])
        self.train: Train = _construct(Train, config["train"], "train")
        self.data: Data = lookup.build("modalities", config["data"], where="data")
        if not fake:
            # Not just dataset.json: a generation that was killed, or is still going on next door, has that already.
            if self.data.generate and not set(self.data.column_names) <= set(list_columns(self.data.root)):
                from mtjax.run import preprocessing_door

                preprocessing_door.generate(self.data.generate, self.data.root)
            self.data.check()
        if not self.train.batch:
            everything = jax.device_count() if fake else len(self.data.training_clips())
            self.train = dataclasses.replace(self.train, batch=everything)
        self.task: Task = lookup.build(
            "tasks", self._with_teacher(config["task"]), None if fake else self.data, where="task"
        )
        self.optimizer: Optimizer = _construct(Optimizer, config["optimizer"], "optimizer")
        mesh = dict(config["mesh"])
        rules = mesh.pop("rules", ())
        lookup.check_keywords(sharding.make_mesh, mesh, "mesh")
        self.mesh = sharding.make_mesh(**mesh)
        self.rows = sharding.padded_batch(self.train.batch, self.mesh)  # of a batch on the devices, padding included
        if self.rows != self.train.batch and self.train.accumulate > 1:  # micro-batches would hold unequal shares of it
            shards = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
            raise ConfigError(
                f"config.train.batch={self.train.batch} does not divide over {shards} (data × fsdp) shards of the mesh; with "
                f"accumulate={self.train.accumulate} it has to"
            )
        self.local = sharding.local_positions(self.rows, self.mesh)
        self.evaluators: dict[str, Evaluator] = {}
        if not fake:
            self.score_with(config["evals"])
            if wrong := [w for w in self.train.watch if w not in self.evaluators]:
                raise ConfigError(f"config.train.watch: {wrong} are not in config.evals {list(self.evaluators)}")
        model = config["model"]
        sizes = {k: v for k, v in model.items() if k != "name"}
        lookup.check_keywords(lookup.resolve("models", model["name"]), sizes, "model", fixed=("rngs",))
        self.program = Program(
            model=lambda rngs: lookup.build("models", model, rngs=rngs),
            task=self.task,
            prepare=self.data.prepare,
            optimizer=self.optimizer,
            mesh=self.mesh,
            rules=rules,
            seed=self.seed,
            total_steps=1 if fake else self.total_steps,
            accumulate=self.train.accumulate,
        )

    def _with_teacher(self, section: Mapping[str, Any]) -> Mapping[str, Any]:
        """A task that names a teacher's workdir gets the teacher."""
        if not section.get("teacher"):
            return section
        experiment, state, meta = open_run(section["teacher"])
        predict, names = experiment.task.predict, tuple(meta["class_names"])
        return dict(section) | {"teacher": Teacher(experiment.program.make, weights_to_host(state), predict, names)}

    def score_with(self, evals: Iterable[str], split: str = "") -> None:
        """Builds these evaluators anew, for another split if one is given. Raises what they raise of a split without labels."""
        for name in evals:
            section = self.config["evals"][name] | ({"split": split} if split else {})
            self.evaluators[name] = lookup.build("evaluators", section, self.data, where=f"evals.{name}")

    @functools.cached_property
    def order(self) -> Order:
        return Order(len(self.data.training_clips()), self.train.batch, self.seed)

    @property
    def steps_per_epoch(self) -> float:
        return self.order.num_clips / self.train.batch

    @property
    def total_steps(self) -> int:
        if self.train.steps or not self.train.epochs:
            return self.train.steps
        return max(round(self.train.epochs * self.steps_per_epoch), 1)

    @functools.cached_property
    def fetch(self):
        """For `data.cache="device"`: (table of all training clips, cursor of the step) → batch, inside jit."""
        order, padding = self.order, self.rows - self.train.batch

        def fetch(table_and_cursor):
            table, cursor = table_and_cursor
            positions = jnp.pad(order.positions(cursor, jnp), (0, padding))
            batch = {name: values[positions] for name, values in table.items()}
            return batch | {"valid": batch["valid"] & (jnp.arange(self.rows) < self.train.batch)} if padding else batch

        return fetch

    def announce(self) -> None:
        """One line a process: who it is, what it holds, what the run is."""
        padding = f" and {self.rows - self.train.batch} of padding" if self.rows > self.train.batch else ""
        mesh = "×".join(f"{k} {v}" for k, v in self.mesh.shape.items())
        print(
            f"process {jax.process_index()}/{jax.process_count()}  mesh {mesh} on {jax.device_count()} "
            f"{jax.devices()[0].device_kind}  batch {self.train.batch}{padding}, {len(self.local)} here  "
            f"{self.program.num_params:,} parameters  {self.order.num_clips} clips  {self.total_steps} steps",
            flush=True,
        )

    def check_fit(self) -> None:
        """Traces a prediction without computing it. Raises ValueError where data and model do not fit each other."""
        jax.eval_shape(self.program.predict_step, self.program.shapes, self.data.padding(self.rows))

    def eval_due(self, step: int) -> bool:
        """Whether `watch` is evaluated after this many steps."""
        if not self.train.watch:
            return False
        every = max(round(self.train.eval_every * self.steps_per_epoch), 1) if self.train.eval_every else 0
        return step == self.total_steps or bool(every and step % every == 0)

    def save_due(self, step: int) -> bool:
        return step == self.total_steps or bool(self.train.save_every and step % self.train.save_every == 0)


def _construct(cls: type, section: Mapping[str, Any], where: str) -> Any:
    lookup.check_keywords(cls, section, where)
    return cls(**section)


def checkpoints_of(workdir: Path, section: Train, *, read_only: bool = False) -> checkpoint.Checkpoints:
    """The checkpoints of a run, from the `train` section of its config."""
    where = section.checkpoints if "://" in section.checkpoints else str(workdir.resolve() / section.checkpoints)
    return checkpoint.Checkpoints(where, keep=section.keep, best_mode=section.select_mode, read_only=read_only)


def selected_checkpoint(workdir: Path, step: str = "selected") -> tuple[checkpoint.Checkpoints, int, bool]:
    """The checkpoints of a run, to be closed, and what `Checkpoints.number_of` says of the step.

    Raises:
      ConfigError: there is no run. checkpoint.NoGoodCheckpoint: there is no such step.
    """
    section = _construct(Train, read_config(workdir)["train"], "train")
    checkpoints = checkpoints_of(workdir, section, read_only=True)
    return checkpoints, *checkpoints.number_of(step, best=bool(section.select))


def of_all_clips(section: Mapping[str, Any]) -> dict[str, Any]:
    """A `data` section that shows clips as this one does: every clip that the catalog has in a split, with the catalog's own
    labels, whatever was chosen, held out or labelled for training. Of joined modalities (`data.joined`) the student's."""
    shown = {k: section[k] for k in READING if k in section} | dict(section.get("student", section))
    chosen = {f.name for f in dataclasses.fields(Data)} - set(READING)
    return {k: v for k, v in shown.items() if k not in chosen}


class OpenRun(NamedTuple):
    """A trained run, ready to predict; `meta` is what its checkpoint says of itself (`step`, `class_names` …), and `workdir`."""

    experiment: Experiment
    state: State
    meta: dict[str, Any]


def open_run(
    workdir: str | Path, step: str = "selected", *, data: Mapping | None = None, scored: bool = False, batch: int = 0
) -> OpenRun:
    """Opens a trained workdir.

    Args:
      step: "selected" (the best by `train.select`, else the latest), "latest", or a number.
      data: changes of the run's `data` section, e.g. `root`. None needs no dataset: for raw videos, weights, export.
      scored: take the run's own dataset, with the splits and labels that it made of it; else `data` may lead to any dataset,
        all of which is read, see `of_all_clips`.
      batch: clips at once; 0 for the run's, without a dataset one a device.

    Raises:
      ConfigError: no run, or a dataset that is not here or has other classes. checkpoint.NoGoodCheckpoint. What `Data.check`
        raises.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    checkpoints, number, exact = selected_checkpoint(workdir, step)
    try:
        if scored:
            config["data"] = config["data"] | dict(data or {})
        else:
            config["task"] = config["task"] | lookup.from_workdir(checkpoints.read_meta(number)["task"])
            # Of joined modalities a video shows the student's; what is missing in a dataset does not matter.
            config["data"] = of_all_clips(config["data"]) | ({"cache": "none"} if data is None else dict(data))
        if data is not None or scored:
            refuse_moved(workdir, config["data"])
        else:
            batch = batch or jax.device_count()
        if batch:
            config["train"] = config["train"] | {"batch": batch, "accumulate": 1}
        experiment = Experiment(config, fake=not scored)
        if data is not None and not scored:
            experiment.data.check()
        template = checkpoint.template_of(experiment.program.shapes, experiment.program.shardings)
        found = checkpoints.restore(number, template) if exact else checkpoints.restore_latest(template)
    finally:
        checkpoints.close()
    meta, names = found[1], list(experiment.data.class_names) if scored else []
    if scored and list(meta["class_names"]) != names:
        raise ConfigError(f"{workdir} was trained on classes {meta['class_names'][:5]}, the dataset has {names[:5]}")
    return OpenRun(experiment, found[0], meta | {"workdir": str(workdir)})
