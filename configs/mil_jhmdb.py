"""Motion teacher on real human joints: JHMDB, 14 classes, 15 joints (45-D motion), 609 clips, official splits 1 to 3.

    python -m preprocessing.catalog motion-npz JHMDB_FOLDER data/jhmdb
    python -m mtjax.train --config=configs/mil_jhmdb.py:1 --workdir=runs/mil_jhmdb1 --config.seed=0

The argument is the split. The joints are JHMDB's `pos_world`, already divided by the puppet's size, so motion is not divided
by the shoulder distance (`data.scale`); `data.gain` brings it near the paper's unit (the median shoulder distance is 0.19).
Trains on the whole training split for 100 epochs and scores the last step; what changes clips and weights in training was
chosen on held-out fifths of the training splits. Expected: see docs/results.md.
"""

from configs import mil_mannequin


def get_config(split: str = "1"):
    """`split`: the official one, 1 to 3."""
    c = mil_mannequin.get_config()
    del c.data.generate
    c.data.root = "data/jhmdb"
    c.data.skeleton = "skeletons.JHMDB_15"
    c.data.train = f"train{split}"
    c.data.holdout = 0.0
    c.data.max_rows = 40  # the longest clip
    c.data.min_score = 0.8  # every joint has score 1
    c.data.min_visible = 9
    c.data.gain = 10.0
    c.data.augment = {"mirror": 0.5, "rotate_deg": 20.0, "scale": 0.4, "speed": 0.3, "time_crop": 0.4}
    c.model.features = 45
    c.model.dropout = 0.3
    c.task.num_classes = 14
    c.task.dropout = 0.3
    c.optimizer.warmup = 70
    c.optimizer.ema = 0.99
    c.evals = {"test": {"name": "top1.Top1", "split": f"test{split}"}}
    c.train.epochs = 100.0
    c.train.eval_every = 0.0
    c.train.watch = ()
    c.train.select = ""
    return c
