"""Texts as the latent networks read them: what `encode` finds, whatever the batches and the padding."""

from types import SimpleNamespace

import pytest
import torch
from helpers.latents import DYNAMICS, make, tiny_processor
from helpers.tiny import make_batch, make_text, tiny_model

from modeling_trace.evaluation import active_units, encode_states, encode_texts, mutual_information

GAUSSIANS = ("latents", "prior_mean", "prior_logvar", "posterior_mean", "posterior_logvar")


@pytest.mark.parametrize("name", DYNAMICS)
def test_texts_are_encoded_as_the_model_does(name):
    """Batches, padding and unequal numbers of segments; the posterior means at zero noise are `encode`'s."""
    model = tiny_model(latent_dynamics=name).train()
    processor = tiny_processor(None if name == "single" else 3)
    rows = [{"input_ids": make_text(lengths, seed=n)} for n, lengths in enumerate([[3, 2], [3], [3, 3, 1], [2]])]
    texts = encode_texts(model, rows, processor, batch_size=3)
    assert model.training and model.backbone.training and texts.mask.dtype == torch.bool
    model.eval()
    ids, mask, _ = make_batch([row["input_ids"] for row in rows])
    wanted = model.encode(ids, mask)
    steps = list(texts.paths(torch.zeros(texts.mask.shape[1], 1, 4, dtype=torch.float64)))
    for t, (_, z, p_mean, p_logvar, q_mean, q_logvar) in enumerate(steps):
        there = texts.mask[:, t]
        pairs = zip((z, p_mean, p_logvar, q_mean, q_logvar), GAUSSIANS, strict=True)
        for value, field in pairs:
            torch.testing.assert_close(value[there].float(), wanted[field][there, t], atol=1e-5, rtol=0)
    assert texts.mask.sum(1).tolist() == wanted.segment_ids.amax(1).tolist()
    assert mutual_information(texts).total > 0 and active_units(texts).num_texts[0] == 4
    left, left_mask, _ = make_batch([row["input_ids"] for row in rows], "left")
    batch = {"input_ids": left, "attention_mask": left_mask}
    again = encode_texts(model, [batch], processor)
    torch.testing.assert_close(again.delta_mean, texts.delta_mean, atol=1e-5, rtol=0)


def test_errors():
    processor = tiny_processor()
    model = tiny_model()
    with pytest.raises(ValueError, match="a plain language model: it has no latents to measure"):
        encode_texts(tiny_model(latent_dynamics="none"), [], processor)
    with pytest.raises(ValueError, match="`data` holds no text"):
        encode_texts(model, [], processor)
    with pytest.raises(ValueError, match="`data` has no text in row 1"):
        encode_texts(model, [{"input_ids": make_text([3])}, {"input_ids": [0]}], processor)
    one = encode_texts(model, [{"input_ids": make_text([3])}], processor)
    for measure in (mutual_information, active_units):
        with pytest.raises(ValueError, match="`texts` must hold at least two texts to tell apart, got 1"):
            measure(one)
        with pytest.raises(ValueError, match="`texts` must be what encode_texts returns"):
            measure(SimpleNamespace())
    with pytest.raises(ValueError, match="`num_paths` must be an even number >= 4, got 5"):
        active_units(encode_states(*make("recurrent")), num_paths=5)
