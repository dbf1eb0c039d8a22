"""How latents enter the decoder: W_z, and the layer of the backbone before which its product with z is added."""

from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from .configuration_trace import TraceConfig


class LatentInjection(nn.Linear):
    """
    W_z: adds W_z z_t to the token embeddings (paper Sec. 4.1, end), or to the residual stream after `latent_layer`.

    Starts as large as `config.latent_init_scale` says in units of what it is added to (`residual_rms`): z must be
    heard, and must not drown what the backbone knows.
    """

    def __init__(self, config: TraceConfig):
        super().__init__(config.latent_size, config.backbone_config.hidden_size, bias=False)
        # Until it is measured, which ZeRO-3 prevents: weights that are dealt out cannot be run at once
        self.residual_rms = 1.0
        if config.latent_layer is None:
            self.residual_rms = getattr(config.backbone_config, "initializer_range", 0.02)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """W_z z, `(..., hidden_size)`, in the precision of W_z."""
        return super().forward(latents.to(self.weight.dtype))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # an adapter (PEFT) comes here with its weights only: say which setting it was made with
        saved = state_dict.get(f"{prefix}weight")
        if saved is not None and saved.numel() and saved.shape[-1] != self.in_features:  # ZeRO-3 leaves it empty
            raise ValueError(
                f"`latent_size` of the saved weights is {saved.shape[-1]}, the model's is {self.in_features}. Build "
                f"the model with latent_size={saved.shape[-1]}."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class LatentEntry:
    """What happens to the residual stream before a layer, in one pass of the backbone: a function, or nothing."""

    def __init__(self) -> None:
        self.enter: Callable[[torch.Tensor], torch.Tensor] | None = None


class _EntersBefore:
    """
    Put before a decoder layer's class: changes the hidden states that the layer is called with.

    A subclass rather than a forward hook, since a layer's hooks are inside of what gradient checkpointing computes
    again: a latent is drawn once. The layer's weights, name and place in the model stay what they are.
    """

    def __call__(self, *args, **kwargs):
        enter = self.latent_entry.enter
        if enter is not None:
            if args:
                args = (enter(args[0]), *args[1:])
            else:
                kwargs["hidden_states"] = enter(kwargs["hidden_states"])
        return super().__call__(*args, **kwargs)

    def __reduce_ex__(self, protocol):
        # pickle finds classes by name, and by this one's it would find the layer's own
        mro = type(self).__mro__
        return _new_opened, (mro[mro.index(_EntersBefore) + 1],), *super().__reduce_ex__(protocol)[2:]


@cache
def _opened(cls: type) -> type:
    # the same name: other code knows layers by it (`_no_split_modules`, FSDP's wrapping)
    return type(cls.__name__, (_EntersBefore, cls), {"__module__": cls.__module__})


def _new_opened(cls: type):
    return _opened(cls).__new__(_opened(cls))  # type: ignore[call-overload]


def open_layer(layer: nn.Module) -> LatentEntry:
    """Make a decoder layer call what its [`LatentEntry`], which is returned, holds. Done twice is as done once."""
    if not isinstance(layer, _EntersBefore):
        layer.__class__ = _opened(type(layer))  # type: ignore[arg-type]
    entry = layer.latent_entry = LatentEntry()
    return entry


__all__ = ["LatentEntry", "LatentInjection", "open_layer"]
