"""docs/adding_a_method.md, block by block: its files are written to an empty folder, its commands are run there."""

import json
import os
import re
import shlex
import subprocess
import sys

from conftest import REPO

from mtjax.report.__main__ import main as report

PAGE = REPO / "docs" / "adding_a_method.md"


def files() -> dict[str, str]:
    """Path → content of each block that follows a line with nothing but a path."""
    return dict(re.findall(r"^`([\w/.]+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(), re.M | re.S))


def commands() -> list[list[str]]:
    """Arguments of the page's shell commands."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.S)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", "").strip().splitlines()]


def test_every_block_of_the_page_runs(tmp_path, monkeypatch, capsys):
    written, (folder, train, show) = files(), commands()
    assert len(written) == PAGE.read_text().count("```python") == 3
    subprocess.run(shlex.join(folder).replace("'&&'", "&&"), shell=True, cwd=tmp_path, check=True)
    for path, content in written.items():
        (tmp_path / path).write_text(content)
    small = ("--config.data.generate.clips=240", "--config.train.steps=4")
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, *train[1:], *small], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads((tmp_path / "runs/prototypes/results.json").read_text())["scores"]
    assert {"test/top1", "val/top1"} <= set(scores)
    monkeypatch.chdir(tmp_path)
    assert show[:3] == ["python", "-m", "mtjax.report"] and report(show[3:]) == 0
    assert "prototypes" in capsys.readouterr().out and (tmp_path / "runs/prototypes/report.html").is_file()
