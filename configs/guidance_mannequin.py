"""A small X-CLIP student on `mannequin` frames, with few labels and with or without a teacher: rows of the paper's Table 1.

    python -m mtjax.chain configs/chains/motion_guidance.py:mannequin      # the whole chain, all rows, the table
    python -m mtjax.train --config=configs/guidance_mannequin.py:motion_ts_k2 --workdir=runs/motion_ts_k2

The argument is the row: xclip_k2, xclip_k8 (labels alone), motion_ts_k2, motion_ts_k8 (soft labels of the motion teacher's
column `mil.mannequin` on all training clips), xclip_ts_k2, xclip_ts_k8 (of the row xclip_k2 or xclip_k8 itself, columns
`xclip_k2.mannequin`, `xclip_k8.mannequin`), xclip_full (all labels). Trained end to end from random weights, since none can be
downloaded here: what the paper probes is what this learns. Expected: see docs/results.md; a row with a teacher takes about ten
minutes on one core.
"""

from configs import movt_mannequin

ROWS = ("xclip_k2", "xclip_k8", "motion_ts_k2", "motion_ts_k8", "xclip_ts_k2", "xclip_ts_k8", "xclip_full")


def get_config(row: str = "motion_ts_k2"):
    """`row`: of the table, see above."""
    if row not in ROWS:
        raise ValueError(f"guidance_mannequin.py:{row}: rows are {ROWS}")
    shots = int(row[-1]) if row[-1].isdigit() else 0
    taught = "_ts_" in row
    c = movt_mannequin.get_config()
    c.data = {
        "name": "frames.Frames",
        "root": "data/mannequin",
        "generate": c.data.generate.to_dict() | {"frames": True},
        "k_shot": shots,
        "holdout": 0.1,  # of all training clips, whole subjects; for selection
        "unlabelled": ("train",) if taught else (),
        "teacher": {"motion": "mil.mannequin", "xclip": f"xclip_k{shots}.mannequin"}[row.split("_")[0]]
        if taught
        else "",
        "size": 48,
        "short_side": 54,
        "normalize": "background",
        "cache": "device",
        "augment": {"invert": 0.5, "grayscale": 0.3},  # the shifted split is known to look different
    }
    c.model = {
        "name": "xclip.VideoEncoder",
        "image": 48,
        "patch": 12,
        "width": 64,
        "layers": 3,
        "heads": 4,
        "output": 64,
        "mit_heads": 4,
    }
    c.task.name = "distill.Distill" if taught else "classify.Classify"
    if taught:
        c.task.alpha = 0.1  # a batch has one labelled clip or none: at 1.0 its loss drowns what the teacher says
    c.optimizer.lr = 1e-3
    c.optimizer.warmup = 100
    c.train.steps = 3000 if taught or not shots else 500
    c.train.eval_every = 0.0
    del c.train.select
    c.train.save_every = 500
    # The paper's are of UCF101: the report says so. Its row with all labels is another paper's network.
    c.train.table = () if row == "xclip_full" else (f"mg.t1/{row}/top1=test/top1",)
    return c
