"""The learning rate of the latent networks, which start from nothing beside a trained backbone."""

import re

import torch

from ..models.configuration_trace import TraceConfig

LATENT_LR_FACTOR = 5.0  # between layers: measured in docs/explanation/differences-from-paper.md
_LATENT_PARAMETERS = re.compile(r"(^|\.)(dynamics|latent_injection|state_reader)\.")


def raise_latent_rates(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module, config: TraceConfig, factor: float | None = None
) -> None:
    """
    Give the latent networks groups of their own in the optimizer, with `factor` times the learning rate.

    Args:
        optimizer (`torch.optim.Optimizer`): before its first step; changed in place.
        model (`torch.nn.Module`): whose parameters it has, also wrapped.
        config ([`TraceConfig`]): of the model.
        factor (`float`, *optional*): by default 5 between layers, and 1 at the embeddings, as in the paper.
    """
    if factor is None:
        factor = 1.0 if config.latent_layer is None else LATENT_LR_FACTOR
    if factor == 1.0:
        return
    latent = {id(p) for name, p in model.named_parameters() if _LATENT_PARAMETERS.search(name)}
    groups = []
    for group in optimizer.param_groups:
        parts = ([p for p in group["params"] if (id(p) in latent) is its] for its in (False, True))
        groups += [
            {**group, "params": part, "lr": group["lr"] * rate}
            for part, rate in zip(parts, (1.0, factor), strict=True)
            if part
        ]
    optimizer.param_groups[:] = sorted(groups, key=lambda group: group["lr"])  # the first one's is logged


__all__ = ["LATENT_LR_FACTOR", "raise_latent_rates"]
