"""What one system generates and how probable it finds real texts: all of an evaluation that needs its weights."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import set_seed

from ...data import generate_texts, prepare_dataset
from ..likelihood import evaluate_likelihood
from ..words import cut_words
from .cache import EvaluationCache
from .decoding import DECODING, plane_settings, sampling_at
from .fingerprints import digest
from .latent_measurement import measure_latents
from .metric_values import PER_STEP
from .real_texts import EvaluationData
from .settings import EvaluationSettings
from .systems import EvaluatedSystem, SystemPlan

BLOCK = 500  # texts in one cached result: what an evaluation that was stopped may lose


def measure_system(
    system: EvaluatedSystem,
    data: EvaluationData,
    settings: EvaluationSettings,
    cache: EvaluationCache,
    plan: SystemPlan,
    readable: Sequence[int],
) -> dict[str, Any]:
    """
    All that needs the system's weights.

    Args:
        system ([`EvaluatedSystem`]), data ([`EvaluationData`]), settings ([`EvaluationSettings`]).
        cache ([`EvaluationCache`]): where results are found and kept.
        plan ([`SystemPlan`]), readable (`Sequence[int]`): from [`make_plan`] and [`readable_texts`].

    Returns:
        `dict`: `texts` (by decoding strategy, for each seed a list of rows), `curve` (for each setting its
        `temperature`, `latent_temperature` and `rows`), `likelihood` (per-text metrics), `representation` (or `None`).
    """
    measures = {}
    columns = {"text": [data.real[place] for place in readable]}
    if data.prompts:
        columns["prompt"] = [data.prompts[place] for place in readable]
    rows = Dataset.from_dict(columns)
    try:
        measures["texts"], measures["curve"] = _generate_sets(system, data, settings, cache, plan)
        key = {"model": system.fingerprint, "data": digest(columns), "limit": plan.limit, "device": system.device}
        measures["likelihood"] = _likelihood(system, rows, settings, cache, key, plan.limit)
        measures["representation"] = None
        if system.has_latents:
            measures["representation"] = measure_latents(system, rows, settings, cache, key, plan.limit)
    finally:
        system.release()
    return measures


# ---- Texts ----


def _generate_sets(system, data, settings, cache, plan):
    """Sets of texts by decoding strategy and seed, and the points of the plane with theirs."""
    prompts = (data.prompts or [None] * len(data.real))[: settings.num_generated_texts]

    def rows(label: str, decoding: dict, count: int, seed: int) -> list[dict]:
        generated = []
        for number, start in enumerate(range(0, count, BLOCK)):
            todo = prompts[start : min(start + BLOCK, count)]
            # Other draws for each system: metrics of two systems are independent, also of the same model twice
            block_seed = int(digest([seed, system.name, label, number])[:8], 16)
            key = {
                **{"model": system.fingerprint, "decoding": decoding, "seed": block_seed, "count": len(todo)},
                **{"prompts": digest(todo), "max_new_tokens": plan.max_new_tokens},
                **{"batch_size": settings.batch_size, "device": system.device},
            }
            name = f"{system.file_name}/{label}-seed{seed}-{number}"
            generated += cache.get_or_compute(
                name, key, lambda todo=todo, seed=block_seed: generate(todo, decoding, seed)
            )
        return [{**row, "text": cut_words(row["text"], data.max_words, settings.word_tokenizer)} for row in generated]

    def generate(todo, decoding, seed):
        draws_latents = system.has_latents and decoding.get("latent_temperature") != 0
        same = not draws_latents and not decoding["do_sample"] and todo[0] is None
        model = system.model()  # before the seed: loading may draw numbers
        set_seed(seed)
        generated = generate_texts(
            model,
            system.processor,
            todo[:1] if same else todo,  # where nothing is drawn, there is one text
            batch_size=max(1, settings.batch_size // decoding["num_beams"]),
            description=f"{system.name}: generating",
            max_new_tokens=plan.max_new_tokens,
            **decoding,
        )
        generated = [{name: row[name] for name in ("text", "prompt", "finished")} for row in generated]
        return generated * len(todo) if same else generated

    texts = {
        name: [rows(name, DECODING[name], len(prompts), seed) for seed in settings.seeds] for name in settings.decoding
    }
    curve = []
    grid = plane_settings(settings.curve_temperatures, settings.curve_latent_temperatures, system.has_latents)
    for token, latent in grid:
        label = f"temperature{token:g}" + ("" if latent is None else f"-latent{latent:g}")
        point_rows = rows(label, sampling_at(token, latent), settings.num_curve_texts, settings.seeds[0])
        curve.append({"temperature": float(token), "latent_temperature": latent, "rows": point_rows})
    return texts, curve


# ---- Likelihood ----


def _likelihood(system, rows, settings, cache, key, limit) -> dict[str, list]:
    """Per-text metrics, joined over blocks."""
    joined = {}
    for number, start in enumerate(range(0, len(rows), BLOCK)):
        block = rows.select(range(start, min(start + BLOCK, len(rows))))
        block_values = cache.get_or_compute(
            f"{system.file_name}/likelihood-{number}",
            {
                **{**key, "num_samples": settings.num_samples, "method": settings.likelihood_method},
                **{"start": start, "count": len(block), "word_tokenizer": settings.word_tokenizer},
            },
            lambda block=block, number=number: _block_likelihood(system, block, settings, number, limit),
        )
        for name, values in block_values.items():
            joined.setdefault(name, []).extend(values)
    return joined


def _block_likelihood(system, rows, settings, seed, limit) -> dict[str, list]:
    result = evaluate_likelihood(
        system.model(),
        prepare_dataset(rows, system.processor, max_length=limit),
        system.processor,
        settings.num_samples if system.has_latents else 1,
        method=settings.likelihood_method,
        batch_size=min(settings.batch_size, 16),
        seed=seed,
        word_tokenizer=settings.word_tokenizer,
    )
    names = ("log_likelihood", "separator_log_likelihood", "ess", "reconstruction", "kl", "neg_elbo")
    names += ("tokens", "separators", "words", *PER_STEP)
    return {name: getattr(result, name).tolist() for name in names}


__all__ = ["measure_system"]
