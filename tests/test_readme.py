"""The README's Python blocks run, on tiny models in place of those that the demo leaves; its commands exist."""

import configparser
import re
from pathlib import Path

from helpers.docs import make_demo_folder, python_blocks, run_blocks

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
MOST_LINES = {"training": 12, "generation": 8}


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    make_demo_folder(tmp_path / "trace-demo")
    monkeypatch.chdir(tmp_path)
    assert len(python_blocks(README)) == 3
    names = run_blocks(README)
    assert (tmp_path / "my-trace" / "model.safetensors").is_file()
    assert "eval_kl" in capsys.readouterr().out
    assert type(names["trainer"]).__name__ == "TraceTrainer"
    assert names["trainer"].state.global_step == 2


def test_it_is_as_short_as_promised():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    for block in python_blocks(README):
        lines = [line for line in block.splitlines() if line.strip()]
        kind = "training" if "TraceTrainer" in block else "generation"
        assert len(lines) <= MOST_LINES[kind], block


def test_commands_exist():
    from modeling_trace.cli.main import COMMANDS

    text = README.read_text(encoding="utf-8")
    for command in re.findall(r"modeling-trace (\w+)", text):
        assert command in COMMANDS, command


def test_the_oldest_python_is_said_alike():
    """In the README, to pip, to ruff and in the tests of CI."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    oldest = settings["options"]["python_requires"].removeprefix(">=")
    assert f"Python {oldest} or newer" in README.read_text(encoding="utf-8")
    assert f'target-version = "py{oldest.replace(".", "")}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'python-version: ["{oldest}",' in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")


def test_ci_finds_the_two_lines_that_install():
    """`.ci/readme` runs them word for word."""
    section = README.read_text(encoding="utf-8").split("## Install and try")[1].split("\n## ")[0]
    assert re.findall(r"^    (pip install .*)", section, re.MULTILINE) == [
        "pip install -e . && modeling-trace demo",
        'pip install -e ".[test]" && pytest',
    ]
