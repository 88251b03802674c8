"""Quick start: a small MovT on the embedded `mannequin` dataset, 16 actions that only motion tells apart.

    python -m mtjax.train --config=configs/movt_mannequin.py --workdir=runs/movt_mannequin

Makes data/mannequin on first use (2,400 clips). Selects on a tenth of train, whole subjects held out.
Expected: see docs/results.md.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.data = ConfigDict(
        {
            "name": "tracks.Tracks",
            "root": "data/mannequin",
            "generate": {"name": "mannequin", "clips": 2400, "seed": 0},
            "holdout": 0.1,
            "points": 32,
            "normalize": "clip",
            "cache": "device",
            "augment": {"scale": 0.1, "rotate_deg": 5.0, "shift": 0.1},
        }
    )
    c.model = ConfigDict(
        {
            "name": "movt.MovT",
            "motion": (48, 48),
            "branch": 48,
            "position": (64,),
            "layers": 3,
            "heads": 4,
            "feed_forward": 192,
            "chunk": 8,  # on a CPU; 0 on anything larger
        }
    )
    c.task = ConfigDict({"name": "classify.Classify", "num_classes": 16, "label_smoothing": 0.1})
    c.optimizer = ConfigDict(
        {
            "name": "adamw",
            "lr": 2e-3,
            "weight_decay": 0.05,
            "decayed": "matrices",
            "clip_norm": 1.0,
            "schedule": "cosine",
            "warmup": 50,
        }
    )
    c.evals = ConfigDict(
        {
            "val": {"name": "top1.Top1", "split": "val"},
            "test": {"name": "top1.Top1", "split": "test"},
            "test_shift": {"name": "top1.Top1", "split": "test_shift"},
        }
    )
    c.train = ConfigDict(
        {
            "batch": 32,
            "epochs": 12.0,
            "eval_every": 3.0,
            "watch": ("val",),
            "select": "val/top1",
        }
    )
    c.mesh = ConfigDict()
    return c
