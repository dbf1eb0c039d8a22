import pytest
import torch
from helpers.tiny import BOS, EOS, PAD, SEP, backbone_config, make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from modeling_trace.models.segments_trace import (
    SegmentRule,
    broadcast_segments,
    context_mask,
    last_token_index,
    next_segment_ids,
    segment_mask,
)

# BOS a b [SEP] c [SEP] d e f EOS, and BOS a [SEP] b EOS
TEXTS = [[BOS, 10, 11, SEP, 12, SEP, 13, 14, 15, EOS], [BOS, 20, SEP, 21, EOS]]


def test_segment_ids_right_and_left_padded():
    ids, mask, _ = make_batch(TEXTS, "right")
    assert SegmentRule(SEP, BOS).segment_ids(ids, mask).tolist() == [
        [0, 1, 1, 1, 2, 2, 3, 3, 3, 3],
        [0, 1, 1, 2, 2, -1, -1, -1, -1, -1],
    ]
    ids, mask, _ = make_batch(TEXTS, "left")
    assert SegmentRule(SEP, BOS).segment_ids(ids, mask)[1].tolist() == [-1, -1, -1, -1, -1, 0, 1, 1, 2, 2]


def test_segment_ids_without_bos_and_with_bos_as_padding():
    ids = torch.tensor([[10, 11, SEP, 12]])
    assert SegmentRule(SEP, BOS).segment_ids(ids, None).tolist() == [[1, 1, 1, 2]]
    # GPT-2: BOS = EOS = PAD; only the attention mask can tell them apart
    ids = torch.tensor([[BOS, BOS, BOS, 10, SEP, 11, BOS]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    assert SegmentRule(SEP, BOS).segment_ids(ids, mask).tolist() == [[-1, -1, 0, 1, 1, 2, 2]]


def test_latents_are_aligned_with_targets():
    segments = torch.tensor([[0, 1, 1, 1, 2, 2], [0, 1, 1, -1, -1, -1], [-1, -1, 0, 1, 1, 2]])
    assert next_segment_ids(segments).tolist() == [[1, 1, 1, 2, 2, 2], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 2, 2]]
    latents = torch.arange(1.0, 7.0).view(3, 2, 1)
    assert broadcast_segments(latents, next_segment_ids(segments)).squeeze(-1).tolist() == [
        [1, 1, 1, 2, 2, 2],
        [3, 3, 3, 0, 0, 0],
        [0, 0, 5, 5, 6, 6],
    ]


def test_last_token_index():
    segments = torch.tensor([[0, 1, 1, 1, 2, 2], [0, 1, 1, -1, -1, -1], [-1, -1, 0, 1, 1, 2]])
    assert last_token_index(segments, 2).tolist() == [[0, 3, 5], [0, 2, 0], [2, 4, 5]]


def hand_written_masks(segments):
    """The two masks by four loops, from their definition in the paper (Sec. 4.1)."""
    rows, length = len(segments), len(segments[0])
    context = torch.zeros(rows, length, length, dtype=torch.bool)
    own = torch.zeros(rows, length, length, dtype=torch.bool)
    for b in range(rows):
        for query in range(length):
            for key in range(length):
                q, k = segments[b][query], segments[b][key]
                if q >= 0 and k >= 0:
                    context[b, query, key] = k <= q
                    own[b, query, key] = k == q
    return context, own


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_masks_equal_hand_written_ones(side, attention):
    ids, mask, _ = make_batch(TEXTS, side)
    segments = SegmentRule(SEP, BOS).segment_ids(ids, mask)
    config = backbone_config()
    config._attn_implementation = attention
    embeds = torch.zeros(*ids.shape, 8)
    real = mask.bool()
    for made, wanted in zip(
        (context_mask(config, embeds, mask, segments), segment_mask(config, embeds, mask, segments)),
        hand_written_masks(segments.tolist()),
        strict=True,
    ):
        allowed = made.squeeze(1) if made.dtype == torch.bool else made.squeeze(1) == 0
        # what padding itself looks at is of no interest
        assert torch.equal(allowed[real], wanted[real])


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_backbone_obeys_the_segment_mask(family):
    """A segment read under the segment mask is the segment read alone (positions kept), bidirectionally."""
    torch.manual_seed(0)
    backbone = AutoModel.from_config(backbone_config(family)).eval()
    ids = torch.tensor([TEXTS[0]])
    segments = SegmentRule(SEP, BOS).segment_ids(ids, None)
    embeds = backbone.get_input_embeddings()(ids)
    mask = segment_mask(backbone.config, embeds, None, segments)
    together = backbone(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    for t in (1, 2, 3):
        where = (segments[0] == t).nonzero().squeeze(-1)
        part = embeds[:, where]
        full = torch.zeros(1, 1, len(where), len(where))
        alone = backbone(inputs_embeds=part, attention_mask=full, position_ids=where[None]).last_hidden_state
        torch.testing.assert_close(together[:, where], alone, atol=1e-5, rtol=0)


# ---- The rule, against its definition ----


def segments_by_hand(ids, mask, rule):
    """Token by token, as a reader would."""
    found, number, in_text, before_closed, started = [], 0 if rule.conditional else 1, 0, False, False
    for token, real in zip(ids, mask, strict=True):
        if not real:
            found.append(-1)
            continue
        first, started = not started, True
        if rule.conditional and number == 0:
            found.append(0)
            number += token == rule.sep_token_id
            continue
        if not rule.conditional and first and token == rule.bos_token_id:
            found.append(0)
            continue
        found.append(number)
        in_text += 1
        if rule.separator == "token":
            closes = token == rule.sep_token_id
        elif rule.segment_length is not None:
            closes = in_text % rule.segment_length == 0
        elif rule.closing_token_ids is not None:
            ends = token in rule.closing_token_ids
            closes, before_closed = ends and not before_closed, ends
        else:
            closes = False
        number += closes and not rule.one_per_text
    return found


RULES = {
    "token": {"separator": "token"},
    "fixed": {"separator": "none", "segment_length": 3},
    "ones": {"separator": "none", "segment_length": 1},
    "closing": {"separator": "none", "closing_token_ids": (4, 5)},
    "whole": {"separator": "none", "one_per_text": True},
}


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", RULES)
@given(
    texts=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=14), min_size=1, max_size=4),
    left=st.booleans(),
    padding=st.sampled_from([BOS, PAD, 4]),
)
@settings(max_examples=60, deadline=None)
def test_the_rule_is_its_definition(name, conditional, texts, left, padding):
    """On any rows, padded with any token: only the mask says what padding is."""
    rule = SegmentRule(SEP, BOS, conditional, **RULES[name])
    width = max(map(len, texts))
    rows, masks = [], []
    for text in texts:
        space = [padding] * (width - len(text))
        rows.append(space + text if left else text + space)
        masks.append([0] * len(space) + [1] * len(text) if left else [1] * len(text) + [0] * len(space))
    ids, mask = torch.tensor(rows), torch.tensor(masks)
    found = rule.segment_ids(ids, mask)
    assert found.tolist() == [segments_by_hand(*pair, rule) for pair in zip(rows, masks, strict=True)]
    if len(texts) == 1:
        assert torch.equal(rule.segment_ids(ids), found)
    closes = rule.closes(ids, mask)
    assert not (closes & ~mask.bool()).any()
    if not rule.one_per_text:  # a token closes its segment where the next one is in another
        following = found[:, 1:]
        stays = (following == found[:, :-1]) | (following < 0) | (found[:, :-1] < 0)
        begins = (found[:, :-1] == 0) & (not conditional)  # BOS closes nothing
        assert torch.equal((closes[:, :-1] & (following > 0)), ~stays & ~begins)
