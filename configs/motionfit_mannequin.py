"""MotionFit in small, on the embedded `mannequin`: 20 % of the training labels, the rest of the videos without any.

    python -m mtjax.chain configs/chains/motionfit.py:mannequin            # the whole chain, three seeds, the table
    python -m mtjax.train --config=configs/motionfit_mannequin.py:motion --workdir=runs/motionfit/motion-0

The argument is a stage of configs/motionfit.py: motion (the generator), motion_R1 (one clip a video), appearance (RGB from random
weights), self (of `--config.data.pseudo=COLUMN`, every training video, no label), tune (of `--config.train.init=WORKDIR`). An
eighth of the published width, clips of 8 frames, every other of 16 a second, of 32 × 32 pixels cut out of 36 × 36; 1,664 training
videos, 336 of them labelled, 32 clusters. Expected: test top-1, mean ± standard deviation of seeds 0 to 2 (docs/results.md): motion
58.3 ± 1.0, motion_R1 51.5 ± 4.6, appearance 19.8 ± 12.5, tune 35.9 ± 23.1, of appearance's clusters 22.6 ± 17.7.
"""

from configs import motionfit

STAGES = ("motion", "motion_R1", "appearance", "self", "tune")
TABLE = {  # the paper's are of UCF101: the report says so
    "motion": ("mf.t1/motion/R3=test/top1",),
    "motion_R1": ("mf.t1/motion/R1=test/top1",),
    "appearance": ("mf.t1/appearance/R3=test/top1",),
    "self": tuple(f"mf.t7/ours_r21d/ucf_R{k}=retrieval/clip_R@{k}" for k in (1, 5, 20)),
    "tune": ("mf.t8/ours/labeled20=test/top1",),
}


def get_config(stage: str = "motion"):
    """`stage`: one of `STAGES`."""
    if stage not in STAGES:
        raise ValueError(f"motionfit_mannequin.py:{stage}: stages are {STAGES}")
    c = motionfit.get_config(f"{stage},mannequin,0")
    flow = stage.startswith("motion")
    c.data.column = "flow.36" if flow else "frames.36"
    if not flow:
        c.data.normalize = "clip"
    c.data.frames = 8
    c.data.stride = 2
    c.data.views = 3
    c.data.resize = (36, 36)
    c.data.size = 32
    del c.data.workers
    c.data.holdout = 0.0  # settings were chosen on other parts of train, see docs/results.md; the last step is scored
    c.data.fraction = 1.0 if stage == "self" else 0.2
    c.model.width = 8
    c.optimizer.lr = 2e-2 if stage == "self" else 1e-2
    c.optimizer.schedule = "cosine"
    c.evals = {
        name: {"name": "top1.Top1", "split": name} for name in (() if stage == "self" else ("test", "test_shift"))
    }
    c.train.batch = 4  # small steps, many of them: with 16 videos a step self-training is over when learning begins
    c.train.epochs = {"self": 10.0, "tune": 20.0}.get(stage, 40.0)
    c.train.log_every = 50
    c.train.watch = ()
    c.train.select = ""
    c.train.save_every = 500
    c.train.table = TABLE[stage]
    return c
