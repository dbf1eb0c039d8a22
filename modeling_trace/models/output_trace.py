"""What a forward pass returns."""

from dataclasses import dataclass

import torch
from transformers import DynamicCache
from transformers.utils import ModelOutput


@dataclass
class TraceOutput(ModelOutput):
    """
    Output of [`TraceForConditionalGeneration`]. Latents and Gaussians are float32, zero past a row's last segment.

    Args:
        loss (`torch.FloatTensor` of shape `()`): (reconstruction + kl_weight * KL) / target tokens, in nats per token;
            a segment's KL counts as `config.free_nats` where it is less.
        reconstruction_loss (`torch.FloatTensor` of shape `()`): -log p(x | z) in nats, summed over tokens (a [SEP]
            that is written included), mean over texts.
        kl_loss (`torch.FloatTensor` of shape `()`): KL in nats, summed over segments and dimensions, mean over texts.
            None when latents were given.
        logits (`torch.FloatTensor` of shape `(batch_size, sequence_length, vocab_size)`): None in training with
            labels, where they never exist all at once.
        latents (`torch.FloatTensor` of shape `(batch_size, num_segments, latent_size)`): z_t.
        prior_mean, prior_logvar (`torch.FloatTensor` of shape `(batch_size, num_segments, latent_size)`): the
            Gaussian that z_t is measured against.
        posterior_mean, posterior_logvar (`torch.FloatTensor` of shape `(batch_size, num_segments, latent_size)`): the
            Gaussian that z_t was drawn from.
        segment_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): 0 prefix, 1..T segments, -1 padding.
        cache (`Cache`): see [`TraceCache`].
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    kl_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    prior_mean: torch.Tensor | None = None
    prior_logvar: torch.Tensor | None = None
    posterior_mean: torch.Tensor | None = None
    posterior_logvar: torch.Tensor | None = None
    segment_ids: torch.Tensor | None = None
    cache: DynamicCache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


__all__ = ["TraceOutput"]
