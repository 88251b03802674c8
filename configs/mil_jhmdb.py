"""Motion teacher on real human joints: JHMDB, 14 classes, 15 joints (45-D motion), 609 clips, official splits 1 to 3.

    python -m preprocessing.catalog motion-npz JHMDB_FOLDER data/jhmdb
    python -m mtjax.train --config=configs/mil_jhmdb.py:1 --workdir=runs/mil_jhmdb1 --config.seed=0

The argument is the split. The joints are JHMDB's `pos_world`, already divided by the puppet's size, so motion is not divided
by the shoulder distance (`data.scale`), and every joint has score 1. Expected: not yet measured over splits and seeds.
"""

from ml_collections import ConfigDict


def get_config(split: str = "1"):
    c = ConfigDict()
    c.seed = 0
    c.data = ConfigDict(
        {
            "name": "pose.Pose",
            "root": "data/jhmdb",
            "column": "pose",
            "skeleton": "skeletons.JHMDB_15",
            "train": f"train{split}",
            "holdout": 0.0,
            "fraction": 1.0,
            "subset_seed": 0,
            "max_rows": 40,  # the longest clip
            "scale": False,
            "cache": "device",
            "augment": {
                "mirror": 0.5,
                "rotate_deg": 10.0,
                "scale": 0.2,
                "time_crop": 0.3,
                "noise": 0.0,
                "drop_joints": 0.0,
            },
        }
    )
    c.model = ConfigDict(
        {
            "name": "mil.MotionMIL",
            "features": 45,
            "width": 256,
            "layers": 2,
            "heads": 4,
            "feed_forward": 256,
            "attention": 128,
            "dropout": 0.1,
        }
    )
    c.task = ConfigDict(
        {"name": "classify.Classify", "num_classes": 14, "hidden": 256, "dropout": 0.1, "label_smoothing": 0.1}
    )
    c.optimizer = ConfigDict(
        {
            "name": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "schedule": "cosine",
            "warmup": 70,
        }
    )
    c.evals = ConfigDict({"test": {"name": "top1.Top1", "split": f"test{split}"}})
    c.train = ConfigDict(
        {
            "batch": 64,
            "epochs": 100.0,
            "steps": 0,  # overrides epochs
            "log_every": 50,
            "eval_every": 0.0,
            "watch": (),
            "select": "",
            "save_every": 0,
            "table": ("mg.t1/motion_raw/top1=test/top1",),  # the paper's is UCF101: the report says so
        }
    )
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    return c
