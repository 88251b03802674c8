"""What a run is made from: hashes that runs of several seeds and official splits share, and the identity of each input.

A run's origin (in origin.json when it begins, in each checkpoint and in results.json) is that of `mtjax.data.origin`, and beside it

- `inputs`: column, `train.init` or `task.teacher` → the `config` hash of what made it;
- `content`: `train.init` or `task.teacher` → a hash of those very weights (of columns, `fingerprint` in results.json says it);
- `weights`: of the selected checkpoint, in results.json alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtjax import convert
from mtjax.data.origin import COLUMNS, HASHES, SEAL, config_hash, derived, digest_of, unnumbered
from mtjax.data.pipeline import Data
from mtjax.run.experiment import Experiment, selected_checkpoint
from mtjax.run.plain_config import FREE_ON_RESUME
from mtjax.run.saved_config import read_config

LABELS = ("fraction", "k_shot", "shots")  # in the data section: how many labels are used
LENGTH = ("steps", "epochs")  # in the train section: fewer clips may need more passes
WITHOUT_EFFECT = {*FREE_ON_RESUME, "data.subset_seed", "train.checkpoints"} - {"data.root"}


def without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What runs of several seeds and official splits share of a config: not where files lie or what is logged, and splits
    without their number."""

    def kept(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            k: kept(v, f"{prefix}{k}.") if isinstance(v, Mapping) else v
            for k, v in values.items()
            if f"{prefix}{k}" not in WITHOUT_EFFECT
        }

    shared = kept({k: v for k, v in config.items() if k != "seed"}, "")
    data = shared["data"]
    data |= {k: unnumbered(data[k]) for k in ("train", "val") if k in data}
    data |= {"unlabelled": [unnumbered(split) for split in data["unlabelled"]]} if "unlabelled" in data else {}
    for evaluation in shared.get("evals", {}).values():
        evaluation["split"] = unnumbered(evaluation["split"])
    return shared


def without_labels(shared: Mapping[str, Any]) -> dict[str, Any]:
    """What runs share, of which each uses as many labels and as many steps as it likes. `shared`: of `without_seed`."""
    data = {k: v for k, v in shared["data"].items() if k not in LABELS}
    train = {k: v for k, v in shared["train"].items() if k not in LENGTH}
    return dict(shared) | {"data": data, "train": train}


def of_experiment(experiment: Experiment) -> dict[str, Any]:
    """The origin of a run that begins now.

    Raises:
      ConfigError, NoGoodCheckpoint: the weights to begin with or the teacher are not there.
    """
    config, data = experiment.config, experiment.data
    inputs = {c.spec.name: c.spec.origin for c in data.columns if c.spec.origin}
    if data.teacher_column is not None and data.teacher_column.spec.origin:
        inputs[data.teacher] = data.teacher_column.spec.origin
    weights = {}
    for section, field in (("train", "init"), ("task", "teacher")):
        if source := config[section].get(field):
            weights[f"{section}.{field}"] = of_weights(Path(source))
    shared = without_seed(config)
    shared["data"]["root"] = data.catalog.fingerprint
    hashes = {}
    for name in HASHES:
        settings = without_labels(shared) if name == "recipe" else shared
        hashes[name] = config_hash(_with_hashes(settings, name, inputs, weights))
    made = {source: origin["config"] for source, origin in (inputs | weights).items()}
    content = {source: origin["weights"] for source, origin in weights.items()}
    return hashes | {"seed": experiment.seed, "inputs": made, "content": content}


def of_prediction(meta: Mapping[str, Any], data: Data, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The origin of a column that a run predicts, of the checkpoint with this `meta`; and what of `data` is read, column →
    fingerprint, as `read`. {} for a run that did not note its own.

    Args:
      meta: as it was loaded. settings: what else decides about the values, among it `splits`.
    """
    made = dict(settings) | {"splits": sorted({unnumbered(split) for split in settings["splits"]})}
    origin = derived(meta.get("origin", {}), made, seed=meta["seed"], workdir=meta.get("workdir", ""))
    return origin and origin | {"read": {c.spec.name: c.fingerprint for c in data.columns}}


def of_weights(source: Path) -> dict[str, Any]:
    """`HASHES` and `weights`, of a workdir's selected checkpoint or of a folder that `mtjax.convert` wrote."""
    if (source / convert.WEIGHTS).is_file():
        return dict.fromkeys((*HASHES, "weights"), digest_of(source / convert.WEIGHTS))
    checkpoints, step, _ = selected_checkpoint(source)
    meta = checkpoints.read_meta(step)
    checkpoints.close()
    shared = without_seed(read_config(source))
    before = {
        "config": config_hash(shared),
        "recipe": config_hash(without_labels(shared)),
    }  # of a run without an origin
    return before | meta.get("origin", {}) | {"weights": meta["seal"][:SEAL]}


def _with_hashes(
    shared: Mapping[str, Any], name: str, columns: Mapping[str, Any], weights: Mapping[str, Any]
) -> dict[str, Any]:
    """A config with the hash of every input in place of its name."""

    def named(section: Mapping[str, Any]) -> dict[str, Any]:
        known = {k: columns[v][name] for k, v in section.items() if k in COLUMNS and v in columns}
        return dict(section) | {k: named(v) for k, v in section.items() if isinstance(v, Mapping)} | known

    out = dict(shared) | {"data": named(shared["data"])}
    for path, origin in weights.items():
        section, field = path.split(".")
        out[section] = dict(out[section]) | {field: origin[name]}
    # The same lists and vocabularies may lie anywhere.
    for section, field in (("data", "shots"), ("task", "tokenizer")):
        if out[section].get(field):
            out[section] = dict(out[section]) | {field: Path(out[section][field]).name}
    return out
