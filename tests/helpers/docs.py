"""Running the code blocks of a page, and the tiny models that they find beside them."""

import re
from pathlib import Path

from transformers import GPT2Config, GPT2LMHeadModel

from modeling_trace import TraceForConditionalGeneration, TraceProcessor
from modeling_trace.data import SentenceSegmenter, generate_reviews, train_tokenizer


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


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run_blocks(page: Path, names: dict | None = None) -> dict:
    """
    Run a page's blocks one after the other, starting with `names` and nothing else. Only sizes change: two steps on
    the CPU, 40 texts, and the demo's plain model for what would come from the Hub.
    """
    names = {} if names is None else names
    for block in python_blocks(page):
        small = re.sub(r"max_steps=\d+", 'max_steps=2, use_cpu=True, report_to="none"', block)
        small = small.replace('load_texts("reviews")', 'load_texts("reviews", max_texts=40)')
        small = re.sub(r"max_texts=2000", "max_texts=40", small)
        small = small.replace('"gpt2"', '"trace-demo/plain-lm"')
        exec(compile(small, page.name, "exec"), names)
    return names
