"""Motion guidance ("Size Doesn't Matter"), from a dataset to Table 1 and Figure 1.

    python -m mtjax.chain configs/chains/motion_guidance.py:mannequin --seeds=0,1,2
    python -m mtjax.chain configs/chains/motion_guidance.py:ucf101 --xclip=models/xclip --tokenizer=bpe_simple_vocab_16e6.txt.gz

A motion teacher, its soft labels as a column, students with and without it, the table. The figures compare the first student
of motion with the teacher and with the same student without one; they need the extra `report`.
"""

import shlex

from configs import guidance_mannequin
from mtjax.chain import Predict, Report, Step, Train, extract
from mtjax.chain import mannequin as make_mannequin

UCF101_ROWS = ("xclip_k2", "xclip_k8", "motion_ts_k2", "motion_ts_k8", "xclip_ts_k2", "xclip_ts_k8", "xclip_full")
TRAINED_ON = ("train1_fit", "train1_val")  # clips whose soft labels are wanted


def mannequin(
    runs: str = "runs/mannequin",
    root: str = "data/mannequin",
    seeds: tuple[int, ...] = (0, 1, 2),
    rows: tuple[str, ...] = guidance_mannequin.ROWS,
    clips: int = 2400,
) -> list[Step]:
    """The embedded data, and a small X-CLIP from random weights.

    root: of the dataset, made there with so many clips. rows: of configs/guidance_mannequin.py.
    """
    teachers = [
        Train(f"{runs}/motion_raw-{seed}", "configs/mil_mannequin.py", {"seed": seed, "data.root": root})
        for seed in seeds
    ]
    soft = Predict(teachers[0].workdir, root, "mil.mannequin", splits=("train",))
    rest = _students("configs/guidance_mannequin.py", runs, root, seeds, rows, soft)
    return [make_mannequin(root, clips), *teachers, soft, *rest, _report(runs, [*teachers, *rest], soft, ())]


def ucf101(
    xclip: str,
    tokenizer: str,
    clip: str = "",
    runs: str = "runs/ucf101",
    root: str = "data/ucf101",
    seeds: tuple[int, ...] = (0, 1, 2),
    rows: tuple[str, ...] = UCF101_ROWS,
    frame_flags: str = "",
    pose_flags: str = "",
    model_flags: str = "",
) -> list[Step]:
    """UCF101 as `preprocessing.catalog ucf101` made it in `root`; the paper's protocol has five seeds.

    xclip: folder of `mtjax.convert xclip`. tokenizer: bpe_simple_vocab_16e6.txt.gz. clip: folder of `mtjax.convert clip`, for the
    row clip_zs. rows: of configs/guidance_ucf101.py. frame_flags, pose_flags: more flags for the two extractions, e.g.
    "--num_workers=16". model_flags: more flags for the rows that hold CLIP or X-CLIP, e.g. --config.model.patch=32.
    """
    config, more = "configs/guidance_ucf101.py", tuple(shlex.split(model_flags))

    def as_it_is(row: str, weights: str) -> Train:
        settings = {"data.root": root, "task.tokenizer": tokenizer, "train.init": weights}
        return Train(f"{runs}/{row}", f"{config}:{row}", settings, weights_as_they_are=True, flags=more)

    extractions = [
        extract("frames", root, "frames", "--frames=32", "--short_side=256", "--max_failures=1%", *shlex.split(frame_flags)),
        extract(
            "pose", root, "pose.vitpose_b", "--detector=rt_detr_v2", "--pose=vitpose_b", "--max_failures=1%",
            *shlex.split(pose_flags),
        ),
    ]  # fmt: skip
    scored = [as_it_is("clip_zs", clip)] if clip else []
    scored += [as_it_is(row, xclip) for row in ("xclip_zs", "xclip_zs_prompted")]
    features = Predict(f"{runs}/xclip_zs", root, "xclip.embedding", fields=("embedding",), copies=5)
    teachers = [
        Train(f"{runs}/motion_raw-{seed}", f"{config}:motion_raw", {"seed": seed, "data.root": root}) for seed in seeds
    ]
    soft = Predict(teachers[0].workdir, root, "mil.ucf101", splits=TRAINED_ON)
    rest = _students(config, runs, root, seeds, rows, soft)
    table = _report(runs, [*teachers, *rest, *scored], soft, ("xclip.embedding",))
    return [*extractions, *scored, features, *teachers, soft, *rest, table]


def _students(
    config: str, runs: str, root: str, seeds: tuple[int, ...], rows: tuple[str, ...], soft: Predict
) -> list[Step]:
    """Each row under each seed, with its own few labels; soft labels of one motion teacher, or of X-CLIP with the same labels."""

    def train(row: str, seed: int, **settings: str) -> Train:
        own = {"seed": seed, "data.subset_seed": seed, "data.root": root}
        named = {f"data.{name}": value for name, value in settings.items()}
        return Train(f"{runs}/{row}-{seed}", f"{config}:{row}", own | named)

    steps: list[Step] = []
    for row in rows:
        for seed in seeds:
            if row.startswith("xclip_ts"):
                teacher = train(row.replace("_ts", ""), seed)
                column = f"{row.replace('_ts', '')}.{soft.column.partition('.')[2]}.{seed}"
                steps += [teacher, Predict(teacher.workdir, root, column, splits=soft.splits)]
                steps.append(train(row, seed, teacher=column))
            else:
                steps.append(train(row, seed, **({"teacher": soft.column} if row.startswith("motion_ts") else {})))
    return steps


def _report(runs: str, steps: list[Step], soft: Predict, features: tuple[str, ...]) -> Report:
    """Table 1 of all runs, and Figure 1 of the first student of motion."""
    workdirs = list(dict.fromkeys(step.workdir for step in steps if isinstance(step, Train)))
    flags = ["--table=mg.t1"]
    if found := next((w for w in workdirs if "/motion_ts_k" in w), None):
        workdirs.remove(found)
        workdirs.insert(0, found)
        flags.append(f"--teacher={soft.workdir}")
        alone = found.replace("/motion_ts_k", "/xclip_k")
        flags += [f"--baseline={alone}"] if alone in workdirs else []
    flags += [f"--features={','.join((*features, soft.column))}", f"--features_split={soft.splits[0]}"]
    return Report(tuple(workdirs), f"{runs}/report.html", tuple(flags))
