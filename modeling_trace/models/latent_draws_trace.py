"""How `generate()` gets the latent of a segment: drawn from the prior, given, or replaced by a callback."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .gaussian_trace import reparameterize, standard_normal

SegmentCallback = Callable[
    [torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor], torch.Tensor | None
]


@dataclass
class LatentDraws:
    """
    How `generate()` gets its latents: drawn from the prior, held at `given` values, seen by a callback.

    Args:
        given (`torch.Tensor` of shape `(rows, num_segments, latent_size)`, *optional*): NaN = draw.
        temperature (`float`): scales the prior's sigma; 0 = the prior's mean.
        callback (`Callable`, *optional*): see [`SegmentGenerationMixin.generate`].
        generator (`torch.Generator`, *optional*).
    """

    given: torch.Tensor | None = None
    temperature: float = 1.0
    callback: SegmentCallback | None = None
    generator: torch.Generator | None = None

    def draw(self, mean: torch.Tensor, logvar: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
        return reparameterize(mean, logvar, standard_normal(mean, self.generator), scale)

    def replace_given(self, latents: torch.Tensor, rows: torch.Tensor, segment: torch.Tensor) -> torch.Tensor:
        """`latents` `(rows, latent_size)`, but what is `given` for `rows` in their `segment` (1, 2, ...)."""
        if self.given is None:
            return latents
        known = segment <= self.given.shape[1]
        given = self.given[rows, torch.where(known, segment - 1, 0)].to(latents)
        return torch.where(known.unsqueeze(-1) & ~given.isnan(), given, latents)

    def call_back(
        self,
        latents: torch.Tensor,
        prior: tuple[torch.Tensor, torch.Tensor],
        drawn: torch.Tensor,
        segment: torch.Tensor,
    ) -> torch.Tensor:
        """
        Let the callback look at, or replace, the latents of the rows `drawn`.

        Args:
            latents (`torch.Tensor` of shape `(rows, latent_size)`).
            prior (`tuple[torch.Tensor, torch.Tensor]`): mean and log variance, each of the shape of `latents`.
            drawn (`torch.BoolTensor` of shape `(rows,)`): whose latents are drawn now.
            segment (`torch.LongTensor` of shape `(rows,)`): the segment that they are for.
        """
        if self.callback is None:
            return latents
        rows = drawn.nonzero().squeeze(-1)
        if rows.numel() == 0:
            return latents
        replaced = self.callback(latents[rows], (prior[0][rows], prior[1][rows]), rows, segment[rows])
        if replaced is None:
            return latents
        if replaced.shape != latents[rows].shape:
            raise ValueError(
                f"`segment_callback` must return None or latents of shape {tuple(latents[rows].shape)}, "
                f"got {tuple(replaced.shape)}."
            )
        return latents.index_copy(0, rows, replaced.to(latents))


__all__ = ["LatentDraws", "SegmentCallback"]
