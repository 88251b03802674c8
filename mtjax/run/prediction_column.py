"""Predictions of a trained run over a dataset, written as a column."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from mtjax import records
from mtjax.compute import distributed
from mtjax.compute.step import Asked, State
from mtjax.data import column_writer, columns
from mtjax.data.catalog import Catalog
from mtjax.data.origin import SEAL, config_hash
from mtjax.lookup import ConfigError
from mtjax.run import provenance
from mtjax.run.evaluation import predict_rows
from mtjax.run.experiment import Experiment

# At most. A shard is held in memory while it is predicted, and a killed run predicts it again.
RECORDS_PER_SHARD, SHARD_BYTES = 20_000, 64 << 20


Outputs = Mapping[str, jax.ShapeDtypeStruct]


def write_column(
    experiment: Experiment,
    state: State,
    meta: dict[str, Any],
    name: str,
    splits: Sequence[str],
    fields: Sequence[str],
    *,
    copies: int = 0,
    each_clip: bool = False,
    ask: Asked | None = None,
) -> columns.Index | None:
    """Predicts every clip of some splits (all clips for ()) and writes a column, shard by shard; a killed run goes on.

    Args:
      splits: of the catalog: "train" is all of it, not the few clips whose labels the run has seen; or the "val" that the run
        has held out of it.
      copies: augmented views beside the one that evaluation sees, which comes first: fields are [1 + copies, …] then.
      each_clip: of data with several clips a video, write each one's `embedding` [n d] and the time of its middle, `centre_s`
        [n], instead of `fields`.
      ask: what is predicted, in place of the task's outputs (`Program.predict`).

    A clip that shows nothing (`observed` False) gets no record and is listed in failures.jsonl: a teacher has nothing to
    say about it.
    """
    data = experiment.data
    wanted = splits or list(data.catalog.splits)
    clips = _clips_of(experiment, wanted, copies)
    row_of = {data.catalog.clips[row].id: row for row in clips}
    outputs = _outputs(experiment, ask)
    schema = _clips_schema(outputs) if each_clip else _output_schema(outputs, fields, copies)
    settings = {"splits": list(wanted), "copies": copies} | ({"ask": ask.__name__} if ask else {})
    settings |= {"dense": data.dense} if each_clip and data.dense else {"views": data.views} if each_clip else {}
    spec = columns.Spec(
        name=name,
        schema=schema,
        num_shards=_num_shards(len(clips), copies, schema, outputs),
        producer="mtjax.predict",
        parameters={"config": _values_hash(experiment, copies), "step": meta["step"]}
        | {"class_names": meta["class_names"]}
        | settings,
        weights=meta["seal"][:SEAL],
        origin=provenance.of_prediction(meta, data, settings),
    )
    distributed.on_first(lambda: column_writer.create(data.root, spec))
    directory = columns.column_dir(data.root, name)
    pending = column_writer.pending(directory, spec, list(row_of))
    distributed.on_first(lambda: None)  # all have seen what is to do before anything is done
    for shard, ids in pending.items():
        rows = np.array(sorted(row_of[i] for i in ids), np.int64)  # none, perhaps: few clips may leave a shard empty
        groups = (data.in_groups(rows) if each_clip else [(data, rows)]) if ids else []
        predicted = [
            [predict_rows(experiment, state, part, copy=copy, ask=ask, data=of) for copy in range(1 + copies)]
            for of, part in groups
        ]
        if not jax.process_index():
            with column_writer.shard_writer(directory, spec, shard, ids) as writer:
                _write_groups(writer, data.catalog, ids, predicted, schema)
            logging.info("column %s: shard %d of %d", name, shard + 1, spec.num_shards)
    return distributed.on_first(lambda: column_writer.finish(directory))


def _clips_of(experiment: Experiment, splits: Sequence[str], copies: int) -> np.ndarray:
    """Rows of the catalog. Raises ConfigError when copies cannot be drawn."""
    data = experiment.data
    if copies and data.cache == "device":
        raise ConfigError("--copies: views are drawn while clips are read; set --cache=none")
    rows_of = {split: data.catalog_rows if split in data.catalog.splits else data.rows for split in splits}
    return np.unique(np.concatenate([rows(split) for split, rows in rows_of.items()]))


def _write_groups(
    writer: column_writer.ShardWriter,
    catalog: Catalog,
    ids: Iterable[str],
    predicted: Sequence[Sequence[dict[str, np.ndarray]]],
    schema: records.Schema,
) -> None:
    """Writes what was predicted of a shard, group by group and each as its views; a clip without a row could not be read."""
    shown: set[str] = set()
    for views in predicted:
        known = [catalog.clips[row].id for row in views[0]["clip"]]
        _write_rows(writer, known, views, schema)
        shown |= set(known)
    for clip_id in sorted(set(ids) - shown):
        writer.fail(clip_id, "read", "damaged record")


def _write_rows(
    writer: column_writer.ShardWriter,
    ids: Sequence[str],
    views: Sequence[dict[str, np.ndarray]],
    schema: records.Schema,
) -> None:
    for i, clip_id in enumerate(ids):
        centre = views[0]
        if "observed" in centre and not centre["observed"][i]:
            writer.fail(clip_id, "predict", "the clip shows nothing")
            continue
        if "centre_s" in schema:
            real = centre["centre_s"][i] >= 0
            writer.write(
                clip_id, {"embedding": centre["clip_embedding"][i][real], "centre_s": centre["centre_s"][i][real]}
            )
            continue
        values = {f: np.stack([view[f][i] for view in views]).astype(np.float32) for f in schema}
        writer.write(clip_id, values if len(views) > 1 else {f: v[0] for f, v in values.items()})


def _outputs(experiment: Experiment, ask: Asked | None) -> Outputs:
    """What is predicted, without running it."""
    fake = experiment.data.padding(experiment.rows)
    return jax.eval_shape(functools.partial(experiment.program.predict_step, ask=ask), experiment.program.shapes, fake)


def _output_schema(outputs: Outputs, fields: Sequence[str], copies: int) -> dict[str, records.Feature]:
    """Field → feature."""
    if unknown := sorted(set(fields) - set(outputs)):
        raise ConfigError(f"--fields: {unknown} are not among the task's outputs {sorted(outputs)}")
    views = (1 + copies,) if copies else ()
    return {name: records.Feature("float32", (*views, *outputs[name].shape[1:])) for name in fields}


def _clips_schema(outputs: Outputs) -> dict[str, records.Feature]:
    if not {"clip_embedding", "centre_s"} <= set(outputs):
        raise ConfigError(f"--dense: this run's data has no clips of a video, its outputs are {sorted(outputs)}")
    of_clip = outputs["clip_embedding"]
    embedding = records.Feature(of_clip.dtype.name, (-1, of_clip.shape[-1]))
    return {"embedding": embedding, "centre_s": records.Feature("float32", (-1,))}


def _num_shards(clips: int, copies: int, schema: records.Schema, outputs: Outputs) -> int:
    most = outputs["centre_s"].shape[1] if "centre_s" in schema else 1  # clips of a video
    sizes = [np.dtype(f.dtype).itemsize * math.prod(most if d < 0 else d for d in f.shape) for f in schema.values()]
    return max(1, -(-clips * (1 + copies) // RECORDS_PER_SHARD), -(-clips * sum(sizes) // SHARD_BYTES))


def _values_hash(experiment: Experiment, copies: int) -> str:
    """Of what the config says about predicted values, not of where and how fast the dataset is read."""
    config = experiment.config
    data = {k: v for k, v in config["data"].items() if k not in ("root", "generate", "workers")}
    drawn = {"seed": config["seed"], "batch": experiment.train.batch} if copies else {}
    return config_hash({"data": data, "model": config["model"], "task": config["task"]} | drawn)
