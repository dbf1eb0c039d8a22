"""
From an experiment's file and a scale to a plan: which models are trained, and what is measured of each. All names are
checked here, before any text is read.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from modeling_trace import TraceConfig, __version__
from modeling_trace.evaluation import DECODING, METRICS
from modeling_trace.presets import PRESETS, RECIPES, SYSTEMS

HERE = Path(__file__).parent
SENTENCES = "sentences"
KINDS = ("models", "step_time", "ratings")
# Computed here beside those of the library: from its metrics, by benchmarks/training.py, by people
OWN_METRICS = ("neg_elbo_mean_kl", "seconds_per_step", "ratio_to_plain", "ratio_to_trace_p")
RATINGS = ("fluency", "coherence", "novelty")
DATASETS = (*PRESETS, "rocstories", "reviews")


@dataclass(frozen=True)
class Scale:
    """
    How large an experiment is; scales.yaml.

    Args:
        data (`dict`): path or Hub id of each data set, by its name in the tables; `--data` takes its place.
        backbone (`str` or `dict`): a pretrained language model, or fields of `GPT2Config` for a new one.
        vocab_size (`int`, *optional*): of a new one's tokenizer.
        text_tokens, prompt_tokens (`int`): where texts and prompts are cut before any system sees them.
        train_texts, test_texts (`int`, *optional*): at most so many; all by default. The likelihood is of all test
            texts.
        num_generated_texts (`int`): by each system for each decoding.
        num_samples (`int`): of the likelihood.
        base_steps (`int`): of the plain model that all systems start from, one for each data set and seed; 0 for the
            backbone itself.
        steps (`int`): of every system after that.
        batch_size (`int`): over all devices.
        learning_rate, warmup_steps: of the training.
        seeds (`list[int]`): of the training.
        save_steps (`int`, *optional*): a training that was stopped goes on from the last multiple.
        needs_gpu (`bool`): refused without one.
        judge (`str`, *optional*), extra_metrics (`list[str]`): as for [`EvaluationSettings`].
        step_time (`dict`): arguments of benchmarks/training.py.
    """

    data: dict[str, str]
    backbone: str | dict[str, Any]
    text_tokens: int
    prompt_tokens: int
    test_texts: int | None
    num_generated_texts: int
    num_samples: int
    base_steps: int
    steps: int
    warmup_steps: int
    batch_size: int
    learning_rate: float
    seeds: list[int]
    step_time: dict[str, Any]
    vocab_size: int | None = None
    train_texts: int | None = None
    save_steps: int | None = None
    needs_gpu: bool = False
    judge: str | None = None
    extra_metrics: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Experiment:
    """
    One of the YAML files beside this one.

    Args:
        name, title (`str`): what it is called; `title` is a reader's.
        kind (`str`): "models" trains and measures; "step_time" times steps; "ratings" makes sheets for people.
        systems (`list[str]`), ablations (`dict`): rows of the table: names of `modeling_trace.presets.SYSTEMS`, and
            further ones: of which system, and the one field that differs.
        metrics (`list[str]`): columns of the table, in their order; all others are kept as well.
        datasets (`list[str]`), conditional (`bool`): texts, with prompts or without.
        decodings (`list[str]`): names of `modeling_trace.evaluation.DECODING`.
        segment_lengths (`list`): tokens, or "sentences".
        step_shares (`list[float]`): trainings of different length, as shares of the scale's steps.
        curve_temperatures, curve_latent_temperatures, num_curve_texts: of the plane, as for [`EvaluationSettings`].
        judged (`bool`): by the scale's judge.
        texts_of (`str`, *optional*), ratings (`dict`): of "ratings": whose texts, and arguments of `make_sheets`.
    """

    name: str
    title: str
    systems: list[str]
    metrics: list[str]
    kind: str = "models"
    ablations: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    conditional: bool = False
    decodings: list[str] = field(default_factory=list)
    segment_lengths: list[int | str] = field(default_factory=lambda: [10])
    step_shares: list[float] = field(default_factory=lambda: [1.0])
    curve_temperatures: list[float] = field(default_factory=list)
    curve_latent_temperatures: list[float] = field(default_factory=lambda: [1.0])
    num_curve_texts: int = 200
    judged: bool = False
    texts_of: str | None = None
    ratings: dict[str, int] = field(default_factory=dict)


def key_of(value: Any) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


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
        return key_of([__version__, {**content, "base": self.base and self.base.key}])


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
        return key_of([__version__, self.labels, self.settings, self.training and self.training.key])


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


# ---- Names ----


def check_name(what: str, name: Any, known: Sequence[str]) -> None:
    """Raise a ValueError for an unknown name, with the nearest one."""
    if name not in known:
        lower = {one.lower(): one for one in known}
        near = difflib.get_close_matches(str(name).lower(), list(lower), n=1, cutoff=0.4)
        hint = f" Did you mean '{lower[near[0]]}'?" if near else f" Known: {', '.join(known)}."
        raise ValueError(f"`{what}` '{name}' is not known.{hint}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"'{path}' is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"'{path}' must hold names and values, got {type(content).__name__}.")
    return dict(content)


def experiment_names() -> list[str]:
    """Of the files beside this one."""
    return sorted(path.stem for path in HERE.glob("*.yaml") if path.stem != "scales")


def load(
    experiment: str,
    scale: str,
    data: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[Experiment, Scale]:
    """
    An experiment and a scale, checked.

    Args:
        experiment (`str`): the name of a file here, or the path of one.
        scale (`str`): a name in scales.yaml.
        data (`Mapping[str, str]`, *optional*): data sets by name, in place of the experiment's and the scale's.
        settings (`Mapping`, *optional*): fields of both, which win.

    Raises:
        ValueError: for a name that is not known, with the nearest one.
    """
    scales = _read_yaml(HERE / "scales.yaml")
    check_name("scale", scale, list(scales))
    path = Path(experiment)
    if path.suffix not in (".yaml", ".yml"):
        check_name("experiment", experiment, experiment_names())
        path = HERE / f"{experiment}.yaml"
    content = _read_yaml(path)
    fields = {kind: [one.name for one in dataclasses.fields(kind)] for kind in (Experiment, Scale)}
    by_scale = content.pop("scales", None) or {}
    for name in by_scale:
        check_name("scales", name, list(scales))
    for name in content:
        check_name(f"{path.name}", name, [one for one in fields[Experiment] if one != "name"])
    changed = {**(by_scale.get(scale) or {}), **(settings or {})}
    for name in changed:
        check_name("set", name, sorted({*fields[Experiment], *fields[Scale]} - {"name", "data"}))
    own = {"name": path.stem, **content}
    sized = dict(scales[scale])
    for name, value in changed.items():
        (sized if name in fields[Scale] else own)[name] = value
    if data:
        sized["data"] = dict(data)
    try:
        found, size = Experiment(**own), Scale(**sized)
    except TypeError as error:  # a field that is missing
        raise ValueError(f"'{path}' is not complete: {' '.join(str(error).split())}") from None
    if found.kind == "models":
        if data or scale == "smoke":
            found = dataclasses.replace(found, datasets=list(size.data))
        size = dataclasses.replace(size, data={name: size.data[name] for name in _datasets_with_path(found, size)})
    else:
        size = dataclasses.replace(size, data={})
    _check(found, size)
    return found, size


def _datasets_with_path(experiment: Experiment, scale: Scale) -> list[str]:
    for name in experiment.datasets:
        if name not in scale.data:
            check_name("datasets", name, DATASETS)
            raise ValueError(f"`--data` must say where the texts of '{name}' are at this scale: --data {name}=PATH")
    return experiment.datasets


def _check(experiment: Experiment, scale: Scale) -> None:
    check_name("kind", experiment.kind, KINDS)
    for name in experiment.systems:
        check_name("systems", name, [*SYSTEMS, *experiment.ablations])
    for name, ablation in experiment.ablations.items():
        if "of" not in ablation or len(ablation) != 2:
            raise ValueError(f"`ablations` '{name}' must have `of` and the one field that differs, got {ablation}.")
        check_name("of", ablation["of"], [*SYSTEMS, *experiment.ablations])
        check_name(f"ablations {name}", *(set(ablation) - {"of"}), list(TraceConfig.__dataclass_fields__))
    for name in experiment.decodings:
        check_name("decodings", name, list(DECODING))
    for name in experiment.metrics:
        check_name("metrics", name, [*METRICS, *OWN_METRICS, *RATINGS])
    for length in experiment.segment_lengths:
        if length != SENTENCES and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
            raise ValueError(f"`segment_lengths` must be numbers of tokens >= 1 or '{SENTENCES}', got '{length}'.")
    for name in ("seeds",):
        values = getattr(scale, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"`{name}` must be different ones, got {values}. Use 0 1 2.")
    if experiment.texts_of is not None:
        check_name("texts_of", experiment.texts_of, experiment_names())
    if experiment.kind == "models" and not (experiment.systems and experiment.decodings and experiment.datasets):
        raise ValueError(f"'{experiment.name}' must name at least one of `datasets`, `systems` and `decodings`.")


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
        for length in experiment.segment_lengths:
            cells.append(Cell({"segment_length": length}, {"systems": experiment.systems, **scale.step_time}))
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


__all__ = [
    "RATINGS",
    "SENTENCES",
    "Cell",
    "Experiment",
    "Plan",
    "Scale",
    "Training",
    "check_name",
    "experiment_names",
    "has_segments",
    "key_of",
    "load",
    "make_plan",
    "model_settings",
]
