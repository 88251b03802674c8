"""A column of features → clusters → a column of pseudo labels (MotionFit, Sec. 3.3)."""

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mtjax import records
from mtjax.clusters import kmeans, segments
from mtjax.compute import distributed
from mtjax.data import column_writer, columns, origin
from mtjax.data.catalog import Catalog, CatalogError
from mtjax.data.files import save_arrays, write_atomically
from mtjax.evaluators import clustering

PARTIAL, CENTROIDS, SUMMARY = ".kmeans.npz", "centroids.npz", "clusters.json"


class Segments(NamedTuple):
    """Segments of many videos, one after the other.

    Attributes:
      clip: row of the video in the catalog, int64 [s]. feature: float32 [s d]. start_s: float32 [s], see `segments.starts`.
    """

    clip: np.ndarray
    feature: np.ndarray
    start_s: np.ndarray


def read_segments(
    catalog: Catalog, column: columns.Column, *, field: str, granularity: str, percentile: float
) -> Segments:
    """
    Args:
      field: [d], one clip a video, or [n d], its clips in time order; then `centre_s` [n] says where they are.

    Raises:
      columns.ColumnError: no such field, another shape, or clips without `centre_s`.
    """
    schema = column.spec.schema
    if field not in schema or len(schema[field].shape) not in (1, 2):
        raise columns.ColumnError(
            f"column {column.spec.name!r}: --field={field} has to be [d] or [n d], it has {schema}"
        )
    dense = len(schema[field].shape) == 2
    if dense and "centre_s" not in schema:
        raise columns.ColumnError(
            f"column {column.spec.name!r} has several features a video and no centre_s; write it with "
            "`mtjax predict … --dense`"
        )
    at = column.rows(c.id for c in catalog.clips)
    has_record = np.flatnonzero(at >= 0)
    clip, feature, start = [], [], []
    for row, record in zip(has_record, column.scan(at[has_record]), strict=True):
        values = np.asarray(record[field], np.float32).reshape(-1, schema[field].shape[-1])
        centre = np.asarray(record["centre_s"] if dense else [0], np.float64)
        segment = segments.segments(values, granularity, percentile=percentile)
        feature.append(segments.means(values, segment))
        start.append(segments.starts(centre, segment))
        clip.append(np.full(len(start[-1]), row))
    if not feature:
        raise columns.ColumnError(f"column {column.spec.name!r} has no record of any clip of {catalog.root}")
    return Segments(np.concatenate(clip), np.concatenate(feature), np.concatenate(start))


def points_to_fit(
    catalog: Catalog, found: Segments, splits: Iterable[str], *, limit: int, seed: int, leave_out: Sequence[str] = ()
) -> np.ndarray:
    """Features of the splits' segments, at most `limit` of them, drawn with the seed, in order.

    Args:
      leave_out: names of classes whose clips are not among them.

    Raises:
      CatalogError: a split or a class that the dataset has not.
    """
    if unknown := sorted(set(splits) - set(catalog.splits)):
        raise CatalogError(f"--splits: {unknown} are not among {sorted(catalog.splits)}")
    if unknown := sorted(set(leave_out) - set(catalog.class_names)):
        raise CatalogError(f"{catalog.root}: classes {unknown} are not in class_names")
    fits = np.array([bool(set(splits) & set(c.splits)) and c.label not in leave_out for c in catalog.clips])
    chosen = np.flatnonzero(fits[found.clip])
    if limit and len(chosen) > limit:
        chosen = np.sort(np.random.default_rng(seed).permutation(chosen)[:limit])
    return found.feature[chosen]


def fit(directory: Path, points: np.ndarray, k: int, *, seed: int, iterations: int) -> kmeans.Clusters:
    """`kmeans.fit` that goes on where a killed one stopped: the centroids of each iteration lie in the column's folder."""
    path, resume = directory / PARTIAL, None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            resume = (int(arrays["iteration"]), arrays["about_mean"])
        print(f"resuming {path} after iteration {resume[0]}", flush=True)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # nothing there, or a file cut short: begin again

    def progress(iteration: int, centroids: np.ndarray, inertia: float) -> None:
        if jax.process_index():
            return
        save_arrays(path, about_mean=centroids, iteration=iteration)
        print(f"iteration {iteration}/{iterations}  inertia {inertia:.6g}", flush=True)

    return kmeans.fit(points, k, seed=seed, iterations=iterations, progress=progress, resume=resume)


def summary(catalog: Catalog, found: Segments, label: np.ndarray, k: int) -> dict[str, Any]:
    """Sizes of the clusters; purity in % and NMI over the segments of clips with a hidden label, where there are any."""
    sizes = np.bincount(label, minlength=k)
    edges = [0, 1, *(2 ** np.arange(1, max(int(sizes.max()).bit_length(), 1) + 1)).tolist()]
    histogram = np.histogram(sizes, edges)[0].tolist()
    facts: dict[str, Any] = {
        "videos": len(set(found.clip.tolist())),
        "segments": len(label),
        "clusters": k,
        "empty": int((sizes == 0).sum()),
        "size_median": float(np.median(sizes)),
        "size_max": int(sizes.max()),
        "sizes": {f"{a} to {b - 1}": n for a, b, n in zip(edges[:-1], edges[1:], histogram, strict=True) if n},
    }
    classes = {name: i for i, name in enumerate(catalog.class_names)}
    hidden = np.array([classes.get(clip.label, -1) for clip in catalog.clips])[found.clip]
    if (known := hidden >= 0).any():
        facts["purity"] = clustering.purity(label[known], hidden[known])
        facts["nmi"] = clustering.normalised_mutual_information(label[known], hidden[known])
    return facts


def write(
    catalog: Catalog, directory: Path, spec: columns.Spec, found: Segments, label: np.ndarray, distance: np.ndarray
):
    """The column: `label`, `start_s` and `distance` (squared, to the centroid) of each segment of a video."""
    first = np.flatnonzero(np.diff(found.clip, prepend=-1))
    parts = dict(
        zip((catalog.clips[found.clip[s]].id for s in first), np.split(np.arange(len(label)), first[1:]), strict=True)
    )
    for shard, ids in column_writer.pending(directory, spec, list(parts)).items():
        with column_writer.shard_writer(directory, spec, shard, ids) as writer:
            for clip_id in ids:
                rows = parts[clip_id]
                writer.write(
                    clip_id, {"label": label[rows], "start_s": found.start_s[rows], "distance": distance[rows]}
                )
    return column_writer.finish(directory)


def origin_of(features: columns.Spec, made: Mapping[str, Any]) -> dict[str, Any]:
    """Of clusters: where the features come from, or their name, and the arguments in `made` that are the same for all seeds."""
    maker = features.origin or dict.fromkeys(origin.HASHES, features.name)
    own = {k: v for k, v in made.items() if k not in ("features", "features_fingerprint", "seed", "class_names")}
    own["splits"] = [origin.unnumbered(split) for split in made["splits"]]
    return origin.derived(maker, own, seed=maker.get("seed", made["seed"]), workdir=maker.get("workdir", ""))


def cluster(
    root: Path,
    *,
    features: str,
    column: str,
    k: int,
    splits: tuple[str, ...],
    field: str = "embedding",
    granularity: str = "clip",
    percentile: float = 90.0,
    seed: int = 0,
    iterations: int = 25,
    points_per_centroid: int = 256,
    leave_out: tuple[str, ...] = (),
    overwrite: bool = False,
) -> dict[str, Any] | None:
    """Writes the column `column` of `root` and returns `summary`, which is also `clusters.json` in its folder; None on all
    processes but the first.

    Args:
      leave_out: class names whose clips are not fitted.
      points_per_centroid: at most so many times k segments are fitted; 0: all. Every segment gets a label all the same.

    Raises:
      columns.ColumnError: the features cannot be read, or the column was begun with other arguments.
      ValueError: see `kmeans.fit`.
    """
    catalog, read = Catalog.load(root), columns.Column(root, features)
    made = {
        "features": features, "features_fingerprint": read.fingerprint, "field": field, "k": k, "splits": list(splits),
        "granularity": granularity, "percentile": percentile, "seed": seed, "iterations": iterations,
        "points_per_centroid": points_per_centroid, "class_names": [f"cluster {i:04d}" for i in range(k)],
    } | ({"leave_out": list(leave_out)} if leave_out else {})  # fmt: skip
    schema = {
        "label": records.Feature("int32", (-1,)),
        "start_s": records.Feature("float32", (-1,)),
        "distance": records.Feature("float32", (-1,)),
    }
    num_shards = 1 + len(catalog.clips) // 20_000
    spec = columns.Spec(column, schema, num_shards, "mtjax.cluster", made, origin=origin_of(read.spec, made))
    directory = columns.column_dir(root, column)
    if overwrite:
        for path in (directory / PARTIAL, directory / SUMMARY):
            path.unlink(missing_ok=True)
    elif (directory / columns.INDEX).is_file() and (directory / SUMMARY).is_file():
        distributed.on_first(lambda: column_writer.create(root, spec))  # raises when it is of another request
        return distributed.on_first(lambda: json.loads((directory / SUMMARY).read_text()))
    found = read_segments(catalog, read, field=field, granularity=granularity, percentile=percentile)
    limit = points_per_centroid * k
    points = points_to_fit(catalog, found, splits, limit=limit, seed=seed, leave_out=leave_out)
    kmeans.check(points, k)
    kmeans.check_finite(found.feature)  # all are labelled, whatever is fitted
    distributed.on_first(lambda: column_writer.create(root, spec, overwrite=overwrite))
    fitted = fit(directory, points, k, seed=seed, iterations=iterations)
    return distributed.on_first(lambda: finish(catalog, directory, spec, found, fitted, len(points)))


def finish(
    catalog: Catalog, directory: Path, spec: columns.Spec, found: Segments, fitted: kmeans.Clusters, num_points: int
) -> dict[str, Any]:
    """Labels all segments, writes the column and what belongs to it, and returns its `summary`."""
    label, distance = kmeans.assign(found.feature, fitted.centroids)
    save_arrays(directory / CENTROIDS, centroids=fitted.centroids)
    write(catalog, directory, spec, found, label, distance)
    # Of the labels as they are: a fit that went on after its last iteration has no inertia of its own.
    facts = summary(catalog, found, label, len(fitted.centroids)) | {
        "fitted": num_points,
        "mean_distance": float(distance.mean()),
    }
    write_atomically(directory / SUMMARY, json.dumps(facts, indent=1) + "\n")
    (directory / PARTIAL).unlink(missing_ok=True)
    return facts
