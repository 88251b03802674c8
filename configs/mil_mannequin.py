"""Motion teacher on the embedded `mannequin` dataset: 17 COCO joints → 51-D motion → 16 actions.

    python -m mtjax.train --config=configs/mil_mannequin.py --workdir=runs/mil_mannequin
    python -m mtjax.predict runs/mil_mannequin --column=mil.mannequin --splits=train

The second command writes the teacher's soft labels for `configs/guidance_mannequin.py`. Model and optimiser are the defaults
of motion_guidance.md §2. Selects on a tenth of train, whole subjects held out. Expected: see docs/results.md.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.data = ConfigDict(
        {
            "name": "pose.Pose",
            "root": "data/mannequin",
            "generate": {"name": "mannequin", "clips": 2400, "seed": 0, "frames": True},
            "holdout": 0.1,
            "max_rows": 30,
            # Small figures seen from all sides: in profile the shoulders meet, and whole people would go unobserved by the
            # paper's gates.
            "scale": False,
            "min_score": 0.2,
            "min_visible": 5,
            "cache": "device",
            "augment": {
                # No mirror: wave_left is not wave_right.
                "rotate_deg": 10.0,
                "scale": 0.2,
                "time_crop": 0.3,
            },
        }
    )
    c.model = ConfigDict({"name": "mil.MotionMIL"})
    c.task = ConfigDict(
        {"name": "classify.Classify", "num_classes": 16, "hidden": 256, "dropout": 0.1, "label_smoothing": 0.1}
    )
    c.optimizer = ConfigDict(
        {
            "name": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "schedule": "cosine",
            "warmup": 100,
        }
    )
    c.evals = ConfigDict({name: {"name": "top1.Top1", "split": name} for name in ("val", "test", "test_shift")})
    c.train = ConfigDict(
        {
            "batch": 64,
            "epochs": 40.0,
            "eval_every": 8.0,
            "watch": ("val",),
            "select": "val/top1",
            "table": ("mg.t1/motion_raw/top1=test/top1",),  # the paper's is UCF101: the report says so
        }
    )
    c.mesh = ConfigDict()
    return c
