"""Motion teacher on the embedded `mannequin` dataset: 17 COCO joints → 51-D motion → 16 actions.

    python -m mtjax.train --config=configs/mil_mannequin.py --workdir=runs/mil_mannequin
    python -m mtjax.predict runs/mil_mannequin --column=mil.mannequin --splits=train

The second command writes the teacher's soft labels for `configs/guidance_mannequin.py`. Selects on a tenth of train, whole
subjects held out. Expected: see docs/results.md.
"""

from configs import mil_jhmdb


def get_config():
    c = mil_jhmdb.get_config()
    c.data.root = "data/mannequin"
    c.data.generate = {"name": "mannequin", "clips": 2400, "seed": 0, "frames": True}
    c.data.skeleton = "skeletons.COCO_17"
    c.data.train = "train"
    c.data.holdout = 0.1
    c.data.max_rows = 30
    # Small figures seen from all sides: in profile the shoulders meet, and whole people would go unobserved by the paper's gates.
    c.data.scale = False
    c.data.min_score = 0.2
    c.data.min_visible = 5
    c.data.augment.mirror = 0.0  # wave_left is not wave_right
    c.model.features = 51
    c.task.num_classes = 16
    c.optimizer.warmup = 100
    c.evals = {name: {"name": "top1.Top1", "split": name} for name in ("val", "test", "test_shift")}
    c.train.epochs = 40.0
    c.train.eval_every = 8.0
    c.train.watch = ("val",)
    c.train.select = "val/top1"
    c.train.table = ("mg.t1/motion_raw/top1=test/top1",)  # the paper's is UCF101: the report says so
    return c
