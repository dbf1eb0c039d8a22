"""What an experiment will take, from a few steps and texts of each of its systems."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from cells import TRAINED, make_trainer, measure
from plan import Cell, Plan
from texts import Texts
from transformers import TrainerCallback

STEPS, FEW, MORE = 4, 8, 24
BYTES_PER_PARAMETER, BYTES_PER_TOKEN = 4, 6


class _Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self):
        self.times: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def estimate(plan: Plan, folder, texts) -> dict[str, Any]:
    """
    Seconds and bytes of what a plan has yet to do.

    Args:
        plan ([`Plan`]): of models.
        folder ([`ResultsFolder`]): what is done is found there.
        texts (`Mapping[str, Texts]`): by data set.

    Returns:
        `dict`: `trainings`, `steps`, `cells` (to do), `seconds` and `bytes`.
    """
    trainings = [one for one in plan.trainings if not (folder.models / one.key / TRAINED).exists()]
    to_do = [cell for cell in plan.cells if not folder.is_done(cell)]
    found = {"trainings": len(trainings), "steps": sum(one.steps for one in trainings), "cells": len(to_do)}
    if plan.experiment.kind != "models" or not to_do:
        return {**found, "seconds": None if to_do else 0.0, "bytes": 0}
    seconds_of: dict[str, float] = {}  # a step, and a cell, by architecture
    cell_seconds_of: dict[str, float] = {}
    size_of: dict[str, int] = {}
    for cell in to_do:
        kind = _kind(cell.training)
        if kind in cell_seconds_of:
            continue
        own = texts[cell.labels["dataset"]]
        with tempfile.TemporaryDirectory() as temporary:
            few = dataclasses.replace(cell.training, steps=STEPS, warmup_steps=0, base=None, save_steps=None)
            clock = _Clock()
            trainer = make_trainer(few, own.tokenizer, own.train, None, Path(temporary), save_strategy="no")
            trainer.add_callback(clock)
            trainer.train()
            seconds_of[kind] = (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1)
            trainer.save_model(temporary)
            size_of[kind] = sum(parameter.numel() for parameter in trainer.model.parameters()) * BYTES_PER_PARAMETER
            cell_seconds_of[kind] = _seconds_of(cell, Path(temporary), own)
    slowest, largest = max(seconds_of.values()), max(size_of.values())
    seconds = sum(one.steps * seconds_of.get(_kind(one), slowest) for one in trainings)
    seconds += sum(cell_seconds_of[_kind(cell.training)] for cell in to_do)
    texts_bytes = sum(
        cell.settings["num_generated_texts"] * cell.settings["text_tokens"] * len(cell.settings["decodings"])
        for cell in to_do
    )
    size = sum(size_of.get(_kind(one), largest) for one in trainings) + 2 * BYTES_PER_TOKEN * texts_bytes
    if any(one.save_steps for one in trainings):
        size += 3 * largest  # a checkpoint with AdamW's state, while a model is trained
    return {**found, "seconds": seconds, "bytes": size}


def _seconds_of(cell: Cell, model: Path, texts: Texts) -> float:
    """Of a cell's measurement: a line through those of few and of more texts, and one through a point of the plane."""

    def timed(count: int, **changed) -> float:
        own = dataclasses.replace(texts, test=texts.test.select(range(count)))
        start = time.perf_counter()
        measure(model, cell.labels["system"], own, {**cell.settings, "num_curve_texts": count, **changed})
        return time.perf_counter() - start

    few, more = (min(count, len(texts.test)) for count in (FEW, MORE))
    temperatures, latent_temperatures = (cell.settings[f"curve_{kind}temperatures"] for kind in ("", "latent_"))
    timed(few, curve_temperatures=[])  # what is loaded once for all cells
    first, second = (timed(count, curve_temperatures=[]) for count in (few, more))
    each = max(second - first, 0.0) / max(more - few, 1)
    seconds = second + each * (max(cell.settings["num_generated_texts"], len(texts.test)) - more)
    if temperatures:
        point = timed(more, curve_temperatures=temperatures[-1:], curve_latent_temperatures=latent_temperatures[-1:])
        has_latents = cell.training.model.get("latent_dynamics") != "none"
        points = len(temperatures) * (len(latent_temperatures) if has_latents else 1)
        seconds += max(point - second, 0.0) / more * points * cell.settings["num_curve_texts"]
    return seconds


def _kind(training) -> str:
    """What a step's time depends on."""
    return repr((training.model, training.segments, training.batch_size, training.conditional))


__all__ = ["estimate"]
