"""Probes of frozen features: L-BFGS against scikit-learn (MG-7), stopping when validation stalls."""

import json

import numpy as np
import pytest
from conftest import config_of, make_dataset, run_main, train_here, write_config
from sklearn.linear_model import LogisticRegression

from mtjax import lookup, records
from mtjax.compute.step import Program
from mtjax.data.columns import Column
from mtjax.run.experiment import Experiment, Train, open_run
from mtjax.run.metrics_log import read_metrics
from mtjax.run.scoring import improves, stalled

pytestmark = pytest.mark.usefixtures("one_device")


# L-BFGS against scikit-learn.

CLASSES, SHOTS, WIDTH = 5, 4, 12


@pytest.fixture(scope="module")
def probe_root(tmp_path_factory):
    """Embeddings of norm 10 around a direction a class, with much noise."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, WIDTH))
    counts = {"train": CLASSES * SHOTS, "val": 15, "test": 25}
    vectors = {}
    for split, count in counts.items():
        for i in range(count):
            v = centres[i % CLASSES] + 1.5 * rng.normal(size=WIDTH)
            vectors[f"{split}-{i:03}"] = (10 * v / np.linalg.norm(v)).astype(np.float32)
    fields = {"x.embedding": {"embedding": (records.Feature("float32", (WIDTH,)), vectors)}}
    folder = tmp_path_factory.mktemp("probe")
    return make_dataset(folder / "data", per_split=counts, classes=CLASSES, columns_of=fields)


def probe(root, *, penalty: str = "sklearn_C1", unit_norm: bool = False, evals=None, data=None, **train) -> dict:
    return config_of(
        root,
        data={"name": "features.Features", "column": "x.embedding", "cache": "device"} | (data or {}),
        model={"name": "frozen.Frozen", "width": WIDTH, "unit_norm": unit_norm},
        task={"name": "classify.Classify", "penalty": penalty},
        optimizer={"name": "lbfgs"},
        train={"batch": 0, "epochs": 120.0} | train,
        evals=evals,
    )


def vectors_of(root, split: str, unit_norm: bool) -> tuple[np.ndarray, np.ndarray]:
    column = Column(root, "x.embedding")
    ids = [i for i in sorted(column.ids.tolist()) if i.startswith(split)]
    x = np.stack([v["embedding"] for v in column.read(column.rows(ids))]).astype(np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if unit_norm else x
    return x, np.array([int(i[-3:]) % CLASSES for i in ids])


@pytest.fixture(scope="module")
def probes(probe_root, one_device, tmp_path_factory):
    """(penalty, unit_norm) → workdir of a converged run."""
    folder = tmp_path_factory.mktemp("probes")
    cases = [(p, u) for p in ("printed", "sklearn_C1") for u in (False, True)]
    for penalty, unit_norm in cases:
        train_here(probe(probe_root, penalty=penalty, unit_norm=unit_norm), folder / f"{penalty}{unit_norm}")
    return {case: folder / f"{case[0]}{case[1]}" for case in cases}


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("penalty", ["printed", "sklearn_C1"])
def test_lbfgs_finds_scikit_learns_logistic_regression(probes, probe_root, penalty, unit_norm):
    x, y = vectors_of(probe_root, "train", unit_norm)
    c = 1.0 if penalty == "sklearn_C1" else 1.0 / len(y)
    reference = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x, y)
    with np.load(probes[penalty, unit_norm] / "rows" / "test.npz") as rows:
        np.testing.assert_allclose(
            rows["probs"], reference.predict_proba(vectors_of(probe_root, "test", unit_norm)[0]), atol=1e-3
        )
    experiment, state, _ = open_run(probes[penalty, unit_norm], scored=True)
    kernel, bias = (np.asarray(state["params"][f"head/{n}"]) for n in ("kernel", "bias"))
    np.testing.assert_allclose(kernel, reference.coef_.T, atol=2e-3)
    np.testing.assert_allclose(bias - bias.mean(), reference.intercept_ - reference.intercept_.mean(), atol=5e-3)
    assert experiment.train.batch == CLASSES * SHOTS


def test_mg7_the_printed_objective_makes_soft_labels_flat(probes):
    confidence = {}
    for case, workdir in probes.items():
        with np.load(workdir / "rows" / "test.npz") as rows:
            confidence[case] = rows["probs"].max(1).mean()
    assert confidence["printed", True] < confidence["sklearn_C1", True] < confidence["sklearn_C1", False]
    assert confidence["printed", True] < confidence["printed", False] < confidence["sklearn_C1", False]
    assert confidence["printed", True] < 1.3 / CLASSES and confidence["sklearn_C1", False] > 3 / CLASSES


def test_lbfgs_refuses_what_it_does_not_use(probe_root):
    config = probe(probe_root)
    for changed, message in (
        ({"lr": 0.1}, r"lbfgs takes no \['lr'\]"),
        ({"schedule": "cosine", "ema": 0.9}, r"lbfgs takes no \['ema', 'schedule'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            Experiment(config | {"optimizer": {"name": "lbfgs"} | changed})
    with pytest.raises(ValueError, match="config.task.penalty='l2'"):
        Experiment(probe(probe_root, penalty="l2"))


def test_features_of_another_width_are_refused_before_training(probe_root, tmp_path):
    file = write_config(tmp_path / "config.py", probe(probe_root))
    done = run_main("mtjax.train", f"--config={file}", f"--workdir={tmp_path / 'run'}", "--config.model.width=7")
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "run").exists()
    assert f"mtjax train: config.model.width=7, but the column's features have {WIDTH}" in done.stderr


# Early stopping.


def settings(**changes) -> Train:
    return Train(**{"batch": 1, "watch": ("val",), "select": "val/top1"} | changes)


def test_patience_counts_evaluations_and_min_delta_is_for_all_of_them_together():
    three = settings(patience=3)
    assert [
        stalled(three, h) for h in ([50.0], [50.0, 50.0, 50.0], [50.0, 50.0, 50.0, 50.0], [50.0, 49.0, 48.0, 51.0])
    ] == [0, 0, 1, 0]
    assert stalled(three, [51.0, 52.0, 52.0, 52.0, 52.0]) and not stalled(three, [51.0, 52.0, 52.0, 52.0])
    small = settings(patience=3, min_delta=0.1)
    assert stalled(small, [50.0, 50.03, 50.06, 50.09]) and not stalled(small, [50.0, 50.04, 50.08, 50.12])
    assert not stalled(settings(), [50.0] * 100)
    falling = settings(select="val/loss", select_mode="min", patience=2)
    assert stalled(falling, [1.0, 1.1, 1.0]) and not stalled(falling, [1.0, 1.1, 0.9])
    assert improves(three, [], 1.0) and improves(three, [50.0], 51.0) and not improves(three, [50.0, 51.0], 51.0)
    assert improves(falling, [1.0], 0.9) and not improves(falling, [0.9], 1.0)
    with pytest.raises(lookup.ConfigError, match=r"config.train.patience=3: needs a metric"):
        Train(batch=1, patience=3)


def test_a_stalled_run_stops_and_running_it_again_trains_no_further(probe_root, tmp_path, monkeypatch):
    evals = {s: {"name": "top1.Top1", "split": s} for s in ("val", "test")}
    train = {
        "epochs": 500.0,
        "eval_every": 1.0,
        "watch": ("val",),
        "select": "val/top1",
        "patience": 5,
        "min_delta": 0.1,
    }
    config = probe(probe_root, evals=evals, data={"val": "val"}, **train)
    scores = train_here(config, tmp_path / "run")
    history = [line["val/top1"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "val/top1" in line]
    assert 6 <= len(history) < 100 and max(history[:-5]) == max(history) == scores["val/top1"]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["step"] == history.index(max(history)) + 1  # the best, not the last

    def never(*_, **__):
        raise AssertionError("a finished run trains on")

    monkeypatch.setattr(Program, "_train_step", never)
    assert train_here(config, tmp_path / "run") == scores
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == results["step"]
