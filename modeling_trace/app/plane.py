"""Where a setting of both temperatures lies on the quality-diversity plane of a model's evaluation report."""

import json
import math
import os
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

REPORT = "report/report.json"  # in a model's folder or repository


def find_report(model: str, folder: str | os.PathLike | None = None) -> dict[str, Any] | None:
    """
    The report of `modeling-trace evaluate` or `compare` that has a plane and this model.

    Args:
        model (`str`): folder or Hub id of the model; its own report is in its folder `report`.
        folder (`str` or `os.PathLike`, *optional*): another folder with a report.

    Returns:
        The report, with the model's name in it as `"app_system"`; None where there is none.

    Raises:
        ValueError: for a `folder` without such a report.
    """
    if folder is not None:
        path = Path(folder) / "report.json"
        if not path.is_file():
            raise ValueError(
                f"`report` must be the folder of a report, found no '{path}'. Use modeling-trace evaluate."
            )
    elif os.path.isdir(model):
        path = Path(model) / REPORT
    else:
        found = cached_file(
            model,
            REPORT,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        path = Path(found or REPORT)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        name = _system(report, model)
        is_report = bool(name is not None and _points(report, name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        is_report = False
    if is_report:
        return {**report, "app_system": name}
    if folder is not None:
        raise ValueError(
            f"`report` '{path}' has no quality-diversity plane of '{model}'. Evaluate this model, with "
            "`curve_temperatures`."
        )
    return None


def place_on_plane(report: dict[str, Any], temperature: float, latent_temperature: float) -> tuple[str, str]:
    """
    The measured setting that is nearest to a pair of temperatures, as a picture and in words.

    Args:
        report (`dict`): from [`find_report`].
        temperature, latent_temperature (`float`): of the tokens, 0 for greedy, and of the latents.

    Returns:
        `tuple[str, str]`: a PNG in base64 and a sentence.
    """
    from ..evaluation.report.decoding import setting_label
    from ..evaluation.report.markdown import format_cell
    from ..evaluation.report.plots import PLANE, plot_plane, png

    name = report["app_system"]
    point = min(
        _points(report, name),
        key=lambda p: (p["temperature"] - temperature) ** 2 + (p["latent_temperature"] - latent_temperature) ** 2,
    )
    metric = _metric(report, name)
    values = [point["metrics"][key]["value"] for key in ("self_bleu", metric)]

    def draw(axis):
        plot_plane(axis, report, metric)
        axis.plot(*([value] for value in values), "o", markersize=16, mfc="none", mec="black", mew=2.5, zorder=6)

    exact = math.isclose(point["temperature"], temperature) and math.isclose(
        point["latent_temperature"], latent_temperature
    )
    label = setting_label(point["temperature"], point["latent_temperature"])
    words = (
        f"{'Measured at' if exact else 'The nearest setting that was measured is'} {label} (T of the tokens, τ of the "
        f"latents): Self-BLEU {format_cell(point['metrics']['self_bleu'], 1)}, {PLANE[metric][1]} "
        f"{format_cell(point['metrics'][metric], 1 if metric == 'judge' else 3)}. It has a ring in the picture."
    )
    return png(draw, (4.2, 3.4)), words


def _system(report: dict[str, Any], model: str) -> str | None:
    """The name of the model in a report: by its path, or the only one that has latents."""
    systems = report["systems"]
    wanted = os.path.abspath(model) if os.path.isdir(model) else model
    own = [s["name"] for s in systems if s.get("path") in (wanted, model)]
    with_latents = [s["name"] for s in systems if s.get("latent_dynamics") != "none"]
    return own[0] if own else with_latents[0] if len(with_latents) == 1 else None


def _metric(report: dict[str, Any], name: str) -> str:
    """The judge's perplexity where there was a judge, else CND."""
    return "judge" if all(_has(point, "judge") for point in report["curves"][name]) else "cnd"


def _points(report: dict[str, Any], name: str) -> list[dict[str, Any]]:
    metric = _metric(report, name)
    points = report["curves"][name]
    return [p for p in points if p["latent_temperature"] is not None and _has(p, "self_bleu") and _has(p, metric)]


def _has(point: dict[str, Any], metric: str) -> bool:
    value = (point["metrics"].get(metric) or {}).get("value")
    return value is not None and math.isfinite(value)


__all__ = ["find_report", "place_on_plane"]
