"""Text on its way to a terminal."""

import sys
from typing import Any

# What moves a cursor, starts an escape sequence or turns the direction of writing; newline, tab and return stay.
_CODES = [
    *range(0x09),
    0x0B,
    0x0C,
    *range(0x0E, 0x20),
    *range(0x7F, 0xA0),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
]
_ESCAPED = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CODES}


def printable(text: str) -> str:
    """`text` with control characters written out, such as `\\x1b`: names come from files, and a terminal obeys them."""
    return text.translate(_ESCAPED)


class Printable:
    """A text stream that prints control characters as escapes and `?` for what its encoding does not have.

    Attributes:
      stream: the stream underneath, for progress bars, which need escape sequences.
    """

    def __init__(self, stream: Any):
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        """Returns how many characters were written."""
        return self.stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def terminal() -> Any:
    """Standard error as it is, for a progress bar."""
    return getattr(sys.stderr, "stream", sys.stderr)
