"""
Where the text is read for the latents, and where the latents enter: for both architectures, here and nowhere else.

    latent_layer None   c_t, h_t: passes of the backbone as an encoder      z enters at the embeddings (paper Sec. 4.1)
    latent_layer k      c_t: the residual stream after layer k of the       z enters there
                        decoder's own pass, which knows nothing of z
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from .backbones_trace import first_layers, layer_stack
from .cache_trace import TraceCache
from .gaussian_trace import SegmentLatents
from .latent_entry_trace import LatentEntry
from .likelihood_trace import evaluation_mode
from .output_trace import TraceOutput
from .private_trace import create_bidirectional_mask
from .segments_trace import (
    ENCODER_MASKS,
    SegmentLayout,
    check_prompts,
    gather_positions,
    last_token_index,
    make_layout,
    token_positions,
)
from .state_reader_trace import StateReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .configuration_trace import TraceConfig
    from .dynamics_trace import LatentDynamics

# For passes that are not the decoder's: the config may ask for the hidden states of every pass, and the hooks that
# record them would be put on the shared layers once for each
_NOT_CAPTURED = {"output_hidden_states": False, "output_attentions": False}
# Tokens that `residual_rms` looks at
_RMS_TEXTS, _RMS_LENGTH = 8, 32


class EncodingMixin:
    """
    The part of [`TraceForConditionalGeneration`] that knows of both architectures.
    """

    if TYPE_CHECKING:  # what it needs of its host
        config: TraceConfig
        training: bool
        has_latents: bool
        backbone: PreTrainedModel
        dynamics: LatentDynamics
        latent_injection: nn.Module
        state_reader: StateReader | None  # None at the embeddings, as is
        latent_entry: LatentEntry | None

        def get_input_embeddings(self) -> nn.Embedding: ...
        def eval(self) -> nn.Module: ...
        def train(self, mode: bool) -> nn.Module: ...
        def _segment_ids(self, input_ids, attention_mask, segment_ids) -> torch.Tensor: ...
        def _check_length(self, input_ids) -> None: ...

    # ---- what a user reads ----

    def encode(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
        sample_latents: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> TraceOutput:
        """
        The latents of texts and their Gaussians, without a decoder pass.

        Args:
            input_ids, attention_mask, segment_ids: as in [`~TraceForConditionalGeneration.forward`].
            sample_latents (`bool`, *optional*): draw z from the posterior rather than take its mean; by default in
                training mode only.
            generator (`torch.Generator`, *optional*): for the draw.

        Returns:
            [`TraceOutput`] with `latents`, the four Gaussian parameters, `kl_loss` (nats per text) and `segment_ids`.
        """
        if not self.has_latents:
            raise ValueError("`latent_dynamics='none'` is a plain language model, it has no latents to encode.")
        self._check_length(input_ids)
        segment_ids = self._segment_ids(input_ids, attention_mask, segment_ids)
        encoded = self._encode(input_ids, attention_mask, segment_ids, sample_latents, generator)
        return TraceOutput(kl_loss=encoded.kl().sum() / input_ids.shape[0], segment_ids=segment_ids, **encoded)

    def approximation_error(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """
        How far the approximation of TRACE-P (Eq. 12 to 14) is from the exact recurrence, on given texts.

        Args:
            input_ids, attention_mask: as in [`~TraceForConditionalGeneration.forward`].
            generator (`torch.Generator`, *optional*): for the noise, which is the same in both.

        Returns:
            `torch.Tensor` of shape `(num_segments,)`: |z~_t - z_t| / |z_t| by segment, mean over the texts that have
            it; 0 would be exact.
        """
        # not by isinstance: PEFT wraps the latent networks
        if not self.has_latents or not hasattr(self.dynamics, "approximation_error"):
            raise ValueError(
                "`latent_dynamics` must be 'parallel', the only one that approximates, got "
                f"'{self.config.latent_dynamics}'."
            )
        self._check_length(input_ids)
        segment_ids = self._segment_ids(input_ids, attention_mask, None)
        training = self.training
        self.eval()  # no dropout, and batch statistics stay as they are
        try:
            with torch.no_grad():
                states = self._encoder_states(input_ids, attention_mask, segment_ids)
                return self.dynamics.approximation_error(*states, generator=generator)  # type: ignore[operator]
        finally:
            self.train(training)

    # ---- where z enters ----

    def _run_backbone(self, embeds: torch.Tensor, enter: Callable | None, **kwargs):
        """One pass of the backbone; `enter` maps what is at the latents' place, `(B, L, H)`, to what goes on."""
        if enter is None or self.latent_entry is None:
            return self.backbone(inputs_embeds=embeds if enter is None else enter(embeds), **kwargs)
        self.latent_entry.enter = enter
        try:
            return self.backbone(inputs_embeds=embeds, **kwargs)
        finally:
            self.latent_entry.enter = None

    def _inject(self, hidden: torch.Tensor, token_latents: torch.Tensor) -> torch.Tensor:
        """hidden + W_z z, `(B, L, H)`."""
        return hidden + self.latent_injection(token_latents).to(hidden)

    # ---- where states are read: training and scoring ----

    @property
    def packed_hidden_size(self) -> int | None:
        """`hidden_size` of [`SegmentLayout`]: None where no pass reads segments alone, so that none are packed."""
        reads_segments = self.has_latents and self.latent_entry is None and self.dynamics.posterior_pass == "segment"
        return self.config.backbone_config.hidden_size if reads_segments else None

    def _layout(self, segment_ids, layout=None) -> SegmentLayout:
        if layout is None:
            if self.config.conditional:
                check_prompts(segment_ids)
            layout = make_layout(segment_ids, self.packed_hidden_size)
        return layout

    def _encoder_states(
        self, input_ids, attention_mask, segment_ids, layout=None, hidden=None
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """
        What the dynamics read: c_{t-1} (or None), s_t and the steps that a row has.

        `hidden` are the states after `latent_layer` where a decoder pass has come there; without, and at the
        embeddings, the encoder runs by itself.
        """
        layout = self._layout(segment_ids, layout)
        steps = torch.arange(1, layout.num_segments + 1, device=input_ids.device)
        mask = steps <= segment_ids.amax(dim=1, keepdim=True)
        if self.latent_entry is not None:
            if hidden is None:
                hidden = self._trunk_states(input_ids, attention_mask)
            context, states = self.state_reader(hidden, segment_ids, layout.ends.to(input_ids.device))
            # the prior of step t reads c_{t-1}, which has not seen x_t
            return context[:, :-1] if self.dynamics.reads_context else None, states, mask
        return *self._pass_states(input_ids, attention_mask, segment_ids, layout), mask

    def _encode(
        self, input_ids, attention_mask, segment_ids, sample=None, generator=None, layout=None, hidden=None
    ) -> SegmentLatents:
        """The latents of texts: states, then the latent dynamics."""
        return self.dynamics(
            *self._encoder_states(input_ids, attention_mask, segment_ids, layout, hidden),
            sample=self.training if sample is None else sample,
            generator=generator,
        )

    def _trunk_states(self, input_ids, attention_mask) -> torch.Tensor:
        """The residual stream after `latent_layer`, `(B, L, H)`, without the layers above."""
        outputs = []
        trunk = first_layers(self.backbone, self.config.latent_layer)
        last = layer_stack(self.backbone)[1][self.config.latent_layer - 1]
        handle = last.register_forward_hook(lambda module, args, out: outputs.append(out))
        try:
            trunk(
                inputs_embeds=self.get_input_embeddings()(input_ids),
                attention_mask=attention_mask,
                position_ids=None if attention_mask is None else token_positions(attention_mask),
                use_cache=False,
                **_NOT_CAPTURED,
            )
        finally:
            handle.remove()
        return outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]

    def _encoder(self) -> nn.Module:
        """What reads the text for latents at the embeddings: the backbone, or its first layers."""
        layers = self.config.encoder_layers
        return self.backbone if layers is None else first_layers(self.backbone, layers)

    def _encoder_pass(self, **kwargs) -> torch.Tensor:
        """What the encoder makes of `inputs_embeds`, `(rows, L, H)`."""
        return self._encoder()(**kwargs, **_NOT_CAPTURED).last_hidden_state

    def _pass_states(self, input_ids, attention_mask, segment_ids, layout) -> tuple[torch.Tensor | None, torch.Tensor]:
        """c_{t-1} (or None) and s_t by passes of the encoder (paper Sec. 4.1, Fig. 1)."""
        ends = layout.ends.to(input_ids.device)
        posterior_pass, reads_context = self.dynamics.posterior_pass, self.dynamics.reads_context
        names = sorted({posterior_pass, *(["context"] if reads_context else [])} - {"segment"})
        states = {}
        if names:
            # only priors read the context: they have not seen the last segment
            length = layout.context_length if posterior_pass == "segment" else input_ids.shape[1]
            every_pass = self._read(names, input_ids, attention_mask, segment_ids, length)
            last = ends.clamp_max(length - 1).repeat(len(names), 1)
            states = dict(zip(names, gather_positions(every_pass, last).chunk(len(names)), strict=True))
        if posterior_pass == "segment":
            segment_states = self._segment_states(input_ids, attention_mask, segment_ids, layout)
        else:
            segment_states = states[posterior_pass][:, 1:]
        # the prior of step t reads c_{t-1}, which has not seen x_t
        return states["context"][:, :-1] if reads_context else None, segment_states

    def _read(self, names, input_ids, attention_mask, segment_ids, length=None) -> torch.Tensor:
        """Encoder passes over the first `length` tokens as one batch, `(passes * batch_size, length, hidden_size)`."""
        input_ids, segment_ids = input_ids[:, :length], segment_ids[:, :length]
        attention_mask = None if attention_mask is None else attention_mask[:, :length]
        embeds = self.get_input_embeddings()(input_ids)
        config = self.config.backbone_config
        masks = [ENCODER_MASKS[name](config, embeds, attention_mask, segment_ids) for name in names]
        positions = token_positions(torch.ones_like(input_ids) if attention_mask is None else attention_mask)
        return self._encoder_pass(
            inputs_embeds=embeds.repeat(len(names), 1, 1),
            attention_mask=torch.cat(masks),
            position_ids=positions.repeat(len(names), 1),
            use_cache=False,
        )

    def _segment_states(self, input_ids, attention_mask, segment_ids, layout) -> torch.Tensor:
        """
        h_t, `(batch_size, num_segments, hidden_size)`. One call of the encoder however it is laid out: processes that
        share a model's weights (FSDP) must call alike.
        """
        if layout.packed is None:
            states = self._read(["segment"], input_ids, attention_mask, segment_ids)
            return gather_positions(states, layout.ends[:, 1:].to(input_ids.device))
        packed = layout.packed.to(input_ids.device)
        batch_size, rows, width = packed.shape
        index = packed.view(batch_size, -1)
        positions = torch.ones_like(input_ids) if attention_mask is None else attention_mask

        def arrange(values):
            return values.gather(1, index.clamp_min(0)).view(batch_size * rows, width)

        embeds = self.get_input_embeddings()(arrange(input_ids))
        segment_ids = arrange(segment_ids).masked_fill(packed.view(-1, width) < 0, -1)
        states = self._encoder_pass(
            inputs_embeds=embeds,
            attention_mask=ENCODER_MASKS["segment"](self.config.backbone_config, embeds, None, segment_ids),
            position_ids=arrange(token_positions(positions)),
            use_cache=False,
        )
        return gather_positions(states.reshape(batch_size, rows * width, -1), layout.packed_ends.to(input_ids.device))

    # ---- where states are read: generation ----

    def _prompt_states(
        self, cache: TraceCache, hidden, segment_ids, start, total
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        What the latents of a prompt's complete segments read: c_t and s_t for t = 0..total-1, each None where it is
        not read. At the embeddings the context pass leaves its keys and values in the cache.

        Args:
            cache ([`TraceCache`]): its `input_ids` are the prompts.
            hidden (`torch.Tensor` of shape `(rows, sequence_length, hidden_size)`): at the latents' place.
            segment_ids (`torch.LongTensor` of shape `(rows, sequence_length)`).
            start (`torch.LongTensor` of shape `(rows,)`): first token of the open segment.
            total (`int`): the most segments, the open one counted.
        """
        dynamics = self.dynamics
        if self.latent_entry is not None:
            context, states = self.state_reader(hidden, segment_ids, last_token_index(segment_ids, total - 1))
            states = torch.nn.functional.pad(states, (0, 0, 1, 0))  # the prefix has no latent
            return context if dynamics.reads_context else None, states
        end = int(start.max())
        names = {"context"} if dynamics.reads_context else set()
        if total > 1:
            names.add(dynamics.posterior_pass)
        if end == 0:
            shape = (hidden.shape[0], 1, self.config.backbone_config.hidden_size)
            return hidden.new_zeros(shape) if dynamics.reads_context else None, None
        ids, segments = cache.input_ids[:, :end], segment_ids[:, :end]
        position = torch.arange(end, device=ids.device)
        mask = ((segments >= 0) & (position < start.unsqueeze(1))).long()
        segments = segments.masked_fill(mask == 0, -1)
        embeds = self.get_input_embeddings()(ids)
        last = last_token_index(segments, total - 1)

        def read(name):
            past = cache.encoder if name == "context" and dynamics.reads_context else None
            states = self._encoder_pass(
                inputs_embeds=embeds,
                attention_mask=ENCODER_MASKS[name](self.config.backbone_config, embeds, mask, segments),
                position_ids=token_positions(mask),
                cache=past,
                use_cache=past is not None,
            )
            return gather_positions(states, last)

        states = {name: read(name) for name in names}
        return states.get("context") if dynamics.reads_context else None, states.get(dynamics.posterior_pass)

    def _closed_states(self, cache: TraceCache, hidden, closed: torch.Tensor) -> torch.Tensor | None:
        """
        c_t of the segments that rows closed with their last token, `(rows, hidden_size)`; any values where a row
        closed none, and None where the prior does not read it.
        """
        if not self.dynamics.reads_context:
            return None
        if self.latent_entry is not None:
            return self.state_reader.read(hidden[:, -1])
        states = hidden.new_zeros(hidden.shape[0], hidden.shape[-1])
        rows = closed.nonzero().squeeze(-1)
        return states if rows.numel() == 0 else states.index_copy(0, rows, self._encode_closed(cache, rows))

    def _encode_closed(self, cache: TraceCache, rows: torch.Tensor) -> torch.Tensor:
        """
        c_t of the segments that `rows` just closed, `(n, hidden_size)`: their tokens, once, against the cached ones.

        Keys are the cached slots, then the window of new tokens, which starts at each row's own place: it is ragged.
        """
        input_ids, attention_mask = cache.input_ids, cache.attention_mask
        start, total = cache.segment_start[rows], input_ids.shape[1]
        past_length = int(start.max())
        lengths = total - start
        offsets = torch.arange(int(lengths.max()), device=input_ids.device)
        window = offsets < lengths.unsqueeze(1)  # (n, width)
        columns = (start.unsqueeze(1) + offsets).clamp_max(total - 1)
        ids = input_ids[rows].gather(1, columns)
        if attention_mask is None:
            real, positions = torch.ones_like(input_ids[rows]), columns
        else:
            real = attention_mask[rows]
            positions = token_positions(real).gather(1, columns)
        slots = torch.arange(past_length, device=input_ids.device)
        seen = (slots < start.unsqueeze(1)) & real[:, :past_length].bool()
        embeds = self.get_input_embeddings()(ids)
        past = cache.encoder_past(rows, past_length)
        states = self._encoder_pass(
            inputs_embeds=embeds,
            # a token of the window sees all of its own segment and all that the row encoded before
            attention_mask=create_bidirectional_mask(
                self.config.backbone_config,
                embeds,
                torch.cat([seen, window], dim=1).long(),
                cache=past,
                allow_is_bidirectional_skip=False,
            ),
            position_ids=positions,
            cache=past,
            use_cache=True,
        )
        cache.store_encoder(rows, past, past_length, window, total)
        return gather_positions(states, (lengths - 1).unsqueeze(1)).squeeze(1)

    # ---- a trunk that is not trained ----

    def freeze_trunk(self) -> None:
        """
        Train only what is above `latent_layer`, and the latent networks: the embeddings (and a head that is tied to
        them) and the layers below get no gradient, and nothing of their pass is kept for one.

        Raises:
            ValueError: for a model whose latents enter at the embeddings, which has no trunk.
        """
        if self.latent_entry is None:
            raise ValueError("`freeze_trunk` needs a `latent_layer`, got None: at the embeddings there is no trunk.")
        below = list(layer_stack(self.backbone)[1])[: self.config.latent_layer]
        for module in (*(m for m in self.backbone.modules() if isinstance(m, nn.Embedding)), *below):
            module.requires_grad_(False)

    # ---- the size of what z is added to ----

    @torch.no_grad()
    def residual_rms(self, input_ids: torch.Tensor | None = None) -> float:
        """
        Root mean square of what W_z z is added to: the embeddings, or the residual stream after `latent_layer`.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): text to look at. By
                default 8 rows of 32 tokens, spread over the vocabulary.

        Returns:
            `float`: the median over tokens, which a few tokens with huge states (the first of a text, mostly) do not
            move.
        """
        if input_ids is None:
            backbone = self.config.backbone_config
            length = min(_RMS_LENGTH, getattr(backbone, "max_position_embeddings", None) or _RMS_LENGTH)
            # where the backbone is: the new parts, which come first in the model, may not be there yet
            numbers = torch.arange(_RMS_TEXTS * length, device=self.get_input_embeddings().weight.device)
            # a fixed spread, not a draw: building a model leaves the random generator alone. 7919 is prime.
            input_ids = (numbers * 7919 % backbone.vocab_size).view(_RMS_TEXTS, length)
        with evaluation_mode(self):  # type: ignore[arg-type]  # no dropout
            if self.latent_entry is None:
                hidden = self.get_input_embeddings()(input_ids)
            else:
                hidden = self._trunk_states(input_ids, None)
        return hidden.float().square().mean(dim=-1).sqrt().median().item()


__all__ = ["EncodingMixin"]
