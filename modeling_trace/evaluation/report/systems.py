"""The systems of an evaluation, and what follows from their tokenizers and the texts before any long work."""

import functools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...data import TraceProcessor
from ...loading import load_config, load_model
from .fingerprints import model_fingerprint, saved_model_fingerprint
from .real_texts import EvaluationData
from .settings import MIN_TEXTS, EvaluationSettings

REAL = "real text"  # the row of a table that is no system
MAX_NEW_TOKENS = 256
IN_MEMORY = "in memory"
BLOCK = 1000  # texts to tokenize at once


class EvaluatedSystem:
    """
    A model to evaluate under the name of its row in the tables.

    Args:
        name (`str`): its row in the tables.
        config ([`TraceConfig`]), processor ([`TraceProcessor`]): the model's own.
        device (`str`): where it runs.
        path (`str`, *optional*): folder or Hub id; its weights are loaded when something is to be computed.
        model ([`TraceForConditionalGeneration`], *optional*): in memory, in place of a path. It stays where it is.
    """

    def __init__(self, name: str, config, processor: TraceProcessor, device: str, path: str = IN_MEMORY, model=None):
        self.name, self.config, self.processor, self.device, self.path = name, config, processor, device, path
        self.in_memory = model is not None
        self._model = model
        self._was_training = self.in_memory and model.training

    @classmethod
    def from_path(cls, path: str | os.PathLike, name: str, device: str) -> "EvaluatedSystem":
        """A saved model, of which the configuration and processor are loaded."""
        path = str(path)
        return cls(name, load_config(path), TraceProcessor.from_pretrained(path), device, path)

    @classmethod
    def from_model(cls, model, processor: TraceProcessor, name: str) -> "EvaluatedSystem":
        """A model in memory, on the device where it is."""
        return cls(name, model.config, processor, str(model.device), model=model)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the content of weights, configuration and processor."""
        found = None if self.in_memory else saved_model_fingerprint(self.path, self.config)
        return found or model_fingerprint(self.model(), self.processor)

    @property
    def file_name(self) -> str:
        """The name as that of a folder or file."""
        return file_name(self.name)

    @property
    def has_latents(self) -> bool:
        """Whether it draws latents at all."""
        return self.config.latent_dynamics != "none"

    def model(self):
        """The model, loaded once, in eval mode."""
        if self._model is None:
            self._model, _ = load_model(self.path, self.device)
        return self._model.eval()

    def release(self) -> None:
        """Free the memory of weights that were loaded here; a model of the caller's is left as it was."""
        if self.in_memory:
            self._model.train(self._was_training)
        else:
            self._model = None


@dataclass
class SystemPlan:
    """
    What follows from texts and tokenizer alone, so that it is known before any long work.

    Args:
        limit (`int`, *optional*): the context, in tokens.
        max_new_tokens (`int`): that a text may have, [SEP] counted.
        fits (`list[bool]`): which real texts the system can read whole.
    """

    limit: int | None
    max_new_tokens: int
    fits: list[bool]


def make_plan(system: EvaluatedSystem, data: EvaluationData, settings: EvaluationSettings) -> SystemPlan:
    """
    The lengths of a system's texts. Systems with [SEP] get as many tokens more as [SEP] takes in real texts.

    Raises:
        ValueError: for prompts that fill the context, and `max_new_tokens` that do not fit it.
    """
    limit = getattr(system.config.get_text_config(), "max_position_embeddings", None)
    starts, lengths, without_sep = _token_counts(system.processor, data)
    room = math.inf if limit is None else limit - max(starts)
    if room < 1:
        raise ValueError(f"`dataset` has a prompt that fills the context of '{system.name}', {limit} tokens. Cut it.")
    wanted = settings.max_new_tokens
    if wanted is None and max(without_sep) <= MAX_NEW_TOKENS:
        wanted = max(lengths)
    else:
        wanted = math.ceil((wanted or MAX_NEW_TOKENS) * sum(lengths) / sum(without_sep))
    if settings.max_new_tokens is not None and wanted > room:
        raise ValueError(
            f"`max_new_tokens` must fit the context of '{system.name}', {limit} tokens, got "
            f"{settings.max_new_tokens}, which are {wanted} with [SEP]. {room} have room."
        )
    fits = [start + length <= (limit or math.inf) for start, length in zip(starts, lengths, strict=True)]
    return SystemPlan(limit, int(min(wanted, room)), fits)


def _token_counts(processor: TraceProcessor, data: EvaluationData) -> tuple[list[int], list[int], list[int]]:
    """Of each real text the tokens before it (BOS or the prompt), its own, and its own without [SEP]."""
    sep = processor.sep_token_id
    starts, lengths, without_sep = [], [], []
    for first in range(0, len(data.real), BLOCK):  # a tokenizer holds some hundred bytes for each token at once
        block = slice(first, first + BLOCK)
        prompts = None if data.prompts is None else data.prompts[block]
        rows = processor.encode_rows(data.real[block], prompts=prompts, first_row=first)
        before = [1] * len(rows)
        if prompts is not None:
            before = [len(ids) for ids in processor.encode_rows(None, prompts=prompts, first_row=first)]
        for start, ids in zip(before, rows, strict=True):
            starts.append(start)
            lengths.append(len(ids) - start)
            without_sep.append(len(ids) - start - ids[start:].count(sep))
    return starts, lengths, without_sep


def readable_texts(plans: Sequence[SystemPlan], data: EvaluationData, count: int) -> list[int]:
    """
    The first `count` real texts that all systems can read whole: nats of other texts would not compare.

    Raises:
        ValueError: for fewer than three.
    """
    places = [place for place, fits in enumerate(zip(*(plan.fits for plan in plans), strict=True)) if all(fits)]
    if len(places) < MIN_TEXTS:
        shortest = min(plan.limit for plan in plans if plan.limit is not None)
        raise ValueError(
            f"`dataset` must hold texts that fit the context of every system, got {len(places)} of {len(data.real)} "
            f"for {shortest} tokens. Cut them: --max_words {max(1, shortest // 2)}."
        )
    return places[:count]


def file_name(name: str) -> str:
    """A system's name as the name of a folder or file."""
    return re.sub(r"[^\w.+-]+", "_", name)


def describe_system(system: EvaluatedSystem, plan: SystemPlan) -> dict[str, Any]:
    """What a report says of a system: JSON."""
    config = system.config
    names = ("latent_dynamics", "latent_size", "posterior_norm", "residual_posterior", "spectral_norm")
    return {
        "name": system.name,
        "path": system.path,
        "segmenter": repr(system.processor.segmenter),
        "backbone": config.get_text_config().model_type,
        "max_new_tokens": plan.max_new_tokens,
        **{name: getattr(config, name) for name in names},
    }


def check_systems(systems: Sequence[EvaluatedSystem]) -> None:
    """
    Raise a ValueError for systems that cannot stand in one table: of the same name, also as that of a file, or named
    as the real texts are; conditional ones and others.
    """
    names = [system.name for system in systems]
    files = [system.file_name for system in systems]
    double = [name for name, file in zip(names, files, strict=True) if files.count(file) > 1]
    if double:
        raise ValueError(
            f"`names` must differ, also as file names, got '{double[0]}' and '{double[1]}'. Use --names A B"
        )
    bad = [name for name in names if name == REAL or set(name) <= set(". ")]
    if bad:
        raise ValueError(f"`names` must be names of systems, got '{bad[0]}'. Name the systems: --names A B")
    kinds = {system.config.conditional for system in systems}
    if len(kinds) > 1:
        conditional = [system.name for system in systems if system.config.conditional]
        raise ValueError(
            f"systems must all be conditional or none, got {', '.join(conditional)} among {len(systems)}. Compare "
            "them apart."
        )


__all__ = [
    "REAL",
    "EvaluatedSystem",
    "SystemPlan",
    "check_systems",
    "describe_system",
    "file_name",
    "make_plan",
    "readable_texts",
]
