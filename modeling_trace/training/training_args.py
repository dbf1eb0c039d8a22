"""`TraceTrainingArguments`: what `TraceTrainer` can be told beside the settings of every `Trainer`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from transformers.utils import logging

from .metrics import EITHER_WAY, LARGER_IS_BETTER, trace_metric
from .schedules import get_schedule

logger = logging.get_logger(__name__)

# Which schedule takes which setting, and as what.
SCHEDULE_ARGUMENTS = {
    "linear": {"kl_delay": "delay", "kl_ramp": "ramp", "kl_max_weight": "max_weight"},
    "cyclical": {
        "kl_cycles": "num_cycles",
        "kl_zero_fraction": "zero_fraction",
        "kl_ramp": "ramp_fraction",
        "kl_max_weight": "max_weight",
    },
    "constant": {"kl_max_weight": "weight"},
}
SCHEDULE_SETTINGS = ("kl_delay", "kl_ramp", "kl_cycles", "kl_zero_fraction", "kl_max_weight")


def make_kl_schedule(settings: Any) -> Callable[[float], float] | None:
    """
    The KL schedule that settings describe.

    Args:
        settings ([`TraceTrainingArguments`]): or anything with its `kl_*` attributes.

    Returns:
        As [`get_schedule`]; None where `kl_schedule` is None.

    Raises:
        ValueError: for an unknown schedule, a setting of another schedule, or a value out of range.
    """
    name = settings.kl_schedule
    given = {setting: getattr(settings, setting) for setting in SCHEDULE_SETTINGS}
    given = {setting: value for setting, value in given.items() if value is not None}
    if name is None:
        for setting in given:
            raise ValueError(f"`{setting}` is for a `kl_schedule`, got it with None. Use kl_schedule='linear'.")
        return None
    takes = SCHEDULE_ARGUMENTS.get(name) if isinstance(name, str) else None
    if takes is None:
        remedy = " Pass a function of your own as callbacks=[KLWeightCallback(function)]." if callable(name) else ""
        raise ValueError(f"`kl_schedule` must be linear, cyclical or constant, got {name!r}.{remedy}")
    for setting in given:
        if setting not in takes:
            others = [other for other, names in SCHEDULE_ARGUMENTS.items() if setting in names]
            raise ValueError(
                f"`{setting}` is for kl_schedule {' or '.join(others)}, got it with '{name}'. Use that one, or leave "
                f"{setting} out."
            )
    try:
        return get_schedule(name, **{takes[setting]: value for setting, value in given.items()})
    except ValueError as error:  # in the names of the settings
        known = {argument: setting for setting, argument in takes.items()}
        raise ValueError(re.sub(r"`(\w+)`", lambda match: f"`{known.get(match[1], match[1])}`", str(error))) from None


def check_best_metric(metric: str | None, greater_is_better: bool | None) -> None:
    """Refuse to choose the worst checkpoint; both arguments are as the user gave them."""
    known = trace_metric(metric)
    if None in (known, greater_is_better) or known in EITHER_WAY or LARGER_IS_BETTER[known] == greater_is_better:
        return
    better = "larger" if LARGER_IS_BETTER[known] else "smaller"
    raise ValueError(
        f"`greater_is_better` must be {LARGER_IS_BETTER[known]} for metric_for_best_model='{metric}', which is better "
        f"when {better}, got {greater_is_better}. Leave it out."
    )


def correct_best_metric(args: TrainingArguments) -> None:
    """
    Set which way `metric_for_best_model` is better in standard arguments: these do not say whether the user chose it
    or they did, by the metric's name.
    """
    known = trace_metric(args.metric_for_best_model)
    if isinstance(args, TraceTrainingArguments) or known is None or args.greater_is_better == LARGER_IS_BETTER[known]:
        return
    logger.warning(
        f"`greater_is_better` is {LARGER_IS_BETTER[known]} for metric_for_best_model='{args.metric_for_best_model}', "
        f"got {args.greater_is_better}. Use TraceTrainingArguments to set it."
    )
    args.greater_is_better = LARGER_IS_BETTER[known]


@dataclass
class TraceTrainingArguments(TrainingArguments):
    """
    `TrainingArguments` and the settings of [`TraceTrainer`], by the same names as on the command line and in a YAML
    file of `modeling-trace train`.

    Free bits (`free_nats`), the size of the latents and all else that the saved model keeps are no settings of
    training but fields of [`TraceConfig`]: `from_backbone("gpt2", processor, free_nats=1.5)`, or
    `model_init_kwargs={"free_nats": 1.5}` where the Trainer loads the model. On the command line and in YAML they
    stand by themselves: `--free_nats 1.5`.

    Args:
        kl_schedule (`str` or `None`, *optional*, defaults to `"linear"`):
            How the weight of the KL term follows training: "linear" ([`linear_schedule`]), "cyclical"
            ([`cyclical_schedule`]) or "constant" ([`constant_schedule`]). None leaves `model.kl_weight` alone. For a
            schedule of your own pass a [`KLWeightCallback`] to the Trainer.
        kl_delay (`float`, *optional*): linear: fraction of training with weight 0.
        kl_ramp (`float`, *optional*):
            linear: fraction of training over which the weight rises; cyclical: fraction of a cycle.
        kl_cycles (`int`, *optional*): cyclical: number of cycles.
        kl_zero_fraction (`float`, *optional*): cyclical: fraction of each cycle with weight 0.
        kl_max_weight (`float`, *optional*): greatest weight; 1 is the ELBO.
        latent_lr_factor (`float`, *optional*):
            The learning rate of what reads and writes latents (dynamics, W_z, state reader), which starts from
            nothing, over the backbone's. Default: 5 with `latent_layer`, 1 for latents at the embeddings, as in the
            paper.
        eval_sample_latents (`bool`, *optional*, defaults to `True`):
            Draw one latent per segment from the posterior when evaluating, an unbiased estimate of the ELBO. False
            uses the posterior mean, which has less reconstruction error and is no bound.
        max_length (`int`, *optional*):
            Tokens of a text, BOS and EOS counted, where the Trainer tokenizes; longer texts lose whole segments.
            Default: the context of the backbone, at most 256.
        num_proc (`int`, *optional*): Processes that tokenize.
        model_init_kwargs (`dict`, *optional*):
            Where `model` is a name: arguments of [`~TraceForConditionalGeneration.from_backbone`], which are fields of
            [`TraceConfig`] and arguments of `from_pretrained`.
        kwargs: All others of `TrainingArguments`. `greater_is_better`, where it is left out, is right for the metrics
            of [`TraceTrainer`].

    Raises:
        ValueError: for a value out of range, a setting of another schedule, `label_smoothing_factor`, and for a
            `greater_is_better` that would choose the worst checkpoint.

    Example:

    ```python
    >>> from modeling_trace import TraceTrainingArguments

    >>> args = TraceTrainingArguments("out", kl_schedule="cyclical", kl_cycles=2, metric_for_best_model="kl")
    >>> args.greater_is_better
    False
    ```
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]

    kl_schedule: str | None = field(
        default="linear", metadata={"help": "KL weight over training: linear, cyclical, constant, or none."}
    )
    kl_delay: float | None = field(
        default=None, metadata={"help": "linear: fraction of training with KL weight 0. Default: 0."}
    )
    kl_ramp: float | None = field(
        default=None,
        metadata={
            "help": "linear: fraction of training over which the weight rises; cyclical: fraction of a cycle. "
            "Default: 0.5."
        },
    )
    kl_cycles: int | None = field(default=None, metadata={"help": "cyclical: number of cycles. Default: 4."})
    kl_zero_fraction: float | None = field(
        default=None, metadata={"help": "cyclical: fraction of each cycle with weight 0. Default: 0."}
    )
    kl_max_weight: float | None = field(
        default=None, metadata={"help": "Greatest KL weight; 1, the default, is the ELBO."}
    )
    latent_lr_factor: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the latent networks over the backbone's. Default: 5 with latent_layer, else 1."
        },
    )
    eval_sample_latents: bool = field(
        default=True,
        metadata={"help": "Evaluate under latents drawn from the posterior, in place of its mean, which is no bound."},
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of a text, all counted; longer ones lose whole segments. Default: the context, at most "
            "256."
        },
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that tokenize."})
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of from_backbone, where `model` is a name."}
    )

    def __post_init__(self):
        if isinstance(self.kl_schedule, str) and self.kl_schedule.lower() in ("none", "null"):
            self.kl_schedule = None
        make_kl_schedule(self)
        factor = self.latent_lr_factor
        if factor is not None and not (0 < factor < math.inf):
            raise ValueError(f"`latent_lr_factor` must be a number > 0, got {factor!r}. Use 5.")
        if self.label_smoothing_factor:
            raise ValueError(
                f"`label_smoothing_factor` must be 0 for the ELBO, got {self.label_smoothing_factor}. Leave it out."
            )
        check_best_metric(self.metric_for_best_model, self.greater_is_better)
        known = trace_metric(self.metric_for_best_model)
        if self.greater_is_better is None and known is not None:
            self.greater_is_better = LARGER_IS_BETTER[known]
        super().__post_init__()


__all__ = [
    "SCHEDULE_ARGUMENTS",
    "SCHEDULE_SETTINGS",
    "TraceTrainingArguments",
    "correct_best_metric",
    "make_kl_schedule",
]
