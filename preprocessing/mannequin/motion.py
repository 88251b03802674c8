"""Curves of joint angles, the postures that limbs hold, and the rhythms that actions are made of."""

import dataclasses

import numpy as np

DURATION_S = 2.0  # a clip lasts this long however many frames it has
LEFT, RIGHT = 0, 1  # of the person
GRAVITY = 9.81
# Arm postures in degrees: flexion (forwards), abduction (sideways), rotation (+90 turns the bent forearm up), elbow.
HANG = (0, 9, 0, 14)
AKIMBO = (-12, 42, -80, 98)
GUARD = (35, 12, -20, 115)
SIDE = (0, 82, 0, 10)
PUNCHED = (88, -6, -10, 6)


@dataclasses.dataclass
class Motion:
    """Angles in degrees and root movement in metres over the `t` frames of a clip.

    Attributes:
      time_s: [t].
      yaw: [t] facing: 0 towards the camera, 90 towards the right of the picture.
      lean, tilt, twist: [t] trunk forwards, sideways, and about its own axis. nod, look: [t] head down, head left.
      arm: [t, 2, 4] left and right: flexion, abduction, rotation, elbow.
      leg: [t, 2, 3] left and right: hip flexion, hip abduction, knee.
      lift_m: [t] of the lower foot above the floor.
      travel_m: [t] along the facing direction. seen_m: [t] what of it the panning camera leaves.
      planted: whether the supporting foot keeps its place.
    """

    time_s: np.ndarray
    yaw: np.ndarray
    lean: np.ndarray
    tilt: np.ndarray
    twist: np.ndarray
    nod: np.ndarray
    look: np.ndarray
    arm: np.ndarray
    leg: np.ndarray
    lift_m: np.ndarray
    travel_m: np.ndarray
    seen_m: np.ndarray
    planted: bool = True


def posed(rng, frames: int) -> Motion:
    """Holding still in a posture borrowed from the actions, limb by limb: what one frame shows, another clip holds."""
    time_s = np.arange(frames) * (DURATION_S / frames)
    zero = np.zeros(frames)
    arm, leg = np.zeros((frames, 2, 4)), np.zeros((frames, 2, 3))
    m = Motion(time_s, *(zero.copy() for _ in range(6)), arm, leg, zero, zero, zero)
    m.yaw += rng.uniform(-45, 45)
    m.look += rng.uniform(-25, 25)
    m.lean += rng.uniform(8, 50) if rng.uniform() < 0.2 else rng.uniform(-2, 6)
    left, right = arm_posture(rng), arm_posture(rng)
    for side, posture in ((LEFT, left), (RIGHT, left if rng.uniform() < 0.5 else right)):
        m.arm[:, side] = posture + rng.uniform(-8, 8, 4)
    stand(m, rng)
    leg_posture(m, rng)
    return m


def arm_posture(rng) -> np.ndarray:
    """Arms at rest, or a frame of an action: waving, a jumping jack, a punch, clapping, walking and running."""
    size = rng.uniform()
    wave, jack = raised(size), blend((0, 10, 40, 14), (0, 165, 60, 16), size)
    wave[3] += rng.uniform(-25, 25)
    clap, step = (30 + 30 * size, 6, rng.uniform(-30, 30), 68), (rng.uniform(-35, 35), 8, -5, 15 + 75 * size)
    postures = (HANG, AKIMBO, wave, wave, wave, jack, GUARD, PUNCHED, clap, step)
    return np.array(postures[rng.integers(len(postures))])


def stand(m: Motion, rng) -> None:
    """Legs straight, more or less, and more or less apart."""
    m.leg[:] = (rng.uniform(0, 6), rng.uniform(2, 13), 0)
    m.leg[..., 2] = 2 * m.leg[..., 0]  # thigh and shank are about equally long: the ankle stays below the hip


def leg_posture(m: Motion, rng) -> None:
    """Standing, crouching, astride, in the middle of a step, or with one knee up."""
    kind, size, side = rng.choice(5, p=(0.3, 0.15, 0.15, 0.3, 0.1)), rng.uniform(), rng.integers(2)
    if kind == 1:
        m.leg[..., 0] += 15 + 65 * size
        m.leg[..., 2] += 30 + 105 * size
        m.lean += 30 * size
    elif kind == 2:
        m.leg[..., 1] = 14 + 14 * size
    elif kind == 3:
        m.leg[:, side] = (15 + 35 * size, 3, rng.uniform(8, 40))
        m.leg[:, 1 - side] = (-10 - 20 * size, 3, rng.uniform(8, 40 + 50 * size))
    elif kind == 4:
        m.leg[:, side, 0] = 30 + 50 * size
        m.leg[:, side, 2] = 20 + 50 * rng.uniform()


def sway(m: Motion, rng) -> None:
    """Nobody stands still: slow random movement of every joint."""
    # Columns: yaw, lean, tilt, twist, nod, look, then arms and legs.
    size = np.array([3, 2, 1.5, 3, 4, 5, *(5, 4, 5, 5) * 2, *(1, 0.6, 1.5) * 2]) * rng.uniform(0.4, 1.3)
    angle = m.time_s[:, None, None] * rng.uniform(1, 5, (2, len(size))) + rng.uniform(0, 2 * np.pi, (2, len(size)))
    noise = np.sin(angle).sum(1) * size / 2
    for column, name in enumerate(("yaw", "lean", "tilt", "twist", "nod", "look")):
        getattr(m, name)[:] += noise[:, column]
    m.arm += noise[:, 6:14].reshape(m.arm.shape)
    m.leg += noise[:, 14:].reshape(m.leg.shape)
    m.arm[..., 3] = np.maximum(m.arm[..., 3], 2)  # elbows and knees do not bend backwards
    m.leg[..., 2] = np.maximum(m.leg[..., 2], 1)


def rhythm(m: Motion, rng, low_hz: float, high_hz: float) -> np.ndarray:
    """[t] cycles done: random rate and phase, and a rate that wanders a little."""
    rate, start, wander = rng.uniform(low_hz, high_hz), rng.uniform(), rng.uniform(0, 2 * np.pi)
    return start + rate * m.time_s + 0.03 * np.sin(2.5 * m.time_s + wander)


def pulse(cycles: np.ndarray) -> np.ndarray:
    """0 → 1 → 0, smoothly, once a cycle."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * cycles)


def hit(cycles: np.ndarray, duty: float) -> np.ndarray:
    """0 → 1 → 0 within the first `duty` of each cycle, 0 for the rest."""
    return np.sin(np.pi * np.minimum(cycles % 1 / duty, 1)) ** 2


def blend(a, b, weight) -> np.ndarray:
    return np.asarray(a) + np.asarray(weight)[..., None] * (np.asarray(b) - np.asarray(a))


def raised(height: float) -> np.ndarray:
    """From a bent arm with the forearm up (0) to a nearly straight arm above the head (1)."""
    return blend((0, 85, 90, 80), (0, 142, 90, 26), height)
