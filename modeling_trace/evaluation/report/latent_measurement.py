"""What one system's latents know of real texts, whether its decoder uses them, and points for a picture of them."""

import functools
from typing import TYPE_CHECKING, Any

import torch

from ...data import prepare_dataset
from ..active_units import active_units
from ..encoded_texts import encode_texts
from ..latent_use import latent_use, shared_offset
from ..mutual_information import mutual_information
from .cache import EvaluationCache
from .settings import EvaluationSettings
from .systems import EvaluatedSystem

if TYPE_CHECKING:
    import datasets

SCATTER_TEXTS = 200


def measure_latents(
    system: EvaluatedSystem,
    rows: "datasets.Dataset",
    settings: EvaluationSettings,
    cache: EvaluationCache,
    key: dict[str, Any],
    limit: int | None,
) -> dict[str, Any]:
    """
    Mutual information, active units, use of the latents by the decoder, and points for a picture, each a result of
    its own in the cache.

    Args:
        system ([`EvaluatedSystem`]): with latents.
        rows (`datasets.Dataset`): real texts.
        settings ([`EvaluationSettings`]), cache ([`EvaluationCache`]).
        key (`dict`): what all metrics depend on.
        limit (`int`, *optional*): the context, in tokens.

    Returns:
        `dict`, JSON.
    """
    prepared = functools.cache(lambda: prepare_dataset(rows, system.processor, max_length=limit))

    @functools.cache
    def texts():
        return encode_texts(system.model(), prepared(), system.processor, batch_size=settings.batch_size)

    def information():
        estimate = mutual_information(texts())
        return {
            "mi_per_step": estimate.per_step.tolist(),
            "mi_caps": estimate.caps.tolist(),
            "mi_influence": estimate.influence.tolist(),
            "mi_joint": estimate.joint,
            "mi_joint_cap": estimate.joint_cap,
        }

    def units():
        active = active_units(texts())
        return {"active_units": active.latent, "active_units_residual": active.residual}

    def use():
        model = system.model()
        use_of_texts = latent_use(model, prepared(), system.processor, batch_size=settings.batch_size, encoded=texts())
        return {
            **{f"use_{name}": getattr(use_of_texts, name).tolist() for name in ("posterior", "other", "prior", "kl")},
            "shared_offset": shared_offset(texts()).share,
        }

    def picture():
        return {"scatter": _scatter(texts()), "latent_size": texts().delta_mean.shape[-1]}

    measures = {}
    for name, compute in (("information", information), ("units", units), ("use", use), ("scatter", picture)):
        measures |= cache.get_or_compute(f"{system.file_name}/{name}", key, compute)
    return measures


@torch.no_grad()
def _scatter(texts) -> dict[str, list]:
    """
    Posterior means, and the prior means that the same path has, in the plane of the posterior means' two main
    components; a collapsed posterior's lie on its prior's.
    """
    noise = torch.randn(
        texts.delta_mean.transpose(0, 1).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(texts.delta_mean)
    chosen = slice(0, SCATTER_TEXTS)
    posterior, prior, steps = [], [], []
    for step, (_, _, prior_mean, _, mean, _) in enumerate(texts.paths(noise)):
        has_step = texts.mask[chosen, step]
        posterior.append(mean[chosen][has_step])
        prior.append(prior_mean[chosen][has_step])
        steps += [step + 1] * int(has_step.sum())
    posterior, prior = torch.cat(posterior), torch.cat(prior)
    if not (posterior.isfinite().all() and prior.isfinite().all()):  # a model that has diverged
        return {"posterior": [], "prior": [], "segment": []}
    centre = posterior.mean(dim=0)
    directions = torch.linalg.svd(posterior - centre, full_matrices=False).Vh[:2].t()
    points = [((x - centre) @ directions).round(decimals=3).tolist() for x in (posterior, prior)]
    return {"posterior": points[0], "prior": points[1], "segment": steps}


__all__ = ["measure_latents"]
