"""The steps about networks: training one, and what is asked of it. Whether their results are current, their files say."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtjax.chain import freshness
from mtjax.chain.freshness import CHECK, DONE, STALE, TO_DO, State
from mtjax.chain.steps import Configs, Last, Step
from mtjax.data import columns
from mtjax.data.origin import columns_named
from mtjax.data.selection import class_list
from mtjax.run import flags, plain_config, saved_config


@dataclasses.dataclass(frozen=True)
class Train(Step):
    """`mtjax.train`.

    Attributes:
      config: FILE or FILE:ARGUMENT. settings: dotted path in the config → value.
      weights_as_they_are: nothing is trained, so that flags for training leave it alone.
      flags: --config.… flags after the settings.
    """

    workdir: str
    config: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights_as_they_are: bool = False
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"train {self.workdir}"

    @property
    def overrides(self) -> tuple[str, ...]:
        return (*(f"--config.{path}={value}" for path, value in self.settings.items()), *self.flags)

    @property
    def argv(self) -> tuple[str, ...]:
        return ("-m", "mtjax.train", f"--config={self.config}", f"--workdir={self.workdir}", *self.overrides)

    @property
    def makes(self) -> tuple[Path, ...]:
        return (Path(self.workdir),)

    @property
    def alike(self) -> tuple:
        return ("Train", self.config, self.flags)

    @functools.cached_property
    def values(self) -> dict[str, Any]:
        """The config that the command trains. Raises ConfigError when it cannot be loaded."""
        return flags.load(self.config, self.overrides)

    @property
    def sources(self) -> dict[str, str]:
        """Where weights come from: "train.init" and "task.teacher" → folder."""
        named = {"train.init": self.values["train"].get("init"), "task.teacher": self.values["task"].get("teacher")}
        return {field: source for field, source in named.items() if source}

    def needs(self, configs: Configs) -> tuple[Path, ...]:
        root = self.values["data"]["root"]
        read = (columns.column_dir(root, name) for name in columns_named(self.values["data"]))
        return (Path(root) / "dataset.json", *read, *map(Path, self.sources.values()))

    def state(self, last: Last) -> State:
        """By the config of the workdir, and what origin.json or results.json say of the inputs."""
        workdir = Path(self.workdir)
        if not (begun := freshness.begun_of(workdir)):
            return State(TO_DO)
        there = saved_config.read_config(workdir)
        now = plain_config.from_json(json.dumps(self.values))
        if changed := plain_config.refused_on_resume(there, now):
            path, (before, after) = next(iter(changed.items()))
            return State(STALE, f"config.{path} was {before!r}, now {after!r}")
        read = {k: v for k, v in begun.get("fingerprint", {}).items() if k != "catalog"}
        changed = freshness.changed_columns(Path(self.values["data"]["root"]), read)
        changed = changed or freshness.changed_weights(begun.get("origin", {}).get("content", {}), self.sources)
        if changed:
            return State(STALE, changed)
        return State(DONE) if freshness.results_of(workdir) else State(TO_DO, "begun")


@dataclasses.dataclass(frozen=True)
class Predict(Step):
    """`mtjax.predict` of a column.

    Attributes:
      splits: of the dataset, () for all. fields: outputs to write. copies, dense: see the command.
      flags: that do not change what is written, e.g. --batch=64.
    """

    workdir: str
    root: str
    column: str
    splits: tuple[str, ...] = ()
    fields: tuple[str, ...] = ("probs", "embedding")
    copies: int = 0
    dense: int = 0
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"column {self.column} of {self.root}"

    @property
    def argv(self) -> tuple[str, ...]:
        """Without --fields for features of each clip, which have their own."""
        given = {"splits": ",".join(self.splits), "copies": self.copies, "dense": self.dense}
        given |= {} if self.dense else {"fields": ",".join(self.fields)}
        chosen = (f"--{name}={value}" for name, value in given.items() if value)
        return (
            "-m",
            "mtjax.predict",
            self.workdir,
            f"--root={self.root}",
            f"--column={self.column}",
            *chosen,
            *self.flags,
        )

    @property
    def makes(self) -> tuple[Path, ...]:
        return (columns.column_dir(self.root, self.column),)

    @property
    def alike(self) -> tuple:
        return ("Predict", self.root, self.splits, self.copies, self.dense)

    def needs(self, configs: Configs) -> tuple[Path, ...]:
        return _needs_of_run(self.workdir, self.root, configs)

    def state(self, last: Last) -> State:
        if (spec := freshness.spec_of(Path(self.root), self.column, "mtjax.predict")) is None:
            return State(TO_DO)
        asked = {
            "copies": self.copies,
            "dense": self.dense,
            "splits": list(self.splits) or spec.parameters.get("splits"),
        }
        if changed := freshness.first_difference(asked, spec.parameters):
            return State(STALE, changed)
        return _of_prediction(spec, self.workdir, self.root)


@dataclasses.dataclass(frozen=True)
class Cluster(Step):
    """`mtjax.cluster`: a column of features → a column of pseudo labels. Attributes as the command's flags; `leave_out` is a
    file."""

    root: str
    column: str
    features: str
    k: int
    splits: tuple[str, ...] = ("train",)
    granularity: str = "clip"
    leave_out: str = ""
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"column {self.column} of {self.root}"

    @property
    def argv(self) -> tuple[str, ...]:
        given = {"features": self.features, "column": self.column, "k": self.k, "splits": ",".join(self.splits)}
        given |= {"granularity": self.granularity} | ({"leave_out": self.leave_out} if self.leave_out else {})
        return ("-m", "mtjax.cluster", self.root, *(f"--{name}={value}" for name, value in given.items()), *self.flags)

    @property
    def makes(self) -> tuple[Path, ...]:
        return (columns.column_dir(self.root, self.column),)

    @property
    def alike(self) -> tuple:
        return ("Cluster", self.root, self.k)

    def needs(self, configs: Configs) -> tuple[Path, ...]:
        return (columns.column_dir(self.root, self.features),)

    def state(self, last: Last) -> State:
        """By what the column says of its features and of how they were clustered."""
        if (spec := freshness.spec_of(Path(self.root), self.column, "mtjax.cluster")) is None:
            return State(TO_DO)
        asked = {"features": self.features, "k": self.k, "splits": list(self.splits), "granularity": self.granularity}
        without = list(class_list(self.leave_out)) if self.leave_out else 0
        changed = freshness.first_difference(
            asked | {"leave_out": without}, spec.parameters
        ) or freshness.changed_columns(Path(self.root), {self.features: spec.parameters["features_fingerprint"]})
        if changed:
            return State(STALE, changed)
        # The last file that the command writes.
        return State(DONE) if (self.makes[0] / "clusters.json").is_file() else State(TO_DO, "begun")


@dataclasses.dataclass(frozen=True)
class Retrieve(Step):
    """`mtjax.retrieve`. Attributes as the command's flags; `root` "" for the run's own dataset is not meant here."""

    workdir: str
    root: str
    queries: str = "test"
    gallery: str = "train"
    scores: str = "retrieval"
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.scores} {self.workdir}"

    @property
    def argv(self) -> tuple[str, ...]:
        given = {"root": self.root, "column": self.column, "queries": self.queries, "gallery": self.gallery}
        given["name"] = self.scores
        return (
            "-m",
            "mtjax.retrieve",
            self.workdir,
            *(f"--{name}={value}" for name, value in given.items()),
            *self.flags,
        )

    @property
    def column(self) -> str:
        """Of descriptors."""
        return f"{self.scores}.{Path(self.workdir).name}"

    @property
    def makes(self) -> tuple[Path, ...]:
        return Path(self.workdir) / f"{self.scores}.npz", columns.column_dir(self.root, self.column)

    @property
    def alike(self) -> tuple:
        return ("Retrieve", self.root, self.queries, self.gallery)

    def needs(self, configs: Configs) -> tuple[Path, ...]:
        return _needs_of_run(self.workdir, self.root, configs)

    def state(self, last: Last) -> State:
        if (spec := freshness.spec_of(Path(self.root), self.column, "mtjax.predict")) is None:
            return State(TO_DO)
        described = _of_prediction(spec, self.workdir, self.root)
        facts = freshness.results_of(Path(self.workdir)).get("retrieval", {}).get(self.scores)
        if described.name != DONE or not facts or not self.makes[0].is_file():
            return State(TO_DO, "begun") if described.name in (DONE, CHECK) else described
        changed = freshness.first_difference({"queries": self.queries, "gallery": self.gallery}, facts)
        return State(STALE, changed) if changed else State(DONE)


def _needs_of_run(workdir: str, root: str, configs: Configs) -> tuple[Path, ...]:
    """Of a run that looks at `root`: its workdir, and the columns that it reads there."""
    config = configs.get(os.path.abspath(workdir), {"data": {}})["data"]
    seen = {k: v for k, v in config.get("student", config).items() if k not in ("teacher", "pseudo")}
    return (
        Path(workdir),
        Path(root) / "dataset.json",
        *(columns.column_dir(root, name) for name in columns_named(seen)),
    )


def _of_prediction(spec: columns.Spec, workdir: str, root: str) -> State:
    """Of a predicted column: whether it is of the run's weights as they are now, and of the columns that it was made from."""
    weights = freshness.weights_of(Path(workdir))
    if weights and weights != spec.weights:
        return State(STALE, f"{workdir} has other weights now")
    if changed := freshness.changed_columns(Path(root), spec.origin.get("read", {})):
        return State(STALE, changed)
    if not freshness.is_finished(Path(root), spec.name):
        return State(TO_DO, "begun")
    return State(DONE) if weights else State(CHECK, f"{workdir} does not say which weights it has selected")
