"""The loss: reconstruction + KL weight * KL, in nats per target token (paper Eq. 6)."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .gaussian_trace import at_least_float32, free_bits, gaussian_kl

if TYPE_CHECKING:
    from .configuration_trace import TraceConfig


# Above this many logits (64 MiB of float32) training computes the loss in pieces of the batch.
_MAX_LOGITS = 2**24


def _is_plain_product(head: nn.Module) -> bool:
    """
    Whether x W^T + b is all that a head does, and its weight is there to be read outside of its forward: not under
    PEFT, nor where hooks bring the weight or put the logits together (offloading, tensor parallelism).
    """
    hooked = hasattr(head, "_hf_hook") or head._forward_pre_hooks or head._forward_hooks
    elsewhere = head.weight.is_meta or hasattr(head.weight, "device_mesh")  # a part of a DTensor
    return not (hooked or hasattr(head, "base_layer") or elsewhere)


class LossMixin:
    """The part of [`TraceForConditionalGeneration`] that forms logits and the loss."""

    if TYPE_CHECKING:  # what it needs of its host
        config: TraceConfig
        lm_head: nn.Module
        kl_weight: torch.Tensor
        training: bool

    def _set_loss(self, outputs, hidden, labels, num_items_in_batch):
        """
        loss = (reconstruction + kl_weight * KL) / number of targets, in nats per token: with weight 1 and without free
        bits the negative ELBO (Eq. 6).
        """
        batch_size = labels.shape[0]
        targets = labels[:, 1:].reshape(-1)
        logits = outputs.get("logits")
        if logits is not None and logits.shape[1] == labels.shape[1]:
            logits = logits[:, :-1].reshape(targets.numel(), -1)
            reconstruction = nn.functional.cross_entropy(at_least_float32(logits), targets, reduction="sum")
        else:
            reconstruction = self._cross_entropy(hidden[:, :-1].reshape(-1, hidden.shape[-1]), targets)
        if num_items_in_batch is None:
            num_items_in_batch = (targets != -100).sum()
        loss = reconstruction
        if "posterior_mean" in outputs:
            names = ("posterior_mean", "posterior_logvar", "prior_mean", "prior_logvar")
            kl = gaussian_kl(*(outputs[name] for name in names))  # (B, S, D)
            kl_sum = kl.sum()
            steps = outputs["segment_ids"].amax(dim=1)
            penalty = kl_sum
            if self.config.kl_reduction == "mean":  # per segment and dimension, summed over texts
                penalty = (kl.sum(dim=(1, 2)) / (steps.clamp_min(1) * self.config.latent_size)).sum()
            elif self.config.free_nats:
                penalty = free_bits(kl.sum(dim=-1), steps, self.config.free_nats)
            loss = loss + self.kl_weight.to(loss.dtype) * penalty
            outputs["kl_loss"] = kl_sum / batch_size
        outputs["reconstruction_loss"] = reconstruction / batch_size
        outputs["loss"] = loss / num_items_in_batch

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.lm_head(hidden)
        cap = getattr(self.config.backbone_config, "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _cross_entropy(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sum over targets of -log p, in float32, without all logits at once where they would be large."""

        def piece(hidden, targets):
            return nn.functional.cross_entropy(at_least_float32(self._logits(hidden)), targets, reduction="sum")

        vocab_size = self.config.backbone_config.vocab_size
        if not self.training or targets.numel() * vocab_size <= _MAX_LOGITS:
            return piece(hidden, targets)
        size = max(1, _MAX_LOGITS // vocab_size)
        capped = getattr(self.config.backbone_config, "final_logit_softcapping", None) is not None
        if capped or not _is_plain_product(self.lm_head):
            pieces = zip(hidden.split(size), targets.split(size), strict=True)
            return sum(checkpoint(piece, *pair, use_reentrant=False) for pair in pieces)
        weight: torch.Tensor = self.lm_head.weight
        bias = getattr(self.lm_head, "bias", None)
        return nn.functional.linear_cross_entropy(
            at_least_float32(hidden),
            at_least_float32(weight),
            targets,
            linear_bias=bias,
            reduction="sum",
            # its own choice of pieces took 3.7 times as long at 49,153 tokens of vocabulary on a CPU
            options=nn.LinearCrossEntropyOptions(batch_chunk_size=size),
        )


__all__ = ["LossMixin"]
