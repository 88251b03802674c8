"""Regression metrics: Pearson's R over videos, relative pose error of camera motion (metrics.md)."""

from typing import TYPE_CHECKING

import numpy as np

from mtjax.command.errors import InputError
from mtjax.command.ranges import Positive
from mtjax.evaluators.aggregation import aggregate
from mtjax.types import Rows

if TYPE_CHECKING:
    from mtjax.data.pipeline import Data


class PearsonR:
    """`config.evals.NAME` for regression: one R per target over videos, each the mean of its clips' predictions."""

    def __init__(self, data: "Data", *, split: str):
        self.split = split
        check_targets(data, split)
        self.names = data.catalog.info.get("target_names") or [str(i) for i in range(data.targets.shape[1])]
        self.video = np.unique([c.path or c.id for c in data.catalog.clips], return_inverse=True)[1]

    def score(self, rows: Rows) -> dict[str, float]:
        """`r_<target>` (NaN when either side is constant), `loss`, and `n` videos."""
        video = self.video[rows["clip"]]
        predicted = aggregate(rows["prediction"], video, "features")[1]
        target = aggregate(rows["target"], video, "features")[1]
        scores = {f"r_{name}": pearson_r(predicted[:, i], target[:, i]) for i, name in enumerate(self.names)}
        return scores | {"loss": float(rows["loss"].mean()), "n": float(len(target))}


class RelativePose:
    """`config.evals.NAME` for camera motion: targets and predictions are (t - 1) × (translation in metres, rotation vector
    in radians) between consecutive frames (ADVIO, movt.md §6)."""

    def __init__(self, data: "Data", *, split: str, step: Positive = 1):
        self.split, self.step = split, step
        check_targets(data, split)

    def score(self, rows: Rows) -> dict[str, float]:
        """RMSE of the relative pose error over all steps of all clips: `rpe_trans_m`, `rpe_rot_deg`; `loss`, `n` clips."""
        errors = [
            relative_pose_errors(trajectory(t), trajectory(p), self.step)
            for t, p in zip(rows["target"], rows["prediction"], strict=True)
        ]
        translation, rotation = (np.concatenate(e) for e in zip(*errors, strict=True))
        return {
            "rpe_trans_m": float(np.sqrt(np.mean(translation**2))),
            "rpe_rot_deg": float(np.sqrt(np.mean(rotation**2))),
            "loss": float(rows["loss"].mean()),
            "n": float(len(errors)),
        }


def check_targets(data: "Data", split: str) -> None:
    """Raises InputError when a clip of the split has no target, or one that is no number."""
    rows = data.rows(split)
    bad = ~np.isfinite(data.targets[rows]).all(1) if data.targets.shape[1] else np.ones(len(rows), bool)
    if bad.any():
        clip = data.catalog.clips[rows[bad.argmax()]].id
        raise InputError(f"split {split!r}: {bad.sum()} of {len(rows)} clips have no target, {clip!r} …")


def pearson_r(predicted: np.ndarray, target: np.ndarray) -> float:
    """Sample correlation; NaN for fewer than two items or when a side is constant (MT-2)."""
    if len(target) < 2 or np.ptp(predicted) == 0 or np.ptp(target) == 0:
        return float("nan")
    return float(np.corrcoef(predicted, target)[0, 1])


def relative_pose_errors(truth: np.ndarray, predicted: np.ndarray, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Errors of camera-to-world poses [t, 4, 4]: E_i = (Q_i^-1 Q_{i+step})^-1 (P_i^-1 P_{i+step}) (MT-3).

    Returns:
      translation in metres and rotation in degrees, [t - step] each. A global rigid transform of either side cancels.
    """
    true_step = np.linalg.inv(truth[:-step]) @ truth[step:]
    predicted_step = np.linalg.inv(predicted[:-step]) @ predicted[step:]
    error = np.linalg.inv(true_step) @ predicted_step
    cosine = np.clip((np.trace(error[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)
    return np.linalg.norm(error[:, :3, 3], axis=1), np.degrees(np.arccos(cosine))


def trajectory(steps: np.ndarray) -> np.ndarray:
    """Chains relative motions [(t - 1) * 6] (translation in the previous camera's frame, rotation vector) to [t, 4, 4]."""
    poses = [np.eye(4)]
    for motion in steps.reshape(-1, 6).astype(np.float64):
        relative = np.eye(4)
        relative[:3, :3] = _rotation(motion[3:])
        relative[:3, 3] = motion[:3]
        poses.append(poses[-1] @ relative)
    return np.stack(poses)


def _rotation(vector: np.ndarray) -> np.ndarray:
    """Rodrigues' formula."""
    angle = np.linalg.norm(vector)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
