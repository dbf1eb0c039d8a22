"""Whether latents are used: nothing where W_z is 0, something where they say the text; donors; the shared offset."""

import math

import pytest
import torch
from helpers.latents import DYNAMICS, make, tiny_processor
from helpers.tiny import make_text, tiny_model

from modeling_trace.evaluation import encode_states, encode_texts, latent_use, shared_offset
from modeling_trace.evaluation.latent_use import choose_donors, lend


def make_rows(count=9):
    lengths = ([3, 2], [3], [3, 3, 1], [2], [3, 3, 3, 2])
    return [{"input_ids": make_text(lengths[n % len(lengths)], seed=n)} for n in range(count)]


def processor_for(name):
    return tiny_processor(None if name == "single" else 3)


# ---- Donors ----


@pytest.mark.parametrize("seed", range(5))
def test_no_text_is_its_own_donor_and_donors_are_as_long(seed):
    generator = torch.Generator().manual_seed(seed)
    for count in (2, 3, 17):
        for counts in (torch.full((count,), 3), torch.randint(1, 6, (count,), generator=generator)):
            for shuffle in (None, generator):
                donors = choose_donors(counts, shuffle)
                assert (donors != torch.arange(count)).all()
                shorter = counts[donors] < counts  # at most the longest text, whose donor is the next longest
                assert shorter.sum() <= 1 and (counts[donors[shorter]] == counts.sort().values[-2]).all()
                assert donors.unique().numel() >= count - 1  # nobody lends to many


def test_a_donor_with_fewer_segments_starts_again():
    latents = torch.tensor([[1.0, 2.0, 9.0], [1.0, 2.0, 3.0]]).unsqueeze(-1)
    found = lend(latents, torch.tensor([2, 3]), 5).squeeze(-1)
    assert found.tolist() == [[1, 2, 1, 2, 1], [1, 2, 3, 1, 2]]


# ---- Gain ----


@pytest.mark.parametrize("name", DYNAMICS)
def test_latents_that_are_not_read_gain_nothing(name):
    model = tiny_model(latent_dynamics=name)
    rows, processor = make_rows(), processor_for(name)
    used = latent_use(model, rows, processor)
    assert used.gains.abs().max() > 1e-3 and used.kl.min() > 0
    model.latent_injection.weight.data.zero_()
    found = latent_use(model, rows, processor)
    assert (found.gains == 0).all() and found.gain == 0 and found.gain_per_nat == 0
    assert torch.equal(found.posterior, found.prior)
    assert torch.equal(found.kl, used.kl)


def test_own_nats_and_kl_are_the_models():
    """At a posterior without width: the reconstruction and the KL of `forward`, also of padded batches."""
    model = tiny_model(posterior_sigma_init=1e-4)
    rows = make_rows(6)
    found = latent_use(model, rows, tiny_processor(), batch_size=4)
    for row, text in enumerate(rows):
        ids = torch.tensor([text["input_ids"]])
        with torch.no_grad():
            wanted = model(ids, labels=ids, sample_latents=False)
        assert found.posterior[row].item() == pytest.approx(wanted.reconstruction_loss.item(), abs=1e-2)
        assert found.kl[row].item() == pytest.approx(wanted.kl_loss.item(), rel=1e-3)
    again = latent_use(
        model, rows, tiny_processor(), batch_size=1, encoded=encode_texts(model, rows, tiny_processor())
    )
    for name in ("posterior", "other", "prior", "kl"):
        torch.testing.assert_close(getattr(again, name), getattr(found, name), atol=1e-4, rtol=0)


def test_latents_that_say_the_text_gain():
    """Two kinds of text, told apart by the first latent dimension, which the head reads."""
    model = tiny_model(posterior_norm="none", posterior_sigma_init=0.1, latent_dynamics="independent")
    first, second = 10, 11
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.zero_()
        block = model.backbone.h[0]  # adds the mean of what it attends to: the end of a segment knows its tokens
        block.ln_1.weight.fill_(1.0)
        block.attn.c_attn.weight[:, 64:] = torch.eye(32)
        block.attn.c_proj.weight.copy_(torch.eye(32))
        model.backbone.ln_f.weight.fill_(1.0)
        embeddings = model.get_input_embeddings().weight
        embeddings[first, 0], embeddings[second, 0] = 1.0, -1.0
        model.lm_head.weight.copy_(3 * embeddings)
        for parameter in model.dynamics.parameters():
            parameter.zero_()
        model.dynamics.logvar_norm.bias.fill_(2 * math.log(0.1))
        model.dynamics.posterior_network.weight[0, 0] = 1.0
        model.latent_injection.weight.zero_()
        model.latent_injection.weight[0, 0] = 10.0
    rows = [{"input_ids": [0, *[(first, second)[n % 2]] * 3, 1]} for n in range(10)]
    found = latent_use(model, rows, tiny_processor())
    different = (found.donors % 2) != (torch.arange(10) % 2)
    assert 0 < different.sum() < 10
    assert (found.gains[different] > 1.0).all() and found.gains[~different].abs().max() < 0.5
    assert found.gain > 0.5 and found.gain_per_nat == pytest.approx(found.gain / found.kl.mean().item())
    interval = found.gain_per_nat_interval()
    assert interval.value == pytest.approx(found.gain_per_nat) and interval.low < interval.value < interval.high
    assert found.gain_interval().value == pytest.approx(found.gain)
    assert found.summary()["gain"] == found.gain and found.summary()["texts"] == 10


def test_latents_that_overflow_are_no_numbers():
    model = tiny_model(prior_logvar_bound=None)
    model.dynamics.prior_network.bias.data[4:] = 200.0
    found = latent_use(model, make_rows(), tiny_processor())
    assert found.prior.isnan().any() and found.prior.isfinite().any()  # texts of one segment have N(0, I)


def test_errors():
    processor = tiny_processor()
    with pytest.raises(ValueError, match="a plain language model: it has no latents to use"):
        latent_use(tiny_model(latent_dynamics="none"), make_rows(), processor)
    model = tiny_model()
    with pytest.raises(ValueError, match="`data` must hold at least two texts, got 1"):
        latent_use(model, make_rows(1), processor)
    encoded = encode_texts(model, make_rows(3), processor)
    with pytest.raises(ValueError, match="`encoded` must be of the same texts as `data`, got 3 and 2"):
        latent_use(model, make_rows(2), processor, encoded=encoded)
    with pytest.raises(ValueError, match="`texts` must hold at least two texts to tell apart, got 1"):
        shared_offset(encode_texts(model, make_rows(1), processor))


# ---- The shared offset ----


def shifted(shifts, **settings):
    """[`EncodedTexts`] whose posterior means are off their priors' by `shifts` `(N, S, 4)`, in units of the prior."""
    texts = encode_states(*make("recurrent", count=len(shifts), steps=shifts.shape[1]))
    texts.mask = torch.ones(shifts.shape[:2], dtype=torch.bool)
    texts.delta_mean = shifts.double()
    return texts


def many(shifts):
    """As many texts as `make` has not: the same context for all."""
    texts = shifted(shifts[:7])
    texts.inputs = texts.inputs[:1, : shifts.shape[1]].expand(len(shifts), -1, -1)
    texts.delta_logvar = texts.delta_logvar[:1].expand(len(shifts), -1, -1)
    texts.delta_mean = shifts.double()
    texts.mask = torch.ones(shifts.shape[:2], dtype=torch.bool)
    return texts


def test_a_posterior_that_is_the_same_for_all_texts_is_all_offset():
    found = shared_offset(many(torch.randn(1, 3, 4).expand(50, -1, -1)))
    assert found.share == pytest.approx(1.0) and found.first_share == pytest.approx(1.0)
    torch.testing.assert_close(found.per_step, torch.ones(3).double())


def test_independent_posteriors_share_nothing():
    """Without bias: the plain figure would be 1 / N on average."""
    generator = torch.Generator().manual_seed(0)
    shares = [shared_offset(many(torch.randn(10, 3, 4, generator=generator))).share for _ in range(60)]
    assert abs(sum(shares) / 60) < 3 * torch.tensor(shares).std() / 60**0.5 < 0.05


def test_share_of_a_known_offset():
    """v = a + noise: |a|^2 / (|a|^2 + D) a step, and squared units of the prior."""
    generator = torch.Generator().manual_seed(0)
    offset = torch.tensor([2.0, 0.0, 0.0, 0.0])
    found = shared_offset(many(offset + torch.randn(4000, 2, 4, generator=generator)))
    assert found.share == pytest.approx(0.5, abs=0.02) and found.squared_mean == pytest.approx(8.0, abs=0.2)
    assert found.first_share == pytest.approx(0.5, abs=0.02)


def test_steps_that_few_texts_have_count_for_less():
    texts = many(torch.ones(20, 2, 4))
    texts.delta_mean[::2, 1] *= -1  # in the second step two halves, opposed
    texts.mask[4:, 1] = False
    found = shared_offset(texts)
    assert found.per_step[0] == pytest.approx(1.0) and found.per_step[1] == pytest.approx(-1 / 3)
    assert found.share == pytest.approx((20 * 4.0 - 4 * 4.0 / 3) / (24 * 4.0))
    texts.mask[1:, 1] = False  # one text has it: nothing can be said
    found = shared_offset(texts)
    assert found.share == pytest.approx(1.0) and found.per_step[1].isnan()
    texts.delta_mean[:] = 0.0
    assert math.isnan(shared_offset(texts).share)
