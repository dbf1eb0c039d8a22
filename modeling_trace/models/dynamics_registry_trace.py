"""The values of `TraceConfig.latent_dynamics` and their classes: built-in ones, and those that users register."""

from collections.abc import Callable

from torch import nn

from .baseline_dynamics_trace import ContextDynamics, IndependentDynamics, SingleDynamics
from .configuration_checks_trace import LATENT_DYNAMICS_VALUES, REGISTERED_DYNAMICS
from .configuration_trace import TraceConfig
from .dynamics_trace import LatentDynamics
from .parallel_dynamics_trace import ParallelDynamics
from .recurrent_dynamics_trace import RecurrentDynamics

# Config value to class; "none" needs no module. [`register_latent_dynamics`] adds to it.
LATENT_DYNAMICS: dict[str, type[LatentDynamics]] = {
    "recurrent": RecurrentDynamics,
    "parallel": ParallelDynamics,
    "independent": IndependentDynamics,
    "context": ContextDynamics,
    "single": SingleDynamics,
}


def has_segments(latent_dynamics: str) -> bool:
    """Whether texts are cut into segments: not for a plain language model, nor for one latent per text."""
    return latent_dynamics != "none" and not getattr(LATENT_DYNAMICS.get(latent_dynamics), "one_per_text", False)


def register_latent_dynamics(name: str) -> Callable[[type[LatentDynamics]], type[LatentDynamics]]:
    """
    Make latent dynamics of your own a value of `TraceConfig.latent_dynamics`.

    A saved model names module and class in its config (`latent_dynamics_class`); whoever loads it imports that module
    first. See docs/how-to/custom-dynamics.md.

    Args:
        name (`str`): the value of `latent_dynamics`.

    Raises:
        ValueError: for a name that is not a string or is built in, or a class that is no [`LatentDynamics`].

    Example:

    ```python
    >>> import torch
    >>> from transformers import GPT2Config
    >>> from modeling_trace import LatentDynamics, TraceConfig, register_latent_dynamics

    >>> @register_latent_dynamics("random-walk")
    ... class RandomWalk(LatentDynamics):
    ...     reads_context = False
    ...
    ...     def prior(self, previous, context, first):
    ...         return previous, torch.zeros_like(previous)

    >>> TraceConfig(latent_dynamics="random-walk").latent_dynamics
    'random-walk'

    ```
    """

    if not isinstance(name, str) or not name:
        raise ValueError(
            f"`name` must be the value of `latent_dynamics`, a string, got {name!r:.80}. "
            "Write @register_latent_dynamics('my-dynamics') above the class."
        )

    def register(cls: type[LatentDynamics]) -> type[LatentDynamics]:
        if not (isinstance(cls, type) and issubclass(cls, LatentDynamics)):
            raise ValueError(f"`register_latent_dynamics` is for subclasses of LatentDynamics, got {cls!r:.80}.")
        if cls.__abstractmethods__:
            raise ValueError(f"`{cls.__name__}` has no prior. Define prior(self, previous, context, first) in it.")
        if name in LATENT_DYNAMICS_VALUES:
            raise ValueError(f"`name` must not be one of the built-in dynamics, got '{name}'. Choose another.")
        LATENT_DYNAMICS[name] = cls
        REGISTERED_DYNAMICS.add(name)
        return cls

    return register


def dynamics_class(config: TraceConfig) -> type[LatentDynamics]:
    """The class that `config.latent_dynamics` names; a ValueError says what to import where it is missing."""
    if config.latent_dynamics not in LATENT_DYNAMICS:
        module, _, name = (config.latent_dynamics_class or "").rpartition(".")
        remedy = "register it" if module == "__main__" else f"import {module}"
        raise ValueError(
            f"`latent_dynamics='{config.latent_dynamics}'` is the class {name} of {module}, which is not imported. "
            f"First {remedy}, then load the model (on the command line: modeling-trace --import {module} ...)."
        )
    return LATENT_DYNAMICS[config.latent_dynamics]


def check_buffers(dynamics: nn.Module) -> None:
    """Refuse, when a model is built, a buffer that would hold anything after loading."""
    lost = {name for name, _ in dynamics.named_buffers()} - dynamics.state_dict().keys()
    if lost:
        raise ValueError(
            f"`{type(dynamics).__name__}` has the buffer `{min(lost)}` with persistent=False, which "
            "holds anything after loading. Register it with persistent=True."
        )


__all__ = ["LATENT_DYNAMICS", "check_buffers", "dynamics_class", "has_segments", "register_latent_dynamics"]
