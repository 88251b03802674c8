"""Pictures of tracks over their video, coloured by saliency. Needs the `video` extra."""

from pathlib import Path

import numpy as np

from mtjax.command.errors import Missing

LONG_SIDE = 640  # pixels of the drawn video
TAIL = 12  # frames of history drawn behind each point


def write(
    stem: Path, *, frames: np.ndarray, tracks: np.ndarray, saliency: np.ndarray, title: str, fps: float
) -> tuple[Path, Path]:
    """Writes `<stem>.mp4` and `<stem>.png` (whole trajectories over the middle frame).

    Args:
      frames: uint8 [t h w 3], RGB. tracks: [t n 3]: x, y in units of the image, occluded.
      saliency: [n] in [0, 1]: dark blue to yellow, thicker when larger.
      fps: of the written video.
    """
    try:
        import av
        import cv2
    except ImportError as e:
        raise Missing(f"overlays need {e.name}: pip install 'mtjax[video]', or pass --no_overlay") from None
    height, width = frames.shape[1:3]
    factor = LONG_SIDE / max(height, width)
    size = (round(width * factor) // 2 * 2, round(height * factor) // 2 * 2)
    colours, widths = _colours(saliency), np.where(saliency > 0.5, 3, 1)
    points = np.round(np.nan_to_num(tracks[..., :2].astype(np.float64)) * size).astype(np.int32)
    visible = tracks[..., 2] < 0.5

    def draw(t: int, tail: int) -> np.ndarray:
        picture = cv2.resize(frames[t], size, interpolation=cv2.INTER_AREA)
        for n in np.argsort(saliency):
            first = max(0, t - tail)
            path = points[first : t + 1, n]
            cv2.polylines(picture, [path[:, None]], False, colours[n], int(widths[n]), cv2.LINE_AA)
            if visible[t, n]:
                cv2.circle(
                    picture, tuple(int(v) for v in points[t, n]), 2 + int(widths[n]), colours[n], -1, cv2.LINE_AA
                )
        cv2.rectangle(picture, (0, 0), (size[0], 26), (0, 0, 0), -1)
        cv2.putText(picture, title, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 1, cv2.LINE_AA)
        return picture

    video = stem.with_name(stem.name + ".mp4")
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=round(fps))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for t in range(len(frames)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(t, TAIL), format="rgb24")))
        container.mux(stream.encode())
    image = stem.with_name(stem.name + ".png")
    middle = len(frames) - 1
    cv2.imwrite(str(image), cv2.cvtColor(draw(middle, len(frames)), cv2.COLOR_RGB2BGR))
    return video, image


def _colours(saliency: np.ndarray) -> list[tuple[int, int, int]]:
    from matplotlib import colormaps

    return [tuple(int(255 * c) for c in colormaps["plasma"](float(s))[:3]) for s in np.clip(saliency, 0, 1)]
