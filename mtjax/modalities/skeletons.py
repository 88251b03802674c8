"""Skeletons: which joints a pose has, which is whose mirror image, where the shoulders are, what is drawn as a limb."""

import dataclasses
import functools

from mtjax.command.errors import InputError


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """Joint names in the order of the pose column; left and right are the person's own.

    Attributes:
      limbs: pairs of joint names, for drawing.
      shoulders: the two joints whose midpoint is the origin and whose distance is the unit of motion features.
    """

    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]
    shoulders: tuple[str, str] = ("left_shoulder", "right_shoulder")

    def __post_init__(self):
        named = set(self.shoulders) | {joint for limb in self.limbs for joint in limb}
        if unknown := sorted(named - set(self.joints)):
            raise InputError(f"skeleton: {unknown} are not among its joints {self.joints}")

    def __len__(self) -> int:
        return len(self.joints)

    def indices(self, *names: str) -> tuple[int, ...]:
        return tuple(self.joints.index(name) for name in names)

    @property
    def shoulder_indices(self) -> tuple[int, ...]:
        return self.indices(*self.shoulders)

    @property
    def limb_indices(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self.indices(*limb) for limb in self.limbs)

    @functools.cached_property
    def mirror(self) -> tuple[int, ...]:
        """Joint i of a mirror image is joint `mirror[i]` of the original: left and right change places."""
        return mirror_order(self.joints)


def mirror_order(joints: tuple[str, ...]) -> tuple[int, ...]:
    """For joints named `left_…` and `right_…`; a joint without a partner stays where it is."""
    swapped = [n.replace("left", "\0").replace("right", "left").replace("\0", "right") for n in joints]
    return tuple(joints.index(name) if name in joints else i for i, name in enumerate(swapped))


COCO_17 = Skeleton(
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    limbs=(
        ("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"), ("right_eye", "right_ear"),
        ("left_shoulder", "right_shoulder"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
        ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"), ("left_shoulder", "left_hip"),
        ("right_shoulder", "right_hip"), ("left_hip", "right_hip"), ("left_hip", "left_knee"),
        ("left_knee", "left_ankle"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"),
    ),
)  # fmt: skip

# JHMDB's own order, as its readme has it.
JHMDB_15 = Skeleton(
    joints=(
        "neck", "belly", "face", "right_shoulder", "left_shoulder", "right_hip", "left_hip", "right_elbow", "left_elbow",
        "right_knee", "left_knee", "right_wrist", "left_wrist", "right_ankle", "left_ankle",
    ),
    limbs=(
        ("face", "neck"), ("neck", "belly"), ("neck", "right_shoulder"), ("neck", "left_shoulder"),
        ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"), ("left_shoulder", "left_elbow"),
        ("left_elbow", "left_wrist"), ("belly", "right_hip"), ("belly", "left_hip"), ("right_hip", "right_knee"),
        ("right_knee", "right_ankle"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"),
    ),
)  # fmt: skip
