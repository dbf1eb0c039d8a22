"""Loading: every kind of source gives the same texts, and bad data is refused before any long work."""

import doctest
import gzip
import json
import logging
import shutil
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict
from helpers.files import own_cache, write_jsonl  # noqa: F401
from helpers.tokenizers import byte_level

from modeling_trace.data import (
    FixedLengthSegmenter,
    TraceProcessor,
    load_texts,
    loading,
    prepare_dataset,
    streaming,
)

ROWS = [f"Review number {number}. It was good." for number in range(20)]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def processor():
    return TraceProcessor(byte_level(), FixedLengthSegmenter(4), separator="token")


# sources


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "csv.gz", "parquet", "txt", "txt.gz"])
def test_local_files(kind, tmp_path):
    path = tmp_path / f"reviews.{kind}"
    open_ = gzip.open if kind.endswith(".gz") else open
    if kind.startswith("jsonl"):
        write_jsonl(path, ROWS, open_)
    elif kind.startswith("txt"):
        with open_(path, "wt", encoding="utf-8") as file:
            file.write("\n".join(ROWS) + "\n")
    elif kind.startswith("csv"):
        with open_(path, "wt", encoding="utf-8") as file:
            file.write("text\n" + "\n".join(ROWS) + "\n")
    elif kind == "json":
        path.write_text(json.dumps([{"text": row} for row in ROWS]), encoding="utf-8")
    else:
        Dataset.from_dict({"text": ROWS}).to_parquet(path)
    train, validation = load_texts(str(path), validation_split=None)
    assert train["text"][:] == ROWS and validation is None
    train, validation = load_texts(path, validation_split=5)
    assert len(train) == 15 and sorted([*train["text"], *validation["text"]]) == sorted(ROWS)


def test_blank_lines_of_a_text_file_are_no_texts(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n  \nthree\n", encoding="utf-8")
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        train, _ = load_texts(str(tmp_path / "a.txt"), validation_split=None)
    finally:
        logger.removeHandler(caplog.handler)
    assert train["text"][:] == ["one", "two", "three"] and "Dropped 2 blank lines" in caplog.text


def test_folders_and_globs(tmp_path):
    for name in ("train", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", [f"{name} {row}" for row in ROWS])
    train, validation = load_texts(str(tmp_path), validation_split="test")
    assert train["text"][0].startswith("train") and validation["text"][0].startswith("test")
    assert len(load_texts(str(tmp_path), split="train[:5]", validation_split=None)[0]) == 5
    assert len(load_texts(str(tmp_path / "*.jsonl"), validation_split=None)[0]) == 40
    with pytest.raises(ValueError, match="`split` 'trian' is not in .*, which has train, test. Did you mean 'train'?"):
        load_texts(str(tmp_path), split="trian")
    with pytest.raises(ValueError, match="`validation_split` 'valid' is not in .*Use a fraction such as 0.1"):
        load_texts(str(tmp_path), validation_split="valid")


def test_built_in_reviews():
    train, validation = load_texts("reviews", max_texts=50)
    assert len(train) == 45 and len(validation) == 5 and "aspects" in train.column_names
    again, _ = load_texts("reviews", max_texts=50)
    assert again["text"][:] == train["text"][:]


def test_hub_names(monkeypatch):
    calls = []

    def load_dataset(path, name=None, split=None):
        calls.append((path, name, split))
        return Dataset.from_dict({"text": ROWS})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, name: None)
    load_texts("org/reviews")
    load_texts("org/reviews:small.v1", split="part", validation_split="test")
    assert calls == [
        ("org/reviews", None, "train"),
        ("org/reviews", "small.v1", "part"),
        ("org/reviews", "small.v1", "test"),
    ]


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("No such\nthing."),
        ConnectionError("Offline.\n"),
        ValueError("Pick\none."),
    ],
)
def test_hub_errors_take_one_line(error, monkeypatch):
    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset)
    with pytest.raises(ValueError, match="org/reviews") as caught:
        load_texts("org/reviews")
    assert "\n" not in str(caught.value)


# columns and sizes


def test_text_column():
    def names(columns, **settings):
        dataset = Dataset.from_dict({name: values * 5 for name, values in columns.items()})
        return load_texts(dataset, validation_split=None, **settings)[0]

    assert names({"anything": ["a"]}).column_names == ["text"]
    assert names({"stars": [1], "Review": ["a"]})[0] == {"stars": 1, "text": "a"}
    assert names({"title": ["t"], "story": ["a"]})[0] == {"title": "t", "text": "a"}
    assert names({"notes": ["a"], "stars": [1]})["text"][0] == "a"
    assert names({"notes": ["a"], "text": ["t"]}, text_column="notes")[0] == {"text": "a"}
    with pytest.raises(ValueError, match="`text_column` must be given for this data set. The columns are notes"):
        names({"notes": ["a"], "title": ["t"]})
    with pytest.raises(ValueError, match="`text_column` 'note' .* which has notes, title. Did you mean 'notes'?"):
        names({"notes": ["a"], "title": ["t"]}, text_column="note")
    with pytest.raises(ValueError, match="must hold texts, got 'stars' of type int64"):
        names({"stars": [1]}, text_column="stars")
    with pytest.raises(ValueError, match="must hold texts, got 'words' of type List"):
        names({"words": [["a"]]})


def test_splits_are_seeded_and_apart():
    dataset = Dataset.from_dict({"text": ROWS})
    train, validation = load_texts(dataset, validation_split=0.2, seed=1)
    assert len(train) == 16 and not set(train["text"]) & set(validation["text"])
    assert load_texts(dataset, validation_split=0.2, seed=1)[1]["text"][:] == validation["text"][:]
    assert load_texts(dataset, validation_split=0.2, seed=2)[1]["text"][:] != validation["text"][:]
    some = load_texts(dataset, max_texts=10, validation_split=None)[0]["text"][:]
    assert len(set(some)) == 10 and some != ROWS[:10] and set(some) != set(ROWS[:10])  # drawn, not the first
    train, validation = load_texts(dataset, max_texts=10, validation_split=0.5)
    assert len(train) == len(validation) == 5
    assert load_texts(dataset, max_texts=100, validation_split=None)[0]["text"][:] == ROWS
    assert len(load_texts(dataset, validation_split=0.001)[1]) == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"validation_split": 1.0}, "fraction between 0 and 1"),
        ({"validation_split": -1}, "fraction between 0 and 1"),
        ({"validation_split": True}, "fraction between 0 and 1"),
        ({"validation_split": 20}, "must leave texts to train on, got 20 of 20 texts"),
        ({"validation_split": "test"}, "this data set has none"),
        ({"max_texts": 0}, "`max_texts` must be an integer >= 1"),
    ],
)
def test_bad_sizes(settings, message):
    with pytest.raises(ValueError, match=message):
        load_texts(Dataset.from_dict({"text": ROWS}), **settings)


# bad data


@pytest.mark.parametrize(
    "name, message",
    [
        ("reveiws", "Did you mean 'reviews'?"),
        ("nothing", "neither a file here nor a Hub id"),
        ("{}/revews.jsonl", "file not found.* Did you mean 'reviews.jsonl'?"),
        ("{}/nowhere/x.csv", "file not found"),
        ("{}/x.xml", "must end in .jsonl.* got the unknown extension of 'x.xml'"),
        ("{}/q*.csv", "matches no file"),
        ("{}", "must be of one kind, got json, text"),
        ("{}/empty", "got none in the folder"),
        ("{}/saved", "Pass datasets.load_from_disk"),
        ("{}/bad.jsonl", "could not be read"),
        ("{}/holes.jsonl", r"has 3 rows \(1, 3, 4\) without text in the column 'text'. Leave them out by"),
    ],
)
def test_bad_sources(name, message, tmp_path):
    write_jsonl(tmp_path / "reviews.jsonl", ROWS)
    write_jsonl(tmp_path / "holes.jsonl", ["a", "", "b", None, "  "])
    (tmp_path / "bad.jsonl").write_text('{"text": "a"\n{"te', encoding="utf-8")
    (tmp_path / "x.xml").write_text("<a/>", encoding="utf-8")
    (tmp_path / "x.txt").write_text("a", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    Dataset.from_dict({"text": ROWS}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=message) as error:
        load_texts(name.format(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("function", [load_texts, lambda dataset: prepare_dataset(dataset, None)])
def test_what_is_no_dataset(function):
    dataset = Dataset.from_dict({"text": ROWS})
    with pytest.raises(ValueError, match=r"got a DatasetDict of train, test. Use dataset\['train'\]"):
        function(DatasetDict(train=dataset, test=dataset))
    with pytest.raises(ValueError, match="From a list of texts"):
        function(ROWS)


def test_empty_datasets():
    with pytest.raises(ValueError, match="at least one text, got 0 rows"):
        load_texts(Dataset.from_dict({"text": []}))
    with pytest.raises(ValueError, match=r"has 2 rows \(0, 1\) without text"):
        load_texts(Dataset.from_dict({"text": [None, None]}))
    with pytest.raises(ValueError, match=r"has 30000 rows \(0, 1, 2, 3, 4, ...\)"):
        load_texts(Dataset.from_dict({"text": [""] * 30_000}))
    with pytest.raises(ValueError, match=r"has 1 row \(25000\)"):
        load_texts(Dataset.from_dict({"text": ["a"] * 25_000 + [None]}))


@pytest.mark.parametrize("step", ["load", "load where no folder can be", "prepare"])
def test_cache_that_cannot_be_written(step, tmp_path, processor, monkeypatch):
    file = write_jsonl(tmp_path / "reviews.jsonl", ROWS)
    texts, _ = load_texts(file, validation_split=None)
    if step == "load":
        # a file in the place of the folder: permissions would not stop a superuser
        (tmp_path / "cache").write_text("")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        folder = tmp_path / "cache"
    elif step == "load where no folder can be":
        folder = Path("/proc/cache")  # not found, like a data set
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    else:
        folder = Path(texts.cache_files[0]["filename"]).parent
        shutil.rmtree(folder)
        folder.write_text("")
    with pytest.raises(ValueError, match="`HF_DATASETS_CACHE` must be a folder that can be written") as error:
        if step != "prepare":
            load_texts(file, validation_split=None)
        else:
            prepare_dataset(texts, processor)
    assert f"got '{folder}'" in str(error.value) and "Set that environment variable" in str(error.value)


# streams


def test_streamed_texts_are_those_of_the_file(tmp_path):
    file = write_jsonl(tmp_path / "reviews.jsonl", [*ROWS, "", None], column="review")
    stream, validation = load_texts(file, streaming=True, drop_empty=True, validation_split=3)
    assert validation.column_names == ["text"] and validation["text"][:] == ROWS[:3]
    texts = [row["text"] for row in stream]
    assert sorted(texts) == sorted(ROWS[3:]) and texts != ROWS[3:]  # shuffled
    stream, validation = load_texts(file, streaming=True, max_texts=5, validation_split=None)
    assert sorted(row["text"] for row in stream) == sorted(ROWS[:5]) and validation is None
    with pytest.raises(ValueError, match=r"has 1 row \(20\) without text in the column 'review'"):
        list(load_texts(file, streaming=True, validation_split=3)[0])


def test_streams_of_every_kind(tmp_path):
    (tmp_path / "lines.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    for name in ("train", "test"):
        write_jsonl(tmp_path / "splits" / f"{name}.jsonl", [f"{name} {row}" for row in ROWS])
    memory = Dataset.from_dict({"text": ROWS, "stars": list(range(20))})
    for source, first in (
        (str(tmp_path / "lines.txt"), "one"),
        (memory, ROWS[0]),
        (memory.to_iterable_dataset(), ROWS[0]),
    ):
        stream, _ = load_texts(source, streaming=True, max_texts=1, validation_split=None)
        assert [row["text"] for row in stream] == [first]
    assert next(iter(load_texts("reviews", streaming=True, max_texts=2, validation_split=1)[0]))["text"]
    stream, validation = load_texts(str(tmp_path / "splits"), streaming=True, validation_split="test")
    assert len(validation) == 20 and validation["text"][0].startswith("test")
    assert {row["text"].split()[0] for row in stream} == {"train"}
    prompts = Dataset.from_dict({"title": ROWS, "story": ["a"] * 20})
    stream, _ = load_texts(prompts, streaming=True, conditional=True, max_texts=1, validation_split=None)
    row = next(iter(stream))
    assert row["prompt"] == ROWS[0] and row["text"] == "a"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "`validation_split` must be a number of texts, a split or None for a stream.* got the fraction 0.1"),
        ({"validation_split": 5, "max_texts": 5}, "must leave texts to train on, got 5 of `max_texts` 5"),
        ({"validation_split": 20}, "must hold more texts than `validation_split`, got 20 texts in all"),
        ({"validation_split": None, "split": "train[:5]"}, "`split` must be a whole split for a stream"),
        ({"validation_split": None, "split": "trian"}, "Did you mean 'train'?"),
        ({"validation_split": None, "text_column": "txt"}, "Did you mean 'text'?"),
    ],
)
def test_bad_streams(settings, message, tmp_path):
    file = write_jsonl(tmp_path / "reviews.jsonl", ROWS)
    with pytest.raises(ValueError, match=message) as error:
        load_texts(file, streaming=True, **settings)
    assert "\n" not in str(error.value)


def test_numbers_in_a_stream_are_no_texts(tmp_path):
    rows = [{"text": "a"}] * 200 + [{"text": 5}]
    with pytest.raises(ValueError, match=r"must hold texts, got 5 \(int\) in the column 'text' of row 200"):
        list(streaming._checked_rows(rows, {"text": "text"}, False))
    with pytest.raises(ValueError, match="`text_column` must hold texts, got 'text' of type int"):
        load_texts(Dataset.from_dict({"text": [1, 2]}), streaming=True, validation_split=None)
    with pytest.raises(ValueError, match="at least one text, got 0 rows"):
        load_texts(Dataset.from_dict({"text": []}), streaming=True, validation_split=None)


def test_control_tokens_in_a_stream_name_the_row_of_the_file(processor, tmp_path):
    rows = [f"fine {number}" for number in range(250)]
    rows[3], rows[170] = "", "not [SEP] fine"
    file = write_jsonl(tmp_path / "reviews.jsonl", rows)
    # neither the rows that are left out nor the shuffling change the number
    stream, _ = load_texts(file, streaming=True, drop_empty=True, validation_split=20)
    with pytest.raises(ValueError, match=r"control token '\[SEP\]', got it in row 170:"):
        list(prepare_dataset(stream, processor))


def test_doctests():
    results = doctest.testmod(loading)
    assert results.attempted > 3 and results.failed == 0
