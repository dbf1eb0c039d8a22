"""Mutual information of latents and texts, for sequences of latents: what latents know of their texts, in nats."""

import math
from dataclasses import dataclass

import torch
from transformers.utils.logging import tqdm

from ..models.gaussian_trace import standard_normal
from ..models.likelihood_trace import evaluation_mode
from .encoded_texts import EncodedTexts, check_encoded

_TABLE = 2**22  # log q_ij (32 MiB) that are held at once


@dataclass
class MutualInformation:
    """
    How much latents tell of which text they come from, in nats. Every estimate has a cap that it saturates at.

    Args:
        per_step (`torch.Tensor` of shape `(S,)`): U_t, of z_t given the z_<t that all texts are asked about.
        caps (`torch.Tensor` of shape `(S,)`): log N_t, the most that U_t can be.
        num_texts (`torch.Tensor` of shape `(S,)`): N_t, texts that have a segment t.
        influence (`torch.Tensor` of shape `(N,)`): what each text does to `total`: the derivative by its weight, of
            mean 0. `influence.std() / N**0.5` is the standard error over texts, the draw of z^i included.
        joint (`float`): of all z of a text at once.
        joint_cap (`float`): the most that `joint` can be: log N where all texts have as many segments.
    """

    per_step: torch.Tensor
    caps: torch.Tensor
    num_texts: torch.Tensor
    influence: torch.Tensor
    joint: float
    joint_cap: float

    @property
    def total(self) -> float:
        """sum_t U_t, capped at `caps.sum()`."""
        return self.per_step.sum().item()

    @property
    def mean(self) -> float:
        """sum_t U_t / S."""
        return self.per_step.mean().item()


@torch.no_grad()
def mutual_information(
    texts: EncodedTexts, *, seed: int = 0, generator: torch.Generator | None = None
) -> MutualInformation:
    """
    Mutual information of latents and texts, step by step with shared history.

        U_t = mean_{i: T_i >= t} [ log q(z_t^i | z_<t^i, x_i) - log 1/N_t sum_{j: T_j >= t} q(z_t^i | z_<t^i, x_j) ]

    z^i is one path drawn from the posterior of text i. All texts are asked about the same z_<t^i: what the recurrence
    alone puts into z_t tells nothing of the text, and counts for nothing. U_t is no less than I(z_t; x | z_<t), since
    texts weigh the same whatever z_<t says of them. The joint estimate, of z_1..z_{T_i} against all texts with T_i
    segments or more, is a plain estimate of I(z; x), and soon at its cap. For a single latent both are the usual
    estimate (Hoffman and Johnson 2016).

    Args:
        texts ([`EncodedTexts`]): from [`encode_texts`]. Time grows with N^2: 1000 texts of 10 segments take 8 s of
            one core with `prior_logvar_bound`, half a second without.
        seed (`int`, defaults to 0): of the draw, where no generator is given.
        generator (`torch.Generator`, *optional*): for the draw.

    Returns:
        [`MutualInformation`], computed in float64.

    Raises:
        ValueError: for fewer than two texts.
    """
    check_encoded(texts)
    generator = torch.Generator().manual_seed(seed) if generator is None else generator
    count, num_segments = texts.mask.shape
    device = texts.mask.device
    with evaluation_mode(texts.dynamics):
        noise = standard_normal(texts.delta_mean.transpose(0, 1), generator)
        steps = [step[:2] for step in texts.paths(noise)]
        lengths = texts.mask.sum(dim=1)
        per_step = torch.zeros(num_segments, dtype=torch.float64, device=device)
        # as the text that z^i comes from, and as one of those that z^i is compared with
        as_own, as_other = torch.zeros(2, num_segments, count, dtype=torch.float64, device=device)
        joint = torch.zeros((), dtype=torch.float64, device=device)
        blocks = torch.arange(count, device=device).split(max(1, _TABLE // count))
        for block in tqdm(blocks, desc="Mutual information", disable=len(blocks) == 1):
            table = torch.zeros(len(block), count, dtype=torch.float64, device=device)
            for t, (previous, latents) in enumerate(steps):
                has_step = texts.mask[block, t]
                rows, columns = block[has_step], texts.mask[:, t].nonzero().squeeze(1)
                if len(rows) == 0:
                    continue
                log_q = texts.log_density(latents[rows], previous[rows], t, rows, columns)
                place = torch.searchsorted(columns, rows)
                mixture = log_q.logsumexp(dim=1)
                excess = log_q.gather(1, place.unsqueeze(1)).squeeze(1) - mixture + math.log(len(columns))
                per_step[t] += excess.sum()
                as_own[t, rows] = excess
                as_other[t, columns] += (log_q - mixture.unsqueeze(1)).exp().sum(dim=0)
                table[has_step.nonzero(), columns] += log_q
            long_enough = lengths >= lengths[block].unsqueeze(1)
            mixture = (
                table.masked_fill(~long_enough, -math.inf).logsumexp(dim=1) - long_enough.sum(dim=1).double().log()
            )
            joint += (table.gather(1, block.unsqueeze(1)).squeeze(1) - mixture).sum()
        num_texts = texts.mask.sum(dim=0)
        per_step /= num_texts
        weights = texts.mask.t() * (count / num_texts).unsqueeze(1)
        influence = (weights * (as_own - per_step.unsqueeze(1) - (as_other - 1))).sum(dim=0)
        at_least = (lengths >= lengths.unsqueeze(1)).sum(dim=1).double()
    return MutualInformation(
        per_step=per_step.cpu(),
        caps=num_texts.double().log().cpu(),
        num_texts=num_texts.cpu(),
        influence=influence.cpu(),
        joint=(joint / count).item(),
        joint_cap=at_least.log().mean().item(),
    )


__all__ = ["MutualInformation", "mutual_information"]
