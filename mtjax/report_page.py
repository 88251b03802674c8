"""The HTML page of a report: tables and plots in one file that opens offline."""

import base64
import html
import io
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np

from mtjax import results
from mtjax.evaluate import ROWS
from mtjax.evaluators import top1

matplotlib.use("Agg")  # no display on a training host
from matplotlib import pyplot as plt

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>mtjax report</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1b1b1f }
table { border-collapse: collapse; margin: .8rem 0; font-size: 14px } th, td { padding: .25rem .6rem; text-align: right }
th { border-bottom: 2px solid #444; } td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f4f4f7 }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start } .plots img { max-width: 520px; width: 100% }
.note { color: #555; font-size: 13px } .scroll { overflow-x: auto } code { background: #f0f0f4; padding: 0 .25rem }
</style>
<h1>mtjax report</h1>
<div class="scroll"><table><tr>{% for h in header %}<th>{{ h }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></div>
<p class="note">Accuracies in %. ± is the population standard deviation over seeds.</p>
{% if beside %}<h2>{{ title }}</h2>
<table><tr><th>row</th><th>column</th><th>paper</th><th>ours</th><th>ours - paper</th></tr>
{% for r in beside %}<tr>{% for cell in r %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>
{% for note in notes %}<p class="note">{{ note }}</p>{% endfor %}{% endif %}
{% for run in runs %}<h2>{{ run.title }}</h2>
<p class="note">{{ run.facts }}</p>
<div class="plots">{% for plot in run.plots %}<img alt="{{ plot[0] }}" src="data:image/png;base64,{{ plot[1] }}">{% endfor %}</div>
{% for name, table in run.classes.items() %}<details><summary>Per class, {{ name }}</summary>
<table><tr><th>class</th><th>clips</th><th>accuracy</th><th>precision</th></tr>
{% for r in table %}<tr>{% for cell in r %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></details>{% endfor %}
{% endfor %}</html>
"""


def write_page(out: Path, groups: list[results.Group], table: str, tables: dict[str, Any]) -> None:
    """Writes one self-contained HTML file."""
    header, rows = results.own_table(groups)
    beside = [
        [row["label"], c["column"], results.paper_of(c), results.text_of(c["ours"]), results.difference_of(c)]
        for row in (results.join(table, groups, tables) if table else [])
        for c in row["cells"]
    ]
    page = jinja2.Environment(autoescape=True).from_string(PAGE)
    text = page.render(
        header=header,
        rows=rows,
        beside=beside,
        title=tables[table]["title"] if table else "",
        notes=results.notes(table, tables) if table else [],
        runs=[_run(group.runs[0]) for group in groups],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


def _run(result: results.Result) -> dict[str, Any]:
    """Plots and per-class tables of one run (the first seed of a group)."""
    shown = {k: v for k, v in result.results.items() if k not in ("scores", "fingerprint", "table", "class_names")}
    facts = " · ".join(f"{k} {_said(v)}" for k, v in shown.items())
    plots, classes = [("learning curves", learning_curves(result.metrics))], {}
    names = result.results["class_names"]
    for path in sorted((result.workdir / ROWS).glob("*.npz")):
        with np.load(path) as rows:
            if "probs" not in rows:
                plots.append((path.stem, scatter(rows["target"], rows["prediction"], path.stem)))
                continue
            known = rows["label"] >= 0
            probs, labels = rows["probs"][known], rows["label"][known]
        if not len(labels):
            continue
        predicted = probs.argmax(-1)
        plots.append((f"confusion, {path.stem}", confusion(predicted, labels, names, path.stem)))
        plots.append((f"coverage, {path.stem}", coverage(probs, labels, path.stem)))
        classes[path.stem] = [
            [html.unescape(name), f"{row['n']:.0f}", f"{row['accuracy']:.1f}", f"{row['precision']:.1f}"]
            for name, row in zip(names, top1.per_class(predicted, labels, len(names)), strict=True)
        ]
    return {"title": str(result.workdir), "facts": facts, "plots": plots, "classes": classes}


def _said(fact: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in fact.items()) if isinstance(fact, dict) else str(fact)


def _png(figure: plt.Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def learning_curves(metrics: list[dict[str, Any]]) -> str:
    """Training and evaluation loss, and top-1 where there is one, over steps."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3))
    for axis, metric in zip(axes, ("loss", "top1"), strict=True):
        for name in sorted({k for line in metrics for k in line if k.endswith(f"/{metric}")}):
            points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
            axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name.split("/")[0])
        axis.set_xlabel("step")
        axis.set_title(metric)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    return _png(figure)


def confusion(predicted: np.ndarray, labels: np.ndarray, names: list[str], title: str) -> str:
    """Confusion matrix normalised by the true class, in %."""
    matrix = top1.confusion_matrix(predicted, labels, len(names)).astype(float)
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = min(3 + 0.28 * len(names), 14)
    figure, axis = plt.subplots(figsize=(size, size))
    axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if len(names) <= 60:
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
    if len(names) <= 20:
        for i, j in np.argwhere(share >= 1):
            axis.text(
                j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=6, color="w" if share[i, j] > 50 else "k"
            )
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(f"confusion, {title}")
    return _png(figure)


def coverage(probs: np.ndarray, labels: np.ndarray, title: str) -> str:
    """Accuracy of the most confident share of the clips (the cascade of the MovT paper, Fig. 13)."""
    curve = top1.coverage_curve(probs, labels)
    figure, axis = plt.subplots(figsize=(4.2, 3.2))
    axis.plot(curve["coverage"], curve["accuracy"])
    for share in (50, 80):
        at = top1.at_coverage(curve, share)
        axis.plot(
            at["coverage"],
            at["accuracy"],
            "o",
            label=f"{at['coverage']:.1f} %: {at['accuracy']:.1f} % (≥ {at['threshold']:.3f})",
        )
    axis.set_xlabel("coverage (%)")
    axis.set_ylabel("accuracy (%)")
    axis.set_title(f"coverage and accuracy, {title}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return _png(figure)


def scatter(target: np.ndarray, predicted: np.ndarray, title: str) -> str:
    """Predictions against targets, one colour a target (at most eight are drawn)."""
    figure, axis = plt.subplots(figsize=(4.2, 4.2))
    for i in range(min(target.shape[1], 8)):
        axis.plot(target[:, i], predicted[:, i], ".", alpha=0.6)
    axis.set_xlabel("target")
    axis.set_ylabel("prediction")
    axis.set_title(title)
    axis.grid(alpha=0.3)
    return _png(figure)
