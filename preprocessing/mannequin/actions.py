"""The 16 actions of `mannequin` as curves of joint angles.

They are chosen so that one frame says little: the same raised arm waves or merely stays up, a crouch belongs to a squat
or to a jump, `turn_left` is `turn_right` backwards in time, and walking differs from running in rhythm and reach. Arms
that an action does not need are held in postures borrowed from the others. Left and right of an arm or a turn are
the person's own; left and right of walking and running are the picture's.
"""

import functools

import numpy as np

from preprocessing.mannequin.motion import (
    DURATION_S,
    GRAVITY,
    GUARD,
    HANG,
    LEFT,
    PUNCHED,
    RIGHT,
    Motion,
    blend,
    hit,
    posed,
    pulse,
    raised,
    rhythm,
    stand,
    sway,
)


def perform(label: str, rng: np.random.Generator, frames: int, body) -> Motion:
    """One performance of an action: random rhythm, phase, size, handedness; limbs it does not need hold a posture."""
    motion = posed(rng, frames)
    ACTIONS[label](motion, rng, body)
    sway(motion, rng)
    return motion


def _wave(m: Motion, rng, body, *, sides) -> None:
    beat = rhythm(m, rng, 1.2, 2.2)
    opposed = rng.integers(2) / 2
    for number, side in enumerate(sides):
        height, size = rng.uniform(), rng.uniform(0.7, 1.15)
        swing = np.sin(2 * np.pi * (beat + number * opposed)) * size
        m.arm[:, side] = (
            raised(height) + rng.uniform(-6, 6, 4) + np.outer(swing, blend((0, 5, 0, 34), (0, 22, 0, 14), height))
        )


def _clap(m: Motion, rng, body) -> None:
    apart = pulse(rhythm(m, rng, 1.1, 2.1)) * rng.uniform(35, 60)
    flexion, elbow = rng.uniform(30, 60), rng.uniform(50, 85)
    # The forearm turned inwards until the palm reaches the middle of the body.
    reach = (body.shoulder - body.hand_radius) / ((body.forearm + body.hand) * np.sin(np.deg2rad(elbow)))
    closed = -np.rad2deg(np.arcsin(np.clip(reach, 0, 0.95)))
    for side in (LEFT, RIGHT):
        m.arm[:, side] = np.stack(np.broadcast_arrays(flexion, 3 + 0.15 * apart, closed + apart, elbow), -1)


def _face_anywhere(m: Motion, rng) -> None:
    """Also away: only arms need to be seen from the front for left and right to be told apart."""
    m.yaw[:] = rng.uniform(-180, 180)


def _squat(m: Motion, rng, body) -> None:
    _face_anywhere(m, rng)
    stand(m, rng)
    down = pulse(rhythm(m, rng, 0.55, 0.95))
    m.leg[..., 0] += (down * rng.uniform(55, 88))[:, None]
    m.leg[..., 2] += (down * rng.uniform(110, 150))[:, None]
    m.lean += down * rng.uniform(20, 40)
    if rng.uniform() < 0.4:
        m.arm[:] = blend(HANG, (85, 4, 0, 6), down)[:, None]


def _jump(m: Motion, rng, body) -> None:
    _face_anywhere(m, rng)
    stand(m, rng)
    cycles = rhythm(m, rng, 0.75, 1.05)
    phase, period_s = cycles % 1, DURATION_S / (cycles[-1] - cycles[0])
    take_off, landing = 0.4, 0.8
    flight = np.clip((phase - take_off) / (landing - take_off), 0, 1)
    crouch = hit(cycles, take_off) + 0.6 * np.sin(np.pi * np.clip((phase - landing) / (1 - landing), 0, 1)) ** 2
    depth = rng.uniform(30, 55)
    m.lift_m = GRAVITY * ((landing - take_off) * period_s) ** 2 / 8 * 4 * flight * (1 - flight)
    tuck = crouch * depth + rng.uniform(0, 18) * np.sin(np.pi * flight)
    m.leg[..., 0] += tuck[:, None]
    m.leg[..., 2] += 1.9 * tuck[:, None]
    m.lean += 0.6 * crouch * depth
    if rng.uniform() < 0.5:
        m.arm[..., 0] = (np.sin(np.pi * flight) * rng.uniform(60, 140) - 0.8 * crouch * depth)[:, None]
        m.arm[..., 1:] = HANG[1:]


def _jumping_jack(m: Motion, rng, body) -> None:
    stand(m, rng)
    cycles = rhythm(m, rng, 0.85, 1.3)
    apart = pulse(cycles)
    m.leg[..., 1] = (3 + apart * rng.uniform(18, 28))[:, None]
    m.lift_m = 0.08 * np.sin(2 * np.pi * cycles) ** 2
    m.arm[:] = blend((0, 10, 40, 14), (0, rng.uniform(145, 172), 60, 16), apart)[:, None]


def _face_aside(m: Motion, rng) -> None:
    """Obliquely, because a limb that comes straight at the camera hardly moves in the picture."""
    m.yaw[:] = rng.choice((-1, 1)) * rng.uniform(20, 90)


def _kick(m: Motion, rng, body) -> None:
    _face_aside(m, rng)
    stand(m, rng)
    cycles, side = rhythm(m, rng, 0.6, 1.0), rng.integers(2)
    up = pulse(cycles) ** 1.3
    m.leg[:, side, 0] += up * rng.uniform(60, 95)
    m.leg[:, side, 2] += 75 * pulse(cycles + 0.2) ** 3  # the knee bends first and snaps straight at the top
    m.lean -= up * rng.uniform(4, 16)


def _punch(m: Motion, rng, body) -> None:
    _face_aside(m, rng)
    beat, style = rhythm(m, rng, 0.9, 1.6), rng.integers(3)
    alternating = (hit(beat / 2, 0.35), hit(beat / 2 + 0.5, 0.35))
    one_sided = (hit(beat, 0.6), 0 * beat)
    hits = (one_sided, one_sided[::-1], alternating)[style]
    for side in (LEFT, RIGHT):
        m.arm[:, side] = blend(GUARD + rng.uniform(-6, 6, 4), PUNCHED + rng.uniform(-6, 6, 4), hits[side])
    m.twist += rng.uniform(10, 24) * (hits[RIGHT] - hits[LEFT])


def _bow(m: Motion, rng, body) -> None:
    _face_anywhere(m, rng)
    m.lean[:] = 0
    down = pulse(rhythm(m, rng, 0.45, 0.8)) ** 0.8 * rng.uniform(48, 82)
    m.lean += down
    m.nod += 0.2 * down
    m.arm[..., 0] += (down * rng.uniform(0, 0.9))[:, None]  # stretched along the trunk, or hanging


def _turn(m: Motion, rng, body, *, sign: int) -> None:
    m.yaw += rng.uniform(-180, 180) + sign * rng.uniform(150, 330) * m.time_s / DURATION_S
    stand(m, rng)
    _step(m, rhythm(m, rng, 1.1, 1.7), hip=rng.uniform(8, 20), knee=rng.uniform(25, 45))


def _step(m: Motion, cycles, hip: float, knee: float) -> None:
    """Stepping on the spot, one leg after the other."""
    for side in (LEFT, RIGHT):
        up = np.maximum(np.sin(2 * np.pi * (cycles + side / 2)), 0)
        m.leg[:, side, 0] += hip * up
        m.leg[:, side, 2] += knee * up


def _gait(m: Motion, rng, body, *, sign: int, run: bool) -> None:
    cycles = rhythm(m, rng, *((1.25, 1.6) if run else (0.75, 1.05)))
    m.yaw += sign * 90 + rng.uniform(-8, 8) - 0.5 * m.yaw[0]  # within 31 degrees of profile
    stride = rng.uniform(33, 43) if run else rng.uniform(20, 28)
    arms = stride * rng.uniform(0.75, 1.1)
    for side in (LEFT, RIGHT):
        angle = 2 * np.pi * (cycles + side / 2)
        swing, passing = np.sin(angle), np.maximum(np.cos(angle + 0.35), 0)
        m.leg[:, side, 0] = (14 if run else 4) + stride * swing
        m.leg[:, side, 2] = (18 + 88 * passing**1.5) if run else (6 + 52 * passing**2)
        if rng.uniform() < 0.8:  # else the arm keeps its borrowed posture
            m.arm[:, side] = (0, 8, -10, 92) if run else (0, 8, 0, 18)
            m.arm[:, side, 0] = -arms * swing
    m.lean += rng.uniform(4, 12) if run else rng.uniform(0, 4)
    m.lift_m = 0.07 * np.sin(2 * np.pi * cycles) ** 2 if run else m.lift_m
    m.leg[..., 1] = 2
    m.planted = False
    # Two steps a cycle, each twice as far as a leg swings to one side; running flies half as far again. The camera pans
    # along, so what is left of the way does not tell walking from running, nor always the direction.
    speed_m_s = 4 * (body.thigh + body.shank) * np.sin(np.deg2rad(stride)) * (cycles[-1] - cycles[0]) / m.time_s[-1]
    m.travel_m = speed_m_s * (1.5 if run else 1.0) * m.time_s
    m.seen_m = rng.uniform(0, 0.9) * (m.time_s / DURATION_S - 0.5)


ACTIONS = {
    "wave_left": functools.partial(_wave, sides=(LEFT,)),
    "wave_right": functools.partial(_wave, sides=(RIGHT,)),
    "wave_both": functools.partial(_wave, sides=(LEFT, RIGHT)),
    "clap": _clap,
    "punch": _punch,
    "kick": _kick,
    "squat": _squat,
    "jump": _jump,
    "jumping_jack": _jumping_jack,
    "bow": _bow,
    "turn_left": functools.partial(_turn, sign=1),
    "turn_right": functools.partial(_turn, sign=-1),
    "walk_left": functools.partial(_gait, sign=-1, run=False),
    "walk_right": functools.partial(_gait, sign=1, run=False),
    "run_left": functools.partial(_gait, sign=-1, run=True),
    "run_right": functools.partial(_gait, sign=1, run=True),
}
CLASSES = tuple(ACTIONS)
