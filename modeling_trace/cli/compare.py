"""`modeling-trace compare RUN RUN ... --dataset ...`: systems side by side, in one report."""

import dataclasses
import os
import sys
import textwrap
from argparse import Namespace
from pathlib import Path

from .generate import find_device, load_config, load_model
from .parser import CommandParser, flag
from .real_texts import NUM_TEXTS, load_real_texts

PARTS = "parts"
MOST_FINDINGS = 12  # on the screen
DECODING_NAMES = ("greedy", "beam", "top-k", "top-p", "temperature")  # as modeling_trace.evaluation.report.decoding
LIKELIHOOD_METHODS = ("importance", "particle")  # as modeling_trace.models.likelihood_trace
EXTRA = ("bert_score", "mauve", "vendi_score")


@dataclasses.dataclass
class CompareArguments:
    """On which texts, and how much of what."""

    dataset: str | None = flag(None, "Real texts: what `train` takes as a dataset. The validation texts are used.")
    output: str | None = flag(None, "Folder for the report; the same command again goes on where it was stopped.")
    text_column: str | None = flag(None, "Column with the texts. Found by itself where there is only one.")
    prompt_column: str | None = flag(None, "Column with the prompts, for conditional models.")
    drop_empty: bool = flag(False, "Leave rows without text out.")
    encoding: str | None = flag(None, "Encoding of the files, as for train.")
    delimiter: str | None = flag(None, "What separates the fields of csv files, as for train.")
    split: str = flag("train", "As in training: the split that the validation texts were kept back of.")
    validation_split: str = flag(
        "0.1", "As in training: a fraction or number of texts kept back, a split's name, or none for all of `split`."
    )
    max_texts: int | None = flag(None, "As in training: texts of each split to use at all.")
    num_texts: int | None = flag(
        None, f"Texts that each system writes, and real ones beside them. Default: {NUM_TEXTS}, or what there is."
    )
    allow_fewer: bool = flag(False, "Go on with fewer where the data hold fewer than `num_texts`.")
    num_samples: int = flag(100, "Latents drawn per text for the likelihood.")
    likelihood_method: str = flag(
        "importance", "importance (weighting), or particle: a filter over segments, the tighter bound."
    )
    num_likelihood_texts: int | None = flag(None, "Texts for likelihood and representation. Default: `num_texts`.")
    num_judge_texts: int | None = flag(None, "Texts of each set that the judge reads. Default: `num_texts`.")
    num_curve_texts: int = flag(200, "Texts for each point of the plane of quality and diversity.")
    max_words: int | None = flag(None, "Cut every text, real and written, after so many words.")
    word_tokenizer: str = flag(
        "whitespace", "What words are: whitespace, characters, or sacrebleu's intl, zh, ja-mecab or ko-mecab."
    )
    max_new_tokens: int | None = flag(
        None, "Tokens that a text may have. Default: as the longest real one, up to 256."
    )
    judge: str = flag("smollm2-135m", "Outside language model: Hub id, folder, GGUF file, smollm2-135m, or none.")
    batch_size: int = flag(32, "Texts to write or read at once.")
    confidence: float = flag(0.95, "Of the intervals and tests.")
    device: str | None = flag(None, "cuda, mps or cpu. Default: the first of them that is there.")


def run(argv: list[str] | None = None) -> int:
    """Compare several systems. Returns the exit code."""
    return run_report(
        sys.argv[2:] if argv is None else argv,
        "compare",
        "RUN RUN ...",
        "Measure trained models on the same real texts and write one report: likelihood, representation, quality and "
        "diversity with intervals and tests, by decoding strategy; what may not be concluded; random texts.",
    )


def run_report(argv: list[str], command: str, what: str, description: str) -> int:
    """What `compare` and `evaluate` share."""
    arguments = _parse(argv, command, what, description)
    _check_arguments(arguments, command, what)
    paths = arguments.models
    names = _names(arguments)
    # Configurations, then texts, then tokenizers: weights come last
    configs = [load_config(path) for path in paths]
    device = find_device(arguments.device)

    from ..data import TraceProcessor  # here, so that --help answers without torch
    from ..evaluation.report.cache import Parts
    from ..evaluation.report.comparison import compare_systems
    from ..evaluation.report.systems import EvaluationSettings, System, check_fit, weights_fingerprint
    from ..evaluation.report.writing import FILES, write_report

    _check_output(Path(arguments.output), FILES)

    def loader(path):
        return lambda: load_model(path).to(device).eval()

    systems = [
        System(
            name, path, config, TraceProcessor.from_pretrained(path), loader(path), weights_fingerprint(path, config)
        )
        for name, path, config in zip(names, paths, configs, strict=True)
    ]
    check_fit(systems)
    data = load_real_texts(arguments, systems)
    count = len(data.real)
    settings = EvaluationSettings(
        num_samples=arguments.num_samples,
        likelihood_method=arguments.likelihood_method,
        num_likelihood_texts=_at_most(arguments, "num_likelihood_texts", count),
        decoding=tuple(arguments.decoding),
        seeds=tuple(arguments.seeds),
        curve_temperatures=tuple(arguments.curve_temperatures),
        curve_latent_temperatures=tuple(arguments.curve_latent_temperatures),
        num_curve_texts=arguments.num_curve_texts,
        judge=None if arguments.judge.lower() == "none" else arguments.judge,
        num_judge_texts=_at_most(arguments, "num_judge_texts", count),
        extra_metrics=tuple(arguments.extra_metrics),
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
        device=str(device),
        confidence=arguments.confidence,
        word_tokenizer=arguments.word_tokenizer,
    )
    parts = Parts(Path(arguments.output) / PARTS)
    try:
        report = compare_systems(systems, data, settings, parts)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from here.") from None
    write_report(report, arguments.output)
    _print_end(report, Path(arguments.output), parts, FILES)
    return 0


# ---- Arguments ----


def _parse(argv, command, what, description) -> Namespace:
    parser = CommandParser(
        [CompareArguments],
        instead={
            **{"output_dir": "output", "num_return_sequences": "num_texts", "max_length": "max_words"},
            **{"seed": "seeds", "model": "path-or-hub-id, without a flag"},
            **{"temperatures": "curve_temperatures", "latent_temperatures": "curve_latent_temperatures"},
        },
        prog=f"modeling-trace {command}",
        usage=f"modeling-trace {command} {what} --dataset DATASET --output FOLDER [--name value ...]",
        description=description,
    )
    parser.add_argument("models", nargs="*", help="folders or Hub ids of models that `modeling-trace train` wrote")
    parser.add_argument("--names", nargs="+", help="the systems' names; by default those of the folders")
    parser.add_argument(
        "--decoding", nargs="+", default=["greedy", "top-k"], help=f"strategies, of {', '.join(DECODING_NAMES)}"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of generation; figures are means over them")
    parser.add_argument(
        "--curve_temperatures",
        nargs="*",
        type=float,
        default=[0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        help="of the tokens, on the plane of quality and diversity, 0 for greedy; nothing after the flag for no plane",
    )
    parser.add_argument(
        "--curve_latent_temperatures",
        nargs="*",
        type=float,
        default=[0.0, 0.5, 1.0],
        help="of the latents there, 0 for the prior's mean; each with each of the tokens",
    )
    parser.add_argument("--extra_metrics", nargs="+", default=[], help=f"that take long: {', '.join(EXTRA)}")
    return parser.parse(argv)


def _check_arguments(arguments: Namespace, command: str, what: str) -> None:
    usage = f"modeling-trace {command} {what} --dataset DATASET --output FOLDER"
    if not arguments.models:
        raise ValueError(f"the model is missing. Use: {usage}")
    if command == "evaluate" and len(arguments.models) > 1:
        raise ValueError(
            f"`evaluate` takes one model, got {len(arguments.models)}. Use: modeling-trace compare RUN RUN"
        )
    for name in ("dataset", "output"):
        if getattr(arguments, name) is None:
            raise ValueError(f"`{name}` is missing. Use: {usage}")
    least = {"num_texts": 3, "num_likelihood_texts": 3, "num_judge_texts": 3, "num_curve_texts": 3}
    for name, smallest in {**least, "num_samples": 1, "batch_size": 1, "max_words": 1, "max_new_tokens": 1}.items():
        value = getattr(arguments, name)
        if value is not None and value < smallest:
            reason = " An interval needs texts to leave out." if smallest == 3 else ""
            raise ValueError(f"`{name}` must be >= {smallest}, got {value}.{reason}")
    if not 0.5 <= arguments.confidence < 1:
        raise ValueError(f"`confidence` must be between 0.5 and 1, got {arguments.confidence}. Use 0.95.")
    for name, known in (("decoding", DECODING_NAMES), ("extra_metrics", EXTRA)):
        unknown = [value for value in getattr(arguments, name) if value not in known]
        if unknown:
            raise ValueError(f"`{name}` must be of {', '.join(known)}, got '{unknown[0]}'.")
    if arguments.likelihood_method not in LIKELIHOOD_METHODS:
        raise ValueError(
            f"`likelihood_method` must be of {', '.join(LIKELIHOOD_METHODS)}, got '{arguments.likelihood_method}'."
        )
    for name in ("decoding", "seeds", "curve_temperatures", "curve_latent_temperatures"):
        values = getattr(arguments, name)
        if len(set(values)) < len(values):
            raise ValueError(f"`{name}` must be different ones, got {' '.join(map(str, values))}.")


def _check_output(output: Path, files) -> None:
    """A new or empty folder, or one of an earlier report."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"`output` must be a folder, got the file '{output}'.")
    if output.is_dir() and any(output.iterdir()) and not any((output / n).exists() for n in (PARTS, *files)):
        raise ValueError(f"`output` '{output}' holds something else than a report. Choose another folder.")
    above = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not os.access(above, os.W_OK):
        raise ValueError(f"`output` cannot be written, got '{output}': no permission for '{above}'.")


def _names(arguments: Namespace) -> list[str]:
    if arguments.names is None:
        names = [os.path.basename(os.path.abspath(path)) for path in arguments.models]
        return names if len(set(names)) == len(names) else list(arguments.models)
    if len(arguments.names) != len(arguments.models):
        raise ValueError(
            f"`names` must be one for each model, got {len(arguments.names)} for {len(arguments.models)}."
        )
    return arguments.names


def _at_most(arguments: Namespace, name: str, count: int) -> int:
    wanted = getattr(arguments, name)
    if wanted is not None and wanted > count:
        raise ValueError(f"`{name}` must be at most `num_texts`, got {wanted} and {count}. Lower it.")
    return wanted or count


# ---- Output ----


def _print_end(report, output: Path, parts, files) -> None:
    overview = report["tables"][0]
    from ..evaluation.report.markdown import format_cell

    heads = [column["label"] for column in overview["columns"]]
    rows = [
        [
            row["name"],
            *(
                _marked(format_cell(c, k["decimals"]), c)
                for c, k in zip(row["cells"], overview["columns"], strict=True)
            ),
        ]
        for row in overview["rows"]
    ]
    widths = [max(len(row[i]) for row in [["", *heads], *rows]) for i in range(len(heads) + 1)]
    print(f"\n{overview['title']}\n")
    for row in [["", *heads], *rows]:
        print(
            "  ".join(
                f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}"
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
        )
    print("\n* best of its column, + second, only where tests bear it out. What may not be concluded:\n")
    for finding in report["findings"][:MOST_FINDINGS]:
        print(textwrap.fill(f"- {finding}", 110, subsequent_indent="  "))
    if len(report["findings"]) > MOST_FINDINGS:
        print(f"- and {len(report['findings']) - MOST_FINDINGS} more in the report.")
    print(f"\nAll tables, curves and texts are in {output}/: {', '.join(files)}, texts/.")
    if parts.reused:
        print(f"{parts.reused} finished parts of an earlier run were used again.")


def _marked(text: str, cell) -> str:
    return {"best": f"*{text}", "second": f"+{text}"}.get((cell or {}).get("mark"), text)


__all__ = ["run", "run_report"]
