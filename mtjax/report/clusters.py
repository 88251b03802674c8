"""Contact sheets of pseudo labels: what the videos of a cluster have in common (MotionFit, Sec. 3.3; motionfit.md §5)."""

import argparse
import functools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt

from mtjax.clusters import pseudo_labels
from mtjax.data.catalog import Catalog
from mtjax.data.columns import Column, list_columns
from mtjax.lookup import ConfigError
from mtjax.report import charts
from mtjax.report.found import Context
from mtjax.report.page import Section
from mtjax.report.pictures import FRAMES, Pictures, evenly
from mtjax.run.results import Result

SHEETS = 6
SIDE = 3  # filmstrips along each side of a sheet
SHOWN = 4  # pictures of a filmstrip
MAX_NAME = 32  # characters of a clip's id and of its class over a filmstrip


class Members(NamedTuple):
    """All segments that a column labels, in the order of the catalog and of time.

    Attributes:
      clip: row of the video in the catalog, int64 [s]. label: int32 [s]. start_s, end_s: float64 [s], the last segment of a
        video ends at infinity. distance: float32 [s], squared, to the centroid.
    """

    clip: np.ndarray
    label: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    distance: np.ndarray


def sections(runs: Sequence[Result], names: Sequence[str], frames: str = FRAMES, sheets: int = SHEETS) -> list[Section]:
    """One section for each column of pseudo labels, of the first run's dataset that has it.

    Args:
      frames: column whose first field of JPEG images is shown. sheets: at most so many clusters a column.

    Raises:
      ConfigError: a column is not one of `mtjax.cluster`, or there are no pictures. CatalogError, ColumnError, RecordError.
    """
    roots = list(dict.fromkeys(run.config["data"]["root"] for run in runs))
    found = []
    for name in names:
        catalog = Catalog.load(next((root for root in roots if name in list_columns(root)), roots[0]))
        found.append((catalog, *_clustered(catalog, name), _pictures(catalog, frames)))
    return [_section(*one, sheets) for one in found]


def _clustered(catalog: Catalog, name: str) -> tuple[Column, dict[str, Any]]:
    """A column of pseudo labels and the summary beside it."""
    there = list_columns(catalog.root)
    column = Column(catalog.root, name) if name in there else None
    if (
        column is None
        or column.spec.producer != "mtjax.cluster"
        or not (column.directory / pseudo_labels.SUMMARY).is_file()
    ):
        raise ConfigError(
            f"--clusters: {name!r} is no finished column of `mtjax cluster {catalog.root}`; there are {there}"
        )
    return column, json.loads((column.directory / pseudo_labels.SUMMARY).read_text())


def _pictures(catalog: Catalog, name: str) -> Pictures:
    try:
        return Pictures(catalog.root, (name,))
    except ConfigError as e:
        raise ConfigError(f"--clusters: {e}, --clusters_frames names another") from None


def shown(times_s: np.ndarray, start_s: float, end_s: float, most: int = SHOWN) -> list[int]:
    """Which pictures stand for a segment: evenly spaced ones of those in it, or the one nearest to its middle."""
    inside = np.flatnonzero((times_s >= start_s) & (times_s < end_s))
    if not len(inside):
        inside = np.array([np.abs(times_s - (start_s + min(end_s, times_s[-1])) / 2).argmin()])
    return [int(inside[i]) for i in evenly(len(inside), most)]


def members(catalog: Catalog, column: Column) -> Members:
    """Reads a whole column of pseudo labels, a block of videos at a time. Raises ConfigError when it has no clip of the catalog."""
    at = column.rows(clip.id for clip in catalog.clips)
    has = np.flatnonzero(at >= 0)
    if not len(has):
        raise ConfigError(f"--clusters: column {column.spec.name!r} has no record of any clip of {catalog.root}")
    videos = []
    for row, record in zip(has, column.scan(at[has]), strict=True):
        label, start = record["label"], record["start_s"].astype(np.float64)
        videos.append(Members(np.full(len(label), row), label, start, np.append(start[1:], np.inf), record["distance"]))
    return Members(*(np.concatenate(parts) for parts in zip(*videos, strict=True)))


def chosen(size: np.ndarray, drawable: np.ndarray, most: int) -> list[int]:
    """Clusters evenly spaced in the order of their sizes, largest first; ties go to the lower number.

    Args:
      size: int [k], segments. drawable: bool [k], those that may be chosen; never an empty one.
    """
    order = [int(c) for c in np.argsort(-size, kind="stable") if drawable[c] and size[c]]
    return [order[i] for i in evenly(len(order), most)]


def nearest(clip: np.ndarray, distance: np.ndarray, most: int = SIDE * SIDE) -> np.ndarray:
    """The segments [≤ most] nearest to the centroid, nearest first: one a video, and more of a video only where there are
    fewer videos than `most`. Ties go to the earlier one."""
    order = np.argsort(distance, kind="stable")
    first = np.sort(np.unique(clip[order], return_index=True)[1])
    others = np.setdiff1d(np.arange(len(order)), first)
    return order[np.sort(np.concatenate([first, others])[:most])]


def _section(catalog: Catalog, column: Column, facts: dict[str, Any], pictures: Pictures, sheets: int) -> Section:
    found, names = members(catalog, column), column.spec.parameters["class_names"]
    size, seen = np.bincount(found.label, minlength=len(names)), pictures.has(c.id for c in catalog.clips)[found.clip]
    numbers = chosen(size, np.bincount(found.label[seen], minlength=len(names)) > 0, sheets)
    if not numbers:
        raise ConfigError(f"--clusters: no video of {column.spec.name!r} has a record in {pictures.name!r}")
    hidden, plots = catalog.labels()[found.clip], [("sizes of the clusters", size_bars(facts["sizes"]))]
    for number in numbers:
        of = found.label == number
        said = title(names[number], found.clip[of], hidden[of], catalog.class_names)
        drawn = np.flatnonzero(of & seen)
        drawn = drawn[nearest(found.clip[drawn], found.distance[drawn])]
        plots.append((said, sheet(said, catalog, Members(*(values[drawn] for values in found)), pictures)))
    lacking = len(np.unique(found.clip[~seen]))
    note = (
        f"{len(numbers)} clusters from large to small. Of each the {SIDE * SIDE} segments nearest to its centroid, nearest first, "
        f"at most one a video where there are enough videos; pictures of the column {pictures.name!r} in order of time."
        + (f" {lacking} videos have none." if lacking else "")
    )
    return Section(
        f"Clusters, {column.spec.name}", (*summary(facts, column.spec.parameters), note), tuple(plots), layout="wide"
    )


def summary(facts: dict[str, Any], made: dict[str, Any]) -> list[str]:
    """What `clusters.json` says, and what the clusters are made of."""
    said = [
        f"{facts['segments']:,} segments of {facts['videos']:,} videos in {facts['clusters']:,} clusters, {facts['empty']:,} of "
        f"them empty; median size {facts['size_median']:g}, largest {facts['size_max']:,}. Features: {made['features']}, "
        f"field {made['field']}, granularity {made['granularity']}; fitted on {', '.join(made['splits'])}."
    ]
    if "purity" in facts:
        said.append(f"Purity {facts['purity']:.2f} %, NMI {facts['nmi']:.3f} over the segments of videos with a label.")
    return said


def title(name: str, clip: np.ndarray, hidden: np.ndarray, class_names: Sequence[str]) -> str:
    """Of a sheet. `clip`, `hidden`: int [s], video and class of each segment of the cluster, -1 without a label."""
    known = hidden[hidden >= 0]
    said = f"{name}: {len(clip):,} segment(s) of {len(np.unique(clip)):,} video(s)"
    if not len(known):
        return said
    count = np.bincount(known)
    return f"{said}, commonest class {class_names[count.argmax()]} ({count.max() / len(known):.0%})"


def size_bars(sizes: dict[str, int]) -> str:
    """Range of sizes, "4 to 7", → number of clusters, in order of size."""
    names = [a if a == b else f"{a} to {b}" for a, b in (key.split(" to ") for key in sizes)]
    figure, axis = plt.subplots(figsize=(max(4.2, 1 + 0.5 * len(names)), 2.8), layout="constrained")
    axis.bar_label(axis.bar(range(len(names)), list(sizes.values())), fontsize=7)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axis.set_xlabel("segments of a cluster")
    axis.set_ylabel("clusters")
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.margins(y=0.12)
    return charts.png(figure)


def sheet(said: str, catalog: Catalog, drawn: Members, pictures: Pictures) -> str:
    """Filmstrips of some segments, row by row under a title."""
    strips, captions = [], []
    for clip, start, end in zip(drawn.clip.tolist(), drawn.start_s, drawn.end_s, strict=True):
        listed = catalog.clips[clip]
        strip, times = pictures.chosen(listed.id, functools.partial(shown, start_s=start, end_s=end))
        until = end if np.isfinite(end) else max(float(times[-1]), start)
        strips.append(strip)
        name = (
            listed.id if len(listed.id) <= MAX_NAME else f"…{listed.id[1 - MAX_NAME :]}"
        )  # folders come first in an id
        captions.append(f"{name}, {start:.1f} to {until:.1f} s\n{listed.label[:MAX_NAME]}".rstrip())
    rows, width = -(-len(strips) // SIDE), 11.0  # inches
    tall = max(p.shape[0] / p.shape[1] for strip in strips for p in strip)
    height = rows * (min(tall, 2.0) * width / SIDE / SHOWN + 0.4) + 0.3
    figure, axes = plt.subplots(rows, SIDE, figsize=(width, height), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, strip, caption in zip(axes.flat, strips, captions, strict=False):
        _draw_strip(axis, strip)
        axis.set_title(caption, fontsize=7, loc="left")
    figure.suptitle(said, fontsize=11)
    return charts.png(figure)


def _draw_strip(axis: plt.Axes, strip: Sequence[np.ndarray]) -> None:
    """Side by side at one height; a short strip leaves its end empty."""
    wide = max(p.shape[1] / p.shape[0] for p in strip)
    for i, picture in enumerate(strip):
        left = 1.03 * i * wide
        axis.imshow(picture, extent=(left, left + picture.shape[1] / picture.shape[0], 0, 1))
    axis.set_xlim(0, (1.03 * SHOWN - 0.03) * wide)
    axis.set_ylim(0, 1)
    axis.set_anchor("NW")


ORDER = 40


def add_flags(parser: argparse.ArgumentParser) -> None:
    """See `found`."""
    parser.add_argument("--clusters", default="", help="columns of mtjax cluster to look into, comma separated")
    parser.add_argument("--clusters_frames", default=FRAMES, help="column of their pictures")


def make(context: Context) -> list[Section]:
    """See `found`."""
    names = context.args.clusters
    return sections(context.runs, names.split(","), context.args.clusters_frames) if names else []
