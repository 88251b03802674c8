"""MovT on VB100, 100 bird species from 90-frame clips; a video's label is the mean of its clips' probabilities.

    python -m mtjax.train --config=configs/movt_vb100.py --workdir=runs/movt_vb100

Needs data/vb100 with a `tracks.cotracker3` column of 250 points in the bird's mask over 90 frames; clips of one video share
their path. Expected: 15.92 % in the paper; not yet run here (the dataset cannot be downloaded).
"""

from configs import movt_jester


def get_config():
    c = movt_jester.get_config()
    c.data.root = "data/vb100"
    c.data.frames = 90
    c.data.points = 250
    c.task.num_classes = 100
    for section in (c.evals.val, c.evals.test):
        section.aggregate = "probs"
    c.evals.test.split = "test"
    c.train.table = ("mt.t1/movt/vb100_acc=test/top1", "mt.t1/movt/vb100_gflops=gmacs")
    return c
