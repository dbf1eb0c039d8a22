"""Every kind of backbone obeys the same laws: learned and tied heads, scaled embeddings, windows, capped logits."""

import math

import pytest
import torch
from helpers.generation import prompts, rescoring_error, run
from helpers.tiny import BOS, EOS, SEP, VOCAB, backbone_config, make_batch, make_text, tiny_model
from transformers import AutoModelForCausalLM

from modeling_trace import TraceForConditionalGeneration
from modeling_trace.models.segments_trace import make_layout

FAMILIES = ["gpt2", "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt_neox"]
SCALED = ["gemma", "gemma2", "gemma3"]  # multiply embeddings by the root of their size
TEXTS = [make_text([3, 3, 3, 2], seed=1), make_text([3, 1], seed=2), make_text([3, 3, 1], seed=3)]


def make_backbone(family, **settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(backbone_config(family, **settings)).eval()


@pytest.mark.parametrize("latent_layer", [None, "middle"])
@pytest.mark.parametrize("family", FAMILIES)
def test_from_backbone_keeps_the_language_model_and_teaches_the_latents(family, latent_layer):
    lm = make_backbone(family)
    ids = torch.tensor([[BOS, 5, 6, 7, 8, 9, 5, EOS]])
    with torch.no_grad():
        wanted = lm(ids)
    model = TraceForConditionalGeneration.from_backbone(
        lm, latent_size=4, segment_length=3, separator="token", latent_layer=latent_layer, free_nats=0.0
    )
    assert model.config.sep_token_id == VOCAB
    plain = model(ids, latents=torch.zeros(1, 1, 4))
    torch.testing.assert_close(plain.logits[..., :VOCAB], wanted.logits, atol=1e-5, rtol=1e-5)
    ids[0, 4] = VOCAB
    out = model.train()(ids, labels=ids)
    assert out.latents.shape == (1, 2, 4) and out.loss.isfinite()
    out.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_text(family):
    """What each text costs, alone, padded right and padded left; its KL with it."""
    model = tiny_model(family)
    batches = [make_batch(TEXTS, side) for side in ("right", "left")]
    many = [model(ids, attention_mask=mask, labels=labels) for ids, mask, labels in batches]
    for row, text in enumerate(TEXTS):
        alone_ids, _, alone_labels = make_batch([text])
        alone = model(alone_ids, labels=alone_labels)
        for (_, mask, labels), out in zip(batches, many, strict=True):
            found = out.logits[row][mask[row] == 1]
            torch.testing.assert_close(found, alone.logits[0], atol=1e-4, rtol=1e-4)
            cost = torch.nn.functional.cross_entropy(out.logits[row, :-1], labels[row, 1:], reduction="sum")
            torch.testing.assert_close(cost, alone.reconstruction_loss, atol=1e-4, rtol=1e-5)
            steps = alone.latents.shape[1]
            torch.testing.assert_close(out.latents[row, :steps], alone.latents[0], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("family", FAMILIES)
def test_generated_texts_are_reproduced_by_their_latents(family):
    model = tiny_model(family)
    mode = {"num_beams": 2, "num_return_sequences": 2}
    out = run(model, **mode)
    uncached = run(model, use_cache=False, **mode)
    assert out.sequences.shape[1] > prompts("left_padded")["input_ids"].shape[1] + 5  # past the window
    assert torch.equal(out.sequences, uncached.sequences) and uncached.cache is None
    torch.testing.assert_close(out.latents, uncached.latents, atol=1e-5, rtol=0)
    assert rescoring_error(model, out, "left_padded", out.latents) < 1e-4
    assert rescoring_error(model, out, "left_padded", out.latents + 0.1) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load(tmp_path, family):
    settings = {"latent_size": 4, "segment_length": 3, "separator": "token"}
    model = TraceForConditionalGeneration.from_backbone(make_backbone(family), **settings)
    model.save_pretrained(tmp_path)
    loaded = TraceForConditionalGeneration.from_pretrained(tmp_path).eval()
    ids, mask, labels = make_batch(TEXTS)
    found, wanted = (m(ids, attention_mask=mask, labels=labels) for m in (loaded, model))
    assert torch.equal(found.loss, wanted.loss) and torch.equal(found.logits, wanted.logits)
    tied = loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert tied == loaded.config.tie_word_embeddings == (family in ("gpt2", *SCALED))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layer_reads_scaled_embeddings_plus_latents(family):
    """W_z z is added after an embedding's own scale, and every pass scales once."""
    model = tiny_model(family)
    ids = torch.tensor([TEXTS[0]])
    seen = []
    layers = model.backbone.h if family == "gpt2" else model.backbone.layers
    layers[0].register_forward_pre_hook(lambda module, args, kwargs: seen.append(args[0]), with_kwargs=True)
    out = model(ids)
    embeds = model.get_input_embeddings().weight[ids[0]]
    if family == "gpt2":
        embeds = embeds + model.backbone.wpe.weight[: len(TEXTS[0])]
    if family in SCALED:
        embeds = embeds * math.sqrt(32)
    context, segment, decoder = seen
    packed = make_layout(out.segment_ids, 32).packed[0]
    torch.testing.assert_close(context[0], embeds[: context.shape[1]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(segment[packed >= 0], embeds[packed[packed >= 0]], atol=1e-5, rtol=1e-5)
    closes = (ids[0] == SEP).long()
    own = closes.cumsum(0) - closes  # segments before the one of each token
    segments = torch.cat([own[1:], own[-1:]])  # of the next token
    latents = out.latents[0, segments] @ model.latent_injection.weight.T
    assert latents.abs().max() > 0.1
    torch.testing.assert_close(decoder[0], embeds + latents, atol=1e-5, rtol=1e-5)


def test_capped_logits_cost_what_the_language_model_says(monkeypatch):
    """Gemma 2's cap is in the logits, in the loss, and in the loss in pieces and its gradients."""
    lm = make_backbone("gemma2")
    ids, mask, labels = make_batch(TEXTS)
    model = TraceForConditionalGeneration.from_backbone(lm, latent_dynamics="none")
    wanted = lm(ids, attention_mask=mask, labels=labels)
    torch.testing.assert_close(model(ids, attention_mask=mask, labels=labels).loss, wanted.loss)
    assert wanted.logits.abs().max() < 3  # the cap
    gradients = []
    for limit in (2**24, 200):
        monkeypatch.setattr("modeling_trace.models.loss_trace._MAX_LOGITS", limit)
        model.train().zero_grad()
        loss = model(ids, attention_mask=mask, labels=labels).loss
        torch.testing.assert_close(loss, wanted.loss)
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for whole, pieces in zip(*gradients, strict=True):
        torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=1e-4)
