"""The README's Python blocks run, on tiny models in place of those that the demo leaves."""

import re
from pathlib import Path

from transformers import GPT2Config, GPT2LMHeadModel

from modeling_trace import TraceForConditionalGeneration, TraceProcessor
from modeling_trace.data import SentenceSegmenter, generate_reviews, train_tokenizer

README = Path(__file__).parent.parent / "README.md"
MOST_LINES = {"training": 12, "generation": 8}


def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def make_demo_folder(folder):
    tokenizer = train_tokenizer([review.text for review in generate_reviews(200)], 2500)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    size = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 160}
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size, **ids))
    plain = TraceForConditionalGeneration.from_backbone(lm, tokenizer, latent_dynamics="none")
    plain.save_pretrained(folder / "plain-lm")
    TraceProcessor(tokenizer, None).save_pretrained(folder / "plain-lm")
    processor = TraceProcessor(tokenizer, SentenceSegmenter())
    trace = TraceForConditionalGeneration.from_backbone(folder / "plain-lm", processor)
    trace.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")


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
