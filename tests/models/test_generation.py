import math

import pytest
import torch
from helpers.generation import MODES, PROMPTS, rescoring_error, returned_mask, run
from helpers.tiny import BOS, EOS, PAD, SEP, VOCAB, make_batch, tiny_model
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, TextStreamer

from modeling_trace import SegmentLogitsProcessor, TraceCache

LENGTHS = {"fixed": {}, "free": {"segment_length": None}}


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("kind", ["none", "left_padded"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_returned_row_is_reproduced_by_its_own_latents(family, mode, lengths, kind):
    model = tiny_model(family, **LENGTHS[lengths])
    out = run(model, kind, **MODES[mode])
    uncached = run(model, kind, use_cache=False, **MODES[mode])
    assert torch.equal(out.sequences, uncached.sequences) and uncached.cache is None
    torch.testing.assert_close(out.latents, uncached.latents, atol=1e-5, rtol=0)
    assert isinstance(out.cache, TraceCache)
    assert rescoring_error(model, out, kind, out.latents) < 1e-4
    assert rescoring_error(model, uncached, kind, uncached.latents) < 1e-4
    # the law can fail: under latents that are slightly wrong it does not hold
    assert rescoring_error(model, out, kind, out.latents + 0.1) > 1e-3


@pytest.mark.usefixtures("architecture")
def test_rows_differ_under_greedy_decoding_and_a_seed_repeats_them():
    model = tiny_model()
    first, again, other = (run(model, "none", seed=s, num_return_sequences=8) for s in (0, 0, 1))
    assert torch.equal(first.sequences, again.sequences) and torch.equal(first.latents, again.latents)
    assert first.sequences.shape != other.sequences.shape or not torch.equal(first.sequences, other.sequences)
    assert len(set(map(tuple, first.sequences.tolist()))) > 1
    generator = torch.Generator().manual_seed(7)
    one = run(model, "none", seed=0, generator=generator)
    two = run(model, "none", seed=1, generator=generator.manual_seed(7))
    assert torch.equal(one.sequences, two.sequences)


@pytest.mark.usefixtures("architecture")
def test_beams_share_the_first_latent():
    out = run(tiny_model(), "none", num_beams=4, num_return_sequences=4)
    assert (out.latents[:, 0] == out.latents[0, 0]).all()


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("lengths", LENGTHS)
def test_latents_have_the_priors_mean_and_variance(lengths):
    """z_1 ~ N(0, I); later ones standard normal once the prior, from a full re-encoding of the text, is taken out."""
    model = tiny_model(**LENGTHS[lengths])
    rows = 8000
    limit = {} if lengths == "fixed" else {"max_segment_length": 3}  # so that many texts have three segments
    out = run(
        model, "none", num_return_sequences=rows, do_sample=True, max_new_tokens=10, output_logits=False, **limit
    )
    mask = returned_mask(out, "none", 1)
    segments = model._segment_ids(out.sequences, mask, None)
    priors = []
    hook = model.dynamics.register_forward_hook(lambda module, args, result: priors.append(args[0]))
    model.encode(out.sequences, mask)
    hook.remove()
    context = priors[0]
    previous = torch.zeros(rows, 4)
    for t in range(3):
        begun = segments.amax(-1) > t
        mean, logvar = model.dynamics.prior(previous, context[:, t], torch.full((rows,), t == 0))
        standard = ((out.latents[:, t] - mean) / torch.exp(0.5 * logvar))[begun]
        n = standard.shape[0]
        assert n > 500
        # five standard errors: of a mean 1 / sqrt(n), of a variance sqrt(2 / n)
        assert standard.mean(0).abs().max() < 5 / math.sqrt(n), t
        assert (standard.var(0) - 1).abs().max() < 5 * math.sqrt(2 / n), t
        previous = out.latents[:, t]


@pytest.mark.usefixtures("architecture")
def test_temperature():
    model = tiny_model()
    cold = run(model, "left_padded", latent_temperature=0, num_return_sequences=2)
    assert torch.equal(cold.sequences[0::2], cold.sequences[1::2])  # nothing is drawn
    assert not cold.latents[:2, 0].any()  # the mean of N(0, I)
    ids, mask, _ = make_batch([PROMPTS[2]])
    wanted = model.encode(ids, mask)
    torch.testing.assert_close(cold.latents[4, :2], wanted.posterior_mean[0, :2], atol=1e-5, rtol=0)
    # half the temperature, half the deviation
    deviations = [run(model, "none", latent_temperature=t, max_new_tokens=1, seed=3).latents for t in (0.5, 1.0)]
    torch.testing.assert_close(deviations[0] * 2, deviations[1])
    with pytest.raises(ValueError, match="`latent_temperature` must be a number >= 0, got -1"):
        model.generate(latent_temperature=-1)


@pytest.mark.usefixtures("architecture")
def test_prompt_segments_get_posterior_latents():
    model = tiny_model()
    rows = 3000
    ids = torch.tensor([[BOS, 5, 6, 7, SEP, 9]])
    out = run(model, "none", input_ids=ids, num_return_sequences=rows, max_new_tokens=1, output_logits=False)
    wanted = model.encode(ids)
    standard = (out.latents[:, 0] - wanted.posterior_mean[0, 0]) * torch.exp(-0.5 * wanted.posterior_logvar[0, 0])
    assert standard.mean(0).abs().max() < 5 / math.sqrt(rows)
    assert (standard.var(0) - 1).abs().max() < 5 * math.sqrt(2 / rows)
    # the open segment's latent comes from the prior, not from the posterior that its one token would give
    contexts = []
    hook = model.dynamics.register_forward_hook(lambda module, args, result: contexts.append(args[0]))
    model.encode(ids)
    hook.remove()
    context = contexts[0][:, 1].expand(rows, -1)
    mean, logvar = model.dynamics.prior(out.latents[:, 0], context, torch.zeros(rows, dtype=torch.bool))
    standard = (out.latents[:, 1] - mean) * torch.exp(-0.5 * logvar)
    assert standard.mean(0).abs().max() < 5 / math.sqrt(rows)
    assert (standard.var(0) - 1).abs().max() < 5 * math.sqrt(2 / rows)


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("mode", ["greedy", "sample_3_returned", "beam_4_of_2"])
def test_latents_can_be_held(mode):
    model = tiny_model(seed=1)
    first = run(model, **MODES[mode])
    held = torch.full((2, 4), float("nan"))
    held[1] = torch.tensor([1.0, -2.0, 0.5, float("nan")])
    out = run(model, latents=held, seed=5, **MODES[mode])
    begun = out.latents[:, 1].any(-1)  # rows that came to a second segment
    assert begun.sum() >= 3
    torch.testing.assert_close(out.latents[begun, 1, :3], held[1, :3].expand(int(begun.sum()), -1))
    assert rescoring_error(model, out, "left_padded", out.latents) < 1e-4
    if mode == "greedy":  # all latents held: the same texts from another seed
        again = run(model, latents=first.latents, seed=9)
        assert torch.equal(again.sequences, first.sequences)
        redrawn = first.latents.clone()
        redrawn[:, 2] = float("nan")
        third = run(model, latents=redrawn, seed=9)
        torch.testing.assert_close(third.latents[:, :2], first.latents[:, :2])
        assert (third.latents[:, 2] - first.latents[:, 2]).abs().max() > 1e-2


@pytest.mark.usefixtures("architecture")
def test_segment_callback_sees_and_replaces():
    model = tiny_model()
    calls = []

    def callback(latents, prior, rows, segment):
        calls.append((latents.clone(), prior, rows.tolist(), segment.tolist()))
        return torch.where(segment.unsqueeze(1) == 3, torch.ones_like(latents), latents)

    out = run(model, segment_callback=callback)
    assert sorted(zip(calls[0][2], calls[0][3], strict=True)) == [(0, 1), (1, 1)]  # rows that start in segment 1
    for latents, prior, rows, segments in calls:
        assert latents.shape == prior[0].shape == prior[1].shape == (len(rows), 4)
        for row, segment, z in zip(rows, segments, latents, strict=True):
            wanted = torch.ones(4) if segment == 3 else z
            assert torch.equal(out.latents[row, segment - 1], wanted)
    assert rescoring_error(model, out, "left_padded", out.latents) < 1e-4
    with pytest.raises(ValueError, match="`segment_callback` must return None or latents of shape"):
        run(model, segment_callback=lambda latents, *_: latents[:, :2])


@pytest.mark.parametrize("use_cache", [True, False])
def test_every_token_is_encoded_once(use_cache, monkeypatch):
    """A row pays for a segment when it closes it, never again: as many tokens are encoded as closed segments have."""
    model = tiny_model(segment_length=None, seed=1)
    ids, mask, _ = make_batch(PROMPTS, "left")
    encoded, stored = [], []
    store = TraceCache.store_encoder

    def count_stored(cache, rows, past, past_length, window, total):
        stored.append(window.sum())
        store(cache, rows, past, past_length, window, total)

    monkeypatch.setattr(TraceCache, "store_encoder", count_stored)

    def count(module, args, kwargs):
        cache = kwargs["cache"]
        if cache is not None and not isinstance(cache, TraceCache):  # a context pass
            encoded.append(kwargs["inputs_embeds"].shape[:2])

    hook = model.backbone.register_forward_pre_hook(count, with_kwargs=True)
    out = run(model, use_cache=use_cache, do_sample=True, max_new_tokens=30, max_segment_length=6)
    hook.remove()
    prompt_tokens = encoded[0][0] * encoded[0][1]
    assert prompt_tokens <= ids.numel()
    segments = model._segment_ids(out.sequences, returned_mask(out, "left_padded", ids.shape[1]), None)
    closed = (out.sequences[:, :-1] == SEP) & (segments[:, :-1] > 0)
    assert sum(rows for rows, _ in encoded[1:]) == closed[:, ids.shape[1] :].sum()
    assert max(width for _, width in encoded[1:]) <= 6 + 1
    own = torch.where(closed, segments[:, :-1], 0).amax(dim=1, keepdim=True)  # a row's last closed segment
    by_prompt = segments[:, : ids.shape[1]].amax(dim=1, keepdim=True) - (ids[:, -1:] != SEP).long()
    by_prompt = by_prompt.clamp_min(0)  # BOS alone
    assert sum(stored) == ((segments > by_prompt) & (segments <= own)).sum()


@pytest.mark.parametrize("lengths", LENGTHS)
def test_cached_encoder_equals_full_encoding(lengths):
    """Keys and values that grew segment by segment are those of one pass over the whole text."""
    model = tiny_model("llama", **LENGTHS[lengths])
    out = run(model, do_sample=True, max_new_tokens=20)
    cache = out.cache
    prompt_length = max(map(len, PROMPTS))
    mask = returned_mask(out, "left_padded", prompt_length)
    segments = model._segment_ids(out.sequences, mask, None)
    whole = TraceCache()
    end = cache.encoder.get_seq_length()
    whole.input_ids = out.sequences
    start, total = torch.full((len(segments),), end), int(segments[:, :end].max()) + 1
    model._prompt_states(whole, torch.zeros(len(segments), end, 32), segments, start, total)
    for grown, once in zip(cache.encoder.layers, whole.encoder.layers, strict=True):
        for row in range(len(segments)):
            real = (mask[row, :end] == 1) & (torch.arange(end) < cache.segment_start[row])
            torch.testing.assert_close(grown.keys[row][:, real], once.keys[row][:, real], atol=1e-5, rtol=0)
            torch.testing.assert_close(grown.values[row][:, real], once.values[row][:, real], atol=1e-5, rtol=0)
    assert end <= cache.get_seq_length() + 8  # no larger than the decoder's, but for a few slots made ahead


def test_cache_rows_move_as_one():
    cache = run(tiny_model("llama"), do_sample=True).cache
    names = ("latents", "current", "segment", "segment_start")
    before = [*(getattr(cache, name) for name in names), cache.layers[0].keys, cache.encoder.layers[0].keys]
    order = torch.tensor([2, 0, 0, 3])
    cache.reorder_cache(order)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([1, 6]))
    after = [*(getattr(cache, name) for name in names), cache.layers[0].keys, cache.encoder.layers[0].keys]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new, old[torch.tensor([2, 3])])
    cache.reset()
    assert cache.latents is None and cache.get_seq_length() == 0 and cache.encoder.get_seq_length() == 0


# --- where segments close ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("architecture")
def test_fixed_length_models_close_exactly_there():
    model = tiny_model(segment_length=3, seed=1)
    for mode in ("greedy", "sample_3_returned", "beam_4_of_2"):
        closed = 0
        for row in run(model, max_new_tokens=20, **MODES[mode]).sequences.tolist():
            tokens = 0
            for token in row[row.index(BOS) + 1 :]:
                if token == EOS:
                    assert 1 <= tokens <= 3
                    break
                assert (token == SEP) == (tokens == 3), row
                closed += token == SEP
                tokens = 0 if token == SEP else tokens + 1
        assert closed >= 4


def test_lengths_can_be_told():
    model = tiny_model(segment_length=3)
    row = run(model, "none", do_sample=True, min_segment_length=5, max_segment_length=5, max_new_tokens=40)
    ids = row.sequences[0].tolist()
    ends = [k for k, i in enumerate(ids) if i == SEP]
    assert ends == list(range(6, 6 * len(ends) + 1, 6))
    for bad, message in (
        ({"min_segment_length": 0}, "`min_segment_length` must be >= 1, got 0"),
        ({"min_segment_length": 4, "max_segment_length": 3}, "`max_segment_length` must be >= `min_segment_length`"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(**bad)


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("mode", MODES)
def test_the_cache_knows_the_place_in_a_segment(mode, monkeypatch):
    known = SegmentLogitsProcessor.position_in_segment
    seen = []

    def compare(self, input_ids):
        by_cache, cache = known(self, input_ids), self.cache
        self.cache = None
        by_ids = known(self, input_ids)
        self.cache = cache
        going = (input_ids[:, -1:] != EOS).squeeze(1) & (input_ids[:, -1:] != PAD).squeeze(1)
        assert torch.equal(by_cache[going], by_ids[going])
        seen.append(going.sum())
        return by_cache

    monkeypatch.setattr(SegmentLogitsProcessor, "position_in_segment", compare)
    run(tiny_model(segment_length=None), max_new_tokens=20, **MODES[mode])
    assert sum(seen) > 20


def test_segment_processor_by_hand():
    processor = SegmentLogitsProcessor(SEP, [EOS], [BOS, PAD], min_length=2, max_length=3)
    ids = torch.tensor(
        [
            [PAD, PAD, PAD, PAD, BOS],  # no token yet
            [BOS, 4, 5, 6, SEP],  # no token yet
            [BOS, 4, 5, SEP, 6],  # one
            [PAD, PAD, BOS, 4, 5],  # two
            [BOS, SEP, 4, 5, 6],  # three: full
        ]
    )
    assert processor.position_in_segment(ids).tolist() == [0, 0, 1, 2, 3]
    allowed = processor(ids, torch.zeros(5, VOCAB)).isfinite()
    words = set(range(4, VOCAB))
    assert [set(row.nonzero().squeeze(-1).tolist()) for row in allowed] == [
        words,
        words,
        words | {EOS, BOS, PAD},
        words | {EOS, SEP, BOS, PAD},
        {EOS, SEP},
    ]
    # another processor has ruled out [SEP] and EOS: the segment closes all the same
    scores = torch.zeros(5, VOCAB)
    scores[:, [SEP, EOS]] = -float("inf")
    assert processor(ids, scores)[4].isfinite().nonzero().tolist() == [[SEP]]


@pytest.mark.usefixtures("architecture")
def test_other_processors_do_not_end_fixed_length_texts():
    """[SEP] repeats every third token: n-gram and repetition rules are not meant for it."""
    model = tiny_model(segment_length=3)
    rare_eos = {"sequence_bias": [[[EOS], -100.0]]}
    for rule in ({"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 2}, {"repetition_penalty": 5.0}):
        out = run(model, "none", do_sample=True, num_return_sequences=20, max_new_tokens=30, **rare_eos, **rule)
        assert (out.sequences[:, 4::4] == SEP).all(), rule
        assert not (out.sequences == EOS).any()
    early = run(model, "none", prefix_allowed_tokens_fn=lambda *_: [EOS], do_sample=True)
    assert early.sequences.tolist() == [[BOS, EOS]]  # what is forced stands
    last = run(model, "none", forced_eos_token_id=EOS, min_new_tokens=12, max_new_tokens=13, do_sample=True)
    assert last.sequences[0, -1] == EOS


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("mode", ["greedy", "top_k", "beam_4_of_2"])
@pytest.mark.parametrize(
    "texts",
    [[[7, 8, 9, 10], [7]], [[SEP], [BOS, SEP]], [[BOS, 5, 6, SEP, 7, SEP]], [[BOS, 5, EOS, 6, SEP, 8]]],
    ids=["no BOS", "[SEP] alone", "ends in [SEP]", "EOS inside"],
)
def test_odd_prompts_obey_the_law_too(texts, mode, monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr("helpers.generation.PROMPTS", texts)
    cached, uncached = (run(model, use_cache=use_cache, **MODES[mode]) for use_cache in (True, False))
    assert torch.equal(cached.sequences, uncached.sequences)
    assert rescoring_error(model, cached, "left_padded", cached.latents) < 1e-4


def test_settings_of_the_model_itself_count():
    model = tiny_model()
    model.generation_config.num_beams = 3
    out = run(model, "none", latents=torch.zeros(1, 1, 4))
    assert not out.latents[:, 0].any() and out.get("beam_indices") is not None
    model = tiny_model()
    model.generation_config.do_sample = True
    assert run(model, "none", num_return_sequences=2).sequences.shape[0] == 2


def test_a_default_length_is_cut_to_the_context():
    model = tiny_model()
    ids = torch.tensor([[BOS, *[5, 6, 7, SEP] * 15]])
    assert model.generate(ids).shape[1] <= 64


def test_users_processors_and_streamers_still_work(capsys):
    model = tiny_model()
    seen = []

    def ban_seven(ids, scores):
        seen.append(ids.shape)
        return scores.index_fill(1, torch.tensor([7]), -float("inf"))

    out = run(model, "none", do_sample=True, logits_processor=LogitsProcessorList([ban_seven]))
    assert seen and 7 not in out.sequences[0, 1:].tolist()

    class Words:
        def decode(self, ids, **_):
            return " ".join(map(str, ids if isinstance(ids, list) else ids.tolist())) + " "

    run(model, "none", streamer=TextStreamer(Words()))
    assert capsys.readouterr().out.startswith(f"{BOS} ")


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"latents": torch.zeros(2, 3)}, r"`latents` must have shape \(num_segments, 4\)"),
        ({"latents": torch.zeros(4)}, "`latents` must have shape"),
        ({"latents": torch.zeros(3, 2, 4)}, r"one row per prompt \(1\) or per returned text \(1\), got 3"),
        ({"input_ids": torch.full((1, 64), 5)}, "context of 64 tokens, got a prompt of 64"),
        ({"max_new_tokens": 100}, "Use `max_new_tokens=63` or less"),
        ({"input_ids": torch.zeros(0, 3, dtype=torch.long)}, r"`inputs` must be token ids .* got \(0, 3\)"),
        ({"input_ids": [[0, 5]]}, "`inputs` must be a tensor of token ids, got list"),
        (
            {"input_ids": torch.tensor([[0, 5, 2]]), "attention_mask": torch.tensor([[1, 1, 0]])},
            "prompts must be padded on the left",
        ),
        ({"latents": [[0.0] * 4]}, "`latents` must be a tensor, got list"),
        ({"latents": torch.full((1, 4), float("inf"))}, "`latents` must be finite, or NaN to draw"),
        ({"latents": torch.zeros(4, 1, 4), "num_beams": 4}, r"per prompt \(1\), which all its beams share, got 4"),
        ({"token_healing": True}, "`token_healing` writes the prompt anew"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "code from elsewhere"),
        ({"cache_implementation": "dynamic"}, "`cache_implementation='dynamic'`"),
        ({"cache_implementation": "static"}, "`cache_implementation='static'` cannot hold latents"),
        ({"cache_implementation": "quantized"}, "`cache_implementation='quantized'`"),
        ({"cache_implementation": "paged"}, "`cache_implementation='paged'`"),
        ({"inputs_embeds": torch.zeros(1, 2, 32)}, "`inputs_embeds` prompts cannot be segmented"),
        ({"cache": TraceCache()}, "`cache` cannot be given"),
        ({"past_key_values": TraceCache()}, "`cache` cannot be given"),
        ({"prompt_lookup_num_tokens": 3}, "Assisted decoding"),
        ({"prefill_chunk_size": 3}, "`prefill_chunk_size`"),
        ({"guidance_scale": 1.5}, "`guidance_scale`"),
        ({"input_ids": torch.zeros(3, dtype=torch.long)}, r"`inputs` must be token ids \(num_prompts"),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments, message):
    model = tiny_model()
    forwards = []
    model.backbone.register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises(ValueError, match=message) as error:
        model.generate(**arguments)
    assert not forwards and "\n" not in str(error.value)


def test_assistant_model_and_continuous_batching_are_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="Assisted decoding"):
        model.generate(assistant_model=tiny_model(seed=1))
    with pytest.raises(ValueError, match="Continuous batching"):
        model.generate_batch([[BOS]])


def test_a_model_without_bos_needs_a_prompt():
    model = tiny_model()
    model.generation_config.bos_token_id = model.config.bos_token_id = None
    with pytest.raises(ValueError, match="`bos_token_id` is needed"):
        model.generate()
    assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=6).shape[1] > 2


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("mode", ["greedy", "sample_3_returned", "beam_4_of_2"])
def test_one_token_may_be_bos_eos_and_pad(mode, monkeypatch):
    """As in GPT-2: only the attention mask tells padding from text, and the law holds all the same."""
    same = {"bos_token_id": BOS, "eos_token_id": BOS, "pad_token_id": BOS}
    model = tiny_model(segment_length=3, **same)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = BOS
    ids, mask, _ = make_batch(PROMPTS, "left")
    ids = ids.masked_fill(mask == 0, BOS)
    monkeypatch.setattr("helpers.generation.EOS", BOS)
    for use_cache in (True, False):
        out = run(model, input_ids=ids, max_new_tokens=20, use_cache=use_cache, **MODES[mode])
        assert rescoring_error(model, out, "left_padded", out.latents) < 1e-4
        assert rescoring_error(model, out, "left_padded", out.latents + 0.1) > 1e-3


@pytest.mark.parametrize("max_length", [None, 2, 3])
@pytest.mark.parametrize("min_length", [1, 2])
def test_segment_processor_row_by_row(min_length, max_length):
    """Against its definition, on rows in every state and scores that other processors have forced."""
    generator = torch.Generator().manual_seed(0)
    sep, eos, start, vocabulary = 3, [1], [0, 2], 8
    processor = SegmentLogitsProcessor(sep, eos, start, min_length, max_length)
    for trial in range(60):
        ids = torch.randint(4, vocabulary, (6, 5), generator=generator)
        ids[:, 0] = 0
        ids[torch.rand(6, 5, generator=generator) < 0.3] = sep
        scores = torch.randn(6, vocabulary, generator=generator)
        scores[torch.rand(6, vocabulary, generator=generator) < 0.7 * (trial % 3) / 2] = -math.inf
        processor.raw_sep_scores = torch.randn(6, 1, generator=generator) if trial % 2 else None
        before, found = scores.clone(), processor(ids, scores)
        assert torch.equal(scores, before)
        for row in range(6):
            text = ids[row].tolist()
            while text and text[0] in start:
                text = text[1:]
            position = len(text) - (len(text) - text[::-1].index(sep) if sep in text else 0)
            own = before[row].clone()
            full = max_length is not None and position >= max_length
            if full and (
                (own[[i for i in range(vocabulary) if i not in eos]] > -math.inf).any() or own.isneginf().all()
            ):
                own[sep] = 0.0 if processor.raw_sep_scores is None else processor.raw_sep_scores[row, 0]
            masked = own.clone()
            for token in range(vocabulary):
                short = token == sep and position < min_length
                empty = position == 0 and token in eos + start
                if short or empty or (full and token not in [sep, *eos]):
                    masked[token] = -math.inf
            torch.testing.assert_close(found[row], own if masked.isneginf().all() else masked)


class StopAt(StoppingCriteria):
    """Ends each row at a number of tokens of its own."""

    def __init__(self, lengths):
        self.lengths = torch.tensor(lengths)

    def __call__(self, input_ids, scores, **kwargs):
        return self.lengths <= input_ids.shape[1]


@pytest.mark.parametrize("separator", ["token", "none"])
def test_a_row_that_ends_without_eos_draws_no_more_latents(architecture, separator):
    """
    By a criterion of one's own, as by a stop string. `pad_token_id` is none of the ends, and segments of two tokens
    close at positions, in padding too.
    """
    model = tiny_model(separator=separator, segment_length=2)
    stop = {"stopping_criteria": StoppingCriteriaList([StopAt([5, 13, 13])])}
    out = run(model, "none", num_return_sequences=3, max_new_tokens=12, suppress_tokens=[EOS, PAD], **stop)
    written = (out.sequences[:, 1:] != PAD).sum(1)
    assert int(written[0]) == 4 and int(written.max()) > 8 and EOS not in out.sequences
    ids = model.segment_rule.segment_ids(out.sequences, torch.cat([torch.ones(3, 1), out.sequences[:, 1:] != PAD], 1))
    for row, count in enumerate(ids.amax(1).tolist()):
        assert out.latents[row, :count].abs().amin() > 0 and not out.latents[row, count:].any()
    assert int(ids[0].max()) == 2 < out.latents.shape[1]


def test_without_eos_a_stopped_row_goes_on_with_its_latents(architecture):
    """As in Transformers: its tokens are no padding, and each is reproduced by the latents that are returned."""
    model = tiny_model(separator="none", segment_length=2)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    stop = {"stopping_criteria": StoppingCriteriaList([StopAt([5, 9, 9])])}
    out = run(model, "none", num_return_sequences=3, max_new_tokens=12, **stop)
    assert out.sequences.shape[1] == 9 and rescoring_error(model, out, "none", out.latents) < 1e-4
