"""The collator: what is a target and what is not."""

import numpy as np
import pytest
import torch
from helpers.tokenizers import TEXTS, byte_level

from modeling_trace.data import FixedLengthSegmenter, TraceDataCollator, TraceProcessor


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
