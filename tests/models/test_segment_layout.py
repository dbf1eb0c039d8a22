"""The layout of a batch's segments is only a layout: the same numbers, less work, nothing asked of the device."""

import copy
import functools

import pytest
import torch
from helpers.latents import Questions
from helpers.tiny import BOS, SEP, make_batch, make_text, tiny_model
from helpers.training import make_model, make_texts, make_trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from modeling_trace.models.dynamics_registry_trace import LATENT_DYNAMICS
from modeling_trace.models.segments_trace import (
    ENCODER_MASKS,
    SegmentRule,
    gather_positions,
    last_token_index,
    make_layout,
    token_positions,
)

LENGTHS = [[1] * 12, [3, 1, 4, 2], [5]]  # tokens in the segments of each text


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1, max_size=4),
    st.sampled_from([1, 8, 200]),
    st.sampled_from(["left", "right"]),
)
def test_every_segment_is_in_one_row(lengths, hidden_size, side):
    ids, mask, _ = make_batch([make_text(row, seed) for seed, row in enumerate(lengths)], side)
    segments = SegmentRule(SEP, BOS).segment_ids(ids, mask)
    layout = make_layout(segments, hidden_size)
    count = layout.num_segments
    assert count == max(map(len, lengths))
    assert torch.equal(layout.ends, last_token_index(segments, count))
    last_tokens = [layout.ends[row, len(own) - 1] for row, own in enumerate(lengths)]
    assert layout.context_length == 1 + max(last_tokens)
    if layout.packed is None:
        return
    whole = ids.shape[1] * (3 * hidden_size + ids.shape[1])
    assert layout.packed[0].numel() * (3 * hidden_size + layout.packed.shape[2]) < whole
    for row, own in enumerate(lengths):
        packed = layout.packed[row]
        found = {}
        for place in packed:
            for segment in set(segments[row, place[place >= 0]].tolist()):
                assert segment not in found  # in one row only
                found[segment] = place[(place >= 0) & (segments[row, place] == segment)].tolist()
        wanted = {t: (segments[row] == t).nonzero().flatten().tolist() for t in range(1, len(own) + 1)}
        assert found == wanted
        ends = packed.flatten()[layout.packed_ends[row, : len(own)]]
        assert torch.equal(ends, layout.ends[row, 1 : len(own) + 1])


def test_packed_where_it_is_less_work():
    def layout(lengths, hidden_size=256):
        ids, mask, _ = make_batch([make_text(lengths)])
        return make_layout(SegmentRule(SEP, BOS).segment_ids(ids, mask), hidden_size).packed

    assert layout([10] * 10).shape == (1, 10, 11)
    assert layout([1] * 50).shape == (1, 50, 2)
    rows = layout([10, 30, 12, 9, 40, 11, 3, 25, 18] * 6)
    assert rows.shape[2] >= 41 and rows.numel() < 1.2 * (9 * 6 + 158 * 6)  # little of it is padding
    assert layout([10, 90, 10]) is None
    assert layout([10, 7] * 9) is not None
    assert layout([10, 7] * 9, hidden_size=16384) is None  # attention is next to nothing there


def whole_passes(model, input_ids, attention_mask, segment_ids, layout=None, hidden=None):
    """`_encoder_states` as the paper draws it: every pass over the whole batch under its mask."""
    num_segments = int(segment_ids.max())
    states = {}
    for name in {model.dynamics.posterior_pass, "context"}:
        embeds = model.get_input_embeddings()(input_ids)
        found = model._encoder()(
            inputs_embeds=embeds,
            attention_mask=ENCODER_MASKS[name](model.config.backbone_config, embeds, attention_mask, segment_ids),
            position_ids=token_positions(attention_mask),
            use_cache=False,
        ).last_hidden_state
        states[name] = gather_positions(found, last_token_index(segment_ids, num_segments))
    mask = torch.arange(1, num_segments + 1) <= segment_ids.amax(dim=1, keepdim=True)
    context = states["context"][:, :-1] if model.dynamics.reads_context else None
    return context, states[model.dynamics.posterior_pass][:, 1:], mask


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {}),
        ("llama", {}),
        ("qwen3", {"latent_dynamics": "parallel"}),
        ("gpt2", {"encoder_layers": 1}),
        ("gpt2", {"conditional": True}),
        ("gpt2", {"latent_dynamics": "independent"}),
        ("gpt2", {"latent_dynamics": "context"}),
    ],
)
@pytest.mark.parametrize("lengths", [LENGTHS, [[1] * 9, [1] * 20]], ids=["uneven", "ones"])
def test_loss_and_gradients_are_those_of_whole_passes(family, options, lengths, side, monkeypatch):
    model = tiny_model(family, **options).double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ids, mask, labels = make_batch([make_text([2] + row, seed) for seed, row in enumerate(lengths)], side)
    assert make_layout(model._segment_ids(ids, mask, None), 1).packed is not None
    # as little in the products as can be, so that rows are packed
    original = make_layout
    monkeypatch.setattr("modeling_trace.models.encoding_trace.make_layout", lambda ids, _: original(ids, 1))

    state = copy.deepcopy(model.state_dict())

    def run():
        model.load_state_dict(state)  # spectral norm keeps count of its iterations
        model.zero_grad()
        torch.manual_seed(0)
        out = model(ids, mask, labels)
        out.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return {"loss": out.loss.detach(), "kl": out.kl_loss.detach(), **gradients}

    found = run()
    model._encoder_states = functools.partial(whole_passes, model)
    wanted = run()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"latent_dynamics": "parallel"},
        {"conditional": True},
        {"latent_layer": 1},
        {"latent_layer": 1, "separator": "none", "posterior_norm": "none", "free_nats": 3.0},
    ],
    ids=str,
)
def test_a_training_step_asks_the_device_no_more_than_the_backbone(options):
    model = tiny_model(**options).train()
    ids, mask, labels = make_batch([make_text(row, seed) for seed, row in enumerate(LENGTHS[:2])])
    plain = GPT2LMHeadModel(model.config.backbone_config).train()
    layout = make_layout(model._segment_ids(ids, mask, None), 1)
    with Questions() as own:
        model(ids, mask, labels, segment_layout=layout).loss.backward()
    with Questions() as without:
        model(ids, mask, labels).loss.backward()
    with Questions() as base:
        plain(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    assert len(own.found) <= len(base.found), own.found
    assert len(without.found) > len(own.found)


def test_trainer_works_the_layout_out(tmp_path):
    trainer = make_trainer(tmp_path)
    given, forward = [], trainer.model.forward
    trainer.model.forward = lambda *args, **kwargs: given.append(kwargs["segment_layout"]) or forward(*args, **kwargs)
    batch = trainer.data_collator(list(make_texts(4)))
    trainer.compute_loss(trainer.model, batch)
    segments = trainer.model._segment_ids(batch["input_ids"], batch["attention_mask"], None)
    assert torch.equal(given[0].ends, make_layout(segments, 1).ends)


@pytest.mark.parametrize("dynamics", ["independent", "context"])
def test_nothing_is_packed_where_no_pass_reads_segments_alone(dynamics):
    model = tiny_model(latent_dynamics=dynamics)
    ids, mask, _ = make_batch([make_text([2] * 20)])
    segments = model._segment_ids(ids, mask, None)
    assert make_layout(segments, 1).packed is not None
    assert make_layout(segments, model.packed_hidden_size).packed is None


def test_trainer_numbers_segments_as_the_model_does(tmp_path, monkeypatch):
    """Also by dynamics that this package's registry does not know, as those of remote code."""
    model = make_model(latent_dynamics="single")
    trainer = make_trainer(tmp_path / "known", model)
    monkeypatch.delitem(LATENT_DYNAMICS, "single")
    for made in (trainer, make_trainer(tmp_path / "unknown", model)):
        assert next(iter(made.get_train_dataloader()))["segment_layout"].num_segments == 1
