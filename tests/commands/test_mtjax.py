"""The command `mtjax`, which finds the others."""

import sys

from mtjax import __main__ as mtjax
from mtjax import __version__


def test_first_contact(capsys):
    for words in ([], ["--help"], ["help"]):
        assert mtjax.main(words) == 0
        listed = capsys.readouterr().out
        missing = [
            name for name in ("train", "extract", "predict", "report", "chain", "data") if f"\n  {name} " not in listed
        ]
        assert not missing
    assert mtjax.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_a_typo_is_told_what_it_may_mean(capsys):
    assert mtjax.main(["trian", "--config=x"]) == 2
    assert capsys.readouterr().err == "mtjax: no command 'trian'; did you mean 'train'?\n"
    assert mtjax.main(["zzz"]) == 2
    assert "there are " in capsys.readouterr().err


def test_files_of_the_working_folder_can_be_imported(tmp_path, monkeypatch, capsys):
    """A chain, a config or a module of the user's may lie there, as with `python -m`."""
    (tmp_path / "my_steps.py").write_text("STEPS = []\n")
    (tmp_path / "paper.py").write_text("from my_steps import STEPS\n\n\ndef chain(runs='runs'):\n    return STEPS\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setattr(sys, "argv", ["mtjax", "chain", "paper.py", "--dry_run"])
    assert mtjax.main() == 0, capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "my_steps")
