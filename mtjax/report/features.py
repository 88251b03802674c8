"""Feature spaces side by side: t-SNE of the same clips and their nearest-neighbour accuracy.

"Size Doesn't Matter", Fig. 1B and Sec. 5.2 (motion_guidance.md §2): columns with a field `embedding`, joined by clip id.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib import pyplot as plt

from mtjax.command.errors import Missing
from mtjax.data import catalog as catalogs
from mtjax.data import selection
from mtjax.data.columns import Column
from mtjax.lookup import ConfigError
from mtjax.report import charts
from mtjax.report.found import Context
from mtjax.report.page import Section
from mtjax.run.results import Result

FIELD = "embedding"
MAX_CLIPS = 2000  # as in the paper
NEIGHBOURS = 10
MIN_CLIPS = 5  # fewer have no neighbourhoods to draw
MAX_LEGEND = 20
SEED = 0


def section(run: Result, names: Sequence[str], split: str) -> Section:
    """Draws columns of the run's dataset.

    Args:
      split: of the catalog; "train" in a dataset without a split of this name is the run's `data.train`.

    Raises:
      ConfigError, ColumnError, CatalogError: no such column, field or split, too few clips, or scikit-learn is missing.
    """
    sklearn_manifold()  # before anything is read
    data = run.config["data"]
    catalog = catalogs.Catalog.load(data["root"])
    if split == "train" and split not in catalog.splits:
        split = data.get("train", split)
    rows = selection.select(catalog, split, classes=data.get("classes", ()))
    ids, labels, left_out = chosen_clips(catalog, rows, [Column(catalog.root, name) for name in names])
    spaces = {name: embeddings(Column(catalog.root, name), ids) for name in names}
    accuracy = {name: knn_accuracy(x, labels) for name, x in spaces.items()}
    picture = scatter({f"{n}: {accuracy[n]:.1f} %": tsne(x) for n, x in spaces.items()}, labels, catalog.class_names)
    numbers = ", ".join(f"{name} {value:.1f} %" for name, value in accuracy.items())
    lacking = f" ({left_out} more have no record in every column)" if left_out else ""
    note = f"{len(ids)} clips of split {split!r} of {catalog.name}{lacking}. t-SNE with cosine distances; axes have no unit."
    below = f"Accuracy of the {NEIGHBOURS} nearest neighbours (cosine, each clip left out of its own vote): {numbers}."
    plots = (("t-SNE of " + ", ".join(names), picture),)
    return Section("Feature spaces", (note,), plots, layout="wide", below=(below,))


def chosen_clips(
    catalog: catalogs.Catalog, rows: np.ndarray, columns: Sequence[Column], most: int = MAX_CLIPS
) -> tuple[list[str], np.ndarray, int]:
    """At most `most` labelled clips that every column holds: (ids, labels int [n], how many a column lacks)."""
    labels = catalog.labels()
    labelled = [r for r in rows if labels[r] != catalogs.UNLABELLED]
    kept = np.array([r for r in labelled if all(catalog.clips[r].id in column for column in columns)], np.int64)
    left_out = len(labelled) - len(kept)
    if len(kept) < MIN_CLIPS:
        names = [column.spec.name for column in columns]
        raise ConfigError(
            f"--features: {len(kept)} labelled clips have a record in {names}; at least {MIN_CLIPS} are needed"
        )
    if len(kept) > most:
        kept = np.sort(np.random.default_rng(SEED).choice(kept, most, replace=False))
    return [catalog.clips[r].id for r in kept], labels[kept], left_out


def embeddings(column: Column, ids: Sequence[str]) -> np.ndarray:
    """float32 [n d]; of a record with several views [a d] the first, which is the centre view.

    Raises:
      ConfigError: the column has no such field, or it is not a vector or a list of vectors.
    """
    schema = column.spec.schema
    if FIELD not in schema:
        raise ConfigError(f"--features: column {column.spec.name!r} has the fields {sorted(schema)}, not {FIELD!r}")
    values = [record[FIELD] for record in column.read(column.rows(ids))]
    values = [value[0] if value.ndim == 2 else value for value in values]
    if {value.shape for value in values} != {values[0].shape} or values[0].ndim != 1:
        raise ConfigError(
            f"--features: {FIELD!r} of column {column.spec.name!r} has shape {schema[FIELD].shape}; need (d,) or (a, d)"
        )
    return np.stack(values).astype(np.float32)


def knn_accuracy(x: np.ndarray, labels: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Leave-one-out accuracy in % of a vote among the k most similar other items (cosine).

    Args:
      x: [n d]; a zero vector is equally far from all. labels: int [n].

    Returns:
      NaN for fewer than two items. Ties between classes go to the larger sum of similarities, then to the lower index;
      ties between items to the earlier one.
    """
    n = len(x)
    if n < 2:
        return float("nan")
    unit = x.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    similarity = (unit @ unit.T).round(12)  # so that equal vectors tie, whatever the order of summation
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, n - 1)]
    votes = np.zeros((n, int(labels.max()) + 1))
    item = np.arange(n)[:, None]
    # A similarity is at most 1 in size, so k of them divided by 4 k never outweigh a vote.
    np.add.at(votes, (item, labels[nearest]), 1 + similarity[item, nearest] / (4 * k))
    return float(100 * (votes.argmax(1) == labels).mean())


def sklearn_manifold():
    """Raises Missing when scikit-learn is missing."""
    try:
        from sklearn import manifold
    except ImportError:
        raise Missing("--features: t-SNE needs scikit-learn: pip install 'mtjax[report]'") from None
    return manifold


def tsne(x: np.ndarray) -> np.ndarray:
    """float [n 2], the same for the same input; items that are all equal stay in one place."""
    if (x == x[:1]).all():
        return np.zeros((len(x), 2))
    start = "pca" if x.shape[1] > 1 else "random"
    perplexity = min(30.0, (len(x) - 1) / 3)
    method = sklearn_manifold().TSNE(perplexity=perplexity, init=start, metric="cosine", random_state=SEED, n_jobs=1)
    return method.fit_transform(x)


def scatter(spaces: dict[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> str:
    """Title → points [n 2], one panel each, one colour a class; a legend for up to 20 classes."""
    present = np.unique(labels)
    few = len(present) <= MAX_LEGEND
    colours = (
        colormaps["tab20"](np.arange(len(present))) if few else colormaps["turbo"](np.linspace(0, 1, len(present)))
    )
    figure, axes = plt.subplots(1, len(spaces), figsize=(5.2 * len(spaces), 5), layout="constrained", squeeze=False)
    for axis, (title, points) in zip(axes[0], spaces.items(), strict=True):
        for colour, label in zip(colours, present, strict=True):
            axis.plot(*points[labels == label].T, ".", markersize=5, color=colour, label=names[label])
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    if few:
        handles = axes[0][0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=7, fontsize=8, markerscale=2)
    return charts.png(figure)


ORDER = 30


def add_flags(parser: argparse.ArgumentParser) -> None:
    """See `found`."""
    parser.add_argument("--features", default="", help="columns with an embedding to draw, comma separated")
    parser.add_argument("--features_split", default="train", help="clips to draw")


def make(context: Context) -> list[Section]:
    """See `found`."""
    names = context.args.features
    return [section(context.runs[0], names.split(","), context.args.features_split)] if names else []
