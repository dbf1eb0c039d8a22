"""Where texts come from: the Hub, local files, the built-in corpus; with errors of one line."""

import difflib
import errno
import glob
import os
import re
import tempfile
from pathlib import Path

from transformers.utils import logging

from .reviews import review_dataset
from .validation import NO_ROWS, check_dataset, is_stream, nearest, one_line

logger = logging.get_logger(__name__)

REVIEWS = "reviews"  # the name of the built-in corpus
REVIEWS_SIZE = 20_000
_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::(.+))?")
_FORMS = (
    f"Use '{REVIEWS}' (the built-in corpus), a Hub id such as 'org/name' or 'org/name:config', a Dataset, or a file, "
    f"folder or glob of {', '.join(_BUILDERS)} (also .gz)"
)


def load_split(dataset, argument: str, split: str, max_texts: int | None, streaming: bool = False):
    if not isinstance(dataset, (str, os.PathLike)):
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
        if split != "train":
            raise ValueError(f"`split` must be 'train' for the built-in corpus, got {split!r}.")
        # the same reviews whatever the seed; any slice of them is a fair sample
        reviews = review_dataset(min(max_texts or REVIEWS_SIZE, REVIEWS_SIZE))
        return reviews.to_iterable_dataset() if streaming else reviews
    source = _local_source(name)
    if source is None:
        match = _HUB_ID.fullmatch(name)
        if match is None:
            near = difflib.get_close_matches(name, [REVIEWS], cutoff=0.6)
            hint = f"Did you mean '{near[0]}'?" if near else f"{_FORMS}."
            raise ValueError(f"`dataset` is neither a file here nor a Hub id, got '{name}'. {hint}")
        return _load({"path": match.group(1), "name": match.group(2)}, argument, split, name, streaming)
    kind, source = source
    texts = _load(source, argument, split, name, streaming)
    if kind == "text" and streaming:
        texts = texts.filter(lambda text: text.strip() != "", input_columns="text")
    elif kind == "text":
        lines = len(texts)
        texts = texts.filter(lambda text: text.strip() != "", input_columns="text", desc="Dropping blank lines")
        if len(texts) < lines:
            logger.warning(f"Dropped {lines - len(texts)} blank lines of '{name}': each line is a text.")
    return texts


def _load(source: dict, argument: str, split: str, name: str, streaming: bool):
    """`datasets.load_dataset` with one-line errors."""
    import datasets

    if streaming:
        source = {**source, "streaming": True}
        if re.search(r"[\[+]", split):
            raise ValueError(f"`{argument}` must be a whole split for a stream, got {split!r}. Use `max_texts`.")
    try:
        try:
            return datasets.load_dataset(**source, split=split)
        except ValueError:
            splits = list(datasets.load_dataset(**source))
            base = re.split(r"[\[+]", split)[0]
            if base in splits:
                raise
            remedy = nearest(base, splits)
            if argument == "validation_split":
                remedy += " Use a fraction such as 0.1 to keep training texts back."
            raise ValueError(
                f"`{argument}` {split!r} is not in '{name}', which has {', '.join(splits)}.{remedy}"
            ) from None
    except (FileNotFoundError, ConnectionError) as error:
        check_cache(datasets.config.HF_DATASETS_CACHE, error)  # its folders may be what was not found
        raise ValueError(f"`dataset` could not be found, got '{name}': {one_line(error)} {_FORMS}.") from None
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__ or error
        check_cache(datasets.config.HF_DATASETS_CACHE, cause)
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
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as written:
        reason = written.strerror
    if reason is not None:
        raise ValueError(
            f"`HF_DATASETS_CACHE` must be a folder that can be written, got '{folder or tempfile.gettempdir()}' "
            f"({reason}). Set that environment variable to one with room for the texts."
        ) from error


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
        raise ValueError(f"`dataset` file not found, got '{name}'.{nearest(file, there) or f' {_FORMS}.'}")
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


__all__ = ["REVIEWS", "check_cache", "load_split"]
