"""Sizes and costs: what our models multiply, and what the `thop` counter of the MovT paper would print (metrics.md, "Complexity").

The paper's GFLOPs are multiply-accumulates, counted by a tool that sees convolutions, linear layers called as modules and
affine norms (4 an element), but neither attention's functional projections nor its matrix products.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from mtjax.compute.step import Program


def forward_gmacs(program: Program, arrays: dict[str, Any], batch: int) -> float:
    """Multiply-accumulates of one clip's forward pass in units of 1e9."""
    return multiplications(program.predict_step, program.shapes, arrays) / 1e9 / batch


def multiplications(function: Callable, *args: Any) -> int:
    """Multiply-accumulates of the matrix products and convolutions in `function(*args)`; args may be shapes."""
    return _macs(jax.make_jaxpr(function)(*args).jaxpr)


def _macs(jaxpr: Jaxpr) -> int:
    """Every pass of a scan counts, of a condition its dearest branch; a `while` loop of unknown length counts once."""
    total = 0
    for eqn in jaxpr.eqns:
        leaves = jax.tree.leaves(eqn.params, is_leaf=lambda leaf: isinstance(leaf, Jaxpr | ClosedJaxpr))
        inner = [_macs(getattr(leaf, "jaxpr", leaf)) for leaf in leaves if isinstance(leaf, Jaxpr | ClosedJaxpr)]
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
            taps = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
            total += math.prod(eqn.outvars[0].aval.shape) * taps
        elif eqn.primitive.name == "cond":
            total += max(inner)
        else:
            total += sum(inner) * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
    return total


def thop_movt(
    *,
    points: int,
    frames: int,
    classes: int,
    motion: tuple[int, ...] = (128, 256),
    branch: int = 128,
    kernel: int = 3,
    position: tuple[int, ...] = (1024, 128),
    layers: int = 4,
    feed_forward: int = 2048,
    static_position: bool = False,
) -> float:
    """GMACs of MovT (or PixT: `static_position`, a table instead of the position MLP) as `thop` prints them (MT-7).

    The defaults are the calibrated preset (`movt.CALIBRATED`), whose fusion layer is counted.
    """
    per_frame = _chain(3, *motion) + motion[-1] * branch * kernel
    width = 2 * branch
    per_point = layers * (2 * width * feed_forward + 2 * 4 * width) + width * width
    if not static_position:
        per_point += _chain(2, *position, branch)
    return (points * (per_frame * frames + per_point) + width * classes) / 1e9


def thop_videomae(*, frames: int, classes: int, width: int = 384, layers: int = 12) -> float:
    """GMACs of VideoMAE at 224 × 224, patch 16, tubelet 1 for one frame and 2 otherwise, as `thop` prints them (MT-6)."""
    tubelet = 1 if frames == 1 else 2
    tokens = 196 * (frames // tubelet)
    patches = 3 * tubelet * 16 * 16 * width * tokens
    blocks = layers * tokens * (width * width + 8 * width * width)
    norms = 4 * (2 * layers * tokens * width + width)
    return (patches + blocks + norms + width * classes) / 1e9


def _chain(*sizes: int) -> int:
    return sum(a * b for a, b in itertools.pairwise(sizes))
