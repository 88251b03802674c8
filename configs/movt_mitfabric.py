"""MovT regresses stiffness and area weight of fabrics from 10 s clips (MIT Fabric): Pearson's R over test videos.

    python -m mtjax.train --config=configs/movt_mitfabric.py --workdir=runs/movt_mitfabric

Needs data/mitfabric: a CSV catalog with columns path, split, group (the fabric), start_s, end_s, target:stiffness and
target:area_weight, and a `tracks.cotracker3` column of 100 points over 300 frames, extracted with --dtype=float32 (slow
motion is smaller than a float16's step). The paper prints bars without numbers; not yet run here.
"""

from ml_collections import ConfigDict

from configs import movt_jester


def get_config():
    c = movt_jester.get_config()
    c.data.root = "data/mitfabric"
    c.data.frames = 300
    c.data.points = 100
    c.task = ConfigDict({"name": "regress.Regress", "num_targets": 2})
    c.optimizer.lr = 1e-5
    c.evals = ConfigDict(
        {
            "val": {"name": "regression.PearsonR", "split": "val"},
            "test": {"name": "regression.PearsonR", "split": "test"},
        }
    )
    c.train.select = "val/loss"
    c.train.select_mode = "min"
    c.train.table = ("mt.fig3/fabric_stiff/movt=test/r_stiffness", "mt.fig3/fabric_weight/movt=test/r_area_weight")
    return c
