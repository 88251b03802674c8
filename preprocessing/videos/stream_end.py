"""Was a file cut off whose header declares no length? Told by how an MPEG transport stream ends and by missing frames."""

import os
from collections.abc import Sequence

import numpy as np

SYNC = 0x47
TAIL_BYTES = 1 << 20  # longer than any access unit that `Limits` lets through is likely to be
NULL_PACKETS = 0x1FFF
LAST_FRAMES = 16  # a decoder reorders no more than these


def unfinished_transport_stream(path: str) -> str:
    """Why an MPEG transport stream counts as cut off; "" when it does not.

    Frames begin in a packet of their own, so the last packet of one is filled up by stuffing, or the length it declares
    is reached. One whole stream in 184 happens to need no stuffing and is taken for a cut one.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(5 * 204)
        step, prefix = _packet_size(head)
        if not step:
            return ""
        if size % step:
            return "the file ends inside a transport packet"
        file.seek(max(0, size - TAIL_BYTES // step * step))
        tail = file.read()
    units: dict[int, int | None] = {}  # PID → bytes still to come of its last unit, None: stuffing must end it
    ended: dict[int, bool] = {}
    for start in range(prefix, len(tail) - 187, step):
        packet = tail[start : start + 188]
        pid, payload = (packet[1] & 0x1F) << 8 | packet[2], _payload(packet)
        if packet[0] != SYNC or pid == NULL_PACKETS or not payload:
            continue
        if packet[1] & 0x40:  # a unit starts here
            units.pop(pid, None)
            if payload[:3] == b"\0\0\1" and len(payload) >= 6:  # of an elementary stream, not a table
                length = int.from_bytes(payload[4:6], "big")
                units[pid] = length + 6 if length else None
        if pid in units:
            left = units[pid]
            units[pid] = left if left is None else left - len(payload)
            ended[pid] = len(payload) < 184 if left is None else units[pid] <= 0
    cut = sorted(pid for pid in units if not ended[pid])
    return f"the file ends inside a frame of stream {cut[0]:#x}" if cut else ""


def _packet_size(head: bytes) -> tuple[int, int]:
    """Bytes from packet to packet, and how many of them precede the sync byte; 0, 0 when there is no such rhythm."""
    for step, prefix in ((188, 0), (192, 4), (204, 0)):
        if len(head) > prefix and all(head[i] == SYNC for i in range(prefix, len(head), step)):
            return step, prefix
    return 0, 0


def _payload(packet: bytes) -> bytes:
    start = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)
    return packet[start:] if packet[3] & 0x10 else b""


def frames_missing_at_the_end(pts: Sequence[int]) -> bool:
    """Whether a steady stream has a hole among its last frames: what was shown before them had not been written yet.

    Args:
      pts: sorted presentation times.
    """
    gaps = np.diff(pts)
    if len(gaps) < 8:
        return False
    usual = np.median(gaps)
    holes = gaps > 1.5 * usual
    return bool(holes[-LAST_FRAMES:].any() and not holes[:-LAST_FRAMES].any())
