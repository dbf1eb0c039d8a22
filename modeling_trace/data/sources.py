"""Where texts come from: the Hub, local files, the built-in corpus; with errors of one line."""

import contextlib
import difflib
import errno
import glob
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from ..network import check_hub
from ..utils import nearest, one_line, sentence
from .files import KINDS, TABLES, FileSettings, file_identity, file_kind, head_rows, read_texts
from .reviews import review_dataset
from .validation import NO_ROWS, TextColumns, check_dataset, is_stream, row_kinds, text_columns

if TYPE_CHECKING:
    import datasets

logger = logging.get_logger(__name__)

REVIEWS = "reviews"  # the name of the built-in corpus
REVIEWS_SIZE = 20_000
_SAME_ROWS = {"jsonl": "json", "tsv": "csv"}  # kinds that may stand beside each other
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::(.+))?")
_FORMS = (
    f"Use '{REVIEWS}' (the built-in corpus), a Hub id such as 'org/name' or 'org/name:config', a Dataset, or a file, "
    f"folder or glob of {', '.join(KINDS)} (also .gz)"
)


def check_dataset_name(dataset: Any) -> None:
    """
    Whether a data set that is named may be there, without the network: files are looked for, Hub ids are not.

    Args:
        dataset: as for [`load_texts`]; data sets in memory pass.

    Raises:
        ValueError: where no file and no Hub id can be meant.
    """
    if not isinstance(dataset, (str, os.PathLike)):
        return
    name = os.path.expanduser(os.fspath(dataset))
    if name == REVIEWS:
        return
    with _one_line_errors(name):
        if _local_files(name) is None:
            _hub_id(name)


def load_split(
    dataset: Any,
    argument: str,
    split: str,
    columns: TextColumns,
    settings: FileSettings,
    max_texts: int | None = None,
    streaming: bool = False,
) -> "datasets.Dataset | datasets.IterableDataset":
    """
    One split of any source, its columns not yet named. Of files only the columns with texts and prompts are read.

    Args:
        dataset: as for [`load_texts`].
        argument (`str`): which argument names the split, for errors.
        split (`str`): the split.
        columns ([`TextColumns`]): what the user said of the columns.
        settings ([`FileSettings`]): how files are read.
        max_texts (`int`, *optional*): how many of the built-in reviews are needed.
        streaming (`bool`, *optional*, defaults to `False`): return an `IterableDataset`.
    """
    if not isinstance(dataset, (str, os.PathLike)):
        _check_no_files(settings, "a data set in memory")
        if streaming and is_stream(dataset):
            return dataset
        check_dataset(dataset)
        if not streaming:
            return dataset
        if len(dataset) == 0:
            raise ValueError(NO_ROWS)
        return dataset.to_iterable_dataset()
    name = os.path.expanduser(os.fspath(dataset))
    if name == REVIEWS:
        _check_no_files(settings, "the built-in corpus")
        if split != "train":
            raise ValueError(f"`split` must be 'train' for the built-in corpus, got {split!r}.")
        # the same reviews whatever the seed; any slice of them is a fair sample
        reviews = review_dataset(min(max_texts or REVIEWS_SIZE, REVIEWS_SIZE))
        return reviews.to_iterable_dataset() if streaming else reviews
    if streaming and re.search(r"[\[+]", split):
        raise ValueError(f"`{argument}` must be a whole split for a stream, got {split!r}. Use `max_texts`.")
    with _one_line_errors(name):
        files = _local_files(name)
        if files is None:
            return _from_hub(name, argument, split, columns, settings, streaming)
        return _from_files(files, name, argument, split, columns, settings, streaming)


def _check_no_files(settings: FileSettings, what: str) -> None:
    for argument in ("encoding", "delimiter"):
        value = getattr(settings, argument)
        if value is not None:
            raise ValueError(f"`{argument}` is for files, got {value!r} for {what}. Leave it out.")


# ---- Files ----


def _local_files(name: str) -> dict[str, list[str]] | None:
    """The files of each split where the name is a file, a folder or a glob, else None."""
    import datasets

    if os.path.isfile(name):
        _one_kind([name], f"'{name}'")
        return {"train": [name]}
    if os.path.isdir(name):
        if any(os.path.isfile(os.path.join(name, file)) for file in ("state.json", "dataset_dict.json")):
            raise ValueError(
                f"`dataset` was saved by save_to_disk, got the folder '{name}'. "
                f"Pass datasets.load_from_disk('{name}')."
            )
        files = [str(path) for path in Path(name).rglob("*") if path.is_file() and file_kind(str(path))]
        _one_kind(files, f"the folder '{name}'")
        data_files = datasets.load_dataset_builder(name).config.data_files  # file names tell the splits
        return {str(split): [path for path in paths if file_kind(path)] for split, paths in data_files.items()}
    if glob.has_magic(name):
        files = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
        if not files:
            raise ValueError(f"`dataset` matches no file, got '{name}'. {_FORMS}.")
        _one_kind(files, f"'{name}'")
        return {"train": files}
    if file_kind(name) or name.startswith(("/", ".", "~")):
        folder, file = os.path.split(name)
        folder = folder or "."
        entries = [entry for entry in os.listdir(folder) if file_kind(entry)] if os.path.isdir(folder) else []
        hint = nearest(file, entries, quote="'") or f" {_FORMS}."
        raise ValueError(f"`dataset` file not found, got '{name}'.{hint}")
    return None


def _one_kind(files: list[str], what: str) -> None:
    unknown = sorted({os.path.basename(path) for path in files if file_kind(path) is None})
    if unknown or not files:
        got = f"the unknown extension of '{unknown[0]}' in {what}" if unknown else f"none in {what}"
        raise ValueError(f"`dataset` files must end in {', '.join(KINDS)} (also .gz), got {got}.")
    kinds = sorted({_SAME_ROWS.get(kind := str(file_kind(path)), kind) for path in files})
    if len(kinds) > 1:
        raise ValueError(
            f"`dataset` files must be of one kind, got {', '.join(kinds)} in {what}. Use a glob such as "
            "'folder/*.jsonl'."
        )


def _from_files(
    files: dict[str, list[str]],
    name: str,
    argument: str,
    split: str,
    columns: TextColumns,
    settings: FileSettings,
    streaming: bool,
):
    """The columns with texts and prompts, kept in the cache of `datasets` until a file changes."""
    import datasets

    parts = [re.split(r"\[", part)[0].strip() for part in split.split("+")]  # "train[:10%]+test"
    for part in parts:
        if part not in files:
            raise ValueError(_unknown_split(argument, split, name, list(files)))

    def load(part: str):
        is_table = file_kind(files[part][0]) in TABLES
        renamed = text_columns(row_kinds(head_rows(files[part], settings)), columns, is_table)
        reading = {
            "files": [file_identity(path) for path in files[part]],
            "columns": tuple(renamed),  # lists would be dealt out to processes
            "encoding": settings.encoding,
            "delimiter": settings.delimiter,
        }
        features = datasets.Features({column: datasets.Value("string") for column in renamed})
        if streaming:
            texts = datasets.IterableDataset.from_generator(read_texts, features=features, gen_kwargs=reading)
        else:
            texts = datasets.Dataset.from_generator(read_texts, features=features, gen_kwargs=reading)
        return _without_blank_lines(texts, name, streaming) if file_kind(files[part][0]) == "text" else texts

    if split in files:
        return load(split)
    loaded = {part: load(part) for part in dict.fromkeys(parts)}
    sizes = {part: len(texts) for part, texts in loaded.items()}
    slices = []
    for one in datasets.ReadInstruction.from_spec(split).to_absolute(sizes):
        end = sizes[one.splitname] if one.to is None else one.to
        slices.append(loaded[one.splitname].select(range(one.from_ or 0, end)))
    return datasets.concatenate_datasets(slices)


def _without_blank_lines(texts, name: str, streaming: bool):
    if streaming:
        return texts.filter(lambda text: text.strip() != "", input_columns="text")
    lines = len(texts)
    texts = texts.filter(lambda text: text.strip() != "", input_columns="text", desc="Dropping blank lines")
    if len(texts) < lines:
        logger.warning(f"Dropped {lines - len(texts)} blank lines of '{name}': each line is a text.")
    return texts


# ---- The Hub ----


def _hub_id(name: str) -> dict[str, str | None]:
    """Path and name, as `datasets` calls them."""
    match = _HUB_ID.fullmatch(name)
    if match is None:
        near = difflib.get_close_matches(name, [REVIEWS], cutoff=0.6)
        hint = f"Did you mean '{near[0]}'?" if near else f"{_FORMS}."
        raise ValueError(f"`dataset` is neither a file here nor a Hub id, got '{name}'. {hint}")
    return {"path": match.group(1), "name": match.group(2)}


def _from_hub(name: str, argument: str, split: str, columns: TextColumns, settings: FileSettings, streaming: bool):
    import datasets
    from datasets.packaged_modules.csv.csv import Csv

    source = _hub_id(name)
    if not datasets.config.HF_HUB_OFFLINE:  # which HF_DATASETS_OFFLINE sets, too
        check_hub(source["path"], f"`dataset` '{name}'")
    builder = datasets.load_dataset_builder(**source)
    if isinstance(builder, Csv):  # whose reader takes texts such as "None" for missing ones
        files = {str(part): list(paths) for part, paths in builder.config.data_files.items()}
        if settings.delimiter is None and builder.config.sep != ",":  # as the repository's README says
            settings = FileSettings(settings.encoding, builder.config.sep)
        return _from_files(files, name, argument, split, columns, settings, streaming)
    _check_no_files(settings, "a Hub data set of another kind than .csv")
    try:
        return datasets.load_dataset(**source, split=split, **({"streaming": True} if streaming else {}))
    except ValueError:
        splits = list(datasets.load_dataset(**source, **({"streaming": True} if streaming else {})))
        if re.split(r"[\[+]", split)[0] in splits:
            raise
        raise ValueError(_unknown_split(argument, split, name, splits)) from None


# ---- Errors ----


def _unknown_split(argument: str, split: str, name: str, splits: list[str]) -> str:
    remedy = nearest(re.split(r"[\[+]", split)[0], splits, quote="'")
    if argument == "validation_split":
        remedy += " Use a fraction such as 0.1 to keep training texts back."
    return f"`{argument}` {split!r} is not in '{name}', which has {', '.join(splits)}.{remedy}"


@contextlib.contextmanager
def _one_line_errors(name: str):
    """What `datasets` raises in reading `name`, in one line."""
    import datasets

    try:
        yield
    except (FileNotFoundError, ConnectionError) as error:
        if str(error).startswith("`"):  # ours
            raise
        check_cache(datasets.config.HF_DATASETS_CACHE, error)  # its folders may be what was not found
        raise ValueError(f"`dataset` could not be found, got '{name}': {sentence(error)} {_FORMS}.") from None
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__ or error
        check_cache(datasets.config.HF_DATASETS_CACHE, cause)
        if str(cause).startswith("`"):  # our own, which name the file
            raise ValueError(str(cause)) from None
        raise ValueError(f"`dataset` could not be read, got '{name}': {one_line(cause)}") from error
    except (ValueError, RuntimeError) as error:
        text = one_line(error)
        raise ValueError(text if text.startswith("`") else f"`dataset` '{name}': {text}") from None
    except OSError as error:
        check_cache(datasets.config.HF_DATASETS_CACHE, error)
        raise ValueError(f"`dataset` could not be read, got '{name}': {one_line(error)}") from None


def check_cache(folder: str | os.PathLike | None, error: BaseException) -> None:
    """After `error`: whether the reason is that the cache of `datasets` cannot be written. None is a new folder."""
    if not isinstance(error, OSError):
        return
    reason = error.strerror if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    try:
        if folder is not None:
            os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=None if folder is None else os.fspath(folder)):
            pass
    except OSError as written:
        reason = written.strerror
    if reason is not None:
        raise ValueError(
            f"`HF_DATASETS_CACHE` must be a folder that can be written, got '{folder or tempfile.gettempdir()}' "
            f"({reason}). Set that environment variable to one with room for the texts."
        ) from error


__all__ = ["REVIEWS", "check_cache", "check_dataset_name", "load_split"]
