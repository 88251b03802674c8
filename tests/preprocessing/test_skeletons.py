"""Skeletons of others: pyskl's pickles of NumPy 1 and 2, VPD's JSON, and every way in which such files are bad or hostile."""

import ast
import gzip
import json
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest

from mtjax.data import columns, inspection
from mtjax.data.catalog import Catalog, CatalogError, Clip
from mtjax.modalities.pose import Pose
from preprocessing import import_skeletons
from preprocessing.annotations import skeleton_files

REPOSITORY = Path(__file__).parents[2]
IDS = ("a/v_one", "a/v_two", "b/v_three", "b/lone", "c/lone")


@pytest.fixture
def root(tmp_path):
    clips = tuple(Clip(i, ("train",), i[0]) for i in IDS)
    Catalog(tmp_path / "set", "set", "1", ("a", "b", "c"), clips).save()
    return tmp_path / "set"


def annotation(name, frames=4, persons=2, joints=17, dtype=np.float16, seed=0, **changes):
    rng = np.random.default_rng(seed)
    keypoint = rng.uniform(0, 200, (persons, frames, joints, 2)).astype(dtype)
    score = rng.uniform(0.5, 1, (persons, frames, joints)).astype(dtype)
    fields = {"frame_dir": name, "label": 3, "total_frames": frames, "img_shape": (240, 320)}
    return fields | {"original_shape": (240, 320), "keypoint": keypoint, "keypoint_score": score} | changes


def pickled(path, *annotations, protocol=4, numpy_1=False):
    data = pickle.dumps({"split": {"train1": ["v_one"]}, "annotations": list(annotations)}, protocol)
    if numpy_1:  # "_core" became so in NumPy 2; of protocol 4 every name carries its length, which pickle can rewrite
        data = pickle.dumps({"split": {}, "annotations": list(annotations)}, 2).replace(b"numpy._core", b"numpy.core")
    path.write_bytes(data)
    return path


def run(capsys, *args):
    code = import_skeletons.main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def records_of(root, name="pose.hrnet"):
    column = columns.Column(root, name)
    return dict(zip(column.ids.tolist(), column.read(list(range(len(column)))), strict=True))


def failures_of(root, name="pose.hrnet"):
    lines = (columns.column_dir(root, name) / "failures.jsonl").open()
    return {f["clip"]: f["reason"] for f in map(json.loads, lines)}


@pytest.mark.parametrize("protocol, numpy_1", [(2, True), (2, False), (4, False), (5, False)])
def test_pyskl(root, tmp_path, capsys, protocol, numpy_1):
    one, two = annotation("v_one"), annotation("a/v_two", frames=3, seed=1, dtype=np.float32)
    one["keypoint_score"][1, 2] = 0  # the second person is not there
    one["keypoint_score"][0, 3], one["keypoint_score"][1, 3] = 0.6, 0.7
    two["keypoint_score"][:, 1] = 0  # nobody
    one["keypoint"] = np.asfortranarray(one["keypoint"])
    one["total_frames"], one["label"] = np.int64(4), np.float32(1)
    source = pickled(tmp_path / "s.pkl", one, two, annotation("stranger"), protocol=protocol, numpy_1=numpy_1)
    names = {arg for op, arg, _ in pickletools.genops(source.read_bytes()) if op.name == "GLOBAL"}
    assert not numpy_1 or any("numpy.core.multiarray" in n for n in names)
    code, out = run(capsys, "pyskl", source, root, "--name=pose.hrnet", "--max_failures=3", "--licence=research")
    assert code == 0, out
    assert "2 records, 3 clips without one" in out and "1 skeletons belong to no clip: ['stranger']" in out
    assert "3 clips have no skeletons: ['b/v_three', 'b/lone', 'c/lone']" in out
    found = records_of(root)
    first = found["a/v_one"]
    assert first["frame"].tolist() == [0, 0, 1, 1, 2, 3, 3] and first["size_px"].tolist() == [320, 240]
    np.testing.assert_array_equal(first["pose"][3, :, :2], one["keypoint"][1, 3])
    np.testing.assert_array_equal(first["pose"][2], first["people"][4])
    assert found["a/v_two"]["pose"].shape == (3, 17, 3) and not found["a/v_two"]["pose"][1].any()
    spec = columns.Column(root, "pose.hrnet").spec
    assert len(spec.parameters["sha256"]) == 16 and spec.licence == "research" and "box" not in spec.schema
    assert (columns.column_dir(root, "pose.hrnet") / "unmatched.txt").read_text() == "stranger\n"
    assert failures_of(root) == dict.fromkeys(
        ["b/v_three", "b/lone", "c/lone"], "the source has no skeletons of this clip"
    )
    assert not inspection.check_column(root, "pose.hrnet", set(IDS))
    assert Pose(root=str(root), column="pose.hrnet", train="train").element_spec()["pose"][0] == (4, 17, 3)
    # Again: refused where the source has changed, or overwritten; a limit is kept.
    assert run(capsys, "pyskl", source, root, "--name=pose.hrnet", "--licence=research")[0] == 3
    pickled(source, one)
    code, out = run(capsys, "pyskl", source, root, "--name=pose.hrnet")
    assert code == 2 and "begun differently" in out
    assert run(capsys, "pyskl", source, root, "--name=pose.hrnet", "--overwrite", "--max_failures=80%")[0] == 0
    assert len(records_of(root)) == 1


def test_names_and_ids():
    names = ["a/v_one", "v_one", "v_two", "lone", "c/lone", "none"]
    matched, unmatched, ambiguous = import_skeletons.match(names, IDS)
    assert matched == {"a/v_one": "a/v_one", "c/lone": "c/lone", "a/v_two": "v_two"}
    assert unmatched == ["v_one", "lone", "none"] and ambiguous == ["lone"]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"keypoint": None}, "'keypoint' must be an array of 4 dimensions, found NoneType"),
        ({"keypoint_score": np.ones((2, 4))}, "'keypoint_score' must be an array of 3 dimensions, found (2, 4)"),
        ({"keypoint_score": np.ones((2, 3, 17))}, "does not go with"),
        ({"total_frames": 5}, "'total_frames' is 5, but there are 4 frames"),
        ({"img_shape": (240,)}, "'img_shape' must be (height, width)"),
        ({"keypoint": np.ones((1, 4, 15, 2)), "keypoint_score": np.ones((1, 4, 15))}, "expected shape (-1, 17, 3)"),
        (
            {"keypoint": np.ones((0, 1 << 40, 17, 2)), "keypoint_score": np.ones((0, 1 << 40, 17))},
            "1099511627776 frames",
        ),
        (
            {"keypoint": np.ones((0, 4, 1 << 40, 2)), "keypoint_score": np.ones((0, 4, 1 << 40))},
            "of 1099511627776 joints",
        ),
    ],
)
def test_an_annotation_that_is_wrong_costs_one_clip(root, tmp_path, capsys, changes, reason):
    source = pickled(tmp_path / "s.pkl", annotation("v_one"), annotation("v_two", **changes))
    assert run(capsys, "pyskl", source, root, "--name=pose.hrnet")[0] == 3
    assert set(records_of(root)) == {"a/v_one"}
    assert reason in failures_of(root)["a/v_two"]


def test_nan_is_not_stored(root, tmp_path, capsys):
    bad = annotation("v_one", persons=1, dtype=np.float32)
    bad["keypoint"][0, 1, 5, 0] = np.nan
    assert run(capsys, "pyskl", pickled(tmp_path / "s.pkl", bad), root, "--name=pose.hrnet")[0] == 3
    pose = records_of(root)["a/v_one"]["pose"]
    assert pose[1, 5].tolist() == [0, 0, 0] and pose[1, 4].all()


# Hostile and damaged files.


class Reduces:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def dotted(name, *arguments):
    """A pickle of protocol 4 that calls `numpy.<name>`; a dotted name gets round a check of the module alone."""
    data = b"\x80\x04\x8c\x05numpy\x8c" + bytes([len(name)]) + name.encode() + b"\x93"
    return data + b"".join(b"\x8c" + bytes([len(a)]) + a.encode() for a in arguments) + b"\x85R."


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("what", ["open", "eval", "system", "getattr", "fromfile", "object array", "load"])
def test_a_pickle_cannot_run_anything(root, tmp_path, capsys, protocol, what):
    evil = tmp_path / "evil"
    np.save(tmp_path / "x.npy", np.array([Reduces(open, (str(evil), "w"))], object), allow_pickle=True)
    hostile = {
        "open": Reduces(open, (str(evil), "w")),
        "eval": Reduces(eval, (f"open({str(evil)!r}, 'w')",)),
        "system": Reduces(__import__("os").system, (f"touch {evil}",)),
        "getattr": Reduces(getattr, ("x", "upper")),
        "fromfile": Reduces(np.fromfile, (str(tmp_path / "x.npy"),)),
        "object array": np.array([Reduces(open, (str(evil), "w"))], object),
        "load": Reduces(np.load, (str(tmp_path / "x.npy"), None, True)),
    }[what]
    source = tmp_path / "s.pkl"
    source.write_bytes(pickle.dumps({"annotations": [annotation("v_one"), hostile]}, protocol))
    evil.unlink(missing_ok=True)
    code, out = run(capsys, "pyskl", source, root, "--name=pose.hrnet")
    assert (code == 2 and "which a file of skeletons has no need of" in out) or "only numbers are read" in out
    assert not evil.exists() and not (root / "columns").exists()


def test_the_name_at_fault_is_named(root, tmp_path, capsys):
    source = tmp_path / "s.pkl"
    source.write_bytes(pickle.dumps({"annotations": [Reduces(eval, ("1",))]}, 4))
    assert "it names builtins.eval" in run(capsys, "pyskl", source, root, "--name=p")[1]
    source.write_bytes(dotted("load", "x"))
    assert "it names numpy.load" in run(capsys, "pyskl", source, root, "--name=p")[1]
    source.write_bytes(dotted("ndarray.tofile", str(tmp_path / "evil")))
    code, out = run(capsys, "pyskl", source, root, "--name=p")
    assert code == 2 and "numpy.ndarray.tofile" in out and not (tmp_path / "evil").exists()


def test_an_array_cannot_claim_more_than_its_bytes(tmp_path):
    array = pickle.dumps(np.zeros((2, 3), np.float32), 4)
    for fault in (array.replace(b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fK\x03\x86"), array.replace(b"f4", b"O8")):
        assert fault != array
        (tmp_path / "s.pkl").write_bytes(fault)
        with pytest.raises(CatalogError, match=r"reshape|only numbers"):
            skeleton_files.read_pyskl(tmp_path / "s.pkl")


def test_damaged_files(root, tmp_path, capsys):
    whole = pickled(tmp_path / "s.pkl", annotation("v_one"), annotation("v_two")).read_bytes()
    damaged = {len(whole) // 2: "not a pickle", 0: "not a pickle", len(whole) - 1: "not a pickle"}
    for length, said in damaged.items():
        (tmp_path / "s.pkl").write_bytes(whole[:length])
        code, out = run(capsys, "pyskl", tmp_path / "s.pkl", root, "--name=p")
        assert code == 2 and said in out and out.count("\n") == 1
    for seed in range(40):  # anything may come of a flipped byte but a crash
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        (tmp_path / "s.pkl").write_bytes(data)
        try:
            for read in skeleton_files.read_pyskl(tmp_path / "s.pkl").values():
                read()
        except (CatalogError, skeleton_files.SkeletonError):
            pass
    for content, said in (
        ({"a": 1}, "a list 'annotations', found dict"),
        ({"annotations": []}, "a list 'annotations'"),
        ({"annotations": [{"label": 1}]}, "annotations[0]: no 'frame_dir'"),
        ({"annotations": [annotation("v_one"), annotation("v_one")]}, "annotations[1]: 'v_one' occurs twice"),
        ({"annotations": [annotation("elsewhere")]}, "none of its 1 clips is in"),
        (
            {"annotations": [annotation("v_one", keypoint=1)]},
            "no clip in it can be used; the last one: v_one: 'keypoint'",
        ),
    ):
        (tmp_path / "s.pkl").write_bytes(pickle.dumps(content))
        code, out = run(capsys, "pyskl", tmp_path / "s.pkl", root, "--name=p")
        assert code == 2 and said in out
    assert run(capsys, "pyskl", tmp_path / "none.pkl", root, "--name=p")[0] == 2
    assert run(capsys, "pyskl", tmp_path / "s.pkl", root, "--name=p", "--max_failures=x")[0] == 2
    assert not (root / "columns").exists()


def test_pickles_are_read_by_two_files_that_choose_what_is_made():
    importing = {
        path
        for room in ("mtjax", "preprocessing")
        for path in (REPOSITORY / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if name.split(".")[0] in ("pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
    }
    assert {path.name for path in importing} == {"skeleton_files.py", "torch_files.py"}
    assert all("def find_class(" in path.read_text() for path in importing)


# VPD.


def person(score=0.9, x=10.0):
    return [score, [x, 20.0, 30.0, 60.0], [[x + j, 2.0 * j, score] for j in range(17)]]


def vpd(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    text = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    (folder / "coco_keypoints.json.gz").write_bytes(gzip.compress(text))


def test_vpd(root, tmp_path, capsys):
    source = tmp_path / "vpd"
    vpd(source / "v_one", [[0, [person(0.5), person(0.9, 50.0)]], [3, [person()]], [4, []]])
    vpd(source / "b" / "lone", [[1, [person()]]])
    vpd(source / "extra", [[0, [person()]]])
    code, out = run(capsys, "vpd", source, root, "--name=pose.hrnet", "--max_failures=3")
    assert code == 0 and "2 records, 3 clips without one" in out and "['extra']" in out
    record = records_of(root)["a/v_one"]
    assert record["pose"].shape == (5, 17, 3) and record["frame"].tolist() == [0, 0, 3]
    np.testing.assert_allclose(record["box"][1], [50, 20, 80, 80, 0.9])
    np.testing.assert_allclose(record["pose"][0, 1], [51, 2, 0.9])
    assert not record["pose"][[1, 2, 4]].any()
    assert set(record) == {"pose", "people", "box", "frame"}
    assert columns.Column(root, "pose.hrnet").longest("pose") == 5


@pytest.mark.parametrize(
    "rows, reason",
    [
        (b"[[0, [", "unreadable"),
        (b"[" * 100_000, "unreadable"),
        (b"{}", "no frames in it"),
        ([], "no frames in it"),
        ([[1, []], [1, []]], "frame 1 after 1"),
        ([[10**12, []]], "frame 1000000000000 after -1"),
        ([[0, [[0.9, [1, 2, 3], []]]]], "not [[frame"),
        ([[0, [[0.9, [1, 2, 3, 4], [[1, 2, 3]] * 16]]]], "not [[frame"),
        ([[0, [[0.9, [1, 2, 3, 4], [["x", 2, 3]] * 17]]]], "not [[frame"),
        ([["0", []]], "frame '0' after -1"),
    ],
)
def test_a_bad_vpd_file_costs_one_clip(root, tmp_path, capsys, rows, reason):
    vpd(tmp_path / "vpd" / "v_one", rows)
    vpd(tmp_path / "vpd" / "v_two", [[0, [person()]]])
    code, out = run(capsys, "vpd", tmp_path / "vpd", root, "--name=pose.hrnet")
    assert code == 3, out
    assert reason in failures_of(root)["a/v_one"] and set(records_of(root)) == {"a/v_two"}


def test_a_gzip_bomb_and_no_gzip_at_all(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(skeleton_files, "MAX_JSON_BYTES", 1 << 16)
    vpd(tmp_path / "vpd" / "v_one", b" " * (1 << 20))
    vpd(tmp_path / "vpd" / "v_two", [[0, [person()]]])
    vpd(tmp_path / "vpd" / "v_three", [])
    (tmp_path / "vpd" / "v_three" / "coco_keypoints.json.gz").write_bytes(b"no gzip")
    assert run(capsys, "vpd", tmp_path / "vpd", root, "--name=pose.hrnet")[0] == 3
    assert "unpacks to more than" in failures_of(root)["a/v_one"] and "unreadable" in failures_of(root)["b/v_three"]
    (tmp_path / "nothing").mkdir()
    code, out = run(capsys, "vpd", tmp_path / "nothing", root, "--name=p")
    assert code == 2 and "no <video>/coco_keypoints.json.gz in it" in out
