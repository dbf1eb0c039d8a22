"""TRACE: a decoder-only language model with one recurrent latent variable per text segment (paper Sec. 4)."""

import copy
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModel,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.generation import GenerationMixin
from transformers.utils import ModelOutput, find_adapter_config_file, logging

from .backbones_trace import (
    LOADING_ARGUMENTS,
    add_separator,
    check_head,
    layer_stack,
    load_backbone,
    special_tokens,
)
from .cache_trace import TraceCache
from .checksums_trace import CHECKSUMS_NAME, WEIGHT_FILES, write_checksums
from .configuration_trace import LATENT_DYNAMICS_VALUES, TraceConfig
from .dynamics_trace import LATENT_DYNAMICS, PriorNetwork, RecurrentMatrix, check_buffers, dynamics_class
from .editing_trace import LatentEditingMixin
from .encoding_trace import EncodingMixin, StateNorm, StateReader, open_layer
from .gaussian_trace import PosteriorNorm, at_least_float32, free_bits, gaussian_kl
from .generation_trace import SegmentGenerationMixin
from .inputs_trace import InputChecksMixin
from .likelihood_trace import LikelihoodMixin
from .private_trace import can_return_tuple, keeps_running_state
from .segments_trace import (
    SegmentLayout,
    SegmentRule,
    broadcast_segments,
    check_prompts,
    next_segment_ids,
    token_positions,
)

logger = logging.get_logger(__name__)


def _sharing() -> Any:
    """`modeling_trace.sharing`, which writes model cards and does not travel; None in the code beside a model."""
    return importlib.import_module("..sharing", __package__) if __package__ == "modeling_trace.models" else None


# The Auto classes of a saved model, in its own folder
AUTO_MAP = {
    "AutoConfig": "configuration_trace.TraceConfig",
    "AutoModel": "modeling_trace.TraceForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_trace.TraceForConditionalGeneration",
}
# Above this many logits (64 MiB of float32) training computes the loss in pieces of the batch.
_MAX_LOGITS = 2**24


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
        prior_mean, prior_logvar, posterior_mean, posterior_logvar (`torch.FloatTensor` of shape
            `(batch_size, num_segments, latent_size)`): the Gaussians that z_t was drawn from and is measured against.
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


class TracePreTrainedModel(PreTrainedModel):
    config_class = TraceConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = False  # the encoder passes need masks that FlashAttention does not take
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    @property
    def device(self) -> torch.device:
        """Where input goes: the device of the weights, or that to which Accelerate brings those it has put away."""
        device = super().device
        hook = getattr(self.get_input_embeddings(), "_hf_hook", None) if device.type == "meta" else None
        return device if hook is None else torch.device(hook.execution_device)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args, **kwargs) -> Any:
        """
        As in Transformers, from safetensors only; weights that are damaged or do not fit the configuration, and an
        adapter's folder, are one line.
        """
        kwargs.setdefault("use_safetensors", True)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError:
            hub = {name: kwargs[name] for name in ("cache_dir", "revision", "subfolder", "token") if name in kwargs}
            if find_adapter_config_file(pretrained_model_name_or_path, **hub) is None:
                raise
            raise ValueError(
                f"'{pretrained_model_name_or_path}' holds an adapter, not a whole model. Load it by "
                f"modeling_trace.load_model('{pretrained_model_name_or_path}'), or by load_adapter_model of "
                "modeling_trace.training to train on."
            ) from None
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise ValueError(
                f"The weights in '{pretrained_model_name_or_path}' have other sizes than its config.json says (see "
                "the report above). Take config.json from where the weights come from, or pass "
                "ignore_mismatched_sizes=True to start those weights anew."
            ) from None
        except Exception as error:
            if type(error).__name__ != "SafetensorError":  # of a package that Transformers brings, not this file
                raise
            raise ValueError(
                f"The weights in '{pretrained_model_name_or_path}' are damaged: {error}. Copy them again, or use an "
                "earlier checkpoint."
            ) from error

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs,
    ) -> None:
        """
        As in Transformers; beside the weights lie SHA256SUMS, which [`load_model`] compares them with, and the model
        card, where this package is imported.
        """
        if is_main_process:
            Path(save_directory, CHECKSUMS_NAME).unlink(missing_ok=True)  # of the weights that are written over
        super().save_pretrained(save_directory, is_main_process, **kwargs)
        if is_main_process:
            write_checksums(save_directory, WEIGHT_FILES)
            if (sharing := _sharing()) is not None:
                sharing.write_card(save_directory, self.config)
        if push_to_hub:
            self.push_to_hub(repo_id or os.path.basename(os.path.abspath(save_directory)), token=kwargs.get("token"))

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """
        As in Transformers, in one commit and with the model's own card, where this package is imported.

        Args:
            repo_id (`str`): `"user/name"`, or `"name"` for one of the user's own.
            **kwargs: of `PreTrainedModel.push_to_hub`: `private`, `token`, `revision`, `commit_message`, ...
        """
        sharing = _sharing()
        return (super().push_to_hub if sharing is None else partial(sharing.push_model, self))(repo_id, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module):
        std = self.config.initializer_range
        if isinstance(module, PosteriorNorm):
            nn.init.constant_(module.bias, module.beta_init)
            if module.kind == "batch":
                nn.init.zeros_(module.running_mean)
                nn.init.ones_(module.running_var)
        elif isinstance(module, ParametrizationList):  # spectral norm. The layer has no weight of its own
            nn.init.normal_(module.original, std=std)
            for vector in module.buffers():  # singular vectors: of the weight before, or of nothing when loading
                nn.init.constant_(vector, vector.shape[0] ** -0.5)
            training = module.training
            for _ in range(15):
                module.train()()  # computing it in training mode is a power iteration
            module.train(training)
        elif isinstance(module, LatentInjection):
            # E[(W_z z)^2] = latent_size std^2 for z ~ N(0, I)
            scale = self.config.latent_init_scale / self.config.latent_size**0.5
            nn.init.normal_(module.weight, std=scale * module.residual_rms)
        elif isinstance(module, (nn.Linear, PriorNetwork)):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, RecurrentMatrix) and not nn.utils.parametrize.is_parametrized(module):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, TraceForConditionalGeneration):
            # the buffer is in no checkpoint: loading leaves it as it comes
            nn.init.ones_(module.kl_weight)
        elif isinstance(module, StateNorm):
            nn.init.constant_(module.weight, module.scale)
            nn.init.zeros_(module.bias)


class LatentInjection(nn.Linear):
    """
    W_z: adds W_z z_t to the token embeddings (paper Sec. 4.1, end), or to the residual stream after `latent_layer`.

    Starts as large as `config.latent_init_scale` says in units of what it is added to (`residual_rms`): z must be
    heard, and must not drown what the backbone knows.
    """

    def __init__(self, config: TraceConfig):
        super().__init__(config.latent_size, config.backbone_config.hidden_size, bias=False)
        # Until it is measured, which ZeRO-3 prevents: weights that are dealt out cannot be run at once
        self.residual_rms = 1.0
        if config.latent_layer is None:
            self.residual_rms = getattr(config.backbone_config, "initializer_range", 0.02)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """W_z z, `(..., hidden_size)`, in the precision of W_z."""
        return super().forward(latents.to(self.weight.dtype))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # an adapter (PEFT) comes here with its weights only: say which setting it was made with
        saved = state_dict.get(f"{prefix}weight")
        if saved is not None and saved.numel() and saved.shape[-1] != self.in_features:  # ZeRO-3 leaves it empty
            raise ValueError(
                f"`latent_size` of the saved weights is {saved.shape[-1]}, the model's is {self.in_features}. Build "
                f"the model with latent_size={saved.shape[-1]}."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _is_plain_product(head: nn.Module) -> bool:
    """
    Whether x W^T + b is all that a head does, and its weight is there to be read outside of its forward: not under
    PEFT, nor where hooks bring the weight or put the logits together (offloading, tensor parallelism).
    """
    hooked = hasattr(head, "_hf_hook") or head._forward_pre_hooks or head._forward_hooks
    elsewhere = head.weight.is_meta or hasattr(head.weight, "device_mesh")  # a part of a DTensor
    return not (hooked or hasattr(head, "base_layer") or elsewhere)


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
            ValueError: for a training step without labels (label smoothing takes them away), `shift_labels`, rows of
                several packed texts, a cache of tokens without latents, and masks that are not of two dimensions.

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
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        if cache is None:
            self._check_length(tokens)
        if labels is not None and use_cache is None:
            use_cache = False  # a loss needs no keys and values afterwards
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


__all__ = ["TraceForConditionalGeneration", "TraceOutput", "TracePreTrainedModel"]
