"""Any Unicode text: the processor keeps it whole to ids and back, or refuses it in one line that names the row."""

from functools import cache

from helpers.tokenizers import TOKENIZERS, punkt
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modeling_trace.data import FixedLengthSegmenter, RegexSegmenter, SentenceSegmenter, TraceProcessor

SEGMENTERS = {
    "fixed": lambda: FixedLengthSegmenter(3),
    "sentence": lambda: SentenceSegmenter(punkt=punkt()),
    "sentences of 2 to 5": lambda: SentenceSegmenter(min_tokens=2, max_tokens=5, punkt=punkt()),
    "regex": lambda: RegexSegmenter(r"(?<=[.!?])\s+"),
    "none": lambda: None,
}
# [SEP] written, or a rule over tokens where there is one
KINDS = [(name, "token") for name in SEGMENTERS] + [(name, "none") for name in ("fixed", "sentence", "none")]
MAX_EXAMPLES = 200
LOSSLESS = ("byte_level", "byte_level_trimmed")  # decoding gives every text back; others lose blanks

# What breaks programs that read text: halves of a character, NUL, marks that join what is before, right-to-left and
# its controls, emoji of several characters, blanks that are none, ends of lines, ends of sentences, names of tokens
PIECES = [
    *("\ud800", "\udfff", "\x00", "\x1c", "\x85", "\u2028", "\ufeff", "\u200b", "\u200d", "\u00a0", "\ufffd"),
    *("e\u0301", "\u0301", "\u0310\u0323", "שלום", "مرحبا", "\u202e", "\u2067", "👩\u200d👧", "🇫🇷", "👍🏽"),
    *("[SEP]", "[SEP", "<|endoftext|>", "<s>", "</s>", "<unk>", "<0x0A>", "[PAD]", "[EOS]", "[UNK]", "▁", "Ġ"),
    *(". ", "! ", "? ", "...", "。", "।", "؟ ", "\n\n", "\r\n", "\t", " ", "Mr. ", '." ', "ß", "İ", "ﬁ", "soup"),
]
ANY_TEXT = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(), max_size=8),  # with surrogates
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
)


@cache
def make(tokenizer: str, kind: tuple[str, str], conditional: bool = False) -> TraceProcessor:
    segmenter, separator = kind
    return TraceProcessor(TOKENIZERS[tokenizer](), SEGMENTERS[segmenter](), conditional, separator)


def ids_or_error(processor: TraceProcessor, *texts, **settings):
    try:
        return processor(*texts, **settings)["input_ids"]
    except ValueError as error:
        assert "\n" not in str(error) and error.args[0].startswith(("`text` ", "`prompt` ")), str(error)
        return str(error)


def check(processor: TraceProcessor, text: str, lossless: bool) -> None:
    ids = ids_or_error(processor, text)
    tokenizer, control = processor.tokenizer, processor.control_token_ids
    if isinstance(ids, str):
        plain = None
        try:
            plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        except (TypeError, UnicodeEncodeError):
            pass
        # a text is refused for one of these, and for nothing else
        assert plain is None or not plain or not text.strip() or control.intersection(plain), ids
        assert " in row 0" in ids
        return
    assert ids[0] == processor.bos_token_id and ids[-1] == processor.eos_token_id
    own = [token for token in ids[1:-1] if token != processor.sep_token_id]
    assert own == tokenizer(text, add_special_tokens=False)["input_ids"] and not control.intersection(own)
    decoded = processor.decode(ids)
    assert decoded == tokenizer.decode(own, clean_up_tokenization_spaces=False)
    if lossless:
        assert decoded == text
    pieces = processor.split(ids)
    assert "".join(pieces) == decoded
    if processor.sep_token_id is not None:
        assert len(pieces) == 1 + ids.count(processor.sep_token_id)
    for max_length in (2, 5, 9):
        short = ids_or_error(processor, text, max_length=max_length)
        assert 2 <= len(short) <= max_length and (short == ids or processor.eos_token_id != short[-1])
        # what is left is the start of the text, to the token
        assert [t for t in short[1:] if t not in control] == own[: sum(t not in control for t in short)]


ANY_TOKENIZER, ANY_KIND = st.sampled_from(sorted(TOKENIZERS)), st.sampled_from(KINDS)


@example(tokenizer="byte_level", kind=("sentence", "token"), text="a\ud800. b")
@example(tokenizer="byte_level", kind=("sentence", "none"), text="\x00. 👩\u200d👧! e\u0301\u0323? \u202eשלום. \u2028")
@example(tokenizer="metaspace", kind=("regex", "token"), text="[SEP] </s> <|endoftext|>")
@example(tokenizer="word_level", kind=("fixed", "token"), text="\u200b\u00a0\u2028")
@settings(max_examples=MAX_EXAMPLES, deadline=None, derandomize=True)
@given(tokenizer=ANY_TOKENIZER, kind=ANY_KIND, text=ANY_TEXT)
def test_any_text_comes_back_or_is_refused(tokenizer, kind, text):
    check(make(tokenizer, kind), text, tokenizer in LOSSLESS)


@settings(max_examples=MAX_EXAMPLES, deadline=None, derandomize=True)
@given(tokenizer=ANY_TOKENIZER, kind=ANY_KIND, text=ANY_TEXT, prompt=ANY_TEXT)
def test_any_prompt_comes_back_or_is_refused(tokenizer, kind, text, prompt):
    processor = make(tokenizer, kind, conditional=True)
    start = ids_or_error(processor, prompt=prompt)
    ids = ids_or_error(processor, text, prompt=prompt)
    if isinstance(start, str):
        assert start.startswith("`prompt` ") and start.removesuffix("Filter such rows out first.") in ids
        return
    assert start[0] == processor.bos_token_id and start[-1] == processor.sep_token_id
    own = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert start[1:-1] == own
    plain = processor.tokenizer.decode(own, clean_up_tokenization_spaces=False)
    assert processor.decode_prompt(start) == plain and processor.decode(start) == ""
    if tokenizer in LOSSLESS:
        assert plain == prompt
    if isinstance(ids, str):
        # the prompt changes nothing in it, but that [SEP] is a control token now
        assert ids == ids_or_error(make(tokenizer, kind), text) or "'[SEP]'" in ids
        return
    alone = ids_or_error(make(tokenizer, kind), text)
    assert ids[: len(start)] == start and ids[len(start) :] == alone[1:]
    assert processor.decode(ids) == make(tokenizer, kind).decode(alone) and processor.decode_prompt(ids) == plain
    assert "".join(processor.split(ids)) == processor.decode(ids)


@example(tokenizer="metaspace", kind=("fixed", "token"), texts=["0", "00"])  # PAD is <unk>, which was shown as text
@settings(max_examples=MAX_EXAMPLES // 2, deadline=None, derandomize=True)
@given(tokenizer=ANY_TOKENIZER, kind=ANY_KIND, texts=st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_a_batch_is_its_rows_or_the_first_error_with_its_row(tokenizer, kind, texts):
    processor = make(tokenizer, kind)
    alone = [ids_or_error(processor, text) for text in texts]
    together = ids_or_error(processor, texts)
    if isinstance(together, str):
        errors = [ids.replace("row 0", f"row {row}") for row, ids in enumerate(alone) if isinstance(ids, str)]
        assert together == errors[0]
        return
    assert together == alone
    padded = processor(texts, padding=True, return_tensors="pt")
    rows = padded["input_ids"].tolist()
    assert processor.batch_decode(rows) == [processor.decode(ids) for ids in alone]
    assert [processor.split(ids) for ids in rows] == [processor.split(ids) for ids in alone]
    assert padded["attention_mask"].sum(1).tolist() == [len(ids) for ids in alone]
