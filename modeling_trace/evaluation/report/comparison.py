"""Systems side by side: saved models or models in memory are measured on the same texts, and a report is made."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from transformers.utils import logging

from ...data.sources import check_dataset_name
from ...loading import find_device
from ..ngrams import require
from .cache import EvaluationCache
from .contamination import find_training_texts
from .measurement import measure_system
from .real_texts import EvaluationData, load_real_texts
from .report_data import make_report
from .results import compute_metrics
from .settings import EvaluationSettings
from .systems import EvaluatedSystem, check_systems, describe_system, make_plan, readable_texts
from .writing import CACHE, check_output, write_report

if TYPE_CHECKING:
    import datasets

    from ...data import TraceProcessor
    from ...models.modeling_trace import TraceForConditionalGeneration

logger = logging.get_logger(__name__)

# A folder or Hub id, or a model in memory with its processor
Model: TypeAlias = "str | os.PathLike | tuple[TraceForConditionalGeneration, TraceProcessor]"


def compare(
    models: Sequence[Model],
    dataset: "str | os.PathLike | datasets.Dataset | EvaluationData",
    output: str | os.PathLike | None = None,
    *,
    names: Sequence[str] | None = None,
    settings: EvaluationSettings | None = None,
    cache: str | os.PathLike | None = None,
    **texts,
) -> dict[str, Any]:
    """
    Measure trained models on the same real texts, one after the other, and compare them: likelihood, representation,
    quality and diversity with intervals and tests, by decoding strategy; and what may not be concluded.

    Args:
        models (`Sequence`): for each system the folder or Hub id of a saved model or adapter, or a pair of a model and
            its processor, which stay on their device. Differences are also given to the first.
        dataset: real texts, as for [`load_real_texts`], or [`EvaluationData`].
        output (`str` or `os.PathLike`, *optional*): folder for the report, see [`write_report`]. A later call with the
            same folder computes only what it does not hold yet; results are found by the content of weights,
            configuration, processor, settings and texts, so that changed weights never meet old results. By default
            nothing is written.
        names (`Sequence[str]`, *optional*): of the systems; by default the names of their folders.
        settings ([`EvaluationSettings`], *optional*): what to measure.
        cache (`str` or `os.PathLike`, *optional*): folder where results are found and kept; by default in `output`.
        **texts: arguments of [`load_real_texts`], such as `num_texts`, `max_words` and `validation_split`.

    Returns:
        `dict`, JSON but for `texts` and `num_reused`: `systems`, `data`, `settings`, `tables`, `tests`, `positions`,
        `scatter`, `curves` (of each system, the points over both temperatures), `envelopes` (of each, its corners in
        the judge's perplexity and Self-BLEU, and its `settings` at the levels of equal quality), `real_on_curve`,
        `seeds`, `samples`, `findings`, `metrics` (of each system its `likelihood` and its `texts` by decoding, of the
        real texts `texts` alone: all metrics by name, each with `value`, `low` and `high`), `texts` (all rows by
        decoding and system), and `num_reused`, how many results of earlier calls were used.

    Raises:
        ImportError: without the `eval` extra.
        ValueError: for models, texts and settings that cannot be, before anything is computed.

    Example:

    ```python
    settings = EvaluationSettings(num_samples=20, judge="smollm2-135m")
    report = compare(["runs/gpt2", "runs/trace"], "texts.jsonl", "comparison/", settings=settings, num_texts=200)
    print("\\n".join(report["findings"]))
    ```
    """
    settings = EvaluationSettings() if settings is None else settings
    settings = replace(settings, device=str(find_device(settings.device)))
    if output is not None:
        check_output(output)
    if not isinstance(dataset, EvaluationData):
        check_dataset_name(dataset)  # the models may need the network
    systems = _load_systems(models, names, settings.device)
    check_systems(systems)
    if isinstance(dataset, EvaluationData):
        if texts:
            raise ValueError(f"`{next(iter(texts))}` is for a `dataset` to load, got it with EvaluationData.")
        data = dataset
    else:
        given = {"conditional": systems[0].config.conditional, "word_tokenizer": settings.word_tokenizer}
        data = load_real_texts(dataset, **given, **texts)
    if output is None and cache is None:
        with tempfile.TemporaryDirectory() as folder:
            return compare_systems(systems, data, settings, EvaluationCache(folder))
    report = compare_systems(systems, data, settings, EvaluationCache(cache or Path(output) / CACHE))
    if output is not None:
        write_report(report, output)
    return report


def evaluate(
    model: Model,
    dataset: "str | os.PathLike | datasets.Dataset | EvaluationData",
    output: str | os.PathLike | None = None,
    *,
    name: str | None = None,
    settings: EvaluationSettings | None = None,
    cache: str | os.PathLike | None = None,
    **texts,
) -> dict[str, Any]:
    """
    Measure one trained model on real texts: [`compare`] for one.

    Args:
        model: as one of the models of [`compare`].
        dataset, output, settings, cache, **texts: as for [`compare`].
        name (`str`, *optional*): of the system; by default that of its folder.

    Returns:
        `dict`: as from [`compare`].
    """
    names = None if name is None else [name]
    return compare([model], dataset, output, names=names, settings=settings, cache=cache, **texts)


def _load_systems(models: Sequence[Model], names: Sequence[str] | None, device: str) -> list[EvaluatedSystem]:
    if isinstance(models, (str, os.PathLike)) or not len(models):
        raise ValueError(f"`models` must be a list of one or more, got {models!r}. Use evaluate(...) for one.")
    if names is not None and len(names) != len(models):
        raise ValueError(f"`names` must be one for each model, got {len(names)} for {len(models)}.")
    if names is None:
        full_names = [str(m) if isinstance(m, (str, os.PathLike)) else m[0].name_or_path for m in models]
        names = [os.path.basename(os.path.abspath(name)) if name else "model" for name in full_names]
        names = names if len(set(names)) == len(names) else full_names
    systems = []
    for model, name in zip(models, names, strict=True):
        if isinstance(model, (str, os.PathLike)):
            systems.append(EvaluatedSystem.from_path(model, name, device))
        else:
            systems.append(EvaluatedSystem.from_model(*model, name=name))
    return systems


def compare_systems(
    systems: Sequence[EvaluatedSystem], data: EvaluationData, settings: EvaluationSettings, cache: EvaluationCache
) -> dict[str, Any]:
    """
    What [`compare`] does once systems and texts are loaded; arguments and what it returns are as there.

    Args:
        cache ([`EvaluationCache`]): where results are found and kept.
    """
    check_systems(systems)
    _check_packages(data, settings)
    plans = [make_plan(system, data, settings) for system in systems]
    settings, readable = _limit_settings(settings, data, plans)
    notes = [*data.notes, *find_training_texts(systems, data)]
    passed_over = sum(not all(fits) for fits in zip(*(plan.fits for plan in plans), strict=True))
    if passed_over:
        notes.append(
            f"{passed_over} of {len(data.real)} real texts do not fit the context of every system: likelihood and "
            "representation are of texts that do, which are shorter."
        )
    measurements = {}
    for system, plan in zip(systems, plans, strict=True):
        try:
            measurements[system.name] = measure_system(system, data, settings, cache, plan, readable)
        except RuntimeError as error:  # weights that are no numbers, no memory: the others go on
            notes.append(f"{system.name} could not be measured: {' '.join(str(error).split())[:300]}")
            logger.warning(notes[-1])
    if not measurements:
        raise ValueError(f"no system could be measured. {notes[-1]}")
    descriptions = [
        describe_system(system, plan)
        for system, plan in zip(systems, plans, strict=True)
        if system.name in measurements
    ]
    systems = [system for system in systems if system.name in measurements]
    results = compute_metrics(systems, data.first(settings.num_generated_texts), settings, cache, measurements)
    report = make_report(results, descriptions, notes)
    return {**report, "num_reused": cache.num_reused}


def _limit_settings(settings: EvaluationSettings, data: EvaluationData, plans):
    """Settings with the numbers of texts that there are, and the places of the real texts for the likelihood."""
    count = len(data.real)
    generated = settings.num_generated_texts or count
    for name, most in (
        ("num_likelihood_texts", ("num_texts", count)),
        ("num_generated_texts", ("num_texts", count)),
        ("num_judge_texts", ("num_generated_texts" if generated < count else "num_texts", generated)),
    ):
        value = getattr(settings, name)
        if value is not None and value > most[1]:
            raise ValueError(f"`{name}` must be at most `{most[0]}`, got {value} and {most[1]}. Lower it.")
    readable = readable_texts(plans, data, settings.num_likelihood_texts or count)
    limited = replace(
        settings,
        num_likelihood_texts=len(readable),
        num_generated_texts=generated,
        num_judge_texts=settings.num_judge_texts or generated,
        num_curve_texts=min(settings.num_curve_texts, generated),
    )
    return limited, readable


def _check_packages(data: EvaluationData, settings: EvaluationSettings) -> None:
    """Whatever is missing is missed before the long work."""
    require("scipy.special", "a report")
    if data.prompts is not None:
        for module in ("rouge_score.rouge_scorer", "sacrebleu"):
            require(module, "a report on texts with prompts")
    for name in ("bert_score", "mauve"):
        if name in settings.extra_metrics:
            require(name, name, "eval-all")


__all__ = ["compare", "compare_systems", "evaluate"]
