"""Published weights → our modules. `load("xclip", SRC)` from Python, `mtjax convert xclip SRC OUT` from a shell.

A converted model is a folder with `config.json` (which constructor, with which keywords) and `weights.safetensors` (our flat
parameter names). Every array of the source is accounted for, or the conversion is refused.
"""

import importlib
import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from mtjax import lookup
from mtjax.convert import names, positions, weight_files
from mtjax.convert.names import ConversionError
from mtjax.data.files import write_atomically
from mtjax.data.foreign_files import read_json
from mtjax.models.video_network import VideoClassifier
from mtjax.types import random_streams

REQUIRED = ("CONSTRUCTOR", "IGNORED", "settings", "table")
POSITIONS = "vision/positions"
CONFIG, WEIGHTS = "config.json", "weights.safetensors"


def load(kind: str, source: str | Path, **changes: Any) -> nnx.Module:
    """The module with its weights, in evaluation mode.

    Args:
      kind: see `room_of`. The video networks come with the classifier they were published with: `model(clip, train=False)` gives
        logits, `model.backbone` the network (`models.video_network.VideoClassifier`).
      source: Hugging Face folder or id, `.safetensors`, the authors' PyTorch file, or a folder that `save` wrote.
      changes: constructor keywords that change no parameter, e.g. dtype="bfloat16", remat=True; and for CLIP and X-CLIP
        `image`, for which the patches' positions are resized. X-CLIP's positions of frames are never: another number of frames
        is refused.

    Raises:
      ConversionError: the source cannot be read or does not fit.
    """
    keywords, params = convert(kind, source)
    if "image" in changes and "patch" in keywords:
        grid = changes["image"] // keywords["patch"]
        params = params | {POSITIONS: positions.resize(params[POSITIONS], grid)}
    return build(kind, keywords | changes, params)


def convert(kind: str, source: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(constructor keywords, our parameters by path). `classes` among the keywords is of the classifier on a video network."""
    room = room_of(kind)
    folder = Path(source)
    if (folder / WEIGHTS).is_file():
        saved = read_json(folder / CONFIG, ConversionError)
        if not isinstance(saved.get("name"), str) or not isinstance(saved.get("keywords"), dict):
            raise ConversionError(f"{folder / CONFIG}: needs 'name' and 'keywords'; convert the published weights anew")
        if saved["name"] != room.CONSTRUCTOR:
            raise ConversionError(f"{source} holds {saved['name'][:100]}, not {room.CONSTRUCTOR}")
        sizes = {k: v for k, v in saved["keywords"].items() if k != "classes"}
        try:
            lookup.check_keywords(lookup.resolve("models", room.CONSTRUCTOR), sizes, kind, fixed=("rngs",))
        except lookup.ConfigError as e:
            raise ConversionError(f"{folder / CONFIG}: {e}; convert the published weights anew") from None
        return saved["keywords"], arrays_of(folder)
    config, arrays = weight_files.read(source)
    try:
        if hasattr(room, "from_official") and room.is_official(arrays):
            arrays = room.from_official(arrays)
        arrays = {name: array for name, array in arrays.items() if not room.IGNORED.fullmatch(name)}
        keywords = room.settings(config, arrays)
        return keywords, names.to_ours(room.table(keywords), arrays)
    except ConversionError as e:
        raise ConversionError(f"{source}: {e}") from None
    except KeyError as e:
        raise ConversionError(f"{source}: no array {e}; is this a checkpoint of {kind}?") from None
    except (
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        ArithmeticError,
    ) as e:  # shapes and values of another kind
        raise ConversionError(f"{source}: its arrays or its config.json are not those of {kind} ({e})") from None


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    """Our parameters by path, of a folder that `save` wrote. Raises ConversionError when the file cannot be read."""
    return weight_files.read_safetensors(folder / WEIGHTS)


def build(kind: str, keywords: Mapping[str, Any], params: Mapping[str, np.ndarray]) -> nnx.Module:
    """A module whose every parameter comes from `params`; nothing is initialised on the way."""
    module = nnx.eval_shape(lambda: _construct(kind, **keywords))
    graph, state = nnx.split(module)
    filled = []
    left = dict(params)
    for path, variable in nnx.to_flat_state(state):
        name = "/".join(map(str, path))
        if name not in left or left[name].shape != variable.shape:
            found = left[name].shape if name in left else "nothing"
            raise ConversionError(f"{kind}: parameter {name} needs {variable.shape}, found {found}")
        filled.append((path, variable.replace(left.pop(name))))
    if left:
        raise ConversionError(f"{kind}: {sorted(left)[:5]} are no parameters of {room_of(kind).CONSTRUCTOR}")
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _construct(kind: str, *, classes: int = 0, **keywords: Any) -> nnx.Module:
    rngs = random_streams(default=0)
    model = lookup.resolve("models", room_of(kind).CONSTRUCTOR)(**keywords, rngs=rngs)
    return VideoClassifier(model, classes, rngs=rngs) if classes else model


def save(kind: str, keywords: Mapping[str, Any], params: Mapping[str, np.ndarray], folder: str | Path) -> None:
    """Writes a folder that `load` reads."""
    from safetensors.numpy import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS, save(dict(params)))
    config = {"name": room_of(kind).CONSTRUCTOR, "keywords": dict(keywords)}
    write_atomically(folder / CONFIG, json.dumps(config, indent=1) + "\n")


def is_kind(module: Any) -> bool:
    return all(hasattr(module, name) for name in REQUIRED)


def kinds() -> dict[str, Any]:
    """Name → module, of all in this folder."""
    modules = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
               if not m.name.startswith("_")}  # fmt: skip
    return {name: module for name, module in sorted(modules.items()) if is_kind(module)}


def room_of(kind: str) -> Any:
    """The module of a kind: one of `kinds`, or any other by its import path (`my_lab.convert_slowfast`). It defines

    - CONSTRUCTOR: of our model, a name in `models` or an import path; IGNORED: a regex of arrays without weights;
    - settings(config, arrays) → the constructor's keywords; table(keywords) → `names.Entry` of every parameter;
    - where the authors' files have other names than Hugging Face's: is_official(arrays), from_official(arrays).

    Raises:
      ConversionError: there is no such module, or it lacks one of these.
    """
    ours = kinds()
    if kind in ours:
        return ours[kind]
    try:
        module = importlib.import_module(kind)
    except ModuleNotFoundError as e:
        if e.name and not (kind == e.name or kind.startswith(f"{e.name}.")):
            raise  # the module exists, one of its own imports does not
        raise ConversionError(
            f"{kind!r}: kinds are {', '.join(ours)}, or the import path of a module that is one"
        ) from None
    if not is_kind(module):
        raise ConversionError(f"module {kind!r} is no kind of conversion: it needs {', '.join(REQUIRED)}")
    return module
