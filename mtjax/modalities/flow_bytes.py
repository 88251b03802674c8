"""How optical flow is stored: one byte for each axis of a pixel's motion. The one rule of its writer and its readers.

A byte stands for an interval: byte = trunc((u + 20) / 40 * 255) of a motion u in pixels, cut off at ±20 (motionfit.md §2).
Two ways lead back, and they differ on purpose:

- `to_px` takes the middle of the interval, (byte - 127) * 40 / 255. No motion is byte 127, whose interval is centred on 0:
  it comes back as exactly 0, and everything else within half a step of 0.157 pixels.
- a network's input is byte - 127.5 (`flow.Flow`), the lower end of the interval in steps, as in the code of MARS whose
  scores we compare with: no motion is -0.5. A mirror image negates it, which is 255 - byte.
"""

import numpy as np

from mtjax.command.errors import InputError

LIMIT_PX = 20.0
STEP_PX = 2 * LIMIT_PX / 255
STILL = 127  # the byte of no motion
CENTRE = 127.5


def to_bytes(flow_px: np.ndarray) -> np.ndarray:
    """float [...] in pixels → uint8 [...].

    Raises:
      ValueError: NaN or inf.
    """
    if not np.isfinite(flow_px).all():
        raise InputError("flow is NaN or inf")
    inside = np.clip(flow_px.astype(np.float64), -LIMIT_PX, LIMIT_PX)
    return ((inside + LIMIT_PX) / (2 * LIMIT_PX) * 255).astype(np.uint8)  # towards zero, which is trunc


def to_px(stored: np.ndarray) -> np.ndarray:
    """uint8 [...] → float32 [...] in pixels. Byte 255 is 20 pixels or more, and comes back as 20."""
    return np.minimum((stored.astype(np.float32) - STILL) * STEP_PX, LIMIT_PX).astype(np.float32)
