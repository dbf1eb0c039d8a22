"""Systems side by side: tables in the paper's shape, tests, equal quality, and what may not be concluded."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformers.utils import logging

from ...models.likelihood_trace import check_likelihood_method
from ..jackknife import Replicates
from ..ngrams import require
from .cache import Parts
from .decoding import DECODING, DESCRIPTIONS, setting_label
from .equal_quality import envelope_of, equal_quality_table
from .findings import find
from .measurement import measure_system
from .metric_values import DIVERSITY, VENDI_TEXTS, Judges, likelihood_metrics, mean_metrics, text_metrics
from .systems import (
    METHOD_NAMES,
    REAL,
    EvaluationData,
    EvaluationSettings,
    Plan,
    System,
    check_fit,
    make_plan,
    readable_texts,
)
from .tables import BOUNDS, make_cell, make_column, make_difference_table, make_table

logger = logging.get_logger(__name__)

CURVE = ("self_bleu", "cnd", "judge")
LIKELIHOOD = ("nats", "neg_elbo", "reconstruction", "kl", "kl_per_dim", "mi", "au")
LIKELIHOOD += ("ess", "ess_step", "resampled", "ppl", "ppl_word")
LATENT_USE = ("kl", "own_z", "other_z", "prior_z", "gain", "gain_per_nat", "shared_offset", "au")
NUM_SAMPLE_TEXTS = 5


def compare_systems(
    systems: Sequence[System], data: EvaluationData, settings: EvaluationSettings, parts: Parts
) -> dict[str, Any]:
    """
    Measure systems on the same data, one after the other, and compare them.

    Args:
        systems (`Sequence[System]`): one or more; differences are also given to the first.
        data ([`EvaluationData`]), settings ([`EvaluationSettings`]).
        parts ([`Parts`]): where finished parts are found and kept.

    Returns:
        `dict`, JSON but for `texts`: `systems`, `data`, `settings`, `tables`, `tests`, `positions`, `scatter`,
        `curves` (of each system, the points over both temperatures), `envelopes` (of each, its corners in the judge's
        perplexity and Self-BLEU, and its `settings` at the levels of equal quality), `real_on_curve`,
        `seeds`, `samples`, `findings`, and `texts` (all rows by decoding and system).
    """
    check_fit(systems)
    check_likelihood_method(settings.likelihood_method)
    _check_packages(data, settings)
    plans = [make_plan(system, data, settings) for system in systems]
    readable = readable_texts(plans, data, settings.num_likelihood_texts)
    at_most = {name: min(getattr(settings, name), len(data.real)) for name in ("num_judge_texts", "num_curve_texts")}
    settings = replace(settings, num_likelihood_texts=len(readable), **at_most)
    notes = [*data.notes]
    passed_over = sum(not all(fits) for fits in zip(*(plan.fits for plan in plans), strict=True))
    if passed_over:
        notes.append(
            f"{passed_over} of {len(data.real)} real texts do not fit the context of every system: likelihood and "
            "representation are of texts that do, which are shorter."
        )
    measures = {}
    for system, plan in zip(systems, plans, strict=True):
        try:
            measures[system.name] = measure_system(system, data, settings, parts, plan, readable)
        except RuntimeError as error:  # weights that are no numbers, no memory: the others go on
            notes.append(f"{system.name} could not be measured: {' '.join(str(error).split())[:300]}")
            logger.warning(notes[-1])
    if not measures:
        raise ValueError(f"no system could be measured. {notes[-1]}")
    every, systems = systems, [system for system in systems if system.name in measures]
    judges = Judges(settings, parts)
    own = {name: likelihood_metrics(m["likelihood"], m["representation"]) for name, m in measures.items()}
    texts, seeds = {}, {}
    for decoding in settings.decoding:
        texts[decoding] = {}
        for name, measured in measures.items():
            label = f"{name}, {decoding}"
            sets = [
                text_metrics(rows, data, settings, judges, parts, label, num_judged=settings.num_judge_texts)
                for rows in measured["texts"][decoding]
            ]
            texts[decoding][name] = mean_metrics(sets)
            seeds.setdefault(decoding, {})[name] = [{k: _value(v) for k, v in one.items()} for one in sets]
    real = text_metrics(data.real, data, settings, judges, parts, REAL, num_judged=settings.num_judge_texts)
    curves = {}
    for name, measured in measures.items():
        curves[name] = []
        for point in measured["curve"]:
            setting = {key: point[key] for key in ("temperature", "latent_temperature")}
            label = f"{name}, {setting_label(**setting)}"
            found = text_metrics(point["rows"], data, settings, judges, parts, label, CURVE)
            curves[name].append({**setting, "metrics": found})
    few = {}
    if settings.curve_temperatures:
        few = data.real[: settings.num_curve_texts]
        few = text_metrics(few, data, settings, judges, parts, f"{REAL}, {len(few)}", CURVE)
    tables, tests = _tables(systems, data, settings, own, texts, real)
    equal = equal_quality_table(curves, settings.num_curve_texts, settings.confidence) if len(systems) > 1 else None
    if equal is not None:
        tables.append(equal[0])
        tests += equal[1]
    envelopes = {name: envelope_of(points) for name, points in curves.items()}
    report = {
        "systems": [
            _describe(system, plan) for system, plan in zip(every, plans, strict=True) if system.name in measures
        ],
        "data": {
            "name": data.name,
            "num_real": len(data.real),
            "num_references": len(data.references),
            "max_words": data.max_words,
            "conditional": data.prompts is not None,
        },
        "settings": dict(vars(settings)),
        "tables": tables,
        "tests": tests,
        "seeds": seeds if len(settings.seeds) > 1 else {},
        "positions": {name: _positions(m) for name, m in measures.items() if m["representation"]},
        "scatter": {name: m["representation"]["scatter"] for name, m in measures.items() if m["representation"]},
        "curves": {
            name: [
                {
                    **point,
                    "on_envelope": place in envelopes[name][1],
                    "metrics": _cells(point["metrics"], settings.confidence),
                }
                for place, point in enumerate(points)
            ]
            for name, points in curves.items()
        },
        "envelopes": {
            name: {
                "line": [[math.exp(nats), self_bleu] for nats, self_bleu in line],
                "settings": [] if equal is None else equal[2][name],
            }
            for name, (line, _) in envelopes.items()
        },
        "real_on_curve": _cells(few, settings.confidence),
        "samples": _samples(measures, data, settings),
        "texts": {decoding: {name: m["texts"][decoding] for name, m in measures.items()} for decoding in texts},
    }
    report["findings"] = notes + find(systems, data, settings, measures, own, texts, real, tests, judges)
    return report


# ---- Tables ----


def _tables(systems, data, settings, own, texts, real):
    """The tables of the paper's shape and what stands beside them; and the tests of all."""
    tables, tests = [], []
    sampled = [name for name in settings.decoding if DECODING[name]["do_sample"]]
    shown = "top-k" if "top-k" in sampled else (sampled or list(settings.decoding))[0]
    names = [system.name for system in systems]
    everything = {name: own[name] | texts[shown][name] for name in names}
    # of other tokenizers the perplexity per token does not compare
    untested = () if len({own[name]["tokens"] for name in names}) == 1 else ("ppl",)

    def columns(*metrics: str) -> list[dict]:
        sizes = {"judge": settings.num_judge_texts}
        sizes |= dict.fromkeys((*LIKELIHOOD, *LATENT_USE), settings.num_likelihood_texts) | {
            "vendi_score": min(VENDI_TEXTS, len(data.real))
        }
        found = [make_column(metric, sizes.get(metric, len(data.real))) for metric in metrics]
        if settings.likelihood_method == "particle":
            for column in found:
                if column["metric"] in BOUNDS:
                    column["label"] = column["label"].replace(" ↓", " (particle) ↓")
        return found

    def add(identifier: str, title: str, metrics: Sequence[str], rows, caption: str = "") -> None:
        table, found = make_table(identifier, title, columns(*metrics), rows, settings.confidence, caption, untested)
        if table["columns"]:
            tables.append(table)
            tests.extend(found)

    if data.prompts is None:
        title = f"Representation, quality and diversity (as Table 2); {DESCRIPTIONS[shown]}"
        metrics = ("neg_elbo", "kl", "mi", "au", "ppl", "cnd", *DIVERSITY)
    else:
        title = f"Quality and diversity with prompts (as Table 3); {DESCRIPTIONS[shown]}"
        metrics = ("bleu", "rouge1", "rouge2", "rougeL", "bert_score", *DIVERSITY)
    add("overview", title, metrics, {REAL: real, **everything})
    add(
        "likelihood",
        "Likelihood of real texts and what the latents do for it",
        LIKELIHOOD,
        own,
        "Nats per text, summed over tokens, segments and dimensions; [SEP] is paid for in nats and is no token. "
        f"nats/text, PPL and PPL/word are upper bounds by {METHOD_NAMES[settings.likelihood_method]}; exact for "
        "models without latents. ESS: effective sample size of a text's draws, of a particle filter the least of its "
        "steps; ESS/step: after each segment.",
    )
    add(
        "latents",
        "What the latents carry: nats per text under the text's own latents, another text's and draws from the prior",
        LATENT_USE,
        {system.name: own[system.name] for system in systems if system.has_latents},
        "Gain: what a text costs more under another text's latents than under its own; gain/KL: nats of text gained "
        "per nat of KL, near 0 where the decoder does not read them. Shared offset: the part of the posterior's "
        "squared shift from the prior that is the same for all texts.",
    )
    for decoding in settings.decoding:
        add(
            f"decoding-{decoding}",
            f"Quality and diversity by decoding strategy (as Table 6): {DESCRIPTIONS[decoding]}",
            ("cnd", "judge", "mauve", "sacrebleu", "self_bleu", "jaccard", "distinct_2"),
            {REAL: real, **texts[decoding]},
        )
        add(
            f"further-{decoding}",
            f"Further metrics: {DESCRIPTIONS[decoding]}",
            ("words", "finished", "different", "ead_1", "rep_4", "compression", "vendi_score", "bleu_to_set"),
            {REAL: real, **texts[decoding]},
        )
    if len(systems) > 1:
        title = f"Differences from {names[0]} (columns as Table 5 and two more); {DESCRIPTIONS[shown]}"
        metrics = columns("neg_elbo", "ppl_word", "cnd", "judge", *DIVERSITY)
        tables.append(make_difference_table("differences", title, metrics, everything, settings.confidence, untested))
    return tables, tests


# ---- The rest ----


def _value(metric: Replicates | float) -> float:
    return metric.value if isinstance(metric, Replicates) else metric


def _cells(metrics, confidence: float) -> dict[str, Any]:
    return {name: make_cell(metric, confidence) for name, metric in metrics.items()}


def _check_packages(data: EvaluationData, settings: EvaluationSettings) -> None:
    """Whatever is missing is missed before the long work."""
    for module in ("scipy.special", "statsmodels.stats.multitest"):
        require(module, "a report")
    if data.prompts is not None:
        for module in ("rouge_score.rouge_scorer", "sacrebleu"):
            require(module, "a report on texts with prompts")
    if "bert_score" in settings.extra_metrics:
        require("bert_score", "bert_score", "eval-extra")
    if "mauve" in settings.extra_metrics:
        require("mauve", "mauve", "eval-extra")
        if settings.judge is None:
            raise ValueError("`extra_metrics` has 'mauve', which needs a `judge`, got none. Name one.")


def _describe(system: System, plan: Plan) -> dict[str, Any]:
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


def _positions(measured) -> dict[str, list]:
    """KL and mutual information of the first, second, ... segment, and how many texts have it."""
    rows = measured["likelihood"]["kl_per_segment_position"]
    width = max(map(len, rows))
    padded = np.array([row + [math.nan] * (width - len(row)) for row in rows])
    there = np.isfinite(padded)
    kl = np.where(there, padded, 0).sum(axis=0) / np.maximum(1, there.sum(axis=0))
    found = measured["representation"]
    return {
        "num_texts": there.sum(axis=0).tolist(),
        "kl": kl.tolist(),
        "mi": found["mi_per_step"],
        "mi_cap": found["mi_caps"],
        "mi_joint": found["mi_joint"],
        "mi_joint_cap": found["mi_joint_cap"],
    }


def _samples(measures, data, settings) -> dict[str, dict[str, list]]:
    """Texts drawn at random, the same places for all systems."""
    places = np.random.default_rng(0).choice(len(data.real), min(NUM_SAMPLE_TEXTS, len(data.real)), replace=False)
    samples = {"": {REAL: [{"text": data.real[i], "prompt": (data.prompts or {i: None})[i]} for i in places]}}
    for decoding in settings.decoding:
        samples[decoding] = {
            name: [
                {"text": m["texts"][decoding][0][i]["text"], "prompt": m["texts"][decoding][0][i]["prompt"]}
                for i in places
            ]
            for name, m in measures.items()
        }
    return samples


__all__ = ["compare_systems"]
