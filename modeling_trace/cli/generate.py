"""`modeling-trace generate PATH-OR-HUB-ID [--name value ...]`: generates texts with a trained model."""

import contextlib
import dataclasses
import os
import sys
from argparse import Namespace
from typing import Any

import yaml
from transformers.hf_argparser import string_to_bool

from .parser import CommandParser, flag, help_level, printable

PRINTED_BESIDE_FILE = 10  # texts shown when all of them go to a file
# Settings of generate() that ask for sampling by being given.
SAMPLING = ("temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
# Fields of GenerationConfig that are the model's, this command's, or of no use on a command line.
NOT_FLAGS = frozenset(
    "bos_token_id eos_token_id pad_token_id decoder_start_token_id transformers_version is_assistant max_length "
    "max_new_tokens num_return_sequences return_dict_in_generate output_attentions output_hidden_states output_logits "
    "output_scores cache_config compile_config continuous_batching_config watermarking_config constraints".split()
)
SWITCHES = frozenset(
    "disable_compile do_sample low_memory remove_invalid_values renormalize_logits token_healing use_cache".split()
)
MAIN_DECODING = {
    "do_sample": "Sample tokens rather than take the most likely one.",
    "temperature": "Divides the logits of the tokens before sampling.",
    "top_k": "Sample from this many most likely tokens.",
    "top_p": "Sample from the most likely tokens that together have this probability.",
    "num_beams": "Beams of a beam search.",
    "repetition_penalty": "Above 1, makes tokens that are already in the text less likely.",
    "no_repeat_ngram_size": "No n-gram of this size occurs twice in a text.",
    "min_new_tokens": "Minimum number of tokens after the prompt.",
}
INSTEAD = {
    "max_length": "max_new_tokens",
    "num_return_sequences": "num_texts",
    "num_samples": "num_texts",
    "n": "num_texts",
    "output_file": "output",
    "model": "path-or-hub-id, without a flag",
}


@dataclasses.dataclass
class GenerateArguments:
    """Which texts to generate, and where they go."""

    num_texts: int = flag(10, "Number of texts to generate for each prompt.")
    output: str | None = flag(
        None, "JSON lines file to save to: text, segments, prompt, and whether the text ended by itself."
    )
    overwrite: bool = flag(False, "Replace the output file if it exists.")
    seed: int | None = flag(None, "Random seed; repeats the same texts at the same batch size. Default: random.")
    batch_size: int = flag(32, "Number of texts to generate at once.")
    max_new_tokens: int | None = flag(
        None, "Maximum number of tokens after the prompt. Default: what the context holds, at most 256."
    )
    latent_temperature: float | None = flag(
        None, "Scales the standard deviation of the latents' prior; 0 takes its mean. Default: 1."
    )
    min_segment_length: int | None = flag(None, "Minimum number of tokens in a segment. Default: as in training.")
    max_segment_length: int | None = flag(None, "Maximum number of tokens in a segment. Default: as in training.")
    device: str | None = flag(None, "cuda, mps or cpu. Default: the first that is available.")


def run(argv: list[str] | None = None) -> int:
    """Generate the texts. Returns the exit code."""
    arguments, decoding = _parse(sys.argv[2:] if argv is None else argv)
    _check_arguments(arguments)

    import torch
    from transformers import set_seed

    from ..data import TraceProcessor, fitting_max_new_tokens, generate_texts, save_rows
    from ..loading import find_device, load_config, load_model

    device = find_device(arguments.device)
    config = load_config(arguments.model)
    has_latents = config.latent_dynamics != "none"
    latent_settings = _latent_settings(arguments, has_latents)
    processor = TraceProcessor.from_pretrained(arguments.model)
    prompts = arguments.prompt or [None]
    if processor.conditional and arguments.prompt is None:
        raise ValueError("this is a conditional model, which needs a prompt. Give it one: --prompt 'A walk'")
    max_new_tokens = fitting_max_new_tokens(processor, config, prompts, arguments.max_new_tokens)
    model, _ = load_model(arguments.model, device)
    if not has_latents and not decoding.get("do_sample", model.generation_config.do_sample):
        print(
            "warning: a plain language model has no latents, so without sampling all texts of a prompt are the same. "
            "Use --top_k 50.",
            file=sys.stderr,
        )

    seed = arguments.seed if arguments.seed is not None else torch.seed() % 2**32
    set_seed(seed)
    settings = {**decoding, **latent_settings, "max_new_tokens": max_new_tokens}
    repeated = [prompt for prompt in prompts for _ in range(arguments.num_texts)]
    rows = generate_texts(model, processor, repeated, batch_size=arguments.batch_size, **settings)
    if arguments.output is not None:
        save_rows(rows, arguments.output)
    _print_texts(rows, arguments.output, seed)
    return 0


# ---- Arguments ----


def _parse(argv: list[str]) -> tuple[Namespace, dict[str, Any]]:
    """The command's own arguments, and those of GenerationConfig that were given."""
    parser = CommandParser(
        [GenerateArguments],
        instead=INSTEAD,
        prog="modeling-trace generate",
        usage="modeling-trace generate PATH-OR-HUB-ID [--name value ...]",
        description="Generate texts. Decoding is greedy by default; texts differ by their latents. --top_k, --top_p "
        "and --temperature turn sampling on; with --num_beams 4 each text is a beam search of its own.",
    )
    parser.add_argument("model", nargs="?", help="folder or Hub id of a model trained by `modeling-trace train`")
    parser.add_argument(
        "--prompt",
        action="append",
        help="start of the texts, or what a conditional model writes about; can be given several times",
    )
    names = add_decoding(parser, argv)
    arguments = parser.parse(argv)
    return arguments, take_decoding(arguments, names)


def add_decoding(parser: CommandParser, argv: list[str]) -> list[str]:
    """Add the fields of GenerationConfig as flags, for `--help` only the main ones; returns their names."""
    if help_level(argv) == "short":
        group = parser.add_argument_group("decoding", "all settings of transformers.GenerationConfig: --help all")
        for name, text in MAIN_DECODING.items():
            group.add_argument(f"--{name}", help=text)
        return list(MAIN_DECODING)
    from transformers import GenerationConfig

    group = parser.add_argument_group("decoding (see transformers.GenerationConfig)")
    names = [name for name in vars(GenerationConfig()) if not name.startswith("_") and name not in NOT_FLAGS]
    for name in sorted(names):
        kind = {"type": string_to_bool, "nargs": "?", "const": True} if name in SWITCHES else {"type": _value}
        group.add_argument(f"--{name}", **kind, help=MAIN_DECODING.get(name))
    return names


def take_decoding(arguments: Namespace, names: list[str]) -> dict[str, Any]:
    """The decoding flags that were given, as arguments of generate()."""
    decoding = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if any(name in decoding for name in SAMPLING):
        decoding.setdefault("do_sample", True)
    if "num_beams" in decoding and (not isinstance(decoding["num_beams"], int) or decoding["num_beams"] < 1):
        raise ValueError(f"`num_beams` must be an integer >= 1, got {decoding['num_beams']}.")
    return decoding


def _value(text: str):
    """A number, a truth value, a list or a text."""
    for convert in (int, float, yaml.safe_load):  # YAML would take 1e-3 for a text
        with contextlib.suppress(ValueError, yaml.YAMLError):
            return convert(text)
    return text


def _check_arguments(arguments: Namespace) -> None:
    if arguments.model is None:
        raise ValueError("the model is missing. Use: modeling-trace generate PATH-OR-HUB-ID --num_texts 20")
    for name in ("num_texts", "batch_size", "max_new_tokens"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be >= 1, got {value}.")
    check_output(arguments)


def check_output(arguments: Namespace) -> None:
    """Whether `output` can be written, before anything is."""
    output = arguments.output
    if output is None:
        return
    folder = os.path.dirname(output) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"`output` must be in a folder that exists, got '{output}'. Make '{folder}' first.")
    if os.path.isdir(output):
        raise ValueError(f"`output` must be a file, got the folder '{output}'.")
    if os.path.exists(output) and not arguments.overwrite:
        raise ValueError(f"`output` '{output}' exists. Choose another name, or replace it by --overwrite.")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"`output` cannot be written, got '{output}': no permission for '{folder}'.")


def _latent_settings(arguments: Namespace, has_latents: bool) -> dict[str, Any]:
    settings = {}
    for name in ("latent_temperature", "min_segment_length", "max_segment_length"):
        value = getattr(arguments, name)
        if value is not None:
            settings[name] = value
    if settings and not has_latents:
        raise ValueError(f"`{next(iter(settings))}` is for models with latents, but this is a plain language model.")
    return settings


# ---- Model and prompts ----


# ---- Output ----


def _print_texts(rows: list[dict[str, Any]], output: str | None, seed: int) -> None:
    shown = rows if output is None else rows[:PRINTED_BESIDE_FILE]
    for number, row in enumerate(shown, 1):
        print(f"{number:>{len(str(len(rows)))}}. {printable(row['text'])}")
    if output is not None:
        print(f"{'All' if len(shown) < len(rows) else 'The'} {len(rows)} texts are in {output}.")
    print(f"{len({row['text'] for row in rows})} of {len(rows)} texts are distinct (--seed {seed}).")


__all__ = [
    "add_decoding",
    "check_output",
    "run",
    "take_decoding",
]
