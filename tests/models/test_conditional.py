"""Conditional models: the prompt is given, not modelled; the prior of z_1 knows it; data, training and generation."""

import math

import pytest
import torch
from datasets import Dataset
from helpers.generation import MODES, _rescoring_error
from helpers.remote_code import word_tokenizer
from helpers.tiny import BOS, EOS, PAD, SEP, make_batch, tiny_model, under_both
from transformers import TrainingArguments

from modeling_trace.data import (
    FixedLengthSegmenter,
    RegexSegmenter,
    TraceDataCollator,
    TraceProcessor,
    load_texts,
    prepare_dataset,
)
from modeling_trace.models.segments_trace import SegmentRule
from modeling_trace.training import TraceTrainer

DYNAMICS = ["recurrent", "parallel", "independent", "context", "single", "none"]
# BOS, a prompt of two, one, three tokens, [SEP], segments
ROWS = [
    [BOS, 9, 8, SEP, 4, 5, 6, SEP, 7, 4, 5, SEP, 11, EOS],
    [BOS, 9, SEP, 7, 8, 9, EOS],
    [BOS, 12, 13, 14, SEP, 6, 7, 8, SEP, 5, EOS],
]
PROMPTS = [row[: row.index(SEP) + 1] for row in ROWS]


def test_the_prefix_is_all_up_to_the_first_separator():
    for side in ("right", "left"):
        ids, mask, _ = make_batch(ROWS, side)
        found = SegmentRule(SEP, BOS, conditional=True).segment_ids(ids, mask)
        wanted = [
            [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2,
            [0] * 3 + [1] * 4,
            [0] * 5 + [1] * 4 + [2] * 2,
        ]
        for row, numbers in enumerate(wanted):
            assert found[row][mask[row] == 1].tolist() == numbers
            assert (found[row][mask[row] == 0] == -1).all()
        one = SegmentRule(SEP, BOS, conditional=True, one_per_text=True).segment_ids(ids, mask)
        assert one.max() == 1 and torch.equal(one == 0, found == 0)


@pytest.mark.parametrize("architecture,name", under_both(DYNAMICS), indirect=["architecture"])
def test_only_the_text_is_paid_for(name, architecture):
    """The loss is -log p(text | prompt, z): the targets after the prompt's [SEP], whatever the labels say of it."""
    model = tiny_model(latent_dynamics=name, conditional=True)
    ids, mask, labels = make_batch(ROWS)
    out = model(ids, attention_mask=mask, labels=labels)
    nats, targets = 0.0, 0
    for row, text in enumerate(ROWS):
        scores = out.logits[row].log_softmax(-1)
        for position in range(text.index(SEP) + 1, len(text)):
            nats -= scores[position - 1, text[position]]
            targets += 1
    torch.testing.assert_close(out.reconstruction_loss, nats / 3, atol=1e-4, rtol=1e-5)
    kl = 0 if out.kl_loss is None else out.kl_loss * 3
    torch.testing.assert_close(out.loss, (nats + kl) / targets, atol=1e-5, rtol=1e-5)
    alone = [model(torch.tensor([text]), labels=torch.tensor([text])) for text in ROWS]
    mean = sum(one.reconstruction_loss for one in alone) / 3
    torch.testing.assert_close(out.reconstruction_loss, mean, atol=1e-4, rtol=1e-5)  # unequal prompts in one batch
    model.train()
    trained = model(ids, attention_mask=mask, labels=labels, sample_latents=False)
    assert trained.loss.isfinite()


@pytest.mark.parametrize("name", DYNAMICS[:-1])
def test_the_first_prior_is_given_the_prompt(name):
    model = tiny_model(latent_dynamics=name, conditional=True)
    ids, mask, _ = make_batch(ROWS)
    found = model.encode(ids, mask)
    assert found.segment_ids.max() == (1 if name == "single" else 3)
    if name == "independent":  # which knows nothing, by definition
        assert not found.prior_mean.any()
        return
    assert found.prior_mean[:, 0].abs().amax(dim=-1).min() > 1e-3
    changed = ids.clone()
    changed[0, 1] = 20  # another prompt
    again = model.encode(changed, mask)
    assert (again.prior_mean[0, 0] - found.prior_mean[0, 0]).abs().max() > 1e-3
    torch.testing.assert_close(again.prior_mean[1:], found.prior_mean[1:], atol=1e-6, rtol=0)
    changed = ids.clone()
    changed[0, 4] = 20  # another x_1: no leak into the prior of z_1
    again = model.encode(changed, mask)
    torch.testing.assert_close(again.prior_mean[0, 0], found.prior_mean[0, 0], atol=1e-6, rtol=0)
    assert (again.posterior_mean[0, 0] - found.posterior_mean[0, 0]).abs().max() > 1e-3
    # by hand, at the state of the prompt's [SEP] in the context pass
    segment_ids = found.segment_ids
    context, _, _ = model._encoder_states(ids, mask, segment_ids)
    for row in range(3):
        prompt = torch.tensor([PROMPTS[row]])
        state = model.backbone(
            inputs_embeds=model.get_input_embeddings()(prompt),
            attention_mask=torch.zeros(1, 1, len(PROMPTS[row]), len(PROMPTS[row])),
        ).last_hidden_state[0, -1]
        torch.testing.assert_close(context[row, 0], state, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["greedy", "sample_3_returned", "beam_4_of_2"])
@pytest.mark.parametrize("architecture,name", under_both(DYNAMICS[:-1]), indirect=["architecture"])
def test_a_list_of_prompts_with_several_continuations_each(name, mode, architecture):
    model = tiny_model(latent_dynamics=name, conditional=True, segment_length=None)
    ids, mask, _ = make_batch(PROMPTS, "left")
    settings = {"max_new_tokens": 12, "return_dict_in_generate": True, "output_logits": True, **MODES[mode]}
    torch.manual_seed(0)
    out = model.generate(ids, attention_mask=mask, **settings)
    per_prompt = MODES[mode].get("num_return_sequences", 1)
    assert len(out.sequences) == 3 * per_prompt
    for row, sequence in enumerate(out.sequences):
        prompt = PROMPTS[row // per_prompt]
        assert [token for token in sequence[: ids.shape[1]].tolist() if token != PAD] == prompt
    assert _rescoring_error(model, out, ids, mask) < 1e-4
    torch.manual_seed(0)
    uncached = model.generate(ids, attention_mask=mask, use_cache=False, **settings)
    assert torch.equal(out.sequences, uncached.sequences)


@pytest.mark.parametrize("settings", [{"do_sample": False}, {"do_sample": False, "num_beams": 2}])
def test_a_plain_model_writes_on_prompts_of_any_length_as_on_each_alone(settings):
    model = tiny_model(latent_dynamics="none", conditional=True).eval()
    settings = {**settings, "max_new_tokens": 5, "min_new_tokens": 5}
    ids, mask, _ = make_batch(PROMPTS, "left")
    together = model.generate(ids, attention_mask=mask, **settings)[:, ids.shape[1] :]
    for row, prompt in enumerate(PROMPTS):
        alone = model.generate(torch.tensor([prompt]), **settings)[:, len(prompt) :]
        assert torch.equal(alone[0], together[row])


def test_generated_first_latents_have_the_prior_of_their_prompt():
    model = tiny_model(conditional=True)
    rows = 4000
    ids, mask, _ = make_batch(PROMPTS, "left")
    out = model.generate(
        ids,
        attention_mask=mask,
        num_return_sequences=rows,
        do_sample=True,
        max_new_tokens=1,
        return_dict_in_generate=True,
    )
    texts, text_mask, _ = make_batch(ROWS)
    prior = model.encode(texts, text_mask)
    for prompt in range(3):
        z = out.latents[prompt * rows : (prompt + 1) * rows, 0]
        standard = (z - prior.prior_mean[prompt, 0]) / torch.exp(0.5 * prior.prior_logvar[prompt, 0])
        # five standard errors
        assert standard.mean(0).abs().max() < 5 / math.sqrt(rows)
        assert (standard.var(0) - 1).abs().max() < 5 * math.sqrt(2 / rows)


# ---- Data ----


def processor(segmenter=None, conditional=True):
    return TraceProcessor(word_tokenizer(), segmenter or FixedLengthSegmenter(3), conditional, separator="token")


def test_the_processor_writes_and_reads_prompts(tmp_path):
    made = processor()
    sep = made.sep_token_id
    row = made("w4 w5 w6 w7", prompt="w9 w8")["input_ids"]
    assert row == [BOS, 9, 8, sep, 4, 5, 6, sep, 7, EOS]
    assert made.decode(row) == "w4 w5 w6 w7" and made.decode_prompt(row) == "w9 w8"
    assert "".join(made.split(row)) == made.decode(row) and len(made.split(row)) == 2
    batch = made(prompt=["w9 w8", "w9"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[BOS, 9, 8, sep], [PAD, BOS, 9, sep]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    started = made(["w4 w5 w6 w7"], prompt=["w9"], add_eos=False)["input_ids"]
    assert started == [[BOS, 9, sep, 4, 5, 6, sep, 7]]
    made.save_pretrained(tmp_path)
    again = TraceProcessor.from_pretrained(tmp_path)
    assert again.conditional and again("w4", prompt="w9")["input_ids"] == [BOS, 9, sep, 4, EOS]


def test_truncation_keeps_the_prompt_whole():
    made = processor()
    whole = made("w4 w5 w6 w7 w8", prompt="w9 w10 w11")["input_ids"]
    assert len(whole) == 5 + 4 + 3
    for max_length in range(6, 14):
        row = made("w4 w5 w6 w7 w8", prompt="w9 w10 w11", max_length=max_length)["input_ids"]
        assert len(row) <= max_length and row[:5] == whole[:5] and row == whole[: len(row)]
        assert len(row) == (max_length if max_length <= 9 else 12 if max_length >= 12 else 9)
    with pytest.raises(
        ValueError, match="`prompt` leaves no room for text, got 5 tokens in row 0 with `max_length` 5: 'w9 w10"
    ):
        made("w4", prompt="w9 w10 w11", max_length=5)


def test_sentences_and_the_plain_model_have_prompts_too():
    sentences = processor(RegexSegmenter(r"(?<=w6)\s"))
    sep = sentences.sep_token_id
    assert sentences("w4 w6 w5", prompt="w9")["input_ids"] == [BOS, 9, sep, 4, 6, sep, 5, EOS]
    plain = TraceProcessor(word_tokenizer(), None, conditional=True)
    assert plain("w4 w5 w6 w7", prompt="w9")["input_ids"] == [BOS, 9, sep, 4, 5, 6, 7, EOS]


def test_prompts_are_no_targets():
    made = processor()
    features = [{"input_ids": ids} for ids in made(["w4 w5 w6 w7", "w5"], prompt=["w9 w8", "w9"])["input_ids"]]
    batch = TraceDataCollator(made)(features)
    sep = made.sep_token_id
    assert batch["labels"][0].tolist() == [-100, -100, -100, -100, 4, 5, 6, sep, 7, EOS]
    assert batch["labels"][1].tolist() == [-100, -100, -100, 5, EOS, -100, -100, -100, -100, -100]


STORIES = {"title": ["w9", "w9 w8", "w12"] * 4, "story": ["w4 w5 w6 w7", "w6 w5", "w7 w7 w7 w8"] * 4}


@pytest.mark.parametrize("name", ["recurrent", "single", "none"])
def test_training(name, tmp_path):
    train, validation = load_texts(Dataset.from_dict(STORIES), conditional=True, validation_split=3)
    assert set(train.column_names) == {"prompt", "text"}
    segments = FixedLengthSegmenter(3) if name == "recurrent" else None
    made = TraceProcessor(word_tokenizer(), segments, conditional=True, separator="token")
    rows = prepare_dataset(train, made)
    kept_back = prepare_dataset(validation, made)
    model = tiny_model(latent_dynamics=name, conditional=True, sep_token_id=made.sep_token_id, backbone_config=_wide())
    arguments = TrainingArguments(
        tmp_path, max_steps=3, per_device_train_batch_size=4, report_to="none", use_cpu=True, logging_steps=1
    )
    trainer = TraceTrainer(model, arguments, train_dataset=rows, eval_dataset=kept_back, processing_class=made)
    trainer.train()
    metrics = trainer.evaluate()
    # exact, by hand: tokens of the texts only
    tokens = sum(len(ids) - 1 - ids.index(made.sep_token_id) for ids in kept_back["input_ids"])
    nats = 3 * (metrics["eval_reconstruction"] + metrics.get("eval_kl", 0))
    assert metrics["eval_loss"] == pytest.approx(nats / tokens, rel=1e-5)


def test_prompts_are_not_paid_for_whatever_the_collator(tmp_path):
    """The loss is divided by the targets that the batch's labels say: a bare tokenizer knows of no prompts."""
    made = processor()
    train, validation = load_texts(Dataset.from_dict(STORIES), conditional=True, validation_split=3)
    rows, kept_back = (prepare_dataset(texts, made) for texts in (train, validation))
    losses = []
    for processing in (made, made.tokenizer):
        model = tiny_model(conditional=True, sep_token_id=made.sep_token_id, backbone_config=_wide())
        arguments = TrainingArguments(tmp_path, report_to="none", use_cpu=True)
        trainer = TraceTrainer(
            model, arguments, train_dataset=rows, eval_dataset=kept_back, processing_class=processing
        )
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_columns_may_have_each_others_names():
    swapped = Dataset.from_dict({"text": ["a", "b", "c"], "prompt": ["x", "y", "z"]})
    rows, _ = load_texts(swapped, conditional=True, prompt_column="text", text_column="prompt", validation_split=None)
    assert rows["prompt"][:] == ["a", "b", "c"] and rows["text"][:] == ["x", "y", "z"]
    other = Dataset.from_dict({"text": ["a", "b"], "story": ["x", "y"], "prompt": ["1", "2"]})
    rows, _ = load_texts(other, conditional=True, prompt_column="text", text_column="story", validation_split=None)
    assert rows["prompt"][:] == ["a", "b"] and rows["text"][:] == ["x", "y"]


def _wide():
    from helpers.tiny import backbone_config

    return backbone_config(vocab_size=41)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: processor()("w4"), "`prompt` is needed by a conditional processor"),
        (lambda: processor(conditional=False)("w4", prompt="w5"), "`prompt` is for a conditional processor"),
        (lambda: processor(conditional=False)(prompt="w5"), "`prompt` is for a conditional processor"),
        (lambda: processor()(["w4", "w5"], prompt=["w9"]), "one row per text, got 1 for 2 texts"),
        (lambda: processor()(["w4"], prompt="w9"), "must both be strings, or both lists"),
        (lambda: processor()("w4", prompt=" "), "`prompt` must not be empty"),
        (lambda: processor()("w4", prompt="a [SEP] b"), r"`prompt` must not hold the control token '\[SEP\]'"),
        (lambda: load_texts(Dataset.from_dict({"text": ["a", "b"]}), conditional=True), "has no column of prompts"),
        (
            lambda: load_texts(Dataset.from_dict({"text": ["a", "b"], "prompt": ["a", "b"]})),
            "has a column 'prompt', but the model is not conditional",
        ),
        (
            lambda: load_texts(
                Dataset.from_dict({"text": ["a", "b"], "t": ["a", ""]}), conditional=True, prompt_column="t"
            ),
            "without text in the column 't'",
        ),
        (
            lambda: load_texts(Dataset.from_dict({"text": ["a", "b"]}), conditional=True, prompt_column="titel"),
            "`prompt_column` 'titel' is not in the data set, which has text",
        ),
        (lambda: load_texts(Dataset.from_dict(STORIES), prompt_column="title"), "`prompt_column` is for conditional"),
        (
            lambda: prepare_dataset(Dataset.from_dict({"text": ["w4"]}), processor()),
            "`prompt_column` 'prompt' is not in the data set",
        ),
        (
            lambda: prepare_dataset(
                Dataset.from_dict({"text": ["w4"], "prompt": ["w4"]}), processor(conditional=False)
            ),
            "has a column 'prompt', but the model is not conditional",
        ),
        (
            lambda: TraceTrainer(
                tiny_model(sep_token_id=3),
                TrainingArguments("x", use_cpu=True, report_to="none"),
                processing_class=processor(),
            ),
            "`processing_class` has conditional=True, the model False",
        ),
        (
            lambda: tiny_model(conditional=True)(torch.tensor([[BOS, 4, 5, EOS]])),
            "a row without a text after",
        ),
        (
            lambda: tiny_model(conditional=True).generate(torch.tensor([[BOS, 4, 5]])),
            r"`inputs` of a conditional model must be BOS, a prompt and \[SEP\]",
        ),
        (lambda: tiny_model(conditional=True).generate(max_new_tokens=3), "must be BOS, a prompt and"),
        (
            lambda: tiny_model(conditional=True, latent_dynamics="none").generate(torch.tensor([[BOS, 4]])),
            "must be BOS, a prompt and",
        ),
        (
            lambda: tiny_model(conditional=True, latent_dynamics="none")(
                torch.tensor([[BOS, 4, EOS]]), labels=torch.tensor([[BOS, 4, EOS]])
            ),
            "a row without a text after",
        ),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
