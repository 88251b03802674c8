"""Accuracy against the number of labels: which runs are one line, where its points lie, what is not drawn."""

import base64
import io
import json
from pathlib import Path

from PIL import Image

from mtjax.report import __main__ as report
from mtjax.report import labels
from mtjax.run.results import Result


def make_run(
    workdir: Path,
    labelled: int | None,
    score: float,
    seed: int = 0,
    *,
    init: str = "",
    recipe: str = "",
    scores=None,
    train=None,
    clips=None,
    **data,
) -> Result:
    """A finished run, by hand. `labelled` None: of a time when it was not noted. `recipe`: what it is made from, labels apart."""
    config = {
        "data": {"name": "rgb.Rgb", "root": "nowhere/d", "subset_seed": seed} | data,
        "evals": {"test": {"name": "top1.Top1", "split": "test"}},
        "train": {"batch": 8, "init": init} | (train or {}),
        "seed": seed,
    }
    facts = {"seed": seed, "params": 1, "gmacs": 1.0, "class_names": ["a", "b"], "clips": {"test": 9, "train": clips}}
    facts |= {"scores": {"test/top1": score} if scores is None else scores}
    facts |= {} if labelled is None else {"labelled": labelled}
    facts |= {"origin": {"config": f"{recipe} of {data}", "recipe": recipe}} if recipe else {}
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "results.json").write_text(json.dumps(facts))
    return Result.load(workdir)


def lines(runs) -> dict[str, list[tuple[float, int, float, float]]]:
    """Series → (labelled, runs, mean, standard deviation) of each point, of test/top1."""
    return {
        one.name: [
            (p.labelled, len(p.group.runs), *[round(v, 2) for v in list(p.group.summary("test/top1").values())[:2]])
            for p in one.points
        ]
        for one in labels.find_series(runs)
    }


def test_seeds_of_one_share_are_a_point_and_shares_a_line(tmp_path):
    """Other seeds hold other groups out, so that they may have a clip more. Each seed begins with its own weights."""
    runs = []
    for seed in (0, 1):
        for share, labelled in ((0.5, 50), (0.2, 20)):
            percent = int(100 * share)
            train = {"epochs": 1 / share, "table": (f"mf.t8/ours/labeled{percent}=test/top1",)}
            runs.append(
                make_run(
                    tmp_path / f"tuned{percent}-{seed}", labelled + 2 * seed, percent + 10.0 * seed, seed, fraction=share,
                    init=f"runs/mf/self{percent}-{seed}", recipe="self", train=train,
                )
            )  # fmt: skip
    runs += [
        make_run(tmp_path / "scratch_20", 20, 5.0, fraction=0.2),
        make_run(tmp_path / "scratch_100", 100, 25.0, train={"steps": 7}),
    ]
    assert lines(runs) == {
        "tuned": [(21, 2, 25, 7.07), (51, 2, 55, 7.07)],
        "scratch": [(20, 1, 5, 0), (100, 1, 25, 0)],  # without first weights it is another line
    }
    (section,) = labels.sections(runs)
    assert [alt for alt, _ in section.plots] == ["accuracy by number of labels, test/top1"] and len(section.notes) == 1
    assert section.tables[0].header == ("series", "labelled clips", "test/top1", "runs") and section.tables[0].open
    assert section.tables[0].rows[:3] == [
        ["tuned", "21", "25.00 ± 7.07 (n=2)", "tuned20-0, tuned20-1"],
        ["tuned", "51", "55.00 ± 7.07 (n=2)", "tuned50-0, tuned50-1"],
        ["scratch", "20", "5.00", "scratch_20"],
    ]
    assert Image.open(io.BytesIO(base64.b64decode(section.plots[0][1]))).size[0] > 400


def test_few_labels_a_class_and_lists_are_numbers_of_labels_too(tmp_path):
    shots = [make_run(tmp_path / f"k{k}", 2 * k, 10.0 * k, k_shot=k) for k in (8, 2)]
    assert lines(shots) == {"k": [(4, 1, 20, 0), (16, 1, 80, 0)]}
    listed = [
        make_run(tmp_path / f"list-{n}-{seed}", n, n + 2.0 * seed, seed, shots=f"{n}_{seed}.txt")
        for n in (3, 6) for seed in (0, 1)
    ]  # fmt: skip
    assert lines(listed) == {"list": [(3, 2, 4, 1.41), (6, 2, 7, 1.41)]}


def test_what_is_not_about_labels_is_another_line_or_none(tmp_path):
    one = make_run(tmp_path / "a20", 20, 1.0, fraction=0.2)
    assert labels.sections([one]) == []
    assert labels.sections([one, make_run(tmp_path / "a21", 20, 2.0, seed=1, fraction=0.2)]) == []
    assert labels.sections([one, make_run(tmp_path / "b50", 50, 2.0, fraction=0.5, size=112)]) == []
    assert labels.sections([one, make_run(tmp_path / "c50", 50, 2.0, fraction=0.5, train={"batch": 4})]) == []
    assert labels.sections([one, make_run(tmp_path / "d50", 50, 2.0, fraction=0.5, init="runs/self")]) == []
    assert labels.sections([one, make_run(tmp_path / "e0", 0, 2.0, k_shot=1)]) == []  # a log axis has no 0
    assert labels.sections([one, make_run(tmp_path / "f", 50, 0, fraction=0.5, scores={"val/top1": 1.0})]) == []
    # Without a known origin the first weights' name is all there is.
    runs = [
        make_run(tmp_path / f"g{n}-{kind}", n, 1.0, fraction=n / 100, init=f"runs/{kind}{n}")
        for n in (20, 50)
        for kind in "xy"
    ]
    assert lines(runs) == {}
    runs = [
        make_run(tmp_path / f"h{n}-{kind}", n, 1.0, fraction=n / 100, init=f"runs/{kind}{n}", recipe=kind)
        for n in (20, 50)
        for kind in "xy"
    ]
    assert sorted(lines(runs)) == ["h", "h (2)"]


def test_runs_of_equal_seed_are_told(tmp_path):
    runs = [
        make_run(tmp_path / f"t-{n}-k{k}", n, float(k), fraction=n / 100, init=f"runs/k{k}", recipe="k")
        for n in (20, 50)
        for k in (1, 3)
    ]
    assert lines(runs) == {"t": [(20, 2, 2, 1.41), (50, 2, 2, 1.41)]}
    (section,) = labels.sections(runs)
    assert section.notes[1].startswith("t: some runs have seed and number of labels in common")


def test_names_are_what_workdirs_have_in_common(tmp_path):
    def named(*names: str) -> list[str]:
        runs = [make_run(tmp_path / n, 10 * (i + 1), 1.0, fraction=0.1 * (i + 1)) for i, n in enumerate(names)]
        return list(lines(runs))

    assert named("a/x_20", "a/x_25") == ["x"]  # the 2 that both begin with is half a number
    assert named("b/k128-20", "b/k128-50") == ["k128"]  # this one is whole
    assert named("self/20-0", "self/50-0") == ["self"]
    assert named("r3d", "r3d_more") == ["r3d"]


def test_tests_come_first_and_every_run_of_a_line_has_them(tmp_path):
    both = {"val/top1": 1.0, "test/top1": 2.0, "test_shift/top1": 3.0, "test/top5": 9.0}
    first = [make_run(tmp_path / f"a{n}", n, 0, fraction=n / 100, scores=both) for n in (20, 50)]
    first.append(make_run(tmp_path / "a100", 100, 0, scores={"test/top1": 5.0, "val/top1": 1.0}))
    second = [make_run(tmp_path / f"b{n}", n, 0, fraction=n / 100, size=1, scores={"val/top1": 7.0}) for n in (20, 50)]
    assert [one.metrics for one in labels.find_series(first + second)] == [["test/top1"], ["val/top1"]]
    assert labels.find_series(first[:2])[0].metrics == ["test/top1", "test_shift/top1"]
    (section,) = labels.sections(first + second)
    assert [alt.split(", ")[1] for alt, _ in section.plots] == ["test/top1", "val/top1"]
    assert section.tables[0].rows[0] == ["a", "20", "2.00", "-", "a20"]  # its own val/top1 is not drawn


def test_older_runs_are_read_where_all_their_clips_were_labelled(tmp_path):
    old = make_run(tmp_path / "a20", None, 1.0, clips=20, fraction=0.2)
    hidden = make_run(tmp_path / "a10", None, 1.0, clips=100, fraction=0.1, unlabelled=("train",))
    assert old.labelled == 20 and hidden.labelled is None
    assert make_run(tmp_path / "a30", 30, 1.0, clips=100, unlabelled=("train",)).labelled == 30
    (tmp_path / "a20" / "results.json").write_text(json.dumps({"seed": 0, "scores": {}}))
    assert Result.load(tmp_path / "a20").labelled is None
    (section,) = labels.sections([old, hidden, make_run(tmp_path / "a50", 50, 2.0, fraction=0.5)])
    assert section.notes[-1].startswith("1 run(s) did not note") and len(section.tables[0].rows) == 2


def test_counts_are_written_where_there_is_room():
    assert labels.apart([10.0, 11.0, 100.0, 1000.0]) == [10, 100, 1000]
    assert labels.apart([20.0, 50.0]) == [20, 50]


def test_the_page_has_the_plot_without_being_asked(tmp_path):
    runs = [make_run(tmp_path / f"a{n}-{s}", n, n / 2, s, fraction=n / 100) for n in (20, 50) for s in (0, 1)]
    assert report.main([str(run.workdir) for run in runs]) == 0
    page = (runs[0].workdir / "report.html").read_text()
    assert "<h2>Accuracy by number of labels</h2>" in page and 'alt="accuracy by number of labels, test/top1"' in page
    assert report.main([str(runs[0].workdir)]) == 0
    assert "number of labels" not in (runs[0].workdir / "report.html").read_text()
