"""Active units (Burda et al. 2016), for sequences of latents: the dimensions that differ between texts."""

import math
from dataclasses import dataclass

import torch

from ..models.gaussian_trace import standard_normal
from ..models.likelihood_trace import evaluation_mode
from .encoded_texts import EncodedTexts, check_encoded


@dataclass
class ActiveUnits:
    """
    Latent dimensions that differ between texts, in expectation.

    Args:
        latent, residual (`int`): dimensions d with Var_x(E_q[z_d | x]) > threshold, and with the same of the posterior
            mean less the prior mean, which leaves out what came down from z_<t.
        latent_variance, residual_variance (`torch.Tensor` of shape `(latent_size,)`): these variances, over all texts
            and steps, each step centred on its own mean. They are unbiased, and so can be a little below 0.
        latent_per_step, residual_per_step (`torch.Tensor` of shape `(S, latent_size)`): the variances of each step;
            NaN where fewer than two texts have it.
        num_texts (`torch.Tensor` of shape `(S,)`): texts that have a segment t.
        threshold (`float`): of the variances.
        num_paths (`int`): paths that E_q averages over.
    """

    latent: int
    residual: int
    latent_variance: torch.Tensor
    residual_variance: torch.Tensor
    latent_per_step: torch.Tensor
    residual_per_step: torch.Tensor
    num_texts: torch.Tensor
    threshold: float
    num_paths: int


@torch.no_grad()
def active_units(
    texts: EncodedTexts,
    *,
    threshold: float = 0.1,
    num_paths: int = 32,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> ActiveUnits:
    """
    Active units (Burda et al. 2016): AU = #{d : Var_x(E_q[z_d | x]) > threshold}.

    E_q[z_t | x] averages the posterior mean over paths z_<t ~ q. With one path, its own noise would count as if it
    came from the text, and a chain that ignores its text would have all units active. Paths come in pairs eps and
    -eps, whose mean has no noise at all where the recurrence is linear; what is left of it is subtracted: with P pairs
    the variance is (MS_between - MS_within) / P of a one-way layout, which is unbiased for every P >= 2.

    Args:
        texts ([`EncodedTexts`]): from [`encode_texts`].
        threshold (`float`, defaults to 0.1): as published.
        num_paths (`int`, defaults to 32): an even number, >= 4.
        seed (`int`, defaults to 0): of the paths, where no generator is given.
        generator (`torch.Generator`, *optional*): for the paths.

    Returns:
        [`ActiveUnits`].

    Raises:
        ValueError: for fewer than two texts, or `num_paths` that are odd or below 4.
    """
    check_encoded(texts)
    if isinstance(num_paths, bool) or not isinstance(num_paths, int) or num_paths < 4 or num_paths % 2:
        raise ValueError(f"`num_paths` must be an even number >= 4, got {num_paths!r}. Use 32.")
    generator = torch.Generator().manual_seed(seed) if generator is None else generator
    keep = texts.mask.t().unsqueeze(-1)  # (S, N, 1)
    num_texts = texts.mask.sum(dim=0).view(-1, 1)  # (S, 1)
    like = texts.delta_mean.transpose(0, 1)  # (S, N, D)
    sums = like.new_zeros(2, *like.shape)  # by text, over pairs
    squares = torch.zeros_like(sums)
    num_pairs = num_paths // 2
    with evaluation_mode(texts.dynamics):
        for _ in range(num_pairs):
            noise = standard_normal(like, generator)
            paths = (texts.paths(sign * noise) for sign in (1, -1))
            pair = [torch.stack([torch.stack([q, q - p]) for _, _, p, _, q, _ in path], dim=1) for path in paths]
            values = torch.where(keep, 0.5 * (pair[0] + pair[1]), 0.0)  # (2, S, N, D)
            sums += values
            squares += values.square()
    means = sums / num_pairs
    centred = torch.where(keep, means - (means.sum(dim=2) / num_texts).unsqueeze(2), 0.0)
    freedom = num_texts - 1
    noise = (squares - num_pairs * means.square()).sum(dim=2) / (num_texts * (num_pairs - 1))  # MS_within
    per_step = centred.square().sum(dim=2) / freedom - noise / num_pairs  # (2, S, D)
    usable = (freedom > 0).expand_as(per_step[0])
    variance = torch.where(usable, per_step * freedom, 0.0).sum(dim=1) / freedom.clamp_min(0).sum()
    active = (variance > threshold).sum(dim=1).tolist()
    per_step = per_step.masked_fill(~usable, math.nan)
    return ActiveUnits(  # type: ignore[call-arg]
        *active, *variance.cpu(), *per_step.cpu(), num_texts.squeeze(1).cpu(), float(threshold), num_paths
    )


__all__ = ["ActiveUnits", "active_units"]
