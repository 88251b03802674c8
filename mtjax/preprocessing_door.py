"""The one door from `mtjax` into `preprocessing`: procedural data on first use, and tracks of a raw video for prediction."""

import importlib
from collections.abc import Mapping
from typing import Any


def _room(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(f"preprocessing.{module}")
    except ImportError as e:
        raise SystemExit(f"preprocessing.{module} cannot be imported ({e}): pip install 'mtjax[{extra}]'") from None


def generate(arguments: Mapping[str, Any], root: str) -> None:
    """Makes a procedural dataset: `arguments` are a `name` ("mannequin") and the keywords of its `generate`."""
    keywords = {k: v for k, v in arguments.items() if k != "name"}
    _room(arguments["name"], "video").generate(root, **keywords)


def track_video(path: str, **keywords: Any) -> tuple[dict[str, Any], Any]:
    """`preprocessing.tracks.track_video`: the record that extraction would write, and the decoded frames."""
    return _room("tracks", "video").track_video(path, **keywords)
