"""The README's Python blocks run, on tiny models in place of those that the demo leaves; its commands exist."""

import re
from pathlib import Path

from helpers.docs import make_demo_folder, python_blocks, run_blocks

README = Path(__file__).parent.parent / "README.md"
MOST_LINES = {"training": 12, "generation": 8}


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    make_demo_folder(tmp_path / "trace-demo")
    monkeypatch.chdir(tmp_path)
    assert len(python_blocks(README)) == 4
    names = run_blocks(README)
    assert (tmp_path / "my-trace" / "model.safetensors").is_file()
    assert "eval_kl" in capsys.readouterr().out
    assert type(names["trainer"]).__name__ == "Trainer"  # the last block's: it trained, too
    assert names["trainer"].state.global_step == 2


def test_blocks_are_as_short_as_promised():
    for block in python_blocks(README):
        lines = [line for line in block.splitlines() if line.strip()]
        kind = "training" if "TraceTrainer" in block else "generation"
        assert len(lines) <= MOST_LINES[kind], block


def test_commands_exist():
    from modeling_trace.cli.main import COMMANDS

    text = README.read_text(encoding="utf-8")
    for command in re.findall(r"modeling-trace (\w+)", text):
        assert command in COMMANDS, command
