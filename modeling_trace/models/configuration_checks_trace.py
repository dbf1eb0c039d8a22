"""Which settings of [`TraceConfig`] can work, alone and together: one line with the remedy for each that cannot."""

import difflib
import json
import os
from typing import TYPE_CHECKING

from transformers.utils import CONFIG_NAME

from .private_trace import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

if TYPE_CHECKING:
    from .configuration_trace import TraceConfig

LATENT_DYNAMICS_VALUES = ("recurrent", "parallel", "independent", "context", "single", "none")
REGISTERED_DYNAMICS: set[str] = set()  # names of users' own, see `register_latent_dynamics`
RESIDUAL_SCALES = ("prior", "none")
POSTERIOR_NORMS = ("layer", "batch", "none")
KL_REDUCTIONS = ("sum", "mean")
SEPARATORS = ("token", "none")

_UNSUITABLE = ("bloom", "xlnet")  # build their own masks
_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}


def check_config_file(folder: str | os.PathLike) -> None:
    """
    Refuse a folder whose config.json is JSON, but no configuration, which Transformers would end at in a traceback.

    Args:
        folder (`str` or `os.PathLike`): a Hub id, and a folder without that file, pass.

    Raises:
        ValueError: for a list, a number or null, and for a `model_type` that is no string.
    """
    path = os.path.join(folder, CONFIG_NAME)
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError, RecursionError):
        return  # Transformers says what is wrong
    got = None if isinstance(value, dict) else f"a JSON {'null' if value is None else type(value).__name__}"
    if got is None and not isinstance(value.get("model_type", ""), str):
        got = f"the `model_type` {value['model_type']!r:.40}"
    if got is not None:
        raise ValueError(
            f"'{path}' must hold the settings of a model as a JSON object, got {got}. Take config.json from the "
            "model's source again."
        )


def check_settings(config: "TraceConfig") -> None:
    """Raise a ValueError, one line with the remedy, for the first setting that cannot work."""
    _check_backbone(config)
    if config.latent_dynamics_class is None:  # else a module that need not be imported to read the configuration
        _check_choice(
            "latent_dynamics",
            config.latent_dynamics,
            (*LATENT_DYNAMICS_VALUES, *sorted(REGISTERED_DYNAMICS)),
            " For dynamics of your own, import the module that registers them.",
        )
    else:  # both are only named in an error, which says what to import: nothing is imported here
        parts = str(config.latent_dynamics_class).split(".")
        if not all(part.isidentifier() or part == "<locals>" for part in parts) or len(parts) < 2:
            raise ValueError(
                "`latent_dynamics_class` must be a module and a class, as 'my_dynamics.SlowWalk', got "
                f"{config.latent_dynamics_class!r:.80}. Leave it out: it is filled in when a model is made."
            )
        if not isinstance(config.latent_dynamics, str):
            raise ValueError(f"`latent_dynamics` must be a name, got {config.latent_dynamics!r:.80}.")
    for name in ("conditional", "residual_posterior", "spectral_norm"):
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"`{name}` must be True or False, got {getattr(config, name)!r}.")
    _check_choice("posterior_norm", config.posterior_norm, POSTERIOR_NORMS)
    _check_choice("residual_scale", config.residual_scale, RESIDUAL_SCALES)
    _check_choice("kl_reduction", config.kl_reduction, KL_REDUCTIONS)
    _check_choice("separator", config.separator, SEPARATORS)
    _check_latent_layer(config)
    _check_rate(config)
    # LayerNorm of one number is zero: a single dimension could carry nothing
    _check_integer("latent_size", config.latent_size, "Use 32 as in the paper.", least=2)
    if config.segment_length is not None:
        _check_integer(
            "segment_length",
            config.segment_length,
            "Use 10 as in the paper, or None for segments of varying length.",
        )
        if config.closing_token_ids is not None:
            raise ValueError(
                f"`closing_token_ids` are for segments of varying length, got them with `segment_length="
                f"{config.segment_length}`. Set segment_length=None."
            )
        # the text needs BOS before and [SEP] after its first segment
        limit = getattr(config.backbone_config, "max_position_embeddings", None)
        if limit is not None and config.segment_length > limit - 2:
            raise ValueError(
                f"`segment_length` must fit the backbone's context of {limit} tokens with BOS and [SEP], "
                f"got {config.segment_length}. Use 10 as in the paper."
            )
    _check_closing_tokens(config)
    if config.encoder_layers is not None:
        remedy = "Use None for all layers, as in the paper."
        _check_integer("encoder_layers", config.encoder_layers, remedy)
        layers = config.backbone_config.num_hidden_layers
        if config.encoder_layers > layers:
            raise ValueError(
                f"`encoder_layers` must be at most the backbone's {layers} layers, got {config.encoder_layers}. "
                f"{remedy}"
            )
    _check_number("posterior_norm_gamma", config.posterior_norm_gamma, "Use 0.7, or 3 as in the paper.", zero=True)
    _check_number("posterior_sigma_init", config.posterior_sigma_init, "Use 0.7, or 1 as in the paper.")
    _check_number("latent_init_scale", config.latent_init_scale, "Use 0.1.", zero=True)
    _check_number("initializer_range", config.initializer_range, "Use 0.02.", zero=True)
    if config.prior_logvar_bound is not None:
        _check_number("prior_logvar_bound", config.prior_logvar_bound, "Use 2, or None as in the paper.")
    if config.sep_token_id is not None:
        _check_integer("sep_token_id", config.sep_token_id, "It is the id of a token.", least=0)
        vocab_size = config.backbone_config.vocab_size
        if not 0 <= config.sep_token_id < vocab_size:
            raise ValueError(
                f"`sep_token_id` must be in the backbone's vocabulary of {vocab_size} tokens, got "
                f"{config.sep_token_id}. TraceForConditionalGeneration.from_backbone adds the token and resizes."
            )
        eos = config.eos_token_id if isinstance(config.eos_token_id, (list, tuple)) else [config.eos_token_id]
        for name, token_id in (
            *(("eos_token_id", token_id) for token_id in eos),
            ("bos_token_id", config.bos_token_id),
            ("pad_token_id", config.pad_token_id),
        ):
            if token_id == config.sep_token_id:
                raise ValueError(
                    f"`sep_token_id` must be a token of its own, got {config.sep_token_id}, which is also `{name}`. "
                    "Add one: tokenizer.add_special_tokens({'sep_token': '[SEP]'})."
                )


def _check_latent_layer(config: "TraceConfig") -> None:
    if config.latent_layer is None:
        return
    layers = config.backbone_config.num_hidden_layers
    remedy = 'Use "middle", or None for the embeddings, as in the paper.'
    good = isinstance(config.latent_layer, int) and not isinstance(config.latent_layer, bool)
    if not good or not 1 <= config.latent_layer < layers:
        raise ValueError(
            f"`latent_layer` must be from 1 to {layers - 1}, one less than the backbone's layers, got "
            f"{config.latent_layer!r}. {remedy}"
        )
    if config.encoder_layers is not None:
        raise ValueError(
            f"`encoder_layers` is for latents at the embeddings, got {config.encoder_layers} with `latent_layer="
            f"{config.latent_layer}`, whose encoder are the layers below. Leave it out, or set latent_layer=None."
        )
    if config.latent_dynamics == "context":
        raise ValueError(
            f"`latent_dynamics='context'` reads the whole text, which one pass with `latent_layer="
            f"{config.latent_layer}` cannot. Set latent_layer=None."
        )


def _check_rate(config: "TraceConfig") -> None:
    _check_number("free_nats", config.free_nats, "Use 1, or 0 as in the paper.", zero=True)
    if not config.free_nats or config.latent_dynamics == "none":
        return
    if config.kl_reduction == "mean":
        raise ValueError(
            f"`free_nats` are nats of a segment's summed KL, got {config.free_nats} with `kl_reduction='mean'`. Set "
            "free_nats=0."
        )
    floor = 0.0
    if config.residual_posterior and config.residual_scale == "prior" and config.posterior_norm == "layer":
        floor = config.latent_size * config.posterior_norm_gamma**2 / 2
    if floor >= config.free_nats:
        raise ValueError(
            f"`free_nats` must be above the KL's floor of {floor:.3g} nats (`posterior_norm='layer'`, "
            f"`posterior_norm_gamma={config.posterior_norm_gamma}`), got {config.free_nats}. Set free_nats=0, or "
            "posterior_norm='none'."
        )


def _check_closing_tokens(config: "TraceConfig") -> None:
    ids = config.closing_token_ids
    if ids is None:
        return
    if config.separator != "none":
        raise ValueError(
            f"`closing_token_ids` are for `separator='none'`, got them with separator='{config.separator}'. Leave "
            "them out: [SEP] closes."
        )
    good = isinstance(ids, (list, tuple)) and all(isinstance(x, int) and not isinstance(x, bool) for x in ids)
    eos = config.eos_token_id if isinstance(config.eos_token_id, (list, tuple)) else [config.eos_token_id]
    control = {config.sep_token_id, config.bos_token_id, config.pad_token_id, *eos}
    if good and control.intersection(ids):
        raise ValueError(
            f"`closing_token_ids` must be tokens of the text, got {control.intersection(ids).pop()}, which is "
            "BOS, EOS, PAD or [SEP]. Use TraceProcessor(...).closing_token_ids."
        )
    if not good or not ids or not all(0 <= x < config.backbone_config.vocab_size for x in ids):
        raise ValueError(
            f"`closing_token_ids` must be ids of tokens in the backbone's vocabulary, got {ids!r:.80}. Use "
            "TraceProcessor(...).closing_token_ids."
        )


def _check_backbone(config: "TraceConfig") -> None:
    backbone = config.backbone_config
    name = backbone.model_type
    kind = None
    if getattr(backbone, "is_encoder_decoder", False):
        kind = "an encoder-decoder"
    elif name in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        kind = "an encoder-only model"
    elif name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        kind = "not a causal language model"
    elif name in _UNSUITABLE or set(getattr(backbone, "layer_types", None) or ()) - _ATTENTION_LAYERS:
        kind = "whose layers do not take the segment masks"
    if kind is not None:
        raise ValueError(
            f"`backbone_config` must be a decoder-only language model, got '{name}', {kind}. "
            "Use GPT-2, Llama, Qwen or another causal language model."
        )


def _check_choice(name, value, choices, remedy=""):
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else remedy
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.{hint}")


def _check_integer(name, value, remedy, least=1):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer >= {least}, got {value!r}. {remedy}")


def _check_number(name, value, remedy, zero=False):
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not (0 < value < float("inf") or (zero and value == 0)):
        raise ValueError(f"`{name}` must be a number {'>=' if zero else '>'} 0, got {value!r}. {remedy}")


__all__ = [
    "KL_REDUCTIONS",
    "LATENT_DYNAMICS_VALUES",
    "POSTERIOR_NORMS",
    "REGISTERED_DYNAMICS",
    "RESIDUAL_SCALES",
    "SEPARATORS",
    "check_config_file",
    "check_settings",
]
