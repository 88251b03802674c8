"""MovT on the 18 temporal classes of Something-Something V2: 25,012 training and 3,371 validation videos.

    python -m mtjax.train --config=configs/movt_ssv2_temporal18.py --workdir=runs/movt_ssv2

Needs data/ssv2_temporal18 with a `tracks.cotracker3` column of 60 points in the mask of hand and object over 32 frames.
Expected: 53.31 % in the paper; not yet run here (the dataset cannot be downloaded).
"""

from configs import movt_jester


def get_config():
    c = movt_jester.get_config()
    c.data.root = "data/ssv2_temporal18"
    c.task.num_classes = 18
    c.train.table = ("mt.t1/movt/ssv2t_acc=test/top1", "mt.t1/movt/ssv2t_gflops=gmacs")
    return c
