"""The one door from `mtjax` into `preprocessing`: procedural data on first use, and what a raw video gives for prediction."""

import importlib
from collections.abc import Mapping
from typing import Any

from mtjax.command.errors import Missing


def _room(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(f"preprocessing.{module}")
    except ImportError as e:
        raise Missing(f"preprocessing.{module} cannot be imported ({e}): pip install 'mtjax[{extra}]'") from None


def generate(arguments: Mapping[str, Any], root: str) -> None:
    """Makes a procedural dataset: `arguments` are a `name` ("mannequin") and the keywords of its `generate`."""
    keywords = {k: v for k, v in arguments.items() if k != "name"}
    _room(arguments["name"], "video").generate(root, **keywords)


def extract_video(kind: str, path: str, **keywords: Any) -> tuple[dict[str, Any], Any]:
    """The record that `preprocessing.extract KIND` would write for one video, and the decoded frames uint8 [t h w 3].

    Args:
      kind: "tracks", "frames" or "pose"; `keywords` are those of `track_video`, `frames_of_video` and `pose_of_video`.
    """
    if kind == "pose":
        return _room("extractors.pose", "extract").pose_of_video(path, **keywords)
    if kind == "frames":
        return _room("extractors.frames", "video").frames_of_video(path, **keywords)
    return _room("extractors.tracks", "video").track_video(path, **keywords)
