"""Lists and folders as people have them: odd layouts, spreadsheets, other spellings, videos that are gone, links."""

import gzip
import os
import pickle
import unicodedata

import numpy as np
import pytest
from test_annotations import motion, touch, write
from test_video import grey_video, image_folder

from mtjax.data.catalog import Catalog, CatalogError
from mtjax.data.columns import Column
from preprocessing import catalog as cli
from preprocessing import extract, import_skeletons
from preprocessing.annotations import folder, kinetics, skeleton_files, table, twentybn, ucf_hmdb
from preprocessing.annotations.listing import order_classes


def run(capsys, *args):
    code = cli.main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


# --- folders ---------------------------------------------------------------------------------------------------------


def test_split_folders_beside_a_folder_without_clips(tmp_path):
    touch(tmp_path, "train/jump/a.mp4", "train/run/b.mp4", "val/jump/c.mp4", "annotations/classes.txt")
    parsed = folder.parse(tmp_path)
    assert parsed.class_names == ["jump", "run"]
    assert {c.path: c.splits for c in parsed.clips}["val/jump/c.mp4"] == ("val",)
    assert any("['annotations']" in notice for notice in parsed.notices)


def test_folders_called_like_splits_are_taken_as_classes_with_a_notice_only(tmp_path):
    touch(tmp_path, "train/x/a.mp4", "val/x/b.mp4", "background/c.mp4")
    parsed = folder.parse(tmp_path)
    assert parsed.class_names == ["background", "train", "val"]
    assert any("['train', 'val'] are called like splits" in n and "['background']" in n for n in parsed.notices)


def test_split_folders_in_other_spellings(tmp_path):
    touch(tmp_path, "Training/jump/a.mp4", "TEST2/jump/b.mp4")
    parsed = folder.parse(tmp_path)
    assert {s for c in parsed.clips for s in c.splits} == {"train", "test2"}
    assert "splits are called: TEST2 → test2, Training → train" in parsed.notices


def test_folders_of_images_are_clips(tmp_path):
    for i in range(2):
        image_folder(tmp_path / "jump" / f"clip.{i}", 2)
    touch(tmp_path, "run/b.mp4", "run/thumbnail.jpg", "jump/.hidden/1.jpg")
    parsed = folder.parse(tmp_path)
    assert [c.path for c in parsed.clips] == ["jump/clip.0", "jump/clip.1", "run/b.mp4"]
    assert any("2 clips are folders of images" in n for n in parsed.notices)
    assert any("1 .jpg" in n for n in parsed.notices)


def test_links_that_lead_nowhere_or_in_circles_are_left_out_and_counted(tmp_path):
    touch(tmp_path, "jump/a.mp4")
    (tmp_path / "jump" / "again").symlink_to(tmp_path)
    (tmp_path / "jump" / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "circle").symlink_to("circle")
    parsed = folder.parse(tmp_path)
    assert [c.path for c in parsed.clips] == ["jump/a.mp4"]
    assert any("2 broken link" in notice for notice in parsed.notices)


# --- class names -----------------------------------------------------------------------------------------------------


def test_names_that_are_numbers_are_ordered_as_numbers(tmp_path):
    rows = "".join(f"{i:02d}_{k}.mp4,{i}\n" for i in range(12) for k in range(2))
    parsed = table.parse(write(tmp_path / "l.csv", "path,label\n" + rows))
    assert parsed.class_names == [str(i) for i in range(12)] and not parsed.notices
    touch(tmp_path / "videos", "2/a.mp4", "10/b.mp4", "1/c.mp4")
    parsed = folder.parse(tmp_path / "videos")
    assert parsed.class_names == ["1", "2", "10"]
    assert parsed.notices == ["class names are numbers, but not the classes' indices: class '1' has index 0"]
    assert order_classes(["10", "9", "ten"]) == (["10", "9", "ten"], [])


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, encoding",
    [
        ("path;label;split;start_s\r\na, b.mp4;jump;train;2,5\r\nc.mp4;run;test;\r\n", "utf-8-sig"),
        ('sep=;\r\npath;label;split;start_s\r\n"a, b.mp4";jump;train;2,5\r\nc.mp4;run;test;\r\n', "utf-8"),
        ("path\tlabel\tsplit\tstart_s\r\na, b.mp4\tjump\ttrain\t2.5\r\nc.mp4\trun\ttest\t\r\n", "utf-16"),
        ('path,label,split,start_s\n"a, b.mp4",jump,train,2.5\nc.mp4,run,test,\n', "utf-8"),
    ],
    ids=["semicolons", "told", "unicode text", "commas"],
)
def test_tables_as_spreadsheets_write_them(tmp_path, text, encoding):
    clips = table.parse(write(tmp_path / "l.csv", text, encoding)).clips
    assert [(c.path, c.label, c.splits, c.start_s) for c in clips] == [
        ("a, b.mp4", "jump", ("train",), 2.5), ("c.mp4", "run", ("test",), 0.0)
    ]  # fmt: skip


def test_line_numbers_count_the_line_that_names_the_separator(tmp_path):
    with pytest.raises(CatalogError, match=r"l\.csv:3: 1 values for 2 columns; quote values that hold ';'"):
        table.parse(write(tmp_path / "l.csv", "sep=;\npath;label\nalone\n"))


def test_kinetics_lists_of_a_spreadsheet(tmp_path):
    text = "label;youtube_id;time_start;time_end;split\njump;abc;1;11;train\n"
    [clip] = kinetics.parse(write(tmp_path / "train.csv", text)).clips
    assert clip.path == "abc_000001_000011.mp4"


# --- videos that are elsewhere, spelled otherwise, or gone -----------------------------------------------------------


def test_videos_are_found_in_another_unicode_form(tmp_path, capsys):
    path = unicodedata.normalize("NFC", "Café/été 1.mp4")
    write(tmp_path / "l.csv", f"path,label\n{path},jump\nb.mp4,run\n")
    touch(tmp_path / "videos", unicodedata.normalize("NFD", path), "b.mp4")
    code, out = run(capsys, "csv", tmp_path / "l.csv", tmp_path / "data", f"--videos={tmp_path}/videos")
    assert code == 0 and "1 of them in another folder, encoding or spelling" in out
    clip = Catalog.load(tmp_path / "data").clips[0]
    assert clip.path == unicodedata.normalize("NFD", path) and clip.id == path.removesuffix(".mp4")


def test_videos_are_found_in_other_capitals_unless_two_could_be_meant(tmp_path, capsys):
    write(tmp_path / "l.csv", "path,label\nA/One.mp4,jump\nb.mp4,run\n")
    touch(tmp_path / "videos", "a/one.MP4", "b.mp4", "B.mp4")
    assert run(capsys, "csv", tmp_path / "l.csv", tmp_path / "data", f"--videos={tmp_path}/videos")[0] == 0
    assert [c.path for c in Catalog.load(tmp_path / "data").clips] == ["a/one.MP4", "b.mp4"]
    touch(tmp_path / "videos", "A/one.mp4")
    code, out = run(capsys, "csv", tmp_path / "l.csv", tmp_path / "data", f"--videos={tmp_path}/videos")
    assert code == 2 and "1 names occur in several places" in out


def test_youtube_ids_differ_by_capitals(tmp_path, capsys):
    write(tmp_path / "train.csv", "label,youtube_id,time_start,time_end\njump,abc,1,11\nrun,ABC,1,11\n")
    touch(tmp_path / "videos", "run/ABC_000001_000011.mp4")
    code, _ = run(capsys, "kinetics", tmp_path / "train.csv", tmp_path / "data", f"--videos={tmp_path}/videos")
    assert code == 0 and [c.id for c in Catalog.load(tmp_path / "data").clips] == ["ABC_000001_000011"]


def test_classes_that_lose_all_videos_are_named(tmp_path, capsys):
    rows = "jump,aaa,1,11\nrun,bbb,2,12\nzumba,ccc,3,13\n"
    write(tmp_path / "lists/train.csv", "label,youtube_id,time_start,time_end\n" + rows)
    write(tmp_path / "lists/val.csv", "label,youtube_id,time_start,time_end\njump,ddd,1,11\nrun,eee,2,12\n")
    touch(tmp_path / "videos", "aaa_000001_000011.mp4", "bbb_000002_000012.mp4", "eee_000002_000012.mp4")
    code, out = run(capsys, "kinetics", tmp_path / "lists", tmp_path / "data", f"--videos={tmp_path}/videos")
    assert code == 0 and "1 of 3 classes have no clip: ['zumba']" in out
    assert "1 classes have no clip in split 'validation': ['jump']" in out


@pytest.mark.parametrize("groups, fit", [(("g1", "g12"), {"g12"}), (("g007", "g110"), {"g110"})])
def test_ucf_groups_of_any_width(tmp_path, groups, fit):
    write(tmp_path / "classInd.txt", "1 Jump\n")
    write(tmp_path / "trainlist01.txt", "".join(f"Jump/v_Jump_{g}_c1.avi 1\n" for g in groups))
    write(tmp_path / "testlist01.txt", "Jump/v_Jump_g3_c1.avi\n")
    clips = ucf_hmdb.parse_ucf101(tmp_path).clips
    assert {c.group for c in clips if "train1_fit" in c.splits} == {f"Jump/{g}" for g in fit}
    assert {c.group for c in clips if "train1_val" in c.splits} == {f"Jump/{g}" for g in groups if g not in fit}


def test_jester_from_its_folders_of_images(tmp_path, capsys):
    for name, text in {"labels": "Down\nUp\n", "train": "1;Down\n2;Up\n", "validation": "3;Up\n"}.items():
        write(tmp_path / f"labels/jester-v1-{name}.csv", text)
    for clip in "123":
        image_folder(tmp_path / "frames" / clip, 6)
    assert {c.fps for c in twentybn.parse_jester(tmp_path / "labels").clips} == {12.0}
    assert run(capsys, "jester", tmp_path / "labels", tmp_path / "data", f"--videos={tmp_path}/frames")[0] == 0
    assert extract.main(["frames", str(tmp_path / "data"), "--frames=3"]) == 0
    column = Column(tmp_path / "data", "frames")
    assert len(column) == 3 and column.read([0])[0]["fps"] == 12
    np.testing.assert_allclose(column.read([0])[0]["times_s"], np.array([0, 2, 5]) / 12, atol=1e-6)
    again = ["frames", str(tmp_path / "data"), "--frames=3"]
    assert extract.main([*again, "--image_fps=24", "--name=fast"]) == 0
    assert Column(tmp_path / "data", "fast").read([0])[0]["fps"] == 24


def test_links_out_of_the_videos_folder_need_leave(tmp_path, capsys):
    (tmp_path / "archive").mkdir()
    grey_video(tmp_path / "archive" / "one.mp4", 5)
    image_folder(tmp_path / "archive" / "images", 5)
    (tmp_path / "videos/jump").mkdir(parents=True)
    (tmp_path / "videos/jump/one.mp4").symlink_to(tmp_path / "archive/one.mp4")
    (tmp_path / "videos/jump/two").mkdir()
    for image in (tmp_path / "archive/images").iterdir():
        (tmp_path / "videos/jump/two" / image.name).symlink_to(image)
    assert run(capsys, "folder", tmp_path / "videos", tmp_path / "data")[0] == 0
    arguments = ["frames", str(tmp_path / "data"), "--frames=2", "--image_fps=25"]
    assert extract.main(arguments) == 3
    assert capsys.readouterr().out.count("--allow_links accepts that") == 2
    assert extract.main([*arguments, "--allow_links", "--retry_failures"]) == 0
    os.remove(tmp_path / "videos/jump/one.mp4")
    (tmp_path / "videos/jump/one.mp4").symlink_to("one.mp4")  # a loop
    assert extract.main([*arguments, "--name=other"]) == 3
    assert "open: Too many levels of symbolic links" in capsys.readouterr().out


# --- motion archives -------------------------------------------------------------------------------------------------


def test_coordinates_beyond_float32_are_named_and_nothing_is_written(tmp_path, capsys):
    arrays = motion()
    arrays["frames"] = arrays["frames"].astype(np.float64)
    arrays["frames"][3, 1, 0] = 1e39
    np.savez(tmp_path / "m.npz", **arrays)
    code, out = run(capsys, "motion-npz", tmp_path / "m.npz", tmp_path / "data")
    assert code == 2 and "clip 1: frame 1 is not finite, or too large for float32" in out
    assert not (tmp_path / "data").exists()


def test_a_catalog_is_left_alone_when_its_columns_would_be_refused(tmp_path, capsys):
    np.savez(tmp_path / "m.npz", **motion())
    assert run(capsys, "motion-npz", tmp_path / "m.npz", tmp_path / "data")[0] == 0
    (tmp_path / "data/columns/tracks/index.npz").unlink()
    (tmp_path / "data/columns/pose/index.npz").unlink()  # no column is finished, but both are begun
    before = (tmp_path / "data/clips.jsonl").read_bytes()
    np.savez(tmp_path / "m.npz", **motion(seed=1))
    code, out = run(capsys, "motion-npz", tmp_path / "m.npz", tmp_path / "data")
    assert code == 2 and "was begun differently" in out
    assert (tmp_path / "data/clips.jsonl").read_bytes() == before


# --- skeletons -------------------------------------------------------------------------------------------------------


def skeletons(tmp_path, **changes):
    """A dataset of one clip, and its skeletons as pyskl has them."""
    write(tmp_path / "l.csv", "path,label\nv.mp4,jump\n")
    assert cli.main(["csv", str(tmp_path / "l.csv"), str(tmp_path / "data"), "--videos="]) == 0
    person = {"frame_dir": "v", "total_frames": 4, "img_shape": (240, 320), "keypoint": np.ones((1, 4, 17, 2))}
    person |= {"keypoint_score": np.ones((1, 4, 17))} | changes
    (tmp_path / "s.pkl").write_bytes(pickle.dumps({"annotations": [person]}))
    return ["pyskl", str(tmp_path / "s.pkl"), str(tmp_path / "data"), "--name=pose.x"]


@pytest.mark.parametrize("option, size", [([], [0, 0]), (["--size=640x480"], [640, 480])])
def test_skeletons_without_an_image_size(tmp_path, option, size):
    assert import_skeletons.main([*skeletons(tmp_path, img_shape=None), *option]) == 0
    assert Column(tmp_path / "data", "pose.x").read([0])[0]["size_px"].tolist() == size


def test_skeletons_whose_scores_are_all_zero_are_no_success(tmp_path, capsys):
    command = skeletons(tmp_path, keypoint_score=np.zeros((1, 4, 17)))
    assert import_skeletons.main(command) == 2
    assert "every score of its 4 frames is 0" in capsys.readouterr().err


def test_records_that_show_nobody_are_counted(tmp_path, capsys):
    command = skeletons(tmp_path, keypoint=np.zeros((0, 4, 17, 2)), keypoint_score=np.zeros((0, 4, 17)))
    assert import_skeletons.main(command) == 0
    assert "1 records show nobody in any frame: ['v']" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["total_frames", "img_shape"])
def test_a_value_that_would_print_as_gigabytes_is_cut_short(tmp_path, capsys, key):
    bomb = []
    for _ in range(60):
        bomb = [bomb, bomb, bomb]
    assert import_skeletons.main(skeletons(tmp_path, **{key: bomb})) == 2
    assert len(capsys.readouterr().err) < 1000


def test_json_of_few_bytes_and_many_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(skeleton_files, "MAX_JSON_VALUES", 1000)
    path = tmp_path / "v" / "coco_keypoints.json.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b"[" + b"[]," * 1000 + b"[]]"))
    with pytest.raises(skeleton_files.SkeletonError, match="2002 values, more than 1000"):
        skeleton_files.read_vpd(tmp_path)["v"]()
