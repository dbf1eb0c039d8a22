"""What `reconstruct`, `interpolate`, `edit` and `average` share: texts in, texts with their latents out."""

import dataclasses
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .generate import add_decoding, check_output, take_decoding
from .parser import CommandParser, flag, printable

if TYPE_CHECKING:  # --help answers without
    import torch
    from transformers.utils import ModelOutput

    from ..data import TraceProcessor
    from ..models.modeling_trace import TraceForConditionalGeneration

NUM_TEXTS = 10  # of a data set


@dataclasses.dataclass
class LatentCommandArguments:
    """Which texts, and where the new ones go."""

    dataset: str | None = flag(None, "Data set with the texts, in place of --text; the same values as for `train`.")
    text_column: str | None = flag(None, "Column with the texts. Found by itself where there is only one.")
    encoding: str | None = flag(None, "Encoding of the files, as for train.")
    delimiter: str | None = flag(None, "What separates the fields of csv files, as for train.")
    prompt_column: str | None = flag(None, "Column with the prompts, for conditional models.")
    num_texts: int = flag(NUM_TEXTS, "Number of texts to take from the data set.")
    output: str | None = flag(None, "JSON lines file to save to: text, segments, latents and source.")
    overwrite: bool = flag(False, "Replace the output file if it exists.")
    seed: int | None = flag(None, "Random seed; repeats the same texts at the same batch size. Default: random.")
    batch_size: int = flag(32, "Number of texts to process at once.")
    max_new_tokens: int | None = flag(None, "Maximum number of tokens to generate. Default: twice the text's own.")
    device: str | None = flag(None, "cuda, mps or cpu. Default: the first that is available.")


def parse(
    argv: list[str], command: str, description: str, extra_arguments: type | None = None
) -> tuple[Namespace, dict[str, Any]]:
    """The command's arguments, and those of `generate()`."""
    parser = CommandParser(
        [*([extra_arguments] if extra_arguments else []), LatentCommandArguments],
        instead={"input": "text", "model": "path-or-hub-id, without a flag", "num_return_sequences": "num_draws"},
        prog=f"modeling-trace {command}",
        usage=f"modeling-trace {command} PATH-OR-HUB-ID --text '...' [--name value ...]",
        description=description,
    )
    parser.add_argument("model", nargs="?", help="folder or Hub id of a model trained by `modeling-trace train`")
    parser.add_argument("--text", action="append", help="a text; can be given several times")
    parser.add_argument("--prompt", action="append", help="the prompt of each text, for conditional models")
    names = add_decoding(parser, argv)
    arguments = parser.parse(argv)
    if arguments.model is None:
        raise ValueError(f"the model is missing. Use: modeling-trace {command} PATH-OR-HUB-ID --text '...'")
    if (arguments.text is None) == (arguments.dataset is None):
        raise ValueError("give texts either by `text` or by `dataset`, got both or neither.")
    if arguments.prompt is not None and arguments.text is None:
        raise ValueError("`prompt` goes with `text`; prompts of a data set are in its `prompt_column`.")
    for name in ("num_texts", "batch_size", "max_new_tokens"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise ValueError(f"`{name}` must be >= 1, got {getattr(arguments, name)}.")
    check_output(arguments)
    return arguments, take_decoding(arguments, names)


def load(
    arguments: Namespace, check: Callable | None = None
) -> "tuple[TraceForConditionalGeneration, TraceProcessor, list[str], list[str] | None, int | None, int]":
    """
    Model, processor, the texts and prompts (or None) to work on, the context and the seed.

    All is checked before the weights are read; `check(config, processor, rows)` is the command's own part of that,
    with the ids of each text.
    """
    import torch  # here, so that --help answers without
    from transformers import set_seed

    from ..data import TraceProcessor, load_texts
    from ..data.sources import check_dataset_name
    from ..loading import find_device, load_config, load_model

    device = find_device(arguments.device)
    check_dataset_name(arguments.dataset)  # None passes; the model may need the network
    config = load_config(arguments.model)
    if config.latent_dynamics == "none":
        path = os.path.abspath(arguments.model) if os.path.isdir(arguments.model) else arguments.model
        raise ValueError(
            f"'{arguments.model}' is a plain language model, without latents. Turn it into TRACE: modeling-trace "
            f"train --backbone {shlex.quote(path)}"
        )
    processor = TraceProcessor.from_pretrained(arguments.model)
    texts, prompts = arguments.text, arguments.prompt
    if texts is None:
        rows, _ = load_texts(
            arguments.dataset,
            text_column=arguments.text_column,
            encoding=arguments.encoding,
            delimiter=arguments.delimiter,
            prompt_column=arguments.prompt_column,
            conditional=config.conditional,
            validation_split=None,
            max_texts=arguments.num_texts,
        )
        texts, prompts = rows["text"][:], rows["prompt"][:] if config.conditional else None
    if config.conditional and prompts is None:
        raise ValueError("this is a conditional model: give each --text its --prompt.")
    if prompts is not None and not config.conditional:
        raise ValueError("`prompt` is for conditional models, and this is none. Leave it out.")
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    rows = processor(texts, prompt=prompts, max_length=limit)["input_ids"]
    if check is not None:
        check(config, processor, rows)
    seed = arguments.seed if arguments.seed is not None else torch.seed() % 2**32
    set_seed(seed)
    model, _ = load_model(arguments.model, device)
    return model, processor, texts, prompts, limit, seed


def batches(
    model: "TraceForConditionalGeneration",
    processor: "TraceProcessor",
    texts: list[str],
    prompts: list[str] | None,
    limit: int | None,
    size: int,
) -> "Iterator[tuple[list[str], dict[str, torch.Tensor]]]":
    """
    Batches of `size` texts: the texts, and their `input_ids` and `attention_mask` on the model's device. Texts past
    the context lose whole segments.
    """
    for start in range(0, len(texts), size):
        part = slice(start, start + size)
        inputs = processor(
            texts[part], prompt=prompts and prompts[part], max_length=limit, padding=True, return_tensors="pt"
        )
        yield texts[part], {name: tensor.to(model.device) for name, tensor in inputs.items()}


def as_rows(processor: "TraceProcessor", outputs: "ModelOutput", sources: list[Any]) -> list[dict[str, Any]]:
    """A JSON row for each returned sequence: its text, segments, latents (num_segments x latent_size) and source."""
    rows = []
    for ids, latents, source in zip(outputs.sequences.tolist(), outputs.latents.tolist(), sources, strict=True):
        segments = processor.split(ids)
        kept = latents[: max(1, len(segments))]
        rows.append({"text": processor.decode(ids), "segments": segments, "latents": kept, "source": source})
    return rows


def print_and_save(
    rows: list[dict[str, Any]], arguments: Namespace, label: Callable[[int, dict], str], seed: int
) -> None:
    """Print the texts, each after its label, and save them where asked."""
    if arguments.output is not None:
        from ..data import save_rows

        save_rows(rows, arguments.output)
    for number, row in enumerate(rows):
        print(f"{label(number, row)} {printable(row['text'])}")
    if arguments.output is not None:
        print(f"The {len(rows)} texts and their latents are in {arguments.output}.")
    print(f"(--seed {seed})", file=sys.stderr)


def run_latent_command(
    argv: list[str] | None,
    command: str,
    description: str,
    work: Callable,
    *,
    extra_arguments: type | None = None,
    check: Callable | None = None,
    label: Callable[[int, dict], str] = lambda number, row: f"{number + 1}.",
    texts_per_item: int | None = 1,
) -> int:
    """
    One of these commands: parse, check, work on the texts in batches, print and save.

    Args:
        argv (`list[str]`, *optional*): arguments after the command; by default those of the process.
        command, description (`str`): for --help.
        work (`Callable`): `work(model, arguments, inputs, texts, decoding)` for each batch; returns the outputs of
            generate() and the source of each of its rows.
        extra_arguments (`type`, *optional*): a dataclass of the command's own flags.
        check (`Callable`, *optional*): see [`load`]; its first argument is the parsed arguments.
        label (`Callable`): of a row of the output, from its number and itself.
        texts_per_item (`int`, *optional*): texts that belong together in a batch; None for all of them.

    Returns:
        `int`: the exit code.
    """
    arguments, decoding = parse(sys.argv[2:] if argv is None else argv, command, description, extra_arguments)
    model, processor, texts, prompts, limit, seed = load(arguments, check and (lambda *args: check(arguments, *args)))
    size = len(texts) if texts_per_item is None else texts_per_item * arguments.batch_size
    rows = []
    for part, inputs in batches(model, processor, texts, prompts, limit, size):
        rows += as_rows(processor, *work(model, arguments, inputs, part, decoding))
    print_and_save(rows, arguments, label, seed)
    return 0


__all__ = ["LatentCommandArguments", "run_latent_command"]
