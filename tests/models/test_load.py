"""Many texts in one process: what a batch took is given back after it."""

import gc

import pytest
import torch
from helpers import tiny
from helpers.tiny import backbone_config, tiny_model
from helpers.tokenizers import byte_level

from modeling_trace.data import TraceProcessor, generate_texts

MODES = ({}, {"do_sample": True, "top_k": 5}, {"num_beams": 2})


def live_tensors() -> tuple[int, int]:
    """How many there are of those made in this module, and their bytes: conftest.py freezes all older objects."""
    gc.collect()
    # of these types, not of what a compiler in this process has left: its fake tensors have no size in bytes
    found = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    return len(found), sum(one.untyped_storage().nbytes() for one in found if not one.is_meta)


@pytest.mark.parametrize(
    ("num_texts", "place"),
    [(60, "embeddings"), (60, "between layers"), pytest.param(10_000, "between layers", marks=pytest.mark.slow)],
)
def test_generated_texts_leave_no_tensor_behind(num_texts, place, monkeypatch):
    monkeypatch.setattr(tiny, "ARCHITECTURE", tiny.ARCHITECTURES[place])
    processor = TraceProcessor(byte_level())
    backbone = backbone_config(vocab_size=len(processor.tokenizer))
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), processor.eos_token_id)
    model = tiny_model(backbone_config=backbone, separator="none", segment_length=3, **ids)
    counts, texts, size = [], 0, min(500, num_texts // 6)
    for number in range(num_texts // size):
        rows = generate_texts(
            model, processor, [None] * size, batch_size=size, max_new_tokens=8, **MODES[number % len(MODES)]
        )
        texts += len(rows)
        counts.append(live_tensors())
    assert texts == num_texts
    # the first round may fill caches of constants, such as those of ids
    assert set(counts[len(MODES) :]) == {counts[len(MODES) - 1]}
