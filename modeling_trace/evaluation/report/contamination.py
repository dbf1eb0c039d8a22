"""Contamination: whether a system was trained on the real texts that it is measured on."""

import os
from collections.abc import Sequence
from typing import Any

import yaml
from transformers.utils import logging

from ...data import load_texts
from .real_texts import EvaluationData

logger = logging.get_logger(__name__)


TRAINING_CONFIG = "train_config.yaml"  # that `modeling-trace train` leaves in a model's folder


TRAINING_TEXTS = (
    "text_column",
    "prompt_column",
    "conditional",
    "drop_empty",
    "encoding",
    "delimiter",
    "split",
    "validation_split",
    "max_texts",
)


def find_training_texts(systems: Sequence, data: EvaluationData) -> list[str]:
    """
    Sentences on the systems that were trained on real texts of the evaluation.

    The training texts that a system's `train_config.yaml` describes are read again and compared by their words,
    whatever data set, column or split either are from. Systems without such a file are passed over.

    Args:
        systems (`Sequence[EvaluatedSystem]`): `name` and `path` are used.
        data ([`EvaluationData`]): the real texts.
    """
    wanted = [_words(text) for text in (data.real if data.uncut is None else data.uncut)]
    results, notes = {}, []  # results by training texts, which several systems may share
    for system in systems:
        trained = _training_config(system.path)
        if trained is None:
            continue
        key = repr([trained["dataset"], *(trained.get(name) for name in TRAINING_TEXTS)])
        if key not in results:
            results[key] = _count_among(wanted, trained)
        count, reason = results[key]
        if reason:
            notes.append(
                f"Whether {system.name} was trained on these texts is not known: its training texts, "
                f"'{trained['dataset']}', could not be read again ({reason})."
            )
        elif count:
            notes.append(
                f"{system.name} was trained on {count:,} of the {len(wanted):,} real texts, as texts of "
                f"'{trained['dataset']}': all its metrics are too good."
            )
        else:
            continue
        logger.warning(notes[-1])
    return notes


def _training_config(path: str) -> dict[str, Any] | None:
    """Of a model that `modeling-trace train` saved in this folder."""
    try:
        with open(os.path.join(path, TRAINING_CONFIG), encoding="utf-8") as file:
            trained = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return trained if isinstance(trained, dict) and trained.get("dataset") is not None else None


def _count_among(wanted: Sequence[str], trained: dict[str, Any]) -> tuple[int, str]:
    """How many texts are among those that a model was trained on; and why that cannot be said, or an empty text."""
    if trained.get("streaming"):
        return 0, "they were a stream"
    try:
        settings = {name: trained[name] for name in TRAINING_TEXTS if name in trained}
        texts, _ = load_texts(trained["dataset"], **settings)
    except Exception as error:  # moved, deleted, another format, no network: all kinds of other packages' errors
        return 0, " ".join(str(error).split())[:200] or type(error).__name__
    known, trained_on = set(wanted), set()
    for batch in texts.select_columns(["text"]).iter(1000):
        trained_on |= known.intersection(map(_words, batch["text"]))
    return sum(text in trained_on for text in wanted), ""


def _words(text: str) -> str:
    """A text whatever its white space."""
    return " ".join(text.split())


__all__ = ["find_training_texts"]
