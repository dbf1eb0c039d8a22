"""TraceTrainingArguments: the KL schedule as fields, the direction of metrics, what is refused."""

import dataclasses

import pytest
from helpers.training import make_args
from transformers import HfArgumentParser, TrainingArguments

import modeling_trace
from modeling_trace.training import TraceTrainingArguments, constant_schedule, cyclical_schedule, linear_schedule
from modeling_trace.training.metrics import LARGER_IS_BETTER, trace_metric
from modeling_trace.training.training_args import make_kl_schedule


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({}, linear_schedule()),
        ({"kl_delay": 0.1, "kl_ramp": 0.2, "kl_max_weight": 0.5}, linear_schedule(0.1, 0.2, 0.5)),
        (
            {"kl_schedule": "cyclical", "kl_cycles": 3, "kl_zero_fraction": 0.1, "kl_ramp": 0.2},
            cyclical_schedule(3, 0.1, 0.2),
        ),
        ({"kl_schedule": "constant", "kl_max_weight": 0.25}, constant_schedule(0.25)),
        ({"kl_schedule": None}, None),
        ({"kl_schedule": "none"}, None),  # as a flag
    ],
)
def test_schedule_of_the_fields(tmp_path, settings, schedule):
    assert make_kl_schedule(make_args(tmp_path, **settings)) == schedule


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_schedule": "cosine"}, "`kl_schedule` must be linear, cyclical or constant, got 'cosine'"),
        ({"kl_schedule": len}, r"`kl_schedule` .* Pass a function of your own as callbacks=\[KLWeightCallback"),
        ({"kl_cycles": 3}, "`kl_cycles` is for kl_schedule cyclical, got it with 'linear'"),
        ({"kl_schedule": None, "kl_delay": 0.1}, "`kl_delay` is for a `kl_schedule`, got it with None"),
        ({"kl_delay": 0.9}, r"`kl_delay` \+ `kl_ramp` must be <= 1, got 0.9 \+ 0.5"),
        ({"latent_lr_factor": -1.0}, "`latent_lr_factor` must be a number > 0, got -1.0"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` must be 0 for the ELBO, got 0.1"),
        (
            {"metric_for_best_model": "eval_reconstruction", "greater_is_better": True},
            "`greater_is_better` must be False for metric_for_best_model='eval_reconstruction'.* smaller, got True",
        ),
        (
            {"metric_for_best_model": "latent_gain", "greater_is_better": False},
            "`greater_is_better` must be True .* larger, got False",
        ),
    ],
)
def test_bad_settings_are_one_line(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        make_args(tmp_path, **settings)
    assert "\n" not in str(error.value)


def test_direction_of_every_metric(tmp_path):
    for name, larger in LARGER_IS_BETTER.items():
        for metric in (name, f"eval_{name}", f"eval_reviews_{name}"):
            assert trace_metric(metric) == name
            assert make_args(tmp_path, metric_for_best_model=metric).greater_is_better is larger
    # what anyone may look for is the user's to say, and others' metrics are not ours
    assert make_args(tmp_path, metric_for_best_model="kl", greater_is_better=True).greater_is_better is True
    assert make_args(tmp_path, metric_for_best_model="accuracy").greater_is_better is True
    assert make_args(tmp_path).greater_is_better is None
    assert trace_metric(None) is trace_metric("weakly") is None


def test_command_line_and_copies(tmp_path):
    flags = ["--output_dir", str(tmp_path), "--kl_schedule", "cyclical", "--kl_cycles", "2", "--use_cpu", "true"]
    flags += ["--model_init_kwargs", '{"free_nats": 1.5}', "--eval_sample_latents", "false"]
    (args,) = HfArgumentParser(TraceTrainingArguments).parse_args_into_dataclasses(flags)
    assert (args.kl_cycles, args.eval_sample_latents, args.model_init_kwargs) == (2, False, {"free_nats": 1.5})
    copy = dataclasses.replace(args, kl_cycles=3)
    assert isinstance(copy, TrainingArguments) and make_kl_schedule(copy) == cyclical_schedule(3)


def test_trainer_and_arguments_are_exports_of_the_package():
    assert modeling_trace.TraceTrainingArguments is TraceTrainingArguments
    assert modeling_trace.TraceTrainer is modeling_trace.training.TraceTrainer
    with pytest.raises(AttributeError, match="no attribute 'TraceTrainr'"):
        modeling_trace.TraceTrainr  # noqa: B018
