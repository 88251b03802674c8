import os

import numpy as np
import pytest

from mtjax.data import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_atomically(path, "ä\n")
    with pytest.raises(KeyError), files.replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_text(encoding="utf-8") == "ä\n" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_and_bytes_take_the_place_of_what_was_there(tmp_path, compressed):
    path = tmp_path / "a.npz"
    files.write_atomically(path, b"old")
    files.save_arrays(path, compressed=compressed, x=np.arange(3))
    with np.load(path) as arrays:
        assert arrays["x"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["a.npz"]
