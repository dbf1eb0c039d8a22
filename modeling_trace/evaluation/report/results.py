"""Everything that was measured of all systems: what tables, findings and the report are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..jackknife import Replicates
from .cache import EvaluationCache
from .decoding import setting_label
from .metric_values import Judges, likelihood_metrics, mean_metrics, text_metrics
from .real_texts import EvaluationData
from .settings import EvaluationSettings
from .systems import REAL, EvaluatedSystem

CURVE = ("self_bleu", "cnd", "judge")  # metrics of the plane of quality and diversity

Metrics = Mapping[str, Any]  # a `Replicates`, or a number where there is no interval


@dataclass
class Results:
    """
    What was measured.

    Args:
        systems (`list[EvaluatedSystem]`): those that could be measured.
        data ([`EvaluationData`]): its real texts are those beside which the systems generate.
        settings ([`EvaluationSettings`]): as they were used.
        measurements (`dict[str, dict]`): by system, from [`measure_system`].
        likelihood (`dict[str, Metrics]`): by system, from [`likelihood_metrics`].
        texts (`dict[str, dict[str, Metrics]]`): by decoding strategy and system, from [`text_metrics`]; means over
            seeds.
        seeds (`dict[str, dict[str, list]]`): by decoding strategy and system, the values of each seed.
        real (`Metrics`): of the real texts.
        curves (`dict[str, list[dict]]`): by system, points of the plane with their `metrics`.
        real_on_curve (`Metrics`): of as many real texts as a point has; empty without a plane.
        left_out (`dict[tuple[str, str], list[str]]`): by metric and reason, the sets of texts that lack it.
    """

    systems: list[EvaluatedSystem]
    data: EvaluationData
    settings: EvaluationSettings
    measurements: dict[str, dict[str, Any]]
    likelihood: dict[str, Metrics]
    texts: dict[str, dict[str, Metrics]]
    seeds: dict[str, dict[str, list]]
    real: Metrics
    curves: dict[str, list[dict[str, Any]]]
    real_on_curve: Metrics
    left_out: dict[tuple[str, str], list[str]]


def compute_metrics(
    systems: Sequence[EvaluatedSystem],
    data: EvaluationData,
    settings: EvaluationSettings,
    cache: EvaluationCache,
    measurements: dict[str, dict[str, Any]],
) -> Results:
    """
    All metrics of what the systems generated, of the real texts, and of the likelihoods.

    Args:
        systems, data, settings, measurements: as for [`Results`].
        cache ([`EvaluationCache`]): where results are found and kept.
    """
    judges = Judges(settings, cache)
    texts, seeds = {}, {}
    for decoding in settings.decoding:
        texts[decoding], seeds[decoding] = {}, {}
        for name, measured in measurements.items():
            sets = [
                text_metrics(rows, data, judges, f"{name}, {decoding}", num_judged=settings.num_judge_texts)
                for rows in measured["texts"][decoding]
            ]
            texts[decoding][name] = mean_metrics(sets)
            seeds[decoding][name] = [{metric: _value(v) for metric, v in one.items()} for one in sets]
    real = text_metrics(data.real, data, judges, REAL, num_judged=settings.num_judge_texts)
    curves = {}
    for name, measured in measurements.items():
        curves[name] = []
        for point in measured["curve"]:
            setting = {key: point[key] for key in ("temperature", "latent_temperature")}
            metrics = text_metrics(point["rows"], data, judges, f"{name}, {setting_label(**setting)}", CURVE)
            curves[name].append({**setting, "metrics": metrics})
    real_on_curve = {}
    if settings.curve_temperatures:
        few = data.real[: settings.num_curve_texts]
        real_on_curve = text_metrics(few, data, judges, f"{REAL}, {len(few)}", CURVE)
    return Results(
        systems=list(systems),
        data=data,
        settings=settings,
        measurements=measurements,
        likelihood={
            name: likelihood_metrics(m["likelihood"], m["representation"]) for name, m in measurements.items()
        },
        texts=texts,
        seeds=seeds,
        real=real,
        curves=curves,
        real_on_curve=real_on_curve,
        left_out=judges.left_out,
    )


def _value(metric: Replicates | float) -> float:
    return metric.value if isinstance(metric, Replicates) else metric


__all__ = ["Metrics", "Results", "compute_metrics"]
