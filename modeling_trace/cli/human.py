"""`modeling-trace human make|read`: rating sheets for people, and what their ratings say (Sec. 5.6)."""

import dataclasses
import json
import secrets
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from .parser import CommandParser, flag

KEY_NAME = "key.json"  # as modeling_trace.evaluation.human_study.sheets, which --help need not import
CRITERIA = ("fluency", "coherence", "novelty")
USAGE = """\
modeling-trace human make TEXTS.jsonl [TEXTS2.jsonl ...] --output sheets/
modeling-trace human read sheets/ --key key.json [--output table.md]"""


@dataclasses.dataclass
class MakeArguments:
    """What to compare, by whom."""

    output: str | None = flag(None, "Folder for the sheets and the key; new or empty.")
    num_prompts: int = flag(50, "Prompts, or groups where there are none: texts of each system.")
    num_annotators: int = flag(5, "People who rate.")
    annotators_per_text: int = flag(2, "Ratings that each text gets.")
    seed: int | None = flag(None, "Makes the sheets repeatable. Drawn where left out; the key holds it.")


@dataclasses.dataclass
class ReadArguments:
    """What was rated, and where the results go."""

    key: str | None = flag(None, f"The key of the sheets. Default: {KEY_NAME} beside them.")
    output: str | None = flag(None, "Markdown file for the table; all results go beside it as JSON.")
    overwrite: bool = flag(False, "Replace those files where they exist.")
    confidence: float = flag(0.95, "Of the intervals of the means.")
    significance: float = flag(0.05, "Share of studies in which chance alone may make a difference significant.")


def run(argv: list[str] | None = None) -> int:
    """Make sheets, or read them. Returns the exit code."""
    action, *rest = (sys.argv[2:] if argv is None else argv) or [""]
    if action in ("-h", "--help"):
        print(f"usage:\n{USAGE}\n\n`modeling-trace human make --help` lists flags; so does `read --help`.")
        return 0
    if action not in ("make", "read"):
        raise ValueError(f"say `human make` or `human read`, got '{action}'. Use: {USAGE}")
    return _make(rest) if action == "make" else _read(rest)


def _make(argv: list[str]) -> int:
    parser = CommandParser(
        [MakeArguments],
        instead={"output_dir": "output", "prompts": "num_prompts", "annotators": "num_annotators"},
        prog="modeling-trace human make",
        usage=USAGE.splitlines()[0],
        description="Write blinded, shuffled rating sheets: a CSV file and a web form for each annotator.",
    )
    parser.add_argument(
        "texts", nargs="*", help="one file per system, as `modeling-trace generate --output` writes it"
    )
    parser.add_argument("--names", nargs="+", help="the systems' names; by default those of the files")
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA), help="what to rate")
    arguments = parser.parse(argv)
    if not arguments.texts:
        raise ValueError(f"the texts are missing. Use: {USAGE.splitlines()[0]}")
    if arguments.output is None:
        raise ValueError("`output` is missing: the folder for the sheets. Use --output sheets")
    names = _names(arguments)
    texts = {name: _read_texts(path) for name, path in zip(names, arguments.texts, strict=True)}
    seed = arguments.seed if arguments.seed is not None else secrets.randbits(32)
    from ..evaluation.human_study.sheets import make_sheets

    key = make_sheets(
        texts,
        arguments.output,
        num_prompts=arguments.num_prompts,
        num_annotators=arguments.num_annotators,
        annotators_per_text=arguments.annotators_per_text,
        criteria=arguments.criteria,
        seed=seed,
    )
    loads = sorted({len(items) for items in key["annotators"].values()})
    print(
        f"Sheets for {len(key['annotators'])} annotators are in {arguments.output}, with "
        f"{' or '.join(map(str, loads))} texts each. Give each annotator the form (.html) or the sheet (.csv) of one "
        f"number. Keep {KEY_NAME} to yourself: it tells the systems."
    )
    print(f"(--seed {seed})", file=sys.stderr)
    return 0


def _names(arguments: Namespace) -> list[str]:
    names = arguments.names or [Path(path).stem for path in arguments.texts]
    if len(names) != len(arguments.texts):
        raise ValueError(f"`names` must be one for each file, got {len(names)} for {len(arguments.texts)}.")
    double = [name for name in names if names.count(name) > 1]
    if double:
        raise ValueError(f"`names` must differ, got '{double[0]}' twice. Name the systems: --names A B")
    return names


def _read_texts(path: str) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    rows = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    row = {"text": row} if isinstance(row, str) else row
                    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                        raise ValueError(f"'{path}' line {number} has no `text`.")
                    rows.append(row)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read: {error.strerror}.") from None
    except json.JSONDecodeError:
        raise ValueError(f"'{path}' line {number} is no JSON. Give what `generate --output` wrote.") from None
    except UnicodeDecodeError:
        raise ValueError(f"'{path}' is not UTF-8.") from None
    return rows


def _read(argv: list[str]) -> int:
    parser = CommandParser(
        [ReadArguments],
        instead={"alpha": "significance", "names": "key"},
        prog="modeling-trace human read",
        usage=USAGE.splitlines()[1],
        description="Check the filled sheets and print means, tests and agreement.",
    )
    parser.add_argument("sheets", nargs="*", help="the folder with the filled sheets, or the files")
    arguments = parser.parse(argv)
    if not arguments.sheets:
        raise ValueError(f"the sheets are missing. Use: {USAGE.splitlines()[1]}")
    json_path = _check_output(arguments)
    first = Path(arguments.sheets[0])
    key = arguments.key or (first if first.is_dir() else first.parent) / KEY_NAME
    from ..evaluation.human_study.reading import read_sheets
    from ..evaluation.human_study.statistics import summarise, summary_table

    summary = summarise(
        read_sheets(arguments.sheets[0] if len(arguments.sheets) == 1 else arguments.sheets, key),
        confidence=arguments.confidence,
        significance=arguments.significance,
    )
    table = summary_table(summary)
    print(table, end="")
    if json_path is not None:
        Path(arguments.output).write_text(table, encoding="utf-8")
        json_path.write_text(
            json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        print(f"\nThe table is in {arguments.output}, all results are in {json_path}.")
    return 0


def _check_output(arguments: Namespace) -> Path | None:
    """The file for the results, once it is sure that both can be written."""
    from .generate import check_output  # loads torch

    if arguments.output is None:
        return None
    json_path = Path(arguments.output).with_suffix(".json")
    if str(json_path) == arguments.output:
        raise ValueError("`output` must be a Markdown file, such as table.md; the results go beside it as JSON.")
    for path in (arguments.output, str(json_path)):
        check_output(Namespace(output=path, overwrite=arguments.overwrite))
    return json_path


__all__ = ["run"]
