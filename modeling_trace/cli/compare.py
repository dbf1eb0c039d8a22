"""`modeling-trace compare RUN RUN ... --dataset ...`: systems side by side, in one report."""

import dataclasses
import sys
import textwrap
from argparse import Namespace
from pathlib import Path
from typing import Any

from .parser import CommandParser, flag

MOST_FINDINGS = 12  # on the screen
DECODING_NAMES = ("greedy", "beam", "top-k", "top-p", "temperature")  # as modeling_trace.evaluation.report.decoding
LIKELIHOOD_METHODS = ("importance", "particle")  # as modeling_trace.models.likelihood_trace
EXTRA_METRICS = ("bert_score", "mauve", "vendi_score")  # as modeling_trace.evaluation.report.settings
# Arguments of modeling_trace.evaluation.load_real_texts
TEXTS = ("text_column", "prompt_column", "drop_empty", "encoding", "delimiter")
TEXTS += ("split", "validation_split", "max_texts", "num_texts", "allow_fewer", "max_words")


@dataclasses.dataclass
class CompareArguments:
    """On which texts, and how much of what."""

    dataset: str | None = flag(None, "Real texts: what `train` takes as a dataset. The held-out texts are used.")
    output: str | None = flag(None, "Folder for the report; the same command again goes on where it was stopped.")
    text_column: str | None = flag(None, "Column with the texts. Found by itself where there is only one.")
    prompt_column: str | None = flag(None, "Column with the prompts, for conditional models.")
    drop_empty: bool = flag(False, "Leave rows without text out.")
    encoding: str | None = flag(None, "Encoding of the files, as for train.")
    delimiter: str | None = flag(None, "What separates the fields of csv files, as for train.")
    split: str = flag("train", "As in training: the split that the validation texts are held out from.")
    validation_split: str = flag(
        "0.1", "As in training: a fraction or number of held-out texts, a split's name, or none for all of `split`."
    )
    max_texts: int | None = flag(None, "As in training: texts of each split to use at all.")
    num_texts: int | None = flag(
        None, "Texts that each system generates, and real ones beside them. Default: 1000, or as many as there are."
    )
    allow_fewer: bool = flag(False, "Use fewer texts where the data hold fewer than `num_texts`.")
    num_samples: int = flag(100, "Latents drawn per text for the likelihood.")
    likelihood_method: str = flag(
        "importance", "importance (weighting), or particle: a filter over segments, the tighter bound."
    )
    num_likelihood_texts: int | None = flag(None, "Texts for likelihood and representation. Default: `num_texts`.")
    num_generated_texts: int | None = flag(None, "Texts to generate, where fewer. Default: `num_texts`.")
    num_judge_texts: int | None = flag(None, "Texts of each set that the judge reads. Default: all.")
    num_curve_texts: int = flag(200, "Texts for each point of the plane of quality and diversity.")
    max_words: int | None = flag(None, "Cut every text, real and generated, after that many words.")
    word_tokenizer: str = flag(
        "whitespace", "What words are: whitespace, characters, or sacrebleu's intl, zh, ja-mecab or ko-mecab."
    )
    max_new_tokens: int | None = flag(
        None, "Tokens that a text may have. Default: as the longest real one, up to 256."
    )
    judge: str = flag("smollm2-135m", "Outside language model: Hub id, folder, GGUF file, smollm2-135m, or none.")
    batch_size: int = flag(32, "Texts to generate or read at once.")
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

    from ..evaluation.report.comparison import compare  # loads what --help does not need
    from ..evaluation.report.settings import EvaluationSettings

    settings = EvaluationSettings(
        **{field.name: getattr(arguments, field.name) for field in dataclasses.fields(EvaluationSettings)}
    )
    texts = {name: getattr(arguments, name) for name in TEXTS}
    try:
        report = compare(
            arguments.models,
            arguments.dataset,
            arguments.output,
            names=arguments.names,
            settings=settings,
            **texts,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from here.") from None
    _print_end(report, arguments.output)
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
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of generation; metrics are means over them")
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
    parser.add_argument("--extra_metrics", nargs="+", default=[], help=f"that take long: {', '.join(EXTRA_METRICS)}")
    arguments = parser.parse(argv)
    arguments.judge = None if arguments.judge.lower() == "none" else arguments.judge
    arguments.validation_split = _number(arguments.validation_split)
    return arguments


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


def _number(text: str) -> float | int | str | None:
    """A fraction, a number, a name or None."""
    if text.lower() in ("none", "null", "0"):
        return None
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    return text


# ---- Output ----


def _print_end(report: dict[str, Any], output: str) -> None:
    """The overview, the first findings, and where the rest is."""
    from ..evaluation.report.markdown import format_cell
    from ..evaluation.report.writing import FILES

    overview = report["tables"][0]
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
    print(f"\nAll tables, curves and texts are in {Path(output)}/: {', '.join(FILES)}, texts/.")
    if report["num_reused"]:
        print(f"{report['num_reused']} results of an earlier run were used again.")


def _marked(text: str, cell) -> str:
    return {"best": f"*{text}", "second": f"+{text}"}.get((cell or {}).get("mark"), text)


__all__ = ["run", "run_report"]
