"""A small X-CLIP student on `mannequin` frames, with few labels and with or without a teacher: rows of the paper's Table 1.

    launch/motion_guidance.sh mannequin                       # the whole chain, all rows, the table
    python -m mtjax.train --config=configs/guidance_mannequin.py:motion_ts_k2 --workdir=runs/motion_ts_k2

The argument is the row: xclip_k2, xclip_k8 (labels alone), motion_ts_k2, motion_ts_k8 (soft labels of the motion teacher's
column `mil.mannequin` on all training clips), xclip_ts_k2, xclip_ts_k8 (of the row xclip_k2 or xclip_k8 itself, columns
`xclip_k2.mannequin`, `xclip_k8.mannequin`), xclip_full (all labels). Trained end to end from random weights, since none can be
downloaded here: what the paper probes is what this learns. Expected: see docs/results.md.
"""

from ml_collections import ConfigDict

ROWS = ("xclip_k2", "xclip_k8", "motion_ts_k2", "motion_ts_k8", "xclip_ts_k2", "xclip_ts_k8", "xclip_full")


def get_config(row: str = "motion_ts_k2"):
    if row not in ROWS:
        raise ValueError(f"guidance_mannequin.py:{row}: rows are {ROWS}")
    shots = int(row[-1]) if row[-1].isdigit() else 0
    taught = "_ts_" in row
    c = ConfigDict()
    c.seed = 0
    c.data = ConfigDict(
        {
            "name": "frames.Frames",
            "root": "data/mannequin",
            "generate": {"name": "mannequin", "clips": 2400, "seed": 0, "frames": True},
            "column": "frames",
            "train": "train",
            "k_shot": shots,
            "subset_seed": 0,
            "holdout": 0.1,  # of all training clips, whole subjects; for selection
            "unlabelled": ("train",) if taught else (),
            "teacher": {"motion": "mil.mannequin", "xclip": f"xclip_k{shots}.mannequin"}[row.split("_")[0]]
            if taught
            else "",
            "frames": 8,
            "size": 48,
            "short_side": 54,
            "augment": {"jitter": 0.8, "grayscale": 0.2},
        }
    )
    c.model = ConfigDict(
        {
            "name": "xclip.VideoEncoder",
            "frames": 8,
            "image": 48,
            "patch": 8,
            "width": 96,
            "layers": 4,
            "heads": 4,
            "output": 96,
            "mit_heads": 4,
            "remat": False,
            "dtype": "float32",
        }
    )
    c.task = ConfigDict({"name": "distill.Distill" if taught else "classify.Classify", "num_classes": 16})
    c.task.label_smoothing = 0.1
    c.optimizer = ConfigDict(
        {
            "name": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.05,
            "decayed": "matrices",
            "clip_norm": 1.0,
            "schedule": "cosine",
            "warmup": 100,
        }
    )
    c.evals = ConfigDict({name: {"name": "top1.Top1", "split": name} for name in ("val", "test", "test_shift")})
    c.train = ConfigDict(
        {
            "batch": 32,
            "epochs": 0.0,
            "steps": 1500 if taught or not shots else 300,
            "log_every": 50,
            "eval_every": 0.0,
            "watch": ("val",),
            "select": "",
            "save_every": 500,
            "table": (f"mg.t1/{row}/top1=test/top1",),  # the paper's is UCF101: the report says so
        }
    )
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    return c
