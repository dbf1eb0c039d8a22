"""Data sets of texts: from the Hub, local files, memory or the built-in corpus, to the rows that the Trainer takes."""

import difflib
import glob
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import logging

from .corpus import review_dataset
from .processor import TraceProcessor

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

REVIEWS = "reviews"  # the name of the built-in corpus
REVIEWS_SIZE = 20_000

_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::(.+))?")
_PROMPT_COLUMNS = ("prompt", "title", "question", "context", "input")
_TEXT_COLUMNS = ("text", "review", "story", "content", "sentence", "document", "article", "body")
_FORMS = (
    f"Use '{REVIEWS}' (the built-in corpus), a Hub id such as 'org/name' or 'org/name:config', a Dataset, or a file, "
    f"folder or glob of {', '.join(_BUILDERS)} (also .gz)"
)


def load_texts(
    dataset: "str | os.PathLike | Dataset",
    *,
    text_column: str | None = None,
    prompt_column: str | None = None,
    conditional: bool = False,
    drop_empty: bool = False,
    split: str = "train",
    validation_split: float | int | str | None = 0.1,
    max_texts: int | None = None,
    seed: int = 0,
) -> "tuple[Dataset, Dataset | None]":
    """
    Load training and validation texts and check them, before any long work.

    Args:
        dataset (`str`, `os.PathLike` or `datasets.Dataset`): `"reviews"` for the built-in corpus; a Hub data set,
            `"org/name"` or `"org/name:config"`; a local file, folder or glob of .jsonl, .json, .csv, .parquet or .txt
            (one text per line, blank lines are no texts), also with .gz; or a Dataset in memory.
        text_column (`str`, *optional*): the column with the texts. Found where there is only one (text) column, or one
            called text, review, story, content, ...
        prompt_column (`str`, *optional*): the column with the prompts, for `conditional`. Found where it is called
            prompt, title, question, ...
        conditional (`bool`, *optional*, defaults to `False`): texts have prompts. A data set with a column `prompt`
            that is not to be used as one must be told so: without it such a column is an error.
        drop_empty (`bool`, *optional*, defaults to `False`): leave rows without a text or prompt out, with a warning
            that says how many. They are an error otherwise.
        split (`str`, *optional*, defaults to `"train"`): the split to train on, also `"train[:10%]"`. Datasets in
            memory have none.
        validation_split (`float`, `int`, `str`, *optional*, defaults to 0.1): a fraction or a number of the training
            texts to keep back, or the name of a split, or `None`.
        max_texts (`int`, *optional*): use at most so many texts of each split, drawn at random.
        seed (`int`, *optional*, defaults to 0): for the drawing and for the texts kept back.

    Returns:
        The training `Dataset` and the validation `Dataset` or `None`. The texts are in the column `text`, prompts in
        `prompt`, the other columns are kept.

    Raises:
        ValueError: nothing found, an unknown split or column, empty texts (with their row numbers).

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from modeling_trace.data import load_texts

    >>> reviews = Dataset.from_dict({"review": ["Good food.", "Too loud.", "We will be back."], "stars": [5, 2, 4]})
    >>> train, validation = load_texts(reviews, validation_split=1)
    >>> len(train), len(validation), train.column_names
    (2, 1, ['text', 'stars'])

    ```
    """
    _check_sizes(validation_split, max_texts)
    if prompt_column is not None and not conditional:
        raise ValueError(
            f"`prompt_column` is for conditional models, got {prompt_column!r}. Set conditional=True, or leave it out."
        )
    columns = (text_column, prompt_column, conditional, drop_empty)
    if isinstance(validation_split, str):
        if not isinstance(dataset, (str, os.PathLike)) or str(dataset) == REVIEWS:
            raise ValueError(
                f"`validation_split` names a split, got {validation_split!r}, but this data set has none. Use a "
                "fraction such as 0.1."
            )
        if validation_split == split:
            raise ValueError(f"`validation_split` must not be the training split, got {split!r} for both.")

    # both are checked before either is cut down, so that row numbers are the user's own
    train = _named_columns(_load_split(dataset, "split", split, max_texts), *columns)
    validation = None
    if isinstance(validation_split, str):
        named = _load_split(dataset, "validation_split", validation_split, max_texts)
        validation = _named_columns(named, *columns)
    train = _at_most(train, max_texts, seed)
    if validation is not None:
        validation = _at_most(validation, max_texts, seed)
    elif validation_split:
        count = validation_split
        if isinstance(validation_split, float):
            count = max(1, round(len(train) * validation_split))
        if count >= len(train):
            raise ValueError(
                f"`validation_split` must leave texts to train on, got {validation_split} of {len(train)} texts. "
                "Lower it, or use None."
            )
        parts = train.train_test_split(test_size=count, seed=seed)
        train, validation = parts["train"], parts["test"]
    logger.info(f"Loaded {len(train)} training and {0 if validation is None else len(validation)} validation texts.")
    return train, validation


def prepare_dataset(
    dataset: "Dataset",
    processor: TraceProcessor,
    *,
    text_column: str = "text",
    prompt_column: str = "prompt",
    max_length: int | None = None,
    num_proc: int | None = None,
) -> "Dataset":
    """
    Tokenise a data set for the Trainer: `input_ids` and `attention_mask` as the processor writes them.

    A [`SentenceSegmenter`] without Punkt parameters is trained on these texts first, so prepare the training set
    before the validation set.

    Args:
        dataset (`datasets.Dataset`): the texts.
        processor ([`TraceProcessor`]): tokenizer and segmenter.
        text_column (`str`, *optional*, defaults to `"text"`): the column with the texts.
        prompt_column (`str`, *optional*, defaults to `"prompt"`): the column with their prompts, for a conditional
            processor only.
        max_length (`int`, *optional*): longest row in tokens; longer texts lose whole segments at their end, prompts
            are kept whole.
        num_proc (`int`, *optional*): processes to use.

    Returns:
        `datasets.Dataset` with the columns `input_ids` and `attention_mask`; all others are removed.
    """
    _check_dataset(dataset)
    if not isinstance(processor, TraceProcessor):
        raise ValueError(f"`processor` must be a TraceProcessor, got {processor!r:.80}.")
    _check_column(dataset, text_column)
    added = processor.tokenizer.added_tokens_decoder
    control = [added[token].content for token in sorted(processor.control_token_ids) if token in added]
    _check_texts(dataset, text_column, control)
    _check_conditional(dataset, processor.conditional, prompt_column)
    columns = [text_column, prompt_column] if processor.conditional else [text_column]
    if processor.conditional:
        _check_column(dataset, prompt_column, "prompt_column")
        _check_texts(dataset, prompt_column, control)

    segmenter = processor.segmenter
    if segmenter is not None and not segmenter.is_ready:
        logger.info(f"{segmenter!r} has no parameters yet: fitting it to the {len(dataset)} texts of this data set.")
        batches = dataset.select_columns([text_column]).with_format(None).iter(batch_size=1000)
        segmenter.fit(text for batch in batches for text in batch[text_column])

    def encode(texts, *prompts_and_rows):
        *prompts, rows = prompts_and_rows
        input_ids = processor.encode(
            texts, prompts=prompts[0] if prompts else None, max_length=max_length, first_row=rows[0]
        )
        return {"input_ids": input_ids, "attention_mask": [[1] * len(ids) for ids in input_ids]}

    return dataset.with_format(None).map(
        encode,
        input_columns=columns,
        with_indices=True,
        batched=True,
        remove_columns=dataset.column_names,
        num_proc=num_proc,
        desc="Tokenizing",
    )


# loading


def _load_split(dataset, argument: str, split: str, max_texts: int | None):
    if not isinstance(dataset, (str, os.PathLike)):
        _check_dataset(dataset)
        return dataset
    name = os.path.expanduser(os.fspath(dataset))
    if name == REVIEWS:
        if split != "train":
            raise ValueError(f"`split` must be 'train' for the built-in corpus, got {split!r}.")
        # the same reviews whatever the seed; any slice of them is a fair sample
        return review_dataset(min(max_texts or REVIEWS_SIZE, REVIEWS_SIZE))
    source = _local_source(name)
    if source is None:
        match = _HUB_ID.fullmatch(name)
        if match is None:
            near = difflib.get_close_matches(name, [REVIEWS], cutoff=0.6)
            hint = f"Did you mean '{near[0]}'?" if near else f"{_FORMS}."
            raise ValueError(f"`dataset` is neither a file here nor a Hub id, got '{name}'. {hint}")
        return _load({"path": match.group(1), "name": match.group(2)}, argument, split, name)
    kind, source = source
    texts = _load(source, argument, split, name)
    if kind == "text":
        lines = len(texts)
        texts = texts.filter(lambda text: text.strip() != "", input_columns="text", desc="Dropping blank lines")
        if len(texts) < lines:
            logger.warning(f"Dropped {lines - len(texts)} blank lines of '{name}': each line is a text.")
    return texts


def _load(source: dict, argument: str, split: str, name: str):
    """`datasets.load_dataset` with one-line errors."""
    import datasets

    try:
        try:
            return datasets.load_dataset(**source, split=split)
        except ValueError:
            splits = list(datasets.load_dataset(**source))
            base = re.split(r"[\[+]", split)[0]
            if base in splits:
                raise
            remedy = _nearest(base, splits)
            if argument == "validation_split":
                remedy += " Use a fraction such as 0.1 to keep training texts back."
            raise ValueError(
                f"`{argument}` {split!r} is not in '{name}', which has {', '.join(splits)}.{remedy}"
            ) from None
    except (FileNotFoundError, ConnectionError) as error:
        raise ValueError(f"`dataset` could not be found, got '{name}': {_one_line(error)} {_FORMS}.") from None
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__ or error
        raise ValueError(f"`dataset` could not be read, got '{name}': {_one_line(cause)}") from error
    except (ValueError, RuntimeError) as error:
        text = _one_line(error)
        raise ValueError(text if text.startswith("`") else f"`dataset` '{name}': {text}") from None


def _local_source(name: str) -> tuple[str, dict] | None:
    """The builder and the keywords for `load_dataset` where the name is a file, a folder or a glob, else None."""
    if os.path.isfile(name):
        kind = _one_builder([name], f"'{name}'")
        return kind, {"path": kind, "data_files": {"train": [name]}}
    if os.path.isdir(name):
        if any(os.path.isfile(os.path.join(name, file)) for file in ("state.json", "dataset_dict.json")):
            raise ValueError(
                f"`dataset` was saved by save_to_disk, got the folder '{name}'. "
                f"Pass datasets.load_from_disk('{name}')."
            )
        files = [str(path) for path in Path(name).rglob("*") if path.is_file() and _builder(str(path))]
        return _one_builder(files, f"the folder '{name}'"), {"path": name}  # file names tell the splits
    if glob.has_magic(name):
        files = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
        if not files:
            raise ValueError(f"`dataset` matches no file, got '{name}'. {_FORMS}.")
        kind = _one_builder(files, f"'{name}'")
        return kind, {"path": kind, "data_files": {"train": files}}
    if _builder(name) or name.startswith(("/", ".", "~")):
        folder, file = os.path.split(name)
        folder = folder or "."
        there = [entry for entry in os.listdir(folder) if _builder(entry)] if os.path.isdir(folder) else []
        raise ValueError(f"`dataset` file not found, got '{name}'.{_nearest(file, there) or f' {_FORMS}.'}")
    return None


def _builder(path: str) -> str | None:
    return _BUILDERS.get(os.path.splitext(path.lower().removesuffix(".gz"))[1])


def _one_builder(files: list[str], what: str) -> str:
    unknown = sorted({os.path.basename(path) for path in files if _builder(path) is None})
    if unknown or not files:
        got = f"the unknown extension of '{unknown[0]}' in {what}" if unknown else f"none in {what}"
        raise ValueError(f"`dataset` files must end in {', '.join(_BUILDERS)} (also .gz), got {got}.")
    builders = {_builder(path) for path in files}
    if len(builders) > 1:
        raise ValueError(
            f"`dataset` files must be of one kind, got {', '.join(sorted(builders))} in {what}. Use a glob such as "
            "'folder/*.jsonl'."
        )
    return builders.pop()


# checking


def _check_sizes(validation_split, max_texts) -> None:
    number = validation_split if isinstance(validation_split, (int, float)) else None
    if isinstance(validation_split, bool) or (
        number is not None and (number < 0 or isinstance(number, float) and number >= 1)
    ):
        raise ValueError(
            "`validation_split` must be a fraction between 0 and 1, a number of texts, the name of a split or None, "
            f"got {validation_split!r}. Use 0.1."
        )
    if max_texts is not None and (not isinstance(max_texts, int) or isinstance(max_texts, bool) or max_texts < 1):
        raise ValueError(f"`max_texts` must be an integer >= 1, got {max_texts!r}. Use None for all texts.")


def _check_dataset(dataset) -> None:
    import datasets

    if isinstance(dataset, datasets.Dataset):
        return
    if isinstance(dataset, (datasets.DatasetDict, datasets.IterableDatasetDict, dict)):
        splits = list(dataset)
        name = "train" if "train" in splits or not splits else splits[0]
        raise ValueError(
            f"`dataset` must be a Dataset, got a {type(dataset).__name__} of {', '.join(map(str, splits))}. "
            f"Use dataset['{name}']."
        )
    if isinstance(dataset, datasets.IterableDataset):
        raise ValueError("`dataset` must be a Dataset, got a streaming IterableDataset. Load it with streaming=False.")
    raise ValueError(
        f"`dataset` must be a Dataset, got {type(dataset).__name__}. From a list of texts: "
        "Dataset.from_dict({'text': texts})."
    )


def _check_conditional(dataset, conditional: bool, prompt_column: str | None) -> None:
    """Prompts where the model wants none, or the reverse."""
    names = dataset.column_names
    if conditional and prompt_column is not None and prompt_column not in names:
        raise ValueError(
            f"`prompt_column` {prompt_column!r} is not in the data set, which has {', '.join(names)}. A conditional "
            "model needs a prompt for each text; for texts alone leave `conditional` False."
        )
    if not conditional and "prompt" in names:
        raise ValueError(
            "`dataset` has a column 'prompt', but the model is not conditional. Set conditional=True (command line: "
            "--conditional true), or drop the column: dataset.remove_columns('prompt')."
        )


def _check_column(dataset, column: str, argument: str = "text_column") -> None:
    if column not in dataset.column_names:
        raise ValueError(
            f"`{argument}` {column!r} is not in the data set, which has {', '.join(dataset.column_names)}."
            f"{_nearest(column, dataset.column_names)}"
        )
    dtype = getattr(dataset.features[column], "dtype", type(dataset.features[column]).__name__)
    if dtype not in ("string", "large_string", "null"):
        raise ValueError(f"`{argument}` must hold texts, got {column!r} of type {dtype}. {_columns(dataset)}")


def _check_texts(dataset, column: str, control: list[str] = ()) -> None:
    """Look for empty rows and for control tokens such as [SEP] in the texts; scans Arrow buffers, so it is quick."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(dataset) == 0:
        raise ValueError("`dataset` must hold at least one text, got 0 rows.")
    empty, found, start = [], {token: [] for token in control}, 0
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=10_000):
        texts = table[column].cast(pa.large_string())
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
        empty.extend(start + row for row in pc.indices_nonzero(blank).to_pylist())
        for token, rows in found.items():
            has_token = pc.fill_null(pc.match_substring(texts, token), False)
            rows.extend(start + row for row in pc.indices_nonzero(has_token).to_pylist())
        start += len(texts)
    if empty:
        raise ValueError(
            f"`dataset` has {_rows(empty)} without text in the column '{column}'. Leave them out by drop_empty=True "
            "(command line: --drop_empty true)."
        )
    for token, rows in found.items():
        if rows:
            raise ValueError(
                f"`dataset` has {_rows(rows)} with '{token}' in the text, which the model would read as structure. "
                f"Take it out first, e.g. text.replace('{token}', ' ')."
            )


def _named_columns(dataset, text_column: str | None, prompt_column: str | None, conditional: bool, drop_empty: bool):
    """Rename the columns of texts and prompts to `text` and `prompt`, after checking them."""
    if conditional:
        names = dataset.column_names
        if prompt_column is None:
            lower = {name.lower(): name for name in reversed(names) if name != text_column}
            known = [lower[name] for name in _PROMPT_COLUMNS if name in lower]
            prompt_column = known[0] if known else None
        if prompt_column is None:
            raise ValueError(
                f"`conditional` is set, but the data set has no column of prompts. {_columns(dataset)} Name it by "
                "`prompt_column`, or leave `conditional` False."
            )
        if prompt_column == text_column:
            raise ValueError(f"`prompt_column` must not be the column of texts, got {prompt_column!r} for both.")
    else:
        _check_conditional(dataset, False, None)
    renamed = {_find_text_column(dataset, text_column, prompt_column): "text"}
    if conditional:
        _check_column(dataset, prompt_column, "prompt_column")
        renamed[prompt_column] = "prompt"
    for column in renamed:
        if drop_empty:
            dataset = _without_empty(dataset, column)
        _check_texts(dataset, column)
    others = [name for name in renamed.values() if name in dataset.column_names and name not in renamed]
    return dataset.remove_columns(others).rename_columns(renamed)


def _without_empty(dataset, column: str):
    kept = dataset.filter(lambda text: (text or "").strip() != "", input_columns=column, desc="Dropping empty rows")
    if len(kept) < len(dataset):
        logger.warning(f"Dropped {len(dataset) - len(kept)} rows without text in the column '{column}'.")
    return kept


def _find_text_column(dataset, text_column: str | None, prompt_column: str | None) -> str:
    """The column with the texts."""
    names = [name for name in dataset.column_names if name != prompt_column]
    column = text_column
    if column is None:
        lower = {name.lower(): name for name in reversed(names)}
        texts = [
            name for name in names if getattr(dataset.features[name], "dtype", None) in ("string", "large_string")
        ]
        known = [lower[name] for name in _TEXT_COLUMNS if name in lower]
        column = known[0] if known else texts[0] if len(texts) == 1 else names[0] if len(names) == 1 else None
        if column is None:
            raise ValueError(f"`text_column` must be given for this data set. {_columns(dataset)}")
        if len(names) > 1:
            logger.info(f"Texts are read from the column '{column}' of {', '.join(names)}.")
    _check_column(dataset, column)
    return column


def _at_most(dataset, max_texts: int | None, seed: int):
    if max_texts is None or len(dataset) <= max_texts:
        return dataset
    return dataset.shuffle(seed=seed).select(range(max_texts))


def _columns(dataset) -> str:
    return f"The columns are {', '.join(dataset.column_names)}."


def _rows(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"1 row ({shown})" if len(rows) == 1 else f"{len(rows)} rows ({shown})"


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


__all__ = ["load_texts", "prepare_dataset"]
