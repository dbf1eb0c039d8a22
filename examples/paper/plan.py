"""From an experiment and a scale to a plan: which models are trained, and what is measured of each."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from experiment import Experiment, Scale, check_name

from modeling_trace import __version__
from modeling_trace.evaluation.report.cache import VERSION as MEASUREMENT_VERSION
from modeling_trace.evaluation.report.fingerprints import file_fingerprint
from modeling_trace.presets import RECIPES, SYSTEMS


def key_of(value: Any) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def content_of(model: Any) -> Any:
    """What stands behind the name of a model: the bytes of a folder or file here; else the name itself."""
    if isinstance(model, str) and os.path.exists(model):
        return [model, file_fingerprint(model)]
    return model


@dataclass(frozen=True)
class Training:
    """
    All that a trained model depends on. Experiments of the same content share the model, whatever they call it.

    Args:
        texts (`str`): a hash of the training texts, cut.
        conditional (`bool`): texts have prompts.
        model (`dict`): fields of [`TraceConfig`].
        segments (`int`, `str` or None): tokens, "sentences", or none of its own.
        seed, steps, warmup_steps, batch_size, learning_rate, kl_schedule, save_steps: of the training.
        backbone (`str` or `dict`), vocab_size (`int`, *optional*): as in [`Scale`].
        base (`Training`, *optional*): the plain model that it starts from.
    """

    texts: str
    conditional: bool
    model: dict[str, Any]
    segments: int | str | None
    seed: int
    steps: int
    warmup_steps: int
    batch_size: int
    learning_rate: float
    kl_schedule: str
    backbone: str | dict[str, Any]
    vocab_size: int | None
    save_steps: int | None = None
    base: "Training | None" = None

    @cached_property
    def key(self) -> str:
        content = {name: value for name, value in dataclasses.asdict(self).items() if name != "save_steps"}
        backbone = content_of(self.backbone)
        return key_of([__version__, {**content, "backbone": backbone, "base": self.base and self.base.key}])


@dataclass(frozen=True)
class Cell:
    """
    What is measured at once, kept when it is done, and fails alone.

    Args:
        labels (`dict`): dataset, system, seed, segment_length, steps: what its rows are called.
        settings (`dict`): all that the measurement depends on besides the model, as JSON.
        training (`Training`, *optional*): the model that is measured.
    """

    labels: dict[str, Any]
    settings: dict[str, Any]
    training: Training | None = None

    @cached_property
    def key(self) -> str:
        settings = {name: content_of(value) if name == "judge" else value for name, value in self.settings.items()}
        own = [self.labels, settings, self.training and self.training.key]
        return key_of([__version__, MEASUREMENT_VERSION, *own])


@dataclass
class Plan:
    """An experiment at a scale, by a recipe: `cells` in their order, and what is to be trained for them."""

    experiment: Experiment
    scale: Scale
    scale_name: str
    recipe: str
    cells: list[Cell]

    @property
    def trainings(self) -> list[Training]:
        """Each model once, every base before what starts from it."""
        found: dict[str, Training] = {}
        for cell in self.cells:
            for training in (cell.training and cell.training.base, cell.training):
                if training is not None:
                    found.setdefault(training.key, training)
        return list(found.values())

    @property
    def configuration(self) -> dict[str, Any]:
        """What a folder of results is of."""
        return {
            "experiment": dataclasses.asdict(self.experiment),
            "scale": dataclasses.asdict(self.scale),
            "recipe": self.recipe,
        }


# ---- Systems ----


def model_settings(system: str, experiment: Experiment, recipe: str = "ours") -> dict[str, Any]:
    """
    Fields of [`TraceConfig`] of a row: by `ours` those of `SYSTEMS`; by `paper` the paper's recipe under those of its
    own systems. The one-pass system is not the paper's, and keeps its own.
    """
    if system in experiment.ablations:
        ablation = experiment.ablations[system]
        own = {name: value for name, value in ablation.items() if name != "of"}
        return {**model_settings(ablation["of"], experiment, recipe), **own}
    settings = dict(SYSTEMS[system].model)
    if recipe == "paper" and settings.get("latent_layer", "middle") is None:
        settings = {**RECIPES["paper"].model, **settings}
    settings.pop("segment_length", None)  # the plan says
    return settings


def has_segments(model: Mapping[str, Any]) -> bool:
    """Whether a system cuts texts at all."""
    return model.get("latent_dynamics", "recurrent") not in ("none", "single")


# ---- The plan ----


def make_plan(experiment: Experiment, scale: Scale, scale_name: str, recipe: str, texts: Mapping[str, Any]) -> Plan:
    """
    Every cell of an experiment.

    Args:
        experiment, scale: from [`load`].
        scale_name, recipe (`str`): "ours" or "paper".
        texts (`Mapping[str, Texts]`): by data set; `train_hash` and `test_hash` are used.
    """
    check_name("recipe", recipe, ("ours", *RECIPES))
    cells = []
    if experiment.kind == "step_time":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        for length in experiment.segment_lengths:
            settings = {"systems": experiment.systems, "device": device, **scale.step_time}
            cells.append(Cell({"segment_length": length}, settings))
    elif experiment.kind == "models":
        for name in experiment.datasets:
            for seed in scale.seeds:
                cells += _cells_of(name, seed, experiment, scale, recipe, texts[name])
    return Plan(experiment, scale, scale_name, recipe, cells)


def _cells_of(dataset: str, seed: int, experiment: Experiment, scale: Scale, recipe: str, texts) -> list[Cell]:
    training = {"learning_rate": scale.learning_rate, "batch_size": scale.batch_size, "kl_schedule": "linear"}
    if recipe != "ours":
        preset = RECIPES[recipe]
        training["learning_rate"] = preset.training["learning_rate"]
        training["batch_size"] = preset.training["per_device_train_batch_size"]
        training["kl_schedule"] = preset.kl_schedule
    shared = {
        **{"texts": texts.train_hash, "conditional": experiment.conditional, "seed": seed},
        **{"backbone": scale.backbone, "vocab_size": scale.vocab_size, "save_steps": scale.save_steps},
        "warmup_steps": scale.warmup_steps,
    }
    plain = dict(SYSTEMS["gpt2"].model)
    base = None
    if scale.base_steps:  # of the scale's own settings by any recipe: it stands for a pretrained model
        sizes = {"learning_rate": scale.learning_rate, "batch_size": scale.batch_size, "kl_schedule": "linear"}
        base = Training(model=plain, segments=None, steps=scale.base_steps, **sizes, **shared)
    measured = {
        **{"texts": texts.test_hash, "decodings": experiment.decodings, "text_tokens": scale.text_tokens},
        **{"num_generated_texts": scale.num_generated_texts, "num_samples": scale.num_samples},
        **{"judge": scale.judge if experiment.judged else None, "extra_metrics": scale.extra_metrics},
        "curve_temperatures": experiment.curve_temperatures,
        "curve_latent_temperatures": experiment.curve_latent_temperatures,
        "num_curve_texts": experiment.num_curve_texts,
    }
    cells = []
    for share in experiment.step_shares:
        for system in [*experiment.systems, *experiment.ablations]:
            model = model_settings(system, experiment, recipe)
            lengths = experiment.segment_lengths if has_segments(model) else [None]
            for length in lengths:
                steps = max(1, round(share * scale.steps))
                labels = {"dataset": dataset, "system": system, "seed": seed, "segment_length": length, "steps": steps}
                own = Training(model=model, segments=length, steps=steps, base=base, **training, **shared)
                cells.append(Cell(labels, measured, own))
    return cells


__all__ = ["Cell", "Plan", "Training", "has_segments", "key_of", "make_plan", "model_settings"]
