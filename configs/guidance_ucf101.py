"""Motion guidance on UCF101 ("Size Doesn't Matter", Table 1), one row an argument. 60/10/30 of motion_guidance.md §7.

    python -m mtjax.chain configs/chains/motion_guidance.py:ucf101 --help                   # the whole chain
    python -m mtjax.train --config=configs/guidance_ucf101.py:motion_ts_k2 --workdir=runs/ucf101/motion_ts_k2-0

Rows that score a video–text model as it is (give its weights with --config.train.init=FOLDER of `mtjax.convert` and the
tokenizer with --config.task.tokenizer=FILE): clip_zs, xclip_zs (five prompts), xclip_zs_prompted (bare names and X-CLIP's
own prompt generator). `mtjax.predict` of xclip_zs writes the features `xclip.embedding` that the other rows read:
xclip_k2, xclip_k8 (logistic regression on all views of a clip, the paper's teacher), xclip_k2_printed, xclip_k8_printed (its
penalty as the paper prints it, which leaves soft labels almost uniform: motion_guidance.md §4), motion_ts_k2, motion_ts_k8 (two
heads, soft labels of the column `mil.ucf101`), xclip_ts_k2, xclip_ts_k8 (of the columns `xclip_k2.ucf101`, `xclip_k8.ucf101`),
xclip_full (a probe with all labels; the table's last row is another paper's whole network, so the probe has no cell there).
motion_raw is the motion teacher itself. Cost and expected scores: not yet run here, UCF101 cannot be downloaded.
"""

import re

from ml_collections import ConfigDict

from configs import mil_mannequin

ZERO_SHOT = ("clip_zs", "xclip_zs", "xclip_zs_prompted")
PROBES = ("xclip_k2", "xclip_k8", "xclip_k2_printed", "xclip_k8_printed", "xclip_full")
TAUGHT = ("motion_ts_k2", "motion_ts_k8", "xclip_ts_k2", "xclip_ts_k8")
WITHOUT_CELL = ("xclip_zs_prompted", "xclip_k2_printed", "xclip_k8_printed", "xclip_full")
ROWS = ("motion_raw", *ZERO_SHOT, *PROBES, *TAUGHT)


def get_config(row: str = "motion_ts_k2"):
    """`row`: of Table 1, see above."""
    if row not in ROWS:
        raise ValueError(f"guidance_ucf101.py:{row}: rows are {ROWS}")
    c = motion_teacher() if row == "motion_raw" else zero_shot(row) if row in ZERO_SHOT else on_features(row)
    c.data.root = "data/ucf101"
    c.data.train = "train1_fit"
    c.data.val = "train1_val"
    c.evals = ConfigDict({"val": {"name": "top1.Top1", "split": "train1_val"}})
    c.evals.test = {"name": "top1.Top1", "split": "test1"}
    if row.startswith(("motion_ts", "xclip_ts")):  # the paper does not say how the two heads predict together
        for rule in ("sup", "weak", "geometric"):
            c.evals[f"test_{rule}"] = {"name": "top1.Top1", "split": "test1", "field": f"probs_{rule}"}
    c.train.table = () if row in WITHOUT_CELL else (f"mg.t1/{row}/top1=test/top1",)
    return c


def motion_teacher():
    """§2: 51-D motion of every frame at 25 fps, at most 256 rows."""
    c = mil_mannequin.get_config()
    del c.data.generate
    c.data.column = "pose.vitpose_b"
    c.data.holdout = 0.0
    c.data.max_rows = 256
    c.data.scale = True
    c.data.min_score = 0.8
    c.data.min_visible = 9
    c.data.cache = "none"
    c.data.augment = {"mirror": 0.5}
    c.task.num_classes = 0  # the dataset's
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = 620  # 5 epochs
    c.train.epochs = 100.0
    c.train.eval_every = 1.0
    c.train.watch = ("val",)
    c.train.select = "val/top1"
    return c


def zero_shot(row: str):
    """§3 and §6: the model as it is; no step is taken. Its augmentation is what `mtjax.predict --copies` draws."""
    c = ConfigDict()
    c.seed = 0
    c.data = ConfigDict(
        {
            "name": "frames.Frames",
            "column": "frames",
            "frames": 32,
            "augment": {"flip": 0.5, "jitter": 0.8, "grayscale": 0.2},
        }
    )
    # 32 frames need the 32-frame checkpoint, xclip-base-patch16-zero-shot.
    c.model = ConfigDict({"name": "openai_clip.CLIP"} if row == "clip_zs" else {"name": "xclip.XCLIP", "frames": 32})
    c.task = ConfigDict({"name": "zero_shot.ZeroShot", "tokenizer": "bpe_simple_vocab_16e6.txt.gz"})
    if row == "xclip_zs_prompted":
        c.task.prompts = ("{}",)
        c.task.prompted = True
    c.optimizer = ConfigDict({"name": "adamw", "lr": 1e-5})
    c.train = ConfigDict({"batch": 8, "epochs": 0.0})
    c.train.init_new = ("^prototypes$",)  # the task computes them from the texts
    c.mesh = ConfigDict()
    return c


def on_features(row: str):
    """§4 and §5: heads on the frozen features of X-CLIP."""
    shots = int(found[1]) if (found := re.search(r"_k(\d)", row)) else 0
    c = ConfigDict()
    c.seed = 0
    c.data = ConfigDict(
        {
            "name": "features.Features",
            "column": "xclip.embedding",
            "width": 512,
            "k_shot": shots,
            "cache": "device",
        }
    )
    c.model = ConfigDict({"name": "frozen.Frozen", "width": 512})
    c.mesh = ConfigDict()
    if "_ts_" in row:
        c.data.views = "random"
        c.data.unlabelled = ("train1_fit", "train1_val")
        c.data.teacher = "mil.ucf101" if row.startswith("motion") else f"xclip_k{shots}.ucf101"
        c.task = ConfigDict({"name": "distill.Distill", "heads": 2})
        c.optimizer = ConfigDict({"name": "adamw", "lr": 1e-3, "weight_decay": 1e-4, "schedule": "constant"})
        c.train = ConfigDict({"batch": 512, "epochs": 200.0, "eval_every": 5.0})
    else:
        c.data.views = "all"
        penalty = "printed" if row.endswith("_printed") else "sklearn_C1"
        c.task = ConfigDict({"name": "classify.Classify", "penalty": penalty})
        c.optimizer = ConfigDict({"name": "lbfgs"})
        c.train = ConfigDict({"batch": 0, "epochs": 1000.0, "eval_every": 1.0})
        c.train.patience = 20
        c.train.min_delta = 0.1  # in % here, the paper's 1e-3
    c.train.watch = ("val",)
    c.train.select = "val/top1"
    return c
