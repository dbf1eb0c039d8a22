import pytest
import torch
from tiny import BOS, EOS, SEP, backbone_config, make_batch
from transformers import AutoModel

from modeling_trace.segments_trace import (
    broadcast_segments,
    context_mask,
    last_token_index,
    next_segment_ids,
    segment_ids_from_input_ids,
    segment_mask,
)

# BOS a b [SEP] c [SEP] d e f EOS, and BOS a [SEP] b EOS
TEXTS = [[BOS, 10, 11, SEP, 12, SEP, 13, 14, 15, EOS], [BOS, 20, SEP, 21, EOS]]


def test_segment_ids_right_and_left_padded():
    ids, mask, _ = make_batch(TEXTS, "right")
    assert segment_ids_from_input_ids(ids, mask, SEP, BOS).tolist() == [
        [0, 1, 1, 1, 2, 2, 3, 3, 3, 3],
        [0, 1, 1, 2, 2, -1, -1, -1, -1, -1],
    ]
    ids, mask, _ = make_batch(TEXTS, "left")
    assert segment_ids_from_input_ids(ids, mask, SEP, BOS)[1].tolist() == [-1, -1, -1, -1, -1, 0, 1, 1, 2, 2]


def test_segment_ids_without_bos_and_with_bos_as_padding():
    ids = torch.tensor([[10, 11, SEP, 12]])
    assert segment_ids_from_input_ids(ids, None, SEP, BOS).tolist() == [[1, 1, 1, 2]]
    # GPT-2: BOS = EOS = PAD; only the attention mask can tell them apart
    ids = torch.tensor([[BOS, BOS, BOS, 10, SEP, 11, BOS]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    assert segment_ids_from_input_ids(ids, mask, SEP, BOS).tolist() == [[-1, -1, 0, 1, 1, 2, 2]]


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
    segments = segment_ids_from_input_ids(ids, mask, SEP, BOS)
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
    segments = segment_ids_from_input_ids(ids, None, SEP, BOS)
    embeds = backbone.get_input_embeddings()(ids)
    mask = segment_mask(backbone.config, embeds, None, segments)
    together = backbone(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    for t in (1, 2, 3):
        where = (segments[0] == t).nonzero().squeeze(-1)
        part = embeds[:, where]
        full = torch.zeros(1, 1, len(where), len(where))
        alone = backbone(inputs_embeds=part, attention_mask=full, position_ids=where[None]).last_hidden_state
        torch.testing.assert_close(together[:, where], alone, atol=1e-5, rtol=0)
