"""Human evaluation (Sec. 5.6, appendix A.2): blinded sheets for annotators."""

import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from .form import render_form

KEY_NAME = "key.json"
# The question of each criterion, and what each rating from 1 to 5 stands for.
CRITERIA = {
    "fluency": (
        "is it correct, natural language?",
        (
            "Most sentences are broken.",
            "Many errors; hard to read.",
            "Readable, with several errors.",
            "Good, with a few small errors.",
            "As a careful native writer would write it.",
        ),
    ),
    "coherence": (
        "do the parts fit together, and fit the prompt where there is one?",
        (
            "The parts have nothing to do with each other or with the prompt.",
            "A few parts fit; the rest is jumbled.",
            "The topic is kept, but parts contradict or do not follow.",
            "It hangs together, with small slips.",
            "Every part follows, and it fits the prompt.",
        ),
    ),
    "novelty": (
        "does it bring something of its own, unlike the other texts?",
        (
            "Empty, or says the same thing again and again.",
            "Stock phrases only.",
            "Ordinary; much like other texts.",
            "Some ideas of its own.",
            "Fresh and distinct.",
        ),
    ),
}
COLUMNS = ("annotator", "group", "item", "prompt", "text")
_NOT_CRITERIA = (*COLUMNS, "system")
_LETTERS = "bcdfghjkmnpqrstvwxz"  # no digits, which spreadsheets turn into numbers, and no vowels, which make words
_FORMULA = tuple("=+-@'")


def make_sheets(
    texts_by_system: Mapping[str, Sequence[dict | str]],
    output_dir: str | os.PathLike,
    *,
    num_prompts: int = 50,
    num_annotators: int = 5,
    annotators_per_text: int = 2,
    criteria: Sequence[str] | Mapping[str, tuple[str, Sequence[str]]] = ("fluency", "coherence", "novelty"),
    seed: int,
) -> dict[str, Any]:
    """
    Write blinded rating sheets, as in appendix A.2: groups of one text per system on the same prompt, shuffled.

    Each annotator gets a CSV file and a web form with the same content, either of which can be filled; `key.json`,
    which tells the texts' systems, is for the organiser alone. Every text goes to `annotators_per_text` annotators,
    and their loads differ by at most one group. The groups of an annotator, and the texts in each, are in an order of
    the annotator's own.

    Args:
        texts_by_system (`dict[str, list]`): for each system its texts, as strings or as the rows that
            `modeling-trace generate --output` writes: `text`, and `prompt` where texts are compared on prompts.
        output_dir (`str` or `os.PathLike`): a folder that is new or empty. All files are written, or none.
        num_prompts (`int`): groups to make. Prompts, or where there are none texts, are drawn at random.
        num_annotators (`int`): sheets to make.
        annotators_per_text (`int`): ratings that every text gets.
        criteria (`Sequence[str]` or `dict`): names out of `CRITERIA`; or your own: names to a question and five
            anchors, which say in plain words what the ratings 1 to 5 stand for.
        seed (`int`): makes the sheets repeatable. Who knows it and the texts can undo the blinding.

    Returns:
        `dict`: the key, as in `key.json`.

    Raises:
        ValueError: for too few texts, for arguments that do not fit, and for a folder with something in it.

    Example:

    ```python
    >>> import tempfile
    >>> texts = {name: [f"Text {number} of many." for number in range(4)] for name in ("ours", "theirs")}
    >>> key = make_sheets(texts, tempfile.mkdtemp(), num_prompts=4, num_annotators=2, seed=0)
    >>> sorted(key["annotators"]), len(key["items"])
    (['annotator_1', 'annotator_2'], 8)

    ```
    """
    questions = _check_criteria(criteria)
    _check_numbers(num_prompts, num_annotators, annotators_per_text)
    folder = Path(output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "holds sheets already" if (folder / KEY_NAME).exists() else "is not an empty folder"
        raise ValueError(f"`output_dir` must be new or empty, and '{folder}' {what}. Choose another name.")
    rng = random.Random(seed)
    groups = _draw_groups(texts_by_system, num_prompts, rng)

    items, rows = {}, []  # rows[group] holds the rows of that group
    for number, (prompt, texts) in enumerate(groups):
        rows.append([])
        for system, text in texts.items():
            item = _new_id(items, rng)
            items[item] = {"system": system, "group": number, "checksum": text_checksum(prompt, text)}
            rows[-1].append({"item": item, "prompt": prompt, "text": text})
    teams = _assign(num_prompts, num_annotators, annotators_per_text, rng)
    sheets: list[dict[str, Any]] = []
    for index in range(num_annotators):
        sheet_groups = [rows[group] for group in range(num_prompts) if index in teams[group]]
        rng.shuffle(sheet_groups)
        sheet_groups = [rng.sample(group, len(group)) for group in sheet_groups]
        sheets.append(
            {
                "annotator": f"annotator_{index + 1}",
                "criteria": [{"name": name, "question": text, "anchors": a} for name, (text, a) in questions.items()],
                "rows": [{"group": number, **row} for number, group in enumerate(sheet_groups, 1) for row in group],
            }
        )
    key = {
        "format": 1,
        "seed": seed,
        "criteria": list(questions),
        "systems": list(texts_by_system),
        "annotators": {sheet["annotator"]: [row["item"] for row in sheet["rows"]] for sheet in sheets},
        "items": items,
    }
    files = {KEY_NAME: json.dumps(key, indent=1, ensure_ascii=False) + "\n"}
    for sheet in sheets:
        files[f"{sheet['annotator']}.csv"] = sheet_csv(sheet)
        files[f"{sheet['annotator']}.html"] = render_form(sheet)
    _write_folder(files, folder)
    return key


def _check_criteria(criteria) -> dict[str, tuple[str, list[str]]]:
    if isinstance(criteria, str):
        raise ValueError(f"`criteria` must be a list of names, got '{criteria}'. Use ['{criteria}'].")
    if not isinstance(criteria, Mapping):
        for name in criteria:
            if name not in CRITERIA:
                raise ValueError(
                    f"`criteria` must be among {', '.join(CRITERIA)}, got '{name}'. For your own, give a dict of "
                    "names to a question and five anchors."
                )
        criteria = {name: CRITERIA[name] for name in criteria}
    if not criteria:
        raise ValueError(f"`criteria` must name at least one. Use {', '.join(CRITERIA)} as in the paper.")
    for name, (_, anchors) in criteria.items():
        if not re.fullmatch(r"[A-Za-z]\w*", name) or name in _NOT_CRITERIA:
            raise ValueError(f"`criteria` must be words other than {', '.join(_NOT_CRITERIA)}, got '{name}'.")
        if isinstance(anchors, str) or len(anchors) != 5:
            raise ValueError(f"`criteria` '{name}' needs five anchors, one for each rating.")
    return {name: (question, list(anchors)) for name, (question, anchors) in criteria.items()}


def _check_numbers(num_prompts: int, num_annotators: int, annotators_per_text: int) -> None:
    for name, value in (("num_prompts", num_prompts), ("annotators_per_text", annotators_per_text)):
        if value < 1:
            raise ValueError(f"`{name}` must be >= 1, got {value}.")
    if num_annotators < annotators_per_text:
        raise ValueError(
            f"`num_annotators` must be >= `annotators_per_text` {annotators_per_text}, got {num_annotators}."
        )
    if num_prompts * annotators_per_text < num_annotators:
        raise ValueError(
            f"`num_annotators` {num_annotators} is more than there is work for, which is {num_prompts} groups for "
            f"{annotators_per_text} annotators each."
        )


def _sheet_text(text: str) -> str:
    """The text as annotators see it: no blanks around it, which can give a system away, and nothing unprintable."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return "".join(
        "\ufffd" if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t" else letter
        for letter in text
    )


def _draw_groups(
    texts_by_system: Mapping[str, Sequence[dict | str]], num_prompts: int, rng: random.Random
) -> list[tuple[str, dict[str, str]]]:
    """`num_prompts` pairs of a prompt, empty where there is none, and each system's text."""
    if not texts_by_system:
        raise ValueError("`texts_by_system` is empty. Give each system's texts by its name.")
    by_prompt = {}  # system -> prompt -> texts
    for system, rows in texts_by_system.items():
        if not isinstance(system, str) or not system.strip():
            raise ValueError(f"`texts_by_system` must have the systems' names as keys, got {system!r}.")
        if isinstance(rows, str):
            raise ValueError(f"`texts_by_system` must hold a list of texts for '{system}', got one text.")
        by_prompt[system] = {}
        for number, row in enumerate(rows, 1):
            row = {"text": row} if isinstance(row, str) else row
            if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
                raise ValueError(f"`texts_by_system`: row {number} of '{system}' has no `text`.")
            prompt = row.get("prompt") or ""
            if not isinstance(prompt, str):
                raise ValueError(f"`texts_by_system`: the `prompt` in row {number} of '{system}' is no text.")
            prompt, text = _sheet_text(prompt), _sheet_text(row["text"]) or "(empty)"
            by_prompt[system].setdefault(prompt, []).append(text)
    with_prompts = [system for system, texts in by_prompt.items() if set(texts) - {""}]
    if not with_prompts:
        return _draw_without_prompts({name: texts.get("", []) for name, texts in by_prompt.items()}, num_prompts, rng)
    for system, texts in by_prompt.items():
        if "" in texts or not texts:
            raise ValueError(
                f"`texts_by_system` must have a prompt for all texts or for none: '{system}' has texts without, and "
                f"'{with_prompts[0]}' has prompts."
            )
    first, *others = by_prompt.values()
    prompts = [prompt for prompt in first if all(prompt in texts for texts in others)]
    if len(prompts) < num_prompts:
        raise ValueError(
            f"`num_prompts` must be at most the prompts that every system wrote on, here {len(prompts)}, got "
            f"{num_prompts}. Generate with the same prompts for all systems."
        )
    return [
        (prompt, {system: rng.choice(texts[prompt]) for system, texts in by_prompt.items()})
        for prompt in rng.sample(prompts, num_prompts)
    ]


def _draw_without_prompts(texts: dict[str, list[str]], num_prompts: int, rng: random.Random):
    for system, generated in texts.items():
        count = len(generated)
        if count < num_prompts:
            raise ValueError(
                f"`num_prompts` must be at most the texts of every system, got {num_prompts} and {count} texts of "
                f"'{system}'. Generate more, or use --num_prompts {count}."
            )
    drawn = {system: rng.sample(generated, num_prompts) for system, generated in texts.items()}
    return [("", {system: chosen[number] for system, chosen in drawn.items()}) for number in range(num_prompts)]


def _new_id(taken: Mapping[str, Any], rng: random.Random) -> str:
    while True:
        item = "".join(rng.choices(_LETTERS, k=8))
        if item not in taken:
            return item


def _assign(num_groups: int, num_annotators: int, size: int, rng: random.Random) -> list[tuple[int, ...]]:
    """The annotators of each group. Loads differ by at most one, and all teams come up about equally often."""
    teams: list[tuple[int, ...]] = []
    load: Counter[int] = Counter()
    met: Counter[tuple[int, ...]] = Counter()
    while len(teams) < num_groups:
        team: list[int] = []
        for _ in range(size):
            rest = [index for index in range(num_annotators) if index not in team]
            rng.shuffle(rest)
            # the least load first, which keeps loads equal; then who shares the fewest groups with the team so far
            shared = {index: sum(met[tuple(sorted((index, other)))] for other in team) for index in rest}
            team.append(min(rest, key=lambda index: (load[index], shared[index])))  # noqa: B023
        teams.append(tuple(sorted(team)))
        load.update(team)
        met.update(combinations(teams[-1], 2))
    rng.shuffle(teams)
    return teams


def text_checksum(prompt: str, text: str) -> str:
    """A hash of the words of both: spreadsheets change blanks and line ends on their own."""
    words = "\0".join(" ".join(part.split()) for part in (prompt, text))
    return hashlib.sha256(words.encode()).hexdigest()


def _cell(value: Any) -> str:
    """A cell, with a mark where a spreadsheet would take it for a formula."""
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def without_mark(cell: str) -> str:
    """A cell without the mark that keeps a spreadsheet from taking it for a formula."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def sheet_csv(sheet: dict[str, Any], answers: Mapping[str, Mapping[str, int]] | None = None) -> str:
    """
    A sheet as CSV text, byte for byte as the web form saves it.

    Args:
        sheet (`dict`): as for `render_form`.
        answers (`dict[str, dict[str, int]]`, *optional*): ratings by item and criterion; the others are left empty.
    """
    names = [criterion["name"] for criterion in sheet["criteria"]]
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow([*COLUMNS, *names])
    for row in sheet["rows"]:
        given = (answers or {}).get(row["item"], {})
        cells = [sheet["annotator"], row["group"], row["item"], row["prompt"], row["text"]]
        writer.writerow([_cell(cell) for cell in [*cells, *(given.get(name, "") for name in names)]])
    return "\ufeff" + file.getvalue()  # the mark by which spreadsheets know UTF-8


def _write_folder(files: dict[str, str], folder: Path) -> None:
    """All files or none: written beside it, then moved."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        whole = temporary / folder.name  # a folder with the usual permissions, which a temporary one has not
        whole.mkdir()
        for name, content in files.items():
            (whole / name).write_bytes(content.encode())
        if folder.exists():
            folder.rmdir()  # empty, or this fails
        whole.rename(folder)
    finally:
        shutil.rmtree(temporary)


__all__ = ["COLUMNS", "CRITERIA", "KEY_NAME", "make_sheets", "sheet_csv", "text_checksum", "without_mark"]
