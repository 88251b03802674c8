"""Decoding: which frames, how turned, and every bad file an error that says why. Frame i of a test video is grey(i)."""

import fractions
import os
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from preprocessing.videos import stream_end, video, video_clip
from preprocessing.videos.decoder import Decoder
from preprocessing.videos.video import decode
from preprocessing.videos.video_file import Limits, ProgramError, VideoError

pytestmark = pytest.mark.core

STEP = 4  # between the grey levels of consecutive frames; compression moves a mean by less than 1


def grey_video(path, n, size=(64, 48), *, codec="libx264", pix="yuv420p", pts_ms=None, options=None, turn=0, fmt=None):
    """Writes n frames, frame i of grey 10 + STEP i with its top left quarter white; 25 frames/s or at `pts_ms`."""
    with av.open(str(path), "w", format=fmt) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pix
        if pts_ms is not None:
            stream.codec_context.time_base = fractions.Fraction(1, 1000)
        if turn:
            stream.set_display_rotation(turn)
        for i in range(n):
            image = np.full((size[1], size[0], 3), (10 + STEP * i) % 240, np.uint8)
            image[: size[1] // 2, : size[0] // 2] = 255
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i if pts_ms is None else int(pts_ms[i])
            frame.time_base = stream.codec_context.time_base or fractions.Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frame_numbers(frames):
    """Which frames of a `grey_video` these are, by the lower right quarter."""
    h, w = frames.shape[1:3]
    return np.round((frames[:, h // 2 + 2 :, w // 2 + 2 :].mean((1, 2, 3)) - 10) / STEP).astype(int)


def noisy_video(path):
    """50 frames; noise keeps the picture data larger than anything else in the file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0", "g": "12", "qp": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        rng = np.random.default_rng(0)
        for i in range(50):
            image = np.clip(10 + STEP * i + rng.normal(0, 8, (48, 64, 3)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def refusal(path, **options):
    with pytest.raises(VideoError) as error:
        decode(path, **{"num_frames": 4, **options})
    return str(error.value)


@pytest.mark.parametrize(
    "name, codec",
    [
        ("b.mp4", "libx264"),  # with B-frames
        ("b.mkv", "libx264"),
        ("b.ts", "libx264"),  # its clock starts at 1.4 s
        ("xvid.avi", "mpeg4"),
        ("b.avi", "libx264"),  # AVI stores the decoding order only
        ("raw.h264", "libx264"),  # and this no time at all
        ("v.webm", "libvpx-vp9"),  # hidden reference frames
    ],
)
def test_constant_rate_is_linspace(tmp_path, name, codec):
    path = grey_video(
        tmp_path / name, 50, codec=codec, options={"qmin": "2", "qmax": "4"} if codec == "mpeg4" else None
    )
    for num_frames in (1, 7, 32, 50, 75):
        clip = decode(path, num_frames=num_frames)
        expected = np.round(np.round(np.linspace(0, 49, num_frames), 6)).astype(int)
        np.testing.assert_array_equal(frame_numbers(clip.frames), expected)
        np.testing.assert_allclose(clip.times_s - clip.times_s[0], expected / 25, atol=2e-3)
    assert clip.frames.dtype == np.uint8 and clip.frames.shape == (75, 48, 64, 3)
    assert clip.fps == pytest.approx(25, rel=1e-3) and clip.size_px == clip.source_px == (64, 48) and not clip.partial


def test_variable_rate_is_sampled_by_time(tmp_path):
    pts_ms = np.concatenate([np.arange(20) * 100, 2000 + np.arange(20) * 20])  # 10 frames/s, then 50
    clip = decode(grey_video(tmp_path / "vfr.mkv", 40, pts_ms=pts_ms), num_frames=9)
    expected = [int(np.abs(pts_ms - t).argmin()) for t in np.linspace(0, pts_ms[-1], 9)]
    np.testing.assert_array_equal(frame_numbers(clip.frames), expected)
    np.testing.assert_allclose(clip.times_s, pts_ms[expected] / 1000, atol=2e-3)
    assert clip.fps == pytest.approx(39 / 2.38, rel=1e-3)


@pytest.mark.parametrize("name", ["r.mp4", "r.mkv", "r.avi", "r.h264"])  # with presentation times and without
@pytest.mark.parametrize("fps, expected", [(25, range(30)), (12.5, range(0, 30, 2)), (5, range(0, 30, 5)), (0.1, [0])])
def test_a_rate_gives_one_frame_a_tick(tmp_path, name, fps, expected):
    clip = decode(grey_video(tmp_path / name, 30), num_frames=3, fps=fps)
    assert frame_numbers(clip.frames).tolist() == list(expected)
    np.testing.assert_allclose(clip.times_s - clip.times_s[0], np.array(expected) / 25, atol=2e-3)
    assert clip.fps == pytest.approx(25, rel=1e-3)


def test_a_rate_above_the_video_s_repeats_frames(tmp_path):
    clip = decode(grey_video(tmp_path / "slow.mkv", 4, pts_ms=80 * np.arange(4)), num_frames=1, fps=25)
    assert frame_numbers(clip.frames).tolist() == [0, 0, 1, 1, 2, 2, 3]  # half-way ticks take the earlier frame
    np.testing.assert_allclose(clip.times_s, np.array([0, 0, 80, 80, 160, 160, 240]) / 1000, atol=2e-3)
    pts_ms = np.concatenate([np.arange(10) * 100, 1000 + np.arange(10) * 20])  # 10 frames/s, then 50
    clip = decode(grey_video(tmp_path / "vfr.mkv", 20, pts_ms=pts_ms), num_frames=1, fps=20)
    ticks = np.arange(0, 1181, 50)
    assert frame_numbers(clip.frames).tolist() == [int(np.abs(pts_ms - t).argmin()) for t in ticks]


def test_a_rate_over_a_part(tmp_path):
    path = grey_video(tmp_path / "a.mp4", 50)
    assert frame_numbers(decode(path, num_frames=1, fps=25, start_s=0.4, end_s=0.8).frames).tolist() == [*range(10, 20)]
    assert frame_numbers(decode(path, num_frames=1, fps=10, start_s=0.41, end_s=0.42).frames).tolist() == [10]


def test_a_rate_is_bounded(tmp_path):
    path = grey_video(tmp_path / "a.mp4", 30)
    assert "max_frames: frames at 1000 a second: 1161" in refusal(path, fps=1000, limits=Limits(max_frames=100))
    bytes_each = 64 * 48 * 3
    limits = Limits(max_clip_bytes=29 * bytes_each)
    assert "max_clip_bytes: bytes of 30 frames" in refusal(path, fps=25, limits=limits)
    assert "max_clip_bytes: bytes of 59 frames" in refusal(path, fps=50, limits=Limits(max_clip_bytes=31 * bytes_each))
    assert len(decode(path, num_frames=40, limits=limits).frames) == 40  # a fixed number is its own bound
    with Decoder() as decoder:
        assert decoder.decode(path, num_frames=1, fps=25.0).frames.shape == (30, 48, 64, 3)


def test_a_late_first_frame_is_time_zero(tmp_path):
    clip = decode(grey_video(tmp_path / "late.mkv", 10, pts_ms=700 + 40 * np.arange(10)), num_frames=10)
    np.testing.assert_allclose(clip.times_s, np.arange(10) / 25, atol=2e-3)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts", "a.flv", "a.nut"])
def test_a_clock_that_starts_late_is_no_length(tmp_path, name):
    path = grey_video(tmp_path / name, 20, pts_ms=701_200 + 40 * np.arange(20))
    clip = decode(path, num_frames=3, limits=Limits(max_seconds=2.0))
    np.testing.assert_allclose(clip.times_s, [0, 0.4, 0.76], atol=0.05)
    assert "max_seconds" in refusal(path, limits=Limits(max_seconds=0.5))


def streams_in_one_file(path, sizes, default):
    """A Matroska file with a video of each size, frame i of stream k of grey 40 k + i; `default` is marked so."""
    with av.open(str(path), "w") as container:
        streams = []
        for k, (width, height) in enumerate(sizes):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = av.stream.Disposition.default if k == default else av.stream.Disposition(0)
            streams.append(stream)
        for i in range(5):
            for k, stream in enumerate(streams):
                image = np.full((stream.height, stream.width, 3), 40 * (k + 1) + i, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    "default, size", [(1, (320, 240)), (0, (80, 60)), (None, (320, 240))], ids=["main", "preview", "unmarked"]
)
def test_of_several_video_streams_the_default_or_else_the_largest(tmp_path, default, size):
    path = streams_in_one_file(tmp_path / "two.mkv", [(80, 60), (320, 240), (160, 120)], default)
    assert decode(path, num_frames=2).size_px == size


def test_a_transport_stream_cut_anywhere_is_damaged(tmp_path):
    whole = noisy_video(tmp_path / "whole.ts")
    assert not decode(whole, num_frames=50).partial
    data, cut = whole.read_bytes(), tmp_path / "cut.ts"
    packets = len(data) // 188
    in_frames = [  # after these packets a frame goes on: no new unit begins in the next, of the same stream
        n * 188 for n in range(packets // 2, packets - 1)
        if data[n * 188 + 1] & 0x40 == 0 and data[(n - 1) * 188 + 1] & 0x1F == data[n * 188 + 1] & 0x1F == 1
    ][:3]  # fmt: skip
    assert in_frames
    for size in (*in_frames, len(data) // 2 // 188 * 188 + 1, len(data) - 1, len(data) - 100):
        cut.write_bytes(data[:size])
        with pytest.raises(VideoError, match="damaged"):
            decode(cut, num_frames=4)
        assert decode(cut, num_frames=4, allow_partial=True).partial


def image_folder(path, count, size=(64, 48), suffix=".jpg"):
    """Frame i of grey 10 + STEP i, called i + 1 without zeros in front."""
    path.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((size[1], size[0], 3), 10 + STEP * i, np.uint8)).save(path / f"{i + 1}{suffix}")
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".PNG"])
def test_a_folder_of_images_is_a_video(tmp_path, suffix):
    path = image_folder(tmp_path / "34870", 24, suffix=suffix)
    (path / "Thumbs.db").write_text("no image")
    clip = decode(path, num_frames=4, image_fps=12)
    assert frame_numbers(clip.frames).tolist() == [0, 8, 15, 23]
    np.testing.assert_allclose(clip.times_s, np.array([0, 8, 15, 23]) / 12, atol=1e-6)
    assert clip.fps == pytest.approx(12) and clip.size_px == clip.source_px == (64, 48) and not clip.partial
    with Decoder() as decoder:
        by_rate = decoder.decode(path, num_frames=1, fps=6.0, short_side=24, image_fps=12.0, start_s=0.5, end_s=1.5)
    assert frame_numbers(by_rate.frames).tolist() == [6, 8, 10, 12, 14, 16] and by_rate.frames.shape[1:3] == (24, 32)


def test_a_folder_of_images_is_refused_as_a_video_is(tmp_path):
    path = image_folder(tmp_path / "clip", 12)
    assert "no frame rate: give --image_fps, or fps in the catalog" in refusal(path)
    assert "max_frames" in refusal(path, image_fps=12, limits=Limits(max_frames=11))
    assert "max_seconds" in refusal(path, image_fps=1, limits=Limits(max_seconds=10))
    assert "max_bytes" in refusal(path, image_fps=12, limits=Limits(max_bytes=500))
    assert "max_pixels" in refusal(path, image_fps=12, limits=Limits(max_pixels=1000))
    (path / "9.jpg").write_bytes((path / "9.jpg").read_bytes()[:400])
    assert "damaged: 9.jpg" in refusal(path, image_fps=12, num_frames=12)
    clip = decode(path, num_frames=8, image_fps=12, allow_partial=True)
    assert clip.partial and frame_numbers(clip.frames).tolist() == [*range(8)]
    (tmp_path / "none").mkdir()
    assert "without images" in refusal(tmp_path / "none", image_fps=12)


def test_frames_that_were_shown_earlier_and_are_missing_betray_a_cut():
    steady = list(range(0, 300, 10))
    assert not stream_end.frames_missing_at_the_end(steady)
    assert stream_end.frames_missing_at_the_end([*steady, 320])
    assert not stream_end.frames_missing_at_the_end([0, 10, 40, *range(50, 400, 10), 420])  # it is not steady at all


@pytest.mark.parametrize("jump_s", [1e9, 0.2])
@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.avi"])
def test_a_part_with_and_without_a_jump(tmp_path, monkeypatch, jump_s, name):
    monkeypatch.setattr(video, "JUMP_S", jump_s)
    path = grey_video(tmp_path / name, 55, options={"g": "10"})
    shift = decode(path, num_frames=1).times_s[0]  # AVI counts from 1
    clip = decode(path, num_frames=5, start_s=1.2 + shift, end_s=1.6 + shift)
    np.testing.assert_array_equal(frame_numbers(clip.frames), [30, 32, 34, 37, 39])  # frame 40 starts at 1.6
    assert frame_numbers(decode(path, num_frames=2, start_s=2.0 + shift).frames).tolist() == [50, 54]
    between = decode(path, num_frames=2, start_s=0.49 + shift, end_s=0.5 + shift)
    assert frame_numbers(between.frames).tolist() == [12, 12]
    assert "no frame in" in refusal(path, start_s=7.0, end_s=8.0)


def test_few_frames_repeat(tmp_path):
    three = decode(grey_video(tmp_path / "3.mp4", 3), num_frames=6)
    assert frame_numbers(three.frames).tolist() == [0, 0, 1, 1, 2, 2]
    one = decode(grey_video(tmp_path / "1.mp4", 1), num_frames=4)
    assert frame_numbers(one.frames).tolist() == [0] * 4 and one.fps == 0.0


@pytest.mark.parametrize(
    "turn, quarter", [(0, "top left"), (90, "bottom left"), (180, "bottom right"), (-90, "top right")]
)
def test_rotation_is_applied(tmp_path, turn, quarter):
    clip = decode(grey_video(tmp_path / "turned.mp4", 2, turn=turn), num_frames=1)  # counterclockwise
    assert clip.size_px == ((48, 64) if turn in (90, -90) else (64, 48)) and clip.source_px == (64, 48)
    h, w = clip.frames.shape[1:3]
    means = {
        f"{y} {x}": clip.frames[0, rows, columns].mean()
        for y, rows in (("top", slice(0, h // 2)), ("bottom", slice(h // 2, h)))
        for x, columns in (("left", slice(0, w // 2)), ("right", slice(w // 2, w)))
    }
    assert max(means, key=means.get) == quarter


@pytest.mark.parametrize(
    "options",
    [
        {"size": (65, 49), "pix": "yuv444p"},
        {"pix": "yuv420p10le"},
        {"pix": "yuv422p"},
        {"options": {"x264-params": "interlaced=1"}},
    ],
)
def test_odd_sizes_and_pixel_formats(tmp_path, options):
    clip = decode(grey_video(tmp_path / "odd.mp4", 30, **options), num_frames=3)
    np.testing.assert_allclose(frame_numbers(clip.frames), [0, 14, 29], atol=1)  # conversion costs a level or two
    assert clip.frames.shape == (3, 48, 64, 3) and clip.source_px == options.get("size", (64, 48))


def test_short_side_shrinks_by_area_and_never_enlarges(tmp_path):
    path = grey_video(tmp_path / "a.mp4", 2, (160, 120))
    clip = decode(path, num_frames=1, short_side=60)
    assert clip.frames.shape == (1, 60, 80, 3) and clip.size_px == (160, 120)
    assert decode(path, num_frames=1, short_side=256).frames.shape == (1, 120, 160, 3)


def sound_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


def test_files_that_are_no_videos(tmp_path):
    empty, text, playlist, cut, sound = (tmp_path / f"{n}.mp4" for n in ("empty", "text", "list", "cut", "sound"))
    empty.touch()
    text.write_text("not a video\n" * 99)
    inside = grey_video(tmp_path / "inside.ts", 5)
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{inside}\n#EXT-X-ENDLIST\n")
    whole = grey_video(tmp_path / "whole.mp4", 30).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])  # the moov box comes last
    sound_only(sound)
    assert refusal(empty) == "open: the file is empty (0 bytes)"
    assert refusal(sound) == "open: no video stream; the streams are ['audio']"
    for path in (text, playlist, cut):
        assert "open: not a video, or its header is damaged or missing" in refusal(path)
    assert "No such file" in refusal(tmp_path / "none.mp4") and "not a regular file" in refusal("/dev/null")


def damaged(source, target, kind):
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    if kind == "cut":
        data = data[: 3 * len(data) // 4]
    else:
        data[middle : middle + len(data) // 20] = bytes(b ^ 0xFF for b in data[middle : middle + len(data) // 20])
    target.write_bytes(data)


@pytest.mark.parametrize(
    "kind, name", [("flip", "a.mp4"), ("flip", "a.mkv"), ("flip", "a.avi"), ("flip", "a.ts"), ("cut", "a.mkv")]
)
def test_damage_in_the_middle_is_never_a_silently_shorter_clip(tmp_path, kind, name):
    source = noisy_video(tmp_path / f"whole_{name}")
    whole = decode(source, num_frames=50)
    damaged(source, tmp_path / name, kind)
    assert "decode: damaged" in refusal(tmp_path / name)
    clip = decode(tmp_path / name, num_frames=4, allow_partial=True)
    assert clip.partial and not whole.partial
    intact = [i for i, frame in enumerate(whole.frames) if np.array_equal(frame, clip.frames[-1])]
    assert len(intact) == 1 and 10 <= intact[0] < 40  # only frames from before the damage


def test_limits_are_named(tmp_path):
    bomb = tmp_path / "8k.mp4"
    with av.open(str(bomb), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 7680, 4320, "yuv420p"
        frame = av.VideoFrame(7680, 4320, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert bomb.stat().st_size < 100_000
    assert refusal(bomb) == "limits: max_pixels: pixels of a 7680x4320 frame: 33177600, the limit is 9437184"
    path = grey_video(tmp_path / "a.mp4", 50)
    raw = grey_video(tmp_path / "a.h264", 50)  # declares neither frames nor seconds: found out on the way
    for source in (path, raw):
        assert "max_frames" in refusal(source, limits=Limits(max_frames=40))
        assert "max_bytes" in refusal(source, limits=Limits(max_bytes=100))
    assert "max_seconds" in refusal(path, limits=Limits(max_seconds=1.5))
    assert "max_frames" in refusal(path, start_s=0.5, limits=Limits(max_frames=30))
    assert decode(path, num_frames=2, start_s=0.5, end_s=1.0, limits=Limits(max_frames=13, max_seconds=1.0))
    grown = tmp_path / "grown.h264"
    grown.write_bytes(
        grey_video(tmp_path / "s.h264", 99).read_bytes() + grey_video(tmp_path / "l.h264", 5, (640, 480)).read_bytes()
    )
    assert "grown to 640x480" in refusal(grown, limits=Limits(max_pixels=10_000))


FAKE = """
import os, pathlib, signal, time
from preprocessing.videos import video
def sleep(path, **options):
    if "bad" in path: time.sleep(60)
    return video.decode(path, **options)
def crash(path, **options):
    if "bad" in path: os.kill(os.getpid(), signal.SIGSEGV)
    return video.decode(path, **options)
def broken(path, **options):
    if "bad" in path: path.no_such_method()
    return video.decode(path, **options)
def crash_once(path, **options):
    mark = pathlib.Path(path + ".tried")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    return video.decode(path, **options)
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "fake_decoders.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fakes"))
    good, bad = grey_video(tmp_path / "good.mp4", 5), grey_video(tmp_path / "bad.mp4", 5)
    return [(path, {"num_frames": 3, "limits": Limits()}) for path in (good, bad, good)]


@pytest.mark.parametrize(
    "target, stage, reason",
    [("sleep", "timeout", "within 1 s, twice"), ("crash", "crash", "SIGSEGV"), ("crash_once", "", "")],
)
def test_a_hang_or_a_crash_costs_one_video(fakes, target, stage, reason):
    with Decoder(timeout_s=1.0 if target == "sleep" else 60.0, target=f"fake_decoders:{target}") as decoder:
        results = list(decoder.map(fakes))
    assert isinstance(results[0], video_clip.Clip) and isinstance(results[2], video_clip.Clip)
    if stage:
        assert results[1].stage == stage and reason in results[1].reason
    else:
        assert isinstance(results[1], video_clip.Clip)


def test_a_fault_of_the_program_is_no_fault_of_a_video(fakes):
    with Decoder(target="fake_decoders:broken") as decoder, pytest.raises(ProgramError, match="no_such_method"):
        list(decoder.map(fakes))


def test_the_child_gives_what_decode_gives(tmp_path):
    good, bad = grey_video(tmp_path / "a.mp4", 9, turn=90), tmp_path / "bad.mp4"
    bad.write_text("no")
    with Decoder() as decoder:
        here, there = decode(good, num_frames=4, short_side=20), decoder.decode(good, num_frames=4, short_side=20)
        for field, value in vars(here).items():
            np.testing.assert_array_equal(value, getattr(there, field))
        with pytest.raises(VideoError, match="open: not a video"):
            decoder.decode(bad, num_frames=4)
        child = decoder._child.pid
        decoder.decode(good, num_frames=1)
        assert decoder._child.pid == child  # an error is not a reason for a new one
    for _ in range(50):
        if not Path(f"/proc/{child}").exists():
            break
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{child}")
