"""What clips found: queries and their nearest neighbours, one picture each (`mtjax.retrieve`; motionfit.md §8)."""

import argparse
import dataclasses

import numpy as np
from matplotlib import pyplot as plt

from mtjax.data.catalog import Catalog, CatalogError, Clip
from mtjax.data.columns import ColumnError
from mtjax.lookup import ConfigError
from mtjax.report import charts
from mtjax.report.attention import right_and_wrong
from mtjax.report.found import Context
from mtjax.report.page import Section, Table
from mtjax.report.pictures import FRAMES, Pictures
from mtjax.run.results import RETRIEVAL, Result
from mtjax.run.retrieval import LABEL, notes_of, table_of
from mtjax.types import Rows

MAX_QUERIES = 6
SIZE_IN = 1.5  # of a picture


@dataclasses.dataclass(frozen=True)
class Query:
    """A clip that asked: its position in the rows, what has to be the same in what it finds, and whether its nearest is."""

    row: int
    label: int
    right: bool


def sections(run: Result) -> list[Section]:
    """One section for each retrieval of the run: its scores, and a gallery of chosen queries."""
    return [_section(run, name) for name in run.results.get(RETRIEVAL, {})]


def _section(run: Result, name: str) -> Section:
    facts = run.results[RETRIEVAL][name]
    scores = {m.removeprefix(f"{name}/"): value for m, value in run.scores.items() if m.startswith(f"{name}/")}
    title = f"Retrieval, {run.workdir.name}" + (f", {name}" if name != RETRIEVAL else "")
    table, said = Table("R@k (%)", *table_of(scores), open=True), tuple(notes_of(scores, facts))
    try:
        with np.load(run.workdir / f"{name}.npz") as file:
            rows = dict(file)
        catalog = run.catalog(name)
        pictures = Pictures(catalog.root, (FRAMES, run.config["data"].get("column", FRAMES)))
    except (OSError, CatalogError, ColumnError, ConfigError) as e:  # a run may have come without its dataset
        return Section(title, (*said, f"Not drawn: {e}"), tables=(table,))
    chosen = right_and_wrong(queries(rows, catalog, facts["relevant"]), MAX_QUERIES)
    plots = tuple(
        (f"retrieved by {_title(catalog.clips[rows['query_clip'][q.row]])}", strip(q, rows, catalog, pictures))
        for q in chosen
    )
    wrong = sum(not query.right for query in chosen)
    note = (
        f"{len(plots)} clips and the {rows['nearest'].shape[1]} nearest to each, nearest first, {wrong} of them with a wrong "
        "nearest one; the picture is of the clip's middle. Green: relevant; red: not."
    )
    return Section(title, (*said, note), plots, (table,), layout="wide")


def queries(rows: Rows, catalog: Catalog, relevant: str) -> list[Query]:
    """All clips that asked, in their order."""
    kind = catalog.labels()[rows["query_clip"]] if relevant == LABEL else rows["query_clip"]
    return [Query(i, int(kind[i]), bool(right)) for i, right in enumerate(rows["relevant"][:, 0])]


def strip(query: Query, rows: Rows, catalog: Catalog, pictures: Pictures) -> str:
    """A query and what it found, side by side."""
    found = rows["nearest"][query.row]
    clips = [catalog.clips[c] for c in (rows["query_clip"][query.row], *rows["gallery_clip"][found])]
    times = [rows["query_centre_s"][query.row], *rows["gallery_centre_s"][found]]
    frames = ["0.2", *("tab:green" if good else "tab:red" for good in rows["relevant"][query.row])]
    figure, axes = plt.subplots(1, len(clips), figsize=(SIZE_IN * len(clips), SIZE_IN), squeeze=False)
    for axis, listed, time_s, colour in zip(axes[0], clips, times, frames, strict=True):
        picture = pictures.nearest(listed.id, float(time_s))
        if picture is None:
            axis.text(0.5, 0.5, "no picture", ha="center", va="center", fontsize=7, transform=axis.transAxes)
        else:
            axis.imshow(picture)
        axis.set_title(_title(listed), fontsize=7, color=colour)
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set(color=colour, linewidth=3)
    return charts.png(figure)


def _title(clip: Clip) -> str:
    return clip.label or clip.id


ORDER = 60


def add_flags(parser: argparse.ArgumentParser) -> None:
    """See `found`. It has none."""


def make(context: Context) -> list[Section]:
    """See `found`."""
    return [section for group in context.groups for section in sections(group.runs[0])]
