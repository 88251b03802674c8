"""Types of command-line flags that several kinds of columns have; argparse prints what is wrong."""

import argparse

from mtjax.command.errors import InputError


def box(text: str) -> tuple[float, ...]:
    """ "0,0.5,1,1" → (x0, y0, x1, y1), fractions of the frame."""
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected x0,y0,x1,y1, got {text!r}") from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise argparse.ArgumentTypeError(f"expected fractions of the frame with x0 < x1 and y0 < y1, got {text!r}")
    return x0, y0, x1, y1


def size(text: str) -> tuple[int, int]:
    """ "171x128" → (width, height)."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, got {text!r}")
    return int(width), int(height)


def network_options(args: argparse.Namespace, chosen: str, network: bool) -> dict[str, object]:
    """What is given of `--checkpoint`, `--device` and `--batch_size`, which only a neural network has.

    Raises:
      ValueError: some are given, and what was `chosen` ("--backend=lk") is no network.
    """
    given = {k: getattr(args, k) for k in ("checkpoint", "device", "batch_size") if getattr(args, k) is not None}
    if given and not network:
        raise InputError(f"{chosen} has no {', '.join(f'--{k}' for k in given)}")
    return given
