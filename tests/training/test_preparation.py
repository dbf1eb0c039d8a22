"""TraceTrainer from the name of a model and from texts: the same as by hand, and what is refused before any work."""

import pytest
import torch
from datasets import Dataset
from helpers.tiny import backbone_config
from helpers.tokenizers import TEXTS, byte_level
from helpers.training import make_args, training_logs, weights
from transformers import AutoModelForCausalLM, default_data_collator, set_seed

from modeling_trace import TraceForConditionalGeneration, TraceProcessor, TraceTrainer
from modeling_trace.data import FixedLengthSegmenter, SentenceSegmenter, prepare_dataset

PROMPTS = ["cold", "warm", "far", "near", "loud", "calm", "old", "new"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    """The folder of a tiny language model with its tokenizer."""
    folder = str(tmp_path_factory.mktemp("backbone"))
    tokenizer = byte_level()
    tokenizer.save_pretrained(folder)
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    torch.manual_seed(0)
    config = backbone_config(vocab_size=len(tokenizer), n_positions=48, **ids)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def texts():
    return Dataset.from_dict({"text": TEXTS, "stars": list(range(len(TEXTS)))})


def assert_equal_runs(first, second):
    for trainer in (first, second):
        set_seed(0)  # of the draws of latents
        trainer.train()
    assert training_logs(first)[-1]["reconstruction"] == training_logs(second)[-1]["reconstruction"]
    for name, value in weights(first.model).items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_name_and_texts_are_what_is_done_by_hand(backbone, texts, tmp_path):
    settings = {"free_nats": 0.5, "segment_length": 7, "latent_size": 4}
    args = make_args(tmp_path / "0", max_steps=2, max_length=24, model_init_kwargs=settings)
    short = TraceTrainer(backbone, args, train_dataset=texts, eval_dataset={"a": texts})
    processor = TraceProcessor.from_backbone(backbone, FixedLengthSegmenter(7))
    args = make_args(tmp_path / "1", max_steps=2)
    set_seed(args.seed)
    model = TraceForConditionalGeneration.from_backbone(backbone, processor, free_nats=0.5, latent_size=4)
    rows = prepare_dataset(texts, processor, max_length=24)
    by_hand = TraceTrainer(model, args, train_dataset=rows, eval_dataset={"a": rows}, processing_class=processor)
    assert short.model.config.free_nats == 0.5 and max(map(len, rows["input_ids"])) == 22  # BOS, 3 x 7
    assert_equal_runs(short, by_hand)
    # the processor is saved with the model, and later texts are tokenized, too
    wanted = by_hand.evaluate()["eval_a_loss"]
    assert short.evaluate()["eval_a_loss"] == wanted == short.evaluate(texts)["eval_loss"]
    assert short.predict(texts).metrics["test_loss"] == wanted
    short.save_model(tmp_path / "saved")
    assert TraceProcessor.from_pretrained(tmp_path / "saved").segment_length == 7


def test_a_name_and_ready_rows(backbone, texts, tmp_path):
    rows = prepare_dataset(texts, TraceProcessor.from_backbone(backbone))
    trainer = TraceTrainer(backbone, make_args(tmp_path, max_steps=1), train_dataset=rows)
    assert trainer.train_dataset is rows and trainer.processing_class.segment_length == 10
    trainer.train()
    assert trainer.state.global_step == 1


def test_texts_for_a_model_in_memory(backbone, texts, tmp_path):
    """A processor of any segments, or a tokenizer where the model says how long they are; streams."""
    processor = TraceProcessor.from_backbone(backbone, FixedLengthSegmenter(5))
    trainers = []
    for number, (data, given) in enumerate(
        [
            (texts, processor),
            (texts.to_iterable_dataset(), byte_level()),
            (prepare_dataset(texts, processor), processor),
        ]
    ):
        torch.manual_seed(0)
        model = TraceForConditionalGeneration.from_backbone(backbone, processor, latent_size=4)
        args = make_args(tmp_path / str(number), max_steps=2, train_sampling_strategy="sequential")
        trainers.append(TraceTrainer(model, args, train_dataset=data, processing_class=given))
    assert_equal_runs(trainers[0], trainers[2])
    first = next(iter(trainers[1].get_train_dataloader()))
    assert torch.equal(first["input_ids"], next(iter(trainers[0].get_train_dataloader()))["input_ids"])
    assert isinstance(trainers[1].processing_class, TraceProcessor)
    sentences = TraceProcessor(byte_level(), SentenceSegmenter(), separator="token")
    model = TraceForConditionalGeneration.from_backbone(backbone, sentences)
    with pytest.raises(ValueError, match="`processing_class` must be a TraceProcessor for segments of varying length"):
        TraceTrainer(model, make_args(tmp_path), train_dataset=texts, processing_class=byte_level())


def test_prompts_make_a_conditional_model(backbone, texts, tmp_path):
    texts = texts.add_column("prompt", PROMPTS)
    trainer = TraceTrainer(backbone, make_args(tmp_path, max_steps=1), train_dataset=texts)
    assert trainer.model.config.conditional and trainer.processing_class.conditional
    trainer.train()
    assert trainer.state.global_step == 1
    args = make_args(tmp_path / "1", model_init_kwargs={"conditional": False})
    with pytest.raises(ValueError, match="has a column 'prompt', but the model is not conditional"):
        TraceTrainer(backbone, args, train_dataset=texts)


def test_plain_models_and_saved_ones(backbone, texts, tmp_path):
    args = make_args(tmp_path / "plain", max_steps=1, model_init_kwargs={"latent_dynamics": "none"})
    plain = TraceTrainer(backbone, args, train_dataset=texts)
    assert plain.processing_class.segmenter is None and not plain.model.has_latents
    plain.save_model(tmp_path / "saved-plain")
    args = make_args(tmp_path / "trace", model_init_kwargs={"latent_size": 4})
    trace = TraceTrainer(str(tmp_path / "saved-plain"), args, train_dataset=texts)
    assert trace.model.has_latents
    trace.save_model(tmp_path / "saved")
    args = make_args(tmp_path / "further", max_steps=1, model_init_kwargs={"free_nats": 0.125})
    further = TraceTrainer(tmp_path / "saved", args, train_dataset=texts)  # trained further, latents and all
    for name, value in weights(trace.model).items():
        assert torch.equal(value, further.model.state_dict()[name]), name
    assert further.model.config.free_nats == 0.125 and further.model.config.latent_size == 4
    further.train()


def test_default_length_is_the_context(backbone, tmp_path):
    texts = Dataset.from_dict({"text": ["Nobody said sorry. " * 100] * 2})
    trainer = TraceTrainer(backbone, make_args(tmp_path), train_dataset=texts)
    lengths = list(map(len, trainer.train_dataset["input_ids"]))
    assert lengths[0] == lengths[1] and 38 < lengths[0] <= 48


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_init_kwargs": {"free_nat": 1}}, "TraceConfig has no field `free_nat`. Did you mean `free_nats`"),
        ({"model_init_kwargs": {"latent_size": 0}}, "`latent_size` must be an integer >= 2, got 0"),
        ({"max_length": 100}, "`max_length` must fit the backbone's context of 48 tokens, got 100"),
        ({"max_length": 11}, "`max_length` must be >= 12 for BOS, segments of 10 tokens"),
        ({"num_proc": 0}, "`num_proc` must be an integer >= 1, got 0"),
    ],
)
def test_bad_settings_are_found_before_the_weights_are_loaded(
    backbone, texts, tmp_path, monkeypatch, settings, message
):
    monkeypatch.setattr(TraceForConditionalGeneration, "from_backbone", None)
    with pytest.raises(ValueError, match=message) as error:
        TraceTrainer(backbone, make_args(tmp_path, **settings), train_dataset=texts)
    assert "\n" not in str(error.value)


def test_names_that_are_no_model(backbone, texts, tmp_path):
    with pytest.raises(ValueError, match="`model` '.*gone' is neither a model's folder here nor") as error:
        TraceTrainer(str(tmp_path / "gone"), make_args(tmp_path), train_dataset=texts)
    assert "\n" not in str(error.value)
    model = TraceForConditionalGeneration.from_backbone(backbone)
    args = make_args(tmp_path, model_init_kwargs={"free_nats": 1.0})
    with pytest.raises(ValueError, match="`model_init_kwargs` is for the name of a model, got {'free_nats': 1.0}"):
        TraceTrainer(model, args, train_dataset=texts, processing_class=byte_level())


def test_a_collator_of_ones_own_reads_the_texts(backbone, texts, tmp_path):
    model = TraceForConditionalGeneration.from_backbone(backbone)
    args = make_args(tmp_path, remove_unused_columns=False)
    trainer = TraceTrainer(model, args, default_data_collator, train_dataset=texts)
    assert trainer.train_dataset is texts
