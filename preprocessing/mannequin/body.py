"""The body of `mannequin`: bones, forward kinematics, and the solid parts that are drawn, tracked and hide one another.

Axes of a person: x to the person's left, y up, z forwards; metres. A person who faces the camera (yaw 0) therefore has
the left side at larger picture x. Proportions are those of Drillis & Contini (1966), as fractions of the body height.
"""

import dataclasses

import numpy as np

from preprocessing.mannequin.actions import Motion

JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
PARTS = (
    "torso", "pelvis", "neck", "head", "left_upper_arm", "right_upper_arm", "left_forearm", "right_forearm",
    "left_thigh", "right_thigh", "left_shank", "right_shank", "left_foot", "right_foot",
)  # fmt: skip
CAPSULE_PART = np.array([0, *range(len(PARTS))])  # the torso is two capsules side by side, every other part is one
SIDE_SIGN = np.array([1.0, -1.0])  # x of LEFT and RIGHT


@dataclasses.dataclass(frozen=True)
class Body:
    """Lengths and half-widths in metres."""

    height: float
    shoulder: float  # half the distance between the shoulder joints
    hip: float
    trunk: float  # hip to shoulder
    upper_arm: float
    forearm: float
    thigh: float
    shank: float
    ankle: float  # height of the ankle above the sole
    foot: float
    hand_radius: float

    @property
    def hand(self) -> float:
        """Wrist to fingertips of a loosely closed hand."""
        return 0.06 * self.height

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Body":
        """Short or tall, narrow or wide, long or short limbs."""
        height, wide = rng.uniform(1.5, 1.95), rng.uniform(0.88, 1.14)
        share = np.array([0.118 * wide, 0.058 * wide, 0.285, 0.178, 0.148, 0.245, 0.246, 0.045, 0.11, 0.024])
        return cls(height, *(height * share * rng.uniform(0.94, 1.06, len(share))).tolist())


@dataclasses.dataclass(frozen=True)
class Figure:
    """A moving body. The local y axis of a part runs along its bone, from `y = 0` to `y = length`.

    Attributes:
      joints_m: [t, 17, 3] in COCO order.
      origin_m: [t, part, 3] and rotation: [t, part, 3, 3] of the parts.
      length_m: [part]. half_width_m: [part, 2 ends, 2] along local x and z.
      capsules_m: [t, capsule, 2 ends, 3]. radius_m: [capsule, 2 ends].
    """

    joints_m: np.ndarray
    origin_m: np.ndarray
    rotation: np.ndarray
    length_m: np.ndarray
    half_width_m: np.ndarray
    capsules_m: np.ndarray
    radius_m: np.ndarray


def rotation(axis: int, degrees: np.ndarray) -> np.ndarray:
    """[..., 3, 3] right-handed rotations about x, y or z (0, 1, 2)."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., axis, axis] = 1
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[..., i, i] = matrix[..., j, j] = cos
    matrix[..., i, j], matrix[..., j, i] = -sin, sin
    return matrix


def move(body: Body, motion: Motion, girth: float) -> Figure:
    """Forward kinematics: joint angles → joints and parts of every frame, the lower foot on the floor (y = 0)."""
    root = rotation(1, motion.yaw)
    trunk = root @ rotation(1, motion.twist) @ rotation(2, motion.tilt) @ rotation(0, motion.lean)
    head = trunk @ rotation(1, motion.look) @ rotation(0, motion.nod)
    arm, leg = motion.arm, motion.leg
    upper = trunk[:, None] @ rotation(2, SIDE_SIGN * arm[..., 1]) @ rotation(0, -arm[..., 0])
    upper = upper @ rotation(1, SIDE_SIGN * arm[..., 2])
    fore = upper @ rotation(0, -arm[..., 3])
    thigh = root[:, None] @ rotation(2, SIDE_SIGN * leg[..., 1]) @ rotation(0, -leg[..., 0])
    shank = thigh @ rotation(0, leg[..., 2])

    hip = SIDE_SIGN[:, None] * root[:, None, :, 0] * body.hip
    knee = hip - thigh[..., 1] * body.thigh
    ankle = knee - shank[..., 1] * body.shank
    pelvis = _place(body, motion, root, ankle)
    hip, knee, ankle = (x + pelvis[:, None] for x in (hip, knee, ankle))
    foot = _foot(root, shank, ankle[..., 1] - body.ankle)
    neck = pelvis + trunk[..., 1] * body.trunk
    shoulder = neck[:, None] + SIDE_SIGN[:, None] * trunk[:, None, :, 0] * body.shoulder
    elbow = shoulder - upper[..., 1] * body.upper_arm
    wrist = elbow - fore[..., 1] * body.forearm
    # nose, eyes, ears: left, up and forward of the base of the neck, in body heights
    face = np.array([(0, 0.112, 0.06), (0.02, 0.132, 0.05), (-0.02, 0.132, 0.05), (0.052, 0.12, 0), (-0.052, 0.12, 0)])
    face = neck[:, None] + np.einsum("tij,kj->tki", head, face * body.height)
    joints = np.concatenate([face, shoulder, elbow, wrist, hip, knee, ankle], 1)
    skull = neck + head[..., 1] * 0.1 * body.height
    origins = (pelvis[:, None], hip[:, 1:], neck[:, None], skull[:, None], shoulder, elbow, hip, knee, ankle)
    # Limbs point down in their own frame; turning them about x makes local y run along every bone.
    flip = np.diag([1.0, -1.0, -1.0])
    across = root @ rotation(2, np.array(-90.0))  # the pelvis is a bone from the right hip to the left one
    turns = (
        trunk[:, None],
        across[:, None],
        head[:, None],
        head[:, None],
        *(x @ flip for x in (upper, fore, thigh, shank)),
        foot,
    )
    return _solids(body, girth, joints, np.concatenate(origins, 1), np.concatenate(turns, 1))


def _place(body: Body, motion: Motion, root: np.ndarray, ankle: np.ndarray) -> np.ndarray:
    """[t, 3] where the pelvis is, given the ankles [t, 2, 3] relative to it."""
    pelvis = root[..., 2] * motion.seen_m[:, None]
    pelvis[:, 1] = body.ankle - ankle[..., 1].min(1) + motion.lift_m
    if motion.planted:
        # The leg that bears the weight pulls its foot back to where it rests: the lower one, or both.
        bearing = np.exp(-(ankle[..., 1] - ankle[..., 1].min(1, keepdims=True)) / 0.04)
        bearing /= bearing.sum(1, keepdims=True)
        rest_x = SIDE_SIGN * (body.hip + np.sin(np.deg2rad(motion.leg[..., 1])) * (body.thigh + body.shank))
        slip = root[:, None, :, 0] * rest_x[..., None] - ankle
        pelvis[:, [0, 2]] += (slip * bearing[..., None]).sum(1)[:, [0, 2]]
    return pelvis


def _foot(root: np.ndarray, shank: np.ndarray, height_m: np.ndarray) -> np.ndarray:
    """[t, 2, 3, 3] flat on the floor, hanging from the shank in the air; local y towards the toes."""
    airborne = np.clip(height_m / 0.15, 0, 1)[..., None]
    toes = (1 - airborne) * root[:, None, :, 2] + airborne * (shank[..., 2] - 0.5 * shank[..., 1])
    toes /= np.linalg.norm(toes, axis=-1, keepdims=True)
    left = shank[..., 0] - (shank[..., 0] * toes).sum(-1, keepdims=True) * toes
    left /= np.linalg.norm(left, axis=-1, keepdims=True)
    return np.stack([left, toes, np.cross(left, toes)], -1)


def _solids(body: Body, girth: float, joints, origin, turn) -> Figure:
    """Wraps the bones in solid parts; `girth` scales every thickness (clothes, hence appearance)."""
    h, pair = body.height, lambda x: (x, x)
    depth = 0.062 * h * girth  # of the trunk, front to back, halved
    lengths = (body.trunk - 0.7 * depth, 2 * body.hip, 0.08 * h, 0.045 * h)
    lengths += (*pair(body.upper_arm), *pair(body.forearm + body.hand))
    lengths += (*pair(body.thigh), *pair(body.shank), *pair(body.foot))
    ends = np.array([
        (depth, depth), pair(0.053 * h * girth), (0.032 * h, 0.03 * h), (0.053 * h, 0.055 * h),
        *pair((0.03 * h * girth, 0.024 * h * girth)), *pair((0.024 * h * girth, body.hand_radius)),
        *pair((0.047 * h * girth, 0.034 * h * girth)), *pair((0.034 * h * girth, 0.022 * h * girth)),
        *pair((0.024 * h, 0.018 * h)),
    ])  # fmt: skip
    half_width = np.repeat(ends[..., None], 2, -1)
    half_width[0, :, 0] = np.maximum((body.hip + 0.6 * depth, body.shoulder + 0.25 * depth), depth)
    length = np.array(lengths)
    local = np.zeros((len(CAPSULE_PART), 2, 3))
    local[:, 1, 1] = length[CAPSULE_PART]
    local[:2, :, 0] = SIDE_SIGN[:, None] * (half_width[0, :, 0] - depth)
    capsules = origin[:, CAPSULE_PART, None] + np.einsum("tcij,cej->tcei", turn[:, CAPSULE_PART], local)
    return Figure(joints, origin, turn, length, half_width, capsules, ends[CAPSULE_PART])
