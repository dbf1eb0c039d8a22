"""The Python blocks of docs/training.md run one after another, on a tiny model in place of gpt2."""

import json
import re
from pathlib import Path

import pytest
import torch
from helpers.docs import make_demo_folder

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_blocks_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    make_demo_folder(tmp_path / "trace-demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *args, **kwargs: None)  # which takes a minute
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    small = {'"gpt2"': '"trace-demo/plain-lm"', "max_steps=300": "max_steps=2, use_cpu=True", "=2000": "=40"}
    small |= {"max_steps=20,": "max_steps=2, use_cpu=True,", "max_new_tokens=40": "max_new_tokens=4"}
    space = {}
    for block in blocks:
        for text, replacement in small.items():
            block = block.replace(text, replacement)
        exec(compile(block, PAGE.name, "exec"), space)
    assert "eval_gain_per_nat" in capsys.readouterr().out
    config = json.loads((tmp_path / "trace" / "config.json").read_text())
    assert config["free_nats"] == 1.5
    assert (tmp_path / "trace-merged" / "model.safetensors").is_file()
