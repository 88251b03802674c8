"""MotionFit ("Motion-Augmented Self-Training for Video Recognition at Smaller Scale"): one stage an argument.

    python -m mtjax.chain configs/chains/motionfit.py:transfer --help        # the whole chain, three splits, the tables
    python -m mtjax.train --config=configs/motionfit.py:motion,ucf101,1 --workdir=runs/motion-ucf101-1

The argument is STAGE,DATASET,SPLIT of the target; DATASET names data/DATASET and the paper's column, SPLIT is 0 for a split
called "train". Stages that see no label of it, self and mers, train on `--config.data.root=SOURCE`. A fourth part names the cell
where a run that deviates from its stage stands: tune,ucf101,1,t3/kval/500 after clusters of another number, two of them as
t2/acc/clip+t3/kval/1000, or none.

- motion, appearance: labels on flow or RGB, from random weights (Sec. 4.3): the generator, and random initialisation. With
  _R1 to _R4 clips a video (3 unless said), _len32 or _len64 frames and one clip (Table 1).
- motion_order, appearance_order: the order of clips alone, without labels (lambda = 0); tune_motion_order, tune_appearance_order
  train all of `--config.train.init=WORKDIR` of those with labels, as VCOP does.
- self: RGB learns the clusters of `--config.data.pseudo=COLUMN` of `mtjax.cluster`; self_s3dg with S3D-G. The checkpoint is
  selected by the middle clips of the held-out videos and the labels of these very clips. Of Kinetics' validation split
  (Tables 2 and 3): --config.data.train=validation. self_uncommon leaves the classes out that UCF101 has, too (`COMMON`), and
  self_neighbours predicts the labels before and after each clip as well (Sec. 4.4).
- tune: layer3, layer4 and the classifier of `--config.train.init=WORKDIR` of self or mers; tune_len32 with clips of 32 frames,
  tune_s3dg, tune_mers. Semi-supervised (Table 8): --config.data.fraction=0.2, with --config.model.name=r3d.R3D18 in all stages.
- mers: RGB matches the features of `--config.task.teacher=WORKDIR` of motion, without labels; mars: with labels on the target.

Frames and flow at 25 a second, stored as 171 × 128 (README); for S3D-G a column of frames of 342 × 256. All numbers are of
motionfit.md; expected scores are the paper's (Tables 1 to 8). Not run here at this size: neither Kinetics nor UCF101 can be
downloaded. Small: configs/motionfit_mannequin.py.
"""

from pathlib import Path

from ml_collections import ConfigDict

from mtjax.data.selection import class_list

GENERATORS = ("motion", "appearance")
COMMON = Path(__file__).with_name("kinetics400_like_ucf101.txt")  # our reading; the paper's list is not published
ORDER = ("motion_order", "appearance_order")
SETTINGS = ("R1", "R2", "R3", "R4", "len32", "len64")
STAGES = (
    *GENERATORS, *(f"{g}_{s}" for g in GENERATORS for s in SETTINGS), "motion_order", "appearance_order", "tune_motion_order",
    "tune_appearance_order", "self", "self_s3dg", "self_uncommon", "self_neighbours", "tune", "tune_len32", "tune_s3dg",
    "tune_mers", "mers", "mars",
)  # fmt: skip
CELLS = {
    "tune": "t5/ours",
    "tune_len32": "t6/r21d32",
    "tune_s3dg": "t6/s3dg64",
    "appearance": "t5/random",
    "tune_mers": "t5/mers",
    "mars": "t5/mars",
}
ALL_OF_IT = (
    "t3/ktrain/1000",
    "text/st_all_k1000/top1",
)  # what "tune" is after 1000 clusters of all of Kinetics' training videos
TEXT = {"tune_motion_order": "lambda0_motion", "tune_appearance_order": "lambda0_rgb_vcop"}  # Sec. 4.3
LARGE = "frames.25fps.342x256"  # column of frames as large as S3D-G reads them
EPOCHS, MILESTONES = 120.0, (40, 60, 80)  # of the generator and of fine-tuning
SELF_EPOCHS, SELF_MILESTONES = 45.0, (20, 40)


def get_config(which: str = "motion,ucf101,1"):
    """`which`: stage, dataset and official split, see above."""
    stage, dataset, split, *cell = which.split(",")
    if stage not in STAGES or not split.isdigit() or len(cell) > 1:
        raise ValueError(
            f"motionfit.py:{which}: STAGE,DATASET,SPLIT or STAGE,DATASET,SPLIT,CELL, with a stage of {STAGES}"
        )
    number = split if int(split) else ""
    on_source = stage.startswith("self") or stage == "mers"
    c = ConfigDict()
    c.seed = 0
    c.data = ConfigDict(data(stage))
    c.data.update(
        {
            "root": f"data/{dataset}",
            "train": "train" if on_source else f"train{number}",
            "holdout": 0.1,
        }
    )
    c.model = ConfigDict(network(stage))
    c.task = ConfigDict(task(stage))
    epochs, milestones = (SELF_EPOCHS, SELF_MILESTONES) if on_source else (EPOCHS, MILESTONES)
    c.optimizer = ConfigDict(
        {
            "name": "sgd",
            "lr": 1e-3,
            "weight_decay": 5e-4,
            "schedule": "step",
            "milestones": tuple(epoch / epochs for epoch in milestones),
        }
    )
    no_label = stage == "mers" or stage in ORDER  # nothing to be right about
    c.evals = ConfigDict({} if no_label else {"val": {"name": "top1.Top1", "split": "val"}})
    if not on_source and not no_label:  # mean of the ten clips' logits, as VCOP; and of their probabilities
        c.evals.test = {"name": "top1.Top1", "split": f"test{number}"}
        c.evals.test_probs = {"name": "top1.Top1", "split": f"test{number}", "field": "probs_mean"}
    c.train = ConfigDict(
        {
            "batch": (32 if stage == "self_s3dg" else 16) if on_source else 8,
            "epochs": epochs,
            "log_every": 100,
            "watch": ("val",) if c.evals else (),
            "select": "val/top1" if c.evals else "",  # else the last step
            "save_every": 1000,
            "init_skip": (),
            "init_new": (),
            "table": tuple(f"mf.{c}" for c in (given(*cell) if cell else cells(stage, dataset, split))),
        }
    )
    if stage.startswith("tune"):  # heads that belong to the clusters stay behind
        c.train.init_skip = ("^(?!backbone/)",)
        c.train.init_new = ("^head/",)
    c.mesh = ConfigDict()
    return c


def data(stage: str) -> dict:
    """Clips as the stage sees them (§2)."""
    setting = stage.rpartition("_")[2]
    frames = int(setting[3:]) if setting.startswith("len") else 64 if setting == "s3dg" else 16
    size = {"resize": (256, 342), "size": 224} if setting == "s3dg" else {"resize": (128, 171), "size": 112}
    one = stage.startswith(GENERATORS) and setting.startswith("len")
    clips = int(setting[1:]) if setting in SETTINGS[:4] else 1 if one else 3
    spread = {"frames": frames, "clips": clips, "views": 10, **size, "augment": {"flip": 0.0}}
    column = LARGE if setting == "s3dg" else "frames.25fps"
    rgb = {"name": "rgb.Rgb", "column": column} | spread
    flow = {"name": "flow.Flow", "column": "flow.tvl1"} | spread
    if stage in ("mers", "mars"):
        shared = {"workers": 8}
        return {"name": "joined.Joined", "student": rgb, "watched": flow} | shared
    uncommon = {"leave_out": class_list(COMMON)} if stage == "self_uncommon" else {}
    order = {"workers": 8, "ordered": stage in ORDER}
    return flow | order if on_flow(stage) else rgb | order | uncommon


def on_flow(stage: str) -> bool:
    return stage.removeprefix("tune_").startswith("motion")


def network(stage: str) -> dict:
    """§6: R(2+1)D-18 or S3D-G, from random weights; fine-tuning leaves the first half as it is."""
    if stage.endswith("s3dg"):
        model, frozen = {"name": "s3dg.S3DG"}, ("conv1", "conv2", "mixed3")
    else:
        model, frozen = {"name": "r2plus1d.R2Plus1D18"}, ("stem", "layer1", "layer2")
    model["frozen"] = frozen if stage.startswith("tune") and not stage.endswith("_order") else ()
    flow = on_flow(stage)
    return model | {"channels": 2 if flow else 3, "reads": "flow" if flow else "frames"}


def task(stage: str) -> dict:
    """§3 and §9."""
    if stage in ("mers", "mars"):
        alpha = 1.0 if stage == "mars" else 0.0
        return {"name": "distill.Distill", "alpha": alpha, "beta": 0.0, "match": 50.0}
    share = 0.0 if stage in ORDER else 1.0
    return {"name": "multi_clip.MultiClip", "label_share": share, "neighbours": stage == "self_neighbours"}


def given(cell: str) -> list[str]:
    """The cells that a run's argument names."""
    return [] if cell == "none" else [f"{one}=test/top1" for one in cell.split("+")]


def cells(stage: str, dataset: str, split: str) -> list[str]:
    """Where the paper's tables have a result: Tables 1 and 7 are of UCF101's first split, Tables 4 to 6 are means of three."""
    if dataset not in ("ucf101", "hmdb51"):
        return []
    found = [f"{CELLS[stage]}/{dataset}=test/top1"] if stage in CELLS else []
    if stage in ("tune", "tune_len32", "appearance"):
        row = {"tune": "f16", "tune_len32": "f32", "appearance": "random"}[stage]
        found.append(f"t4/{row}/{dataset}=test/top1")
    generator, _, setting = stage.partition("_")
    if (dataset, split) == ("ucf101", "1"):
        if generator in GENERATORS and stage not in ORDER:
            found.append(f"t1/{generator}/{setting or 'R3'}=test/top1")
        found += [f"text/{row}/top1=test/top1" for tuned, row in TEXT.items() if tuned == stage]
        found += [f"{cell}=test/top1" for cell in ALL_OF_IT if stage == "tune"]
    if stage in ("self", "self_s3dg") and split == "1":
        row, column = "ours_s3dg" if setting else "ours_r21d", dataset.rstrip("0123456789")
        found += [f"t7/{row}/{column}_R{k}=retrieval/clip_R@{k}" for k in (1, 5, 20)]  # clips ask, as the paper says
        if (stage, dataset) == (
            "self",
            "ucf101",
        ):  # the same network looks through HMDB51, see configs/chains/motionfit.py
            found += [f"t7/{row}/hmdb_R{k}=retrieval_hmdb51/clip_R@{k}" for k in (1, 5, 20)]
    return found
