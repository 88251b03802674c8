"""The catalog: what it refuses, and which clips a run gets."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from conftest import edit_json

from mtjax.data import __main__ as data_cli
from mtjax.data import catalog as catalog_lib
from mtjax.data.catalog import Catalog, CatalogError, Clip
from mtjax.data.selection import class_list, hold_out, listed, overlap, select

CLASSES = ("wave", "clap", "running")


def catalog_of(tmp_path, per_class=(20, 10, 30), groups_of=4) -> Catalog:
    clips = []
    for name, count in zip(CLASSES, per_class, strict=True):
        for i in range(count):
            splits = ("train1", "test2") if i % 5 else ("test1", "train2")
            clips.append(
                Clip(f"{name}/{i:02d}", splits, name, group=f"{name}-g{i // groups_of}", path=f"{name}/{i:02d}.mp4")
            )
    return Catalog(tmp_path / "set", "set", "1.0.0", CLASSES, tuple(clips), {"videos": "/v", "joint_names": ["é"]})


def test_a_catalog_survives_saving(tmp_path):
    saved = catalog_of(tmp_path)
    odd = Clip("z", ("train1",), "clap", (0.5, -1.0), path="a b/ü#;(&!.avi", start_s=1.5, end_s=2.0, fps=29.97)
    saved = dataclasses.replace(saved, clips=(*saved.clips, odd))
    saved.save()
    assert Catalog.load(tmp_path / "set") == saved
    assert json.loads((tmp_path / "set/dataset.json").read_text())["splits"] == saved.splits
    assert [p.name for p in (tmp_path / "set").iterdir() if p.name.startswith(".")] == []


def test_fingerprint_changes_with_content_and_not_with_location(tmp_path):
    saved = catalog_of(tmp_path)
    saved.save()
    shutil.copytree(tmp_path / "set", tmp_path / "moved")
    assert Catalog.load(tmp_path / "moved").fingerprint == saved.fingerprint
    first = saved.clips[0]
    for changed in (
        dataclasses.replace(saved, version="1.0.1"),
        dataclasses.replace(saved, class_names=("clap", "wave", "running")),
        dataclasses.replace(saved, clips=saved.clips[1:]),
        dataclasses.replace(saved, clips=(dataclasses.replace(first, label="clap"), *saved.clips[1:])),
        dataclasses.replace(saved, clips=(dataclasses.replace(first, splits=("train1",)), *saved.clips[1:])),
        dataclasses.replace(saved, clips=(dataclasses.replace(first, end_s=0.1), *saved.clips[1:])),
    ):
        assert changed.fingerprint != saved.fingerprint


def test_class_order_is_the_stored_one_and_never_sorted(tmp_path):
    saved = catalog_of(tmp_path)
    saved.save()
    loaded = Catalog.load(tmp_path / "set")
    assert loaded.class_names == CLASSES and loaded.labels()[0] == 0 and loaded.labels()[-1] == 2
    unlabelled = dataclasses.replace(saved, clips=(Clip("u", ("test1",)),))
    assert unlabelled.labels().tolist() == [catalog_lib.UNLABELLED]


@pytest.mark.parametrize(
    "clips, message",
    [
        ([Clip("a", ("t",)), Clip("a", ("t",))], r"clips.jsonl:2: clip 'a': duplicate id"),
        ([Clip("", ("t",))], "empty id"),
        ([Clip("a", ("t",), "jumping")], "label 'jumping' is not one of"),
        ([Clip("a", ())], "is in no split"),
        ([Clip("a", ("t",), path="../b.mp4")], "leaves the videos folder"),
        ([Clip("a", ("t",), path="/etc/passwd")], "leaves the videos folder"),
        ([Clip("a", ("t",), targets=(float("nan"),))], "not finite"),
        ([], "no clips"),
    ],
)
def test_a_bad_clip_is_refused_by_line(tmp_path, clips, message):
    with pytest.raises(CatalogError, match=message):
        Catalog(tmp_path / "bad", "n", "1", CLASSES, tuple(clips)).save()
    assert not (tmp_path / "bad").exists()


def test_all_problems_are_reported_together(tmp_path):
    clips = tuple(Clip(f"c{i}", ()) for i in range(14))
    with pytest.raises(CatalogError, match=r"14 problem\(s\)(?s:.*)c0(?s:.*)c9(?s:.*)\(\+4 more\)"):
        Catalog(tmp_path, "n", "1", CLASSES, clips).validate()


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", r"clips.jsonl:2: not a JSON object"),
        ("[" * 100_000, r"clips.jsonl:2: not a JSON object"),
        ("[]", r"clips.jsonl:2: needs id and splits.*found list"),
        ('{"id": "x"}', r"clips.jsonl:2: needs id and splits"),
        ('{"id": "x", "splits": ["t"], "colour": 1}', "nothing beyond"),
    ],
)
def test_an_edited_clips_file_is_refused_by_line(tmp_path, line, message):
    saved = dataclasses.replace(catalog_of(tmp_path), clips=catalog_of(tmp_path).clips[:1])
    saved.save()
    with open(tmp_path / "set/clips.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(CatalogError, match=r"set/clips.jsonl: changed since it was written; .* mtjax data accept"):
        Catalog.load(tmp_path / "set")
    with pytest.raises(CatalogError, match=message):
        Catalog.load(tmp_path / "set", may_be_changed=True)


def test_an_edit_by_hand_may_be_accepted(tmp_path):
    catalog_of(tmp_path).save()
    clips, dataset = tmp_path / "set/clips.jsonl", tmp_path / "set/dataset.json"
    clips.write_text(clips.read_text().replace('"splits": ["train1"', '"splits": ["mine"', 1))
    with pytest.raises(CatalogError, match="set/clips.jsonl: changed since"):
        Catalog.load(tmp_path / "set")
    assert data_cli.main(["accept", str(tmp_path / "set")]) == 0
    assert Catalog.load(tmp_path / "set").splits["mine"] == 1
    dataset.write_text(dataset.read_text().replace('"version": "', '"version": "9'))
    with pytest.raises(CatalogError, match="set/dataset.json: changed since"):
        Catalog.load(tmp_path / "set")
    assert data_cli.main(["accept", str(tmp_path / "set")]) == 0
    assert Catalog.load(tmp_path / "set").version.startswith("9")


def test_every_flipped_bit_of_the_catalog_is_noticed(tmp_path):
    saved = catalog_of(tmp_path)
    saved.save()
    rng = np.random.default_rng(0)
    for path in (tmp_path / "set/clips.jsonl", tmp_path / "set/dataset.json"):
        whole = path.read_bytes()
        for offset in rng.choice(len(whole), 60, replace=False).tolist():
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1 << int(rng.integers(8))]) + whole[offset + 1 :])
            try:
                loaded = Catalog.load(tmp_path / "set")
            except CatalogError:
                continue
            assert (loaded, loaded.fingerprint) == (saved, saved.fingerprint)  # blanks between values
        path.write_bytes(whole)


def test_a_catalog_of_an_earlier_release_without_seals_is_held_against_its_fingerprint(tmp_path):
    saved = catalog_of(tmp_path)
    saved.save()
    path = tmp_path / "set/dataset.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in fields.items() if k not in ("seal", "clips_sha256")}))
    assert Catalog.load(tmp_path / "set") == saved
    with open(tmp_path / "set/clips.jsonl", "a") as file:
        file.write('{"id": "x", "splits": ["train1"]}\n')
    with pytest.raises(CatalogError, match="is not the one dataset.json describes"):
        Catalog.load(tmp_path / "set")


def test_a_folder_without_a_dataset_says_how_to_make_one(tmp_path):
    with pytest.raises(CatalogError, match=r"mtjax catalog KIND SRC"):
        Catalog.load(tmp_path)


def test_another_catalog_version_is_refused(tmp_path):
    catalog_of(tmp_path).save()
    path = tmp_path / "set/dataset.json"
    edit_json(path, catalog_version=99)
    with pytest.raises(CatalogError, match="catalog_version 99, this is 1"):
        Catalog.load(tmp_path / "set")


def test_select_keeps_the_split_and_the_classes(tmp_path):
    catalog = catalog_of(tmp_path)
    rows = select(catalog, "train1")
    assert rows.tolist() == [i for i, c in enumerate(catalog.clips) if "train1" in c.splits]
    only = select(catalog, "train1", classes=("clap",))
    assert {catalog.clips[i].label for i in only} == {"clap"} and len(only) == 8
    with pytest.raises(CatalogError, match=r"no clips in split 'train9'; splits are .*train1"):
        select(catalog, "train9")
    with pytest.raises(CatalogError, match="jumping"):
        select(catalog, "train1", classes=("jumping",))
    others = select(catalog, "train1", leave_out=("clap",))
    assert sorted([*only, *others]) == rows.tolist() and "clap" not in {catalog.clips[i].label for i in others}
    with pytest.raises(CatalogError, match="jumping"):
        select(catalog, "train1", leave_out=("jumping",))


def test_a_list_of_classes_that_names_none_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("# nothing\n")
    for path, said in ((tmp_path / "list.txt", "names no class"), (tmp_path / "none.txt", "cannot be read")):
        with pytest.raises(CatalogError, match=said):
            class_list(path)


def test_fractions_of_one_seed_are_nested_and_stratified(tmp_path):
    catalog = catalog_of(tmp_path)
    subsets = [set(select(catalog, "train1", fraction=f, seed=3).tolist()) for f in (0.01, 0.25, 0.5, 0.75, 1.0)]
    for small, large in itertools.pairwise(subsets):
        assert small < large
    labels = catalog.labels()
    assert [sum(labels[i] == c for i in subsets[2]) for c in range(3)] == [8, 4, 12]
    assert [sum(labels[i] == c for i in subsets[0]) for c in range(3)] == [1, 1, 1]
    assert select(catalog, "train1", fraction=0.5, seed=3).tolist() == sorted(subsets[2])
    assert set(select(catalog, "train1", fraction=0.5, seed=4).tolist()) != subsets[2]


def test_k_shot_takes_k_of_each_class_or_refuses(tmp_path):
    catalog = catalog_of(tmp_path)
    rows = select(catalog, "train1", k_shot=8)
    assert np.bincount(catalog.labels()[rows]).tolist() == [8, 8, 8]
    assert set(select(catalog, "train1", k_shot=4)) < set(rows)
    with pytest.raises(CatalogError, match="class 'clap' has 8 clips, k_shot asks for 9"):
        select(catalog, "train1", k_shot=9)


def test_adding_clips_does_not_reshuffle_a_k_shot_choice(tmp_path):
    catalog = catalog_of(tmp_path)
    chosen = {catalog.clips[i].id for i in select(catalog, "train1", classes=("wave",), k_shot=4)}
    more = dataclasses.replace(catalog, clips=(Clip("wave/new", ("train1",), "wave"), *catalog.clips))
    again = {more.clips[i].id for i in select(more, "train1", classes=("wave",), k_shot=4)}
    assert len(chosen - again) <= 1


def test_hold_out_is_disjoint_in_groups_stratified_and_deterministic(tmp_path):
    catalog = catalog_of(tmp_path, per_class=(80, 40, 120))
    rows = np.arange(len(catalog.clips))
    kept, held = hold_out(catalog, rows, 0.2, seed=0)
    assert sorted([*kept, *held]) == rows.tolist() and not set(kept) & set(held)
    assert not {catalog.clips[i].group for i in kept} & {catalog.clips[i].group for i in held}
    per_class = np.bincount(catalog.labels()[held], minlength=3)
    assert np.abs(per_class - np.array([16, 8, 24])).max() <= 2  # half a group of four
    for again, first in zip(hold_out(catalog, rows, 0.2, seed=0), (kept, held), strict=True):
        np.testing.assert_array_equal(again, first)
    assert hold_out(catalog, rows, 0.2, seed=1)[1].tolist() != held.tolist()


def test_hold_out_refuses_what_it_cannot_split(tmp_path):
    catalog = catalog_of(tmp_path, groups_of=1000)  # every class is one group
    with pytest.raises(CatalogError, match="without splitting a group"):
        hold_out(catalog, np.arange(len(catalog.clips)), 0.2, seed=0)
    with pytest.raises(CatalogError, match="between 0 and 1"):
        hold_out(catalog, np.arange(len(catalog.clips)), 1.5, seed=0)


def test_overlap_finds_shared_clips_and_shared_groups(tmp_path):
    clips = [Clip("a", ("t",), group="g1"), Clip("b", ("t",), group="g1"), Clip("c", ("t",)), Clip("d", ("t",))]
    catalog = Catalog(tmp_path, "n", "1", (), tuple(clips))
    assert overlap(catalog, np.array([0]), np.array([1, 2])) == ["b"]
    assert overlap(catalog, np.array([2]), np.array([2, 3])) == ["c"]  # an empty group is no group
    assert overlap(catalog, np.array([2]), np.array([0, 3])) == []


@pytest.mark.parametrize("name", ["a\u2028b", "a\x85b"])
def test_any_class_name_that_can_be_saved_can_be_loaded(tmp_path, name):
    Catalog(tmp_path / "s", "n", "1", (name,), (Clip("x", ("t",), name),)).save()
    assert Catalog.load(tmp_path / "s").class_names == (name,)


@pytest.mark.parametrize("text", ["[]", '{"catalog_version": 1}', "[" * 100_000])
def test_a_dataset_file_of_another_shape_is_refused_by_name(tmp_path, text):
    catalog_of(tmp_path).save()
    (tmp_path / "set/dataset.json").write_text(text)
    with pytest.raises(CatalogError, match=r"dataset\.json"):
        Catalog.load(tmp_path / "set")


@pytest.mark.parametrize(
    "fields, message",
    [
        ('"targets": ["x"]', "targets .* are not finite numbers"),
        ('"targets": [1e999]', "not finite"),
        ('"targets": "12"', "targets is '12', not a list"),
        ('"fps": "fast"', "fps is 'fast', not a finite number"),
        ('"fps": Infinity', "fps is inf, not a finite number"),
        ('"start_s": NaN', "start_s is nan"),
        ('"start_s": -1', "start_s is -1.0"),
        ('"start_s": 2, "end_s": 1', "enclose nothing"),
        ('"start_s": true', "start_s is True"),
        (f'"end_s": {"9" * 400}', "end_s is inf"),
        ('"width": "640"', "width is '640', not a whole number"),
        ('"frames": 2.5', "frames is 2.5"),
        (f'"height": {"9" * 400}', "height is an integer of"),
        ('"splits": "train"', "splits is 'train', not a list"),
        ('"splits": [["train"]]', "are not all names"),
        ('"splits": [""]', "are not all names"),
        ('"id": ["x"]', r"id is \['x'\], not a string"),
        ('"label": [1]', "label is .*, not a string"),
        ('"group": {"a": 1}', "group is .*, not a string"),
        ('"path": 7', "path is 7, not a string"),
        ('"label": "\\ud800"', "is not Unicode text"),
    ],
)
def test_a_clip_value_that_cannot_be_is_refused_by_line(tmp_path, fields, message):
    catalog_of(tmp_path).save()
    good, bad = '{"id": "a", "splits": ["t"]}', '{"id": "x", "splits": ["t"], ' + fields + "}"
    (tmp_path / "set/clips.jsonl").write_text(f"{good}\n\n{bad}\n" + '{"id": 1, "splits": []}\n')
    with pytest.raises(CatalogError, match=f"(?s)clips.jsonl:3: .*{message}.*clips.jsonl:4: "):  # all together
        Catalog.load(tmp_path / "set", may_be_changed=True)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"class_names": None}, "class_names is None, not a list of strings"),
        ({"class_names": ["jump", 1]}, "class_names is .*, not a list of strings"),
        ({"name": 3, "videos": ["a"]}, r"name is 3, not a string\ndataset.json: videos is"),
        ({"target_names": "x"}, "target_names is 'x'"),
    ],
)
def test_a_dataset_value_of_a_wrong_type_is_refused_with_all_others(tmp_path, changes, message):
    catalog_of(tmp_path).save()
    edit_json(tmp_path / "set/dataset.json", **changes)
    with pytest.raises(CatalogError, match=f"dataset.json: {message}"):
        Catalog.load(tmp_path / "set")


def test_shots_may_hold_blanks(tmp_path):
    names = ["My clip 1", "My clip 10", "My", "clip.v0", "a\u2028b"]
    clips = tuple(Clip(n, ("t",), path=f"my folder/{n}.mp4") for n in names)
    Catalog(tmp_path / "s", "n", "1", (), clips).save()
    catalog = Catalog.load(tmp_path / "s")
    lines = ["My clip 1.mp4", "  my folder/My clip 10.mp4\t3", "clip.v0.mp4 1", "", "a\u2028b"]
    (tmp_path / "shots.txt").write_text("\r\n".join(lines))
    assert listed(catalog, tmp_path / "shots.txt").tolist() == [0, 1, 3, 4]
    (tmp_path / "shots.txt").write_text("My other clip.mp4\n")
    assert listed(catalog, tmp_path / "shots.txt").tolist() == [2]  # `My`, and whatever its list says of it


def test_a_list_of_shots_names_clips_by_id_path_or_file(tmp_path):
    catalog = catalog_of(tmp_path)
    file = tmp_path / "shots.txt"
    file.write_text("wave/01\nclap/02.mp4 1\n\n/somewhere/else/running/03.avi 2\n  wave/01 0\n")
    with pytest.raises(CatalogError, match=r"line 4: '/somewhere/else/running/03.avi 2' names 0 clips"):
        listed(catalog, file)
    file.write_text("wave/01\nclap/02.mp4 1\n\nrunning/03.avi 2\n  wave/01 0\n")
    assert [catalog.clips[r].id for r in listed(catalog, file)] == ["wave/01", "clap/02", "running/03"]


def test_published_lists_name_files_without_their_folders(tmp_path):
    """ViFi-CLIP's lists have lines such as "v_Archery_g11_c01.avi 2"; ids and paths may carry a class folder."""
    clips = tuple(
        Clip(i, ("train",), path=p)
        for i, p in [
            ("Archery/v_Archery_g11_c01", "Archery/v_Archery_g11_c01.avi"),
            ("b", "x.y/two.words.mp4"),
            ("c", ""),
        ]
    )
    catalog = Catalog(tmp_path, "n", "1", (), clips)
    file = tmp_path / "shots.txt"
    for spelling in (
        "v_Archery_g11_c01.avi 2",
        "v_Archery_g11_c01",
        "Archery/v_Archery_g11_c01.mp4",
        "Archery/v_Archery_g11_c01",
    ):
        file.write_text(f"{spelling}\ntwo.words.mp4\nc\n")
        assert listed(catalog, file).tolist() == [0, 1, 2], spelling


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no clip"),
        ("\n\n", "lists no clip"),
        ("nothing\nwave/00\n", "line 1: 'nothing' names 0 clips"),
        ("wave/00\n05\n", "line 2: '05' names 3 clips"),  # wave/05, clap/05, running/05
        ("wave/00\n05.mp4 1\n", "line 2: '05.mp4 1' names 3 clips"),
        (None, "cannot be read"),
    ],
)
def test_a_list_that_names_no_clip_or_several_is_refused_by_line(tmp_path, text, message):
    file = tmp_path / "shots.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(CatalogError, match=message):
        listed(catalog_of(tmp_path), file)
