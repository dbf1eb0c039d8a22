"""Callbacks for any `Trainer`: the KL weight (Fu et al., 2019), a warning when the latents collapse, Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
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

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module = None, **kwargs
    ) -> None:
        self._update(state, model)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module = None, **kwargs
    ) -> None:
        self._update(state, model)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module = None, **kwargs
    ) -> None:
        self._set(model, 1.0)


class CollapseWarningCallback(TrainerCallback):
    """
    Warns once per run when the latents carry nothing although the weight of their KL is 1: while it rises, they may
    not have come to anything yet.

    It reads what [`TraceTrainer`] logs. Evaluations of 30 texts or more say it outright: they score each text under
    its own latents and under another text's. The latents are idle where that makes next to no difference for the KL
    that they cost. Without evaluation there is only the KL of the training log: latents cannot say more than their KL,
    so that one near 0 proves that they say nothing.

    Note: A high KL is no evidence of use. A floor (`residual_scale="prior"` with a gamma) and free bits keep it up
    whether the decoder reads the latents or not; so in a run that evaluates nothing silence proves nothing.

    Args:
        threshold (`float`, *optional*, defaults to 0.1): KL below which latents count as collapsed, nats per segment.
        min_gain_per_nat (`float`, *optional*, defaults to 0.05): nats of text gained over another text's latents, for
            each nat of KL, below which latents count as idle.
    """

    MIN_TEXTS = 30  # of an evaluation: the gain of a few texts is noise

    def __init__(self, threshold: float = 0.1, min_gain_per_nat: float = 0.05):
        self.threshold, self.min_gain_per_nat = threshold, min_gain_per_nat
        self._warned = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._warned = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        model: nn.Module | None = None,
        **kwargs,
    ) -> None:
        logs = logs or {}
        gains = [name for name in logs if name.endswith("_latent_gain")]  # by the prefix of the data set
        if self._warned:
            return
        if gains:
            finding = self._judge_evaluation(logs, gains[0].removesuffix("latent_gain"), state, model)
        else:
            finding = self._judge_training(logs)
        if finding is None:
            return
        self._warned = True
        if state.is_world_process_zero:
            what, remedy = finding
            logger.warning(
                f"{what} at step {state.global_step} with `kl_weight` 1, so the decoder ignores them. Start from "
                f"a trained language model, {remedy}, or let the weight rise later: "
                "linear_schedule(delay=0.3, ramp=0.5)."
            )

    def _judge_training(self, logs) -> tuple[str, str] | None:
        if logs.get("kl_weight", 0.0) >= 0.99 and logs.get("kl_per_segment", math.inf) < self.threshold:
            what = f"The latents have collapsed: KL is {logs['kl_per_segment']:.2g} nats per segment"
            return what, "set `free_nats` above 0, or keep a floor under the KL (see `gamma_for_rate`)"
        return None

    def _judge_evaluation(self, logs, prefix: str, state, model) -> tuple[str, str] | None:
        # The weight of the moment: evaluation itself has weight 1. Before the first step nothing is learned.
        if state.global_step == 0 or logs[f"{prefix}texts"] < self.MIN_TEXTS or get_kl_weight(model) < 0.99:
            return None
        names = ("kl", "latent_gain", "gain_per_nat")
        kl, gain, per_nat = (logs.get(prefix + name, 0.0) for name in names)
        if not per_nat < self.min_gain_per_nat:  # also where it is NaN
            return None
        what = (
            f"The latents are idle: a text costs {gain:.2g} nats more under another text's latents than under its "
            f"own, {per_nat:.2g} for each of the {kl:.3g} nats of KL,"
        )
        return what, "train longer"


class GracefulStopCallback(TrainerCallback):
    """
    Ctrl-C finishes the step, saves a checkpoint and stops; a second one stops at once and saves nothing.

    [`TraceTrainer`] installs this callback by itself, and then raises `KeyboardInterrupt` with the way to continue. It
    listens for the signal only inside `catching`.

    Attributes:
        stopped (`bool`): whether Ctrl-C was pressed.
    """

    def __init__(self):
        self.stopped = False

    @contextlib.contextmanager
    def catching(self, args: TrainingArguments) -> Iterator[None]:
        """
        Catch Ctrl-C inside. Not where it cannot be caught (outside of the main thread), where several processes would
        stop at different steps and then wait for each other, and where no checkpoint is wanted.

        Args:
            args (`TrainingArguments`): for `world_size` and `save_strategy`.
        """
        self.stopped = False
        in_main_thread = threading.current_thread() is threading.main_thread()
        if args.world_size > 1 or args.save_strategy == "no" or not in_main_thread:
            yield
            return
        before = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _on_signal(self, *_):
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        logger.warning("Stopping after this step, with a checkpoint. Ctrl-C again stops at once.")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.stopped:
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.stopped:
            control.should_save = control.should_evaluate = False


__all__ = ["CollapseWarningCallback", "GracefulStopCallback", "KLWeightCallback"]
