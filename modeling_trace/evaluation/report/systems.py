"""What is evaluated: systems, real texts, settings, and what follows from them before any long work."""

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...data import TraceProcessor
from .cache import digest

REAL = "real text"  # the row of a table that is no system
MAX_NEW_TOKENS = 256
METHOD_NAMES = {"importance": "importance weighting", "particle": "a particle filter"}  # of the likelihood


@dataclass
class EvaluationSettings:
    """
    What to measure.

    Args:
        num_samples (`int`): latents drawn per text for L_n (100 in the paper).
        likelihood_method (`str`): `"importance"` or `"particle"`, as in [`evaluate_likelihood`].
        num_likelihood_texts (`int`): real texts for likelihood, mutual information and active units.
        decoding (`tuple[str]`): names in `DECODING`.
        seeds (`tuple[int]`): of generation; metrics are means over them.
        curve_temperatures (`tuple[float]`): of the tokens, on the plane of quality and diversity, 0 for greedy; empty
            for no plane.
        curve_latent_temperatures (`tuple[float]`): of the latents there, each with each of the tokens; a plain
            language model has none.
        num_curve_texts (`int`): texts for each of its points.
        judge (`str`, *optional*): outside language model, as for [`judge_perplexity`].
        num_judge_texts (`int`): texts of each set that it reads; of the curve's it reads all.
        extra_metrics (`tuple[str]`): of `vendi_score`, `mauve` and `bert_score`, which take long.
        max_new_tokens (`int`, *optional*): of a text, [SEP] not counted; by default as the longest real text, at most
            256.
        batch_size (`int`): texts written or read at once.
        device (`str`): where systems and judge run.
        confidence (`float`): of the intervals.
    """

    num_samples: int = 100
    likelihood_method: str = "importance"
    num_likelihood_texts: int = 1000
    decoding: tuple[str, ...] = ("greedy", "top-k")
    seeds: tuple[int, ...] = (0,)
    curve_temperatures: tuple[float, ...] = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    curve_latent_temperatures: tuple[float, ...] = (0.0, 0.5, 1.0)
    num_curve_texts: int = 200
    judge: str | None = None
    num_judge_texts: int = 1000
    extra_metrics: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    batch_size: int = 32
    device: str = "cpu"
    confidence: float = 0.95

    def __post_init__(self):
        for name in ("curve_temperatures", "curve_latent_temperatures"):
            bad = [value for value in getattr(self, name) if not 0 <= value <= 10]
            if bad:
                raise ValueError(f"`{name}` must be from 0 to 10, got {bad[0]:g}. Use 0 1.")
        if self.curve_temperatures and not self.curve_latent_temperatures:
            raise ValueError(
                "`curve_latent_temperatures` must hold at least one temperature, got none. Use 1, or no "
                "`curve_temperatures` for no plane."
            )


@dataclass
class EvaluationData:
    """
    Real texts.

    Args:
        name (`str`): of the data set.
        real (`list[str]`): at least three. Each system writes as many for each decoding strategy and seed.
        references (`list[str]`): others, that n-gram distributions are compared with.
        prompts (`list[str]`, *optional*): those of `real`, for conditional models.
        max_words (`int`, *optional*): that all texts were cut at.
        notes (`list[str]`): what a reader should know of them.
    """

    name: str
    real: list[str]
    references: list[str]
    prompts: list[str] | None = None
    max_words: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class System:
    """
    A model to evaluate; its weights are read when something is to be computed.

    Args:
        name (`str`): its row in the tables.
        path (`str`): folder or Hub id.
        config ([`TraceConfig`]), processor ([`TraceProcessor`]): the model's own.
        load (`Callable`): returns the model, in eval mode, on its device.
        fingerprint (`str`): another one where the weights are others.
    """

    name: str
    path: str
    config: Any
    processor: TraceProcessor
    load: Callable
    fingerprint: str
    _model: Any = None

    @property
    def file_name(self) -> str:
        """The name as that of a folder or file."""
        return file_name(self.name)

    @property
    def has_latents(self) -> bool:
        """Whether it draws latents at all."""
        return self.config.latent_dynamics != "none"

    def model(self):
        """The model, read once."""
        if self._model is None:
            self._model = self.load()
        return self._model

    def release(self) -> None:
        """Let the weights go."""
        self._model = None


@dataclass
class Plan:
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


def make_plan(system: System, data: EvaluationData, settings: EvaluationSettings) -> Plan:
    """
    The lengths of a system's texts. Systems with [SEP] get as many tokens more as [SEP] takes in real texts.

    Raises:
        ValueError: for prompts that fill the context, and `max_new_tokens` that do not fit it.
    """
    limit = getattr(system.config.get_text_config(), "max_position_embeddings", None)
    rows = system.processor.encode(data.real, prompts=data.prompts)
    starts = [1] * len(rows)
    if data.prompts is not None:
        starts = [len(ids) for ids in system.processor.encode(None, prompts=data.prompts)]
    room = math.inf if limit is None else limit - max(starts)
    if room < 1:
        raise ValueError(f"`dataset` has a prompt that fills the context of '{system.name}', {limit} tokens. Cut it.")
    lengths = [len(ids) - start for ids, start in zip(rows, starts, strict=True)]
    sep = system.processor.sep_token_id
    own = [n - ids[start:].count(sep) for n, ids, start in zip(lengths, rows, starts, strict=True)]
    wanted = settings.max_new_tokens
    if wanted is None and max(own) <= MAX_NEW_TOKENS:
        wanted = max(lengths)
    else:
        wanted = math.ceil((wanted or MAX_NEW_TOKENS) * sum(lengths) / sum(own))
    if settings.max_new_tokens is not None and wanted > room:
        raise ValueError(
            f"`max_new_tokens` must fit the context of '{system.name}', {limit} tokens, got "
            f"{settings.max_new_tokens}, which are {wanted} with [SEP]. {room} have room."
        )
    return Plan(limit, int(min(wanted, room)), [len(ids) <= (limit or math.inf) for ids in rows])


def readable_texts(plans: Sequence[Plan], data: EvaluationData, count: int) -> list[int]:
    """
    The first `count` real texts that all systems can read whole: nats of other texts would not compare.

    Raises:
        ValueError: for fewer than three.
    """
    found = [place for place, fits in enumerate(zip(*(plan.fits for plan in plans), strict=True)) if all(fits)]
    if len(found) < 3:
        shortest = min(plan.limit for plan in plans if plan.limit is not None)
        raise ValueError(
            f"`dataset` must hold texts that fit the context of every system, got {len(found)} of {len(data.real)} "
            f"for {shortest} tokens. Cut them: --max_words {max(1, shortest // 2)}."
        )
    return found[:count]


def cut_words(text: str, max_words: int | None) -> str:
    """The first `max_words` words of a text, with the spaces that it has."""
    if max_words is None:
        return text
    return re.match(rf"(?:\s*\S+){{0,{max_words}}}", text)[0]


def file_name(name: str) -> str:
    """A system's name as the name of a folder or file."""
    return re.sub(r"[^\w.+-]+", "_", name)


def file_fingerprint(path: str) -> str:
    """Names, sizes and times of a file, or of the files in a folder."""
    files = list(os.scandir(path)) if os.path.isdir(path) else []
    stats = [(entry.name, entry.stat()) for entry in files if entry.is_file()] or [("", os.stat(path))]
    return digest([os.path.abspath(path), sorted((name, found.st_size, found.st_mtime_ns) for name, found in stats)])


def weights_fingerprint(path: str, config) -> str:
    """What changes with a model's weights or code: its files, an adapter's base, a Hub model's commit."""
    if not os.path.isdir(path):
        return f"{path}@{getattr(config, '_commit_hash', None)}"
    found = [file_fingerprint(path)]
    adapter = os.path.join(path, "adapter_config.json")
    if os.path.isfile(adapter):
        with open(adapter, encoding="utf-8") as file:
            base = json.load(file).get("base_model_name_or_path") or ""
        found.append(file_fingerprint(base) if os.path.exists(base) else base)
    return digest(found)


def check_fit(systems: Sequence[System]) -> None:
    """Whether these systems can stand in one table."""
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
    "EvaluationData",
    "EvaluationSettings",
    "Plan",
    "System",
    "check_fit",
    "cut_words",
    "file_fingerprint",
    "file_name",
    "make_plan",
    "readable_texts",
    "weights_fingerprint",
]
