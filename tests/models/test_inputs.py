"""What forward is given: taken for what it is, or refused in one line; nothing is ignored."""

import re

import pytest
import torch
from helpers.remote_code import WITHOUT_PACKAGE, run_script, word_tokenizer
from helpers.tiny import BOS, EOS, PAD, SEP, VOCAB, backbone_config, make_batch, make_text, tiny_model
from helpers.tokenizers import byte_level
from helpers.training import Collator
from transformers import (
    ContinuousBatchingConfig,
    DataCollatorForLanguageModeling,
    DataCollatorWithFlattening,
    DynamicCache,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from modeling_trace.data import TraceDataCollator, TraceProcessor
from modeling_trace.models import inputs_trace
from modeling_trace.models.segments_trace import make_layout
from modeling_trace.training import TraceTrainer

TEXTS = [make_text([3, 3, 2]), make_text([3, 1], seed=1)]
NO_LABELS = "`labels` are needed to form the ELBO, got None with `num_items_in_batch`.*Set label_smoothing_factor=0"


def one_line(error):
    return "\n" not in str(error.value)


def train(trainer_class, model, output_dir, collator=None, **settings):
    args = TrainingArguments(
        output_dir,
        **{"max_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
        | settings,
    )
    rows = [{"input_ids": text} for text in TEXTS]
    trainer = trainer_class(model, args, Collator() if collator is None else collator, train_dataset=rows)
    trainer.train()
    return trainer


@pytest.mark.parametrize("dynamics", ["recurrent", "none"])
def test_a_trainer_that_takes_the_labels_away_is_refused(tmp_path, dynamics):
    model = tiny_model(latent_dynamics=dynamics)
    train(Trainer, model, tmp_path)  # as it should be
    for settings in (
        {"label_smoothing_factor": 0.1},
        {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
    ):
        with pytest.raises(ValueError, match=NO_LABELS) as error:
            train(Trainer, model, tmp_path, **settings)
        assert one_line(error)


def test_a_plain_trainer_with_a_collator_that_takes_eos_for_padding_is_refused(tmp_path):
    processor = TraceProcessor(byte_level())  # PAD is EOS and BOS, as in GPT-2
    token = processor.eos_token_id
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), token)
    size = {"vocab_size": len(processor.tokenizer)}
    model = tiny_model(backbone_config=backbone_config(**size, **ids), separator="none", **ids)
    args = TrainingArguments(tmp_path, max_steps=10, report_to="none", use_cpu=True, disable_tqdm=True)
    rows = [{"input_ids": ids} for ids in processor(["a text", "another one"])["input_ids"]]
    losing = DataCollatorForLanguageModeling(processor.tokenizer, mlm=False)
    with pytest.raises(
        ValueError, match="got -100 for each of 2 .* `eos_token_id`, so that texts would learn no"
    ) as error:
        Trainer(model, args, losing, train_dataset=rows).train()
    assert one_line(error)
    with pytest.raises(ValueError, match="`position_ids` says that a row holds several texts"):
        Trainer(model, args, DataCollatorWithFlattening(), train_dataset=rows).train()
    Trainer(model, args, TraceDataCollator(processor), train_dataset=rows).train()


def test_ends_of_texts_are_looked_for_in_the_first_training_batches_alone(monkeypatch):
    model = tiny_model()
    ids, mask, labels = make_batch(TEXTS)
    lost = labels.masked_fill(ids == EOS, -100)
    model(ids, mask, lost)  # a user may score what he likes
    looks, check = [], model._check_targets
    monkeypatch.setattr(model, "_check_targets", lambda *inputs: looks.append(inputs) or check(*inputs))
    model.train()
    model(ids[:, :-1], mask[:, :-1], labels[:, :-1])  # one text is cut: it has no end
    one = lost.clone()
    one[0] = labels[0]
    model(ids, mask, one)  # some texts end: a choice
    with pytest.raises(ValueError, match="each of 2 that are no padding .* have the id 1 of `eos_token_id`"):
        model(ids, mask, lost)
    words = ids.clone()
    words[:, 2] = PAD  # where PAD is the unknown word
    with pytest.raises(ValueError, match="each of 2 that are no padding .* have the id 2 of `pad_token_id`"):
        model(words, mask, labels.masked_fill(words == PAD, -100))
    for _ in range(9):
        model(ids, mask, labels)
    assert len(looks) == 8


REMOTE = """
import json, sys
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
args = TrainingArguments(
    sys.argv[1] + "-out", max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, label_smoothing_factor=0.1
)
rows = [{"input_ids": [0, 5, 6, 7, 3, 8, 1], "labels": [-100, 5, 6, 7, 3, 8, 1]}] * 8
try:
    Trainer(model, args, train_dataset=rows).train()
    found = "trained"
except ValueError as error:
    found = str(error)
print(json.dumps([found, type(model).__module__]))
"""


@pytest.mark.slow
def test_label_smoothing_is_refused_without_the_package_too_and_in_a_folder_of_any_name(tmp_path):
    """The scan's operators are named after the folder, and an operator's name may be ASCII only."""
    folder = tmp_path / "modelo_español_模型"
    tiny_model().save_pretrained(folder)
    found, module = run_script(WITHOUT_PACKAGE + REMOTE, tmp_path, folder)
    assert re.match(NO_LABELS, found) and module.startswith("transformers_modules.")


def test_a_cache_is_taken_under_both_names_or_refused():
    plain, latent = tiny_model(latent_dynamics="none"), tiny_model()
    ids = torch.tensor([TEXTS[0]])
    whole = plain(ids).logits
    for name in ("cache", "past_key_values"):
        past = plain(ids[:, :5], use_cache=True).cache
        rest = plain(ids[:, 5:], **{name: past}, use_cache=True)
        torch.testing.assert_close(rest.logits, whole[:, 5:])
        past = latent(ids[:, :5], use_cache=True).cache
        with pytest.raises(
            ValueError, match="`cache` holds 5 tokens without their latents.*Pass the whole text"
        ) as error:
            latent(ids[:, 5:], **{name: past})
        assert one_line(error)
        empty = latent(ids, **{name: DynamicCache()}, use_cache=True)
        assert torch.equal(empty.logits, latent(ids).logits) and empty.cache.get_seq_length() == ids.shape[1]
    with pytest.raises(ValueError, match="one argument under two names"):
        plain(ids, cache=DynamicCache(), past_key_values=DynamicCache())


def test_rows_of_several_texts_are_exact_without_latents_and_refused_with_them():
    """`none`: each text scores as alone. With latents, neither positions that start again nor lengths pass."""
    parts = [{"input_ids": text} for text in TEXTS]
    packed = DataCollatorWithFlattening()(parts)
    plain = tiny_model(latent_dynamics="none")
    logits = plain(packed["input_ids"], position_ids=packed["position_ids"], use_cache=False).logits
    alone = [plain(torch.tensor([text])).logits for text in TEXTS]
    torch.testing.assert_close(logits, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)
    for settings in ({}, {"latent_layer": 1}, {"latent_dynamics": "none", "conditional": True}):
        model = tiny_model(**settings)
        with pytest.raises(ValueError, match="`position_ids` says that a row holds several texts.*one text a row"):
            model(**packed)
        lengths = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_position_ids=False)(parts)
        with pytest.raises(ValueError, match="`cu_seq_lens_k` says that a row holds several texts") as error:
            model(**lengths)
        assert one_line(error)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_that_only_go_on_are_taken(side):
    """Those of padding may be any."""
    model = tiny_model()
    ids, mask, labels = make_batch(TEXTS, side)
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    wanted = model(ids, mask, labels).loss
    torch.testing.assert_close(model(ids, mask, labels, position_ids=positions).loss, wanted)


def test_targets_that_are_shifted_elsewhere_are_refused():
    model = tiny_model(latent_dynamics="none")
    ids, mask, labels = make_batch(TEXTS)
    with pytest.raises(ValueError, match="`shift_labels` cannot be used.*Pass `labels`"):
        model(ids, mask, shift_labels=labels)
    assert model(ids, mask, labels, shift_labels=None).loss > 0


def test_masks_of_four_dimensions():
    ids, _, labels = make_batch([TEXTS[0]])
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    plain = tiny_model(latent_dynamics="none")
    torch.testing.assert_close(plain(ids, causal).logits, plain(ids).logits)
    blind = causal & (torch.arange(length) != 2)  # no token sees the third, but what comes before it is as it was
    blind[..., 2, 2] = True
    found = plain(ids, blind).logits
    torch.testing.assert_close(found[:, :2], plain(ids).logits[:, :2])
    assert (found[:, 3:] - plain(ids).logits[:, 3:]).abs().max() > 1e-3
    for model in (tiny_model(), tiny_model(latent_dynamics="none", conditional=True)):
        with pytest.raises(ValueError, match=r"`attention_mask` must be of shape .*got \(1, 1, 12, 12\)") as error:
            model(ids, causal, labels)
        assert one_line(error)
    with pytest.raises(ValueError, match="`attention_mask` must be of shape"):
        tiny_model().encode(ids, causal)


def test_a_plain_language_model_does_what_one_can():
    """As the stock class with the same weights: embeddings as input, prompt look-up, an assistant, many prompts."""
    model = tiny_model(latent_dynamics="none")
    stock = GPT2LMHeadModel(model.config.backbone_config).eval()
    stock.transformer.load_state_dict(model.backbone.state_dict())
    ids = torch.tensor([[BOS, 5, 6, 7, 5, 6]])
    embeds = model.get_input_embeddings()(ids)
    labels = ids.clone()
    found, wanted = model(inputs_embeds=embeds, labels=labels), stock(inputs_embeds=embeds, labels=labels)
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.loss, wanted.loss)
    assistant = tiny_model(latent_dynamics="none", seed=1)
    for settings in ({"prompt_lookup_num_tokens": 2}, {"assistant_model": assistant}):
        arguments = {"max_new_tokens": 12, "do_sample": False}
        assert torch.equal(model.generate(ids, **settings, **arguments), stock.generate(ids, **arguments))
    whole = model(ids).logits
    for kept in (0, 2, torch.tensor([1, 4])):
        wanted = whole[:, -kept:] if isinstance(kept, int) else whole[:, kept]
        torch.testing.assert_close(model(ids, logits_to_keep=kept).logits, wanted)
    with pytest.raises(ValueError, match="`input_ids` is needed"):
        tiny_model()(inputs_embeds=embeds)
    with pytest.raises(ValueError, match="Assisted decoding takes tokens back"):
        tiny_model().generate(ids, prompt_lookup_num_tokens=2)
    with pytest.raises(ValueError, match="`input_ids` is needed"):
        model()


def test_a_plain_language_model_takes_prompts_into_a_paged_cache():
    model = tiny_model("llama", latent_dynamics="none")
    prompts = [[BOS, 5, 6], [BOS, 7, 8, 9]]
    wanted = [model.generate(torch.tensor([ids]), max_new_tokens=4)[0, len(ids) :].tolist() for ids in prompts]
    # left to itself, it takes all free memory for its cache
    cache = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=16)
    found = model.generate_batch(prompts, max_new_tokens=4, continuous_batching_config=cache)
    assert [one.generated_tokens for one in found.values()] == wanted
    with pytest.raises(ValueError, match="Continuous batching needs a paged cache"):
        tiny_model().generate_batch(prompts)


@pytest.mark.parametrize("dynamics", ["recurrent", "single"])
def test_separator_keeps_its_row(tmp_path, dynamics):
    settings = {} if dynamics == "recurrent" else {"conditional": True}
    model = tiny_model(latent_dynamics=dynamics, sep_token_id=VOCAB - 1, **settings)
    for size in (VOCAB - 1, SEP):
        with pytest.raises(
            ValueError, match=f"keep the row of \\[SEP\\], whose id is {VOCAB - 1}, got {size}"
        ) as error:
            model.resize_token_embeddings(size)
        assert one_line(error)
    assert model.resize_token_embeddings().num_embeddings == VOCAB
    model.resize_token_embeddings(VOCAB + 3)
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).get_input_embeddings().num_embeddings == VOCAB + 3
    free = tiny_model(latent_dynamics="none", sep_token_id=None)
    assert free.resize_token_embeddings(VOCAB - 5).num_embeddings == VOCAB - 5


# ---- One truth for special tokens ----


def test_a_changed_bos_is_changed_everywhere(tmp_path):
    """Texts are cut at the same places in training (its layouts, too), scoring, generation and when loaded."""
    model = tiny_model()
    texts = [[39, *text[1:]] for text in TEXTS]
    ids, mask, _ = make_batch(texts)
    before = model.segment_rule.segment_ids(ids, mask)
    layouts = []
    forward = model.forward
    args = TrainingArguments(
        tmp_path, max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, remove_unused_columns=False
    )
    rows = [{"input_ids": text} for text in texts]
    trainer = TraceTrainer(model, args, Collator(), train_dataset=rows, processing_class=None)
    trainer.processing_class = word_tokenizer()
    trainer.processing_class.bos_token = "w39"
    trainer.model.forward = lambda *args, **kwargs: layouts.append((args, kwargs)) or forward(*args, **kwargs)
    trainer.train()
    del model.forward
    assert model.config.bos_token_id == model.generation_config.bos_token_id == 39
    segments = model.segment_rule.segment_ids(ids, mask)
    assert (segments[:, 0] == 0).all() and (before[:, 0] == 1).all()
    _, kwargs = layouts[0]
    wanted = make_layout(model.segment_rule.segment_ids(kwargs["input_ids"], kwargs["attention_mask"]), 32)
    assert torch.equal(kwargs["segment_layout"].ends, wanted.ends)
    out = model.generate(max_new_tokens=9, return_dict_in_generate=True, output_logits=True)
    assert out.sequences[0, 0] == 39
    score = model(out.sequences, latents=out.latents).logits[:, :-1]
    torch.testing.assert_close(score, torch.stack(out.logits, dim=1), atol=1e-4, rtol=1e-4)
    model.save_pretrained(tmp_path / "saved")
    loaded = type(model).from_pretrained(tmp_path / "saved")
    assert loaded.config.bos_token_id == loaded.config.backbone_config.bos_token_id == 39
    assert torch.equal(loaded.segment_rule.segment_ids(ids, mask), segments)


def test_special_tokens_of_generation_alone_are_refused():
    model = tiny_model()
    model.generation_config.bos_token_id = 39
    with pytest.raises(
        ValueError, match="`bos_token_id` of generation must be the model's.*got 39 and 0. Set"
    ) as error:
        model.generate(max_new_tokens=2)
    assert one_line(error)
    model.config.bos_token_id = 39  # the remedy
    assert model.generate(max_new_tokens=2)[0, 0] == model.config.backbone_config.bos_token_id == 39


@pytest.mark.parametrize("problem", ["bos", "separator", None])
def test_generate_warns_of_prompts_that_were_made_by_another_tokenizer(problem, monkeypatch):
    model = tiny_model(segment_length=3)
    said = []
    monkeypatch.setattr(inputs_trace.logger, "warning_once", said.append)
    prompts = {
        "bos": [[5, 6, SEP, 7], [8, 9, SEP, 7]],
        "separator": [[BOS, 5, 6, 7, 8, SEP, 9]],
        None: [[BOS, 5, SEP, 7], [PAD, BOS, 9, 7]],
    }
    ids = torch.tensor(prompts[problem])
    model.generate(ids, attention_mask=(ids != PAD).long(), max_new_tokens=4)
    model.generate(max_new_tokens=4)
    words = {"bos": "does not start with BOS", "separator": "has a segment of 4 tokens"}
    assert [words[problem] in text for text in said] == [True] if problem else said == []


@pytest.mark.parametrize("problem", [True, False])
def test_without_the_package_generate_warns_of_prompts_that_may_hold_several_sentences(problem, monkeypatch):
    model = tiny_model(segment_length=None)
    said = []
    monkeypatch.setattr(inputs_trace.logger, "warning_once", said.append)
    ids = torch.tensor([[BOS, 5, 6, SEP, 7], [BOS, 5, 6, 7, 7 if problem else SEP]])
    model.generate(ids, max_new_tokens=4)
    assert not said  # who has the package has TraceProcessor
    monkeypatch.setattr(inputs_trace, "AS_REMOTE_CODE", True)
    model.generate(ids, max_new_tokens=4)
    model.generate(max_new_tokens=4)  # BOS alone
    assert ["[SEP] must stand after each" in text for text in said] == [True] * problem
