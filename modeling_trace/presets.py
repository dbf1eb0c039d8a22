"""Named settings of `modeling-trace train`: the paper's data sets, systems and ablations (Sec. 5, Table 1, 2, 5)."""

import difflib
from typing import Any

from transformers.utils import logging

from .models.configuration_trace import PAPER_ARCHITECTURE, PAPER_RECIPE, PAPER_WARNING

logger = logging.get_logger(__name__)

# Sec. 5.2. The annealing schedule is Fu et al. 2019, with their number of cycles; the paper gives none.
PAPER_TRAINING: dict[str, Any] = {
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 32,
    "kl_schedule": "cyclical",
}

# Table 1 and Sec. 5.1. Note: Yelp and Yahoo are not the splits of Yang et al. 2017, which no Hub data set has under a
# settled name, but the data sets that those were drawn from, cut to the same number of texts.
PRESETS: dict[str, dict[str, Any]] = {
    "yelp": {
        "dataset": "Yelp/yelp_review_full",
        "text_column": "text",
        "max_texts": 110_000,
        "validation_split": 10_000,
        "max_length": 256,
        "segmenter": "fixed",
        "segment_length": 10,
        **PAPER_TRAINING,
    },
    "yahoo": {
        "dataset": "community-datasets/yahoo_answers_topics",
        "text_column": "best_answer",
        "drop_empty": True,
        "max_texts": 110_000,
        "validation_split": 10_000,
        "max_length": 256,
        "segmenter": "fixed",
        "segment_length": 10,
        **PAPER_TRAINING,
    },
    "writing-prompts": {
        "dataset": "euclaise/writingprompts",
        "text_column": "story",
        "prompt_column": "prompt",
        "conditional": True,
        "max_texts": 164_000,
        "validation_split": "validation",
        "max_length": 750,
        "segmenter": "sentence",
        **PAPER_TRAINING,
    },
}

_PLAIN_POSTERIOR = {"posterior_norm": "none", "residual_posterior": False}
# "trace" is what TraceConfig gives by itself: one pass, free bits. The others are the rows of Table 2, 3 and 5, in the
# paper's architecture. IND, CGD and No Recurrence are the baselines as published, with a plain Gaussian posterior;
# `--posterior_norm layer` gives them what TRACE has.
SYSTEMS: dict[str, dict[str, Any]] = {
    "trace": {},
    "trace-r": {**PAPER_ARCHITECTURE, "latent_dynamics": "recurrent"},
    "trace-p": {**PAPER_ARCHITECTURE, "latent_dynamics": "parallel"},
    "ind": {**PAPER_ARCHITECTURE, "latent_dynamics": "independent", "posterior_norm": "none"},
    "cgd": {**PAPER_ARCHITECTURE, "latent_dynamics": "context"} | _PLAIN_POSTERIOR,
    "no-recurrence": {**PAPER_ARCHITECTURE, "latent_dynamics": "single"} | _PLAIN_POSTERIOR,
    "gpt2": {"latent_dynamics": "none"},
    "trace-r-LN": {**PAPER_ARCHITECTURE, "latent_dynamics": "recurrent", "posterior_norm": "none"},
    "trace-r+BN": {**PAPER_ARCHITECTURE, "latent_dynamics": "recurrent", "posterior_norm": "batch"},
    "trace-r-RP": {**PAPER_ARCHITECTURE, "latent_dynamics": "recurrent", "residual_posterior": False},
    "trace-p-SN": {**PAPER_ARCHITECTURE, "latent_dynamics": "parallel", "spectral_norm": False},
}

RECIPES: dict[str, dict[str, Any]] = {"paper": {**PAPER_RECIPE, **PAPER_TRAINING}}


def named_settings(preset: str | None = None, system: str | None = None, recipe: str | None = None) -> dict[str, Any]:
    """
    The settings that a preset, a recipe and a system stand for, as arguments of `modeling-trace train`.

    A preset wins over a recipe, and a system over both.

    Raises:
        ValueError: for an unknown name; lists the known ones.
    """
    settings: dict[str, Any] = {}
    for kind, name, known in (("recipe", recipe, RECIPES), ("preset", preset, PRESETS), ("system", system, SYSTEMS)):
        if name is None or str(name).lower() == "none":
            continue
        match = {key.lower(): key for key in known}.get(str(name).lower())
        if match is None:
            near = difflib.get_close_matches(str(name).lower(), list(known), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"`{kind}` must be one of {', '.join(known)}, got '{name}'.{hint}")
        settings |= known[match]
    if recipe is not None and str(recipe).lower() != "none":
        logger.warning(PAPER_WARNING)
    if settings.get("segmenter") == "sentence":
        settings.pop("segment_length", None)
    return settings


__all__ = ["PAPER_TRAINING", "PRESETS", "RECIPES", "SYSTEMS", "named_settings"]
