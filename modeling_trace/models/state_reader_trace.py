"""What the latent networks read of the residual stream, with latents between layers."""

import torch
from torch import nn

from .segments_trace import gather_positions


class StateNorm(nn.LayerNorm):
    """
    LayerNorm whose output is as long as that of a backbone 160 wide, at the start and at most: else the prior and the
    posterior of a wider one, two networks that know nothing yet, would start many nats apart.
    """

    def __init__(self, size: int):
        super().__init__(size)
        self.scale = min(1.0, (160 / size) ** 0.5)


class StateReader(nn.Module):
    """
    What the latent dynamics read of the residual stream after `latent_layer`.

        c_t   norm(h at the last token of segment t): it has seen x_<=t, and x_t's last words best
        s_t   norm(c_t + V sum_i a_i norm(h_i)), i over the tokens of segment t, a a softmax of learned scores, by head

    Args:
        hidden_size (`int`): of the backbone.

    Note: s_t takes the place of the paper's h_t, which needs a pass of its own. Read at the last token alone, a
    posterior says half as much about its segment for the same nats: see docs/explanation/differences-from-paper.md.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.heads = next(heads for heads in (4, 2, 1) if hidden_size % heads == 0)
        self.norm = StateNorm(hidden_size)  # the residual stream is not normalised there
        self.score = nn.Linear(hidden_size, self.heads, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.state_norm = StateNorm(hidden_size)

    def read(self, hidden: torch.Tensor) -> torch.Tensor:
        """norm(h), of the shape of `hidden`; in the reader's own precision, which may be above the backbone's."""
        return self.norm(hidden.to(self.norm.weight.dtype))

    def forward(
        self, hidden: torch.Tensor, segment_ids: torch.Tensor, ends: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`): after `latent_layer`.
            segment_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`).
            ends (`torch.LongTensor` of shape `(batch_size, num_segments + 1)`): last token of segments 0..T.

        Returns:
            c_t for t = 0..T and s_t for t = 1..T, `(batch_size, num_segments (+ 1), hidden_size)`.
        """
        states = self.read(hidden)
        context = gather_positions(states, ends)
        steps = torch.arange(1, ends.shape[1], device=ends.device).view(-1, 1)
        in_segment = (segment_ids.unsqueeze(1) == steps).unsqueeze(1)  # (B, 1, S, L)
        scores = self.score(states).transpose(1, 2).unsqueeze(2)  # (B, heads, 1, L)
        # a finite number: a step that a row does not have is an even mean over nothing, not NaN
        weights = scores.masked_fill(~in_segment, torch.finfo(scores.dtype).min).softmax(dim=-1)
        pooled = weights @ states.unsqueeze(1)  # (B, heads, S, H): pooled first, a product by segment, not by token
        values = self.value(pooled).unflatten(-1, (self.heads, -1))  # (B, heads, S, heads, H / heads)
        parts = torch.diagonal(values, dim1=1, dim2=3)  # each head its own part: (B, S, H / heads, heads)
        return context, self.state_norm(context[:, 1:] + parts.transpose(2, 3).flatten(2))


__all__ = ["StateNorm", "StateReader"]
