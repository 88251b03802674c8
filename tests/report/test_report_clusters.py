"""Contact sheets: which clusters, which segments, which pictures; what stands above them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import image_bytes, make_dataset, run_main

from mtjax.clusters import pseudo_labels
from mtjax.data import column_writer
from mtjax.data.catalog import Catalog
from mtjax.data.columns import Column, Spec, column_dir
from mtjax.lookup import ConfigError
from mtjax.records import CorruptRecord, Feature
from mtjax.report import __main__ as report
from mtjax.report import clusters
from mtjax.run.results import Result

RATE = 4  # pictures a second
FRAMES = 16  # of a video
MADE = {"features": "mplg.embedding", "field": "embedding", "granularity": "thirds", "splits": ["train"]}
SCHEMA = {"label": Feature("int32", (-1,)), "start_s": Feature("float32", (-1,)), "distance": Feature("float32", (-1,))}


def pictures(video: int) -> list[bytes]:
    """Grey pictures that say their video and, in steps of 8, their number."""
    return [image_bytes(np.full((12, 16, 3), 8 * t + video % 8, np.uint8)) for t in range(FRAMES)]


def make_clustered(
    root: Path, label: list[list[int]], distance: list[list[float]], k: int, *, without: tuple[int, ...] = (), names=2
) -> Path:
    """Videos of 4 s, whose segments are a second and a half; `label`, `distance`: of each one's. `without`: no pictures."""
    ids = [f"train-{i:03}" for i in range(len(label))]
    frames = {i: pictures(n) for n, i in enumerate(ids) if n not in without}
    times = {i: np.arange(FRAMES, dtype=np.float32) / RATE for i in frames}
    of_frames = {"frames": (Feature("jpeg", (-1,)), frames), "times_s": (Feature("float32", (-1,)), times)}
    make_dataset(root, per_split={"train": len(ids)}, classes=names, columns_of={"frames": of_frames})
    found = pseudo_labels.Segments(
        np.repeat(np.arange(len(ids)), [len(x) for x in label]),
        np.zeros((0, 1), np.float32),
        np.concatenate([1.5 * np.arange(len(x), dtype=np.float32) for x in label]),
    )
    made = MADE | {"class_names": [f"cluster {i:04d}" for i in range(k)]}
    spec, directory = Spec("pseudo.a", SCHEMA, 2, "mtjax.cluster", parameters=made), column_dir(root, "pseudo.a")
    column_writer.create(root, spec)
    flat = np.concatenate(label).astype(np.int32)
    catalog = Catalog.load(root)
    pseudo_labels.write(catalog, directory, spec, found, flat, np.concatenate(distance).astype(np.float32))
    (directory / pseudo_labels.SUMMARY).write_text(json.dumps(pseudo_labels.summary(catalog, found, flat, k)))
    return root


def run_on(root: Path, workdir: Path = Path("run"), **data) -> Result:
    return Result(workdir, {"data": {"name": "rgb.Rgb", "root": str(root)} | data}, {}, [])


@pytest.fixture
def drawn(monkeypatch) -> list[list[list[tuple[int, int]]]]:
    """(video, picture) of each filmstrip of each sheet."""
    sheets, draw, sheet = [], clusters._draw_strip, clusters.sheet

    def strip(axis, shown):
        sheets[-1].append([(int(p.mean()) % 8, int(p.mean()) // 8) for p in shown])
        draw(axis, shown)

    monkeypatch.setattr(clusters, "_draw_strip", strip)
    monkeypatch.setattr(clusters, "sheet", lambda *a: (sheets.append([]), sheet(*a))[1])
    return sheets


# By hand.


def test_pictures_of_a_segment_are_in_it_and_evenly_spaced():
    times = np.arange(16) / 4
    assert clusters.shown(times, 0.0, np.inf) == [2, 6, 10, 14]
    assert clusters.shown(times, 1.5, 3.0) == [6, 8, 9, 11]  # six pictures, 6 to 11
    assert clusters.shown(times, 3.5, np.inf) == [14, 15]  # fewer are not repeated
    assert clusters.shown(times, 1.05, 1.15) == [4]  # none inside: the nearest
    assert clusters.shown(times, 9.0, np.inf) == [15]  # the pictures end before the features do


def test_the_nearest_are_one_a_video_while_there_are_videos():
    clip, distance = np.array([5, 5, 5, 7, 7, 9]), np.array([0.1, 0.2, 0.9, 0.5, 0.4, 0.3])
    assert clusters.nearest(clip, distance, 2).tolist() == [0, 5]  # segment 1 is nearer, but of the same video
    assert clusters.nearest(clip, distance, 3).tolist() == [0, 5, 4]
    assert clusters.nearest(clip, distance, 4).tolist() == [0, 1, 5, 4]  # more than there are videos
    assert clusters.nearest(clip, distance).tolist() == [0, 1, 5, 4, 3, 2]
    assert clusters.nearest(np.array([1, 2]), np.array([0.0, 0.0]), 1).tolist() == [0]  # a tie
    assert clusters.nearest(clip[:0], distance[:0]).tolist() == []


def test_clusters_are_evenly_spaced_by_size_and_never_empty():
    size = np.array([3, 0, 9, 1, 9, 2, 5])
    assert clusters.chosen(size, np.ones(7, bool), 6) == [2, 4, 6, 0, 5, 3]
    assert clusters.chosen(size, np.ones(7, bool), 3) == [4, 0, 3]  # the middles of three pairs
    assert clusters.chosen(size, np.arange(7) != 4, 9) == [2, 6, 0, 5, 3]
    assert clusters.chosen(np.zeros(3, int), np.ones(3, bool), 6) == []


def test_a_title_names_the_commonest_class_of_the_labelled():
    names, clip = ("jump", "run"), np.array([0, 0, 1, 2])
    assert clusters.title("cluster 0007", clip, np.array([1, 1, 0, -1]), names) == (
        "cluster 0007: 4 segment(s) of 3 video(s), commonest class run (67%)"
    )
    assert clusters.title("c", clip, np.array([1, 1, 0, 0]), names).endswith("jump (50%)")  # a tie
    assert clusters.title("c", clip, np.full(4, -1), names) == "c: 4 segment(s) of 3 video(s)"


# A section.


def test_sheets_show_the_nearest_segments_and_read_nothing_else(tmp_path, drawn, monkeypatch):
    """Cluster 0: the first segment of all but the last video, nearest the later ones. Cluster 1: the last video alone."""
    label = [[0, 2, 2]] * 11 + [[1, 1, 1]]
    distance = [[12.0 - n, 1.0 + n, 20.0 - n] for n in range(11)] + [[3.0, 1.0, 2.0]]
    root = make_clustered(tmp_path / "d", label, distance, k=4, without=(10,))
    read, real = [], Column.read
    monkeypatch.setattr(
        Column, "read", lambda column, rows: (read.append((column.spec.name, column.ids[rows])), real(column, rows))[1]
    )
    (section,) = clusters.sections([run_on(root)], ["pseudo.a"])
    assert section.title == "Clusters, pseudo.a" and section.layout == "wide"
    assert section.notes[0].startswith(
        "36 segments of 12 videos in 4 clusters, 1 of them empty; median size 7, largest 22. Features: mplg.embedding, "
        "field embedding, granularity thirds; fitted on train."
    )
    assert "Purity 58.33 %" in section.notes[1]  # 12 of 22, 6 of 11 and 3 of 3
    assert section.notes[2].endswith("in order of time. 1 videos have none.")
    titles = [alt for alt, _ in section.plots]
    assert titles == [
        "sizes of the clusters",
        "cluster 0002: 22 segment(s) of 11 video(s), commonest class class 000 (55%)",
        "cluster 0000: 11 segment(s) of 11 video(s), commonest class class 000 (55%)",
        "cluster 0001: 3 segment(s) of 1 video(s), commonest class class 001 (100%)",
    ]
    # From 1.5 to 3 s in cluster 2 (six pictures, 6 to 11), to 1.5 s in cluster 0; grey tells videos apart modulo 8.
    assert drawn[0] == [[(n % 8, t) for t in (6, 8, 9, 11)] for n in range(9)]
    assert drawn[1] == [[(n % 8, t) for t in (0, 2, 3, 5)] for n in range(9, 0, -1)]
    assert drawn[2] == [
        [(3, t) for t in (6, 8, 9, 11)],
        [(3, t) for t in (12, 13, 14, 15)],
        [(3, t) for t in (0, 2, 3, 5)],
    ]
    for_pictures = [ids for name, ids in read if name == "frames"][1:]  # opening a column reads its first record
    assert len(for_pictures) == 9 + 9 + 3 and all(len(ids) == 1 for ids in for_pictures)
    assert [len(ids) for name, ids in read if name == "pseudo.a"][1:] == [12]


def test_any_column_of_pictures_will_do_and_labels_are_not_needed(tmp_path, drawn):
    root = make_clustered(tmp_path / "d", [[0], [0], [0]], [[1.0], [0.0], [0.0]], k=2)
    catalog = Catalog.load(root)
    unlabelled = tuple(dataclasses.replace(clip, label="") for clip in catalog.clips)
    dataclasses.replace(catalog, clips=unlabelled).save()
    (root / "columns" / "pseudo.a" / pseudo_labels.SUMMARY).write_text(
        json.dumps({"segments": 3, "videos": 3, "clusters": 2, "empty": 1, "size_median": 1.5, "size_max": 3,
                    "sizes": {"0 to 0": 1, "2 to 3": 1}})
    )  # fmt: skip
    flow = {
        "flow_x": [image_bytes(np.full((8, 4), 100, np.uint8))] * 3,
        "flow_y": [image_bytes(np.zeros((8, 4), np.uint8))] * 3,
    }
    schema = dict.fromkeys(flow, Feature("jpeg", (-1,)))
    column_writer.write_column(root, Spec("flow.dis", schema, 1, "tests"), dict.fromkeys(catalog.ids.tolist(), flow))
    joined = run_on(root, name="joined.Joined", student={"name": "rgb.Rgb"}, watched={"name": "flow.Flow"})
    (section,) = clusters.sections([joined], ["pseudo.a"], "flow.dis", sheets=1)
    assert [alt for alt, _ in section.plots][1:] == ["cluster 0000: 3 segment(s) of 3 video(s)"]
    assert len(section.notes) == 2 and "'flow.dis'" in section.notes[1]
    assert drawn == [[[(100 % 8, 100 // 8)] * 3] * 3]  # of the first field, in grey


def test_what_cannot_be_shown_is_said(tmp_path):
    root = make_clustered(tmp_path / "d", [[0], [0]], [[0.0], [0.0]], k=1)
    run = run_on(root)
    for names, frames, message in (
        (
            ["pseudo.b"],
            "frames",
            r"--clusters: 'pseudo.b' is no finished column of `mtjax cluster .*'pseudo.a'",
        ),
        (["pseudo.a", "frames"], "frames", "--clusters: 'frames' is no finished column of"),
        (["pseudo.a"], "pictures", "--clusters: .* has no images in a column 'pictures'; .*--clusters_frames"),
        (["pseudo.a"], "pseudo.a", "--clusters: .* has no images in a column 'pseudo.a'"),
    ):
        with pytest.raises(ConfigError, match=message):
            clusters.sections([run], names, frames)
    schema, broken = (
        {"frames": Feature("jpeg", (-1,))},
        {"train-000": {"frames": [b"no image"]}, "train-001": {"frames": []}},
    )
    column_writer.write_column(root, Spec("broken", schema, 1, "tests"), broken)
    broken_pictures = clusters.Pictures(root, ("broken",))
    for clip, message in (
        ("train-000", "clip 'train-000', 'frames': an image of 8 bytes"),
        ("train-001", "clip 'train-001', .*: no image"),
    ):
        with pytest.raises(CorruptRecord, match=message):
            broken_pictures.chosen(clip, lambda times: [0])
    column_writer.write_column(root, Spec("elsewhere", schema, 1, "tests"), {"other": {"frames": pictures(0)}})
    with pytest.raises(ConfigError, match="no video of 'pseudo.a' has a record in 'elsewhere'"):
        clusters.sections([run], ["pseudo.a"], "elsewhere")
    (root / "columns" / "pseudo.a" / pseudo_labels.SUMMARY).unlink()  # killed before its end
    with pytest.raises(ConfigError, match="'pseudo.a' is no finished column"):
        clusters.sections([run], ["pseudo.a"])


def test_the_command(tmp_path):
    root = make_clustered(tmp_path / "d", [[0, 1]] * 4, [[0.0, 0.0]] * 4, k=2)
    workdir = tmp_path / "run"
    workdir.mkdir()
    config = {"data": {"name": "rgb.Rgb", "root": str(root)}, "train": {}, "evals": {}, "seed": 0}
    facts = {"seed": 0, "params": 1, "gmacs": 1.0, "class_names": ["a"], "scores": {"test/top1": 50.0}}
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "results.json").write_text(json.dumps(facts))
    assert report.main([str(workdir), "--clusters=pseudo.a"]) == 0
    page = (workdir / "report.html").read_text()
    assert "<h2>Clusters, pseudo.a</h2>" in page and page.count('alt="cluster 000') == 2
    (workdir / "report.html").unlink()
    done = run_main("mtjax.report", workdir, "--clusters=frames")
    assert (
        done.returncode == 2
        and done.stderr.startswith("mtjax report: --clusters: 'frames'")
        and "Traceback" not in done.stderr
    )
    assert not (workdir / "report.html").exists()
