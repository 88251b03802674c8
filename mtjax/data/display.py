"""Values from elsewhere, short enough for a message."""

import reprlib
from typing import Any


def short(value: Any, length: int = 80) -> str:
    """The `repr` of a value, at most about `length` characters and three levels of it: a small file may hold one that would
    print as gigabytes."""
    bounded = reprlib.Repr()
    bounded.maxlevel, bounded.maxother = 3, length
    bounded.maxlist = bounded.maxtuple = bounded.maxdict = bounded.maxset = bounded.maxfrozenset = bounded.maxdeque = 6
    bounded.maxstring = bounded.maxlong = length
    if type(value) is int and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = bounded.repr(value)
    except Exception as e:  # a foreign `__repr__`, or an integer deep inside that is too long to print
        text = f"a {type(value).__name__} that cannot be shown ({type(e).__name__})"
    return text if len(text) <= length else f"{text[: length - 3]}..."
