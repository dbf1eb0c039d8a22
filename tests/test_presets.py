"""Presets and systems as objects: each part goes where it says, and the command line sees the same settings."""

import dataclasses

import pytest
from helpers.tokenizers import byte_level
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from modeling_trace import TraceForConditionalGeneration, TraceProcessor
from modeling_trace.data import SentenceSegmenter
from modeling_trace.models.dynamics_registry_trace import has_segments
from modeling_trace.presets import PRESETS, RECIPES, SYSTEMS, named_settings
from modeling_trace.training import get_schedule


@pytest.fixture
def tokenizer():
    return byte_level()


def build(tokenizer, processor, **settings):
    config = GPT2Config(
        vocab_size=len(tokenizer), n_layer=2, n_head=2, n_embd=16, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    return TraceForConditionalGeneration.from_backbone(GPT2LMHeadModel(config), processor, **settings)


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_parts_fit_what_they_are_for(name, tokenizer, tmp_path):
    preset = PRESETS[name]
    conditional = preset.model.get("conditional", False)
    assert conditional == (preset.data.prompt_column is not None)
    processor = TraceProcessor(tokenizer, preset.data.make_segmenter(), conditional)
    config = build(tokenizer, processor, **preset.model).config
    assert config.segment_length == processor.segment_length == (None if name == "writing-prompts" else 10)
    assert config.conditional == conditional
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, **preset.training)
    assert (arguments.learning_rate, arguments.per_device_train_batch_size) == (5e-5, 32)
    assert get_schedule(preset.kl_schedule).num_cycles == 4


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_builds(name, tokenizer):
    model = SYSTEMS[name].model
    cut = has_segments(model.get("latent_dynamics", "recurrent"))
    segmenter = PRESETS["yelp"].data.make_segmenter() if cut else None
    processor = TraceProcessor(tokenizer, segmenter, separator=model.get("separator", "none"))
    config = build(tokenizer, processor, **model).config
    for field, value in model.items():
        assert getattr(config, field) == value


def test_data_settings_load_their_texts(monkeypatch):
    calls = []
    monkeypatch.setattr("modeling_trace.data.load_texts", lambda *args, **kwargs: calls.append((args, kwargs)))
    PRESETS["writing-prompts"].data.load()
    assert calls == [
        (
            ("euclaise/writingprompts",),
            {
                "text_column": "story",
                "prompt_column": "prompt",
                "conditional": True,
                "drop_empty": False,
                "max_texts": 164_000,
                "validation_split": "validation",
            },
        )
    ]
    assert isinstance(PRESETS["writing-prompts"].data.make_segmenter(), SentenceSegmenter)


def test_nobody_changes_a_preset():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["yelp"].data.dataset = "mine"
    with pytest.raises(TypeError):
        SYSTEMS["ind"].model["latent_size"] = 3


def test_the_command_line_sees_what_is_set_and_no_more():
    assert named_settings("yahoo") == {
        "dataset": "community-datasets/yahoo_answers_topics",
        "text_column": "best_answer",
        "drop_empty": True,
        "max_texts": 110_000,
        "validation_split": 10_000,
        "max_length": 256,
        "segmenter": "fixed",
        "segment_length": 10,
        "learning_rate": 5e-5,
        "per_device_train_batch_size": 32,
        "kl_schedule": "cyclical",
    }
    stories = named_settings("writing-prompts", recipe="paper")
    assert stories["conditional"] is True and "segment_length" not in stories and "drop_empty" not in stories
    assert named_settings(system="ind") == dict(SYSTEMS["ind"].model)
    assert named_settings(recipe="paper")["posterior_norm_gamma"] == RECIPES["paper"].model["posterior_norm_gamma"]
