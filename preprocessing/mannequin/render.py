"""Pictures of `mannequin`: the same capsules that hide points from the tracker, painted far to near with OpenCV."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from preprocessing.mannequin.body import CAPSULE_PART, PARTS
from preprocessing.mannequin.look import Look
from preprocessing.mannequin.scene import Scene

OVERSAMPLING = 2  # painted twice as large, then averaged: smooth edges
SUBPIXEL_BITS = 4  # of OpenCV's fixed-point coordinates
PARALLAX = 0.6  # the wall is farther away than the figure, so a pan moves it less
JPEG_QUALITY = 90
TORSO = (0, 1)  # its two capsules are painted as one
OCCLUDER = 255  # in label masks
CLOTHES = {  # of a part; everything else is skin
    "torso": "shirt", "upper_arm": "shirt", "pelvis": "trousers", "thigh": "trousers", "shank": "trousers",
    "foot": "shoes", "head": "hair",
}  # fmt: skip
# A capsule is painted three times: a dark edge, its colour, and a highlight on the side of the light.
EDGE, FILL, LIT = range(3)
WIDTH_RATIO = np.array([1, 1, 0.45])
INSET_UNIT = np.array([0, 0.006, 0.003])
SHIFT_RATIO = np.array([0, 0, 0.3])


def render(scene: Scene, look: Look, size_px: int) -> np.ndarray:
    """uint8 RGB [t, size_px, size_px, 3]."""
    side = size_px * OVERSAMPLING
    rng = np.random.default_rng(look.texture_seed)
    wall, grain = _wall(look, rng, side), rng.normal(0, 3, (2 * size_px, 2 * size_px, 3)).astype(np.int16)
    strokes, colours = _strokes(scene, look.light, side), _colours(scene, look)
    faces, patches = _faces(scene, look, side), _patches(look, len(scene.joints), side)
    head = len(TORSO) - 1 + PARTS.index("head")
    pictures = []
    for frame, order in enumerate(strokes.order):
        canvas = _background(scene, wall, frame, side)
        for low, high, colour in patches[frame]:
            cv2.rectangle(canvas, low, high, colour, -1, cv2.LINE_8, SUBPIXEL_BITS)
        for group in order:
            for layer in (EDGE, FILL, LIT):
                _paint(canvas, strokes, frame, layer, group, colours[frame][layer][group[0]])
            for centre, radius, colour in faces[frame] if group[0] == head else ():
                cv2.circle(canvas, centre, radius, colour, -1, cv2.LINE_8, SUBPIXEL_BITS)
        small = cv2.resize(canvas, (size_px, size_px), interpolation=cv2.INTER_AREA)
        x, y = rng.integers(size_px, size=2)
        pictures.append(cv2.add(small, grain[y : y + size_px, x : x + size_px], dtype=cv2.CV_8U))
    return np.stack(pictures)


def label_masks(scene: Scene, size_px: int) -> np.ndarray:
    """uint8 [t, size_px, size_px]: 0 background, 1 + part of the figure, OCCLUDER; the geometry of `render` alone."""
    masks = np.zeros((len(scene.joints), size_px, size_px), np.uint8)
    strokes = _strokes(scene, np.zeros(2), size_px)
    for frame, order in enumerate(strokes.order):
        for group in order:
            label = 1 + int(CAPSULE_PART[group[0]]) if group[0] < len(CAPSULE_PART) else OCCLUDER
            _paint(masks[frame], strokes, frame, EDGE, group, label)
    return masks


def encode(pictures: np.ndarray) -> list[bytes]:
    """JPEG bytes of each of the pictures, uint8 RGB [t, h, w, 3]."""
    return [simplejpeg.encode_jpeg(np.ascontiguousarray(x), quality=JPEG_QUALITY) for x in pictures]


def write_sheet(path: str | Path, rows: Sequence[tuple[str, np.ndarray]], columns: int = 8) -> None:
    """Writes a PNG: a row for each clip (name, uint8 pictures [t, h, w, 3]), name at the left, frames in time order."""
    strips = []
    for name, pictures in rows:
        chosen = np.linspace(0, len(pictures) - 1, columns).round().astype(int)
        title = np.full((pictures.shape[1], 150, 3), 255, np.uint8)
        cv2.putText(title, name, (6, len(title) // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
        strips.append(np.concatenate([title, *pictures[chosen]], 1))
    if not cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(strips), cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path}: could not be written")


def _wall(look: Look, rng, side: int) -> np.ndarray:
    """uint8 [2 side, 2 side, 3]: a textured wall above a floor, larger than the picture so that the camera can pan."""
    cells, whole = max(2, round(2 * look.grain)), (2 * side, 2 * side)
    if look.striped:
        line = rng.uniform(size=2 * cells).astype(np.float32)
        lines = np.broadcast_to(line if rng.uniform() < 0.5 else line[:, None], (2 * cells, 2 * cells))
        noise = cv2.resize(np.repeat(lines[..., None], 3, 2), whole, interpolation=cv2.INTER_NEAREST)
    else:
        coarse, fine = (rng.uniform(size=(n, n, 3)).astype(np.float32) for n in (cells, 4 * cells))
        noise = 0.65 * cv2.resize(coarse, whole, interpolation=cv2.INTER_CUBIC)
        noise += 0.35 * cv2.resize(fine, whole, interpolation=cv2.INTER_LINEAR)
    picture = look.wall.astype(np.float32) + (noise - 0.5) @ ((look.accents - look.wall) * 0.9).astype(np.float32)
    horizon = int(side * (0.5 + rng.uniform(0.66, 0.86)))
    picture[horizon:] = 0.65 * look.floor + 0.35 * picture[horizon:]
    return np.clip(picture, 0, 255).astype(np.uint8)


def _background(scene: Scene, wall: np.ndarray, frame: int, side: int) -> np.ndarray:
    """What the camera sees of the wall: shifted by the pan, shaken like everything else."""
    matrix = scene.camera.shake[frame].copy()
    corner = np.array([0.5 + PARALLAX * scene.pan_unit[frame], 0.5])  # of the picture on the wall, unit
    matrix[:, 2] = (matrix[:, 2] - matrix[:, :2] @ corner) * side
    # Nearest: the averaging of OVERSAMPLING smooths it, at a third of the time of INTER_LINEAR.
    return cv2.warpAffine(wall, matrix, (side, side), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)


class _Strokes(NamedTuple):
    """Capsules in OpenCV's fixed-point pixels: two discs and the quadrangle between them.

    Attributes:
      centre: nested lists [t][layer][capsule][end] of (x, y). radius: [t][layer][capsule][end].
      sides: int32 [t, layer, capsule, 4, 2]. middle: int32 [t, layer, 4, 2] between the capsules of the trunk.
      order: [t] lists of groups of capsule numbers, far to near; the occluders (depth 0) come last.
    """

    centre: list
    radius: list
    sides: np.ndarray
    middle: np.ndarray
    order: list[list[tuple[int, ...]]]


def _strokes(scene: Scene, light: np.ndarray, side: int) -> _Strokes:
    """Everything to paint, at once for all frames: one call of NumPy costs as much as painting a disc."""
    width = scene.radius[:, None]  # [t, 1, c, 2]
    radius = np.maximum(width * WIDTH_RATIO[:, None, None] - INSET_UNIT[:, None, None], 0)  # [t, layer, c, 2]
    ends = scene.capsules[:, None] + np.multiply.outer(SHIFT_RATIO, light)[:, None, None] * width[..., None]
    bone = ends[..., 1, :] - ends[..., 0, :]
    across = (
        np.stack([-bone[..., 1], bone[..., 0]], -1) / np.maximum(np.hypot(*np.moveaxis(bone, -1, 0)), 1e-6)[..., None]
    )
    swing = radius[..., None] * across[..., None, :]
    sides = np.concatenate([ends + swing, (ends - swing)[..., ::-1, :]], -2)
    left, right = (ends[:, :, c] for c in TORSO)
    middle = np.concatenate([left, right[..., ::-1, :]], -2)
    depth = scene.depth_m.mean(-1)
    depth[:, TORSO] = depth[:, TORSO].mean(1, keepdims=True)
    rest = [(c,) for c in range(len(TORSO), depth.shape[1])]
    order = [sorted([TORSO, *rest], key=lambda group, z=z: -z[group[0]]) for z in depth]
    return _Strokes(
        *(_fixed(x * side) for x in (ends, radius)), *(_fixed(x * side, False) for x in (sides, middle)), order
    )


def _fixed(px: np.ndarray, as_lists: bool = True):
    fixed = np.rint(px * (1 << SUBPIXEL_BITS)).astype(np.int32)
    return fixed.tolist() if as_lists else fixed


def _paint(canvas: np.ndarray, strokes: _Strokes, frame: int, layer: int, group: tuple[int, ...], colour) -> None:
    """One layer of one group of capsules in one colour."""
    for c in group:
        for centre, radius in zip(strokes.centre[frame][layer][c], strokes.radius[frame][layer][c], strict=True):
            cv2.circle(canvas, centre, radius, colour, -1, cv2.LINE_8, SUBPIXEL_BITS)
        cv2.fillConvexPoly(canvas, strokes.sides[frame, layer, c], colour, cv2.LINE_8, SUBPIXEL_BITS)
    if group == TORSO:
        cv2.fillConvexPoly(canvas, strokes.middle[frame, layer], colour, cv2.LINE_8, SUBPIXEL_BITS)


def _colours(scene: Scene, look: Look) -> list:
    """Nested lists [t][layer][capsule] of RGB: limbs farther away than the trunk are darker."""
    depth = scene.depth_m.mean(-1)
    trunk = depth[:, TORSO].mean(1, keepdims=True)
    shade = 0.92 - 0.5 * np.clip(depth - trunk, -0.15, 0.3)
    shade[:, TORSO] = 0.92
    names = [CLOTHES.get(PARTS[p].removeprefix("left_").removeprefix("right_"), "skin") for p in CAPSULE_PART]
    body = shade[:, : len(names), None] * np.stack([getattr(look, name) for name in names])
    lit = np.minimum(1.22 * body + 8, 255)
    things = np.broadcast_to(look.occluder_colours, (len(depth), *look.occluder_colours.shape))
    layers = [np.concatenate(x, 1) for x in ((0.45 * body, 0.5 * things), (body, things), (lit, things))]
    return np.stack(layers, 1).tolist()


def _faces(scene: Scene, look: Look, side: int) -> list[list[tuple]]:
    """For each frame discs (centre, radius, colour) over the head: skin at its front, nose, visible eyes."""
    head = len(TORSO) - 1 + PARTS.index("head")
    middle, radius = scene.capsules[:, head].mean(1), scene.radius[:, head].mean(-1)
    face = scene.joints[:, :3].copy()
    skin = middle + 0.42 * (face[:, 0] - middle)
    centres = _fixed(np.concatenate([skin[:, None], face], 1) * side)  # skin, nose, left eye, right eye
    radii = _fixed(radius[:, None] * (0.78, 0.2, 0.13, 0.13) * side)
    nearer_m = scene.depth_m[:, head].mean(-1)[:, None] - scene.joints_depth_m[:, (0, 0, 1, 2)]
    shown = (nearer_m > (-0.01, -0.01, 0, 0)) & (nearer_m[:, :1] > -0.01)
    colours = (look.skin.tolist(), (0.8 * look.skin).tolist(), (20, 20, 20), (20, 20, 20))
    return [
        [(c, r, colour) for c, r, colour, seen in zip(*frame, strict=True) if seen]
        for frame in zip(centres, radii, [colours] * len(shown), shown, strict=True)
    ]


def _patches(look: Look, frames: int, side: int) -> list[list[tuple]]:
    """For each frame rectangles (corner, opposite corner, colour) that drift behind the figure."""
    centres = look.patch_boxes[:, :2] + np.linspace(0, 1, frames)[:, None, None] * look.patch_velocities
    low, high = (_fixed((centres + sign * look.patch_boxes[:, 2:]) * side) for sign in (-1, 1))
    colours = look.patch_colours.tolist()
    return [list(zip(*corners, colours, strict=True)) for corners in zip(low, high, strict=True)]
