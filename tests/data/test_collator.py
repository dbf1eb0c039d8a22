"""The collator: what is a target and what is not."""

import numpy as np
import pytest
import torch
from helpers.tokenizers import TEXTS, byte_level, metaspace, word_level
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    default_data_collator,
)

from modeling_trace.data import FixedLengthSegmenter, TraceDataCollator, TraceProcessor
from modeling_trace.data.collator import check_collator


@pytest.fixture
def processor():
    return TraceProcessor(byte_level(), FixedLengthSegmenter(4))


def test_targets_are_all_but_bos_and_padding(processor):
    rows = processor(TEXTS)["input_ids"]
    batch = TraceDataCollator(processor)([{"input_ids": ids} for ids in rows])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert (batch["labels"] != -100).sum(dim=1).tolist() == [len(ids) - 1 for ids in rows]
    for number, ids in enumerate(rows):
        assert batch["input_ids"][number, : len(ids)].tolist() == ids
        assert batch["labels"][number, : len(ids)].tolist() == [-100, *ids[1:]]  # EOS stays a target though PAD is EOS
        assert batch["attention_mask"][number].tolist() == [1] * len(ids) + [0] * (batch["labels"].shape[1] - len(ids))
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_pads_on_the_right_whatever_the_tokenizer_does(processor):
    processor.tokenizer.padding_side = "left"
    batch = TraceDataCollator(processor.tokenizer)([{"input_ids": [0, 5, 6]}, {"input_ids": [0, 5]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert processor.tokenizer.padding_side == "left"


def test_multiple_other_columns_and_given_masks(processor):
    collator = TraceDataCollator(processor, pad_to_multiple_of=8)
    batch = collator(
        [
            {"input_ids": torch.tensor([0, 0, 5, 6]), "attention_mask": torch.tensor([0, 1, 1, 1]), "text": "b"},
            {"input_ids": np.array([0, 5]), "attention_mask": np.array([1, 1]), "text": "a"},
        ]
    )
    assert batch["input_ids"].shape == (2, 8) and "text" not in batch
    assert batch["labels"].tolist() == [[-100, -100, 5, 6] + [-100] * 4, [-100, 5] + [-100] * 6]


def test_padding_warns_of_nothing(processor, caplog):
    TraceDataCollator(processor)([{"input_ids": [0, 5, 6]}, {"input_ids": [0, 5]}])
    assert not caplog.records


def test_bad_input(processor):
    with pytest.raises(ValueError, match=r"got the columns text, stars. Tokenise first: prepare_dataset"):
        TraceDataCollator(processor)([{"text": "a", "stars": 3}])
    with pytest.raises(ValueError, match="must be a TraceProcessor or a tokenizer, got 5"):
        TraceDataCollator(5)
    with pytest.raises(ValueError, match="no padding token"):
        TraceDataCollator(byte_level())


# collators of others


def language_modeling(processor, **settings):
    return DataCollatorForLanguageModeling(processor.tokenizer, **{"mlm": False, **settings})


@pytest.mark.parametrize(
    "make, message",
    [
        (language_modeling, r"keep EOS a target.* got DataCollatorForLanguageModeling.* \(PAD is '<\|endoftext\|>'\)"),
        (
            lambda processor: DataCollatorWithFlattening(),
            r"row of its own, got \(1, 9\) of two texts from DataC",
        ),
    ],
)
def test_collators_that_lose_what_trace_needs(processor, make, message):
    with pytest.raises(ValueError, match=message) as error:
        check_collator(make(processor), processor)
    assert "Leave `data_collator` out, or use TraceDataCollator(processor)." in str(error.value)
    assert "\n" not in str(error.value)


def test_masked_language_modeling_is_refused(processor):
    processor.tokenizer.mask_token = processor.tokenizer.unk_token
    with pytest.raises(ValueError, match="must not mask tokens, got DataCollatorForLanguageModeling with mlm=True"):
        check_collator(language_modeling(processor, mlm=True), processor)


def test_changed_tokens_are_refused(processor):
    def other(rows):
        batch = TraceDataCollator(processor)(rows)
        return {**batch, "input_ids": batch["input_ids"] + 1}

    with pytest.raises(ValueError, match="must not change tokens, got .* from other"):
        check_collator(other, processor)


def test_unknown_words_must_stay_targets():
    processor = TraceProcessor(metaspace())  # PAD is the unknown word, as in Llama 2
    with pytest.raises(ValueError, match="must keep unknown words targets.* .PAD is '<unk>'"):
        check_collator(language_modeling(processor), processor)


def test_collators_that_keep_all_pass(processor):
    own_pad = TraceProcessor(word_level())
    assert len({own_pad.pad_token_id, own_pad.eos_token_id, own_pad.bos_token_id}) == 2
    check_collator(language_modeling(own_pad), own_pad)
    own_pad.tokenizer.padding_side = "left"
    check_collator(language_modeling(own_pad, pad_to_multiple_of=8), own_pad)
    check_collator(TraceDataCollator(processor), processor)
    check_collator(TraceDataCollator(processor.tokenizer), processor.tokenizer)
    # these take the labels of the data set
    check_collator(DataCollatorWithPadding(processor.tokenizer), processor)
    check_collator(DataCollatorForSeq2Seq(processor.tokenizer), processor)
    check_collator(default_data_collator, processor)
