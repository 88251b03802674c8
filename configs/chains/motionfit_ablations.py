"""MotionFit's ablations: Tables 1 to 3 and the results that its text gives, all on UCF101's first split.

    python -m mtjax.chain configs/chains/motionfit_ablations.py:ucf101 --source=data/kinetics400
    python -m mtjax.chain configs/chains/motionfit_ablations.py:ucf101 --source=data/kinetics400 --parts=t2,t3_validation

Settings are the keywords of the function (--help). Runs and columns that configs/chains/motionfit.py:transfer makes too have the
same names, so that what is there is used.
"""

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from configs.chains.motionfit import CONFIG, DENSE, _extractions
from configs.motionfit import COMMON, GENERATORS, ORDER, SETTINGS
from mtjax.chain import Cluster, Predict, Report, Step, Train

GRANULARITIES = {
    "video": "video",
    "change": "segment_actionbytes",
    "thirds": "segment_three",
}  # the clip's is Table 3's
NUMBERS = (128, 500, 1000, 1600)
K = 1000  # of Table 2, which does not say it, and of the text


def ucf101(
    source: str,
    labels: str = "data/ucf101",
    runs: str = "runs/motionfit",
    seeds: tuple[int, ...] = (0,),
    parts: tuple[str, ...] = ("t1", "t2", "t3_validation", "t3_train", "text"),
    train: str = "train",
    validation: str = "validation",
    frame_flags: str = "",
    flow_flags: str = "",
    predict_flags: str = "",
) -> list[Step]:
    """Tables 1 to 3, and the results in the text.

    source: dataset without labels, e.g. data/kinetics400; train, validation: its splits. labels: UCF101. parts: t1 (clips a
    video, frames a clip), t2 (granularity, of validation), t3_validation and t3_train (number of clusters), text (order
    alone, clusters of appearance, no common classes, neighbours).
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ValueError(f"motionfit_ablations.py: parts {unknown} are not among {tuple(PARTS)}")
    steps: list[Step] = []
    for root in dict.fromkeys((labels, source)):
        steps += _extractions(root, frame_flags, flow_flags)
    for seed in seeds:
        of = _Runs(runs, labels, source, seed, tuple(shlex.split(predict_flags)))
        for part in parts:
            steps += PARTS[part](of, validation if part in ("t2", "t3_validation") else train)
    steps = list({step.name: step for step in steps}.values())  # parts share runs
    workdirs = tuple(step.workdir for step in steps if isinstance(step, Train))
    return [*steps, Report(workdirs, f"{runs}/ablations.html", ("--table=mf.t1,mf.t2,mf.t3,mf.text",))]


@dataclasses.dataclass(frozen=True)
class _Runs:
    """Steps of one seed."""

    runs: str
    labels: str
    source: str
    seed: int
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{Path(self.labels).name}-1-{self.seed}"

    def trained(
        self, called: str, stage: str, settings: Mapping[str, str] = MappingProxyType({}), cell: str = ""
    ) -> Train:
        """A run of a stage, on `labels` unless the settings say otherwise. `cell`: see configs/motionfit.py."""
        which = ",".join((stage, Path(self.labels).name, "1", *([cell] if cell else [])))
        own = {"data.root": self.labels, "seed": self.seed}
        return Train(f"{self.runs}/{called}-{self.name}", f"{CONFIG}:{which}", own | dict(settings))

    def taught(
        self,
        tag: str,
        split: str,
        k: int,
        cell: str = "",
        *,
        by: str = "motion",
        granularity: str = "clip",
        stage: str = "self",
    ) -> list[Step]:
        """A generator, clusters of a split of the source, what learns them, and what is fine-tuned after that.

        Args:
          tag: added to names; "" for what configs/chains/motionfit.py:transfer makes. stage: of self-training.
        """
        generator = self.trained(by, by)
        column = self.name if (by, split) == ("motion", "train") else f"{by}.{split}.{self.name}"
        features = Predict(generator.workdir, self.source, f"mplg.{column}", (split,), dense=DENSE, flags=self.flags)
        without = os.path.relpath(COMMON) if stage == "self_uncommon" else ""
        name = self.name if not tag or stage == "self_neighbours" else f"{tag}.{self.name}"
        how = {"granularity": granularity, "leave_out": without}
        pseudo = Cluster(self.source, f"pseudo.{name}", features.column, k, (split,), **how)
        suffix = f"_{tag}" if tag else ""
        learnt = {"data.root": self.source, "data.train": split, "data.pseudo": pseudo.column}
        network = self.trained(f"self{suffix}", stage, learnt, "none" if tag else "")
        tuned = self.trained(f"tune{suffix}", "tune", {"train.init": network.workdir}, cell)
        return [generator, features, pseudo, network, tuned]


def _table1(of: _Runs, split: str) -> list[Step]:
    """Three clips a video are each stage's own setting."""
    stages = (generator if s == "R3" else f"{generator}_{s}" for generator in GENERATORS for s in SETTINGS)
    return [of.trained(stage, stage) for stage in stages]


def _table2(of: _Runs, split: str) -> list[Step]:
    steps = _table3_row(of, split, "kval", (K,))
    for granularity, column in GRANULARITIES.items():
        steps += of.taught(f"{split}_{granularity}", split, K, f"t2/acc/{column}", granularity=granularity)
    return steps


def _validation3(of: _Runs, split: str) -> list[Step]:
    return _table3_row(of, split, "kval", NUMBERS)


def _train3(of: _Runs, split: str) -> list[Step]:
    return _table3_row(of, split, "ktrain", NUMBERS)


def _table3_row(of: _Runs, split: str, row: str, numbers: Sequence[int]) -> list[Step]:
    """Some runs have a second cell."""
    steps: list[Step] = []
    for k in numbers:
        if (split, k) == ("train", K):
            steps += of.taught("", split, k)
            continue
        also = {("kval", K): "+t2/acc/clip", ("ktrain", 128): "+text/st_motion_k128/top1"}.get((row, k), "")
        steps += of.taught(f"{split}_{k}", split, k, f"t3/{row}/{k}{also}")
    return steps


def _text(of: _Runs, split: str) -> list[Step]:
    """The gain of neighbours, 0.4, is no score, so that run has no cell: it stands beside "tune"."""
    steps: list[Step] = []
    for stage in ORDER:
        first = of.trained(stage, stage)
        steps += [first, of.trained(f"tune_{stage}", f"tune_{stage}", {"train.init": first.workdir})]
    steps += of.taught("appearance_128", split, 128, "text/st_rgb_k128/top1", by="appearance")
    steps += of.taught("", split, K)
    steps += of.taught("uncommon", split, K, "text/st_no_common/top1", stage="self_uncommon")
    return [*steps, *of.taught("neighbours", split, K, "none", stage="self_neighbours")]


PARTS = {"t1": _table1, "t2": _table2, "t3_validation": _validation3, "t3_train": _train3, "text": _text}
