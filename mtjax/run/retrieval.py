"""Retrieval with the features of a trained workdir: R@k of clips and of videos (MotionFit, Table 7; motionfit.md §8)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from mtjax.compute import distributed
from mtjax.data.catalog import UNLABELLED, Catalog
from mtjax.data.columns import Column
from mtjax.data.files import save_arrays, write_atomically
from mtjax.data.selection import select
from mtjax.evaluators import retrieval
from mtjax.lookup import ConfigError
from mtjax.modalities import clip_sampling
from mtjax.run import checkpoint, experiment, prediction_column
from mtjax.run.evaluation import check_overlap
from mtjax.run.results import RESULTS, RETRIEVAL, Result, to_json
from mtjax.types import Batch, Describing, Headed

LABEL, VIDEO = "label", "video"  # what makes a clip relevant


def describe(module: nnx.Module, batch: Batch) -> dict[str, Array]:
    """What is asked in place of the task's prediction: `clip_embedding` float16 [b k d], `centre_s` [b k], `observed` [b].

    Raises:
      ConfigError: the module has no backbone to ask.
    """
    if not isinstance(module, Headed):
        raise ConfigError(f"retrieval asks the backbone of a task's module, and {type(module).__name__} has none")
    backbone = module.backbone
    vectors = backbone.describe(batch) if isinstance(backbone, Describing) else backbone(batch, train=False)
    centre = batch["centre_s"].reshape(len(vectors), -1)
    embedding = vectors.astype(jnp.float16).reshape(*centre.shape, -1)
    return {"clip_embedding": embedding, "centre_s": centre, "observed": batch["observed"]}


def read_clips(catalog: Catalog, column: Column, rows: np.ndarray) -> retrieval.Clips:
    """The described clips of some videos; one without a record has none.

    Raises:
      ConfigError: no video has a record, or a number is not finite.
    """
    at = column.rows(catalog.clips[row].id for row in rows)
    rows, at = rows[at >= 0], at[at >= 0]
    if not len(rows):
        raise ConfigError(f"{column.directory}: no record of any video asked for; see failures.jsonl there")
    video, centre, embedding = [], [], []
    for row, record in zip(rows, column.scan(at), strict=True):
        if not np.isfinite(record["embedding"]).all():
            raise ConfigError(f"{column.directory}: clip {catalog.clips[row].id!r} has numbers beyond float16's")
        video.append(np.full(len(record["centre_s"]), row, np.int64))
        centre.append(record["centre_s"])
        embedding.append(record["embedding"])
    # Stored with half the bytes; a sum of so many squares needs the others.
    return retrieval.Clips(np.concatenate(video), np.concatenate(centre), np.concatenate(embedding, dtype=np.float32))


def rows_of(catalog: Catalog, queries: str, gallery: str, relevant: str) -> dict[str, np.ndarray]:
    """Split → rows of the catalog.

    Raises:
      ConfigError: labels are missing, or both splits have a clip. CatalogError: a split is empty.
    """
    rows = {split: select(catalog, split) for split in (queries, gallery)}
    if relevant == VIDEO:
        return rows
    if len(shared := np.intersect1d(rows[queries], rows[gallery])):
        ids = [catalog.clips[row].id for row in shared[:3]]
        raise ConfigError(
            f"splits {queries!r} and {gallery!r} share {len(shared)} clips, {ids} …, which would find themselves"
        )
    labels = catalog.labels()
    for split, of_split in rows.items():
        if len(bare := of_split[labels[of_split] == UNLABELLED]):
            raise ConfigError(
                f"{catalog.root}: {len(bare)} clips of split {split!r} have no label, {catalog.clips[bare[0]].id!r} …; "
                "--relevant=video needs none"
            )
    return rows


def retrieve(
    workdir: Path,
    *,
    root: str = "",
    column: str = "",
    name: str = "retrieval",
    queries: str = "test",
    gallery: str = "",
    views: int = 10,
    dense: int = 0,
    relevant: str = LABEL,
    at: Sequence[int] = (1, 5, 10, 20, 50),
    batch: int = 0,
    step: str = "selected",
) -> tuple[dict[str, float], dict[str, Any]] | None:
    """Describes, compares and saves. Returns the scores, and what is to be known about them, as results.json has both; None on
    all processes but the first.

    Args:
      workdir: of a finished run. root: of a dataset with the column that the run reads; "" for the run's own.
      column: of descriptors, "" for `retrieval.WORKDIR`; what is there is used, what is missing is written.
      name: of these scores, as evals have one.
      gallery: split; "" for "train", with `relevant` "video" the queries' own.
      views: evenly spaced clips of each video; or dense: clips that begin so many items apart instead.
      batch, step: see `experiment.open_run`.

    Raises:
      ConfigError, CatalogError, ColumnError, checkpoint.NoGoodCheckpoint, column_writer.Busy: by run, dataset or column.
    """
    run = Result.load(workdir)  # before anything is computed
    gallery = gallery or (queries if relevant == VIDEO else "train")
    _check(run, name, queries, gallery, relevant, at)
    seen = {"views": 1, "dense": dense} if dense else {"views": views, "dense": 0}
    changed = {"root": root or run.config["data"]["root"]} | seen
    exp, state, meta = experiment.open_run(workdir, step, data=changed, batch=batch)
    catalog = exp.data.catalog
    rows = rows_of(catalog, queries, gallery, relevant)
    if relevant == LABEL:
        retrieval.answerable(at, len(rows[gallery]))  # before hours of describing
    elif dense < (extent := clip_sampling.extent(exp.data.frames, exp.data.stride)):
        raise ConfigError(f"--relevant=video: clips must not share frames; give --dense={extent} or more")
    column = column or f"retrieval.{workdir.resolve().name}" + (f".dense{dense}" if dense else "")
    prediction_column.write_column(exp, state, meta, column, sorted(rows), (), each_clip=True, ask=describe)

    def compare() -> tuple[dict[str, float], dict[str, Any]]:
        written = Column(catalog.root, column)
        clips = {split: read_clips(catalog, written, of_split) for split, of_split in rows.items()}
        by_label = (clips[queries], clips[gallery], catalog.labels(), at)
        scores, found = retrieval.by_video(clips[queries], at) if relevant == VIDEO else retrieval.by_label(*by_label)
        facts = _facts_of(exp, meta, queries) | {
            "column": column, "relevant": relevant, "queries": queries, "gallery": gallery, "at": list(at),
            "asked": len(found.query), "listed": {split: len(of_split) for split, of_split in rows.items()},
            "clips": {split: len(of.video) for split, of in clips.items()},
            "videos": {split: len(np.unique(of.video)) for split, of in clips.items()},
        } | seen  # fmt: skip
        save(workdir, name, scores, facts, clips[queries], clips[gallery], found)
        return scores, facts

    return distributed.on_first(compare)


def _facts_of(exp: experiment.Experiment, meta: Mapping[str, Any], queries: str) -> dict[str, Any]:
    """What is to be known about a run and the dataset that it looks through."""
    catalog = exp.data.catalog
    return {
        "root": str(catalog.root), "fingerprint": catalog.fingerprint, "step": meta["step"],
        "dataset": {"name": catalog.name, "kind": catalog.info.get("kind", "")}, "trained_on": _trained_on(exp, meta, queries),
    }  # fmt: skip


def _check(run: Result, name: str, queries: str, gallery: str, relevant: str, at: Sequence[int]) -> None:
    if not re.fullmatch(r"[\w.-]+", name) or name in run.config["evals"]:
        raise ConfigError(f"--name={name!r}: must be of letters, digits, '.', '_', '-', and not an eval's")
    if not at or min(at) < 1:
        raise ConfigError(f"--at={','.join(map(str, at))}: must be numbers of neighbours, at least 1")
    if relevant == VIDEO and gallery != queries:
        raise ConfigError(
            f"--relevant=video: clips of {queries!r} are found among themselves; leave out --gallery={gallery}"
        )


def _trained_on(exp: experiment.Experiment, meta: Mapping[str, Any], split: str) -> int:
    """How many of the queries were trained on, or share a group with such a video; 0 on another dataset."""
    if meta["fingerprint"]["catalog"] != exp.data.catalog.fingerprint:
        return 0
    return check_overlap(exp, checkpoint.unpack_ids(meta["train_ids"]), split, allow=True)


def save(
    workdir: Path,
    name: str,
    scores: dict[str, float],
    facts: dict[str, Any],
    queries: retrieval.Clips,
    gallery: retrieval.Clips,
    found: retrieval.Found,
) -> None:
    """WORKDIR/NAME.npz, then results.json, each atomically. Scores of this name that were there before are replaced."""
    arrays = {
        "query_clip": queries.video[found.query], "query_centre_s": queries.centre_s[found.query],
        "gallery_clip": gallery.video, "gallery_centre_s": gallery.centre_s,
        "nearest": found.nearest[:, : retrieval.SHOWN], "relevant": found.relevant[:, : retrieval.SHOWN],
    }  # fmt: skip
    path = workdir / f"{name}.npz"
    save_arrays(path, compressed=True, **arrays)
    run = Result.load(workdir)  # what it is by now
    kept = {metric: value for metric, value in run.scores.items() if not metric.startswith(f"{name}/")}
    now = run.results | {
        "scores": kept | {f"{name}/{metric}": value for metric, value in scores.items()},
        RETRIEVAL: run.results.get(RETRIEVAL, {}) | {name: facts},
    }
    write_atomically(workdir / RESULTS, to_json(now) + "\n")


def table_of(scores: Mapping[str, float]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and rows: R@k in % of each reading, "-" where its gallery is too small."""
    readings = dict.fromkeys(metric.split("_")[0] for metric in scores)
    at = sorted({int(metric.split("@")[1]) for metric in scores})
    cells = {r: [scores.get(f"{r}_R@{k}") for k in at] for r in readings}
    rows = [[r, *("-" if value is None else f"{value:.2f}" for value in values)] for r, values in cells.items()]
    return ("reading", *(f"R@{k}" for k in at)), rows


def notes_of(scores: Mapping[str, float], facts: Mapping[str, Any]) -> list[str]:
    """What was compared with what, and what was left out, a sentence each."""
    queries, gallery, clips = facts["queries"], facts["gallery"], facts["clips"]
    seen = f"clips that begin {facts['dense']} items apart" if facts["dense"] else f"{facts['views']} clips a video"
    if facts["relevant"] == VIDEO:
        said = [
            f"{facts['dataset']['name']}, {seen}: each of {facts['asked']} clips of {queries!r} finds others of its video."
        ]
        if alone := clips[queries] - facts["asked"]:
            said.append(f"{alone} clip(s) are the only one of their video and ask nothing.")
    else:
        sizes = ", ".join(f"{facts['videos'][s]} videos of {s!r} ({clips[s]} clips)" for s in (queries, gallery))
        said = [f"{facts['dataset']['name']}, {seen}: {sizes}; relevant is what has the query's label."]
    for split, listed in facts["listed"].items():
        if gone := listed - facts["videos"][split]:
            said.append(f"{gone} of {listed} videos of {split!r} have no record or show nothing and are left out.")
    if facts["trained_on"]:
        said.append(
            f"{facts['trained_on']} of the videos that ask were trained on, or share a group with one that was."
        )
    readings = dict.fromkeys(metric.split("_")[0] for metric in scores)
    if too_many := [f"R@{k} of the {r} reading" for r in readings for k in facts["at"] if f"{r}_R@{k}" not in scores]:
        said.append(f"The gallery is too small for {', '.join(too_many)}.")
    return said
