"""Latents between two layers: one pass reads the text and writes it, and a model without latents is the backbone."""

import copy
import pickle

import pytest
import torch
from helpers.generation import MODES, _rescoring_error, prompts, rescoring_error, run
from helpers.latents import Questions
from helpers.tiny import BOS, EOS, PAD, SEP, VOCAB, backbone_config, make_batch, make_text, tiny_model
from transformers import AutoModelForCausalLM

from modeling_trace import TraceForConditionalGeneration
from modeling_trace.models.backbones_trace import layer_stack
from modeling_trace.models.segments_trace import last_token_index

DEEP = {"gpt2": {"n_layer": 4}, "llama": {"num_hidden_layers": 4}}
SEPARATORS = {
    "token": {"separator": "token"},
    "none": {"separator": "none", "sep_token_id": None},
    "closing": {
        **{"separator": "none", "sep_token_id": None, "segment_length": None},
        "closing_token_ids": [*range(4, 16)],  # a third of the vocabulary: tiny models write them
    },
}
TEXTS = [make_text([3, 3, 3, 2], seed=1), make_text([3, 1], seed=2)]


def deep_model(family="gpt2", latent_layer=2, **settings):
    """Four layers, so that there are several on both sides."""
    return tiny_model(
        family, backbone_config=backbone_config(family, **DEEP[family]), latent_layer=latent_layer, **settings
    )


def layers_of(model):
    return layer_stack(model.backbone)[1]


def count_tokens(model):
    """Tokens that went through each layer, as a list that grows."""
    layers = layers_of(model)
    counts = [0] * len(layers)
    for index, layer in enumerate(layers):

        def count(module, args, kwargs, index=index):
            hidden = args[0] if args else kwargs["hidden_states"]
            counts[index] += hidden.shape[0] * hidden.shape[1]

        layer.register_forward_pre_hook(count, with_kwargs=True)
    return counts


# ---- One pass ----


@pytest.mark.parametrize("dynamics", ["recurrent", "parallel", "independent", "single"])
@pytest.mark.parametrize("family", DEEP)
def test_a_training_step_reads_every_token_once(family, dynamics):
    model = deep_model(family, latent_dynamics=dynamics).train()
    ids, mask, labels = make_batch(TEXTS)
    counts = count_tokens(model)
    model(ids, attention_mask=mask, labels=labels).loss.backward()
    assert counts == [ids.numel()] * 4


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("mode", ["greedy", "sample_3_returned", "beam_4_of_2"])
def test_generation_reads_every_token_once(mode, separator):
    model = deep_model(**SEPARATORS[separator])
    counts = count_tokens(model)
    out = run(model, **MODES[mode])
    rows = out.logits[0].shape[0]
    length = prompts("left_padded")["input_ids"].shape[1]
    assert len(out.logits) > 5
    assert counts == [rows * (length + len(out.logits) - 1)] * 4


def test_encoding_alone_stays_below_the_latents():
    model = deep_model(latent_layer=3)
    counts = count_tokens(model)
    ids, mask, _ = make_batch(TEXTS)
    model.encode(ids, mask)
    assert counts == [ids.numel()] * 3 + [0]


# ---- What is read, and what is changed ----


@pytest.mark.parametrize("family", DEEP)
@pytest.mark.parametrize("latent_layer", [1, 2, 3])
def test_layers_below_know_nothing_of_the_latents(family, latent_layer):
    model = deep_model(family, latent_layer)
    ids, mask, _ = make_batch(TEXTS, "left")
    seen = []
    for layer in layers_of(model):
        layer.register_forward_hook(lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    own = model.encode(ids, mask).latents
    found = []
    for latents in (own, own.roll(1, dims=0), torch.zeros_like(own)):
        seen.clear()
        logits = model(ids, attention_mask=mask, latents=latents).logits
        found.append([*seen, logits])
    real = mask.bool()
    for other in found[1:]:
        for index, (states, same) in enumerate(zip(found[0], other, strict=True)):
            if index < latent_layer:
                assert torch.equal(states, same)
            else:
                assert (states - same)[real].abs().max() > 1e-2


@pytest.mark.parametrize("family", DEEP)
def test_states_are_the_residual_stream_after_the_layer(family):
    """
    c_t: the normalised stream at the last token of segment t, in a plain pass of the backbone. s_t: c_t and the values
    of the segment's own tokens under a softmax of their scores, head by head, normalised.
    """
    model = deep_model(family).double()
    reader = model.state_reader
    for parameter in reader.parameters():
        torch.nn.init.normal_(parameter)
    ids, mask, _ = make_batch(TEXTS)
    segments = model._segment_ids(ids, mask, None)
    context, states, there = model._encoder_states(ids, mask, segments)
    seen = []
    layers_of(model)[1].register_forward_hook(
        lambda m, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    model.backbone(input_ids=ids, attention_mask=mask)
    ends = last_token_index(segments, 4)
    for row in range(2):
        for t in range(int(there[row].sum()) + 1):
            wanted = reader.norm(seen[0][row, ends[row, t]])
            if t < 4:
                torch.testing.assert_close(context[row, t], wanted, atol=1e-10, rtol=0)
            if t > 0:
                own = reader.norm(seen[0][row, segments[row] == t])
                weights = reader.score(own).softmax(dim=0)  # (tokens, heads)
                values = reader.value.weight.unflatten(0, (reader.heads, -1))  # (heads, H / heads, H)
                parts = [value @ (weight @ own) for value, weight in zip(values, weights.t(), strict=True)]
                pooled = torch.cat(parts) + reader.value.bias
                torch.testing.assert_close(states[row, t - 1], reader.state_norm(wanted + pooled), atol=1e-10, rtol=0)


@pytest.mark.parametrize("family", DEEP)
@pytest.mark.parametrize("latent_layer", [None, "middle", 3])
def test_without_a_voice_the_model_is_the_backbone(family, latent_layer):
    """W_z = 0 and no [SEP]: the logits are the language model's to the bit, and so is what it writes."""
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(backbone_config(family, **DEEP[family])).eval()
    ids, mask, _ = make_batch(TEXTS)
    wanted = lm(input_ids=ids, attention_mask=mask).logits
    left, left_mask, _ = make_batch([text[:-1] for text in TEXTS], "left")
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": PAD}
    texts = [lm.generate(left, attention_mask=left_mask, num_beams=beams, **settings) for beams in (1, 3)]
    model = TraceForConditionalGeneration.from_backbone(lm, latent_size=4, latent_layer=latent_layer, segment_length=3)
    assert model.config.sep_token_id is None and model.config.backbone_config.vocab_size == VOCAB
    loud = model(ids, attention_mask=mask).logits
    torch.nn.init.zeros_(model.latent_injection.weight)
    found = model(ids, attention_mask=mask)
    assert found.latents.shape[1] == 5 and found.latents.any()
    assert torch.equal(found.logits[mask == 1], wanted[mask == 1])
    assert not torch.equal(loud[mask == 1], wanted[mask == 1])
    for beams, text in zip((1, 3), texts, strict=True):
        assert torch.equal(model.generate(left, attention_mask=left_mask, num_beams=beams, **settings), text)


def test_copies_have_latents_of_their_own():
    """Deep copies, pickles and whole models saved by torch: none of them changes the hidden states of another."""
    model = deep_model()
    ids, mask, _ = make_batch(TEXTS)
    wanted = model(ids, attention_mask=mask).logits
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(ids, attention_mask=mask).logits, wanted)
        with torch.no_grad():
            other.latent_injection.weight.zero_()
        assert not torch.equal(other(ids, attention_mask=mask).logits, wanted)
        assert torch.equal(model(ids, attention_mask=mask).logits, wanted)
        assert torch.equal(other.generate(max_new_tokens=5), other.generate(max_new_tokens=5))
        assert layers_of(other)[2].latent_entry is other.latent_entry is not model.latent_entry


def test_layers_keep_their_names():
    """What knows layers by the name of their class, such as the wrapping of FSDP, goes on to."""
    model = deep_model("llama")
    assert {type(layer).__name__ for layer in layers_of(model)} == {"LlamaDecoderLayer"}
    plain = tiny_model("llama", backbone_config=backbone_config("llama", **DEEP["llama"]), latent_layer=None)
    own = {name for name, _ in model.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert own == {f"state_reader.{name}" for name, _ in model.state_reader.named_parameters()}


def test_an_error_inside_leaves_no_latents_behind():
    model = deep_model()
    ids, mask, _ = make_batch(TEXTS)
    plain = model.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    handle = layers_of(model)[3].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(ids, attention_mask=mask)
    handle.remove()
    assert torch.equal(model.backbone(input_ids=ids, attention_mask=mask).last_hidden_state, plain)


@pytest.mark.parametrize("family", DEEP)
def test_freeze_trunk_trains_what_is_above(family):
    model = deep_model(family)
    model.freeze_trunk()
    ids, mask, labels = make_batch(TEXTS)
    model.train()(ids, mask, labels).loss.backward()
    below = {id(p) for layer in layers_of(model)[:2] for p in layer.parameters()}
    below |= {id(p) for m in model.backbone.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (id(parameter) in below), name
    with pytest.raises(ValueError, match="`freeze_trunk` needs a `latent_layer`, got None"):
        deep_model(family, latent_layer=None).freeze_trunk()


def test_wide_backbones_start_with_priors_and_posteriors_as_near_as_narrow_ones():
    """The KL at the start does not grow with the width: the states that the latent networks read are of one length."""
    found = []
    for width in (160, 640):
        backbone = backbone_config(n_embd=width)
        settings = {"posterior_norm": "none", "residual_posterior": False, "initializer_range": 0.02}
        model = tiny_model(backbone_config=backbone, latent_layer=1, latent_size=32, free_nats=1.0, **settings)
        ids, mask, labels = make_batch(TEXTS)
        found.append(model(ids, mask, labels).kl_loss.item())
    assert found[1] < 1.3 * found[0]


def test_a_frozen_trunk_keeps_nothing_for_the_backward():
    model = deep_model("llama").train()
    layers = layers_of(model)
    for module in (model.get_input_embeddings(), *layers[:2]):
        module.requires_grad_(False)
    saved, below = [], [True]
    layers[1].register_forward_hook(lambda *_: below.__setitem__(0, False))
    ids, mask, labels = make_batch(TEXTS)

    def pack(tensor):
        saved.append(below[0])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(ids, attention_mask=mask, labels=labels).loss
    assert saved and not any(saved)
    loss.backward()
    assert all(p.grad is None for p in layers[1].parameters())
    assert all(p.grad is not None for p in [*layers[2].parameters(), *model.dynamics.parameters()])


@pytest.mark.parametrize("place", [None, 1, 2])
@pytest.mark.parametrize("family", DEEP)
def test_latents_start_as_loud_as_is_set(family, place):
    """The root mean square of W_z z, z ~ N(0, I), in units of what it is added to."""
    model = deep_model(family, place, latent_size=64, latent_init_scale=0.5)
    rms = model.residual_rms()
    ids = torch.arange(4, VOCAB).view(2, -1)
    embeds = model.get_input_embeddings()(ids)
    stream = embeds if place is None else model._trunk_states(ids, None)
    measured = model.residual_rms(ids)
    assert measured == pytest.approx(stream.square().mean(-1).sqrt().median().item(), rel=1e-5)
    assert rms == pytest.approx(measured, rel=0.2)
    z = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    added = model.latent_injection(z)
    assert added.square().mean().sqrt().item() / rms == pytest.approx(0.5, rel=0.05)


def test_what_latents_are_added_to_is_measured_where_the_backbone_is(monkeypatch):
    """`from_backbone` of a model on a GPU: the new parts are made on the CPU, and are the first parameters."""
    model = deep_model()
    wanted = model.residual_rms()
    monkeypatch.setattr(type(model), "device", torch.device("meta"))
    assert model.residual_rms() == wanted
    short = tiny_model(backbone_config=backbone_config(n_positions=12), latent_layer=1)
    assert 0.5 < short.residual_rms() / tiny_model(latent_layer=1).residual_rms() < 2


# ---- The host waits for the device no more than the backbone's own generation does ----


class Waits(Questions):
    """Also what dispatch does not see."""

    def __enter__(self):
        self.originals = {name: getattr(torch.Tensor, name) for name in ("tolist", "cpu", "numpy")}
        for name, original in self.originals.items():

            def asked(tensor, *args, name=name, original=original, **kwargs):
                self.found.append(name)
                return original(tensor, *args, **kwargs)

            setattr(torch.Tensor, name, asked)
        return super().__enter__()

    def __exit__(self, *exception):
        for name in self.originals:
            delattr(torch.Tensor, name)
        return super().__exit__(*exception)


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("mode", [{}, {"do_sample": True}, {"num_beams": 2}], ids=str)
def test_a_generated_token_asks_the_device_no_more_than_the_backbone(separator, mode):
    ids, mask, _ = make_batch([[BOS, 5, 9], [BOS, 8]], "left")

    def per_token(model):
        asked = []
        for count in (12, 24):
            settings = {"max_new_tokens": count, "min_new_tokens": count, "return_dict_in_generate": False, **mode}
            torch.manual_seed(0)
            with Waits() as waits:
                out = model.generate(ids, attention_mask=mask, **settings)
            assert out.shape[1] == ids.shape[1] + count
            asked.append(len(waits.found))
        return asked[1] - asked[0]

    model = tiny_model(latent_layer=1, **SEPARATORS[separator])
    assert per_token(model) == per_token(tiny_model(latent_dynamics="none"))


# ---- Texts without separators ----


def own_mask(out, length):
    """1 for the prompt's own tokens and up to the first EOS."""
    mask = torch.ones_like(out.sequences)
    given = prompts("left_padded")["attention_mask"]
    mask[:, :length] = given.repeat_interleave(len(mask) // len(given), dim=0)
    ended = (out.sequences[:, length:] == EOS).long()
    mask[:, length:] = (ended.cumsum(-1) - ended == 0).long()
    return mask


@pytest.mark.parametrize("dynamics", ["recurrent", "single"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("separator", ["none", "closing"])
def test_a_text_has_latents_for_its_own_segments_only(separator, mode, dynamics):
    model = tiny_model("llama", latent_layer=1, latent_dynamics=dynamics, seed=2, **SEPARATORS[separator])
    seen = {}

    def look(latents, prior, rows, segment):
        for row, number, z in zip(rows.tolist(), segment.tolist(), latents, strict=True):
            seen[row, number] = z.clone()

    length = prompts("left_padded")["input_ids"].shape[1]
    out = run(model, max_new_tokens=24, segment_callback=look, **MODES[mode])
    segments = model._segment_ids(out.sequences, own_mask(out, length), None).amax(dim=1)
    assert len(set(segments.tolist())) > 1 or dynamics == "single"
    for row, count in enumerate(segments.tolist()):
        assert out.latents[row, :count].abs().amin() > 0 and not out.latents[row, count:].any()
    if "num_beams" not in MODES[mode]:
        assert all(number <= segments[row] for row, number in seen)
        for (row, number), z in seen.items():
            assert torch.equal(out.latents[row, number - 1], z)


# a segment that is complete at the end of the prompt; one token; ids that close, in a row
NONE_PROMPTS = [[BOS, 28, 29, 30], [BOS], [BOS, 28, 5, 6, 29, 31, 5], [BOS, 32, 33, 34, 35]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("separator", ["none", "closing"])
@pytest.mark.parametrize("family, latent_layer", [("gpt2", 1), ("llama", 1), ("gpt2", None)])
def test_texts_without_separators_are_reproduced_by_their_latents(family, latent_layer, separator, mode, monkeypatch):
    model = tiny_model(family, latent_layer=latent_layer, **SEPARATORS[separator])
    monkeypatch.setattr("helpers.generation.PROMPTS", NONE_PROMPTS)
    # tiny models repeat a token, and a run of closing tokens closes once
    drawn = []
    settings = {"max_new_tokens": 20, "no_repeat_ngram_size": 1, **MODES[mode]}
    settings["segment_callback"] = lambda latents, prior, rows, segment: drawn.append(rows)
    out = run(model, **settings)
    uncached = run(model, use_cache=False, **settings)
    assert torch.equal(out.sequences, uncached.sequences)
    torch.testing.assert_close(out.latents, uncached.latents, atol=1e-5, rtol=0)
    assert rescoring_error(model, out, "left_padded", out.latents) < 1e-4
    assert rescoring_error(model, out, "left_padded", out.latents + 0.1) > 1e-3
    assert len(drawn) > 2  # when the prompt was read, and for later segments in either run


@pytest.mark.parametrize("dynamics", ["parallel", "independent", "single"])
def test_other_dynamics_need_no_separator_either(dynamics):
    model = tiny_model(latent_layer=1, latent_dynamics=dynamics, **SEPARATORS["none"])
    for mode in ("sample_3_returned", "beam_4_of_2"):
        out = run(model, **MODES[mode])
        assert rescoring_error(model, out, "left_padded", out.latents) < 1e-4
        assert rescoring_error(model, out, "left_padded", out.latents + 0.1) > 1e-3


@pytest.mark.parametrize("mode", ["greedy", "sample_3_returned", "beam_4_of_2"])
def test_one_token_may_be_bos_eos_and_pad(mode, monkeypatch):
    """As in GPT-2, whose own rows are left as they are."""
    same = {"bos_token_id": BOS, "eos_token_id": BOS, "pad_token_id": BOS}
    model = tiny_model(latent_layer=1, **SEPARATORS["none"], **same)
    ids, mask, _ = make_batch(NONE_PROMPTS, "left")
    monkeypatch.setattr("helpers.generation.PROMPTS", NONE_PROMPTS)
    monkeypatch.setattr("helpers.generation.EOS", BOS)
    for use_cache in (True, False):
        given = {"input_ids": ids.masked_fill(mask == 0, BOS), "use_cache": use_cache, "max_new_tokens": 20}
        out = run(model, **given, **MODES[mode])
        assert rescoring_error(model, out, "left_padded", out.latents) < 1e-4
        assert rescoring_error(model, out, "left_padded", out.latents + 0.1) > 1e-3


def test_prompts_without_separators_between_segments():
    """Conditional: the prompt's [SEP] is the only one, and the first segment begins after it."""
    settings = {"separator": "none", "segment_length": 3, "conditional": True}
    model = tiny_model(latent_layer=1, **settings)
    ids, mask, _ = make_batch([[BOS, 9, 8, SEP], [BOS, SEP, 7, 8, 9], [BOS, 4, 5, SEP, 9]], "left")
    for mode in ("greedy", "top_k", "beam_4_of_2"):
        torch.manual_seed(0)
        returns = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 12}
        out = model.generate(ids, attention_mask=mask, **returns, **MODES[mode])
        assert _rescoring_error(model, out, ids, mask) < 1e-4
        assert out.latents.shape[1] > 2


@pytest.mark.parametrize("separator", ["none", "closing"])
@pytest.mark.parametrize("decoding", [{}, {"num_beams": 3}, {"do_sample": True}], ids=str)
def test_texts_without_separators_are_edited(separator, decoding):
    model = tiny_model(latent_layer=1, **SEPARATORS[separator])
    ids, mask, _ = make_batch([[BOS, 28, 29, 5, 30, 31, 6, 32, 33, EOS], [BOS, 29, 28, 7, 30, 31, EOS]])
    found = model.encode(ids, mask)
    counts = found.segment_ids.amax(dim=1)
    assert counts.tolist() == [3, 2]
    decoding = {"no_repeat_ngram_size": 1, "min_new_tokens": 20, "max_new_tokens": 20, **decoding}
    out = model.reconstruct(ids, mask, **decoding)
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(out.latents[row, :count], found.latents[row, :count], atol=1e-5, rtol=0)
        assert not out.latents[row, count:].any()
    out = model.edit(ids, mask, segments=[2], **decoding)
    kept = out.sequences[:, :4]
    assert kept.tolist() == ids[:, :4].tolist()
    torch.testing.assert_close(out.latents[:, 0], found.latents[:, 0], atol=1e-5, rtol=0)
    assert (out.latents[:, 1] - found.latents[:, 1]).abs().amax(dim=-1).min() > 1e-3
