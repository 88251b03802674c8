"""The chains of configs/chains/: their whole plans, and whether every command takes what a step gives it."""

import importlib
import json
from pathlib import Path

import pytest
from conftest import REPO

from mtjax.chain import Cluster, Report, Retrieve, Train, load, plan
from mtjax.data.catalog import CatalogError
from mtjax.run import plain_config
from preprocessing.mannequin import __main__ as mannequin

CHAINS = {
    "motion_guidance.py:mannequin": {"seeds": (0, 1)},
    "motion_guidance.py:ucf101": {
        "seeds": (0, 1),
        "xclip": "models/xclip",
        "tokenizer": "bpe.txt.gz",
        "clip": "models/clip",
    },
    "motionfit.py:mannequin": {"seeds": (0, 1)},
    "motionfit.py:transfer": {
        "source": "data/kinetics400",
        "targets": ("data/hmdb51",),
        "rows": ("tune", "tune_len32", "tune_s3dg", "appearance", "mers", "mars", "motion_R1"),
    },
    "motionfit.py:semi": {},
    "motionfit_ablations.py:ucf101": {"source": "data/kinetics400"},
}


@pytest.fixture(scope="module")
def plans() -> dict[str, plan.Plan]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPO)
        return {name: plan.Plan.of(load.function_of(f"configs/chains/{name}")(**s)) for name, s in CHAINS.items()}


def waits_for(whole: plan.Plan, name: str) -> set[str]:
    """Names of the steps that a step needs itself."""
    (place,) = [i for i, step in enumerate(whole.steps) if step.name == name]
    return {whole.steps[i].name for i in whole.needs[place]}


@pytest.mark.parametrize("name", CHAINS)
def test_every_command_takes_its_arguments(name, plans, tmp_path, monkeypatch, capsys):
    """Configs were loaded for the plan. The other commands get as far as to miss the dataset or the run."""
    monkeypatch.chdir(tmp_path)

    def generate(**arguments):
        raise CatalogError(f"asked for {arguments}")

    monkeypatch.setattr(mannequin, "generate", generate)
    for step in plans[name].steps:
        assert step.argv[0] == "-m" and len({s.name for s in plans[name].steps}) == len(plans[name].steps)
        if isinstance(step, Train):
            continue
        try:
            module = importlib.import_module(step.argv[1])
            main = module.main if hasattr(module, "main") else importlib.import_module(f"{step.argv[1]}.__main__").main
            status = main(list(step.argv[2:]))
        except SystemExit as e:
            status = e.code
        said = capsys.readouterr().err
        assert status == 2 and "usage:" not in said, f"{step.argv}: {said}"


def test_students_wait_for_their_teacher_and_the_report_for_all(plans):
    of = plans["motion_guidance.py:ucf101"]
    frames, pose = (s.name for s in of.steps if "preprocessing.extract" in s.name)
    assert "--max_failures=1%" in frames and "--max_failures=1%" in pose
    assert waits_for(of, "train runs/ucf101/motion_raw-0") == {pose}
    assert waits_for(of, "column xclip.embedding of data/ucf101") == {"train runs/ucf101/xclip_zs", frames}
    features = "column xclip.embedding of data/ucf101"
    assert waits_for(of, "train runs/ucf101/motion_ts_k2-1") == {features, "column mil.ucf101 of data/ucf101"}
    assert waits_for(of, "column mil.ucf101 of data/ucf101") == {"train runs/ucf101/motion_raw-0", pose}
    assert waits_for(of, "train runs/ucf101/xclip_ts_k8-1") == {features, "column xclip_k8.ucf101.1 of data/ucf101"}
    report = of.steps[-1]
    assert isinstance(report, Report) and len(of.needs[-1]) == len(of.steps) - 1
    assert report.workdirs[0] == "runs/ucf101/motion_ts_k2-0" and "runs/ucf101/clip_zs" in report.workdirs
    assert {"--teacher=runs/ucf101/motion_raw-0", "--baseline=runs/ucf101/xclip_k2-0"} < set(report.flags)
    assert "--features=xclip.embedding,mil.ucf101" in report.flags


def test_hmdb51_begins_with_what_ucf101_taught(plans):
    of = plans["motionfit.py:transfer"]
    trained = {Path(s.workdir).name: s for s in of.steps if isinstance(s, Train)}
    assert [n for n in trained if n.startswith("self-")] == [f"self-ucf101-{split}-0" for split in (1, 2, 3)]
    assert not [n for n in trained if n.startswith("motion-hmdb51")]
    for split in (1, 2, 3):
        tuned = trained[f"tune-hmdb51-{split}-0"].values
        assert tuned["train"]["init"] == "runs/motionfit/self-ucf101-1-0" and tuned["data"]["train"] == f"train{split}"
        assert tuned["data"]["root"] == "data/hmdb51" and "mf.t4/f16/hmdb51=test/top1" in tuned["train"]["table"]
        own = trained[f"tune-ucf101-{split}-0"].values
        assert own["train"]["init"] == f"runs/motionfit/self-ucf101-{split}-0"
        assert trained[f"mars-hmdb51-{split}-0"].values["task"]["teacher"] == "runs/motionfit/motion-ucf101-1-0"
    searched = [(s.workdir, s.root, s.scores) for s in of.steps if isinstance(s, Retrieve) and "hmdb51" in s.root]
    assert searched == [("runs/motionfit/self-ucf101-1-0", "data/hmdb51", "retrieval_hmdb51")]
    cells = trained["self-ucf101-1-0"].values["train"]["table"]
    assert "mf.t7/ours_r21d/hmdb_R1=retrieval_hmdb51/clip_R@1" in cells


def test_s3dg_reads_frames_as_large_as_it_sees_and_begins_with_its_own_network(plans):
    of = plans["motionfit.py:transfer"]
    tuned, learnt = "train runs/motionfit/tune_s3dg-hmdb51-2-0", "train runs/motionfit/self_s3dg-ucf101-1-0"
    large = {
        root: f"preprocessing.extract frames data/{root} --name=frames.25fps.342x256"
        for root in ("hmdb51", "kinetics400")
    }
    assert learnt in waits_for(of, tuned) and any(n.startswith(large["hmdb51"]) for n in waits_for(of, tuned))
    assert any(n.startswith(large["kinetics400"]) and "--size=342x256" in n for n in waits_for(of, learnt))
    (step,) = [s for s in of.steps if s.name == tuned]
    assert step.values["data"]["resize"] == (256, 342) and step.values["train"]["init"].endswith("self_s3dg-ucf101-1-0")


def test_runs_with_few_labels_stand_in_table_8_alone(plans):
    cells = [c for s in plans["motionfit.py:semi"].steps if isinstance(s, Train) for c in s.values["train"]["table"]]
    assert cells == ["mf.t8/ours/labeled20=test/top1", "mf.t8/ours/labeled50=test/top1"]


def test_seeds_and_names_do_not_change_how_long_a_step_is_expected_to_take(plans):
    of = plans["motionfit.py:mannequin"]
    keys = {step.name: key for step, key in zip(of.steps, of.keys, strict=True)}
    for name in ("train runs/motionfit/tune_motion", "retrieval runs/motionfit/self_motion"):
        assert keys[f"{name}-0"] == keys[f"{name}-1"]
    assert keys["train runs/motionfit/tune_motion-0"] != keys["train runs/motionfit/tune_appearance-0"]


def test_each_number_of_the_ablations_has_one_run(plans):
    """All cells of MotionFit's Tables 1 to 3 and of its text, but for a difference that is no score."""
    trained = {
        Path(s.workdir).name: s.values for s in plans["motionfit_ablations.py:ucf101"].steps if isinstance(s, Train)
    }
    filled = sorted(c.split("=")[0] for v in trained.values() for c in v["train"]["table"])
    tables = json.loads((REPO / "mtjax/report/paper_tables.json").read_text())
    wanted = [
        f"{name}/{row['id']}/{column}"
        for name in ("mf.t1", "mf.t2", "mf.t3", "mf.text")
        for row in tables[name]["rows"]
        for column in tables[name]["columns"]
        if row["id"] != "prev_next"
    ]
    assert [c for c in filled if c.split("/")[0] in ("mf.t1", "mf.t2", "mf.t3", "mf.text")] == sorted(wanted)
    assert all(v["data"]["root"] == "data/kinetics400" for name, v in trained.items() if name.startswith("self"))


def test_ablations_change_what_they_are_about(plans):
    steps = plans["motionfit_ablations.py:ucf101"].steps
    trained = {Path(s.workdir).name.removesuffix("-ucf101-1-0"): s.values for s in steps if isinstance(s, Train)}
    clusters = {s.column.removesuffix(".ucf101-1-0"): s for s in steps if isinstance(s, Cluster)}
    assert trained["self_validation_500"]["data"]["train"] == "validation"
    assert trained["self_validation_500"]["data"]["pseudo"] == "pseudo.validation_500.ucf101-1-0"
    assert (clusters["pseudo.validation_500"].k, clusters["pseudo.validation_500"].splits) == (500, ("validation",))
    assert clusters["pseudo.validation_thirds"].granularity == "thirds"
    assert trained["self_neighbours"]["task"]["neighbours"] and not trained["self"]["task"]["neighbours"]
    assert trained["self_neighbours"]["data"]["pseudo"] == trained["self"]["data"]["pseudo"] == "pseudo.ucf101-1-0"
    left_out = trained["self_uncommon"]["data"]["leave_out"]
    assert {"archery", "skiing slalom"} < set(left_out) and not trained["self"]["data"].get("leave_out")
    assert clusters["pseudo.uncommon"].leave_out == "configs/kinetics400_like_ucf101.txt"
    assert trained["tune_uncommon"]["train"]["init"] == "runs/motionfit/self_uncommon-ucf101-1-0"
    assert clusters["pseudo.appearance_128"].features == "mplg.appearance.train.ucf101-1-0"
    # What the main chain makes, too, is the same step.
    main = {step.name: step for step in plans["motionfit.py:transfer"].steps}
    for name in ("train runs/motionfit/self", "train runs/motionfit/tune", "train runs/motionfit/motion"):
        ours = next(step for step in steps if step.name == f"{name}-ucf101-1-0")
        assert plain_config.refused_on_resume(main[ours.name].values, ours.values) == {}
