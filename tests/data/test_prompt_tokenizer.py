"""The tokenizer that is saved beside a model makes the prompts that its processor makes."""

import copy

import pytest
from helpers.tokenizers import TEXTS, TOKENIZERS
from transformers import AutoTokenizer

from modeling_trace.data import FixedLengthSegmenter, TraceProcessor


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_saved_tokenizers_write_prompts_as_the_processor_does(name, conditional, tmp_path):
    tokenizer = TOKENIZERS[name]()
    processor = TraceProcessor(tokenizer, FixedLengthSegmenter(3), conditional)
    bare = [tokenizer(text)["input_ids"] for text in TEXTS]
    processor.save_pretrained(tmp_path)
    assert [tokenizer(text)["input_ids"] for text in TEXTS] == bare  # the one in memory is as it was
    saved = AutoTokenizer.from_pretrained(tmp_path)
    saved.save_pretrained(tmp_path / "again")
    for other in (saved, copy.deepcopy(saved), AutoTokenizer.from_pretrained(tmp_path / "again")):
        wanted = (
            processor(prompt=TEXTS, padding=True) if conditional else processor(TEXTS, add_eos=False, padding=True)
        )
        found = other(TEXTS, padding=True)
        assert all(found[key] == wanted[key] for key in ("input_ids", "attention_mask"))
        texts = processor(TEXTS, prompt=TEXTS[::-1]) if conditional else None
        if conditional:
            assert other(TEXTS[::-1], TEXTS)["input_ids"] == texts["input_ids"]
    again = TraceProcessor.from_pretrained(tmp_path)  # which reads the tokens of the text alone
    prompts = {"prompt": TEXTS} if conditional else {}
    assert again(TEXTS, **prompts)["input_ids"] == processor(TEXTS, **prompts)["input_ids"]
