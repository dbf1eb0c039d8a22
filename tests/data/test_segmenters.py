"""Where segments start: at the expected words, for every kind of tokenizer."""

import doctest
import json
import pickle

import nltk
import pytest
from helpers.tokenizers import TOKENIZERS, byte_level, punkt, random_texts

from modeling_trace.data import FixedLengthSegmenter, RegexSegmenter, Segmenter, SentenceSegmenter, TraceProcessor
from modeling_trace.data import segmenters as module

# text, its sentences; the blanks between them may fall on either side
SENTENCES = [
    ("The soup was cold. We waited for an hour!  Sorry.", ["The soup was cold.", "We waited for an hour!", "Sorry."]),
    ("Dr. Brown came. He ate.", ["Dr. Brown came.", "He ate."]),
    ('She said: "Come back!" We did.', ['She said: "Come back!"', "We did."]),
    ("So good!\n\nThe second time, too.", ["So good!", "The second time, too."]),
    ("We smile. 😀 They smile. Ünder 5 €!", ["We smile.", "😀 They smile.", "Ünder 5 €!"]),
    ("Wow ! ! We did. :)", ["Wow ! !", "We did. :)"]),
    ("No full stop here", ["No full stop here"]),
    ("राम आया। उसने खाया। कब? आज।", ["राम आया।", "उसने खाया।", "कब?", "आज।"]),
    ("وہ آیا۔ کیا وہ گیا؟ ہاں۔", ["وہ آیا۔", "کیا وہ گیا؟", "ہاں۔"]),
]


@pytest.fixture(autouse=True)
def no_punkt_data(monkeypatch):
    """As on a machine without NLTK data, whatever this one has."""
    monkeypatch.setattr(nltk.data, "path", [])


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def pieces(tokenizer, segmenter, text):
    processor = TraceProcessor(tokenizer, segmenter, separator="token")
    return processor.split(processor(text)["input_ids"])


def plain(tokenizer, text):
    """What the tokenizer leaves of a text."""
    return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).strip()


# fixed length


def test_fixed_length():
    segmenter = FixedLengthSegmenter(3)
    assert segmenter.cut("", [None] * 7) == [3, 6]
    assert segmenter.cut("", [None] * 6) == [3]
    assert segmenter.cut("", [None] * 3) == segmenter.cut("", [None]) == []
    assert FixedLengthSegmenter().segment_length == 10 and RegexSegmenter("x").segment_length is None


# sentences


@pytest.mark.parametrize("text, expected", SENTENCES)
def test_segments_are_sentences(tokenizer, text, expected):
    segmenter = SentenceSegmenter(punkt=punkt())
    assert segmenter.sentences(text) == expected
    got = [piece.strip() for piece in pieces(tokenizer, segmenter, text)]
    assert got == [plain(tokenizer, sentence) for sentence in expected]


def test_sentences_without_spaces_between_them():
    text = "他来了。我走了！「真的？」她问。Fine. 好"
    expected = ["他来了。", "我走了！", "「真的？」", "她问。", "Fine.", "好"]
    segmenter = SentenceSegmenter(punkt=punkt())
    assert segmenter.sentences(text) == expected
    for separator in ("token", "none"):  # the closing tokens know the same full stops
        processor = TraceProcessor(byte_level(list(text) * 3), segmenter, separator=separator)
        pieces = [piece.strip() for piece in processor.split(processor(text)["input_ids"])]
        # without [SEP] a quotation mark that is a token of its own comes after the segment that ended
        assert pieces == (expected if separator == "token" else [*expected[:2], "「真的？", "」她问。", *expected[4:]])


def test_a_sentence_that_starts_inside_a_token_is_joined():
    segmenter = SentenceSegmenter(punkt=punkt())
    text = "He ate. We did. She left."
    # the token ". We" holds the end of one sentence and the start of the next
    offsets = [(0, 2), (2, 6), (6, 10), (10, 14), (14, 15), (15, 19), (19, 24), (24, 25)]
    assert [text[start:end] for start, end in offsets][2] == ". We"
    assert segmenter.cut(text, offsets) == [5]


def test_cuts_are_at_the_first_token_that_starts_at_a_position_or_after(tokenizer):
    """Few of the tokens are looked at; looking at all of them gives the same."""
    for text in random_texts(50):
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        starts = [end - len(text[start:end].lstrip()) if text[start:end].strip() else start for start, end in offsets]
        for position in range(len(text) + 1):
            first = next((index for index, start in enumerate(starts) if start >= position), len(starts))
            cuts = module._cuts_at(text, offsets, [position])
            assert cuts in ([], [first])
            if 0 < first < len(starts) and not text[position : starts[first]].strip():
                ends = (text[: offsets[first - 1][1]], text[offsets[first][0] :])
                assert cuts == [first] or not all(end.strip() for end in ends)  # nothing visible before or after


def test_min_and_max_tokens():
    text = "No. Not at all. We waited for one whole hour and nobody came. Ok."
    offsets = [(start, start + 1) for start in range(len(text))]  # one token per character
    starts = [text.index(word) for word in ("Not", "We", "Ok")]
    assert SentenceSegmenter(punkt=punkt()).cut(text, offsets) == starts
    assert SentenceSegmenter(min_tokens=5, punkt=punkt()).cut(text, offsets) == starts[1:2]
    cuts = SentenceSegmenter(max_tokens=12, punkt=punkt()).cut(text, offsets)
    bounds = [0, *cuts, len(text)]
    assert set(starts) <= set(cuts) and max(b - a for a, b in zip(bounds, bounds[1:], strict=False)) <= 12
    for min_tokens, max_tokens in [(1, 1), (2, 3), (5, 9), (7, 20)]:
        bounds = [0, *SentenceSegmenter(min_tokens, max_tokens, punkt=punkt()).cut(text, offsets), len(text)]
        lengths = [b - a for a, b in zip(bounds, bounds[1:], strict=False)]
        assert min_tokens <= min(lengths) and max(lengths) <= max_tokens


def test_fit_learns_abbreviations():
    text = "We met Dr. Brown at 5 p.m. on Sunday. It rained."
    assert SentenceSegmenter(punkt=punkt()).sentences(text) == [text[:-11].strip(), "It rained."]
    assert len(SentenceSegmenter().fit(["We met. It rained."]).sentences(text)) == 3  # Dr. is known, p.m. is not
    assert len(SentenceSegmenter(language="other").fit(["We met. It rained."]).sentences(text)) == 4


def test_fit_reads_only_so_much():
    seen = []

    def texts():
        for text in ["Some words here. "] * 100:
            seen.append(text)
            yield text

    SentenceSegmenter().fit(texts(), max_characters=100)
    assert len(seen) == 6


def test_unfitted_without_punkt_data():
    segmenter = SentenceSegmenter()
    assert not segmenter.is_ready and segmenter.to_dict()["punkt"] is None
    with pytest.raises(ValueError, match=r"no Punkt parameters.*segmenter.fit\(texts\)"):
        segmenter.cut("One. Two.", [(0, 4), (4, 9)])
    assert segmenter.fit(["We met. It rained."]).is_ready


@pytest.fixture
def punkt_data(tmp_path, monkeypatch):
    """A small punkt_tab for English, as NLTK would have installed it."""
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    (folder / "abbrev_types.txt").write_text("dr\np.m", encoding="utf-8")
    (folder / "sent_starters.txt").write_text("he", encoding="utf-8")
    (folder / "collocations.tab").write_text("st\tlouis", encoding="utf-8")
    (folder / "ortho_context.tab").write_text("brown\t2\nhe\t42", encoding="utf-8")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])


def test_pretrained_punkt_is_used_and_saved(punkt_data, monkeypatch):
    segmenter = SentenceSegmenter()
    assert segmenter.is_ready and segmenter.sentences("Dr. Brown came. He ate.") == ["Dr. Brown came.", "He ate."]
    values = json.loads(json.dumps(segmenter.to_dict()))
    assert values["punkt"] == {
        "abbrev_types": "dr p.m",
        "collocations": [["st", "louis"]],
        "sent_starters": "he",
        "ortho_context": {"2": "brown", "42": "he"},
    }
    monkeypatch.setattr(nltk.data, "path", [])  # on a machine without the data
    loaded = Segmenter.from_dict(values)
    assert loaded.is_ready and loaded.sentences("Dr. Brown came. He ate.") == ["Dr. Brown came.", "He ate."]


def test_another_language_is_not_english(punkt_data):
    with pytest.raises(ValueError, match="none for 'french'"):
        SentenceSegmenter(language="french").sentences("Oui. Non.")


# patterns


def test_regex(tokenizer):
    got = pieces(tokenizer, RegexSegmenter(r"(?<=[.!?])\s+"), "One. Two!  Three")
    assert [piece.strip() for piece in got] == [plain(tokenizer, word) for word in ("One.", "Two!", "Three")]


@pytest.mark.parametrize(
    "pattern, text, expected",
    [
        (r"\n+", "a b\nc\n\nd", ["a b\n", "c\n\n", "d"]),
        (r"\n", "a\n\n\nb\n", ["a\n\n\n", "b\n"]),  # no segment of line breaks alone
        (r"\n", "\n\na\nb", ["\n\na\n", "b"]),
        (r"\n", "if x:\n    y", ["if x:\n", "    y"]),  # the indentation follows the match
        (r"\.", "a.  b.", ["a.", "  b."]),
        (r"(?<=,)", "a,b,c", ["a,", "b,", "c"]),
        (r"(?m)^", "a\nb", ["a\n", "b"]),
        (r"nowhere", "a b", ["a b"]),
    ],
)
def test_regex_segments(pattern, text, expected):
    tokenizer = byte_level(["one"])  # a token per character
    assert pieces(tokenizer, RegexSegmenter(pattern), text) == expected


def test_no_segment_is_empty_or_blank(tokenizer):
    for segmenter in (RegexSegmenter(r"[.!?\s]"), RegexSegmenter(r"\s+"), SentenceSegmenter(punkt=punkt())):
        processor = TraceProcessor(tokenizer, segmenter, separator="token")
        for text in random_texts(60):
            assert all(piece.strip() for piece in processor.split(processor(text)["input_ids"]))


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("(", "is not a regular expression"),
        (r"\s*", "matches the empty string everywhere"),
        ("", "matches the empty string everywhere"),
        (None, "must be a string"),
    ],
)
def test_bad_patterns(pattern, message):
    with pytest.raises(ValueError, match=message):
        RegexSegmenter(pattern)


# all of them


def test_round_trip():
    for segmenter in (
        FixedLengthSegmenter(7),
        RegexSegmenter(r"\n+"),
        SentenceSegmenter(2, 9, punkt=punkt()),
        SentenceSegmenter(),
    ):
        copy = Segmenter.from_dict(json.loads(json.dumps(segmenter.to_dict())))
        assert copy == segmenter and type(copy) is type(segmenter) and repr(copy) == repr(segmenter)
        assert pickle.loads(pickle.dumps(segmenter)) == segmenter
    assert FixedLengthSegmenter(7) != FixedLengthSegmenter(8) and FixedLengthSegmenter(7) != RegexSegmenter("x")


def test_pickles_do_not_change_with_use():
    segmenter = SentenceSegmenter(punkt=punkt())
    before = pickle.dumps(segmenter)
    segmenter.sentences("One. Two.")
    assert pickle.dumps(segmenter) == before  # so that datasets finds its cached results


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: FixedLengthSegmenter(0), "`length` must be an integer >= 1, got 0"),
        (lambda: FixedLengthSegmenter("10"), "got '10'"),
        (lambda: FixedLengthSegmenter(True), "got True"),
        (lambda: SentenceSegmenter(min_tokens=0), "`min_tokens`"),
        (lambda: SentenceSegmenter(min_tokens=5, max_tokens=8), "`max_tokens` must be at least"),
        (lambda: SentenceSegmenter(punkt={"abbrev_types": ""}), "`punkt` must hold the fields"),
        (lambda: SentenceSegmenter().fit("one text"), "got a single string"),
        (lambda: SentenceSegmenter().fit([]), "must hold some text"),
        (lambda: Segmenter.from_dict({"type": "words"}), "Use one of: fixed_length, .*regex, sentence"),
        (lambda: Segmenter.from_dict({"type": "fixed_length", "size": 3}), "does not take these fields.*size"),
        (lambda: Segmenter.from_dict("sentence"), "must be a dict with a `type` field"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_doctests():
    results = doctest.testmod(module)
    assert results.attempted > 5 and results.failed == 0


def test_a_text_on_which_nltk_gives_up(monkeypatch):
    monkeypatch.setattr(nltk.redos, "DEFAULT_TIMEOUT", 0.001)
    texts = ["Fine. And good.", ". " * 50_000]
    with pytest.raises(ValueError, match="`texts` .* 100,000 characters on which it gives up, in row 1") as error:
        SentenceSegmenter().fit(texts)
    assert "\n" not in str(error.value)
    processor = TraceProcessor(byte_level(), SentenceSegmenter(punkt=punkt()), separator="token")
    with pytest.raises(ValueError, match="gives up, in row 1") as error:
        processor(texts)
    assert "\n" not in str(error.value)
