"""Reconstruct, interpolate, edit, average: which latents are held, which text is kept, where a text ends."""

import pytest
import torch
from helpers.tiny import BOS, EOS, PAD, SEP, make_batch, make_text, tiny_model, under_both
from transformers import GenerationConfig

TEXTS = [make_text([3, 3, 3], seed=1), make_text([3, 2], seed=2)]
DYNAMICS = ["recurrent", "parallel", "independent", "context", "single"]
DECODING = [{}, {"num_beams": 3}, {"do_sample": True}]


def texts(model, side="right"):
    if model.one_latent_per_text:
        return make_batch([[token for token in text if token != SEP] for text in TEXTS], side)[:2]
    return make_batch(TEXTS, side)[:2]


def strip(row):
    return [token for token in row.tolist() if token != PAD]


def segments_written(row):
    """Segments of a generated row after BOS."""
    body = [token for token in strip(row)[1:] if token != EOS]
    return body.count(SEP) + (body[-1] != SEP)


@pytest.mark.parametrize("decoding", DECODING)
@pytest.mark.parametrize("architecture,name", under_both(DYNAMICS), indirect=["architecture"])
def test_reconstruction_is_generation_under_the_posterior_means(name, decoding, architecture):
    model = tiny_model(latent_dynamics=name)
    for side in ("right", "left"):
        ids, mask = texts(model, side)
        torch.manual_seed(0)
        out = model.reconstruct(ids, mask, max_new_tokens=20, **decoding)
        means = model.encode(ids, mask)
        assert len(out.sequences) == 2 and (out.sequences[:, 0] == BOS).all()
        for row in range(2):
            count = int(means.segment_ids[row].max())
            written = 1 if name == "single" else segments_written(out.sequences[row])
            assert 1 <= written <= count
            kept = min(written, out.latents.shape[1])
            torch.testing.assert_close(out.latents[row, :kept], means.posterior_mean[row, :kept], atol=1e-5, rtol=0)
            assert not out.latents[row, count:].any()
    # each text alone gives the same text: rows do not look at each other
    if not decoding:
        for row in range(2):
            alone = model.reconstruct(ids[row : row + 1], mask[row : row + 1], max_new_tokens=20)
            assert strip(alone.sequences[0]) == strip(out.sequences[row])


def test_reconstruction_can_draw_from_the_posterior():
    model = tiny_model()
    ids, mask = texts(model)
    torch.manual_seed(0)
    first = model.reconstruct(ids, mask, sample_latents=True, max_new_tokens=20).latents
    torch.manual_seed(1)
    second = model.reconstruct(ids, mask, sample_latents=True, max_new_tokens=20).latents
    assert (first[:, 0] - second[:, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("architecture,name", under_both(DYNAMICS), indirect=["architecture"])
def test_interpolation_is_a_straight_line_between_the_latents(name, architecture):
    model = tiny_model(latent_dynamics=name)
    ids, mask = texts(model)
    out = model.interpolate(ids[:1], ids[1:], mask[:1], mask[1:], num_steps=5, max_new_tokens=20, min_new_tokens=20)
    start, end = (model.encode(ids[row : row + 1], mask[row : row + 1]).latents[0] for row in (0, 1))
    assert len(out.sequences) == 5
    shared = min(len(start), len(end))
    for step in range(5):
        a = step / 4
        wanted = (1 - a) * start[:shared] + a * end[:shared]
        torch.testing.assert_close(out.latents[step, :shared], wanted, atol=1e-5, rtol=0)
    if name != "single":  # 3 segments at the start, 2 at the end; the third is the start's own
        counts = [segments_written(row) for row in out.sequences]
        assert counts == [3, 3, 2, 2, 2]
        torch.testing.assert_close(out.latents[1, 2], start[2], atol=1e-5, rtol=0)
    ends = [model.reconstruct(ids[r : r + 1], mask[r : r + 1], max_new_tokens=20, min_new_tokens=20) for r in (0, 1)]
    assert strip(out.sequences[0]) == strip(ends[0].sequences[0])
    assert strip(out.sequences[4]) == strip(ends[1].sequences[0])


@pytest.mark.parametrize("chosen", [[1], [2], [2, 3], [1, 3]])
@pytest.mark.parametrize("architecture,name", under_both(DYNAMICS[:-1]), indirect=["architecture"])
def test_editing_holds_all_but_the_chosen(name, chosen, architecture):
    model = tiny_model(latent_dynamics=name)
    text = make_text([3, 3, 3], seed=1)
    ids = torch.tensor([text])
    means = model.encode(ids).posterior_mean
    torch.manual_seed(0)
    out = model.edit(
        ids, segments=chosen, num_return_sequences=6, max_new_tokens=20, min_new_tokens=15, latent_temperature=3.0
    )
    assert len(out.sequences) == 6 and out.latents.shape == (6, 3, 4)
    kept = 1 + 4 * (chosen[0] - 1)
    assert all(row[:kept].tolist() == text[:kept] for row in out.sequences)
    for t in range(1, 4):
        drawn = out.latents[:, t - 1]
        if t in chosen:
            assert len({tuple(z.tolist()) for z in drawn}) == 6
            assert (drawn - means[0, t - 1]).abs().max() > 0.1
        else:
            torch.testing.assert_close(drawn, means[:, t - 1].expand(6, -1), atol=1e-5, rtol=0)
    assert len({tuple(row.tolist()) for row in out.sequences}) > 1


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("decoding", DECODING)
def test_every_draw_has_latents_of_its_own(decoding):
    """Also under beam search, whose beams share theirs; rows stand by text, then by draw."""
    model = tiny_model()
    ids, mask = texts(model)
    torch.manual_seed(0)
    out = model.edit(ids, mask, segments=2, num_return_sequences=3, max_new_tokens=12, **decoding)
    means = model.encode(ids, mask).posterior_mean
    assert len(out.sequences) == 6 and len({tuple(z.tolist()) for z in out.latents[:, 1]}) == 6
    for row in range(6):
        torch.testing.assert_close(out.latents[row, 0], means[row // 3, 0], atol=1e-5, rtol=0)
        assert strip(out.sequences[row])[:5] == TEXTS[row // 3][:5]


@pytest.mark.usefixtures("architecture")
def test_conditional_editing_of_unequal_prompts():
    model = tiny_model(conditional=True)
    rows = [[BOS, 9, 8, SEP, 4, 5, 6, SEP, 7, EOS], [BOS, 9, SEP, 7, 8, 9, SEP, 5, 5, EOS]]
    ids, mask, _ = make_batch(rows)
    cold = {"segments": [2], "latent_temperature": 0, "max_new_tokens": 6}
    both = model.edit(ids, mask, num_return_sequences=2, **cold)
    for row in range(2):
        alone = model.edit(torch.tensor([rows[row]]), **cold)
        assert strip(both.sequences[2 * row]) == strip(both.sequences[2 * row + 1]) == strip(alone.sequences[0])


def test_a_generation_config_is_kept_and_a_full_context_is_no_error(caplog):
    model = tiny_model(seed=1)
    ids, mask = texts(model)
    config = GenerationConfig(max_new_tokens=3, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    assert model.reconstruct(ids, mask, generation_config=config).sequences.shape[1] == 4
    long = torch.tensor([make_text([3] * 15 + [2], seed=4)])
    assert long.shape[1] == 64
    assert model.reconstruct(long).sequences.shape[1] <= 64
    wide = tiny_model(conditional=True)
    rows = [[BOS, *[9] * 40, SEP, 4, 5, 6, EOS], [BOS, 9, SEP, *make_text([3] * 7, seed=4)[1:]]]
    ids, mask, _ = make_batch(rows)
    wide.reconstruct(ids, mask)
    assert "leaves 22 tokens to each of its texts" in caplog.text


@pytest.mark.usefixtures("architecture")
def test_editing_a_batch_equals_editing_each():
    model = tiny_model()
    ids, mask = texts(model)
    cold = {"segments": [2], "latent_temperature": 0, "max_new_tokens": 12}
    both = model.edit(ids, mask, **cold)
    for row in range(2):
        alone = model.edit(torch.tensor([TEXTS[row]]), **cold)
        assert strip(alone.sequences[0]) == strip(both.sequences[row])


@pytest.mark.usefixtures("architecture")
def test_average_is_the_mean_of_what_each_text_has():
    model = tiny_model()
    ids, mask = texts(model)
    found = model.encode(ids, mask).latents
    out = model.average(ids, mask, max_new_tokens=20, min_new_tokens=20, num_return_sequences=2)
    assert torch.equal(out.sequences[0], out.sequences[1])
    assert segments_written(out.sequences[0]) == 2  # of 3 and 2: 2.5, to even
    torch.testing.assert_close(out.latents[0, :2], found[:, :2].mean(0), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("architecture")
def test_conditional_models_keep_the_prompt():
    model = tiny_model(conditional=True)
    rows = [[BOS, 9, 8, SEP, 4, 5, 6, SEP, 7, EOS], [BOS, 9, SEP, 7, 8, 9, EOS]]
    ids, mask, _ = make_batch(rows)
    out = model.reconstruct(ids, mask, max_new_tokens=12)
    assert strip(out.sequences[0])[:4] == rows[0][:4] and strip(out.sequences[1])[:3] == rows[1][:3]
    out = model.edit(ids[:1], mask[:1], segments=[2], max_new_tokens=6)
    assert out.sequences[0, :8].tolist() == rows[0][:8]


@pytest.mark.parametrize(
    "dynamics,call,message",
    [
        ("single", lambda m, i, k: m.edit(i, k, segments=[1]), "`segments` cannot be resampled with `latent_dyn"),
        ("recurrent", lambda m, i, k: m.edit(i, k, segments=[3]), "got 3, but text 1 has only 2"),
        ("recurrent", lambda m, i, k: m.edit(i, k, segments=[0]), "must be numbers of segments, counted from 1"),
        ("recurrent", lambda m, i, k: m.edit(i, k, segments=[]), "must be numbers of segments, counted from 1"),
        ("recurrent", lambda m, i, k: m.edit(i, k, segments=["1"]), "must be numbers of segments, counted from 1"),
        ("recurrent", lambda m, i, k: m.edit(i, k, segments=[1.5]), "must be numbers of segments, counted from 1"),
        ("recurrent", lambda m, i, k: m.reconstruct(i[:, :1]), "has no text in row 0"),
        ("recurrent", lambda m, i, k: m.interpolate(i, i[:1]), "must be pairs, got 2 and 1 texts"),
        ("recurrent", lambda m, i, k: m.interpolate(i, i, num_steps=1), "`num_steps` must be >= 2"),
        ("recurrent", lambda m, i, k: m.reconstruct(i, k, latents=i), "`latents` cannot be given"),
        ("none", lambda m, i, k: m.reconstruct(i, k), "is a plain language model"),
        ("none", lambda m, i, k: m.edit(i, k, segments=[1]), "is a plain language model"),
    ],
)
def test_bad_input_is_one_line(dynamics, call, message):
    model = tiny_model(latent_dynamics=dynamics)
    ids, mask = texts(model)
    with pytest.raises(ValueError, match=message) as error:
        call(model, ids, mask)
    assert "\n" not in str(error.value)
