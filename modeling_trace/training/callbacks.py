"""Callbacks for any `Trainer`: the KL weight (Fu et al., 2019) and a warning when the latents collapse."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

from .schedules import get_schedule

logger = logging.get_logger(__name__)


def get_kl_weight(model: nn.Module) -> torch.Tensor | None:
    """The model's 0-dim `kl_weight` buffer, also behind DDP, `torch.compile` or PEFT; None if it has none."""
    weight = getattr(extract_model_from_parallel(model, keep_torch_compile=False), "kl_weight", None)
    return weight if isinstance(weight, torch.Tensor) else None


class KLWeightCallback(TrainerCallback):
    """
    Sets the weight of the KL term before each optimizer step: `schedule(global_step / max_steps)`.

    The weight depends on the Trainer's state alone, so a resumed run continues exactly where it stopped. After
    training it is 1, as it is in every loaded model (the buffer is not saved), so that the loss is the negative ELBO.

    [`TraceTrainer`] installs this callback by itself. With a plain `Trainer`, pass it in `callbacks`.

    Note: A plain `Trainer` gives callbacks no hook before an evaluation, so its `eval_loss` *during* training has the
    weight of the moment and must not be used to choose the best checkpoint. `TraceTrainer` evaluates with weight 1.

    Args:
        schedule (`Callable[[float], float]` or `str`, *optional*, defaults to "linear"):
            Maps progress in [0, 1] to the KL weight, or the name of a schedule with its default settings.

    Raises:
        ValueError: If the schedule is unknown or not callable; when training starts, if the model has no `kl_weight`
            or the schedule returns a weight that is negative or not finite.

    Example:

    ```python
    >>> from modeling_trace.training import KLWeightCallback, cyclical_schedule

    >>> callback = KLWeightCallback(cyclical_schedule(num_cycles=2, zero_fraction=0.4, ramp_fraction=0.3))
    >>> callback.schedule
    CyclicalSchedule(num_cycles=2, zero_fraction=0.4, ramp_fraction=0.3, max_weight=1.0)
    ```
    """

    def __init__(self, schedule: Callable[[float], float] | str = "linear"):
        if isinstance(schedule, str):
            schedule = get_schedule(schedule)
        if not callable(schedule):
            raise ValueError(
                f"`schedule` must map progress in [0, 1] to a weight, got {schedule!r}. Use linear_schedule()."
            )
        self.schedule = schedule

    def _set(self, model: nn.Module, value: float) -> None:
        weight = get_kl_weight(model)
        if weight is None:
            raise ValueError(
                f"{type(model).__name__} has no `kl_weight`. KLWeightCallback is for TraceForConditionalGeneration."
            )
        weight.fill_(value)  # in place: DDP and compiled graphs keep their reference

    def _update(self, state, model: nn.Module) -> None:
        # A run resumed with fewer steps than it has already done starts past its end.
        progress = min(state.global_step / max(state.max_steps, 1), 1.0)
        value = self.schedule(progress)
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"The KL weight must be a finite number >= 0, got {value} from {self.schedule!r}.")
        self._set(model, value)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._update(state, model)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self._update(state, model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self._set(model, 1.0)


class CollapseWarningCallback(TrainerCallback):
    """
    Warns once per run when the latents collapse: KL near zero although its weight is 1.

    It reads what [`TraceTrainer`] logs, averages over a logging window. Only windows with full weight throughout are
    judged: while the weight rises, a low KL may be a passing state.

    Note: Silence proves nothing. With `residual_scale="prior"` the KL cannot fall below its floor
    `latent_size * posterior_norm_gamma**2 / 2` nats per segment, whether the decoder uses the latents or not. Evidence
    of use is a reconstruction below the plain language model's, or mutual information.

    Args:
        threshold (`float`, *optional*, defaults to 0.1): KL below which latents count as collapsed, nats per segment.
    """

    def __init__(self, threshold: float = 0.1):
        self.threshold = threshold
        self._warned = False

    def on_train_begin(self, args, state, control, **kwargs):
        self._warned = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        kl, weight = (logs or {}).get("kl_per_segment"), (logs or {}).get("kl_weight")
        if self._warned or kl is None or weight is None or weight < 0.99 or kl >= self.threshold:
            return
        self._warned = True
        if state.is_world_process_zero:
            logger.warning(
                f"The latents have collapsed: KL is {kl:.2g} nats per segment at step {state.global_step} with "
                f"`kl_weight` {weight:.3g}, so the decoder ignores them. Start from a trained language model, keep "
                "`residual_scale='prior'` (its gamma sets the least KL, see `gamma_for_rate`), or let the weight rise "
                "later: linear_schedule(delay=0.3, ramp=0.5)."
            )


__all__ = ["CollapseWarningCallback", "KLWeightCallback"]
