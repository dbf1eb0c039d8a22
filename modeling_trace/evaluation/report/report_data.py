"""The report as JSON, before it is rendered: tables, tests, findings, and what the pictures are drawn from."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .equal_quality import envelope_of
from .findings import make_findings
from .results import Metrics, Results
from .system_tables import make_tables
from .systems import REAL
from .tables import make_cell

NUM_SAMPLE_TEXTS = 5


def make_report(results: Results, descriptions: Sequence[dict[str, Any]], notes: Sequence[str]) -> dict[str, Any]:
    """
    The report of [`compare`].

    Args:
        results ([`Results`]): what was measured.
        descriptions (`Sequence[dict]`): from [`describe_system`], for each system.
        notes (`Sequence[str]`): findings from before anything was measured.
    """
    data, settings, measurements = results.data, results.settings, results.measurements
    tables, tests, envelope_settings = make_tables(results)
    with_latents = {name: m for name, m in measurements.items() if m["representation"]}
    return {
        "systems": list(descriptions),
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
        "seeds": results.seeds if len(settings.seeds) > 1 else {},
        "positions": {name: _positions(measured) for name, measured in with_latents.items()},
        "scatter": {name: measured["representation"]["scatter"] for name, measured in with_latents.items()},
        **_plane(results, envelope_settings),
        "real_on_curve": _cells(results.real_on_curve, settings.confidence),
        "samples": _samples(results),
        "metrics": _metrics(results),
        "texts": {
            decoding: {name: measured["texts"][decoding] for name, measured in measurements.items()}
            for decoding in settings.decoding
        },
        "findings": [*notes, *make_findings(results, tests)],
    }


def _cells(metrics: Metrics, confidence: float) -> dict[str, Any]:
    return {name: make_cell(metric, confidence) for name, metric in metrics.items()}


def _metrics(results: Results) -> dict[str, Any]:
    """All metrics by name: of each system those of its likelihood, and by decoding those of its texts."""
    confidence = results.settings.confidence
    return {
        name: {
            "likelihood": _cells(results.likelihood[name], confidence),
            "texts": {decoding: _cells(own[name], confidence) for decoding, own in results.texts.items()},
        }
        for name in results.measurements
    } | {REAL: {"texts": _cells(results.real, confidence)}}


def _plane(results: Results, envelope_settings: dict[str, list]) -> dict[str, Any]:
    """The plane of quality and diversity: points of each system, and its envelope."""
    envelopes = {name: envelope_of(points) for name, points in results.curves.items()}
    confidence = results.settings.confidence
    return {
        "curves": {
            name: [
                {
                    **point,
                    "on_envelope": place in envelopes[name][1],
                    "metrics": _cells(point["metrics"], confidence),
                }
                for place, point in enumerate(points)
            ]
            for name, points in results.curves.items()
        },
        "envelopes": {
            name: {
                "line": [[math.exp(nats), self_bleu] for nats, self_bleu in line],
                "settings": envelope_settings[name],
            }
            for name, (line, _) in envelopes.items()
        },
    }


def _positions(measured) -> dict[str, list]:
    """KL and mutual information of the first, second, ... segment, and how many texts have it."""
    rows = measured["likelihood"]["kl_per_segment_position"]
    width = max(map(len, rows))
    padded = np.array([row + [math.nan] * (width - len(row)) for row in rows])
    is_segment = np.isfinite(padded)
    kl = np.where(is_segment, padded, 0).sum(axis=0) / np.maximum(1, is_segment.sum(axis=0))
    representation = measured["representation"]
    return {
        "num_texts": is_segment.sum(axis=0).tolist(),
        "kl": kl.tolist(),
        "mi": representation["mi_per_step"],
        "mi_cap": representation["mi_caps"],
        "mi_joint": representation["mi_joint"],
        "mi_joint_cap": representation["mi_joint_cap"],
    }


def _samples(results: Results) -> dict[str, dict[str, list]]:
    """Texts drawn at random, the same places for all systems."""
    data = results.data
    places = np.random.default_rng(0).choice(len(data.real), min(NUM_SAMPLE_TEXTS, len(data.real)), replace=False)
    samples = {"": {REAL: [{"text": data.real[i], "prompt": (data.prompts or {i: None})[i]} for i in places]}}
    for decoding in results.settings.decoding:
        samples[decoding] = {}
        for name, measured in results.measurements.items():
            first = measured["texts"][decoding][0]
            samples[decoding][name] = [{"text": first[i]["text"], "prompt": first[i]["prompt"]} for i in places]
    return samples


__all__ = ["make_report"]
