"""MovT on Jester, 27 hand gestures: 118,562 training clips, the validation set is the test set (test labels are not public).

    python -m mtjax.train --config=configs/movt_jester.py --workdir=runs/movt_jester

Needs data/jester with a `tracks.cotracker3` column of 60 points in the hand's mask over 32 frames (README, "Your own
videos"). Expected: 70.01 % at 32 frames, 77.56 % at 16 in the paper; not yet run here (the dataset cannot be downloaded).
The paper: 50 minutes on its hardware for 50 epochs.
"""

from ml_collections import ConfigDict

from mtjax.models import movt


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.data = ConfigDict(
        {
            "name": "tracks.Tracks",
            "root": "data/jester",
            "column": "tracks.cotracker3",
            "train": "train",
            "holdout": 0.1,  # the validation set is the test set: select on a part of train
            "subset_seed": 0,
            "fraction": 1.0,
            "frames": 32,
            "points": 60,
            "resample": "nearest",
            "normalize": "none",
            "missing": "drop",
            "cache": "device",
            "workers": 0,
            "augment": {},  # the paper names none; never mirror: labels have directions
        }
    )
    c.model = ConfigDict({"name": "movt.MovT", **movt.CALIBRATED, "layers": 4, "dropout": 0.1, "point_identity": 0})
    c.model.remat = False
    c.model.dtype = "float32"
    c.task = ConfigDict({"name": "classify.Classify", "num_classes": 27})
    c.optimizer = ConfigDict(
        {
            "name": "adamw",
            "lr": 1e-4,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "schedule": "plateau",
            "factor": 0.1,
            "patience": 10,
        }
    )
    c.evals = ConfigDict(
        {"val": {"name": "top1.Top1", "split": "val"}, "test": {"name": "top1.Top1", "split": "validation"}}
    )
    c.train = ConfigDict(
        {
            "batch": 64,
            "accumulate": 1,
            "epochs": 50.0,
            "steps": 0,  # overrides epochs
            "log_every": 100,
            "eval_every": 1.0,
            "watch": ("val",),
            "select": "val/top1",
            "save_every": 1000,
            "keep": 2,
            "profile": (0, 0),
            "table": ("mt.t1/movt/jester_acc=test/top1", "mt.t1/movt/jester_gflops=gmacs"),
        }
    )
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1, "rules": ()})
    return c
