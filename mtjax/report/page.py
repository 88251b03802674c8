"""The HTML page of a report: tables and plots in one file that opens offline."""

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mtjax.data.files import write_atomically
from mtjax.evaluators import top1
from mtjax.report import charts, paper_tables
from mtjax.report.groups import Group
from mtjax.run.evaluation import ROWS
from mtjax.run.results import RETRIEVAL, Result

NOT_FACTS = ("scores", "fingerprint", "table", "class_names", RETRIEVAL)  # of results.json, said elsewhere
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>mtjax report</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1b1b1f }
table { border-collapse: collapse; margin: .8rem 0; font-size: 14px } th, td { padding: .25rem .6rem; text-align: right }
th { border-bottom: 2px solid #444; } td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f4f4f7 }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start } .plots img { max-width: 520px; width: 100% }
.wide img { max-width: 100%; width: auto }
.note { color: #555; font-size: 13px } .scroll { overflow-x: auto } code { background: #f0f0f4; padding: 0 .25rem }
</style>
<h1>mtjax report</h1>
<div class="scroll"><table><tr>{% for h in header %}<th>{{ h }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></div>
<p class="note">Accuracies in %. ± is the standard deviation (of the sample) over seeds, or over official splits.</p>
{% for t in beside %}<h2>{{ t.title }}</h2>
<table><tr>{% for h in beside_header %}<th>{{ h }}</th>{% endfor %}</tr>
{% for r in t.rows %}<tr>{% for cell in r %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>
{% for note in t.notes %}<p class="note">{{ note }}</p>{% endfor %}{% endfor %}
{% for s in sections %}<h2>{{ s.title }}</h2>
{% for note in s.notes %}<p class="note">{{ note }}</p>{% endfor %}
<div class="plots {{ s.layout }}">{% for alt, png in s.plots %}
<img alt="{{ alt }}" src="data:image/png;base64,{{ png }}">{% endfor %}</div>
{% for note in s.below %}<p class="note">{{ note }}</p>{% endfor %}
{% for t in s.tables %}<details{% if t.open %} open{% endif %}><summary>{{ t.title }}</summary>
<table><tr>{% for h in t.header %}<th>{{ h }}</th>{% endfor %}</tr>
{% for r in t.rows %}<tr>{% for cell in r %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></details>{% endfor %}
{% endfor %}
{% for run in runs %}<h2>{{ run.title }}</h2>
<p class="note">{{ run.facts }}</p>
<div class="plots">{% for plot in run.plots %}<img alt="{{ plot[0] }}" src="data:image/png;base64,{{ plot[1] }}">{% endfor %}</div>
{% for name, table in run.classes.items() %}<details><summary>Per class, {{ name }}</summary>
<table><tr><th>class</th><th>clips</th><th>accuracy</th><th>precision</th></tr>
{% for r in table %}<tr>{% for cell in r %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></details>{% endfor %}
{% endfor %}</html>
"""


@dataclasses.dataclass(frozen=True)
class Table:
    """`open`: shown without a click."""

    title: str
    header: tuple[str, ...]
    rows: list[list[str]]
    open: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page beyond the runs. `plots`: (alt text, base64 PNG); `layout`: "" side by side, "wide" one a line;
    `below`: said under the plots."""

    title: str
    notes: tuple[str, ...] = ()
    plots: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    layout: str = ""
    below: tuple[str, ...] = ()


def write_page(
    out: Path,
    groups: list[Group],
    names: Sequence[str],
    tables: dict[str, Any],
    sections: Sequence[Section] = (),
) -> None:
    """Writes one self-contained HTML file with the paper tables `names`; `sections` stand between the tables and the runs."""
    header, rows = paper_tables.own_table(groups)
    beside = [
        {
            "title": tables[name]["title"],
            "rows": paper_tables.beside(name, groups, tables),
            "notes": paper_tables.notes(name, tables),
        }
        for name in names
    ]
    page = jinja2.Environment(autoescape=True).from_string(PAGE)
    text = page.render(
        header=header,
        rows=rows,
        beside=beside,
        beside_header=paper_tables.BESIDE,
        sections=sections,
        runs=[_run(group.runs[0]) for group in groups],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text)


def _run(result: Result) -> dict[str, Any]:
    """Plots and per-class tables of one run (the first seed of a group)."""
    shown = {k: v for k, v in result.results.items() if k not in NOT_FACTS}
    facts = " · ".join(f"{k} {_text_of(v)}" for k, v in shown.items())
    plots, classes = [("learning curves", charts.learning_curves(result.metrics))], {}
    names = result.results["class_names"]
    for path in sorted((result.workdir / ROWS).glob("*.npz")):
        with np.load(path) as rows:
            if "probs" not in rows:
                plots.append((path.stem, charts.scatter(rows["target"], rows["prediction"], path.stem)))
                continue
            probs, labels = top1.labelled(rows)
        if not len(labels):
            continue
        predicted = probs.argmax(-1)
        plots.append((f"confusion, {path.stem}", charts.confusion(predicted, labels, names, path.stem)))
        plots.append((f"coverage, {path.stem}", charts.coverage(probs, labels, path.stem)))
        classes[path.stem] = [
            [html.unescape(name), f"{row['n']:.0f}", f"{row['accuracy']:.1f}", f"{row['precision']:.1f}"]
            for name, row in zip(names, top1.per_class(predicted, labels, len(names)), strict=True)
        ]
    return {"title": str(result.workdir), "facts": facts, "plots": plots, "classes": classes}


def _text_of(fact: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in fact.items()) if isinstance(fact, dict) else str(fact)
