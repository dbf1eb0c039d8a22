"""
Training, validation and test texts: the published splits of Yelp and Yahoo (Yang et al. 2017), the files of
WritingPrompts (Fan et al. 2018) as fairseq gives them out, or any other texts, which are split here.
"""

import hashlib
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, get_dataset_split_names
from reference import read_reference
from transformers.utils import logging

from modeling_trace.data import load_texts
from modeling_trace.data.files import FileSettings, read_rows
from modeling_trace.presets import PRESETS
from modeling_trace.utils import nearest

logger = logging.get_logger(__name__)

KINDS = ("texts", "prompts")
PARTS = {"train": "train", "valid": "validation", "validation": "validation", "dev": "validation", "test": "test"}
STORY_WORDS = 1000  # of a story, as those who give WritingPrompts out advise
SHARE = 0.1  # of texts without published splits, for validation and as much again for the test
MAX_OVERLAP = 0.05  # of the texts of a split that may be training texts
TOLERANCE = 0.05  # from Table 1
SHOWN = 60  # characters of a first line

_PUBLISHED = re.compile(rf"(?:(?P<name>.+)\.)?(?P<part>{'|'.join(PARTS)})\.txt(?:\.gz)?")
_PAIRED = re.compile(rf"(?P<part>{'|'.join(PARTS)})\.wp_(?P<side>source|target)")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:.+)?")
_LABELLED = re.compile(r"(?P<label>[^\s]{1,20})\t(?P<text>[^\t]*\S[^\t]*)")
_OTHER_FORMATS = (  # what a first line starts with: what it is, and what to do
    (r"version https://git-lfs", "a pointer of Git LFS", "Fetch the file itself: git lfs pull"),
    (r"\s*[{\[]\s*[\"{\[]", "JSON", "Give the file itself, with an ending such as .jsonl"),
    (r"(?i)\s*(<!doctype|<html|<\?xml)", "a web page or XML", "Download the file itself"),
    (
        r"(?i)\"?(label|text|review|id|stars|class)\"?([,;\t]\s*\"?\w+\"?)+\s*$",
        "a table's column names",
        "Give the file itself, with the ending .csv or .tsv",
    ),
    (r"\"\d+\"\s*,", "rows of a .csv file", "Put column names above them and give the file itself, ending in .csv"),
)


def load_splits(source: str | os.PathLike, kind: str, max_words: int = STORY_WORDS) -> dict[str, Dataset]:
    """
    The texts of an experiment.

    Args:
        source (`str` or `os.PathLike`): one of

            - a folder with the published splits of Yelp or Yahoo: `yelp.train.txt`, `yelp.valid.txt`, `yelp.test.txt`
              (or without the name), one text a line, also with a label and a tab before each text, which is left out;
            - a folder with WritingPrompts: `train.wp_source` (prompts), `train.wp_target` (stories), `valid` and
              `test` alike, a line each, with `<newline>` for line breaks;
            - a Hub id, or a folder that the Hub would take, with splits for training, validation and test;
            - any other data set of [`~modeling_trace.data.load_texts`], or a name in `PRESETS`. It is split by a hash
              of each text, 8 to 1 to 1: the same text is in the same split wherever it stands, and so is, of texts
              with prompts, all that shares a prompt or a text.
        kind (`str`): `"texts"`, or `"prompts"` for texts on prompts.
        max_words (`int`, *optional*, defaults to 1000): of a story of WritingPrompts; the rest is cut off.

    Returns:
        `dict[str, datasets.Dataset]`: `train`, `validation` and `test`, with the column `text` and, for `"prompts"`,
        `prompt`.

    Raises:
        ValueError: in one line: what is not there, is of another format or empty, does not fit together, or has more
            than a twentieth of its validation or test texts among the training texts (fewer are a warning, as is what
            differs from Table 1 of the paper by more than that).
    """
    if kind not in KINDS:
        hint = nearest(str(kind), KINDS, quote="'")
        raise ValueError(f"`kind` must be 'texts' or 'prompts', got {kind!r}.{hint}")
    if max_words < 1:
        raise ValueError(f"`max_words` must be >= 1, got {max_words}. Use {STORY_WORDS}.")
    name = os.path.expanduser(os.fspath(source))
    folder = Path(name)
    files = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    if any(file.endswith((".wp_source", ".wp_target")) for file in files):
        known, splits = "writing-prompts", _writing_prompts(folder, files, kind, max_words)
    elif any(_PUBLISHED.fullmatch(file) for file in files):
        known, splits = _published(folder, files, kind)
    else:
        known, splits = name, _from_loaders(name, kind)  # the presets have the names of Table 1
    for part, texts in splits.items():
        if len(texts) == 0:
            raise ValueError(f"`source` must have texts in each split, got none for {part} in '{name}'.")
    _check_overlap(splits, name)
    if known in table_1():
        _compare_with_table_1(splits, known)
    return splits


# ---- Published splits of Yelp and Yahoo ----


def _published(folder: Path, files: Sequence[str], kind: str) -> tuple[str | None, dict[str, Dataset]]:
    """What the data set is, by its files' or its folder's name, and its splits."""
    if kind != "texts":
        raise ValueError(
            f"`source` must have prompts, got the folder '{folder}' of texts alone. Give a file with the columns "
            "prompt and text, or the files of WritingPrompts."
        )
    found: dict[str, str] = {}
    for file in files:
        if match := _PUBLISHED.fullmatch(file):
            part = PARTS[match["part"]]
            if part in found:
                raise ValueError(
                    f"`source` must have one file for {part}, got {found[part]} and {file} in '{folder}'."
                )
            found[part] = file
    _check_complete(folder, found, ("train", "validation", "test"), "yelp.train.txt, yelp.valid.txt and yelp.test.txt")
    splits = {part: _read_lines(folder / found[part]) for part in ("train", "validation", "test")}
    labelled = {part: _LABELLED.fullmatch(texts[0]) is not None for part, texts in splits.items()}
    if len(set(labelled.values())) > 1:
        with_label, without = (
            next(found[part] for part in labelled if labelled[part] is has) for has in (True, False)
        )
        raise ValueError(
            f"`source` files must be alike, got a label before the first text of '{folder / with_label}', and none in "
            f"'{without}'."
        )
    if labelled["train"]:
        splits = {part: _without_labels(texts, folder / found[part]) for part, texts in splits.items()}
        logger.info(f"Left out the label before each text of '{folder}'.")
    words = f"{found['train']} {folder.resolve().name}".lower()
    known = next((name for name in ("yelp", "yahoo") if name in words), None)
    return known, {part: Dataset.from_dict({"text": texts}) for part, texts in splits.items()}


def _read_lines(file: Path) -> list[str]:
    """The texts of a file with one a line, by the package's own reader."""
    first = _first_line(file)
    for pattern, what, remedy in _OTHER_FORMATS:
        if re.match(pattern, first):
            raise ValueError(
                f"`source` file '{file}' must hold one text a line, got {what} in its first line: "
                f"{_shorten(first)}. {remedy}."
            )
    lines = [row["text"] for _, row in read_rows(str(file), FileSettings())]
    texts = [line for line in lines if line.strip()]
    if len(texts) < len(lines):
        logger.warning(f"Left out {len(lines) - len(texts)} blank lines of '{file}': each line is a text.")
    return texts


def _without_labels(texts: Sequence[str], file: Path) -> list[str]:
    found = []
    for number, text in enumerate(texts, 1):
        match = _LABELLED.fullmatch(text)
        if match is None:
            raise ValueError(
                f"`source` file '{file}' must have a label and a tab before each text, as in its first line, got "
                f"{_shorten(text)} for text {number}."
            )
        found.append(match["text"])
    return found


# ---- WritingPrompts ----


def _writing_prompts(folder: Path, files: Sequence[str], kind: str, max_words: int) -> dict[str, Dataset]:
    if kind != "prompts":
        raise ValueError(f"`source` must be texts without prompts, got WritingPrompts in '{folder}'. Use 'prompts'.")
    found: dict[tuple[str, str], str] = {}
    for file in files:
        if match := _PAIRED.fullmatch(file):
            found[PARTS[match["part"]], match["side"]] = file
    wanted = [(part, side) for part in ("train", "validation", "test") for side in ("source", "target")]
    _check_complete(folder, found, wanted, "train.wp_source, train.wp_target, and valid and test alike")
    splits = {}
    for part in ("train", "validation", "test"):
        paths = [folder / found[part, side] for side in ("source", "target")]
        prompts, stories = (_raw_lines(path) for path in paths)
        if len(prompts) != len(stories):
            raise ValueError(
                f"`source` must have a story for each prompt, got {len(prompts)} lines in '{paths[0]}' and "
                f"{len(stories)} in '{paths[1].name}'."
            )
        rows = [
            (_with_newlines(prompt.split()), _with_newlines(story.split()[:max_words]))
            for prompt, story in zip(prompts, stories, strict=True)
        ]
        whole = [(prompt, story) for prompt, story in rows if prompt and story]
        if len(whole) < len(rows):
            logger.warning(f"Left out {len(rows) - len(whole)} pairs of '{paths[0]}' without a prompt or story.")
        splits[part] = Dataset.from_dict({"prompt": [row[0] for row in whole], "text": [row[1] for row in whole]})
    return splits


def _with_newlines(words: Iterable[str]) -> str:
    text = " ".join("\n" if word == "<newline>" else word for word in words)
    return re.sub(r" ?\n ?", "\n", text).strip()


def _raw_lines(file: Path) -> list[str]:
    """Lines with the empty ones, which keep prompts beside their stories."""
    _first_line(file)
    try:
        content = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"`source` file '{file}' must be UTF-8, which line {line} is not.") from None
    return content.removesuffix("\n").split("\n")  # not splitlines, for which rare characters are line ends as well


# ---- All else ----


def _from_loaders(name: str, kind: str) -> dict[str, Dataset]:
    columns: dict[str, Any] = {"conditional": kind == "prompts"}
    if name == "reviews" and kind == "prompts":  # `bakery: product, price`
        reviews, _ = load_texts(name, validation_split=None)
        prompts = [f"{row['business']}: {', '.join(row['aspects'])}" for row in reviews]
        return split_by_content(Dataset.from_dict({"prompt": prompts, "text": reviews["text"]}))
    if name in PRESETS and not os.path.exists(name):
        preset = PRESETS[name].data
        if (preset.prompt_column is not None) != (kind == "prompts"):
            raise ValueError(f"`source` '{name}' is of {KINDS[kind == 'texts']}, got `kind` {kind!r}.")
        names = ("text_column", "prompt_column", "drop_empty", "max_texts")
        columns |= {field: getattr(preset, field) for field in names}
        name = preset.dataset
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/")
    if looks_local and not os.path.exists(name) and not any(letter in name for letter in "*?["):
        parent = os.path.dirname(name.rstrip("/")) or "."
        there = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
        hint = nearest(os.path.basename(name.rstrip("/")), there, quote="'")
        raise ValueError(f"`source` is not there, got '{name}'.{hint}")
    published = _split_names(name)
    if set(published) == {"train", "validation", "test"}:
        return {
            part: _columns(load_texts(name, split=split, validation_split=None, **columns)[0], kind)
            for part, split in published.items()
        }
    texts = _columns(load_texts(name, validation_split=None, **columns)[0], kind)
    return split_by_content(texts)


def _split_names(name: str) -> dict[str, str]:
    """The splits that a folder or a Hub data set has of its own, by what they are here; none where it is neither."""
    if not os.path.isdir(name) and (os.path.exists(name) or not _HUB_ID.fullmatch(name)):
        return {}
    path, _, config = name.partition(":")
    try:
        names = get_dataset_split_names(path, config or None)
    except Exception:  # loading will say what is wrong
        return {}
    return {PARTS[split]: split for split in names if split in PARTS}


def _columns(texts: Dataset, kind: str) -> Dataset:
    return texts.select_columns(["prompt", "text"] if kind == "prompts" else ["text"])


def split_by_content(texts: Dataset) -> dict[str, Dataset]:
    """
    A tenth of the texts for the test, a tenth for validation, by a hash of the text: whatever the order and whatever
    else is there. Texts that are equal but for blanks are together, and so are, with prompts, all pairs that are
    linked by a text or prompt.

    Args:
        texts (`datasets.Dataset`): columns `text` and, optionally, `prompt`.

    Returns:
        `dict[str, datasets.Dataset]`: `train`, `validation` and `test`, each in the order of `texts`.
    """
    columns = texts[:]
    keys = [("text", _key(text)) for text in columns["text"]]
    if "prompt" in columns:
        keys = _linked([(("prompt", _key(prompt)), key) for prompt, key in zip(columns["prompt"], keys, strict=True)])
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row, (_, key) in enumerate(keys):
        place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
        rows["test" if place < SHARE else "validation" if place < 2 * SHARE else "train"].append(row)
    for part, chosen in rows.items():
        if not chosen:
            raise ValueError(
                f"`source` must hold enough texts for three splits, got {len(texts)}, of which none fell to {part}. "
                "Use a hundred or more."
            )
    return {part: texts.select(chosen) for part, chosen in rows.items()}


def _key(text: str) -> str:
    return " ".join(text.split())


def _linked(pairs: Sequence[tuple]) -> list[tuple]:
    """For each pair the least of all keys that it is linked with, directly or not: union-find."""
    parent: dict[tuple, tuple] = {}

    def find(key: tuple) -> tuple:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for first, second in pairs:
        low, high = sorted((find(first), find(second)))
        parent[high] = low
    return [find(first) for first, _ in pairs]


# ---- Checks ----


def _check_complete(folder: Path, found: Iterable, wanted: Iterable, names: str) -> None:
    missing = [one for one in wanted if one not in found]
    if missing:
        what = missing[0] if isinstance(missing[0], str) else ", ".join(missing[0])
        there = ", ".join(sorted(file.name for file in folder.iterdir())[:8])
        raise ValueError(f"`source` must hold {names}, got none for {what} in '{folder}', which has {there}.")


def _first_line(file: Path) -> str:
    """Of a file that holds text."""
    with open(file, "rb") as content:
        start = content.read(1000)
    if not start.strip():
        raise ValueError(f"`source` file '{file}' must hold texts, got none: it is empty.")
    if file.suffix == ".gz":
        return ""  # the package's reader opens it
    if b"\0" in start or start.startswith((b"PK\3\4", b"\x1f\x8b", b"BZh", b"PAR1")):
        raise ValueError(
            f"`source` file '{file}' must be text, got binary content in its first line: {start[:12]!r}. Unpack it."
        )
    return start.split(b"\n")[0].decode("utf-8", "replace").rstrip("\r")


def _shorten(line: str) -> str:
    return repr(line if len(line) <= SHOWN else line[: SHOWN - 1] + "…")


def _check_overlap(splits: dict[str, Dataset], name: str) -> None:
    """Texts of validation and test that are training texts as well."""
    training = {_key(text) for text in splits["train"][:]["text"]}
    for part in ("validation", "test"):
        texts = splits[part][:]["text"]
        count = sum(_key(text) in training for text in texts)
        share = f"{count} of the {len(texts)} texts for {part} in '{name}' are training texts"
        if count > MAX_OVERLAP * len(texts):
            raise ValueError(
                f"`source` must keep its splits apart, but {share}. Take them out, or give all texts as one file, "
                "which is then split."
            )
        if count:
            logger.warning(f"{share} as well.")


def table_1() -> dict[str, dict[str, int]]:
    """Numbers of texts and their mean length, as published."""
    return read_reference()["table1"]


def _compare_with_table_1(splits: dict[str, Dataset], known: str) -> None:
    published = dict(table_1()[known])
    most = published.pop("max_words", None)
    lengths = [len(text.split()[:most]) for texts in splits.values() for text in texts[:]["text"]]
    found = {part: len(texts) for part, texts in splits.items()} | {"words": statistics.fmean(lengths)}
    for what, value in published.items():
        if abs(found[what] - value) > TOLERANCE * value:
            label = "words a text" if what == "words" else f"texts for {what}"
            logger.warning(f"{found[what]:,.0f} {label} of {known}, where Table 1 of the paper has {value:,}.")


__all__ = ["load_splits", "split_by_content", "table_1"]
