"""The Python blocks of the documentation run from top to bottom as they stand, on tiny models and few steps."""

import re
from pathlib import Path

import pytest
import torch
from helpers.docs import make_demo_folder, python_blocks, run_blocks

from modeling_trace import TraceForConditionalGeneration, TraceProcessor

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md") if python_blocks(page))
# Their blocks are files of their own, or want a Hub: test_custom_dynamics.py, test_training_page.py, test_push.py
ELSEWHERE = {"custom_dynamics.md", "sharing.md", "training.md"}
# A page that goes on with "the model": every other one makes or loads what it uses.
NEED_A_MODEL = {"measuring.md"}
NEED_AN_EXTRA = {"app.md": ("gradio", "its blocks require the `demo` extra")}


@pytest.mark.parametrize("page", [name for name in PAGES if name not in ELSEWHERE])
def test_blocks_run(page, tmp_path, monkeypatch, capsys):
    if page in NEED_AN_EXTRA:
        module, reason = NEED_AN_EXTRA[page]
        pytest.importorskip(module, reason=reason)
    make_demo_folder(tmp_path / "trace-demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *args, **kwargs: None)  # minutes; test_compile.py does it
    names = {}
    if page in NEED_A_MODEL:
        names["model"] = TraceForConditionalGeneration.from_pretrained("trace-demo/model")
        names["processor"] = TraceProcessor.from_pretrained("trace-demo/model")
    run_blocks(DOCS / page, names)
    said = capsys.readouterr().out
    assert said or "print(" not in "".join(python_blocks(DOCS / page))


def test_links_lead_somewhere():
    root = DOCS.parent
    for page in [*DOCS.glob("*.md"), *root.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


def test_the_contributors_pages_name_what_there_is():
    """Every path in architecture.md and CONTRIBUTING.md, and every name that stands beside a file: `file`: `name`."""
    root = DOCS.parent
    package = root / "modeling_trace"
    for page in (DOCS / "architecture.md", root / "CONTRIBUTING.md"):
        text = page.read_text(encoding="utf-8")
        paths = set(
            re.findall(r"\b(?:models|data|training|evaluation|cli|tests|benchmarks|docs)/[\w/]*(?:\.\w+)?", text)
        )
        assert len(paths) > 10
        for path in paths:
            assert (root / path).exists() or (package / path).exists(), (page.name, path)
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = [(path, name) for path, name in re.findall(r"`(\w+/\w+\.py)`: `(?:\w+\.)?(\w+)`", text)]  # the tables
    named += [(path, name) for name, path in re.findall(r"(\w+), (\w+/\w+\.py)", text)]  # the figure
    assert len(named) > 15
    for path, name in named:
        assert re.search(rf"(def|class) {name}\b", (package / path).read_text(encoding="utf-8")), (path, name)
