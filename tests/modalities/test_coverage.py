"""`python -m mtjax.data coverage`: counted by hand on a pose column of known scores."""

import numpy as np
import pytest

from mtjax.data import __main__ as cli
from mtjax.data.catalog import Catalog, Clip
from mtjax.data.column_writer import write_column
from mtjax.data.columns import Column, Spec
from mtjax.modalities import coverage
from mtjax.modalities.skeletons import COCO_17
from mtjax.records import Feature

LEFT, RIGHT = COCO_17.shoulder_indices


def pose(*frames):
    """Each frame: the joints with a score of 0.8 (the lowest visible one); the others have 0.1, or none for None."""
    out = np.zeros((len(frames), 17, 3), np.float32)
    for t, visible in enumerate(frames):
        if visible is not None:
            out[t, :, 2] = 0.1
            out[t, list(visible), 2] = 0.8
    return out


@pytest.fixture
def root(tmp_path):
    clips = [
        Clip("all", ("train",), "a"),
        Clip("some", ("train",), "b"),
        Clip("nobody", ("train", "extra"), "b"),
        Clip("failed", ("test",), "a"),
    ]
    Catalog(tmp_path, "set", "1", ("a", "b"), tuple(clips)).save()
    nine = [LEFT, RIGHT, *range(7, 14)]
    values = {
        "all": pose(range(17), nine),
        "some": pose(nine[:-1], [*nine[1:], 16], range(17), None),  # eight; nine but one shoulder; all; nobody
        "nobody": pose(None, None),
    }
    spec = Spec("pose.t", {"pose": Feature("float32", (-1, 17, 3)), "note": Feature("str")}, 2, "tests")
    write_column(tmp_path, spec, {i: {"pose": v, "note": ""} for i, v in values.items()})
    return tmp_path


def run(capsys, *args):
    code = cli.main(["coverage", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_what_is_seen(root):
    seen = coverage.measure(Column(root, "pose.t"), "pose", COCO_17, min_score=0.8, min_visible=9)
    assert seen == {
        "all": coverage.Seen(2, 2, 2),
        "some": coverage.Seen(4, 3, 1),
        "nobody": coverage.Seen(2, 0, 0),
    }


def test_the_table(root, capsys):
    code, out = run(capsys, root, "--column=pose.t")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    train = "train 3 3 (100.0%) 2 (66.7%) 8 5 (62.5%) 3 (37.5%) 1"
    assert train in lines and "test 1 0 (0.0%) 0 (0.0%) 0 0 0 1" in lines
    assert "train a 1 1 (100.0%) 1 (100.0%) 2 2 (100.0%) 2 (100.0%) 0" in lines
    assert "train b 2 2 (100.0%) 1 (50.0%) 6 3 (50.0%) 1 (16.7%) 1" in lines
    assert "extra b 1 1 (100.0%) 0 (0.0%) 2 0 (0.0%) 0 (0.0%) 1" in lines
    code, out = run(capsys, root, "--column=pose.t", "--min_visible=8", "--min_score=0.05")
    assert "train 3 3 (100.0%) 2 (66.7%) 8 5 (62.5%) 5 (62.5%) 1" in [
        " ".join(line.split()) for line in out.splitlines()
    ]


@pytest.mark.parametrize(
    "options, said",
    [
        ([], "coverage needs --column; there are ['pose.t']"),
        (["--column=pose"], "no column 'pose'"),
        (["--column=pose.t", "--field=people"], "found fields ['note', 'pose']"),
        (["--column=pose.t", "--field=note"], "found field 'note' of shape ()"),
        (["--column=pose.t", "--skeleton=skeletons.JHMDB_15"], "needs a field [t, 15, 3]"),
        (["--column=pose.t", "--skeleton=skeletons.Skeleton"], "is not a Skeleton"),
        (["--column=pose.t", "--skeleton=skeletons.COCO"], "COCO"),
    ],
)
def test_wrong_arguments(root, capsys, options, said):
    code, out = run(capsys, root, *options)
    assert code == 2 and said in out and out.count("\n") == 1
