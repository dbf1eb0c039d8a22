"""What `TraceTrainer` logs: sums of the loss parts over texts, their means, and in which direction each is better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from accelerate import Accelerator

# Of the names in `metric_for_best_model`. The Trainer takes whatever does not end in "loss" for better when larger.
LARGER_IS_BETTER = {
    "loss": False,
    "reconstruction": False,
    "reconstruction_other": False,
    "kl": False,
    "kl_per_segment": False,
    "kl_per_dim": False,
    "latent_gain": True,
    "gain_per_nat": True,
}
# Parts that say nothing alone: more KL may well be what someone looks for.
EITHER_WAY = ("reconstruction_other", "kl", "kl_per_segment", "kl_per_dim")


def trace_metric(name: str | None) -> str | None:
    """Which of the metrics above `eval_kl`, `eval_reviews_kl` or `kl` is; None for a metric of the user's own."""
    if name is None:
        return None
    matches = [known for known in LARGER_IS_BETTER if name == known or name.endswith(f"_{known}")]
    return max(matches, key=len, default=None)


def mean_metrics(totals: dict[str, float], latent_size: int) -> dict[str, float]:
    """
    The metrics that [`TraceTrainer`] logs, without prefix.

    Args:
        totals (`dict[str, float]`): what [`LossSums.read`] returns.
        latent_size (`int`): dimensions of a latent.

    Returns:
        `dict[str, float]`: `reconstruction`, `kl`, `reconstruction_other` and `latent_gain` in nats per text,
        `kl_per_segment` and `kl_per_dim` in nats, `gain_per_nat`; each only where it is known.
    """
    metrics = {}
    if totals["texts"]:
        metrics["reconstruction"] = totals["reconstruction"] / totals["texts"]
    if totals["segments"]:
        metrics["kl"] = totals["kl"] / totals["texts"]
        metrics["kl_per_segment"] = totals["kl"] / totals["segments"]
        metrics["kl_per_dim"] = metrics["kl_per_segment"] / latent_size
    if totals["gain_texts"]:
        gain = totals["gain"] / totals["gain_texts"]
        metrics |= {"reconstruction_other": metrics["reconstruction"] + gain, "latent_gain": gain}
        if metrics.get("kl", 0) > 0:
            metrics["gain_per_nat"] = gain / metrics["kl"]
    return metrics


class LossSums:
    """
    Sums of the loss parts over texts since the last log.

    They stay on the device, in float64 where it exists: nothing is read back, so no step waits for them, before
    `read`. Batches that are not finite are left out of the sums; the first step with such a part is kept instead.
    """

    NAMES = ("reconstruction", "kl", "texts", "segments", "tokens", "kl_weight", "gain", "gain_texts")

    def __init__(self, device: torch.device):
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(len(self.NAMES), dtype=dtype, device=device)
        self.first_bad_step = torch.full((2,), torch.inf, dtype=dtype, device=device)  # of reconstruction, KL

    @torch.no_grad()
    def add(
        self,
        outputs: ModelOutput,
        labels: torch.Tensor,
        kl_weight: torch.Tensor | None,
        step: int,
        num_texts: int,
        gain: torch.Tensor | None = None,
    ) -> None:
        """
        Add a batch: `num_texts` texts with mean loss parts `outputs`, at optimizer step `step` (from 1); `gain` is
        what they cost more under other texts' latents, mean nats per text, where that is known.
        """
        zero = self.sums.new_zeros(())
        reconstruction = outputs.reconstruction_loss.to(self.sums)
        kl = zero if outputs.kl_loss is None else outputs.kl_loss.to(self.sums)
        num_segments = zero
        if outputs.latents is not None and outputs.segment_ids is not None:
            # "single" dynamics have one latent however many segments a text has
            num_segments = outputs.segment_ids.amax(dim=1).clamp(0, outputs.latents.shape[1]).sum().to(self.sums)
        num_tokens = labels[..., 1:].ne(-100).sum().to(self.sums)
        weight = zero if kl_weight is None else kl_weight.to(self.sums)
        parts = torch.stack([reconstruction, kl])  # (2,)
        finite = parts.isfinite()
        texts = torch.full_like(zero, num_texts)
        gain = torch.full_like(zero, torch.nan) if gain is None else gain.to(self.sums)
        gained, gain_texts = torch.stack([gain * num_texts, texts]).where(gain.isfinite(), zero)
        row = [texts, num_segments, num_tokens, weight * num_texts, gained, gain_texts]
        row = torch.cat([parts * num_texts, torch.stack(row)])
        self.sums += torch.where(finite.all(), row, zero)
        self.first_bad_step = torch.where(finite, self.first_bad_step, self.first_bad_step.clamp(max=step))

    def read(self, accelerator: Accelerator) -> tuple[dict[str, float], dict[str, int]]:
        """Sums over all processes, and the first bad step of each part that was not finite. Waits for the device."""
        rows = accelerator.gather(torch.cat([self.sums, self.first_bad_step])[None])  # (num_processes, 10)
        number = len(self.NAMES)
        sums, first = rows[:, :number].sum(dim=0).tolist(), rows[:, number:].amin(dim=0).tolist()
        bad = zip(self.NAMES[:2], first, strict=True)
        return dict(zip(self.NAMES, sums, strict=True)), {name: int(step) for name, step in bad if math.isfinite(step)}


__all__ = ["EITHER_WAY", "LARGER_IS_BETTER", "LossSums", "mean_metrics", "trace_metric"]
