"""One splitter for all metrics of words: right values in every script, and a warning where it does not suit."""

import importlib.util
import json

import numpy as np
import pytest
from helpers.tiny import tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.tokenize import tokenize as rouge_score_words

from modeling_trace import TraceForConditionalGeneration
from modeling_trace.data import FixedLengthSegmenter, TraceProcessor, generate_reviews, train_tokenizer
from modeling_trace.evaluation import (
    EvaluationData,
    EvaluationSettings,
    bleu,
    distinct_n,
    expectation_adjusted_distinct,
    jaccard_similarity,
    metric_interval,
    rep_n,
    rouge,
    sacrebleu,
    self_bleu,
    vendi_score,
    words,
    write_report,
)
from modeling_trace.evaluation.report.cache import EvaluationCache
from modeling_trace.evaluation.report.comparison import compare_systems
from modeling_trace.evaluation.report.systems import EvaluatedSystem
from modeling_trace.evaluation.words import count_words, cut_words, encode, find_unsuited, word_splitter

ENGLISH = [review.text for review in generate_reviews(30)]
CHINESE = ["这家餐厅的菜很好吃,服务也很好。", "味道不错但是价格太贵了。", "我不会再来这里吃饭。"]
JAPANESE = ["この店のラーメンはとてもおいしいです。", "サービスがよくて値段も安かった。"]
THAI = ["อาหารอร่อยมากและบริการดี", "ราคาแพงไปหน่อยแต่บรรยากาศดี"]
HINDI = ["यह खाना बहुत अच्छा था और सेवा भी अच्छी थी।", "मुझे यह जगह पसंद नहीं आई, बहुत महंगी है।"]
KOREAN = ["음식이 정말 맛있고 서비스도 좋았어요.", "가격이 조금 비싸지만 다시 오고 싶어요."]
INSTALLED = ("whitespace", "characters", "intl", "zh")  # without MeCab


# Splitting


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("whitespace", " Good soup,\tnice!\n", ["Good", "soup,", "nice!"]),
        ("characters", " 很 a好\n", ["很", "a", "好"]),
        ("intl", "«Très bon», 3.5 €", ["«", "Très", "bon", "»", ",", "3.5", "€"]),
        ("zh", "菜很好ok.", ["菜", "很", "好", "ok", "."]),
        ("zh", "菜\n\n好", ["菜", "好"]),
    ],
)
def test_words(name, text, expected):
    assert word_splitter(name)(text) == expected
    tokens, lengths = encode([text, text], name)
    assert lengths.tolist() == count_words([text, text], name).tolist() == [len(expected)] * 2
    assert tokens[: len(expected)].tolist() == tokens[len(expected) :].tolist()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.one_of(st.text(max_size=20), st.text("a好é.,- \n3の", max_size=20)),
    st.integers(1, 6),
    st.sampled_from(INSTALLED),
)
def test_cut_words_are_the_first_with_their_spaces(text, number, name):
    split = word_splitter(name)
    assert "".join(split(text)) == "".join(text.split())  # what cutting relies on
    cut = cut_words(text, number, name)
    assert text.startswith(cut) and "".join(cut.split()) == "".join(split(text)[:number])
    assert cut_words(text, None, name) == text
    if name in ("whitespace", "characters"):  # the others look at what follows
        assert split(cut) == split(text)[:number]


def test_cut_words_keeps_spaces():
    assert cut_words("  a\tb  c d ", 2) == "  a\tb"
    assert cut_words("a b", 9) == "a b" and cut_words("a  b ", None) == "a  b "
    assert cut_words(" 很 好吃", 2, "characters") == " 很 好"


def test_unknown_name_and_missing_package(monkeypatch):
    with pytest.raises(ValueError, match="^`word_tokenizer` must be one of .'whitespace', .*, got 'char'. Check"):
        self_bleu(ENGLISH, word_tokenizer="char")
    with pytest.raises(ValueError, match="^`word_tokenizer` must be one of "):
        EvaluationSettings(word_tokenizer="words")
    word_splitter.cache_clear()
    if importlib.util.find_spec("MeCab") is None:
        message = r"^word_tokenizer='ja-mecab' requires MeCab: pip install 'sacrebleu\[ja\]'$"
        with pytest.raises(ImportError, match=message):
            distinct_n(JAPANESE, word_tokenizer="ja-mecab")
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    with pytest.raises(ImportError, match="^word_tokenizer='intl' requires the `eval` extra: "):
        word_splitter("intl")


# Right values


@pytest.mark.parametrize(
    "texts, name",
    [(HINDI, "whitespace"), (HINDI, "intl"), (CHINESE, "zh"), (CHINESE, "characters"), (THAI, "characters")],
)
def test_identical_texts_of_any_script_score_100(texts, name):
    assert rouge(texts, texts, word_tokenizer=name) == pytest.approx({"rouge1": 100, "rouge2": 100, "rougeL": 100})
    assert bleu(texts, texts, paired=True, word_tokenizer=name) == pytest.approx(100)
    assert sacrebleu(texts, texts, word_tokenizer=name)["sacrebleu"] == pytest.approx(100)
    same = [texts[0]] * 3
    assert self_bleu(same, word_tokenizer=name) == pytest.approx(100)
    assert jaccard_similarity(same, word_tokenizer=name) == pytest.approx(100)
    assert vendi_score(same, word_tokenizer=name) == pytest.approx(1)


def test_characters_by_hand():
    """很好 and 很差: of unigrams one of three is shared, 3 of 4 are distinct."""
    texts, name = ["很好", "很 差"], {"word_tokenizer": "characters"}
    assert jaccard_similarity(texts, orders=[1], **name) == pytest.approx(100 / 3)
    assert distinct_n(texts, n=1, **name) == 75
    assert expectation_adjusted_distinct(texts, 10, **name) == pytest.approx(100 * 3 / (10 * (1 - 0.9**4)))
    assert rep_n(["好好吃"], n=1, **name) == pytest.approx(100 / 3)
    assert bleu(["很好"], ["很差"], max_n=1, **name) == pytest.approx(50)
    assert rouge(["很好。"], ["很差!"], **name)["rouge1"] == pytest.approx(50)  # of letters and digits alone


@pytest.mark.parametrize("metric", ["self_bleu", "distinct_n", "jaccard_similarity", "cnd", "sacrebleu", "rougeL"])
def test_intervals_are_of_the_same_words(metric):
    """A text parted by spaces and its own characters: the same metrics, and the same without each group of texts."""
    generator = np.random.default_rng(0)
    texts, references = (["".join(generator.choice(list("天地玄黄宇宙洪荒"), 9)) for _ in range(20)] for _ in range(2))
    given = references if metric in ("cnd", "sacrebleu", "rougeL") else None
    chosen = {"num_resamples": 100} | ({"orders": (1, 2)} if metric == "cnd" else {})
    found = metric_interval(metric, texts, given, word_tokenizer="characters", **chosen)
    spaced = [" ".join(text) for text in texts]
    given = given and [" ".join(text) for text in given]
    assert found == metric_interval(metric, spaced, given, **chosen)
    assert found.standard_error > 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_rouge_are_rouge_scores_in_ascii(text):
    from modeling_trace.evaluation.quality import _RougeTokenizer

    assert _RougeTokenizer("whitespace").tokenize(text) == rouge_score_words(text, None)


# Warnings


@pytest.mark.parametrize(
    "texts, name, remedy",
    [
        (CHINESE, "whitespace", "Chinese or Japanese, got 'whitespace', .*Use 'zh', 'ja-mecab' or 'characters'.$"),
        (CHINESE, "intl", "Chinese or Japanese, got 'intl', "),
        (["味道不错", "好吃极了"], "whitespace", "Chinese or Japanese, "),
        (JAPANESE, "whitespace", "Chinese or Japanese, "),
        (THAI, "whitespace", "Thai, .*Use 'characters'.$"),
        (CHINESE[:1] + ENGLISH[:6], "whitespace", "Chinese or Japanese, "),
        (CHINESE[:1] + ENGLISH[:20], "whitespace", None),
        (CHINESE, "zh", None),
        (CHINESE, "characters", None),
        (JAPANESE, "characters", None),
        (THAI, "characters", None),
        (["这 家 餐厅 的 菜 很 好吃 。"], "whitespace", None),  # words are parted already
        (["My favourite is 麻婆豆腐饭 here, so good."], "whitespace", None),  # a loan word
        (HINDI, "whitespace", None),
        (KOREAN, "whitespace", None),
        (ENGLISH, "whitespace", None),
        ([""], "whitespace", None),
    ],
)
def test_texts_that_do_not_suit(texts, name, remedy, monkeypatch):
    found = find_unsuited(texts, name)
    said = []
    monkeypatch.setattr(words.logger, "warning_once", said.append)
    monkeypatch.setattr("modeling_trace.evaluation.ngrams.logger.warning_once", lambda text: None)  # empty texts
    for metric in (rep_n, lambda *a, **k: rouge(texts, *a, **k), lambda *a, **k: sacrebleu(texts, *a, **k)):
        metric(texts, word_tokenizer=name)
    if remedy is None:
        assert found is None and said == []
    else:
        assert found.startswith("`word_tokenizer` must suit texts in ") and "\n" not in found
        assert __import__("re").search(remedy, found) and said == [found] * 3


def test_reports_say_what_words_are_and_whether_they_suit(tmp_path):
    """Chinese texts: under white space a finding; in characters Self-BLEU of real texts, and nats for each of them."""
    texts = CHINESE * 8
    tokenizer = train_tokenizer(texts, 300)
    processor = TraceProcessor(tokenizer, FixedLengthSegmenter(4), separator="token")
    ids = {f"{name}_token_id": getattr(processor.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    ids["sep_token_id"] = processor.sep_token_id
    backbone = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 128}
    config = tiny_config(backbone_config={**backbone, "vocab_size": len(processor.tokenizer)}, **ids)
    model = TraceForConditionalGeneration(config).eval()
    system = EvaluatedSystem.from_model(model, processor, name="trace")
    data = EvaluationData("chinese", texts[:12], texts[12:], max_words=6)
    found = {}
    for name in ("whitespace", "characters"):
        chosen = EvaluationSettings(
            **{"num_samples": 1, "num_likelihood_texts": 3, "decoding": ("top-k",), "curve_temperatures": ()},
            **{"max_new_tokens": 12, "word_tokenizer": name},
        )
        report = compare_systems([system], data, chosen, EvaluationCache(tmp_path / "cache"))  # one cache for both
        write_report(report, tmp_path / name)
        found[name] = report
    warned = [[text for text in found[name]["findings"] if "word_tokenizer" in text] for name in found]
    assert warned == [[find_unsuited(texts, "whitespace")], []]
    for name, meaning in (("whitespace", "what white space separates"), ("characters", "single characters")):
        for file in ("report.md", "report.html"):
            assert f"Words are {meaning}." in (tmp_path / name / file).read_text()
        assert json.loads((tmp_path / name / "report.json").read_text())["settings"]["word_tokenizer"] == name
    written = [row["text"] for row in found["characters"]["texts"]["top-k"]["trace"][0]]
    assert max(len("".join(text.split())) for text in written) == 6  # cut in characters

    def value(name, table, row, column):
        table = next(one for one in found[name]["tables"] if one["id"] == table)
        places = [one["metric"] for one in table["columns"]]
        cells = next(one["cells"] for one in table["rows"] if one["name"] == row)
        return cells[places.index(column)]["value"]

    real = {name: value(name, "overview", "real text", "self_bleu") for name in found}
    assert real["characters"] == pytest.approx(100)  # each text is there four times
    assert real["whitespace"] < 50
    nats = [
        np.log(value(name, "likelihood", "trace", "ppl_word")) * count_words(texts[:3], name).sum() for name in found
    ]
    assert nats[0] == pytest.approx(nats[1])
