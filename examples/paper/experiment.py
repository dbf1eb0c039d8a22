"""An experiment and its scale, from their files: all names and values are checked here, before any text is read."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import GPT2Config

from modeling_trace import TraceConfig
from modeling_trace.cli.parser import read_yaml
from modeling_trace.evaluation import DECODING, METRICS
from modeling_trace.evaluation.report.settings import EXTRA_METRICS
from modeling_trace.presets import PRESETS, SYSTEMS
from modeling_trace.utils import nearest

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


# ---- Names ----


def check_name(what: str, name: Any, known: Sequence[str]) -> None:
    """Raise a ValueError for an unknown name, with the nearest one."""
    if name not in known:
        hint = nearest(str(name), known, quote="'") or f" Known: {', '.join(known)}."
        raise ValueError(f"`{what}` '{name}' is not known.{hint}")


def experiment_names() -> list[str]:
    """Of the files beside this one."""
    return sorted(path.stem for path in HERE.glob("*.yaml") if path.stem not in ("scales", "reference"))


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
    scales = read_yaml(str(HERE / "scales.yaml"))
    check_name("scale", scale, list(scales))
    path = Path(experiment)
    if path.suffix not in (".yaml", ".yml"):
        check_name("experiment", experiment, experiment_names())
        path = HERE / f"{experiment}.yaml"
    elif not path.is_file():
        known = ", ".join(experiment_names())
        raise ValueError(
            f"there is no experiment '{path}'. Name one of {known}, or the path of a YAML file like theirs."
        )
    content = read_yaml(str(path))
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
    for kind, given in ((Experiment, own), (Scale, sized)):
        no_default = (dataclasses.MISSING, dataclasses.MISSING)
        needed = [one.name for one in dataclasses.fields(kind) if (one.default, one.default_factory) == no_default]
        if missing := [f"`{name}`" for name in needed if name not in given]:
            raise ValueError(f"'{path}' must have {', '.join(missing)}, which it lacks.")
    found, size = Experiment(**own), Scale(**sized)
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
    _check_types(experiment)
    _check_types(scale)
    check_name("kind", experiment.kind, KINDS)
    for name in experiment.systems:
        check_name("systems", name, [*SYSTEMS, *experiment.ablations])
    for name, ablation in experiment.ablations.items():
        if not isinstance(ablation, dict) or "of" not in ablation or len(ablation) != 2:
            raise ValueError(f"`ablations` '{name}' must have `of` and the one field that differs, got {ablation}.")
        check_name("of", ablation["of"], [*SYSTEMS, *experiment.ablations])
        check_name(f"ablations {name}", *(set(ablation) - {"of"}), list(TraceConfig.__dataclass_fields__))
    for name in experiment.decodings:
        check_name("decodings", name, list(DECODING))
    for name in experiment.metrics:
        check_name("metrics", name, [*METRICS, *OWN_METRICS, *RATINGS])
    for length in experiment.segment_lengths:
        by_steps = experiment.kind == "step_time"  # whose made-up texts have no sentences
        if (length != SENTENCES or by_steps) and not _is(int, length, 1):
            others = "" if by_steps else f" or '{SENTENCES}'"
            raise ValueError(f"`segment_lengths` must be numbers of tokens >= 1{others}, got '{length}'.")
    if not scale.seeds or not all(_is(int, seed, 0) and seed < 2**32 for seed in scale.seeds):
        raise ValueError(f"`seeds` must be integers from 0 to 2**32 - 1, at least one, got {scale.seeds}. Use 0 1 2.")
    if not experiment.step_shares or not all(_is(float, one, 0) and 0 < one <= 1 for one in experiment.step_shares):
        raise ValueError(f"`step_shares` must be above 0 and at most 1, got {experiment.step_shares}. Use [0.5, 1.0].")
    for name in ("curve_temperatures", "curve_latent_temperatures"):
        if not all(_is(float, one, 0) for one in getattr(experiment, name)):
            raise ValueError(f"`{name}` must be numbers >= 0, got {getattr(experiment, name)}.")
    for name in scale.extra_metrics:
        check_name("extra_metrics", name, EXTRA_METRICS)
    _check_backbone(scale)
    if experiment.kind == "step_time":
        _check_step_time(experiment, scale)
    if experiment.kind == "ratings":
        wanted = ("num_prompts", "num_annotators", "annotators_per_text")
        if set(experiment.ratings) != set(wanted) or not all(_is(int, one, 1) for one in experiment.ratings.values()):
            raise ValueError(f"`ratings` must have integers >= 1 for {', '.join(wanted)}, got {experiment.ratings}.")
        if experiment.texts_of is None:
            raise ValueError("`texts_of` must name the experiment whose texts are rated, got None. Use table3.")
    _check_context(experiment, scale)
    if experiment.texts_of is not None:
        check_name("texts_of", experiment.texts_of, experiment_names())
    if experiment.kind == "models" and not (experiment.systems and experiment.decodings and experiment.datasets):
        raise ValueError(f"'{experiment.name}' must name at least one of `datasets`, `systems` and `decodings`.")


# The least that a number may be; None may stand for those that have a default of None
LEAST = {
    **dict.fromkeys(("text_tokens", "prompt_tokens", "num_samples", "steps", "batch_size", "save_steps"), 1),
    **{"vocab_size": 2, "train_texts": 1, "test_texts": 3, "num_generated_texts": 3, "num_curve_texts": 3},
    **{"base_steps": 0, "warmup_steps": 0, "learning_rate": 0},
}


def _check_types(part: Experiment | Scale) -> None:
    """YAML and `--set` give any type to any field."""
    for one in dataclasses.fields(part):
        value, annotation = getattr(part, one.name), str(one.type)
        if "None" in annotation and value is None:
            continue
        if annotation.startswith("list") and not isinstance(value, list):
            raise ValueError(f"`{one.name}` must be a list, got {value!r}. Use [{value}].")
        if annotation.startswith("list") and len({json.dumps(member, default=str) for member in value}) < len(value):
            raise ValueError(f"`{one.name}` must be different ones, got {value}. Leave out what is there twice.")
        if one.type is bool and not isinstance(value, bool):
            raise ValueError(f"`{one.name}` must be true or false, got {value!r}.")
        if (one.type is str or annotation == "str | None") and not isinstance(value, str):
            raise ValueError(f"`{one.name}` must be a text, got {value!r}.")
        if annotation.startswith("dict") and not isinstance(value, dict):
            raise ValueError(f"`{one.name}` must be names and values, got {value!r}.")
        if one.name in LEAST:
            what, kinds = ("a number", (int, float)) if "float" in annotation else ("an integer", (int,))
            if isinstance(value, bool) or not isinstance(value, kinds) or not LEAST[one.name] <= value < math.inf:
                raise ValueError(f"`{one.name}` must be {what} >= {LEAST[one.name]}, got {value!r}.")


def _check_step_time(experiment: Experiment, scale: Scale) -> None:
    import cells  # noqa: F401, which says where the benchmarks are
    from common import SIZES
    from training import SYSTEMS as TIMED

    for name in experiment.systems:
        check_name("systems", name, ["gpt2", *TIMED[1:]])
    for name, value in scale.step_time.items():
        check_name("step_time", name, ["size", *SIZES["tiny"]])
        if name == "size":
            check_name("step_time size", value, list(SIZES))
        elif not _is(int, value, 1):
            raise ValueError(f"`step_time` {name} must be an integer >= 1, got {value!r}.")


def _is(kind: type, value: Any, least: float) -> bool:
    """Whether it is a finite number, of integers or of any, and at least `least`."""
    kinds = (int,) if kind is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and least <= value < math.inf


def _check_backbone(scale: Scale) -> None:
    """The name of a language model, or fields of a GPT-2."""
    if isinstance(scale.backbone, str):
        return
    if not isinstance(scale.backbone, dict):
        raise ValueError(f"`backbone` must be a name or fields of a GPT-2's configuration, got {scale.backbone!r}.")
    known = GPT2Config().to_dict()
    for name, value in scale.backbone.items():
        if name not in known:
            raise ValueError(
                f"`backbone` '{name}' is no field of a GPT-2's configuration.{nearest(name, list(known))}"
            )
        if name.startswith("n_") and not _is(int, value, 1):
            raise ValueError(f"`backbone` {name} must be an integer >= 1, got {value!r}.")


def _check_context(experiment: Experiment, scale: Scale) -> None:
    """Whether the longest row has room in a new backbone: BOS, prompt, text, [SEP] after each segment, EOS."""
    context = scale.backbone.get("n_positions") if isinstance(scale.backbone, dict) else None
    if experiment.kind != "models" or context is None:
        return
    shortest = min([length for length in experiment.segment_lengths if length != SENTENCES], default=10)
    longest = 2 + scale.text_tokens + scale.text_tokens // shortest
    longest += 1 + scale.prompt_tokens if experiment.conditional else 0
    if longest > context:
        raise ValueError(
            f"`text_tokens` must fit the backbone's context of {context} tokens, got {scale.text_tokens}, which are "
            f"up to {longest} with all else. Lower it."
        )


__all__ = ["RATINGS", "SENTENCES", "Experiment", "Scale", "check_name", "experiment_names", "load"]
