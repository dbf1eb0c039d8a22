"""The processor: nothing lost between text and ids, whole segments kept, and the same after saving and loading."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
from helpers.tokenizers import TEXTS, TOKENIZERS, byte_level, metaspace, punkt, random_texts, word_level
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)

from modeling_trace import TraceForConditionalGeneration
from modeling_trace.data import (
    FixedLengthSegmenter,
    RegexSegmenter,
    Segmenter,
    SentenceSegmenter,
    TraceDataCollator,
    TraceProcessor,
)
from modeling_trace.models.segments_trace import SegmentRule


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


separated = partial(TraceProcessor, separator="token")


SEGMENTERS = {
    "fixed": lambda: FixedLengthSegmenter(4),
    "sentence": lambda: SentenceSegmenter(punkt=punkt()),
    "regex": lambda: RegexSegmenter(r"(?<=[.!?])\s+"),
    "none": lambda: None,
}


@pytest.fixture(params=SEGMENTERS)
def segmenter(request):
    return SEGMENTERS[request.param]()


@pytest.fixture
def processor():
    return separated(byte_level(), FixedLengthSegmenter(4))


def tiny_model(processor):
    torch.manual_seed(0)
    backbone = GPT2Config(vocab_size=len(processor.tokenizer), n_embd=16, n_layer=2, n_head=2)
    return TraceForConditionalGeneration.from_backbone(GPT2LMHeadModel(backbone), processor).eval()


def ids_of(processor, text, **kwargs):
    return processor(text, **kwargs)["input_ids"]


# laws


def test_without_control_tokens_the_ids_are_the_plain_ones(tokenizer, segmenter):
    plain = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS}
    processor = separated(tokenizer, segmenter)
    for text in TEXTS:
        ids = ids_of(processor, text)
        assert ids[0] == processor.bos_token_id and ids[-1] == processor.eos_token_id
        assert [token for token in ids[1:-1] if token != processor.sep_token_id] == plain[text]
        assert (processor.sep_token_id in ids) == (segmenter is not None and len(processor.split(ids)) > 1)


def test_decoding_gives_the_text_back(segmenter):
    for make in (byte_level, lambda: byte_level(trim_offsets=True)):
        processor = separated(make(), segmenter)
        texts = TEXTS + random_texts(100)
        assert processor.batch_decode(processor(texts)["input_ids"]) == texts
        padded = processor(texts, padding=True, return_tensors="pt")["input_ids"]
        assert processor.batch_decode(padded) == texts


def test_segments_joined_are_the_text(tokenizer, segmenter):
    processor = separated(tokenizer, segmenter)
    for text in TEXTS + random_texts(30):
        ids = ids_of(processor, text)
        pieces = processor.split(ids)
        assert "".join(pieces) == processor.decode(ids)
        assert len(pieces) == 1 + ids.count(processor.sep_token_id)


def test_a_batch_is_its_rows(tokenizer, segmenter):
    processor = separated(tokenizer, segmenter)
    for settings in ({}, {"max_length": 12}, {"add_eos": False}):
        batch = processor(TEXTS, **settings)
        for row, text in enumerate(TEXTS):
            single = processor(text, **settings)
            assert batch["input_ids"][row] == single["input_ids"]
            assert batch["attention_mask"][row] == single["attention_mask"] == [1] * len(single["input_ids"])


def test_truncation_keeps_whole_segments(tokenizer, segmenter):
    processor = separated(tokenizer, segmenter)
    for text in TEXTS:
        whole = ids_of(processor, text)
        first_end = whole.index(processor.sep_token_id) + 1 if processor.sep_token_id in whole else len(whole)
        for max_length in range(2, len(whole) + 2):
            ids = ids_of(processor, text, max_length=max_length)
            assert 2 <= len(ids) <= max_length
            if max_length >= len(whole):
                assert ids == whole
                continue
            assert ids == whole[: len(ids)] and ids[-1] != processor.eos_token_id
            if max_length >= first_end:  # closed by its own [SEP], and the next segment would not have fitted
                assert ids[-1] == processor.sep_token_id
                rest = whole[len(ids) :]
                closer = processor.sep_token_id if processor.sep_token_id in rest else processor.eos_token_id
                assert len(ids) + rest.index(closer) + 1 > max_length
            else:
                assert len(ids) == max_length and processor.sep_token_id not in ids


def test_a_text_that_is_cut_warns_of_nothing(processor, caplog):
    processor.tokenizer.model_max_length = 8
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        processor(TEXTS[0], max_length=8)
        assert not caplog.records
        processor(TEXTS[0])
        assert "longer than" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


def test_the_model_sees_the_same_segments(processor):
    inputs = processor(TEXTS, padding=True, return_tensors="pt")
    segment_ids = SegmentRule(processor.sep_token_id, 0).segment_ids(**inputs)
    for ids, numbers in zip(inputs["input_ids"], segment_ids, strict=True):
        pieces = processor.split(ids)
        assert numbers.max() == len(pieces)
        assert [processor.decode(ids[numbers == number]) for number in range(1, len(pieces) + 1)] == pieces


def test_prompts_stay_open(tokenizer, segmenter):
    processor = separated(tokenizer, segmenter)
    for text in TEXTS:
        assert ids_of(processor, text, add_eos=False) == ids_of(processor, text)[:-1]
    # a full last piece is closed by generation, not here
    processor = separated(byte_level(), FixedLengthSegmenter(2))
    ids = processor.tokenizer.convert_ids_to_tokens(ids_of(processor, "abab", add_eos=False))
    assert ids == ["<|endoftext|>", "a", "b", "[SEP]", "a", "b"]


def test_padding_sides_and_tensors(processor):
    texts = ["a b c", "a"]
    training = processor(texts, padding=True, return_tensors="pt")
    assert training["attention_mask"].tolist()[1] == [1, 1, 1] + [0] * (training["input_ids"].shape[1] - 3)
    prompts = processor(texts, padding=True, return_tensors="pt", add_eos=False)
    assert prompts["attention_mask"].tolist()[1] == [0] * (prompts["input_ids"].shape[1] - 2) + [1, 1]
    assert processor("a", return_tensors="pt")["input_ids"].shape == (1, 3)
    assert isinstance(processor(texts, padding=True, return_tensors="np")["input_ids"], np.ndarray)
    assert processor(texts, padding="max_length", max_length=20, return_tensors="pt")["input_ids"].shape == (2, 20)
    assert processor("a", padding="max_length", max_length=5)["attention_mask"] == [1, 1, 1, 0, 0]
    assert list(training) == processor.model_input_names


def test_decode_takes_what_generate_returns(processor):
    ids = processor(TEXTS[0], return_tensors="pt")["input_ids"]
    for row in (ids[0], ids[0].tolist(), ids[0].numpy()):
        assert processor.decode(row) == TEXTS[0]
    assert processor.decode(ids) == processor.batch_decode(ids) == [TEXTS[0]]
    assert processor.decode(ids[0], skip_special_tokens=False).count("[SEP]") == ids.eq(processor.sep_token_id).sum()
    sep, eos = processor.sep_token_id, processor.eos_token_id
    a, b = processor.tokenizer.convert_tokens_to_ids(["a", "b"])
    assert processor.split([eos, a, sep, b, eos, eos]) == ["a", "b"]
    assert processor.split([eos, a, sep]) == ["a"]  # truncated after a closed segment
    assert processor.split([eos, a, sep, sep, b]) == ["a", "", "b"]
    assert processor.split([eos]) == [] and processor.decode([]) == ""


def test_a_character_cut_in_two_is_counted_once():
    processor = TraceProcessor(byte_level(["plain"]), FixedLengthSegmenter(1))
    pieces = processor.split(ids_of(processor, "a😀b"))
    assert len(pieces) == 6 and "".join(pieces) == "a😀b"


def test_unknown_words_are_text():
    processor = TraceProcessor(word_level(), FixedLengthSegmenter(2))
    assert processor.decode(ids_of(processor, "The unheard soup")) == "The [UNK] soup"
    tokenizer = word_level()
    tokenizer.pad_token = tokenizer.unk_token  # as for Llama 2
    processor = TraceProcessor(tokenizer, FixedLengthSegmenter(2))
    assert processor.decode(ids_of(processor, "The unheard soup")) == "The [UNK] soup"


def test_plain_language_model():
    tokenizer = byte_level()
    size = len(tokenizer)
    processor = TraceProcessor(tokenizer, None)
    assert len(tokenizer) == size and processor.sep_token_id is None and processor.segment_length is None
    assert ids_of(processor, "ab") == [0, *tokenizer("ab")["input_ids"], 0]
    assert len(ids_of(processor, TEXTS[0], max_length=7)) == 7


def test_special_tokens():
    processor = separated(byte_level())
    assert processor.segment_length == 10
    assert processor.bos_token_id == processor.eos_token_id == processor.pad_token_id == 0
    assert processor.sep_token_id == len(processor.tokenizer) - 1
    processor = TraceProcessor(metaspace())
    assert processor.tokenizer.convert_ids_to_tokens([processor.bos_token_id, processor.eos_token_id]) == [
        "<s>",
        "</s>",
    ]


# segments without separators


WITHOUT = {"fixed": lambda: FixedLengthSegmenter(4), "sentence": lambda: SentenceSegmenter(), "none": lambda: None}


@pytest.fixture(params=WITHOUT)
def without(request):
    """A segmenter that needs no [SEP]; sentences need no Punkt either."""
    return WITHOUT[request.param]()


def test_without_separators_the_row_is_the_text(tokenizer, without):
    processor = TraceProcessor(tokenizer, without)
    size = len(tokenizer)
    for text in TEXTS + random_texts(20):
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids_of(processor, text) == [processor.bos_token_id, *plain, processor.eos_token_id]
        assert ids_of(processor, text, add_eos=False) == [processor.bos_token_id, *plain]
    assert processor.sep_token_id is None and len(tokenizer) == size and tokenizer.sep_token is None


def test_without_separators_segments_joined_are_the_text(tokenizer, without):
    """And they are the ones that the model's rule says."""
    processor = TraceProcessor(tokenizer, without)
    rule = SegmentRule(
        None,
        processor.bos_token_id,
        one_per_text=without is None,
        separator="none",
        segment_length=processor.segment_length,
        closing_token_ids=None if processor.closing_token_ids is None else tuple(processor.closing_token_ids),
    )
    lengths = set()
    for text in TEXTS + random_texts(30):
        ids = ids_of(processor, text)
        pieces = processor.split(ids)
        assert "".join(pieces) == processor.decode(ids)
        numbers = rule.segment_ids(torch.tensor([ids]))[0]
        # EOS stands alone in a last segment, without a piece of text, where the one before was full
        of_text = numbers[1:-1]
        assert len(pieces) == of_text.max() and numbers.max() - of_text.max() in (0, 1)
        lengths.add(len(pieces))
        if without is not None and without.segment_length is not None:
            counts = of_text.unique(return_counts=True)[1].tolist()
            assert counts[:-1] == [4] * (len(counts) - 1) and 1 <= counts[-1] <= 4
    assert (len(lengths) > 2) == (without is not None)


def test_without_separators_truncation_keeps_whole_segments(tokenizer, without):
    processor = TraceProcessor(tokenizer, without)
    for text in TEXTS:
        whole = ids_of(processor, text)
        numbers = processor.segment_rule.segment_ids(torch.tensor([whole]))[0].tolist()
        numbers[-1] = numbers[-2]  # EOS goes with the last piece of text
        ends = [i + 1 for i in range(1, len(whole)) if i + 1 == len(whole) or numbers[i + 1] != numbers[i]]
        for max_length in range(2, len(whole) + 2):
            fitting = [end for end in ends if end <= max_length]
            wanted = whole[: fitting[-1] if fitting else max_length]
            assert ids_of(processor, text, max_length=max_length) == wanted


def test_sentences_end_where_a_token_says_so():
    texts = ["Hello. Mr. X!! Yes", 'He said "no." Then?! (Why.) So... on', "No end here"]
    processor = TraceProcessor(byte_level([*TEXTS, *texts]), SentenceSegmenter())
    closing = processor.closing_token_ids
    words = processor.tokenizer.batch_decode([[token] for token in closing])
    assert closing == sorted(closing) and all(any(mark in word for mark in ".!?") for word in words)
    assert {processor.tokenizer.convert_tokens_to_ids(mark) for mark in ".!?"} <= set(closing)
    assert not processor.control_token_ids & set(closing)
    pieces = [processor.split(ids_of(processor, text)) for text in texts]
    assert pieces[0] == ["Hello.", " Mr.", " X!!", " Yes"]
    assert pieces[1] == ['He said "no."', " Then?!", " (Why.)", " So...", " on"]
    assert pieces[2] == ["No end here"]
    assert separated(byte_level(), SentenceSegmenter(punkt=punkt())).closing_token_ids is None
    assert TraceProcessor(byte_level(), FixedLengthSegmenter(3)).closing_token_ids is None


def test_without_separators_a_model_agrees():
    processor = TraceProcessor(byte_level(), SentenceSegmenter(), conditional=True)
    backbone = GPT2Config(vocab_size=len(processor.tokenizer), n_embd=16, n_layer=2, n_head=2)
    model = TraceForConditionalGeneration.from_backbone(
        GPT2LMHeadModel(backbone),
        processor.tokenizer,
        segment_length=None,
        closing_token_ids=processor.closing_token_ids,
        conditional=True,
    )
    assert model.segment_rule == processor.segment_rule
    batch = processor(TEXTS, prompt=["One. Two."] * len(TEXTS), padding=True, return_tensors="pt")
    numbers = model(**batch).segment_ids
    for ids, row in zip(batch["input_ids"], numbers, strict=True):
        assert row.max() in (len(processor.split(ids)), len(processor.split(ids)) + 1)
    assert numbers.max() > 2


def test_rules_that_no_token_tells_need_a_separator(tmp_path):
    with pytest.raises(ValueError, match="RegexSegmenter does not know. Use separator='token'") as error:
        TraceProcessor(byte_level(), RegexSegmenter("x+"))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="`separator` must be 'token' or 'none', got 'sep'"):
        TraceProcessor(byte_level(), separator="sep")
    for separator in ("token", "none"):
        TraceProcessor(byte_level(), FixedLengthSegmenter(3), separator=separator).save_pretrained(tmp_path)
        assert TraceProcessor.from_pretrained(tmp_path).separator == separator


# saving and loading


def test_save_and_load(tokenizer, segmenter, tmp_path):
    processor = separated(tokenizer, segmenter)
    files = processor.save_pretrained(tmp_path)
    assert str(tmp_path / "processor_config.json") in files
    loaded = TraceProcessor.from_pretrained(tmp_path)
    assert loaded.segmenter == segmenter
    for settings in ({}, {"add_eos": False, "max_length": 9}):
        assert loaded(TEXTS, **settings).data == processor(TEXTS, **settings).data
    assert loaded.batch_decode(loaded(TEXTS)["input_ids"]) == processor.batch_decode(processor(TEXTS)["input_ids"])
    assert len(loaded.tokenizer) == len(processor.tokenizer)


def test_a_segmenter_of_ones_own_is_saved(tmp_path):
    class Halves(Segmenter):
        type = "halves_for_test"
        needs_offsets = False

        def cut(self, text, offsets):
            return [len(offsets) // 2] if len(offsets) > 1 else []

    separated(byte_level(), Halves()).save_pretrained(tmp_path)
    assert isinstance(TraceProcessor.from_pretrained(tmp_path).segmenter, Halves)


def test_beside_a_model_nothing_is_disturbed(processor, tmp_path):
    config = GPT2Config(vocab_size=len(processor.tokenizer), n_embd=8, n_layer=2, n_head=1, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert (
        AutoTokenizer.from_pretrained(tmp_path)("soup")["input_ids"] == processor("soup", add_eos=False)["input_ids"]
    )
    written = pipeline("text-generation", model=str(tmp_path))("soup", max_new_tokens=2, min_new_tokens=2)
    assert written[0]["generated_text"].startswith("soup")
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert TraceProcessor.from_pretrained(str(tmp_path)).segmenter == processor.segmenter


@pytest.mark.parametrize("conditional", [False, True])
def test_auto_processor_is_the_processor(conditional, tmp_path):
    processor = TraceProcessor(byte_level(), FixedLengthSegmenter(4), conditional=conditional)
    tiny_model(processor).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, TraceProcessor) and loaded.to_dict() == processor.to_dict()
    settings = {"prompt": "A walk"} if conditional else {}
    assert loaded(TEXTS[0], **settings) == processor(TEXTS[0], **settings)


def test_encode_is_a_tokenizers(processor):
    assert processor.encode(TEXTS[0]) == processor(TEXTS[0])["input_ids"]
    assert processor.encode(TEXTS[:2], max_length=9) == processor(TEXTS[:2], max_length=9)["input_ids"]
    assert processor.encode(TEXTS[0], add_eos=False, return_tensors="pt").shape[0] == 1


@pytest.mark.parametrize("conditional", [False, True])
def test_pipelines_continue_texts(conditional):
    processor = TraceProcessor(byte_level(), FixedLengthSegmenter(4), conditional=conditional)
    model = tiny_model(processor)
    with pytest.raises(ValueError, match=r"`padding_side` is 'right'.* pass processor.for_generation\(\)"):
        pipeline("text-generation", model=model, tokenizer=processor)
    writer = pipeline("text-generation", model=model, tokenizer=processor.for_generation())
    settings = {"max_new_tokens": 6, "do_sample": False, "latent_temperature": 0.0}
    prompts = ["The soup was cold.", "A walk"]
    for batch_size in (1, 2):
        found = [rows[0]["generated_text"] for rows in writer(prompts, batch_size=batch_size, **settings)]
        for prompt, text in zip(prompts, found, strict=True):
            if conditional:
                inputs = processor(prompt=[prompt], return_tensors="pt")
                expected = prompt + processor.decode(model.generate(**inputs, **settings)[0])
            else:
                inputs = processor([prompt], add_eos=False, return_tensors="pt")
                expected = processor.decode(model.generate(**inputs, **settings)[0])
            assert text == expected and text.startswith(prompt)
    assert processor(TEXTS[0], **({"prompt": "x"} if conditional else {}))["input_ids"][-1] == processor.eos_token_id


def test_from_backbone(tmp_path):
    byte_level().save_pretrained(tmp_path)
    processor = TraceProcessor.from_backbone(tmp_path, RegexSegmenter(r"\n+"), separator="token", model_max_length=77)
    assert processor.tokenizer.model_max_length == 77 and processor.sep_token_id is not None


def test_push_to_hub(processor, tmp_path, monkeypatch):
    pushed = {}
    monkeypatch.setattr(
        "modeling_trace.sharing.objects.publish", lambda files, repo_id, **settings: pushed.update({repo_id: files})
    )
    processor.save_pretrained(tmp_path / "reviews", push_to_hub=True)
    assert pushed["reviews"].keys() == {path.name for path in (tmp_path / "reviews").iterdir()}
    processor.push_to_hub("someone/reviews")
    assert "README.md" not in pushed["someone/reviews"]  # the model's card stays as it is


def test_as_processing_class_of_a_trainer(processor, tmp_path):
    config = GPT2Config(vocab_size=len(processor.tokenizer), n_embd=8, n_layer=2, n_head=1, n_positions=64)
    rows = [{"input_ids": ids} for ids in ids_of(processor, TEXTS)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    trainer = Trainer(
        GPT2LMHeadModel(config),
        arguments,
        train_dataset=rows,
        data_collator=TraceDataCollator(processor),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()
    assert TraceProcessor.from_pretrained(tmp_path).segmenter == processor.segmenter


def test_pad_delegates(processor):
    padded = processor.pad({"input_ids": [[1, 2], [3]]}, return_tensors="pt")
    assert padded["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert torch.is_tensor(padded["input_ids"])


# bad input


@pytest.mark.parametrize(
    "text, settings, message",
    [
        (5, {}, "`text` must be a string or a list of strings, got int"),
        ({"text": ["a"]}, {}, "got dict. With a data set pass dataset"),
        (["a", None], {}, r"got None \(NoneType\) in row 1"),
        (["a", ["b"]], {}, r"\(list\) in row 1"),
        (["a", ""], {}, "must not be empty, got '' in row 1"),
        (" \n", {}, "must not be empty"),
        ("", {"add_eos": False}, "call generate"),
        (["a", "b", "so [SEP] what"], {}, r"must not hold the control token '\[SEP\]', got it in row 2"),
        ("the <|endoftext|> end", {}, "control token"),
        ("a", {"max_length": 1}, "`max_length` must be an integer >= 2"),
        ("a", {"padding": "max_length"}, "needs `max_length`"),
        (["a", "soup and more"], {"return_tensors": "pt"}, "Use padding=True"),
    ],
)
def test_bad_texts(processor, text, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        processor(text, **settings)
    assert "\n" not in str(error.value)


def test_bad_tokenizers_and_segmenters(monkeypatch):
    with pytest.raises(ValueError, match=r"Use TraceProcessor|use TraceProcessor.from_backbone"):
        TraceProcessor("gpt2")
    with pytest.raises(ValueError, match=r"`segmenter` must be a Segmenter or None, got 10"):
        TraceProcessor(byte_level(), 10)
    no_eos = byte_level()
    no_eos.eos_token = None
    with pytest.raises(ValueError, match="no EOS token"):
        TraceProcessor(no_eos, None)
    sep_is_eos = byte_level()
    sep_is_eos.sep_token = sep_is_eos.eos_token
    with pytest.raises(ValueError, match="token of its own"):
        separated(sep_is_eos)
    # a special token that is also a word of the text leaves a gap in the vocabulary
    with pytest.raises(ValueError, match="its vocabulary has a gap"):
        separated(word_level([*TEXTS, "some [UNK] word"]))


def test_slow_tokenizers_cut_by_count_only(monkeypatch):
    tokenizer = byte_level()
    expected = ids_of(separated(byte_level(), FixedLengthSegmenter(3)), TEXTS[0])
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    assert ids_of(separated(tokenizer, FixedLengthSegmenter(3)), TEXTS[0]) == expected
    with pytest.raises(ValueError, match="needs a fast tokenizer"):
        TraceProcessor(tokenizer, RegexSegmenter(r"\n+"))


def test_bad_cuts_are_named(processor):
    class Wrong(FixedLengthSegmenter):
        def cut(self, text, offsets):
            return [3, 3]

    with pytest.raises(ValueError, match=r"got \[3, 3\] from Wrong"):
        TraceProcessor(byte_level(), Wrong())(TEXTS[0])


def test_loading_what_is_no_processor(processor, tmp_path):
    with pytest.raises(ValueError, match="found no folder"):
        TraceProcessor.from_pretrained(tmp_path / "nowhere")
    processor.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="TraceProcessor.from_backbone"):
        TraceProcessor.from_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Other"}', encoding="utf-8")
    with pytest.raises(ValueError, match="got a Other"):
        TraceProcessor.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="must be a folder"):
        processor.save_pretrained(tmp_path / "file")


def test_sentences_of_other_lengths_need_a_separator():
    with pytest.raises(ValueError, match=r"`min_tokens` and `max_tokens` need \[SEP\], got 2 and None"):
        TraceProcessor(byte_level(), SentenceSegmenter(min_tokens=2))
    assert TraceProcessor(byte_level(), SentenceSegmenter(min_tokens=2), separator="token").cuts_texts


@pytest.mark.parametrize("segmenter", [FixedLengthSegmenter(4), SentenceSegmenter(), None])
def test_a_model_takes_its_segments_from_the_processor(segmenter):
    """What the processor makes of a text is what the model knows of it, and what it is told wins."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_level()
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    size = {"vocab_size": len(tokenizer), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    processor = TraceProcessor(tokenizer, segmenter)
    dynamics = "single" if segmenter is None else "recurrent"

    def build(**settings):
        lm = GPT2LMHeadModel(GPT2Config(**size, **ids))
        return TraceForConditionalGeneration.from_backbone(lm, processor, latent_dynamics=dynamics, **settings)

    model = build()
    text = torch.tensor(processor(["One. Two three! And so on, and so on."])["input_ids"])
    assert torch.equal(model.segment_rule.segment_ids(text), processor.segment_rule.segment_ids(text))
    if segmenter is not None:
        assert model.config.segment_length == processor.segment_length and model.config.separator == "none"
        # EOS comes after a closed segment here: that nothing more comes is decided under a latent of its own
        assert int(model.segment_rule.segment_ids(text).max()) == len(processor.split(text[0])) + 1 > 3
        assert build(separator="token", closing_token_ids=None).config.separator == "token"


def test_a_tokenizer_without_full_stops_needs_a_separator():
    words = Tokenizer(models.WordLevel({"</s>": 0, "a": 1, "text": 2}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    processor = TraceProcessor(PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>"), SentenceSegmenter())
    with pytest.raises(ValueError, match="`separator='none'` needs tokens that end a segment, the tokenizer has none"):
        processor("a text")
