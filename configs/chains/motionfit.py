"""MotionFit, from a dataset to its tables: flow, generator, features, clusters, self-training, fine-tuning, retrieval.

    python -m mtjax.chain configs/chains/motionfit.py:mannequin --jobs=3             # the embedded data, three seeds side by side
    python -m mtjax.chain configs/chains/motionfit.py:transfer --labels=data/ucf101 --source=data/kinetics400 --targets=data/hmdb51
    python -m mtjax.chain configs/chains/motionfit.py:semi --root=data/ucf101        # Table 8

Settings are the keywords of these functions (--help). `predict_flags` go to features and retrieval, e.g. --batch=64;
`frame_flags` and `flow_flags` to the two extractions, e.g. --num_workers=16.
"""

import shlex
from pathlib import Path

from configs.motionfit import LARGE
from mtjax.chain import Cluster, Predict, Report, Retrieve, Step, Train, extract
from mtjax.chain import mannequin as make_mannequin

CONFIG = "configs/motionfit.py"
DENSE = 16  # frames between clips whose features are clustered (motionfit.md §5)


def mannequin(
    runs: str = "runs/motionfit",
    root: str = "data/mannequin",
    seeds: tuple[int, ...] = (0, 1, 2),
    k: int = 32,
    clips: int = 2400,
    predict_flags: str = "",
) -> list[Step]:
    """The embedded data: a fifth of the labels, with the baselines (clusters of appearance, random weights).

    root: of the dataset, made there with so many clips. k: clusters.
    """
    steps: list[Step] = [
        make_mannequin(root, clips),
        extract("frames", root, "frames.36", "--frames=32", "--size=36x36", images="frames"),
        extract("flow", root, "flow.36", "--method=dis", "--short_side=0", "--size=36x36", images="frames"),
    ]
    config, more = "configs/motionfit_mannequin.py", tuple(shlex.split(predict_flags))
    for seed in seeds:
        own = {"data.root": root, "seed": seed, "data.subset_seed": seed}
        for by in ("motion", "appearance"):  # the paper's rows are of motion's clusters
            hidden = {} if by == "motion" else {"train.table": ()}
            generator = Train(f"{runs}/{by}-{seed}", f"{config}:{by}", own | {"data.fraction": 0.2})
            pseudo = _clusters(generator, root, f"{by}-{seed}", ("train",), k, 4, more, granularity="video")
            learnt = {"data.root": root, "seed": seed, "data.pseudo": pseudo[-1].column}
            taught = Train(f"{runs}/self_{by}-{seed}", f"{config}:self", learnt | hidden)
            begun = own | {"data.fraction": 0.2, "train.init": taught.workdir}
            tuned = Train(f"{runs}/tune_{by}-{seed}", f"{config}:tune", begun | hidden)
            steps += [generator, *pseudo, taught, tuned, Retrieve(taught.workdir, root, flags=more)]
        steps.append(Train(f"{runs}/motion_R1-{seed}", f"{config}:motion_R1", own))
    return [*steps, _report(runs, steps, "mf.t1,mf.t7,mf.t8")]


def transfer(
    source: str,
    labels: str = "data/ucf101",
    targets: tuple[str, ...] = (),
    runs: str = "runs/motionfit",
    seeds: tuple[int, ...] = (0,),
    splits: tuple[int, ...] = (1, 2, 3),
    k: int = 1000,
    rows: tuple[str, ...] = ("tune", "appearance", "mers", "mars"),
    frame_flags: str = "",
    flow_flags: str = "",
    predict_flags: str = "",
) -> list[Step]:
    """Tables 1 and 4 to 7: labels of one dataset, videos of another without labels, fine-tuned on each official split.

    source: dataset without labels, e.g. data/kinetics400. labels: dataset whose labels train the generator; the paper's is
    UCF101. targets: other datasets to fine-tune on, e.g. data/hmdb51, from the generator and the self-trained network of the
    first of the splits, as the paper does. rows: of configs/motionfit.py, also tune_len32, tune_s3dg, motion_R1 …
    """
    more = tuple(shlex.split(predict_flags))
    large = any(row.endswith("s3dg") for row in rows)
    steps: list[Step] = []
    for root in dict.fromkeys((labels, source, *targets)):
        flow = root not in targets or any(row.startswith(("mars", "motion")) for row in rows)
        steps += _extractions(root, frame_flags, flow_flags if flow else None, large=large)
    for seed in seeds:
        for split in splits:
            made = _taught(runs, labels, source, split, seed, k, rows, more)
            steps += [step for step in made.values() if isinstance(step, Train)]
            steps += made["pseudo"]
            for taught in (made["self"], *([made["self_s3dg"]] if "self_s3dg" in made else [])):
                steps.append(Retrieve(taught.workdir, labels, f"test{split}", f"train{split}", flags=more))
            steps += _rows(runs, labels, split, seed, rows, made)
            if split == splits[0]:
                for target in targets:
                    scores = f"retrieval_{Path(target).name}"
                    steps.append(Retrieve(made["self"].workdir, target, "test1", "train1", scores, more))
                    steps += [row for of in splits for row in _rows(runs, target, of, seed, rows, made)]
    return [*steps, _report(runs, steps, "mf.t1,mf.t4,mf.t5,mf.t6,mf.t7")]


def semi(
    root: str = "data/ucf101",
    runs: str = "runs/motionfit",
    seeds: tuple[int, ...] = (0,),
    percents: tuple[int, ...] = (20, 50),
    k: int = 1000,
    frame_flags: str = "",
    flow_flags: str = "",
    predict_flags: str = "",
) -> list[Step]:
    """Table 8: a part of the labels of split 1 of `root`, its other videos without; 3D ResNet-18 throughout.

    percents: of the labels.
    """
    steps: list[Step] = _extractions(root, frame_flags, flow_flags)
    place, more = f"{Path(root).name},1", tuple(shlex.split(predict_flags))
    for seed in seeds:
        own = {"data.root": root, "seed": seed, "model.name": "r3d.R3D18"}
        for percent in percents:
            few, suffix = {"data.fraction": percent / 100, "data.subset_seed": seed}, f"_{percent}-{seed}"
            generator = Train(f"{runs}/motion{suffix}", f"{CONFIG}:motion,{place},none", own | few)
            pseudo = _clusters(generator, root, f"motion{suffix}", ("train1",), k, DENSE, more)
            learnt = {"data.train": "train1", "data.pseudo": pseudo[-1].column}
            taught = Train(f"{runs}/self_motion{suffix}", f"{CONFIG}:self,{place},none", own | learnt)
            cell = f"t8/ours/labeled{percent}"
            begun = few | {"train.init": taught.workdir}
            tuned = Train(f"{runs}/tune_motion{suffix}", f"{CONFIG}:tune,{place},{cell}", own | begun)
            retrieval = Retrieve(taught.workdir, root, "test1", "train1", flags=more)
            steps += [generator, *pseudo, taught, tuned, retrieval]
    return [*steps, _report(runs, steps, "mf.t8")]


def _extractions(root: str, frame_flags: str, flow_flags: str | None, *, large: bool = False) -> list[Step]:
    """Frames, flow unless its flags are None, and frames as large as S3D-G reads them."""
    frames = ("--fps=25", "--short_side=256", "--max_failures=1%", *shlex.split(frame_flags))
    steps: list[Step] = [extract("frames", root, "frames.25fps", "--size=171x128", *frames)]
    if flow_flags is not None:
        flags = ("--method=tvl1", "--size=171x128", "--max_failures=1%", *shlex.split(flow_flags))
        steps.append(extract("flow", root, "flow.tvl1", *flags))
    return [*steps, extract("frames", root, LARGE, "--size=342x256", *frames)] if large else steps


def _clusters(
    generator: Train,
    root: str,
    name: str,
    splits: tuple[str, ...],
    k: int,
    dense: int,
    flags: tuple[str, ...],
    **how: str,
) -> list[Step]:
    """Features of every clip of `root`, and their clusters as the column pseudo.NAME."""
    features = Predict(generator.workdir, root, f"mplg.{name}", splits=splits, dense=dense, flags=flags)
    return [features, Cluster(root, f"pseudo.{name}", features.column, k, splits, **how)]


def _taught(
    runs: str, labels: str, source: str, split: int, seed: int, k: int, rows: tuple[str, ...], flags: tuple[str, ...]
) -> dict:
    """What has learnt motion from one split of the labels: the generator `motion`, its clusters `pseudo`, and networks that have
    seen videos of the source alone, `self`, and where they are wanted `self_s3dg` and `mers`."""
    on, name = f"{Path(labels).name},{split}", f"{Path(labels).name}-{split}-{seed}"
    there = {"data.root": source, "seed": seed}
    motion = Train(f"{runs}/motion-{name}", f"{CONFIG}:motion,{on}", {"data.root": labels, "seed": seed})
    pseudo = _clusters(motion, source, name, ("train",), k, DENSE, flags)
    learnt = there | {"data.pseudo": pseudo[-1].column}
    made = {"motion": motion, "pseudo": pseudo, "self": Train(f"{runs}/self-{name}", f"{CONFIG}:self,{on}", learnt)}
    if "tune_s3dg" in rows:
        made["self_s3dg"] = Train(f"{runs}/self_s3dg-{name}", f"{CONFIG}:self_s3dg,{on}", learnt)
    if "mers" in rows:
        settings = there | {"task.teacher": motion.workdir}
        made["mers"] = Train(f"{runs}/mers_source-{name}", f"{CONFIG}:mers,{on}", settings)
    return made


def _rows(runs: str, root: str, split: int, seed: int, rows: tuple[str, ...], made: dict) -> list[Step]:
    """Rows on one split of `root`, which begin with what was `made` (`_taught`) or at random."""
    steps: list[Step] = []
    for row in rows:
        settings = {"data.root": root, "seed": seed}
        if row == "mars":
            settings["task.teacher"] = made["motion"].workdir
        elif row == "mers" or row.startswith("tune"):
            network = {"mers": "mers", "tune_s3dg": "self_s3dg"}.get(row, "self")
            settings["train.init"] = made[network].workdir
        stage = "tune_mers" if row == "mers" else row
        name = Path(root).name
        steps.append(Train(f"{runs}/{row}-{name}-{split}-{seed}", f"{CONFIG}:{stage},{name},{split}", settings))
    return steps


def _report(runs: str, steps: list[Step], tables: str) -> Report:
    workdirs = dict.fromkeys(step.workdir for step in steps if isinstance(step, Train))
    clusters = next(step.column for step in steps if isinstance(step, Cluster))
    return Report(tuple(workdirs), f"{runs}/report.html", (f"--table={tables}", f"--clusters={clusters}"))
