"""How commands end: by the class of what is raised, in one line, on any console."""

import io
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest

from mtjax import train
from mtjax.command import console, errors, shell
from mtjax.data.column_writer import Busy
from mtjax.data.columns import ColumnError
from mtjax.run.checkpoint import NoGoodCheckpoint
from preprocessing.extraction.backends import MissingBackend


def end_of(error: BaseException | None = None) -> int:
    @shell.command("try", again="try again")
    def main() -> int:
        if error:
            raise error
        return 0

    return main()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (None, 0, ""),
        (ColumnError("column 'a': no"), 2, "column 'a': no"),
        (NoGoodCheckpoint("none"), 2, "none"),
        (Busy("shard 3"), 2, "shard 3"),
        (OSError(28, "No space left on device", "runs/a"), 1, "runs/a: No space left on device; make room there; try again"),
        (PermissionError(13, "Permission denied", "a"), 1,
         "a: Permission denied; give yourself the right to it, or choose another place; try again"),
        (OSError("handle is closed"), 1, "handle is closed; try again"),
        (FloatingPointError("too many"), 1, "too many; try again"),
        (BrokenProcessPool(), 1, "a worker process died (out of memory?); try again"),
        (ValueError("RESOURCE_EXHAUSTED: a\n b"), 1, "no space or memory left: RESOURCE_EXHAUSTED: a b; try again"),
        (errors.Failure("nobody came"), 1, "nobody came; try again"),
        (MissingBackend("no weights"), 4, "no weights"),
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), 4,
         "cv2 is not installed or cannot be imported (No module named 'cv2'): pip install 'mtjax[video]'"),
        (KeyboardInterrupt(), 130, "interrupted; try again"),
        (train.Preempted(), 143, ""),
    ],
)  # fmt: skip
def test_an_end_is_a_status_and_at_most_one_line(capsys, error, status, message):
    assert end_of(error) == status
    assert capsys.readouterr().err == (f"mtjax try: {message}\n" if message else "")


@pytest.mark.parametrize(
    "error",
    [TypeError(), KeyError("a"), ValueError("a"), RuntimeError("a"), ModuleNotFoundError("x", name="mtjax.gone")],
)
def test_a_fault_of_the_program_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        end_of(error)


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "?"), ("latin-1", "×"), ("utf-8", "×")])
def test_any_console_can_show_what_is_printed(monkeypatch, encoding, shown):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))

    @shell.command("try")
    def main() -> int:
        print("2×3 \x1b[31mred\u202e\a\tend")
        return 0

    assert main() == 0
    assert raw.getvalue().decode(encoding) == f"2{shown}3 \\x1b[31mred\\u202e\\x07\tend\n"


def test_control_characters_of_a_name_are_written_out_in_messages(capsys):
    assert end_of(errors.InputError("class 'a\x1b[2J\x9b'")) == 2
    assert capsys.readouterr().err == "mtjax try: class 'a\\x1b[2J\\x9b'\n"


def test_a_progress_bar_gets_the_terminal_as_it_is(capsys):
    @shell.command("try")
    def main() -> int:
        console.terminal().write("\x1b[1A")
        return 0

    assert main() == 0 and capsys.readouterr().err == "\x1b[1A"


def test_missing_extras_end_a_command_while_it_is_imported(capsys):
    with pytest.raises(SystemExit) as end, shell.imports_extras("extract"):
        raise ModuleNotFoundError("No module named 'av'", name="av")
    assert end.value.code == 4 and "pip install 'mtjax[video]'" in capsys.readouterr().err
    with pytest.raises(ImportError), shell.imports_extras("extract"):
        raise ImportError("a fault", name="preprocessing.gone")
