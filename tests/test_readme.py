"""The README's Python blocks run, on tiny models in place of those that the demo leaves."""

import re
from pathlib import Path

from helpers.docs import make_demo_folder

README = Path(__file__).parent.parent / "README.md"
MOST_LINES = {"training": 12, "generation": 8}


def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    make_demo_folder(tmp_path / "trace-demo")
    monkeypatch.chdir(tmp_path)
    found = blocks()
    assert len(found) == 3
    space = {}
    for block in found:
        small = block.replace("max_steps=300", "max_steps=2, use_cpu=True").replace(
            'load_texts("reviews")', 'load_texts("reviews", max_texts=40)'
        )
        exec(compile(small, "README.md", "exec"), space)
    assert (tmp_path / "my-trace" / "model.safetensors").is_file()
    assert "eval_kl" in capsys.readouterr().out


def test_blocks_are_as_short_as_promised():
    for block in blocks():
        lines = [line for line in block.splitlines() if line.strip()]
        kind = "training" if "TraceTrainer" in block else "generation"
        assert len(lines) <= MOST_LINES[kind], block


def test_commands_exist():
    from modeling_trace.cli.main import COMMANDS

    text = README.read_text(encoding="utf-8")
    for command in re.findall(r"modeling-trace (\w+)", text):
        assert command in COMMANDS, command
