"""The real texts of `evaluate` and `compare`: which ones, how many, and whether a model has seen them."""

import os
from argparse import Namespace

import yaml
from transformers.utils import logging

from ..data import load_texts

NUM_TEXTS = 1000
FEW_REFERENCES = 100  # below, n-grams are compared with training texts

logger = logging.get_logger(__name__)


def load_real_texts(arguments: Namespace, systems):
    """
    The texts that training with the same flags kept back, as [`EvaluationData`].

    Args:
        arguments (`Namespace`): of `modeling-trace compare`.
        systems (`Sequence[System]`): for which one is conditional, and what each was trained on.
    """
    from ..evaluation.ngrams import check_texts
    from ..evaluation.report.systems import EvaluationData, cut_words

    conditional = systems[0].config.conditional
    validation_split = _number(arguments.validation_split)
    train, validation = load_texts(
        arguments.dataset,
        text_column=arguments.text_column,
        prompt_column=arguments.prompt_column,
        conditional=conditional,
        drop_empty=arguments.drop_empty,
        split=arguments.split,
        validation_split=validation_split,
        max_texts=arguments.max_texts,
    )
    pool = train if validation is None else validation
    check_texts(pool["text"], "dataset")  # before they are shuffled, for the numbers of the rows
    pool = pool.shuffle(seed=0)
    if len(pool) < 3:
        raise ValueError(f"`dataset` must hold at least three texts to evaluate on, got {len(pool)}. Use more texts.")
    notes = []
    count = arguments.num_texts
    if count is None:  # without training texts, half of the texts are kept as references
        count = min(NUM_TEXTS, len(pool) if validation is not None else max(3, len(pool) // 2))
    if count > len(pool):
        if not arguments.allow_fewer:
            raise ValueError(
                f"`num_texts` must be at most the {len(pool)} texts that '{arguments.dataset}' holds for evaluation, "
                f"got {count}. Lower it, or go on with {len(pool)} by --allow_fewer."
            )
        notes.append(f"{count} texts were asked for; the data hold {len(pool)}, so all metrics are of {len(pool)}.")
        count = len(pool)
    texts = [cut_words(text, arguments.max_words) for text in pool["text"]]
    references = texts[count:]
    if len(references) < FEW_REFERENCES and validation is not None:
        train = train.shuffle(seed=0).select(range(min(NUM_TEXTS, len(train))))
        references = [cut_words(text, arguments.max_words) for text in train["text"]]
        notes.append(
            f"Too few validation texts are left beside the {count}, so texts are compared with {len(references)} "
            "training texts for CND: a model that knows them by heart would look good."
        )
    notes += _seen_in_training(arguments, validation_split, systems)
    return EvaluationData(
        name=arguments.dataset,
        real=texts[:count],
        references=references,
        prompts=pool["prompt"][:count] if conditional else None,
        max_words=arguments.max_words,
        notes=notes,
    )


def _number(text: str):
    """A fraction, a number, a name or None."""
    if text.lower() in ("none", "null", "0"):
        return None
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    return text


def _seen_in_training(arguments: Namespace, validation_split, systems) -> list[str]:
    """A word for each run that was trained on this data set, divided so that it may have seen these texts."""
    notes = []
    for system in systems:
        try:
            with open(os.path.join(system.path, "train_config.yaml"), encoding="utf-8") as file:
                trained = yaml.safe_load(file)
        except (OSError, yaml.YAMLError):  # not trained by this package's command, or on the Hub
            continue
        if not isinstance(trained, dict) or _source(trained.get("dataset")) != _source(arguments.dataset):
            continue
        # the split that the texts are from, and whether a part of it was kept back in the same way
        source = validation_split if isinstance(validation_split, str) else arguments.split
        own = {name: getattr(arguments, name) for name in ("split", "max_texts", "drop_empty", "text_column")}
        own["validation_split"] = validation_split
        other = [name for name, value in own.items() if trained.get(name) != value]
        if source != trained.get("split", "train") or (validation_split is not None and not other):
            continue
        what = (
            f"another `{other[0]}` ({trained.get(other[0])}, here {own[other[0]]})" if other else "all of these texts"
        )
        notes.append(
            f"{system.name} was trained on this data set with {what}: it may have seen these texts in training, and "
            "all its metrics are then too good."
        )
        logger.warning(notes[-1])
    return notes


def _source(dataset) -> str | None:
    return os.path.realpath(dataset) if isinstance(dataset, str) and os.path.exists(dataset) else dataset


__all__ = ["NUM_TEXTS", "load_real_texts"]
