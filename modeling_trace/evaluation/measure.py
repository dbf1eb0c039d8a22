"""What one system writes and how probable it finds real texts: all of an evaluation that needs its weights."""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed
from transformers.utils import logging

from ..data import TraceProcessor, prepare_dataset, write_texts
from .decoding import DECODING, sampling_at
from .likelihood import evaluate_likelihood
from .parts import Parts, digest
from .representation import active_units, encode_texts, mutual_information

logger = logging.get_logger(__name__)

MAX_NEW_TOKENS = 256
BLOCK = 500  # texts in one part: what an evaluation that was stopped may lose
SCATTER_TEXTS = 200


@dataclass
class EvaluationSettings:
    """
    What to measure.

    Args:
        num_texts (`int`): texts that each system writes for each decoding strategy and seed, and real texts beside
            them.
        num_samples (`int`): latents drawn per text for L_n (100 in the paper).
        num_likelihood_texts (`int`): real texts for likelihood, mutual information and active units.
        decoding (`tuple[str]`): names in `DECODING`.
        seeds (`tuple[int]`): of generation; figures are means over them.
        curve_temperatures (`tuple[float]`): of the quality-diversity curve; empty for none.
        num_curve_texts (`int`): texts for each of its points.
        judge (`str`, *optional*): outside language model, as for [`judge_perplexity`].
        num_judge_texts (`int`): texts of each set that it reads.
        extra_metrics (`tuple[str]`): of `vendi_score`, `mauve` and `bert_score`, which take long.
        max_new_tokens (`int`, *optional*): by default as the longest real text, at most 256.
        batch_size (`int`): texts written or read at once.
        confidence (`float`): of the intervals.
    """

    num_texts: int
    num_samples: int = 100
    num_likelihood_texts: int = 1000
    decoding: tuple[str, ...] = ("greedy", "top-k")
    seeds: tuple[int, ...] = (0,)
    curve_temperatures: tuple[float, ...] = (0.5, 0.7, 0.85, 1.0)
    num_curve_texts: int = 200
    judge: str | None = None
    num_judge_texts: int = 1000
    extra_metrics: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    batch_size: int = 32
    confidence: float = 0.95


@dataclass
class EvaluationData:
    """
    Real texts.

    Args:
        name (`str`): of the data set.
        real (`list[str]`): as many as each system writes.
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


def cut_words(text: str, max_words: int | None) -> str:
    """The first `max_words` words of a text, with the spaces that it has."""
    if max_words is None:
        return text
    return re.match(rf"(?:\s*\S+){{0,{max_words}}}", text)[0]


def measure_system(system: System, data: EvaluationData, settings: EvaluationSettings, parts: Parts) -> dict[str, Any]:
    """
    All that needs the system's weights.

    Args:
        system ([`System`]), data ([`EvaluationData`]), settings ([`EvaluationSettings`]).
        parts ([`Parts`]): where finished parts are found and kept.

    Returns:
        `dict`: `texts` (by decoding strategy, for each seed a list of rows), `curve` (by temperature, rows),
        `likelihood` (per-text figures), `representation` (or `None`), `notes`.
    """
    measures = {"notes": []}
    rows = Dataset.from_dict({"text": data.real} | ({"prompt": data.prompts} if data.prompts else {}))
    limit = getattr(system.config.get_text_config(), "max_position_embeddings", None)
    lengths = [len(ids) for ids in system.processor.encode(data.real, prompts=data.prompts)]
    starts = [1] * len(lengths)
    if data.prompts is not None:
        starts = [len(ids) for ids in system.processor.encode(None, prompts=data.prompts)]
    try:
        measures["texts"], measures["curve"] = _write(system, data, settings, parts, lengths, starts, limit)
        count = settings.num_likelihood_texts
        cut = sum(length > (limit or math.inf) for length in lengths[:count])
        if cut:
            measures["notes"].append(
                f"{system.name}: {cut} of {count} real texts are longer than the context of {limit} tokens and were "
                "cut, so nats per text are those of the beginnings."
            )
        rows = rows.select(range(count))
        key = {"model": system.fingerprint, "data": digest([data.real[:count], data.prompts]), "limit": limit}
        measures["likelihood"] = _likelihood(system, rows, settings, parts, key, limit)
        measures["representation"] = None
        if system.has_latents:
            measures["representation"] = parts.get(
                f"{_file(system.name)}/representation", key, lambda: _representation(system, rows, settings, limit)
            )
    finally:
        system.release()
    return measures


# ---- Texts ----


def _write(system, data, settings, parts, lengths, starts, limit):
    longest = max(length - start for length, start in zip(lengths, starts, strict=True))
    wanted = min(MAX_NEW_TOKENS, longest) if settings.max_new_tokens is None else settings.max_new_tokens
    room = wanted if limit is None else limit - max(starts)
    if room < 1 or (settings.max_new_tokens is not None and wanted > room):
        raise ValueError(
            f"`max_new_tokens` must fit the context of '{system.name}', {limit} tokens with a longest prompt of "
            f"{max(starts)}: use {room} or less."
            if room >= 1
            else f"a prompt fills the context of '{system.name}'."
        )
    wanted = min(wanted, room)
    prompts = data.prompts or [None] * settings.num_texts

    def rows(label: str, decoding: dict, count: int, seed: int) -> list[dict]:
        found = []
        for number, start in enumerate(range(0, count, BLOCK)):
            todo = prompts[start : min(start + BLOCK, count)]
            # Other draws for each system: figures of two systems are independent, also of the same model twice
            own_seed = int(digest([seed, system.name, label, number])[:8], 16)
            key = {
                **{"model": system.fingerprint, "decoding": decoding, "seed": own_seed, "count": len(todo)},
                **{"prompts": digest(todo), "max_new_tokens": wanted, "batch_size": settings.batch_size},
            }
            name = f"{_file(system.name)}/{label}-seed{seed}-{number}"
            found += parts.get(name, key, lambda todo=todo, own=own_seed: _texts(system, todo, decoding, own, wanted))
        return [{**row, "text": cut_words(row["text"], data.max_words)} for row in found]

    def _texts(system, todo, decoding, seed, wanted):
        set_seed(seed)
        same = not system.has_latents and not decoding["do_sample"] and todo[0] is None
        kept = ("text", "prompt", "finished")
        written = write_texts(
            system.model(),
            system.processor,
            todo[:1] if same else todo,  # a plain language model has one greedy text
            batch_size=max(1, settings.batch_size // decoding["num_beams"]),
            description=f"{system.name}: writing",
            max_new_tokens=wanted,
            **decoding,
        )
        return [{name: row[name] for name in kept} for row in (written * len(todo) if same else written)]

    texts = {
        name: [rows(name, DECODING[name], settings.num_texts, seed) for seed in settings.seeds]
        for name in settings.decoding
    }
    curve = {
        str(temperature): rows(
            f"temperature{temperature:g}", sampling_at(temperature), settings.num_curve_texts, settings.seeds[0]
        )
        for temperature in settings.curve_temperatures
    }
    return texts, curve


# ---- Likelihood and representation ----


def _likelihood(system, rows, settings, parts, key, limit) -> dict[str, list]:
    """Per-text figures, joined over blocks."""
    joined = {}
    for number, start in enumerate(range(0, len(rows), BLOCK)):
        block = rows.select(range(start, min(start + BLOCK, len(rows))))
        found = parts.get(
            f"{_file(system.name)}/likelihood-{number}",
            {**key, "num_samples": settings.num_samples, "start": start, "count": len(block)},
            lambda block=block, number=number: _block_likelihood(system, block, settings, number, limit),
        )
        for name, values in found.items():
            joined.setdefault(name, []).extend(values)
    return joined


def _block_likelihood(system, rows, settings, seed, limit) -> dict[str, list]:
    result = evaluate_likelihood(
        system.model(),
        prepare_dataset(rows, system.processor, max_length=limit),
        system.processor,
        settings.num_samples if system.has_latents else 1,
        batch_size=min(settings.batch_size, 16),
        seed=seed,
    )
    names = ("log_likelihood", "ess", "reconstruction", "kl", "kl_per_segment_position", "neg_elbo", "tokens", "words")
    return {name: getattr(result, name).tolist() for name in names}


def _representation(system, rows, settings, limit) -> dict[str, Any]:
    prepared = prepare_dataset(rows, system.processor, max_length=limit)
    texts = encode_texts(system.model(), prepared, system.processor, batch_size=settings.batch_size)
    information, units = mutual_information(texts), active_units(texts)
    return {
        "mi_per_step": information.per_step.tolist(),
        "mi_caps": information.caps.tolist(),
        "mi_influence": information.influence.tolist(),
        "mi_joint": information.joint,
        "mi_joint_cap": information.joint_cap,
        "num_texts_per_step": information.num_texts.tolist(),
        "active_units": units.latent,
        "active_units_residual": units.residual,
        "latent_size": texts.delta_mean.shape[-1],
        "scatter": _scatter(texts),
    }


@torch.no_grad()
def _scatter(texts) -> dict[str, list]:
    """
    Posterior means, and the prior means that the same path has, in the plane of the posterior means' two main
    components; a collapsed posterior's lie on its prior's.
    """
    noise = torch.randn(
        texts.delta_mean.transpose(0, 1).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(texts.delta_mean)
    chosen = slice(0, SCATTER_TEXTS)
    posterior, prior, steps = [], [], []
    for step, (_, _, prior_mean, _, mean, _) in enumerate(texts.paths(noise)):
        there = texts.mask[chosen, step]
        posterior.append(mean[chosen][there])
        prior.append(prior_mean[chosen][there])
        steps += [step + 1] * int(there.sum())
    posterior, prior = torch.cat(posterior), torch.cat(prior)
    centre = posterior.mean(dim=0)
    directions = torch.linalg.svd(posterior - centre, full_matrices=False).Vh[:2].t()
    points = [((x - centre) @ directions).round(decimals=3).tolist() for x in (posterior, prior)]
    return {"posterior": points[0], "prior": points[1], "segment": steps}


def _file(name: str) -> str:
    """A system's name as the name of a folder."""
    return re.sub(r"[^\w.+-]+", "_", name)


def weights_fingerprint(path: str, config) -> str:
    """Names, sizes and times of a folder's weights, or the commit of a model from the Hub."""
    if not os.path.isdir(path):
        return f"{path}@{getattr(config, '_commit_hash', None)}"
    files = [entry for entry in os.scandir(path) if entry.name.endswith((".safetensors", ".json", ".bin"))]
    found = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in files)
    return digest([os.path.abspath(path), found])


def check_fit(systems: Sequence[System]) -> None:
    """Whether these systems can stand in one table."""
    names = [system.name for system in systems]
    double = {name for name in names if names.count(name) > 1}
    if double:
        raise ValueError(f"`names` must differ, got '{double.pop()}' twice. Name the systems: --names A B")
    kinds = {system.config.conditional for system in systems}
    if len(kinds) > 1:
        conditional = [system.name for system in systems if system.config.conditional]
        raise ValueError(
            f"systems must all be conditional or none, got {', '.join(conditional)} among {len(systems)}. Compare "
            "them apart."
        )


__all__ = [
    "EvaluationData",
    "EvaluationSettings",
    "System",
    "check_fit",
    "cut_words",
    "measure_system",
    "weights_fingerprint",
]
