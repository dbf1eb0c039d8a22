"""
What stands in docs/: the Python blocks run from top to bottom as they stand, on tiny models and few steps; commands
have the flags that they are given; the reference is whole; troubleshooting quotes what is said.
"""

import contextlib
import functools
import importlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from helpers.docs import make_demo_folder, python_blocks, run_blocks

from modeling_trace.cli.main import COMMANDS, main
from modeling_trace.data import generate_reviews

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ALL_PAGES = {str(page.relative_to(DOCS)): page for page in sorted(DOCS.rglob("*.md"))}
PAGES = [name for name, page in ALL_PAGES.items() if python_blocks(page)]
# Their blocks are files of their own, or want a Hub: test_custom_dynamics.py, test_push.py
ELSEWHERE = {"how-to/custom-dynamics.md", "how-to/sharing.md"}
# What is there after the blocks of a page
LEFT = {
    "how-to/lora.md": ["trace-lora/adapter_model.safetensors", "trace-merged/model.safetensors"],
    "how-to/training.md": ["trace/model.safetensors"],
    "tutorial.md": ["my-trace/model.safetensors"],
}
NEED_AN_EXTRA = {"how-to/app.md": ("gradio", "demo"), "how-to/lora.md": ("peft", "peft")}


@pytest.mark.parametrize("page", [name for name in PAGES if name not in ELSEWHERE])
def test_blocks_run(page, tmp_path, monkeypatch, capsys):
    if page in NEED_AN_EXTRA:
        module, extra = NEED_AN_EXTRA[page]
        pytest.importorskip(module, reason=f"its blocks require the extra `{extra}`")
    make_demo_folder(tmp_path / "trace-demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *args, **kwargs: None)  # minutes; test_compile.py does it
    run_blocks(DOCS / page)
    said = capsys.readouterr().out
    assert said or "print(" not in "".join(python_blocks(DOCS / page))
    assert all((tmp_path / file).is_file() for file in LEFT.get(page, ()))
    if page == "how-to/training.md":
        assert json.loads((tmp_path / "trace" / "config.json").read_text())["free_nats"] == 1.5
        assert "eval_gain_per_nat" in said


# ---- Commands ----


def commands(text: str) -> list[list[str]]:
    """Every `modeling-trace ...` of a page that stands on a line of its own, in words."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(
        r"^(?: {4}|)(?:pip .*&& |accelerate launch .* -m )?(modeling[-_]trace[ .].*)$", joined, re.MULTILINE
    )
    found = []
    for line in lines:
        words = shlex.split(line.split(" #")[0])
        if words[0] in ("modeling-trace", "modeling_trace.cli.main") and len(words) > 1:
            found.append(words[1:])
    return found


@functools.cache
def flags_of(*command: str) -> frozenset[str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*command, "--help", "all"])
    return frozenset(re.findall(r"--\w[\w-]*", printed.getvalue()))


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}" for name in ALL_PAGES)])
def test_commands_have_these_flags(page):
    for words in commands((ROOT / page).read_text(encoding="utf-8")):
        if words[0] == "--import":
            words = words[2:]
        assert words[0] in COMMANDS, words
        known = flags_of(*words[: 2 if words[0] == "human" else 1])
        for word in words:
            assert not word.startswith("--") or word in known, (page, word, words)


# So that a command takes seconds; its own values of these flags are left out
SMALL = {
    "train": {
        "--max_steps": "2",
        "--max_texts": "40",
        "--max_length": "64",
        "--use_cpu": "true",
        "--report_to": "none",
    },
    "compare": {"--num_texts": "10", "--num_samples": "2", "--judge": "none"},
    "generate": {"--num_texts": "2"},
}
NOT_RUN = {"demo", "app", "push", "--import"}  # tested elsewhere: they take minutes, a browser or a Hub


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", ["README.md", "docs/tutorial.md", "docs/how-to/conditional.md", "docs/how-to/training.md"]
)
def test_commands_run_after_the_blocks_and_one_after_the_other(page, tmp_path, monkeypatch, capsys):
    make_demo_folder(tmp_path / "trace-demo")
    monkeypatch.chdir(tmp_path)
    rows = [{"text": review.text, "title": "A walk", "story": review.text} for review in generate_reviews(120)]
    for name in ("texts", "stories"):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if page in ("docs/tutorial.md", "docs/how-to/conditional.md"):  # whose commands read what the blocks leave
        run_blocks(ROOT / page)
    ran = [words for words in commands((ROOT / page).read_text(encoding="utf-8")) if words[0] not in NOT_RUN]
    for words in ran:
        small = SMALL.get(words[0], {})
        places = [place for place, word in enumerate(words) if not {word, words[place - 1]} & small.keys()]
        from_hub = [words[place - 1 : place + 1] == ["--backbone", "gpt2"] for place in places]
        kept = ["trace-demo/plain-lm" if hub else words[place] for place, hub in zip(places, from_hub, strict=True)]
        code = main([*kept, *(part for pair in small.items() for part in pair)])
        assert code == 0, (words, capsys.readouterr().err[-2000:])
    assert len(ran) >= 2


def test_pages_have_commands():
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in ALL_PAGES.values()) > 30


# ---- The site ----


def test_every_page_is_in_the_navigation():
    def pages(entry):
        entries = entry.values() if isinstance(entry, dict) else entry
        return [entry] if isinstance(entry, str) else [page for one in entries for page in pages(one)]

    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    assert sorted(pages(settings["nav"])) == sorted(ALL_PAGES)


@pytest.mark.parametrize("module", ["", ".data", ".training", ".evaluation", ".sharing", ".app", ".presets"])
def test_the_reference_has_every_public_name_and_no_other(module):
    """Constants, which have no docstring, are left out."""
    if module == ".app":
        pytest.importorskip("gradio", reason="the app's page requires the `demo` extra")
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    shown = dict(path.rpartition(".")[::2][::-1] for path in re.findall(r"^::: ([\w.]+)", pages, re.MULTILINE))
    assert len(shown) == pages.count("\n::: ")  # each name once
    found = importlib.import_module(f"modeling_trace{module}")
    for name in found.__all__:
        assert name in shown or name.isupper(), name
    for name, parent in shown.items():
        assert parent != found.__name__ or hasattr(found, name), name


def test_troubleshooting_quotes_what_is_said():
    """The first words of each message, up to what differs, are in the package's code."""
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "modeling_trace").rglob("*.py")))
    whole = re.sub(r'"\n\s*f?"', "", code)  # strings that stand on several lines
    said = re.sub(r"\{[^{}]*\}", "...", whole)  # fields
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 12
    for row in rows:
        message = re.match(r"`+ ?(.*?) ?`+(?=$|,)", row)[1]
        for piece in message.split("..."):
            assert piece.strip(" '`") in said, row


def test_links_lead_somewhere():
    root = DOCS.parent
    for page in [*DOCS.rglob("*.md"), *root.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target.strip("<>")).exists(), (page.name, target)


def test_the_contributors_pages_name_what_there_is():
    """Every path in architecture.md and CONTRIBUTING.md, and every name that stands beside a file: `file`: `name`."""
    root = DOCS.parent
    package = root / "modeling_trace"
    for page in (DOCS / "explanation/architecture.md", root / "CONTRIBUTING.md"):
        text = page.read_text(encoding="utf-8")
        paths = set(
            re.findall(r"\b(?:models|data|training|evaluation|cli|tests|benchmarks|docs)/[\w/-]*(?:\.\w+)?", text)
        )
        assert len(paths) > 10
        for path in paths:
            assert (root / path).exists() or (package / path).exists(), (page.name, path)
    text = (DOCS / "explanation/architecture.md").read_text(encoding="utf-8")
    named = [(path, name) for path, name in re.findall(r"`(\w+/\w+\.py)`: `(?:\w+\.)?(\w+)`", text)]  # the tables
    named += [(path, name) for name, path in re.findall(r"(\w+), (\w+/\w+\.py)", text)]  # the figure
    assert len(named) > 15
    for path, name in named:
        assert re.search(rf"(def|class) {name}\b", (package / path).read_text(encoding="utf-8")), (path, name)
