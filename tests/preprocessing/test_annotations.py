"""Annotation parsers: the official formats on their real files, and every way in which a list goes wrong."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mtjax.data.catalog import Catalog, CatalogError
from mtjax.data.columns import Column
from mtjax.data.selection import class_list
from preprocessing import catalog as cli
from preprocessing.annotations import folder, kinetics, listing, motion_npz, table, twentybn, ucf_hmdb

SHARED = Path(__file__).parents[3] / "shared"
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real annotation files are not in this checkout ({SHARED})")
SPLITS = SHARED / "data/splits"


def write(path: Path, text: str, encoding="utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def counts(parsed: listing.Listing) -> dict[str, int]:
    return dict(Counter(split for clip in parsed.clips for split in clip.splits))


def by_id(parsed: listing.Listing) -> dict:
    assert len({c.id for c in parsed.clips}) == len(parsed.clips)
    return {c.id: c for c in parsed.clips}


# --- real files ------------------------------------------------------------------------------------------------------


@real
def test_ucf101_official_lists():
    parsed = ucf_hmdb.parse_ucf101(SPLITS / "ucf101")
    assert counts(parsed) == cli.OFFICIAL_CLIPS["ucf101"]
    assert len(parsed.clips) == 13_320 and len(parsed.class_names) == 101 and parsed.class_names[0] == "ApplyEyeMakeup"
    clip = by_id(parsed)["HandstandPushups/v_HandStandPushups_g08_c01"]
    assert (clip.label, clip.group) == ("HandstandPushups", "HandstandPushups/g08")
    assert clip.path == "HandstandPushups/v_HandStandPushups_g08_c01.avi" and set(clip.splits) == {
        "train1",
        "train1_val",
        "test2",
        "train3",
    }
    assert len({c.group for c in parsed.clips}) == 25 * 101
    for number, groups in (("1", range(1, 8)), ("2", range(8, 15)), ("3", range(15, 22))):
        found = {c.group.rsplit("/g", 1)[1] for c in parsed.clips if f"test{number}" in c.splits}
        assert found == {f"{g:02d}" for g in groups}


@real
def test_hmdb51_official_lists():
    parsed = ucf_hmdb.parse_hmdb51(SPLITS / "hmdb51/testTrainMulti_7030_splits")
    assert counts(parsed) == cli.OFFICIAL_CLIPS["hmdb51"]
    assert len(parsed.class_names) == 51 and parsed.class_names == sorted(parsed.class_names)
    for split in counts(parsed):
        per_class = Counter(c.label for c in parsed.clips if split in c.splits)
        assert set(per_class.values()) == {70 if split.startswith("train") else 30}
    assert all(c.group.startswith(f"{c.label}/") for c in parsed.clips)
    for number in "123":
        train = {c.group for c in parsed.clips if f"train{number}" in c.splits}
        assert not train & {c.group for c in parsed.clips if f"test{number}" in c.splits}
    names = "".join(c.path for c in parsed.clips)
    assert all(character in names for character in "#;(&!")


@real
def test_temporal18_lists_and_their_counts_per_class():
    parsed = twentybn.parse_temporal18(SPLITS / "ssv2_temporal18")
    assert parsed.class_names == list(twentybn.TEMPORAL18)
    assert counts(parsed) == {"train": 25_012, "validation": 3_371}
    for split, text in (
        ("train", "2727 2426 1673 1593 1501 1594 1162 853 881 1076 1520 1563 464 910 907 725 1379 2058"),
        ("validation", "417 312 101 110 261 111 116 74 56 88 217 263 54 183 213 75 329 391"),
    ):
        per_class = Counter(c.label for c in parsed.clips if split in c.splits)
        assert [per_class[name] for name in parsed.class_names] == [int(n) for n in text.split()]
    assert by_id(parsed)["14498"].path == "14498.webm"


@real
def test_jester_with_the_real_labels(tmp_path):
    labels = (SPLITS / "jester_labels.txt").read_text()
    write(tmp_path / "jester-v1-labels.csv", labels)
    names = [x.strip() for x in labels.splitlines() if x.strip()]
    write(tmp_path / "jester-v1-train.csv", "".join(f"{i};{name}\n" for i, name in enumerate(names)))
    write(tmp_path / "jester-v1-validation.csv", f"100;{names[5]}\n")
    parsed = twentybn.parse_jester(tmp_path)
    assert len(names) == 27 and parsed.class_names == names != sorted(names)
    assert [c.label for c in parsed.clips[:27]] == names and counts(parsed) == {"train": 27, "validation": 1}


@real
def test_jhmdb_becomes_one_dataset_with_three_splits_and_two_columns(tmp_path, capsys):
    source = SHARED / "data/jhmdb"
    assert cli.main(["motion-npz", str(source), str(tmp_path / "jhmdb")]) == 0
    assert "609 clips, 14 classes" in capsys.readouterr().out
    catalog = Catalog.load(tmp_path / "jhmdb")
    assert catalog.splits == {"test1": 176, "test2": 176, "test3": 175, "train1": 433, "train2": 433, "train3": 434}
    assert catalog.info["joint_names"][:3] == ["neck", "belly", "face"] and catalog.name == "jhmdb"
    tracks, pose = Column(tmp_path / "jhmdb", "tracks"), Column(tmp_path / "jhmdb", "pose")
    assert len(tracks) == len(pose) == 609 and tracks.spec.num_shards == 1
    labels = dict(zip(catalog.ids.tolist(), catalog.labels().tolist(), strict=True))
    is_train = {k: {c.id: f"train{k}" in c.splits for c in catalog.clips} for k in (1, 2, 3)}
    by_content = {
        r["tracks"][..., :2].tobytes(): i for i, r in zip(tracks.ids, tracks.read(list(range(609))), strict=True)
    }
    for number in (1, 2, 3):  # each file has its own order; every clip has kept its label and its split
        with np.load(source / f"jhmdb_split{number}.npz") as arrays:
            data = {key: arrays[key] for key in arrays.files}
        for start, length, label, train in zip(
            *(data[k] for k in ("offsets", "lengths", "labels", "is_train")), strict=True
        ):
            clip_id = by_content[data["frames"][start : start + length].tobytes()]
            assert labels[clip_id] == label and is_train[number][clip_id] == train
    record, posed = tracks.read([3])[0]["tracks"], pose.read(pose.rows([tracks.ids[3]]).tolist())[0]["pose"]
    assert record.shape[1:] == (15, 3) and (record[..., 2] == 0).all() and (posed[..., 2] == 1).all()
    np.testing.assert_array_equal(record[..., :2], posed[..., :2])


@real
def test_kinetics_classes_are_in_the_usual_order(tmp_path):
    lines = (SPLITS / "kinetics400_labels.csv").read_text().splitlines()[1:]
    names = [line.split(",", 1)[1].strip('"') for line in lines]
    rows = "".join(f'"{name}",video{i:06d},0,10,train\n' for i, name in reversed(list(enumerate(names))))
    write(tmp_path / "train.csv", "label,youtube_id,time_start,time_end,split\n" + rows)
    assert kinetics.parse(tmp_path).class_names == names and len(names) == 400
    left_out = class_list(Path(__file__).parents[2] / "configs/kinetics400_like_ucf101.txt")
    assert set(left_out) < set(names) and len(set(left_out)) == len(left_out) == 81


# --- paths, names, ids -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["a b/c.mp4", "ü/走る #;(&!'\"$`|*.avi", "a/..b/c..mp4", "-x.mp4", "~/x.mp4", "./a.mp4"]
)
def test_harmless_paths_are_kept(path):
    assert listing.path_problem(path) == ""


@pytest.mark.parametrize(
    "path, reason",
    [
        ("../x.mp4", "leaves"),
        ("a/../../x.mp4", "leaves"),
        ("a\\..\\x.mp4", "leaves"),
        ("/etc/passwd", "absolute"),
        ("C:\\x.mp4", "absolute"),
        ("\\\\host\\x", "absolute"),
        ("gs://bucket/x.mp4", "absolute"),
        ("a\0.mp4", "character"),
        ("a\nb.mp4", "character"),
        ("a\u2028b.mp4", "character"),
        ("a\udcff.mp4", "not UTF-8"),
        ("", "empty"),
        (".", "empty"),
    ],
)
def test_paths_that_point_elsewhere_are_refused(path, reason):
    assert reason in listing.path_problem(path)


def test_ids_keep_the_folder_and_take_the_suffix_only_where_it_tells_files_apart():
    paths = ["a/x.mp4", "b/x.mp4", "a/x.avi", "a/y.v1.mp4"]
    assert listing.ids_of_paths(paths) == ["a/x.mp4", "b/x", "a/x.avi", "a/y.v1"]
    # A file whose name without suffix is another file's whole name.
    tricky = ["x.mp4", "x.avi", "x.mp4.avi"]
    assert len(set(listing.ids_of_paths(tricky))) == 3
    assert listing.ids_of_paths(["v.mp4", "v.mp4"], ["@0-5", "@5-9.5"]) == ["v@0-5", "v@5-9.5"]


# --- folder ----------------------------------------------------------------------------------------------------------


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        write(root / path, "")
    return root


def test_class_folders(tmp_path):
    touch(tmp_path, "walk fast/1.mp4", "walk fast/s/1.MOV", "clap/1.mp4", "clap/notes.txt", "clap/.DS_Store")
    (tmp_path / "empty").mkdir()
    parsed = folder.parse(tmp_path)
    assert parsed.class_names == ["clap", "walk fast"] and counts(parsed) == {"train": 3}
    assert by_id(parsed)["walk fast/s/1"].label == "walk fast"
    assert "1 .txt" in parsed.notices[0] and "empty" in parsed.notices[1]


def test_split_folders_above_the_class_folders(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "val/a/1.mp4", "test/b/2.mp4")
    parsed = folder.parse(tmp_path)
    assert parsed.class_names == ["a", "b"] and counts(parsed) == {"train": 2, "val": 1, "test": 1}
    assert by_id(parsed)["val/a/1"].path == "val/a/1.mp4"


def test_a_class_may_be_called_test(tmp_path):
    parsed = folder.parse(touch(tmp_path, "test/1.mp4", "jump/1.mp4"))
    assert parsed.class_names == ["jump", "test"] and counts(parsed) == {"train": 2}


def test_folder_follows_linked_class_folders_once(tmp_path):
    touch(tmp_path / "real", "1.mp4")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/jump").symlink_to(tmp_path / "real")
    (tmp_path / "real/loop").symlink_to(tmp_path / "real")
    assert [c.path for c in folder.parse(tmp_path / "set").clips] == ["jump/1.mp4"]


def test_folder_reports_all_stray_videos(tmp_path):
    touch(tmp_path, "stray1.mp4", "stray2.mp4", "a/1.mp4")
    with pytest.raises(CatalogError, match=r"2 problem\(s\)(?s:.*)stray1(?s:.*)stray2"):
        folder.parse(tmp_path)
    with pytest.raises(CatalogError, match="no videos in class folders"):
        folder.parse(touch(tmp_path / "other", "a/notes.txt"))
    with pytest.raises(CatalogError, match="not a folder"):
        folder.parse(tmp_path / "nowhere")


# --- csv and jsonl ---------------------------------------------------------------------------------------------------


def test_csv_with_bom_crlf_quotes_spaces_and_blank_lines(tmp_path):
    text = (
        "\ufeffpath, label ,split,group\r\n"
        '"a, b/1.mp4", "say ""hi""" ,train1;test2,g1\r\n'
        "\r\n"
        "  sub dir/走る #1.mp4 , laufen , train1 ,\r\n"
        ",,,\r\n"
        "other/1.mp4,laufen,test1,g2"
    )
    parsed = table.parse(write(tmp_path / "l.csv", text))
    assert parsed.class_names == ["laufen", 'say "hi"']
    clips = by_id(parsed)
    assert clips["a, b/1"].label == 'say "hi"' and clips["a, b/1"].splits == ("train1", "test2")
    assert clips["sub dir/走る #1"].path == "sub dir/走る #1.mp4" and clips["sub dir/走る #1"].group == ""
    assert clips["other/1"].splits == ("test1",)  # the same base name as a, b/1


def test_jsonl_holds_the_same_as_csv(tmp_path):
    csv_text = "path,label,split,group,start_s,end_s\nv/a.mp4,x,train;test2,g,1.5,3\nv/b.mp4,y,test,,,\n"
    lines = [
        {"path": "v/a.mp4", "label": "x", "split": ["train", "test2"], "group": "g", "start_s": 1.5, "end_s": 3},
        {"path": "v/b.mp4", "label": "y", "split": "test"},
    ]
    text = "\ufeff" + "\r\n\r\n".join(json.dumps(x) for x in lines)
    from_csv, from_jsonl = (
        table.parse(write(tmp_path / "l.csv", csv_text)),
        table.parse(write(tmp_path / "l.jsonl", text)),
    )
    assert from_csv == from_jsonl
    assert from_csv.clips[0].id == "v/a@1.5-3" and (from_csv.clips[0].start_s, from_csv.clips[0].end_s) == (1.5, 3.0)


def test_targets_keep_the_order_of_the_columns(tmp_path):
    parsed = table.parse(write(tmp_path / "l.csv", "path,target:weight,target:area\na.mp4,1.5,-2e3\n"))
    assert parsed.info == {"target_names": ["weight", "area"]} and parsed.clips[0].targets == (1.5, -2000.0)
    assert parsed.class_names == [] and parsed.clips[0].splits == ("train",)


def test_parts_of_one_video_are_clips_of_their_own(tmp_path):
    parsed = table.parse(write(tmp_path / "l.csv", "path,label,start_s,end_s\nv.mp4,a,0,2\nv.mp4,a,2,\nv.mp4,b,,\n"))
    assert [c.id for c in parsed.clips] == ["v@0-2", "v@2-", "v"]


def test_all_problems_of_a_csv_come_together_with_their_lines(tmp_path):
    rows = [
        "path,label,split,start_s,end_s,target:w",
        "ok.mp4,a,train,,,1",
        "../up.mp4,a,train,,,1",
        "/abs.mp4,a,train,,,1",
        "short.mp4,a",
        "x.mp4,a,,,,1",
        "y.mp4,a,tr ain,,,1",
        "z.mp4,a,train,5,2,1",
        "w.mp4,a,train,nan,,1",
        "v.mp4,a,train,,,heavy",
        "./ok.mp4,b,test,,,1",
        "u.mp4,a,train;train,,,1",
        ",a,train,,,1",
    ]
    with pytest.raises(CatalogError) as error:
        table.parse(write(tmp_path / "l.csv", "\n".join(rows)))
    message = str(error.value)
    assert "11 problem(s)" in message
    for line, reason in {
        3: "leaves",
        4: "absolute",
        5: "2 values for 6 columns",
        6: "'split' is empty",
        7: "split 'tr ain'",
        8: "enclose nothing",
        9: "'start_s' must be a finite number, found 'nan'",
        10: "'target:w' must be a finite number, found 'heavy'",
        11: f"the same clip as at {tmp_path}/l.csv:2",
        12: "names a split twice",
        13: "empty path",
    }.items():
        assert any(f"l.csv:{line}: " in x and reason in x for x in message.splitlines()), (line, message)


def test_line_numbers_count_lines_and_not_rows(tmp_path):
    text = 'path,label\n\n"a\nb.mp4",x\nc.mp4\n'
    with pytest.raises(CatalogError, match=r"(?s)l\.csv:3: .*character.*l\.csv:5: 1 values"):
        table.parse(write(tmp_path / "l.csv", text))


def test_more_than_twenty_problems_are_counted(tmp_path):
    text = "path,label\n" + "".join(f"../{i}.mp4,a\n" for i in range(30))
    with pytest.raises(CatalogError) as error:
        table.parse(write(tmp_path / "l.csv", text))
    lines = str(error.value).splitlines()
    assert "30 problem(s)" in lines[0] and len(lines) == 22 and lines[-1] == "(+10 more)"


@pytest.mark.parametrize(
    "text, message",
    [
        ("path,label,colour,speed\n", "(?s)unknown column 'colour'.*unknown column 'speed'"),
        ("path,label,label\n", "'label' occurs twice"),
        ("label,split\n", "no column 'path'"),
        ("path,split\n", "neither a column 'label' nor"),
        ("path,target:\n", "unknown column 'target:'"),
        ("path|label\n", "unknown column 'path.label'"),
        ("", "no header"),
        ("path,label\n", "no clips in it"),
        ('path,label\na.mp4,"open\nb.mp4,x\n', r"l\.csv:2: .*character"),
    ],
)
def test_a_table_without_the_right_columns_is_refused(tmp_path, text, message):
    with pytest.raises(CatalogError, match=message):
        table.parse(write(tmp_path / "l.csv", text))


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path):
    with pytest.raises(CatalogError, match=r"l\.csv:2: .*not UTF-8"):
        table.parse(write(tmp_path / "l.csv", "path,label\nfüße.mp4,a\n", "latin-1"))


def test_jsonl_problems_come_together_with_their_lines(tmp_path):
    lines = [
        '{"path": "a.mp4", "label": "x"}',
        "{broken",
        "[1]",
        "[" * 100_000,
        '{"path": "b.mp4", "label": "x", "color": 1}',
        '{"path": 5, "label": "x"}',
        '{"path": "c.mp4", "label": "x", "start_s": true}',
        '{"path": "d.mp4", "label": "x", "end_s": NaN}',
        '{"path": "e.mp4", "label": "x", "start_s": ' + "9" * 400 + "}",
    ]
    with pytest.raises(CatalogError) as error:
        table.parse(write(tmp_path / "l.jsonl", "\n".join(lines)))
    message = str(error.value)
    assert "8 problem(s)" in message
    reasons = (
        "not JSON",
        "found list",
        "too deeply",
        "'color'",
        "'path' must be a string",
        "'start_s' must be a number",
    )
    for line, reason in enumerate((*reasons, "'end_s' must be a finite", "'start_s' must be a finite"), 2):
        assert any(f"l.jsonl:{line}: " in x and reason in x for x in message.splitlines()), (line, message)


def test_class_names_written_in_two_ways_are_noticed(tmp_path):
    parsed = table.parse(write(tmp_path / "l.csv", "path,label\na.mp4,Walk dog\nb.mp4,walk_dog\n"))
    assert parsed.class_names == ["Walk dog", "walk_dog"] and "['Walk dog', 'walk_dog']" in parsed.notices[0]


# --- official formats, made wrong ------------------------------------------------------------------------------------


def ucf(
    tmp_path, train="A/v_A_g08_c01.avi 1\r\n", test="B/v_b_g01_c01.avi\r\n", index="\ufeff1 A\r\n2 B\r\n\r\n"
) -> Path:
    write(tmp_path / "classInd.txt", index)
    write(tmp_path / "trainlist01.txt", train)
    write(tmp_path / "testlist01.txt", test)
    return tmp_path


def test_ucf_label_is_the_folder(tmp_path):
    clips = by_id(ucf_hmdb.parse_ucf101(ucf(tmp_path)))
    assert clips["B/v_b_g01_c01"].label == "B" and clips["B/v_b_g01_c01"].splits == ("test1",)
    assert clips["A/v_A_g08_c01"].group == "A/g08"


@pytest.mark.parametrize(
    "files, message",
    [
        ({"train": "A/v_A_g08_c01.avi 2\n"}, r"trainlist01.txt:1: label 2 is not the index"),
        ({"train": "A/v_A_g08_c01.avi 9\n"}, r"trainlist01.txt:1: label 9 is not"),
        ({"test": "\nC/v_C_g01_c01.avi\n"}, r"testlist01.txt:2: 'C' is no class"),
        ({"test": "../v_C_g01_c01.avi\n"}, "leaves the videos folder"),
        ({"test": "A/clip.avi\n"}, r"'clip.avi' is not called"),
        ({"test": "A/v_A_g08_c01.avi\n"}, r"is listed already, at .*trainlist01.txt:1|listed already, at .*testlist01"),
        ({"test": ""}, r"testlist01.txt:1: the file is empty"),
        ({"index": "1 A\n3 B\n"}, r"classInd.txt:2: expected '2 "),
        ({"index": "1 A\n2 A\n"}, r"classInd.txt:2: expected '2 "),
    ],
)
def test_ucf_problems(tmp_path, files, message):
    with pytest.raises(CatalogError, match=message):
        ucf_hmdb.parse_ucf101(ucf(tmp_path, **files))


def test_hmdb_names_and_flags(tmp_path):
    odd = "A#b;(c)&d!_my clip_kick_u_cm_np1_fr_med_2.avi"
    text = f"{odd} 1 \r\nfilm_kick_f_nm_np2_le_bad_0.avi 2 \nunused_kick_f_nm_np2_le_bad_0.avi 0 \nplain.avi 2 \n"
    write(tmp_path / "kick_test_split1.txt", text)
    write(tmp_path / "kick_ball_test_split1.txt", "x_kick_ball_u_cm_np1_fr_med_2.avi 1\n")
    parsed = ucf_hmdb.parse_hmdb51(tmp_path)
    clips = by_id(parsed)
    assert parsed.class_names == ["kick", "kick_ball"]
    assert clips["kick/" + odd.removesuffix(".avi")].group == "kick/A#b;(c)&d!_my clip"
    assert clips["kick/plain"].group == "" and "kick/unused" not in "".join(clips)
    assert clips["kick_ball/x_kick_ball_u_cm_np1_fr_med_2"].group == "kick_ball/x"
    assert "1 clips are in no split" in parsed.notices[0]


def test_hmdb_problems_come_together(tmp_path):
    write(tmp_path / "kick_test_split1.txt", "a.avi 3\nb.avi\n../c.avi 1\nd.avi 1\nd.avi 2\n")
    write(tmp_path / "wave_test_split2.txt", "e.avi 1\n")
    with pytest.raises(CatalogError) as error:
        ucf_hmdb.parse_hmdb51(tmp_path)
    message = str(error.value)
    assert (
        all(f"kick_test_split1.txt:{n}: " in message for n in (1, 2, 3, 5))
        and "kick_test_split1.txt:4: " not in message
    )
    assert "no *_test_split1.txt of the classes ['wave']" in message and "split2.txt of the classes ['kick']" in message


def jester(tmp_path, train="1;Down\n", test="3\n") -> Path:
    write(tmp_path / "jester-v1-labels.csv", "Up\nDown\n")
    write(tmp_path / "jester-v1-train.csv", train)
    write(tmp_path / "jester-v1-validation.csv", "2;Up\r\n")
    write(tmp_path / "jester-v1-test.csv", test)
    return tmp_path


def test_jester_test_clips_may_be_unlabelled(tmp_path):
    parsed = twentybn.parse_jester(jester(tmp_path))
    assert parsed.class_names == ["Up", "Down"] and by_id(parsed)["3"].label == "" and by_id(parsed)["1"].path == "1"
    assert counts(parsed) == {"train": 1, "validation": 1, "test": 1}


def test_jester_problems_come_together(tmp_path):
    with pytest.raises(CatalogError) as error:
        twentybn.parse_jester(jester(tmp_path, "1;Sideways\n2;Up\n../x;Up\n4\n1/2;Up\n", test="9;Sideways\n"))
    message = str(error.value)
    for text in (
        "train.csv:1: unknown class 'Sideways'",
        "train.csv:3: ",
        "train.csv:4: unknown class ''",
        "train.csv:5: ",
    ):
        assert text in message
    assert "validation.csv:1: '2' is listed already, at " in message
    assert "test.csv:1: unknown class 'Sideways'" in message
    (tmp_path / "jester-v1-validation.csv").unlink()
    with pytest.raises(CatalogError, match=r"no file of \['validation'\]"):
        twentybn.parse_jester(tmp_path)


def ssv2(tmp_path, labels=None, train=None) -> Path:
    labels = labels or {"Uncovering something": "1", "Putting something on a surface": "0"}
    train = train or [
        {"id": "10", "label": "uncovering a cup", "template": "Uncovering [something]", "placeholders": ["a cup"]},
        {"id": "11", "template": "Putting [something] on a surface"},
    ]
    for name, value in (
        ("labels", labels),
        ("train", train),
        ("validation", [{"id": "12", "template": "Uncovering [something]"}]),
        ("test", [{"id": "13"}]),
    ):
        write(tmp_path / f"something-something-v2-{name}.json", value if isinstance(value, str) else json.dumps(value))
    return tmp_path


def test_ssv2_templates_and_index(tmp_path):
    parsed = twentybn.parse_ssv2(ssv2(tmp_path))
    assert parsed.class_names == ["Putting something on a surface", "Uncovering something"]
    assert {c.id: c.label for c in parsed.clips} == {
        "10": "Uncovering something",
        "11": "Putting something on a surface",
        "12": "Uncovering something",
        "13": "",
    }
    assert by_id(parsed)["10"].path == "10.webm"


def test_temporal18_from_the_official_json(tmp_path):
    parsed = twentybn.parse_temporal18(ssv2(tmp_path))
    assert parsed.class_names == list(twentybn.TEMPORAL18) and [c.id for c in parsed.clips] == ["10", "12"]


@pytest.mark.parametrize(
    "files, message",
    [
        ({"labels": {"A": "0", "B": "2"}}, "the values must be the indices 0 to 1"),
        ({"train": [{"id": "1", "template": "Nothing"}, {"id": 2}, 3]}, "(?s)entry 1: .*'Nothing'|entry 2.*entry 3"),
        ({"train": [{"id": "../1", "template": "Uncovering [something]"}]}, "leaves the videos folder"),
        ({"train": "[" * 100_000}, "nested too deeply"),
        ({"train": "{}"}, "expected a JSON list, found dict"),
        ({"train": "[{]"}, "not JSON"),
    ],
)
def test_ssv2_problems(tmp_path, files, message):
    with pytest.raises(CatalogError, match=message):
        twentybn.parse_ssv2(ssv2(tmp_path, **files))


def test_temporal18_list_problems(tmp_path):
    write(tmp_path / "train.txt", "1.webm 6\n2.webm 18\n3.webm\n../4.webm 1\n")
    write(tmp_path / "validation.txt", "1.webm 6\n")
    with pytest.raises(CatalogError) as error:
        twentybn.parse_temporal18(tmp_path)
    assert all(f"train.txt:{n}: " in str(error.value) for n in (2, 3, 4)) and "validation.txt:1: '1' is" in str(
        error.value
    )


KINETICS = "label,youtube_id,time_start,time_end,split,is_cc\n"


def test_kinetics_files_names_and_splits(tmp_path):
    write(
        tmp_path / "train.csv",
        KINETICS + '"rock, paper",-4wsuPCjDBc,10.0,20.0,train,0\nabseiling,0wR5jVB-WPk,417,427,train,1\n',
    )
    write(tmp_path / "val.csv", KINETICS + "abseiling,3caPS4FHFF8,36,46,validate,0\n")
    write(tmp_path / "test.csv", "youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n")
    parsed = kinetics.parse(tmp_path)
    clips = by_id(parsed)
    assert parsed.class_names == ["abseiling", "rock, paper"] and counts(parsed) == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }
    clip = clips["-4wsuPCjDBc_000010_000020"]
    assert clip.path == "-4wsuPCjDBc_000010_000020.mp4" and clip.group == "-4wsuPCjDBc"
    assert (clip.start_s, clip.end_s) == (0.0, 0.0)  # the file is already cut
    assert clips["--6bJUbfpnQ_000017_000027"].label == ""


def test_kinetics_placeholder_labels_of_the_test_set_are_no_class(tmp_path):
    write(tmp_path / "train.csv", KINETICS + "abseiling,a,0,10,train,0\n")
    write(tmp_path / "test.csv", KINETICS + "test,b,0,10,test,0\nabseiling,c,0,10,test,0\n")
    parsed = kinetics.parse(tmp_path)
    assert parsed.class_names == ["abseiling"] and "1 test clips" in parsed.notices[0]
    assert [c.label for c in sorted(parsed.clips, key=lambda c: c.id)] == ["abseiling", "", "abseiling"]


def test_kinetics_problems_come_together(tmp_path):
    rows = "a,../../x,0,10,train,0\na,ok1,10,0,train,0\na,ok2,0,x,train,0\n"
    rows += ",ok3,0,10,train,0\na,ok4,0,10,holdout,0\na,ok5\n"
    with pytest.raises(CatalogError) as error:
        kinetics.parse(write(tmp_path / "train.csv", KINETICS + rows))
    assert all(f"train.csv:{n}: " in str(error.value) for n in range(2, 8))
    with pytest.raises(CatalogError, match=r"train.csv:1: expected the header"):
        kinetics.parse(write(tmp_path / "train.csv", "abseiling/x_000107_000117 300 0\n"))


# --- motion-npz ------------------------------------------------------------------------------------------------------


def motion(clips=6, joints=3, seed=0, **changes) -> dict:
    rng = np.random.default_rng(seed)
    lengths = np.arange(2, 2 + clips)
    arrays = {
        "frames": rng.normal(size=(lengths.sum(), joints, 2)).astype(np.float32),
        "lengths": lengths,
        "offsets": np.cumsum(lengths) - lengths,
        "labels": np.arange(clips) % 2,
        "is_train": np.arange(clips) % 3 > 0,
        "class_names": np.array(["clap", "wave"]),
        "joint_names": np.array([f"j{i}" for i in range(joints)]),
    }
    return arrays | changes


def test_a_single_archive_has_train_and_test(tmp_path):
    np.savez(tmp_path / "m_split1.npz", **motion())
    parsed = motion_npz.parse(tmp_path / "m_split1.npz", "m")
    assert counts(parsed) == {"train": 4, "test": 2} and parsed.clips[0].frames == 2
    assert all(c.id.startswith("m-") and len(c.id) == 12 for c in parsed.clips)
    for spec, values in parsed.columns:
        assert values[parsed.clips[1].id][spec.name].shape == (3, 3, 3)


def reorder(arrays: dict, order: list[int], **changes) -> dict:
    parts = [arrays["frames"][o : o + n] for o, n in zip(arrays["offsets"], arrays["lengths"], strict=True)]
    lengths = arrays["lengths"][order]
    moved = {k: arrays[k][order] for k in ("labels", "is_train")}
    frames = np.concatenate([parts[i] for i in order])
    return arrays | moved | {"frames": frames, "lengths": lengths, "offsets": np.cumsum(lengths) - lengths} | changes


def test_archives_of_a_folder_are_joined_by_content(tmp_path):
    first = motion()
    np.savez(tmp_path / "m_split1.npz", **first)
    np.savez(
        tmp_path / "m_split2.npz", **reorder(first, [5, 3, 1, 0, 2, 4], is_train=np.array([0, 0, 0, 1, 1, 1], bool))
    )
    parsed = motion_npz.parse(tmp_path, "m")
    assert len(parsed.clips) == 6 and counts(parsed) == {"train1": 4, "test1": 2, "train2": 3, "test2": 3}
    assert [c.splits[1] for c in parsed.clips] == ["train2", "test2", "train2", "test2", "train2", "test2"]
    np.savez(tmp_path / "m_split3.npz", **motion(seed=1))
    np.savez(tmp_path / "m_split4.npz", **(first | {"joint_names": np.array(["a", "b", "c"])}))
    with pytest.raises(CatalogError, match=r"(?s)12 clips differ from those of m_split1.*joint_names: differ"):
        motion_npz.parse(tmp_path, "m")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"labels": np.array([0, 1, 2, 1, -1, 1])}, r"(?s)2 problem.*clip 2: label 2.*clip 4: label -1"),
        ({"offsets": np.array([0, 2, 5, 9, 14, 999])}, "clip 5: offset 999 and length 7 leave the 27 frames"),
        ({"offsets": np.array([-1, 2, 5, 9, 14, 20])}, "clip 0: offset -1"),
        ({"lengths": np.array([0, 3, 4, 5, 6, 1 << 62])}, r"(?s)clip 0: .*length 0.*clip 5"),
        ({"is_train": np.ones(5, bool)}, r"lengths has 6 clips, but there are \{'is_train': 5\}"),
        ({"is_train": np.ones(6)}, "is_train: expected 1 dimension"),
        ({"joint_names": np.array(["a", "b"])}, r"frames: expected \[n, 2 joint_names, 2\]"),
        ({"joint_names": np.array(["a", "b", "a"])}, "joint_names: a name occurs twice"),
        ({"class_names": np.array(["clap", "wave\n"])}, "class_names: .*character"),
        ({"frames": np.full((27, 3, 2), np.nan, np.float32)}, r"(?s)6 problem.*clip 0: frame 0 is not finite"),
        ({"frames": np.zeros((27, 3), np.float32)}, "frames: expected 3 dimension"),
    ],
)
def test_motion_arrays_are_validated(tmp_path, changes, message):
    np.savez(tmp_path / "m.npz", **motion(**changes))
    with pytest.raises(CatalogError, match=message):
        motion_npz.parse(tmp_path / "m.npz", "m")


class Exploit:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_a_pickle_inside_an_archive_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "exploited"
    np.savez(tmp_path / "m.npz", **motion(class_names=np.array([Exploit(marker)], object)))
    with pytest.raises(CatalogError, match=r"not a readable \.npz without objects"):
        motion_npz.parse(tmp_path / "m.npz", "m")
    assert not marker.exists()


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_an_archive_that_is_none_is_refused(tmp_path, data):
    (tmp_path / "m.npz").write_bytes(data)
    with pytest.raises(CatalogError, match=r"not a readable \.npz"):
        motion_npz.parse(tmp_path / "m.npz", "m")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "m.npz", **motion())
    monkeypatch.setattr(motion_npz, "MAX_BYTES", 100)
    with pytest.raises(CatalogError, match="unpacks to more than"):
        motion_npz.parse(tmp_path / "m.npz", "m")


def test_missing_arrays_and_identical_clips_are_named(tmp_path):
    arrays = motion()
    np.savez(tmp_path / "m.npz", **{k: v for k, v in arrays.items() if k not in ("labels", "joint_names")})
    with pytest.raises(CatalogError, match=r"(?s)no array 'labels'.*no array 'joint_names'"):
        motion_npz.parse(tmp_path / "m.npz", "m")
    np.savez(
        tmp_path / "m.npz",
        **motion(lengths=np.full(6, 2), offsets=np.array([0, 2, 0, 4, 6, 8]), labels=np.zeros(6, int)),
    )
    with pytest.raises(CatalogError, match="clip 2: the same frames and class as clip 0"):
        motion_npz.parse(tmp_path / "m.npz", "m")


def test_a_large_archive_gets_more_than_one_shard(tmp_path, monkeypatch):
    np.savez(tmp_path / "m.npz", **motion())
    monkeypatch.setattr(motion_npz, "ONE_SHARD_CLIPS", 5)
    monkeypatch.setattr(motion_npz, "SHARD_BYTES", 400)
    assert motion_npz.parse(tmp_path / "m.npz", "m").columns[0][0].num_shards == 3  # 27 frames × 3 joints × 12 bytes


# --- the command -----------------------------------------------------------------------------------------------------


def run(capsys, *args) -> tuple[int, str, str]:
    code = cli.main([str(a) for a in args])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_the_command_writes_a_catalog_and_a_summary(tmp_path, capsys):
    touch(tmp_path / "videos", "a/1.mp4", "b/1.mp4", "b/2;rm -rf $HOME.mp4")
    code, out, _ = run(capsys, "folder", tmp_path / "videos", tmp_path / "out/mine", "--version=2.0.0")
    catalog = Catalog.load(tmp_path / "out/mine")
    assert code == 0 and (catalog.name, catalog.version) == ("mine", "2.0.0")
    assert catalog.info["videos"] == str(tmp_path / "videos") and catalog.info["kind"] == "folder"
    assert [c.path for c in catalog.clips][-1] == "b/2;rm -rf $HOME.mp4"
    row = next(line.split() for line in out.splitlines() if line.strip().startswith("train"))
    assert row == ["train", "3", "2", "1–2", "0", "0"]


def test_problems_are_exit_code_2_and_nothing_is_written(tmp_path, capsys):
    write(tmp_path / "l.csv", "path,label,odd\n../x,a,1\n")
    code, _, err = run(capsys, "csv", tmp_path / "l.csv", tmp_path / "out")
    assert code == 2 and "unknown column 'odd'" in err and not (tmp_path / "out").exists()
    assert run(capsys, "ucf101", tmp_path / "nowhere", tmp_path / "out")[0] == 2
    with pytest.raises(SystemExit) as error:
        cli.main(["no-such-kind", "a", "b"])
    assert error.value.code == 2


def test_missing_videos_stop_or_are_listed(tmp_path, capsys):
    touch(tmp_path / "v", "a.mp4")
    source = write(tmp_path / "l.csv", "path,label\na.mp4,x\nb.mp4,x\nc.mp4,y\n")
    command = ("csv", source, tmp_path / "out", f"--videos={tmp_path / 'v'}")
    code, _, err = run(capsys, *command)
    assert code == 2 and "2 annotated videos" in err and "b.mp4\nc.mp4" in err and not (tmp_path / "out").exists()
    code, out, _ = run(capsys, *command, "--missing=skip")
    catalog = Catalog.load(tmp_path / "out")
    assert code == 0 and [c.path for c in catalog.clips] == ["a.mp4"] and "1 of 3 clips" in out
    assert catalog.class_names == ("x", "y") and (tmp_path / "out/missing.txt").read_text() == "b.mp4\nc.mp4\n"
    touch(tmp_path / "v", "b.mp4", "c.mp4")
    assert run(capsys, *command)[0] == 0 and not (tmp_path / "out/missing.txt").exists()
    assert run(capsys, "csv", source, tmp_path / "none", "--videos=")[0] == 0
    assert Catalog.load(tmp_path / "none").info["videos"] == ""


def test_videos_of_official_sets_are_found_in_other_layouts(tmp_path, capsys):
    ucf(tmp_path / "lists", train="A/v_A_g08_c01.avi 1\nA/v_A_g08_c02.avi 1\n")
    touch(tmp_path / "v", "A/v_A_g08_c01.avi", "flat/v_b_g01_c01.mp4")
    code, out, _ = run(capsys, "ucf101", tmp_path / "lists", tmp_path / "out", f"--videos={tmp_path / 'v'}")
    clips = Catalog.load(tmp_path / "out").clips
    assert code == 0 and {c.id: c.path for c in clips} == {
        "A/v_A_g08_c01": "A/v_A_g08_c01.avi",
        "B/v_b_g01_c01": "flat/v_b_g01_c01.mp4",
    }
    assert "2 of 3 clips" in out and "1 of them in another folder" in out and "A/v_A_g08_c02.avi" in out
    assert "split 'train1' has 2 clips, the official list 9537" in out
    touch(tmp_path / "v", "again/v_b_g01_c01.mp4")
    code, _, err = run(capsys, "ucf101", tmp_path / "lists", tmp_path / "out2", f"--videos={tmp_path / 'v'}")
    assert code == 2 and "occur in several places" in err
    code, _, err = run(capsys, "ucf101", tmp_path / "lists", tmp_path / "out2", f"--videos={tmp_path / 'lists'}")
    assert code == 2 and "holds none of the 3 files" in err


def test_a_catalog_with_columns_is_replaced_only_when_asked(tmp_path, capsys):
    np.savez(tmp_path / "m.npz", **motion())
    command = ("motion-npz", tmp_path / "m.npz", tmp_path / "out")
    assert run(capsys, *command, "--name=m")[0] == 0
    before = Catalog.load(tmp_path / "out").fingerprint
    assert run(capsys, *command, "--name=m")[0] == 0  # the same again changes nothing
    assert Catalog.load(tmp_path / "out").fingerprint == before
    np.savez(tmp_path / "m.npz", **motion(seed=1))
    code, _, err = run(capsys, *command, "--name=m")
    assert code == 2 and "--overwrite" in err and Catalog.load(tmp_path / "out").fingerprint == before
    assert len(Column(tmp_path / "out", "tracks")) == 6
    assert run(capsys, *command, "--name=m", "--overwrite")[0] == 0
    assert set(Column(tmp_path / "out", "pose").ids) == set(Catalog.load(tmp_path / "out").ids)


def test_overlap_and_classes_without_training_clips_are_noticed(tmp_path, capsys):
    source = write(tmp_path / "l.csv", "path,label,split,group\na.mp4,x,train,g\nb.mp4,x,test,g\nc.mp4,y,test,h\n")
    code, out, _ = run(capsys, "csv", source, tmp_path / "out", "--videos=")
    assert code == 0 and "1 classes have no training clip: ['y']" in out
    assert "splits 'train' and 'test': 1 clips of 'test'" in out and "['b']" in out
