"""Preparation: rows of tokens are the processor's, cached, fitted once, and bad rows are named."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import datasets
import nltk
import pytest
from datasets import Dataset
from helpers.files import own_cache, write_jsonl  # noqa: F401
from helpers.tokenizers import TEXTS, byte_level, punkt

from modeling_trace.data import (
    FixedLengthSegmenter,
    RegexSegmenter,
    SentenceSegmenter,
    TraceProcessor,
    load_texts,
    preparation,
    prepare_dataset,
)

ROWS = [f"Review number {number}. It was good." for number in range(20)]
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def no_punkt_data(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])


@pytest.fixture
def processor():
    return TraceProcessor(byte_level(), FixedLengthSegmenter(4), separator="token")


def test_more_processes_than_texts(processor, caplog):
    dataset = Dataset.from_dict({"text": TEXTS[:2]})
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        prepared = prepare_dataset(dataset, processor, num_proc=5)
    finally:
        logger.removeHandler(caplog.handler)
    assert "`num_proc` is 5 for 2 texts: 2 processes are used." in caplog.text
    assert prepared[:] == processor(TEXTS[:2]).data
    for num_proc in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"`num_proc` must be an integer >= 1, got {num_proc}"):
            prepare_dataset(dataset, processor, num_proc=num_proc)
    with pytest.raises(ValueError, match="`num_proc` is for data sets that are tokenized before training, got 2"):
        prepare_dataset(dataset.to_iterable_dataset(), processor, num_proc=2)


CACHE_SCRIPT = """
import sys
sys.path[:0] = [{tests!r}, {package!r}]
import datasets
from helpers.tokenizers import byte_level
from modeling_trace.data import SentenceSegmenter, TraceProcessor, load_texts, prepare_dataset

encode, count = TraceProcessor.encode_rows, 0

def counted(self, texts, **kwargs):
    global count
    count += len(texts)
    return encode(self, texts, **kwargs)

TraceProcessor.encode_rows = counted
texts, validation = load_texts(sys.argv[1])
for part in (texts, validation):
    processor = TraceProcessor(byte_level(), SentenceSegmenter(), separator="token")
    prepare_dataset(part, processor, max_length=int(sys.argv[2]))
print("encoded", count)
"""


@pytest.mark.slow
def test_second_process_finds_the_tokens_in_the_cache(tmp_path):
    tests = Path(__file__).parents[1]
    file = write_jsonl(tmp_path / "reviews.jsonl", ROWS)
    (tmp_path / "script.py").write_text(CACHE_SCRIPT.format(tests=str(tests), package=str(tests.parent)))
    counts = []
    for seed, max_length in (("1", "20"), ("2", "20"), ("2", "12")):
        environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONHASHSEED": seed}
        command = [sys.executable, str(tmp_path / "script.py"), file, max_length]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr[-3000:]
        counts.append(int(run.stdout.split()[-1]))
    assert counts == [20, 0, 20]


def test_fingerprint_is_of_the_tokens(processor, tmp_path):
    def fingerprint(rows, **settings):
        return preparation.fingerprint_texts(prepare_dataset(Dataset.from_dict({"text": rows}), processor, **settings))

    first = fingerprint(ROWS)
    texts, _ = load_texts(write_jsonl(tmp_path / "reviews.jsonl", ROWS), validation_split=None)
    assert preparation.fingerprint_texts(prepare_dataset(texts, processor)) == first
    stream = prepare_dataset(texts.to_iterable_dataset(), processor)
    assert preparation.fingerprint_texts(stream) == first
    others = [ROWS[::-1], ROWS[:-1], [*ROWS[:-1], "Another."]]
    assert len({first, *map(fingerprint, others), fingerprint(ROWS, max_length=9)}) == 5
    # the same tokens in all, in other rows
    moved = [Dataset.from_dict({"input_ids": rows}) for rows in ([[1, 2], [3]], [[1], [2, 3]])]
    assert preparation.fingerprint_texts(moved[0]) != preparation.fingerprint_texts(moved[1])


def test_prepare_is_the_processor_on_every_row(processor):
    dataset = Dataset.from_dict({"text": TEXTS, "stars": list(range(len(TEXTS)))})
    for settings in ({}, {"max_length": 12}):
        prepared = prepare_dataset(dataset, processor, **settings)
        assert prepared.column_names == ["input_ids", "attention_mask"]
        assert prepared[:] == processor(TEXTS, **settings).data
    renamed = dataset.rename_column("text", "review").with_format("torch")
    assert prepare_dataset(renamed, processor, text_column="review")[:] == processor(TEXTS).data


def test_prepare_fits_punkt_to_the_training_texts():
    dataset = Dataset.from_dict({"text": TEXTS})
    processor = TraceProcessor(byte_level(), SentenceSegmenter(), separator="token")
    prepared = prepare_dataset(dataset, processor)
    assert processor.segmenter == SentenceSegmenter().fit(TEXTS)
    punkt = processor.segmenter.to_dict()["punkt"]
    assert prepared["input_ids"][0].count(processor.sep_token_id) == 2
    prepare_dataset(Dataset.from_dict({"text": ["Another text. And more."]}), processor)
    assert processor.segmenter.to_dict()["punkt"] == punkt  # fitted once


def test_prepare_names_bad_rows_of_the_whole_dataset(processor):
    rows = ["fine"] * 1500
    with pytest.raises(ValueError, match=r"has 1 row \(1400\) with '\[SEP\]' in the text"):
        prepare_dataset(Dataset.from_dict({"text": [*rows[:1400], "not [SEP] fine"]}), processor)
    with pytest.raises(ValueError, match=r"has 1 row \(3\) with '<\|endoftext\|>' in the text"):
        prepare_dataset(Dataset.from_dict({"text": [*rows[:3], "<|endoftext|>"]}), processor)
    with pytest.raises(ValueError, match=r"has 1 row \(2\) without text"):
        prepare_dataset(Dataset.from_dict({"text": [*rows[:2], ""]}), processor)
    with pytest.raises(ValueError, match="which has text. Did you mean 'text'?"):
        prepare_dataset(Dataset.from_dict({"text": rows}), processor, text_column="texts")
    with pytest.raises(ValueError, match="must be a TraceProcessor"):
        prepare_dataset(Dataset.from_dict({"text": rows}), processor.tokenizer)


def test_rows_without_tokens_are_numbered_over_batches(processor, monkeypatch):
    monkeypatch.setattr(preparation, "check_rows", lambda *args: None)
    with pytest.raises(ValueError, match="in row 1200"):
        prepare_dataset(Dataset.from_dict({"text": ["fine"] * 1200 + [" "]}), processor)


# streams


def test_streamed_tokens_are_those_of_the_data_set(processor):
    dataset = Dataset.from_dict({"text": TEXTS, "stars": list(range(len(TEXTS)))})
    prepared = prepare_dataset(dataset.to_iterable_dataset(), processor, max_length=12)
    assert list(prepared) == list(prepare_dataset(dataset, processor, max_length=12))
    conditional = TraceProcessor(byte_level(), FixedLengthSegmenter(4), conditional=True)
    dataset = dataset.rename_column("stars", "prompt").cast_column("prompt", datasets.Value("string"))
    assert list(prepare_dataset(dataset.to_iterable_dataset(), conditional)) == list(
        prepare_dataset(dataset, conditional)
    )
    with pytest.raises(ValueError, match="the model is not conditional"):
        prepare_dataset(dataset.to_iterable_dataset(), processor)
    with pytest.raises(ValueError, match="`text_column` 'texts' .* Did you mean 'text'?"):
        prepare_dataset(dataset.to_iterable_dataset(), conditional, text_column="texts")


def test_control_tokens_in_a_stream_name_the_row_of_the_file(processor, tmp_path):
    rows = [f"fine {number}" for number in range(250)]
    rows[3], rows[170] = "", "not [SEP] fine"
    file = write_jsonl(tmp_path / "reviews.jsonl", rows)
    # neither the rows that are left out nor the shuffling change the number
    stream, _ = load_texts(file, streaming=True, drop_empty=True, validation_split=20)
    with pytest.raises(ValueError, match=r"control token '\[SEP\]', got it in row 170:"):
        list(prepare_dataset(stream, processor))


# segments


@pytest.fixture
def warnings_of(caplog):
    """The warnings of a call."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)

    def call(function, *args):
        caplog.clear()
        function(*args)
        return caplog.text

    yield call
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("separator", ["token", "none"])
def test_texts_of_one_segment_are_warned_of(separator, stream, warnings_of):
    thai = [f"ฉันไปตลาด {number} แล้วกลับบ้าน" for number in range(30)]
    some = [f"We came at noon. It was good. Number {number}!" for number in range(20)] + thai[:10]
    tokenizer = byte_level(some)

    def prepare(texts, segmenter):
        dataset = Dataset.from_dict({"text": texts})
        processor = TraceProcessor(tokenizer, segmenter, separator=separator)
        prepare_dataset(dataset.to_iterable_dataset() if stream else dataset, processor)

    found = warnings_of(prepare, thai, SentenceSegmenter())
    assert "`segmenter` finds one segment in 30 of the first 30 texts" in found
    assert ("separator='token'" in found) == (separator == "none")
    assert "finds one segment" not in warnings_of(prepare, some, SentenceSegmenter(punkt=punkt()))  # 10 of 30
    assert "finds one segment" not in warnings_of(prepare, thai[:10], SentenceSegmenter())  # not many
    assert "finds one segment" not in warnings_of(prepare, thai, FixedLengthSegmenter(100))
    if separator == "token":  # the remedy helps
        assert "finds one segment" not in warnings_of(prepare, thai, RegexSegmenter(r"\s+"))
