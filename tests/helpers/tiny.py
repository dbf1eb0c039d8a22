"""Tiny models for the tests: two layers, made on the spot, with latents strong enough that a wrong one shows."""

import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from modeling_trace import TraceConfig, TraceForConditionalGeneration
from modeling_trace.models.configuration_trace import PAPER_ARCHITECTURE

BOS, EOS, PAD, SEP, VOCAB = 0, 1, 2, 3, 40


FAMILIES = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma": GemmaConfig,
    "gemma2": Gemma2Config,
    "gemma3": Gemma3TextConfig,
    "gpt_neox": GPTNeoXConfig,
}
# What `tiny_config` starts from. The fixture `architecture` (conftest.py) runs a law under each of the two; [SEP] and
# the posterior's floor are the paper's in both, so that nothing but the place of the latents differs.
ARCHITECTURES = {
    "embeddings": PAPER_ARCHITECTURE,
    "between layers": {**PAPER_ARCHITECTURE, "latent_layer": 1},
}
ARCHITECTURE = ARCHITECTURES["embeddings"]


def under_both(dynamics):
    """Pairs for `parametrize("architecture,name", ..., indirect=["architecture"])`: no "context" between layers."""
    return [
        (place, name) for place in ARCHITECTURES for name in dynamics if place == "embeddings" or name != "context"
    ]


# Windows shorter than the texts of the tests, in one of the two layers
WINDOWS = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
OWN_SETTINGS = {
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0} | WINDOWS,
    "gemma3": {"head_dim": 8, "query_pre_attn_scalar": 8} | WINDOWS,
}


def backbone_config(family: str = "gpt2", **settings):
    if family == "gpt2":
        return GPT2Config(
            **{"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
            | {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
            | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.2}
            | settings
        )
    return FAMILIES[family](
        **{"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
        | {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "initializer_range": 0.2}
        | OWN_SETTINGS.get(family, {})
        | settings
    )


def tiny_config(family: str = "gpt2", **settings) -> TraceConfig:
    return TraceConfig(
        **{"backbone_config": backbone_config(family), "latent_size": 4, "segment_length": 3, "sep_token_id": SEP}
        | {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
        | {**ARCHITECTURE, "latent_init_scale": 5.0, "initializer_range": 0.2}
        | settings
    )


def tiny_model(family: str = "gpt2", seed: int = 0, **settings) -> TraceForConditionalGeneration:
    torch.manual_seed(seed)
    return TraceForConditionalGeneration(tiny_config(family, **settings)).eval()


def make_text(lengths: list[int], seed: int = 0) -> list[int]:
    """BOS, segments of the given lengths (without [SEP]), EOS."""
    generator = torch.Generator().manual_seed(seed)
    ids = [BOS]
    for number, length in enumerate(lengths):
        ids += torch.randint(4, VOCAB, (length,), generator=generator).tolist()
        ids.append(SEP if number < len(lengths) - 1 else EOS)
    return ids


def make_batch(texts: list[list[int]], side: str = "right") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, attention_mask and labels of padded texts."""
    width = max(map(len, texts))
    ids = torch.full((len(texts), width), PAD)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        place = slice(0, len(text)) if side == "right" else slice(width - len(text), width)
        ids[row, place] = torch.tensor(text)
        mask[row, place] = 1
    labels = ids.masked_fill(mask == 0, -100)
    labels[torch.arange(len(texts)), mask.argmax(dim=1)] = -100
    return ids, mask, labels
