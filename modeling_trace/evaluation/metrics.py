"""The text metrics as metrics of the library evaluate: `evaluate.combine([load_metric("self_bleu")])`, offline."""

from collections.abc import Callable, Sequence

import evaluate
from datasets import Features, Value
from datasets import Sequence as SequenceFeature

from . import diversity, quality
from .ngrams import check_paired, validate_texts

# Name: (function, what its references are: None, "set" for all texts, or "paired" with the texts)
METRICS: dict[str, tuple[Callable, str | None]] = {
    "bert_score": (quality.bert_score, "paired"),
    "bleu": (diversity.bleu, "set"),
    "cnd": (quality.cnd, "set"),
    "compression_ratio": (diversity.compression_ratio, None),
    "distinct_n": (diversity.distinct_n, None),
    "expectation_adjusted_distinct": (diversity.expectation_adjusted_distinct, None),
    "jaccard_similarity": (diversity.jaccard_similarity, None),
    "judge_perplexity": (quality.judge_perplexity, None),
    "mauve": (quality.mauve, "set"),
    "rep_n": (diversity.rep_n, None),
    "rouge": (quality.rouge, "paired"),
    "sacrebleu": (quality.sacrebleu, "paired"),
    "self_bleu": (diversity.self_bleu, None),
    "vendi_score": (diversity.vendi_score, None),
}


class TextMetric(evaluate.Metric):
    """
    One of the text metrics as an [`evaluate.Metric`]; made by [`load_metric`].

    Args:
        name (`str`): a key of `METRICS`.
        references (`Sequence`, *optional*): kept, so that `compute` takes predictions alone.
        settings (`dict`, *optional*): arguments of the function.
    """

    def __init__(self, name: str, references: Sequence | None = None, settings: dict | None = None):
        self.function, self.kind = METRICS[name]
        self.kept_references, self.settings = references, settings or {}
        if self.settings.get("paired"):
            self.kind = "paired"
        # In memory: no cache files, no locks
        super().__init__(config_name=name, keep_in_memory=True)
        self.info.module_name = name

    def _info(self) -> evaluate.MetricInfo:
        columns = {"predictions": Value("string")}
        features = [Features(columns)]
        if self.kind is not None and self.kept_references is None:
            features = [Features({**columns, "references": Value("string")})]
            if self.kind == "paired":
                features.append(Features({**columns, "references": SequenceFeature(Value("string"))}))
        return evaluate.MetricInfo(
            description=self.function.__doc__,
            citation="",
            inputs_description="\npredictions: generated texts; references: real texts, if the metric needs them.\n",
            features=features,
        )

    def add_batch(
        self, *, predictions: Sequence[str] | None = None, references: Sequence | None = None, **kwargs
    ) -> None:
        """Add texts, as `evaluate.Metric.add_batch`, but with the errors of this package."""
        predictions = validate_texts(predictions, "predictions")
        batch = {"predictions": list(predictions)}
        if "references" in self._feature_names():
            if self.kind == "paired":
                groups = check_paired(references, len(predictions))
                single = all(len(group) == 1 for group in groups)
                batch["references"] = [group[0] for group in groups] if single else groups
            else:
                batch["references"] = list(validate_texts(references, "references"))
                if len(batch["references"]) != len(predictions):
                    raise ValueError(
                        f"`references` must be as many as the predictions, got {len(batch['references'])} for "
                        f"{len(predictions)}. For another number use load_metric('{self.name}', references=...)."
                    )
        super().add_batch(**batch, **kwargs)

    def _compute(self, predictions, references=None, **kwargs) -> dict:
        references = self.kept_references if references is None else references
        given = [] if self.kind is None else [references]
        return self._flat(self.function(predictions, *given, **{**self.settings, **kwargs}))

    def _flat(self, result) -> dict:
        """A dict whose keys name the metric, as evaluate.combine needs it."""
        if isinstance(result, quality.Cnd):
            parts = ("cr", "rr", "pp")
            return {"cnd": result.cnd} | {
                f"cnd_{part}_{n}": value for part in parts for n, value in getattr(result, part).items()
            }
        if isinstance(result, quality.JudgePerplexity):
            keys = ("nats_per_word", "nats_per_token", "perplexity_per_word", "perplexity_per_token")
            return {f"judge_{key}": getattr(result, key) for key in keys}
        if isinstance(result, dict):
            return {key if key.startswith(self.name) else f"{self.name}_{key}": part for key, part in result.items()}
        return {self.name: float(result)}


def load_metric(name: str, references: Sequence | None = None, **settings) -> TextMetric:
    """
    A text metric as an [`evaluate.Metric`], without the network.

    Args:
        name (`str`): `self_bleu`, `distinct_n`, `jaccard_similarity`, `expectation_adjusted_distinct`, `rep_n`,
            `compression_ratio`, `vendi_score`, `bleu`, `cnd`, `rouge`, `sacrebleu`, `bert_score`, `mauve` or
            `judge_perplexity`.
        references (`Sequence`, *optional*): of all calls; their number may differ from that of the texts.
            Without, `compute` takes as many references as predictions.
        settings: arguments of the function of this name, such as `n=3`.

    Returns:
        [`TextMetric`]: `compute(predictions=texts)` returns a dict, with the same values as the function.

    Raises:
        ValueError: for a name that there is not.

    Example:

    ```python
    >>> import evaluate
    >>> from modeling_trace.evaluation import load_metric

    >>> metrics = evaluate.combine([load_metric("distinct_n", n=2), load_metric("rep_n", n=1)])
    >>> metrics.compute(predictions=["so it goes", "so it was"])
    {'distinct_n': 75.0, 'rep_n': 0.0}

    ```
    """
    if name not in METRICS:
        raise ValueError(f"`name` must be one of {sorted(METRICS)}, got {name!r}. Check the spelling.")
    return TextMetric(name, references, settings)


__all__ = ["TextMetric", "load_metric"]
