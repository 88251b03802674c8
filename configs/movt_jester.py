"""MovT on Jester, 27 hand gestures: 118,562 training clips, the validation set is the test set (test labels are not public).

    python -m mtjax.train --config=configs/movt_jester.py --workdir=runs/movt_jester

Needs data/jester with a `tracks.cotracker3` column of 60 points in the hand's mask over 32 frames (README, "Your own
videos"). Expected: 70.01 % at 32 frames, 77.56 % at 16 in the paper; not yet run here (the dataset cannot be downloaded).
The paper: 50 minutes on its hardware for 50 epochs.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.data = ConfigDict(
        {
            "name": "tracks.Tracks",
            "root": "data/jester",
            "column": "tracks.cotracker3",
            "holdout": 0.1,  # the validation set is the test set: select on a part of train
            "cache": "device",
            # No augmentation: the paper names none. Never mirror: labels have directions.
        }
    )
    c.model = ConfigDict({"name": "movt.MovT"})  # its defaults are the published network
    c.task = ConfigDict({"name": "classify.Classify", "num_classes": 27})
    c.optimizer = ConfigDict(
        {
            "name": "adamw",
            "lr": 1e-4,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "schedule": "plateau",
        }
    )
    c.evals = ConfigDict(
        {"val": {"name": "top1.Top1", "split": "val"}, "test": {"name": "top1.Top1", "split": "validation"}}
    )
    c.train = ConfigDict(
        {
            "batch": 64,
            "epochs": 50.0,
            "log_every": 100,
            "watch": ("val",),
            "select": "val/top1",
            "save_every": 1000,
            "table": ("mt.t1/movt/jester_acc=test/top1", "mt.t1/movt/jester_gflops=gmacs"),
        }
    )
    c.mesh = ConfigDict()
    return c
