"""A figure in front of a camera: projection, occluders, and what hides what; `pose` and `tracks` are read off it.

Positions in the picture are in `unit`: x and y divided by the picture's side, (0, 0) at the top left.
"""

import dataclasses

import numpy as np

from preprocessing.mannequin import actions
from preprocessing.mannequin import body as mannequin_body
from preprocessing.mannequin.body import CAPSULE_PART, PARTS, Body, Figure

MAX_OCCLUDERS = 2
NOWHERE = -9.0  # unit; where an absent occluder is
TRACKER_JITTER_PX = 0.3
KEYPOINT_JITTER = 0.004  # unit, 0.5 px of 128
KEYPOINT_JITTER_HIDDEN = 0.015


@dataclasses.dataclass(frozen=True)
class Camera:
    """Perspective camera looking along -z at `centre_m`, raised by a pitch, followed by a shaky hand.

    Attributes:
      centre_m: [3]. pitch: [3, 3]. distance_m: to the centre. unit_per_m: at the centre's depth.
      offset_unit: [t, 2] of the centre in the picture. shake: [t, 2, 3] affine map of the picture onto itself.
    """

    centre_m: np.ndarray
    pitch: np.ndarray
    distance_m: float
    unit_per_m: float
    offset_unit: np.ndarray
    shake: np.ndarray

    @property
    def position_m(self) -> np.ndarray:
        return self.centre_m + self.pitch[2] * self.distance_m

    def project(self, points_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[t, ..., 3] → unit positions [t, ..., 2] and depths in metres [t, ...]."""
        # Coordinate by coordinate: NumPy is several times slower along a last axis of two or three.
        x, y, z = np.moveaxis((points_m - self.centre_m) @ self.pitch.T, -1, 0)
        depth = self.distance_m - z
        size = self.unit_per_m * self.distance_m / depth
        frame = (slice(None), *(None,) * (points_m.ndim - 2))
        x = size * x + self.offset_unit[:, 0][frame]
        y = self.offset_unit[:, 1][frame] - size * y
        moved = (
            self.shake[:, i, 0][frame] * x + self.shake[:, i, 1][frame] * y + self.shake[:, i, 2][frame] for i in (0, 1)
        )
        return np.stack([*moved], -1), depth

    def widths(self, radius_m: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
        """[t, ...] apparent half-widths in unit."""
        zoom = np.sqrt(np.linalg.det(self.shake[..., :2])).reshape(-1, *(1,) * (depth_m.ndim - 1))
        return radius_m * self.unit_per_m * self.distance_m / depth_m * zoom


@dataclasses.dataclass(frozen=True)
class Scene:
    """Geometry of one clip; the renderer and both columns read this and nothing else.

    Attributes:
      figure, camera: in space.
      joints: [t, 17, 2] unit. joints_depth_m: [t, 17].
      capsules: [t, c, 2 ends, 2] unit, the body's and then the occluders'. radius: [t, c, 2] unit. depth_m: [t, c, 2].
      pan_unit: [t] how far the camera has panned right, in pictures at the figure's depth.
    """

    figure: Figure
    camera: Camera
    joints: np.ndarray
    joints_depth_m: np.ndarray
    capsules: np.ndarray
    radius: np.ndarray
    depth_m: np.ndarray
    pan_unit: np.ndarray


def make_scene(
    label: str,
    frames: int,
    body: Body,
    girth: float,
    motion_rng: np.random.Generator,
    view_rng: np.random.Generator,
) -> Scene:
    """Performs an action in front of a camera. Only `motion_rng`'s draws depend on the label."""
    motion = actions.perform(label, motion_rng, frames, body)
    figure = mannequin_body.move(body, motion, girth)
    camera, slide = _camera(view_rng, figure, body)
    joints, joints_depth = camera.project(figure.joints_m)
    capsules, depth = camera.project(figure.capsules_m)
    bars, bar_radius = _occluders(view_rng, frames)
    panned_m = (motion.travel_m - motion.seen_m) * np.sin(np.deg2rad(motion.yaw))
    return Scene(
        figure,
        camera,
        joints,
        joints_depth,
        np.concatenate([capsules, bars], 1),
        np.concatenate([camera.widths(figure.radius_m, depth), bar_radius], 1),
        np.concatenate([depth, np.zeros_like(bar_radius)], 1),
        panned_m * camera.unit_per_m - slide,
    )


def _camera(rng, figure: Figure, body: Body) -> tuple[Camera, np.ndarray]:
    """A camera that sees (nearly) all of the action, and its sideways slide [t] in unit."""
    frames = len(figure.joints_m)
    clock = np.linspace(0, 1, frames)
    distance, pitch, share = rng.uniform(3.2, 7.0), rng.uniform(-4, 18), rng.uniform(0.5, 0.74)
    slide = rng.uniform(-0.12, 0.12) * (clock - 0.5)
    steady = np.broadcast_to(np.eye(2, 3), (frames, 2, 3))
    centre = np.array([0, body.height / 2, 0])
    plain = Camera(centre, mannequin_body.rotation(0, np.array(pitch)), distance, 1.0, np.zeros((frames, 2)), steady)
    reach, _ = plain.project(figure.joints_m)
    extent = np.ptp(reach.reshape(-1, 2), axis=0) + 0.12 * body.height  # joints end before hands, feet and hair
    scale = min(share / body.height, (0.96 - np.ptp(slide)) / extent.max())
    moved = reach * scale + np.stack([slide, 0 * slide], -1)[:, None]
    low, high = (f(moved.reshape(-1, 2), axis=0) for f in (np.min, np.max))
    border = 0.06 * body.height * scale
    offset = rng.uniform(border - low, np.maximum(1 - border - high, border - low + 1e-6))
    offset = offset + np.stack([slide, 0 * slide], -1)
    return dataclasses.replace(plain, unit_per_m=scale, offset_unit=offset, shake=_shake(rng, clock)), slide


def _shake(rng, clock: np.ndarray) -> np.ndarray:
    """[t, 2, 3] small shifts, rolls and zooms about the middle of the picture; some hands shake more than others."""
    hand = rng.uniform(0, 1) ** 2
    wobble = np.sin(clock[:, None, None] * rng.uniform(3, 16, (3, 4)) + rng.uniform(0, 2 * np.pi, (3, 4))).mean(1)
    shift = 0.014 * hand * wobble[:, :2] + 0.0015 * hand * rng.standard_normal((len(clock), 2))
    roll = np.deg2rad(rng.uniform(-4, 4) + 1.5 * hand * wobble[:, 2])
    zoom = 1 + rng.uniform(-0.04, 0.04) * (clock - 0.5) + 0.01 * hand * wobble[:, 3]
    matrix = np.empty((len(clock), 2, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = zoom * np.cos(roll)
    matrix[:, 1, 0] = zoom * np.sin(roll)
    matrix[:, 0, 1] = -matrix[:, 1, 0]
    matrix[:, :, 2] = 0.5 - matrix[:, :, :2] @ (0.5, 0.5) + shift
    return matrix


def _occluders(rng, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Bars and blobs that drift past in front: ends [t, k, 2, 2] and radii [t, k, 2] in unit, or NOWHERE."""
    clock = np.linspace(-0.5, 0.5, frames)[:, None, None]
    number = rng.choice(MAX_OCCLUDERS + 1, p=(0.45, 0.4, 0.15))
    ends = np.full((frames, MAX_OCCLUDERS, 2, 2), NOWHERE)
    radius = np.zeros((frames, MAX_OCCLUDERS, 2))
    for k in range(number):
        middle = rng.uniform(0.05, 0.95, 2)
        velocity = rng.uniform(-0.5, 0.5, 2) * (1, 0.4)
        slant, blob, size = rng.uniform(-0.35, 0.35), rng.uniform() < 0.4, rng.uniform()
        half = (0.05, 0.03) if blob else (slant, 1.3)  # from the middle to one end
        ends[:, k] = middle + velocity * clock + np.multiply.outer((-1, 1), half)
        radius[:, k] = 0.04 + 0.03 * size if blob else 0.02 + 0.025 * size
    return ends, radius


def hidden(scene: Scene, xy: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
    """[t, p] True where a point (unit [t, p, 2], depth [t, p]) is outside the picture, or behind a limb or an occluder.

    A capsule hides what lies inside its outline and farther away than its axis by more than its radius, so that no limb
    hides its own surface or that of the limb it is joined to.
    """
    a, b, radius, z = (
        x.astype(np.float32)[..., None, :] for x in (*np.moveaxis(scene.capsules, 2, 0), scene.radius, scene.depth_m)
    )
    px, py, pz = (x.astype(np.float32)[:, None] for x in (xy[..., 0], xy[..., 1], depth_m))  # [t, 1, p]
    bone = b - a  # [t, c, 1, 2]
    unit = bone / np.maximum((bone * bone).sum(-1, keepdims=True), 1e-9)
    dx, dy = px - a[..., 0], py - a[..., 1]  # [t, c, p]
    along = dx * unit[..., 0]
    along += dy * unit[..., 1]
    np.clip(along, 0, 1, out=along)
    dx -= along * bone[..., 0]
    dy -= along * bone[..., 1]
    inside = dx * dx + dy * dy < (radius[..., 0] + along * (radius[..., 1] - radius[..., 0])) ** 2
    margin = np.zeros((1, scene.capsules.shape[1], 1), np.float32)  # occluders have depth 0
    margin[0, : len(CAPSULE_PART), 0] = scene.figure.radius_m.max(-1)
    behind = pz - along * (z[..., 1] - z[..., 0]) > z[..., 0] + margin
    return (inside & behind).any(1) | ((xy < 0) | (xy > 1)).any(-1)


def tracks(scene: Scene, rng: np.random.Generator, points: int, size_px: int) -> np.ndarray:
    """float16 [t, points, 3] x_unit, y_unit, occluded (1.0 or 0.0), as a point tracker would give them.

    The points lie on the skin, spread evenly over its area and in random order. Each faces the camera in one frame, the
    one in which a tracker would have found it. Visible points jitter; hidden ones drift away until they are seen again.
    """
    part, local, normal = _surface(scene.figure, rng, points)
    eye = scene.camera.position_m

    def place(turn, origin, local, normal):
        where = np.einsum("...pij,pj->...pi", turn, local) + origin
        return where, np.einsum("...pi,...pij,pj->...p", eye - where, turn, normal)

    turn, origin = scene.figure.rotation[:, part], scene.figure.origin_m[:, part]
    query = rng.integers(len(turn), size=points), np.arange(points)
    _, facing = place(turn[query], origin[query], local, normal)
    half_turn = np.where(facing[:, None] < 0, (-1, 1, -1), 1)  # to the other side of the bone
    where, facing = place(turn, origin, local * half_turn, normal * half_turn)
    xy, depth = scene.camera.project(where)
    occluded = (facing < 0) | hidden(scene, xy, depth)
    drift = _drift(rng.normal(0, 0.9 / size_px, xy.shape), occluded)
    xy = xy + drift + rng.normal(0, TRACKER_JITTER_PX / size_px, xy.shape)
    return np.concatenate([xy, occluded[..., None]], -1).astype(np.float16)


def _surface(figure: Figure, rng, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Part [p], and in its frame position [p, 3] and normal [p, 3], of points spread evenly over the skin."""
    area = figure.length_m * figure.half_width_m.sum((1, 2))
    area[PARTS.index("neck")] = 0  # too short to carry a point worth following
    # Evenly spaced quantiles: a forearm gets its share in every clip, not only on average.
    at = (np.arange(points) + rng.uniform()) / points
    part = rng.permutation(np.searchsorted(np.cumsum(area) / area.sum(), at))
    along, angle = rng.uniform(0, 1, points), rng.uniform(0, 2 * np.pi, points)
    first, last = (figure.half_width_m[part, end] for end in (0, 1))
    wide, deep = (first + along[:, None] * (last - first)).T
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(points)
    return (
        part,
        np.stack([wide * cos, along * figure.length_m[part], deep * sin], -1),
        np.stack([deep * cos, zero, wide * sin], -1),
    )


def _drift(steps: np.ndarray, occluded: np.ndarray) -> np.ndarray:
    """[t, p, 2] random walk of the hidden points, back to 0 whenever a point is visible."""
    walked = np.cumsum(steps, 0)
    last_seen = np.maximum.accumulate(np.where(occluded, -1, np.arange(len(steps))[:, None]), 0)
    start = np.take_along_axis(walked, np.maximum(last_seen, 0)[..., None], 0) * (last_seen >= 0)[..., None]
    return walked - start


def pose(scene: Scene, rng: np.random.Generator, size_px: int) -> np.ndarray:
    """float32 [t, 17, 3] x_px, y_px, score in [0, 1], as a keypoint detector would give them."""
    unseen = hidden(scene, scene.joints, scene.joints_depth_m)
    noise = rng.standard_normal((*scene.joints.shape[:2], 3))
    xy = scene.joints + noise[..., :2] * np.where(unseen, KEYPOINT_JITTER_HIDDEN, KEYPOINT_JITTER)[..., None]
    score = np.clip(np.where(unseen, 0.35 + 0.12 * noise[..., 2], 0.92 + 0.04 * noise[..., 2]), 0, 1)
    return np.concatenate([xy * size_px, score[..., None]], -1).astype(np.float32)
