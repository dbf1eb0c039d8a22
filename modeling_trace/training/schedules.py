"""
Schedules of the KL weight: pure functions of training progress.

The weight multiplies the KL term of the ELBO. Kept at 0 for a while, it lets the latents become useful to the decoder
before they have to be paid for; without that, the decoder learns to ignore them (posterior collapse).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass


def _check_progress(progress: float) -> None:
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"`progress` must be in [0, 1], got {progress}. Use global_step / max_steps.")


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"`{name}` must be in [0, 1], got {value}. It is a fraction, not a number of steps.")


def _check_weight(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"`{name}` must be a finite number >= 0, got {value}. Use 1.0 for the ELBO.")


def _delayed_ramp(progress: float, delay: float, ramp: float, max_weight: float) -> float:
    """0 before `delay`, linear up to `max_weight` at `delay + ramp`, `max_weight` from there on."""
    if progress < delay:
        return 0.0
    if progress >= delay + ramp:
        return max_weight
    return max_weight * (progress - delay) / ramp


@dataclass(frozen=True)
class ConstantSchedule:
    """See [`constant_schedule`]."""

    weight: float

    def __post_init__(self):
        _check_weight("weight", self.weight)

    def __call__(self, progress: float) -> float:
        _check_progress(progress)
        return self.weight


@dataclass(frozen=True)
class LinearSchedule:
    """See [`linear_schedule`]."""

    delay: float
    ramp: float
    max_weight: float

    def __post_init__(self):
        _check_fraction("delay", self.delay)
        _check_fraction("ramp", self.ramp)
        _check_weight("max_weight", self.max_weight)
        if self.delay + self.ramp > 1.0 + 1e-9:  # 0.7 + 0.3 and the like may exceed 1 by a rounding error
            raise ValueError(
                f"`delay` + `ramp` must be <= 1, got {self.delay} + {self.ramp}. "
                "Shorten one, or the weight never reaches `max_weight`."
            )

    def __call__(self, progress: float) -> float:
        _check_progress(progress)
        return _delayed_ramp(progress, self.delay, self.ramp, self.max_weight)


@dataclass(frozen=True)
class CyclicalSchedule:
    """See [`cyclical_schedule`]."""

    num_cycles: int
    zero_fraction: float
    ramp_fraction: float
    max_weight: float

    def __post_init__(self):
        if isinstance(self.num_cycles, bool) or int(self.num_cycles) != self.num_cycles or self.num_cycles < 1:
            raise ValueError(
                f"`num_cycles` must be a whole number >= 1, got {self.num_cycles}. Use 4 as Fu et al. do."
            )
        _check_fraction("zero_fraction", self.zero_fraction)
        _check_fraction("ramp_fraction", self.ramp_fraction)
        _check_weight("max_weight", self.max_weight)
        if self.zero_fraction + self.ramp_fraction > 1.0 + 1e-9:
            raise ValueError(
                f"`zero_fraction` + `ramp_fraction` must be <= 1, got {self.zero_fraction} + {self.ramp_fraction}. "
                "Shorten one, or the weight never reaches `max_weight`."
            )

    def __call__(self, progress: float) -> float:
        _check_progress(progress)
        position = progress * self.num_cycles
        cycle = min(math.floor(position), self.num_cycles - 1)  # progress 1 is the end of the last cycle
        return _delayed_ramp(position - cycle, self.zero_fraction, self.ramp_fraction, self.max_weight)


def constant_schedule(weight: float = 1.0) -> ConstantSchedule:
    """
    The same KL weight throughout. At 1, the plain ELBO from the first step.

    Args:
        weight (`float`, *optional*, defaults to 1.0): Factor of the KL, >= 0.

    Returns:
        A callable that maps progress in [0, 1] to the weight.

    Raises:
        ValueError: If `weight` is negative or not finite.

    Example:

    ```python
    >>> from modeling_trace.training import constant_schedule

    >>> constant_schedule()(0.3)
    1.0
    ```
    """
    return ConstantSchedule(weight)


def linear_schedule(delay: float = 0.0, ramp: float = 0.5, max_weight: float = 1.0) -> LinearSchedule:
    """
    Linear warm-up after a delay: 0 until `delay`, linear to `max_weight` at `delay + ramp`, then constant.

    The defaults, no delay and a rise over the first half, are the package's recipe together with a posterior as wide
    as `TraceConfig` starts it. With a narrow posterior (`posterior_sigma_init=0.1`) a delay of 0.4 makes the latents
    informative too, but texts drawn from the prior come out broken: see docs/results/training.md.

    Args:
        delay (`float`, *optional*, defaults to 0.0): Fraction of training with weight 0.
        ramp (`float`, *optional*, defaults to 0.5): Fraction of training over which the weight rises; 0 is a step.
        max_weight (`float`, *optional*, defaults to 1.0): Weight at the end. 1 is the ELBO; less is a beta-VAE.

    Returns:
        A callable that maps progress in [0, 1] to the weight.

    Raises:
        ValueError: If an argument is out of range or `delay + ramp > 1`.

    Example:

    ```python
    >>> from modeling_trace.training import linear_schedule

    >>> schedule = linear_schedule(delay=0.5, ramp=0.25)
    >>> [schedule(progress) for progress in (0.0, 0.5, 0.625, 0.75, 1.0)]
    [0.0, 0.0, 0.5, 1.0, 1.0]
    ```
    """
    return LinearSchedule(delay, ramp, max_weight)


def cyclical_schedule(
    num_cycles: int = 4, zero_fraction: float = 0.0, ramp_fraction: float = 0.5, max_weight: float = 1.0
) -> CyclicalSchedule:
    """
    Cyclical annealing (Fu et al., 2019): each cycle stays at 0, rises linearly, and rests at `max_weight`.

    The defaults are those of Fu et al.: four cycles, each rising over its first half, no zero phase. TRACE's authors
    use this schedule with settings that the paper does not give.

    Args:
        num_cycles (`int`, *optional*, defaults to 4): Number of equal cycles in the training run.
        zero_fraction (`float`, *optional*, defaults to 0.0): Fraction of each cycle at weight 0; Fu et al. have none.
        ramp_fraction (`float`, *optional*, defaults to 0.5): Fraction of each cycle over which the weight rises.
        max_weight (`float`, *optional*, defaults to 1.0): Weight in the rest of the cycle.

    Returns:
        A callable that maps progress in [0, 1] to the weight.

    Raises:
        ValueError: If an argument is out of range or `zero_fraction + ramp_fraction > 1`.

    Example:

    ```python
    >>> from modeling_trace.training import cyclical_schedule

    >>> schedule = cyclical_schedule(num_cycles=2, zero_fraction=0.25, ramp_fraction=0.5)
    >>> [schedule(progress) for progress in (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)]
    [0.0, 0.0, 0.5, 1.0, 0.0, 0.5, 1.0]
    ```
    """
    return CyclicalSchedule(num_cycles, zero_fraction, ramp_fraction, max_weight)


_SCHEDULES: dict[str, Callable] = {
    "constant": constant_schedule,
    "cyclical": cyclical_schedule,
    "linear": linear_schedule,
}


def get_schedule(name: str, **kwargs) -> Callable[[float], float]:
    """
    Build a schedule from its name, for configuration files and the command line.

    Args:
        name (`str`): "constant", "cyclical" or "linear".
        kwargs: Arguments of [`constant_schedule`], [`cyclical_schedule`] or [`linear_schedule`].

    Returns:
        A callable that maps progress in [0, 1] to the weight.

    Raises:
        ValueError: If the name or an argument is unknown; the message lists the known ones.

    Example:

    ```python
    >>> from modeling_trace.training import get_schedule

    >>> get_schedule("linear", delay=0.25)
    LinearSchedule(delay=0.25, ramp=0.5, max_weight=1.0)
    ```
    """
    if name not in _SCHEDULES:
        raise ValueError(f"`kl_schedule` must be one of {sorted(_SCHEDULES)}, got {name!r}.")
    known = list(inspect.signature(_SCHEDULES[name]).parameters)
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        raise ValueError(f"The {name!r} KL schedule has no argument `{unknown[0]}`. It takes {known}.")
    return _SCHEDULES[name](**kwargs)


__all__ = ["constant_schedule", "cyclical_schedule", "get_schedule", "linear_schedule"]
