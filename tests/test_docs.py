"""The Python blocks of the documentation run, on tiny models."""

import re
from pathlib import Path

import pytest
from helpers.docs import make_demo_folder
from transformers import TrainingArguments

from modeling_trace import TraceForConditionalGeneration, TraceProcessor

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("page", ["conditional.md", "working_with_latents.md", "measuring.md"])
def test_blocks_run(page, tmp_path, monkeypatch, capsys):
    make_demo_folder(tmp_path / "trace-demo")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    space = {
        "backbone": "trace-demo/plain-lm",
        "model": TraceForConditionalGeneration.from_pretrained("trace-demo/model"),
        "processor": TraceProcessor.from_pretrained("trace-demo/model"),
        "arguments": TrainingArguments("out", max_steps=2, use_cpu=True, report_to="none"),
    }
    for block in blocks:
        exec(compile(block, page, "exec"), space)
    assert capsys.readouterr().out


def test_links_lead_somewhere():
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
