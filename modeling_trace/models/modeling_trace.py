"""TRACE: a decoder-only language model with one recurrent latent variable per text segment (paper Sec. 4)."""

import copy
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.generation import GenerationMixin

from .backbones_trace import (
    LOADING_ARGUMENTS,
    add_separator,
    check_head,
    layer_stack,
    load_backbone,
    special_tokens,
)
from .cache_trace import TraceCache
from .configuration_checks_trace import LATENT_DYNAMICS_VALUES
from .configuration_trace import TraceConfig
from .dynamics_registry_trace import LATENT_DYNAMICS, check_buffers, dynamics_class
from .editing_trace import LatentEditingMixin
from .encoding_trace import EncodingMixin
from .generation_trace import SegmentGenerationMixin
from .inputs_trace import InputChecksMixin
from .latent_entry_trace import LatentInjection, open_layer
from .likelihood_trace import LikelihoodMixin
from .loss_trace import LossMixin
from .output_trace import TraceOutput
from .pretrained_trace import TracePreTrainedModel
from .private_trace import can_return_tuple, keeps_running_state
from .segments_trace import (
    SegmentLayout,
    SegmentRule,
    broadcast_segments,
    check_prompts,
    next_segment_ids,
    token_positions,
)
from .state_reader_trace import StateReader

# The Auto classes of a saved model, in its own folder
AUTO_MAP = {
    "AutoConfig": "configuration_trace.TraceConfig",
    "AutoModel": "modeling_trace.TraceForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_trace.TraceForConditionalGeneration",
}


def _has_meta(module: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in module.parameters())


def _settings_of(processor) -> dict:
    """The fields of [`TraceConfig`] that a `TraceProcessor` decides."""
    settings = {"conditional": processor.conditional}
    if processor.segmenter is not None:
        settings |= {name: getattr(processor, name) for name in ("segment_length", "separator", "closing_token_ids")}
    return settings


class TraceForConditionalGeneration(
    TracePreTrainedModel,
    EncodingMixin,
    LossMixin,
    SegmentGenerationMixin,
    LatentEditingMixin,
    LikelihoodMixin,
    InputChecksMixin,
    GenerationMixin,
):
    """
    A decoder-only Transformers language model as a segment-wise variational autoencoder with recurrent latents.

    Build it from a language model with [`~TraceForConditionalGeneration.from_backbone`], or load a saved one with
    `from_pretrained`. With `latent_dynamics="none"` it is the plain language model.

    Example:

    ```python
    >>> from transformers import GPT2Config
    >>> from modeling_trace import TraceConfig, TraceForConditionalGeneration

    >>> backbone = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2)
    >>> model = TraceForConditionalGeneration(
    ...     TraceConfig(backbone_config=backbone, sep_token_id=99, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    ... )
    >>> model.generate(min_new_tokens=20, max_new_tokens=20).shape
    torch.Size([1, 21])
    ```
    """

    _tp_plan = {"lm_head": "colwise_gather_output"}  # tied to embeddings that tensor parallelism splits

    def __init__(self, config: TraceConfig, backbone: PreTrainedModel | None = None, lm_head: nn.Module | None = None):
        super().__init__(config)
        config.check()
        self.has_latents = config.latent_dynamics != "none"
        if self.has_latents:
            cls = dynamics_class(config)
            self.dynamics = cls(config)
            config.latent_dynamics_class = None
            if config.latent_dynamics not in LATENT_DYNAMICS_VALUES:
                check_buffers(self.dynamics)
                config.latent_dynamics_class = f"{cls.__module__}.{cls.__qualname__}"
            self.latent_injection = LatentInjection(config)
        self.one_latent_per_text = self.has_latents and self.dynamics.one_per_text
        # a plain language model, and one latent for the whole text, have no segments to separate
        segments = self.has_latents and not self.one_latent_per_text
        if config.sep_token_id is None and (config.conditional or (segments and config.separator == "token")):
            raise ValueError(
                "`sep_token_id` is needed for segments and prompts, got None. Build the model by "
                "TraceForConditionalGeneration.from_backbone, which adds [SEP], or pass the id."
            )
        if (
            segments
            and config.separator == "none"
            and (config.segment_length, config.closing_token_ids) == (None, None)
        ):
            raise ValueError(
                "`closing_token_ids` are needed for segments of varying length with `separator='none'`, got None. "
                "Pass TraceProcessor(...).closing_token_ids, or set separator='token'."
            )
        self.backbone = AutoModel.from_config(config.backbone_config) if backbone is None else backbone
        if keeps_running_state(type(self.backbone)):
            raise ValueError(
                f"`backbone` '{config.backbone_config.model_type}' keeps a running state, which segment masks do not "
                "reach. Use a model with attention only: GPT-2, Llama or Qwen."
            )
        hidden_size, vocab_size = config.backbone_config.hidden_size, config.backbone_config.vocab_size
        self.latent_entry = self.state_reader = None  # at the embeddings: see `EncodingMixin`
        if config.latent_layer is not None and self.has_latents:
            self._check_passes()
            self.latent_entry = open_layer(layer_stack(self.backbone)[1][config.latent_layer])
            self.state_reader = StateReader(hidden_size)
        self.lm_head = nn.Linear(hidden_size, vocab_size, bias=False) if lm_head is None else lm_head
        # Weight of the KL in the loss. A schedule writes to it; it is 1, the ELBO, in every saved or loaded model.
        self.register_buffer("kl_weight", torch.ones(()), persistent=False)
        embedding = self.backbone.get_input_embeddings()
        name = next(name for name, module in self.backbone.named_modules() if module is embedding)
        self._tied_weights_keys = {"lm_head.weight": f"backbone.{name}.weight"}
        self.accepts_loss_kwargs = True  # the loss divides by num_items_in_batch
        self._is_stateful = self.has_latents  # a latent that was drawn cannot be taken back: no assisted decoding
        # save_pretrained registers one Auto class only; a saved model loads by all of them, also without this package
        config.auto_map = {**(getattr(config, "auto_map", None) or {}), **AUTO_MAP}
        self.post_init()
        if self.has_latents:
            self._start_injection()

    @property
    def segment_rule(self) -> SegmentRule:
        """Where segments end, by the special tokens that the config names now."""
        return SegmentRule.of(self.config, self.one_latent_per_text)

    def _check_passes(self) -> None:
        if self.dynamics.posterior_pass == "whole" and not self.one_latent_per_text:
            raise ValueError(
                f"`posterior_pass='whole'` of {type(self.dynamics).__name__} reads the whole text, which one pass "
                f"with `latent_layer={self.config.latent_layer}` cannot. Set latent_layer=None, or read the context."
            )

    def _start_injection(self) -> None:
        """Draw W_z again, now that what it is added to can be measured. Not while loading: it is in the checkpoint."""
        if _has_meta(self) or any(hasattr(p, "ds_id") for p in self.parameters()):
            return
        self.latent_injection.residual_rms = self.residual_rms()
        self._init_weights(self.latent_injection)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def get_decoder(self) -> PreTrainedModel:
        return self.backbone

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args, **kwargs) -> nn.Embedding:
        """As in Transformers, but never without the row of [SEP], which a tokenizer may not know of."""
        sep = self.config.sep_token_id
        if new_num_tokens is not None and sep is not None and new_num_tokens <= sep:
            raise ValueError(
                f"`new_num_tokens` must keep the row of [SEP], whose id is {sep}, got {new_num_tokens}. Use "
                f"{sep + 1} or more, or the tokenizer that was saved with the model, which has [SEP]."
            )
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    @classmethod
    def from_backbone(
        cls, backbone: str | os.PathLike | PreTrainedModel, tokenizer: Any = None, **kwargs
    ) -> "TraceForConditionalGeneration":
        """
        Turn a pretrained decoder-only language model into TRACE: start the latent networks and, where it is needed,
        add [SEP] and resize.

        Args:
            backbone (`str` or `PreTrainedModel`): a Hub id, a local folder, a path to a GGUF file, the alias
                `"smollm2-135m"`, or a causal language model in memory (which becomes part of the new model).
            tokenizer (`TraceProcessor` or `PreTrainedTokenizerBase`, *optional*): a processor says what segments are
                (`segment_length`, `separator`, `closing_token_ids`, `conditional`), a tokenizer only which ids BOS,
                EOS and PAD have. Where [SEP] is needed it is added in place. Left out, the backbone's own
                tokenizer says which id [SEP] has; for a model in memory without a tokenizer, [SEP] is a new last row.
            **kwargs: fields of [`TraceConfig`]; and arguments of `from_pretrained` such as `revision`, `dtype`
                (float32 unless given) or `attn_implementation`.

        Raises:
            ValueError: for an encoder-only or encoder-decoder backbone, a tokenizer whose [SEP] is EOS, BOS or PAD, or
                an unknown field.

        Example:

        ```python
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from modeling_trace import TraceForConditionalGeneration

        >>> config = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
        >>> lm = GPT2LMHeadModel(config)
        >>> TraceForConditionalGeneration.from_backbone(lm, latent_size=8).config.latent_layer
        1
        >>> TraceForConditionalGeneration.from_backbone(lm, latent_size=8, separator="token").config.sep_token_id
        100
        ```
        """
        config_fields = {field.name for field in fields(TraceConfig)} - {"backbone_config", "dtype"}
        settings = {name: value for name, value in kwargs.items() if name in config_fields}
        loading = {name: value for name, value in kwargs.items() if name in LOADING_ARGUMENTS}
        TraceConfig._check_names(kwargs.keys() - settings.keys() - loading.keys())
        if hasattr(tokenizer, "segment_rule"):  # a TraceProcessor: the model must know what it makes of texts
            settings = {**_settings_of(tokenizer), **settings}
            tokenizer = tokenizer.tokenizer
        name = str(backbone) if isinstance(backbone, (str, Path)) else getattr(backbone, "name_or_path", "")
        if isinstance(backbone, (str, Path)):
            backbone, tokenizer = load_backbone(backbone, tokenizer, loading)
        elif loading:
            raise ValueError(
                f"`{sorted(loading)[0]}` is for loading, but `backbone` is a model in memory. Leave it out."
            )
        if not isinstance(backbone, PreTrainedModel):
            raise ValueError(f"`backbone` must be a name, a path or a PreTrainedModel, got {type(backbone).__name__}.")
        if getattr(backbone, "has_latents", False):
            raise ValueError("`backbone` is a TRACE model already. Load it by from_pretrained.")
        settings = {**special_tokens(backbone.config, tokenizer), **settings}
        # get_text_config: the backbone may be a plain language model that this class saved
        backbone_config = backbone.config.get_text_config()
        # All settings are checked before the backbone is changed, so that a second try finds it as it was.
        known = {name: value for name, value in settings.items() if name != "sep_token_id"}
        TraceConfig(backbone_config=copy.deepcopy(backbone_config), **known)
        if any(hasattr(module, "_hf_hook") for module in backbone.modules()) and _has_meta(backbone):
            raise ValueError(
                "`backbone` has weights that were put away (offloaded to the CPU or a disk), which cannot be changed. "
                "Load it whole, save the new model, and offload that."
            )
        check_head(backbone, backbone_config)
        dynamics = LATENT_DYNAMICS.get(settings.get("latent_dynamics", TraceConfig.latent_dynamics))
        segments = dynamics is not None and not dynamics.one_per_text
        separator = settings.get("separator", TraceConfig.separator)
        if settings.get("conditional") or (segments and separator == "token"):
            settings = add_separator(backbone, tokenizer, settings)
        config = TraceConfig(backbone_config=backbone_config, **settings)
        # base_model is what AutoModel builds from the same config (OPT's decoder alone is not)
        model = cls(config, backbone=backbone.base_model, lm_head=backbone.get_output_embeddings())
        model = model.to(device=backbone.device, dtype=backbone.dtype).eval()
        model.name_or_path = name  # PEFT writes it to an adapter, as what the adapter is for
        for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit"):  # PEFT chooses its layers by these
            if getattr(backbone, flag, False):
                setattr(model, flag, True)
        model.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
        )
        return model

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
        segment_layout: SegmentLayout | None = None,
        latents: torch.Tensor | None = None,
        sample_latents: bool | None = None,
        position_ids: torch.Tensor | None = None,
        cache: DynamicCache | None = None,
        use_cache: bool | None = None,
        token_latents: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> TraceOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                BOS, then the text, with `separator="token"` a [SEP] after each segment but the last, then EOS.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                0 for padding, left or right.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Targets, usually `input_ids` with -100 where there is none; shifted inside the model.
            segment_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Segment of every token, where [`SegmentRule`] is not to find it.
            segment_layout ([`SegmentLayout`], *optional*):
                Where the batch's segments lie, where it was worked out before: the Trainer passes it.
            latents (`torch.Tensor` of shape `(batch_size, num_segments, latent_size)`, *optional*):
                z_1..z_T to decode under, instead of encoding the text. `kl_loss` and the Gaussians are then None.
            sample_latents (`bool`, *optional*):
                Draw z from the posterior rather than take its mean; by default in training mode only.
            token_latents (`torch.Tensor` of shape `(batch_size, sequence_length, latent_size)`, *optional*):
                z of the segment of each *next* token, for incremental decoding: generate() passes it.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Target tokens to divide the loss by, over all processes and accumulated batches: the Trainer passes it.
            logits_to_keep (`int` or `torch.LongTensor`, defaults to 0):
                Logits of only the last so many positions, 0 for all; or of these positions.
            **kwargs: of the backbone; with `latent_dynamics="none"` also `inputs_embeds` in place of `input_ids`.

        Returns:
            [`TraceOutput`].

        Raises:
            ValueError: for a training step without labels (label smoothing takes them away) or with EOS taken for
                padding in them, `shift_labels`, rows of several packed texts, a cache of tokens without latents, and
                masks that are not of two dimensions.

        Note:
            Latents are aligned with targets: the position that predicts token i carries z of the segment of token i.
        """
        inputs_embeds = kwargs.pop("inputs_embeds", None)  # PeftModelForCausalLM passes None
        plain = not (self.has_latents or self.config.conditional)
        if input_ids is None and inputs_embeds is None or inputs_embeds is not None and not plain:
            raise ValueError("`input_ids` is needed, got None. `inputs_embeds` cannot be used: tokens must be seen.")
        if labels is None and num_items_in_batch is not None:
            raise ValueError(
                "`labels` are needed to form the ELBO, got None with `num_items_in_batch`: the trainer has taken them "
                "away. Set label_smoothing_factor=0, and leave out `compute_loss_func`."
            )
        if kwargs.pop("shift_labels", None) is not None:
            raise ValueError("`shift_labels` cannot be used: the model shifts its targets itself. Pass `labels`.")
        past = kwargs.pop("past_key_values", None)  # what Transformers called `cache` before
        if past is not None and cache is not None:
            raise ValueError("`past_key_values` and `cache` are one argument under two names, got both. Pass `cache`.")
        cache = past if cache is None else cache
        self._check_inputs(input_ids, attention_mask, position_ids, token_latents, cache, kwargs)
        looks = not torch.compiler.is_compiling() and self.training and self._target_checks
        if looks and None not in (labels, attention_mask, input_ids):
            self._check_targets(input_ids, attention_mask, labels)
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        if cache is None:
            self._check_length(tokens)
        if labels is not None and use_cache is None:
            use_cache = False  # a loss needs no keys and values afterwards
        for name in ("output_hidden_states", "output_attentions"):
            if getattr(self.config, name, False):  # the backbone has a configuration of its own
                kwargs.setdefault(name, True)
        outputs: dict[str, Any] = {}  # a ModelOutput is slow to write to: generation makes one for every token
        enter: Callable[[torch.Tensor], torch.Tensor] | None = None
        if self.has_latents:
            if token_latents is not None:

                def enter(hidden):
                    return self._inject(hidden, token_latents)

            elif isinstance(cache, TraceCache):  # generate(): latents are drawn on the way

                def enter(hidden):
                    return self._inject(hidden, self._next_latents(cache, hidden))

            else:
                segment_ids = outputs["segment_ids"] = self._segment_ids(input_ids, attention_mask, segment_ids)
                following = next_segment_ids(segment_ids)
                layout = None
                if latents is not None:
                    self._check_latents(latents, input_ids, segment_ids)
                    outputs["latents"] = latents
                else:
                    layout = self._layout(segment_ids, segment_layout)  # before the pass: it is host work

                def enter(hidden):
                    if latents is None:
                        rows = (input_ids, attention_mask, segment_ids)
                        outputs.update(self._encode(*rows, sample_latents, layout=layout, hidden=hidden))
                    return self._inject(hidden, broadcast_segments(outputs["latents"], following))

        elif latents is not None or token_latents is not None:
            raise ValueError("`latents` cannot be used with `latent_dynamics='none'`, a plain language model.")
        if labels is not None and self.config.conditional:  # the prompt is given, not modelled
            if segment_ids is None:
                segment_ids = self._segment_ids(input_ids, attention_mask, None)
                check_prompts(segment_ids)
            labels = labels.masked_fill(segment_ids == 0, -100)

        if position_ids is None and torch.is_tensor(attention_mask) and attention_mask.dim() == 2:
            position_ids = token_positions(attention_mask)[:, -tokens.shape[1] :]
        decoded = self._run_backbone(
            self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds,
            enter,
            attention_mask=attention_mask,
            position_ids=position_ids,
            # generate() hands its latents over in the cache, also where keys and values are not kept
            cache=None if use_cache is False and isinstance(cache, TraceCache) else cache,
            use_cache=use_cache,
            **kwargs,
        )
        outputs.update({name: decoded.get(name) for name in ("hidden_states", "attentions", "cache")})
        hidden = decoded.last_hidden_state
        if labels is None or not self.training:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            outputs["logits"] = self._logits(hidden[:, kept])
        if labels is not None:
            self._set_loss(outputs, hidden, labels, num_items_in_batch)
        return TraceOutput(**outputs)  # in the order of the fields: outputs[0] is the loss


__all__ = ["TraceForConditionalGeneration"]
