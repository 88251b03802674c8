"""Tables of names: which array of a published checkpoint is which of our parameters, and how it is turned."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mtjax.command.errors import InputError

Arrays = Mapping[str, np.ndarray]
BATCHES_SEEN = re.compile(r".*\.num_batches_tracked")  # by PyTorch's BatchNorm; nothing depends on it


class ConversionError(InputError):
    """A checkpoint that does not fit; names the arrays."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter of ours, made of one or several arrays of theirs.

    Attributes:
      ours: its path, e.g. "vision/layers/0/up/kernel". theirs: names in the checkpoint.
      to_ours: their arrays → our array. to_theirs: the way back, bit for bit.
    """

    ours: str
    theirs: tuple[str, ...]
    to_ours: Callable[..., np.ndarray]
    to_theirs: Callable[[np.ndarray], Sequence[np.ndarray]]


def same(ours: str, theirs: str) -> list[Entry]:
    return [Entry(ours, (theirs,), lambda x: x, lambda x: (x,))]


def reshaped(ours: str, theirs: str, shape: tuple[int, ...], their_shape: tuple[int, ...]) -> list[Entry]:
    return [Entry(ours, (theirs,), lambda x: x.reshape(shape), lambda x: (x.reshape(their_shape),))]


def linear(ours: str, theirs: str, *, bias: bool = True) -> list[Entry]:
    """`nn.Linear` (out, in) → kernel (in, out)."""
    kernel = Entry(f"{ours}/kernel", (f"{theirs}.weight",), lambda x: x.T, lambda x: (x.T,))
    return [kernel, *(same(f"{ours}/bias", f"{theirs}.bias") if bias else [])]


def norm(ours: str, theirs: str) -> list[Entry]:
    """`nn.LayerNorm` → scale and bias."""
    return same(f"{ours}/scale", f"{theirs}.weight") + same(f"{ours}/bias", f"{theirs}.bias")


def conv_norm(ours: str, conv: str, norm: str) -> list[Entry]:
    """`nn.Conv3d` without bias (out, in, t, h, w) → kernel (t, h, w, in, out), and its `nn.BatchNorm3d`."""
    kernel = Entry(
        f"{ours}/conv/kernel", (f"{conv}.weight",), lambda x: x.transpose(2, 3, 4, 1, 0),
        lambda x: (x.transpose(4, 3, 0, 1, 2),),
    )  # fmt: skip
    statistics = (("scale", "weight"), ("bias", "bias"), ("mean", "running_mean"), ("var", "running_var"))
    return [kernel, *(entry for a, b in statistics for entry in same(f"{ours}/norm/{a}", f"{norm}.{b}"))]


def pointwise(ours: str, theirs: str) -> list[Entry]:
    """`nn.Conv3d` (out, in, 1, 1, 1) with bias → a linear layer."""
    kernel = Entry(
        f"{ours}/kernel", (f"{theirs}.weight",), lambda x: x[:, :, 0, 0, 0].T, lambda x: (x.T[:, :, None, None, None],)
    )
    return [kernel, *same(f"{ours}/bias", f"{theirs}.bias")]


def patch_embedding(ours: str, theirs: str, patch: int) -> list[Entry]:
    """`nn.Conv2d` (out, 3, p, p) with stride p → the kernel (p·p·3, out) of a linear layer on patches."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        return x.transpose(2, 3, 1, 0).reshape(-1, len(x))

    def to_theirs(x: np.ndarray) -> tuple[np.ndarray]:
        return (x.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1),)

    return [Entry(f"{ours}/kernel", (f"{theirs}.weight",), to_ours, to_theirs)]


def heads_in(ours: str, theirs: str, heads: int) -> list[Entry]:
    """A projection without bias (out, in) → kernel (in, heads, out / heads)."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        return x.T.reshape(x.shape[1], heads, -1)

    def to_theirs(x: np.ndarray) -> tuple[np.ndarray]:
        return (x.reshape(len(x), -1).T,)

    return [Entry(f"{ours}/kernel", (f"{theirs}.weight",), to_ours, to_theirs)]


def heads_out(ours: str, theirs: str, heads: int) -> list[Entry]:
    """An output projection (out, in) → kernel (heads, in / heads, out), and its bias."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        return x.T.reshape(heads, -1, len(x))

    def to_theirs(x: np.ndarray) -> tuple[np.ndarray]:
        return (x.reshape(-1, x.shape[-1]).T,)

    return [
        Entry(f"{ours}/kernel", (f"{theirs}.weight",), to_ours, to_theirs),
        *same(f"{ours}/bias", f"{theirs}.bias"),
    ]


def self_attention(ours: str, theirs: str, heads: int) -> list[Entry]:
    """Separate q_proj, k_proj, v_proj → one fused kernel (in, 3, heads, width / heads); and out_proj."""

    def kernel(*parts: np.ndarray) -> np.ndarray:
        return np.stack([x.T.reshape(x.shape[1], heads, -1) for x in parts], 1)

    def kernels(x: np.ndarray) -> list[np.ndarray]:
        return [x[:, i].reshape(len(x), -1).T for i in range(3)]

    def bias(*parts: np.ndarray) -> np.ndarray:
        return np.stack([x.reshape(heads, -1) for x in parts])

    def biases(x: np.ndarray) -> list[np.ndarray]:
        return [part.ravel() for part in x]

    projections = [f"{theirs}.{name}_proj" for name in "qkv"]
    return [
        Entry(f"{ours}/qkv/kernel", tuple(f"{p}.weight" for p in projections), kernel, kernels),
        Entry(f"{ours}/qkv/bias", tuple(f"{p}.bias" for p in projections), bias, biases),
        *heads_out(f"{ours}/out", f"{theirs}.out_proj", heads),
    ]


def to_ours(table: Sequence[Entry], arrays: Arrays) -> dict[str, np.ndarray]:
    """Our parameters, float32.

    Raises:
      ConversionError: an array is missing, or left over; all of them are named.
    """
    wanted = {name for entry in table for name in entry.theirs}
    missing, unknown = sorted(wanted - set(arrays)), sorted(set(arrays) - wanted)
    if missing or unknown:
        raise ConversionError(
            f"the checkpoint does not fit: {len(missing)} arrays are missing {missing[:5]}, {len(unknown)} are not known "
            f"{unknown[:5]}"
        )
    return {e.ours: np.array(e.to_ours(*(arrays[name] for name in e.theirs)), np.float32, order="C") for e in table}


def to_theirs(table: Sequence[Entry], params: Arrays) -> dict[str, np.ndarray]:
    """The published names and layouts again."""
    out: dict[str, np.ndarray] = {}
    for entry in table:
        parts = entry.to_theirs(np.asarray(params[entry.ours]))
        out |= {name: np.asarray(part, order="C") for name, part in zip(entry.theirs, parts, strict=True)}
    return out
