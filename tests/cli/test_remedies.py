"""What an error says to do helps: each remedy is taken from the message and tried, until the command goes through."""

import re
import shlex
from pathlib import Path

import pytest
from transformers import GPT2Config

from modeling_trace import TraceProcessor
from modeling_trace.cli import train as train_command
from modeling_trace.cli.main import COMMANDS, main
from modeling_trace.data import load_texts

CONFIG = "{model_type: gpt2, n_layer: 2, n_embd: 16, n_head: 2}"
SCRATCH = ["--backbone_config", CONFIG, "--vocab_size", "300", "--max_texts", "20", "--output_dir", "out"]
SCRATCH += ["--max_steps", "1", "--use_cpu", "true"]
TRIES = 6


class AllChecked(BaseException):
    """Raised in place of the work, when nothing is left to refuse."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Folders of a TRACE model, a plain language model, and one that is no TRACE model but has its tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    for name, flags in {"trace": [], "plain": ["--system", "gpt2"], "one": ["--system", "no-recurrence"]}.items():
        command = ["train", *SCRATCH, "--max_length", "64", *flags, "--output_dir", str(folder / name)]
        assert main(command) == 0
    TraceProcessor.from_pretrained(folder / "plain").tokenizer.save_pretrained(folder / "gpt2")
    GPT2Config(vocab_size=300, n_layer=2, n_embd=16, n_head=2, n_positions=64).save_pretrained(folder / "gpt2")
    return folder


def set_flag(flags: list[str], name: str, value: str | None) -> list[str]:
    """The flags with this one set; None takes it out."""
    kept, skip = [], False
    for flag in flags:
        if flag.startswith("--"):
            skip = flag == f"--{name}"
        if not skip:
            kept.append(flag)
    return kept if value is None else [*kept, f"--{name}", value]


def apply_remedy(flags: list[str], message: str) -> list[str]:
    """The command line changed as the message says, and by nothing else."""
    named = re.search(r"`(?:--)?(\w+)`", message)
    name = named[1] if named else None
    if found := re.search(r": (modeling-trace .*)$", message):
        return [*shlex.split(found[1])[1:]]
    if found := re.search(r"Make '(.*)' first", message):
        Path(found[1]).mkdir()
        return flags
    if found := re.search(r"(?:Did you mean|Use) `(?:--)?(\w+)`", message):
        meant = found[1]
        if meant in COMMANDS:
            return [meant, *flags[1:]]
        if message.startswith("there is no flag"):
            return [f"--{meant}" if flag == f"--{name}" else flag for flag in flags]
        return set_flag(flags, name, meant)
    if found := re.search(r"Did you mean '([\w-]+)'", message):
        return set_flag(flags, name, found[1])
    if found := re.search(r"Move it there: --(\w+) (\S+)", message):
        moved = [re.sub(rf", {found[1]}: \d+", "", flag) for flag in flags]
        return set_flag(moved, found[1], found[2])
    if found := re.search(r"[a-z] (?:with )?--(\w+)(?: ([\w./-]*[\w/]))?", message):
        return set_flag(flags, found[1], found[2] or "true")
    if found := re.search(r"[Uu]se '(.*?)'", message):
        return set_flag(flags, name, found[1])
    if found := re.search(r"[Uu]se (\d+|cpu|None)", message):
        return set_flag(flags, name, found[1])
    if found := re.search(r"must be (?:>|<)= (\d+)", message):
        return set_flag(flags, name, found[1])
    if re.search(r"[Ll]eave (it|\w+) out", message):
        return set_flag(flags, re.search(r"[Ll]eave (it|\w+)", message)[1].replace("it", name), None)
    raise AssertionError(f"no remedy in: {message}")


def follow(flags: list[str], capsys) -> list[str]:
    """The messages on the way to a command that goes through."""
    messages = []
    for _ in range(TRIES):
        capsys.readouterr()
        try:
            code = main(flags)
        except AllChecked:
            code = 0
        if code == 0:
            return messages
        message = capsys.readouterr().err.strip().splitlines()[-1].removeprefix("error: ")
        assert message not in messages, f"in a circle: {messages}"
        messages.append(message)
        flags = apply_remedy(flags, message)
    raise AssertionError(f"still refused: {messages}")


TRAINING = {
    "an unknown flag": ["--lerning_rate", "3e-4"],
    "a name of other scripts": ["--batch_size", "2"],
    "an unknown data set": ["--dataset", "reviws"],
    "an unknown system": ["--system", "trace-pp"],
    "an unknown segmenter": ["--segmenter", "sentense"],
    "segments of a length and of sentences": ["--segmenter", "sentence", "--segment_length", "12"],
    "a segment longer than the text": ["--segment_length", "500"],
    "no segment at all": ["--segment_length", "0"],
    "a small vocabulary": ["--vocab_size", "100"],
    "the vocabulary in the wrong place": [
        *("--backbone_config", "{model_type: gpt2, n_layer: 2, n_embd: 16, n_head: 2, vocab_size: 400}")
    ],
    "a flag of another schedule": ["--kl_cycles", "3"],
    "no cycle": ["--kl_schedule", "cyclical", "--kl_cycles", "0"],
    "evaluation without texts": ["--eval_strategy", "epoch", "--validation_split", "none"],
    "resuming from nothing": ["--resume_from_checkpoint", "true"],
    "a stream without an end": ["--streaming", "true", "--max_steps", "-1", "--num_proc", "2"],
    "a stream in two processes": [
        *("--streaming", "true", "--validation_split", "4", "--dataloader_num_workers", "2")
    ],
    "a flag of LoRA alone": ["--backbone", "{models}/plain", "--lora_alpha", "3"],
    "a rank of none": ["--backbone", "{models}/plain", "--lora_r", "0"],
    "a text longer than the context": ["--backbone", "{models}/plain", "--max_length", "1000"],
    "a segment longer than the context": ["--backbone", "{models}/plain", "--segment_length", "1000"],
    "a folder named like the Hub's": ["--backbone", "gpt2"],
}


@pytest.mark.parametrize("flags", TRAINING.values(), ids=TRAINING)
def test_remedies_of_training(flags, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("gpt2").symlink_to(models / "gpt2")

    def all_checked(*_, **__):
        raise AllChecked

    monkeypatch.setattr(train_command, "TraceTrainer", all_checked)
    monkeypatch.setattr(train_command.TraceForConditionalGeneration, "from_backbone", all_checked)
    flags = [flag.format(models=models) if "{models}" in flag else flag for flag in flags]
    start = SCRATCH if "--backbone" not in flags else SCRATCH[4:]
    for name in {flag for flag in flags if flag.startswith("--")}:
        start = set_flag(start, name[2:], None)
    assert follow(["train", *start, *flags], capsys)


OTHERS = {
    "an unknown command": ["genrate", "{models}/trace", "--num_texts", "1", "--max_new_tokens", "2"],
    "a name of other scripts": ["generate", "{models}/trace", "--n", "2", "--max_new_tokens", "2"],
    "too many tokens": ["generate", "{models}/trace", "--max_new_tokens", "5000", "--num_texts", "1"],
    "no text at all": ["generate", "{models}/trace", "--max_new_tokens", "2", "--num_texts", "0"],
    "a folder that is not there": ["generate", "{models}/trace", "--max_new_tokens", "2", "--output", "no/out.jsonl"],
    "a file that is there": ["generate", "{models}/trace", "--max_new_tokens", "2", "--output", "there.jsonl"],
    "a device that is not here": ["generate", "{models}/trace", "--max_new_tokens", "2", "--device", "cuda:99"],
    "another model": ["generate", "{models}/gpt2", "--max_new_tokens", "2"],
    "no latents": ["edit", "{models}/plain", "--text", "It was good.", "--segments", "1"],
    "no segments": ["edit", "{models}/trace", "--text", "It was good.", "--max_new_tokens", "2"],
    "nothing to interpolate": [
        *("interpolate", "{models}/trace", "--text", "Good.", "--text", "Bad.", "--num_steps", "1")
    ],
}


@pytest.mark.parametrize("flags", OTHERS.values(), ids=OTHERS)
def test_remedies_of_other_commands(flags, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there.jsonl").write_text("old")

    def all_checked(*_, **__):
        raise AllChecked

    def few_texts(*args, **settings):
        return load_texts(*args, **{**settings, "max_texts": 20})

    monkeypatch.setattr(train_command, "load_texts", few_texts)
    monkeypatch.setattr(train_command.TraceForConditionalGeneration, "from_backbone", all_checked)  # of `train` alone
    assert follow([flag.replace("{models}", str(models)) for flag in flags], capsys)


def test_a_circle_is_found(monkeypatch, capsys):
    """The loop above fails where a remedy does not help."""
    monkeypatch.setitem(globals(), "apply_remedy", lambda flags, _: flags)
    with pytest.raises(AssertionError, match="in a circle"):
        follow(["genrate"], capsys)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--backbone", "org/of-the-hub", "--output_dir", "out"],
        ["compare", "org/one", "org/two", "--output", "out"],
        ["evaluate", "org/one", "--output", "out"],
        ["reconstruct", "org/one"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("dataset", ["/nope.csv", "./nope/*.jsonl", "reviws"])
def test_a_wrong_path_is_told_before_the_network_is_asked(tmp_path, monkeypatch, capsys, command, dataset):
    """The model is on the Hub, which is not there."""
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: asked.append(args) or 1 / 0)
    assert main([*command, "--dataset", dataset]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: `dataset`") and dataset in error and error.count("\n") == 1, error
    assert not asked and not list(tmp_path.iterdir())
