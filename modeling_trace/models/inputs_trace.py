"""What [`TraceForConditionalGeneration`] is called with: refused in one line where it would be ignored or misread."""

from typing import TYPE_CHECKING

import torch
from transformers.utils import logging

from .cache_trace import TraceCache

if TYPE_CHECKING:
    from .configuration_trace import TraceConfig
    from .segments_trace import SegmentRule

logger = logging.get_logger(__name__)

AS_REMOTE_CODE = not __name__.startswith("modeling_trace.")  # without the package, and so without its processor

# What collators that join texts say where each begins, besides `position_ids` that start again
_PACKING_ARGUMENTS = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}


def _check_mask(attention_mask) -> None:
    if attention_mask is not None and (not torch.is_tensor(attention_mask) or attention_mask.dim() != 2):
        got = tuple(attention_mask.shape) if torch.is_tensor(attention_mask) else type(attention_mask).__name__
        raise ValueError(
            f"`attention_mask` must be of shape (batch_size, sequence_length), 0 for padding, got {got}. The model "
            "makes the masks of its passes from it."
        )


class InputChecksMixin:
    """
    The part of [`TraceForConditionalGeneration`] that looks at its inputs before anything is computed.
    """

    _target_checks = 8  # training batches left to look at, see `_check_targets`

    if TYPE_CHECKING:  # what it needs of its host
        config: TraceConfig
        has_latents: bool

        @property
        def segment_rule(self) -> SegmentRule: ...

    def _check_length(self, input_ids) -> None:
        limit = getattr(self.config.backbone_config, "max_position_embeddings", None)
        if limit is not None and input_ids.shape[1] > limit:
            raise ValueError(
                f"`input_ids` must fit the backbone's context of {limit} tokens, got {input_ids.shape[1]}. "
                f"Truncate at whole segments: prepare_dataset(..., max_length={limit})."
            )

    def _check_inputs(self, input_ids, attention_mask, position_ids, token_latents, cache, other) -> None:
        """Refuse what would be ignored, or taken for something else, where the model must see whole texts."""
        if not (self.has_latents or self.config.conditional):
            return
        _check_mask(attention_mask)
        if token_latents is not None or isinstance(cache, TraceCache):  # generation, which knows its rows
            return
        if self.has_latents and cache is not None and cache.get_seq_length():
            raise ValueError(
                f"`cache` holds {cache.get_seq_length()} tokens without their latents, so that `input_ids` cannot be "
                "segmented. Pass the whole text without a cache, or use generate()."
            )
        packed = sorted(_PACKING_ARGUMENTS.intersection(name for name, value in other.items() if value is not None))
        if position_ids is not None and not packed:
            back = position_ids[..., 1:] < position_ids[..., :-1]
            if attention_mask is not None:  # padding may stand at any position
                own = attention_mask[:, -position_ids.shape[-1] :]  # with a cache the mask is of what it holds, too
                back = back & (own[:, 1:] * own[:, :-1]).bool()
            packed = ["position_ids"] if bool(back.any()) else []
        if packed:
            raise ValueError(
                f"`{packed[0]}` says that a row holds several texts, through which segments and latents would run on. "
                "Pass one text a row: TraceDataCollator pads them."
            )

    def _check_targets(self, input_ids, attention_mask, labels) -> None:
        """
        Refuse labels in which a collator took the ends of texts, or unknown words, for padding, whose id they have:
        texts would learn no end, and no loss would show it.

        To look means to wait for the device, so only the first training batches are looked at; none under
        torch.compile, whose graph would break.
        """
        if not torch.is_tensor(attention_mask) or not attention_mask.shape == labels.shape == input_ids.shape:
            return
        self._target_checks -= 1
        real = attention_mask != 0
        inside = real & (real.cumsum(dim=1) > 1)  # BOS may be EOS, too
        if self.config.conditional:
            inside &= (input_ids == self.config.sep_token_id).cumsum(dim=1) > 0
        inside &= (labels != -100).any(dim=1, keepdim=True)
        eos, pad = self.config.eos_token_id, self.config.pad_token_id
        for name, token in {"pad_token_id": pad, "eos_token_id": eos}.items():
            if token is None:
                continue
            found = inside & torch.isin(input_ids, torch.as_tensor(token, device=input_ids.device))
            number, kept = torch.stack([found.sum(), (found & (labels != -100)).sum()]).tolist()
            if number and not kept:
                what = "`eos_token_id`, so that texts would learn no end" if token == eos else f"`{name}`"
                raise ValueError(
                    f"`labels` must hold all tokens of texts, got -100 for each of {number} that are no padding by "
                    f"`attention_mask` but have the id {token} of {what}. Use TraceDataCollator(processor)."
                )

    def _warn_of_prompts(self, input_ids, attention_mask) -> None:
        """Say once of prompts that cannot be right what they lack: they were not made by the saved tokenizer."""
        mask = attention_mask
        if mask is None or mask.dim() != 2:
            pad = self.config.pad_token_id
            mask = torch.ones_like(input_ids) if pad == self.config.bos_token_id else input_ids != pad
        first = input_ids.gather(1, mask.long().argmax(dim=1, keepdim=True))
        if self.config.bos_token_id is not None and bool((first != self.config.bos_token_id).any()):
            logger.warning_once(
                f"A prompt does not start with BOS (token {self.config.bos_token_id}), as every text did in training. "
                "Use the tokenizer that was saved with the model, which writes it, with add_special_tokens=True."
            )
        rule = self.segment_rule
        if rule.separator != "token" or rule.one_per_text:
            return
        if rule.segment_length is None:  # what ends a segment, [SEP] alone can say
            if not AS_REMOTE_CODE or rule.conditional:
                return
            open_alone = (input_ids != rule.sep_token_id).all(dim=1) & (mask.sum(dim=1) > 1)  # and not BOS alone
            if bool(open_alone.any()):
                logger.warning_once(
                    "A prompt without [SEP] is one open segment. If it holds more (this model was trained on segments "
                    "of varying length, such as sentences), [SEP] must stand after each: "
                    "TraceProcessor(prompts, add_eos=False) of the package modeling_trace writes it."
                )
            return
        segments = rule.segment_ids(input_ids, mask).masked_fill(input_ids == rule.sep_token_id, -1)
        counts = torch.zeros_like(segments).scatter_add(1, segments.clamp_min(0), (segments > 0).long())
        if int(counts.max()) > rule.segment_length:
            logger.warning_once(
                f"A prompt has a segment of {int(counts.max())} tokens, which the model never saw: it writes [SEP] "
                f"after every {rule.segment_length}, and so must prompts. TraceProcessor(prompts, add_eos=False) of "
                "the package modeling_trace does."
            )

    def _segment_ids(self, input_ids, attention_mask, segment_ids) -> torch.Tensor:
        _check_mask(attention_mask)
        if segment_ids is None:
            return self.segment_rule.segment_ids(input_ids, attention_mask)
        if segment_ids.shape != input_ids.shape:
            raise ValueError(
                f"`segment_ids` must have the shape of `input_ids` {tuple(input_ids.shape)}, "
                f"got {tuple(segment_ids.shape)}."
            )
        return segment_ids if attention_mask is None else segment_ids.masked_fill(attention_mask == 0, -1)

    def _check_latents(self, latents, input_ids, segment_ids) -> None:
        wanted = (input_ids.shape[0], max(1, int(segment_ids.max())), self.config.latent_size)
        good = latents.dim() == 3 and latents.shape[0] == wanted[0] and latents.shape[2] == wanted[2]
        if not good or latents.shape[1] < wanted[1]:
            raise ValueError(
                f"`latents` must have shape (batch_size, num_segments, latent_size) = {wanted}, "
                f"got {tuple(latents.shape)}."
            )
        if not latents.isfinite().all():
            raise ValueError("`latents` must be finite, got NaN or infinite values. Only generate() draws for NaN.")


__all__ = ["InputChecksMixin"]
