"""Files as rows: a text is what stands there, and what does not fit is an error with its file and line."""

import csv
import json

import datasets
import pytest
from datasets import Dataset
from helpers.files import own_cache  # noqa: F401
from helpers.tokenizers import byte_level
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_trace.data import FixedLengthSegmenter, TraceProcessor, load_texts
from modeling_trace.data.files import FileSettings, read_rows

pytestmark = pytest.mark.usefixtures("own_cache")


def write(path, content, encoding="utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return str(path)


def texts_of(file, streaming=False, **settings):
    """Texts, or (prompt, text) with prompts."""
    train, _ = load_texts(file, validation_split=None, streaming=streaming, **settings)
    names = ("prompt", "text") if settings.get("conditional") else ("text",)
    rows = [tuple(row[name] for name in names) for row in train]
    rows = [row[0] if len(row) == 1 else row for row in rows]
    return sorted(rows) if streaming else rows  # a stream is shuffled


def refused(match, file, **settings):
    """Loading `file`, whole and as a stream, is an error of one line."""
    for streaming in (False, True):
        with pytest.raises(ValueError, match=match) as error:
            texts_of(file, streaming=streaming, **settings)
        assert "\n" not in str(error.value)


# .csv and .tsv


@pytest.mark.parametrize("streaming", [False, True])
def test_a_text_is_what_stands_there(streaming, tmp_path):
    words = ["None", "N/A", "null", "nan", "NaN", "NA", "1.0", "007", "true", "1e5", " a ", "<NA>", "-"]
    file = write(tmp_path / "a.csv", "text,stars\n" + "".join(f"{word},5\n" for word in words))
    assert texts_of(file, streaming) == (sorted(words) if streaming else words)
    file = write(tmp_path / "b.csv", "title,story\n" + "".join(f"{word},{word}!\n" for word in words))
    pairs = [(word, f"{word}!") for word in words]
    assert texts_of(file, streaming, conditional=True) == (sorted(pairs) if streaming else pairs)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_told_from_the_first_line(delimiter, tmp_path):
    rows = [("Good food, cheap; I went | back.\t!", "5"), ('She said "no".', "4,5"), ("Two\nlines.", "3")]
    quoted = [[f'"{value.replace(chr(34), 2 * chr(34))}"' for value in row] for row in rows]
    content = "\n".join(delimiter.join(row) for row in [["text", "stars"], *quoted])
    assert texts_of(write(tmp_path / "a.csv", content)) == [text for text, _ in rows]
    assert texts_of(write(tmp_path / "b.csv", content), delimiter=delimiter) == [text for text, _ in rows]
    assert texts_of(write(tmp_path / "c.csv", content.replace("\n", "\r\n")))[0] == rows[0][0]
    if delimiter == "\t":
        assert texts_of(write(tmp_path / "a.tsv", content)) == [text for text, _ in rows]


def test_delimiters_that_cannot_be_told(tmp_path):
    # both split the first line, one of them all lines alike
    assert texts_of(write(tmp_path / "a.csv", "text;a,b\nGood;x\nBad;y,z,w\n")) == ["Good", "Bad"]
    both = write(tmp_path / "b.csv", "text;a,b\nGood;x,y\n")
    refused("`delimiter` cannot be told for '.*b.csv'.*--delimiter ';'", both)
    assert texts_of(both, delimiter=";") == ["Good"]
    refused("`delimiter` must be one character, got ', '", both, delimiter=", ")
    refused("`delimiter` is for .csv files, got ';'", write(tmp_path / "a.txt", "a\n"), delimiter=";")
    refused(
        "`delimiter` is for files, got ';' for a data set in memory", Dataset.from_dict({"text": ["a"]}), delimiter=";"
    )
    assert texts_of(write(tmp_path / "c.csv", "text\ta\nGood\tx\n"), delimiter=r"\t") == ["Good"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("text,note\nGood food.,nice,\n", "must have 2 fields in each line, as in its first, got 3 in line 2"),
        ("text,note\na,b\n\nGood food.\n", "must have 2 fields .*, got 1 in line 4"),
        ("text\nGood food, cheap.\n", r"must have 1 fields .*, got 2 in line 2 \(separated by ','\)"),
        ('text,note\n"a\nb",c\n"a\nb"x,c\n', "from line 4 on: ',' expected after '\"'"),
        ('text,note\n"a,b\n', "from line 2 on: unexpected end of data"),
        ("text,note,note\na,b,c\n", "line of column names, got 'note' twice"),
        ("Good food.\nToo loud.\n", "called text, review, .*: its first line has 'Good food.'. Where that is a text"),
        ("Good food.,5\nToo loud.,2\n", "its first line has 'Good food.', '5'"),
        ("text,note\n,b\n", r"1 row \(0\) without text in the column 'text'"),
        ("text,note\n", "got 0 rows in"),
        ("", "got 0 rows in"),
    ],
)
def test_lines_that_are_not_what_the_first_says(content, message, tmp_path):
    refused(message, write(tmp_path / "a.csv", content))


def test_columns_of_tables_are_named_or_known(tmp_path):
    # an index without a name, as pandas writes it; a column of any name when asked for; numbers when asked for
    file = write(tmp_path / "a.csv", ",notes,stars\n0,Good.,5\n1,Bad.,2\n")
    refused("`text_column` must be given for a .csv file", file)
    assert texts_of(file, text_column="notes") == ["Good.", "Bad."]
    assert texts_of(file, text_column="stars") == ["5", "2"]
    refused("`text_column` 'note' is not in .*Did you mean 'notes'?", file, text_column="note")


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=8), delimiter=st.sampled_from(",;\t|"))
def test_any_text_comes_back(rows, delimiter, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "a.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("text", "note"), *rows])
    for wanted in (FileSettings(), FileSettings(delimiter=delimiter)):
        found = [(row["text"], row["note"]) for _, row in read_rows(str(path), wanted)]
        assert found == rows
    path = path.with_suffix(".jsonl")
    path.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text, _ in rows), encoding="utf-8"
    )
    assert [row["text"] for _, row in read_rows(str(path), FileSettings())] == [text for text, _ in rows]


def test_long_fields(tmp_path):
    text = "word " * 40_000  # the csv module's own limit is 131,072 characters
    assert texts_of(write(tmp_path / "a.csv", f"text,n\n{text},1\n")) == [text]


def test_every_file_has_the_column(tmp_path):
    write(tmp_path / "a.csv", "text,n\nGood.,1\n")
    write(tmp_path / "b.csv", "texts,n\nBad.,1\n")
    for drop_empty in (False, True):
        refused(
            r"must have the column 'text' in every file, but '.*b.csv' has only texts, n",
            str(tmp_path / "*.csv"),
            drop_empty=drop_empty,
        )
    write(tmp_path / "b.csv", "n;text\n1;Bad.\n")  # another order and separator is all right
    assert texts_of(str(tmp_path / "*.csv")) == ["Good.", "Bad."]


def test_csv_on_the_hub_is_read_as_a_file(tmp_path, monkeypatch):
    builder = datasets.load_dataset_builder(
        "csv", data_files={"train": [write(tmp_path / "a.csv", "text;n\nNone;1\n")]}
    )
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, name: builder)
    assert texts_of("org/reviews") == ["None"]
    refused("`split` 'test' is not in 'org/reviews', which has train", "org/reviews", split="test")


# .jsonl and .json


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_other_columns_are_not_read(tmp_path):
    write(tmp_path / "a.jsonl", lines({"text": "a", "user": None}, {"text": "b", "user": None}))
    write(tmp_path / "b.jsonl", lines({"text": "c", "user": "x"}, {"user": {"id": 5}, "text": "d"}))
    for streaming in (False, True):
        assert texts_of(str(tmp_path / "*.jsonl"), streaming) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", lines({"text": "a"}, {"text": 5}), r"got 5 \(int\) in the column 'text' of line 2 of '.*a.jsonl'"),
        ("a.jsonl", lines({"text": "a"}, {"text": ["b"]}), r"got \['b'\] \(list\) in the column 'text' of line 2"),
        ("a.jsonl", "", "must hold at least one text, got 0 rows in '.*a.jsonl'"),
        ("a.jsonl", "\n \n", "got 0 rows in"),
        ("a.jsonl", lines({"text": "a"}) + '{"text": "b', "a.jsonl' could not be read: line 2 is no JSON"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "x \\ud83d y"}\n',
            "half of one .a lone surrogate. in the column 'text' of line 2",
        ),
        ("a.jsonl", '[{"text": "a"}]\n', "got a list in line 1. A file that is one list must end in .json"),
        ("a.json", '{"a": [{"text": "b"}], "c": [{"text": "d"}]}', "must hold one list of rows, got a, c"),
        ("a.json", '["a", "b"]', "got a list of other values. A file of one text per line must end in .txt"),
        ("a.json", '[{"text": "a"}, {"text": 1}]', r"got 1 \(int\) in the column 'text' of row 1 of"),
        ("a.json", '[{"text": "a"}', "is no JSON"),
        ("a.jsonl.gz", b"no gz", "is no whole .gz file"),
        ("a.parquet", b"no parquet", "could not be read"),
    ],
)
def test_bad_rows(name, content, message, tmp_path):
    refused(message, write(tmp_path / name, content))


def test_json_with_its_rows_under_a_name(tmp_path):
    rows = [{"text": "a", "n": 1}, {"text": "b"}]
    assert texts_of(write(tmp_path / "a.json", json.dumps({"version": "1.0", "data": rows}, indent=1))) == ["a", "b"]
    assert texts_of(write(tmp_path / "b.json", lines(*rows))) == ["a", "b"]
    assert texts_of(write(tmp_path / "c.json", lines(rows[0]))) == ["a"]


def test_a_changed_file_is_read_again(tmp_path):
    file = write(tmp_path / "a.jsonl", lines({"text": "a"}))
    assert texts_of(file) == ["a"]
    write(tmp_path / "a.jsonl", lines({"text": "bc"}))
    assert texts_of(file) == ["bc"]


def test_slices_and_sums_of_splits(tmp_path):
    for name in ("train", "test"):
        write(tmp_path / f"{name}.csv", "text,n\n" + "".join(f"{name} {n},1\n" for n in range(10)))
    assert texts_of(str(tmp_path), split="train[8:]+test[:10%]") == ["train 8", "train 9", "test 0"]
    with pytest.raises(ValueError, match="`split` 'train.:5.\\+tset' is not in .*, which has t") as error:
        texts_of(str(tmp_path), split="train[:5]+tset")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError) as error:
        texts_of(str(tmp_path), split="train[a:b]")
    assert "\n" not in str(error.value)


# encodings


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_encodings(kind, tmp_path):
    texts = ["Café crème.", "Über alles."]
    content = {
        "csv": "text,n\n" + "".join(f"{text},1\n" for text in texts),
        "jsonl": "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts),
        "txt": "\n".join(texts),
    }[kind]
    assert texts_of(write(tmp_path / f"bom.{kind}", content, "utf-8-sig")) == texts
    for encoding, remedy in (("latin-1", "latin-1"), ("utf-16", "utf-16"), ("utf-16-le", "utf-16-le")):
        file = write(tmp_path / f"a.{kind}", content, encoding)
        refused(f"`encoding` must be that of '.*', which is not UTF-8.*--encoding {remedy}", file)
        assert texts_of(file, encoding=remedy) == texts  # the remedy helps
    refused("which is not UTF-8 in line 2", write(tmp_path / f"b.{kind}", "text\nü\n", "latin-1"))
    refused("which is not ascii in line ", write(tmp_path / f"c.{kind}", content), encoding="ascii")
    refused("`encoding` is unknown, got 'latin-x'", str(tmp_path / f"c.{kind}"), encoding="latin-x")


def test_lone_surrogates_by_row():
    processor = TraceProcessor(byte_level(), FixedLengthSegmenter(4))
    with pytest.raises(ValueError, match="half of one.* in row 1"):
        processor(["fine", "not \udce9 fine"])
