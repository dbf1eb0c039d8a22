"""Configuration of TRACE (paper Sec. 4 and 5.2): every setting, its unit, its meaning and the paper's value."""

import difflib
import os
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging

from .configuration_checks_trace import check_config_file, check_settings
from .private_trace import CONFIG_MAPPING, attention_implementation, generation_settings

logger = logging.get_logger(__name__)

VERSION = "0.1.0"  # of this code, also where it lies beside a model: config.json says which version wrote it


# The paper's architecture (Sec. 4.1): two passes of an encoder, z at the embeddings, [SEP], the KL's floor
PAPER_ARCHITECTURE = {
    "latent_layer": None,
    "separator": "token",
    "posterior_norm": "layer",
    "residual_posterior": True,
    "free_nats": 0.0,
    "latent_init_scale": 0.5,
}
# [`TraceConfig.paper`]: Sec. 4.1, 4.2 and 5.2; kl_reduction: from the published values.
PAPER_RECIPE = {
    **PAPER_ARCHITECTURE,
    "latent_size": 32,
    "segment_length": 10,
    "residual_scale": "none",
    "posterior_norm_gamma": 3.0,
    "posterior_sigma_init": 1.0,
    "prior_logvar_bound": None,
    "spectral_norm": True,
    "kl_reduction": "mean",
}

PAPER_WARNING = (
    "The paper's recipe: gamma 3 without a bound on the prior's variance overflows on long texts, and its KL, a mean "
    "over dimensions, is no bound on the likelihood: latents drawn from the prior are then far from those that the "
    "decoder was trained on, and texts break. The defaults of TraceConfig avoid both."
)

# What Transformers itself writes to, or passes from, a config.json besides declared fields.
_LIBRARY_KEYS = frozenset(
    "model_type auto_map name_or_path torch_dtype num_labels attn_implementation experts_implementation "
    "output_attentions quantization_config per_layer_config trust_remote_code custom_pipelines "
    "transformers_weights rope_scaling".split()
)


_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _release(version: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", version)]


def middle_layer(backbone_config: PreTrainedConfig) -> int:
    """
    The `latent_layer` that "middle" stands for: half of the layers are the encoder, half read the latents.

    Args:
        backbone_config (`PreTrainedConfig`): of a backbone of at least 2 layers.

    Raises:
        ValueError: for a backbone of one layer.

    Example:

    ```python
    >>> from transformers import GPT2Config
    >>> from modeling_trace import middle_layer
    >>> middle_layer(GPT2Config(n_layer=12))
    6
    ```
    """
    layers = backbone_config.num_hidden_layers
    if layers < 2:
        raise ValueError(
            f"`latent_layer` needs a backbone of at least 2 layers, got {layers}. Use None for the embeddings, as in "
            "the paper."
        )
    return layers // 2


class TraceConfig(PreTrainedConfig):
    r"""
    Configuration of a [`TraceForConditionalGeneration`].

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, defaults to `GPT2Config()`):
            Configuration of any decoder-only Transformers language model (the paper: GPT-2).
        latent_dynamics (`str`, defaults to `"recurrent"`):
            How latents depend on each other: "recurrent" (TRACE-R, the paper's model), "parallel" (TRACE-P),
            "independent" (IND), "context" (CGD), "single" (No Recurrence) or "none" (plain language model);
            or a name given to [`register_latent_dynamics`].
        latent_dynamics_class (`str`, *optional*):
            Module and class of dynamics that are not built in, as "my_dynamics.SlowWalk". Filled in when a model is
            made; who loads the model imports that module first.
        conditional (`bool`, defaults to `False`):
            Texts have a prompt: `BOS prompt [SEP] | x_1 | x_2 ...`. All up to the first [SEP] is then prefix: no
            latent, no target, and what the prior of z_1 is given. Paper: True on WritingPrompts.
        latent_layer (`int` or `str`, *optional*, defaults to `"middle"`):
            Where latents enter. k from 1 to the backbone's layers - 1: z is added to the residual stream after layer
            k, and layers 1 to k of the same pass are the encoder, so that a text is read once, in training and in
            generation. "middle": half of the layers ([`middle_layer`]). None: at the embeddings, with one or two
            passes of the backbone as encoder before, as in the paper.
        separator (`str`, defaults to `"none"`):
            What closes a segment. "token": a [SEP] that is written into the text, as in the paper. "none": the text
            stays as the backbone knows it; a segment is closed by its last token, every `segment_length` tokens, or at
            each of `closing_token_ids`.
        closing_token_ids (`list[int]`, *optional*):
            With `separator="none"` and segments of varying length: the tokens that close a segment, such as those
            that end a sentence. The first one of several in a row closes. [`TraceProcessor`] knows them.
        latent_size (`int`, defaults to 32):
            Dimensions l of each segment's latent. Paper: 32.
        segment_length (`int`, *optional*, defaults to 10):
            Tokens in a segment, [SEP] not counted; generation then closes a segment exactly there. None for segments
            of varying length (sentences), which the model closes by itself. Paper: 10, or sentences.
        sep_token_id (`int`, *optional*):
            Id of [SEP], a token of its own. Needed where `separator="token"`, and for prompts.
        bos_token_id, eos_token_id, pad_token_id (`int`, *optional*):
            Ids of the token that starts every text, that ends it, and of padding: those of `backbone_config`, where
            they are kept. Given here, they are set there.
        residual_posterior (`bool`, defaults to `False`):
            The posterior is a residual on the prior (Eq. 10). False: the posterior network gives its mean and log
            variance as they are (Table 5, -RP), so that the KL trains the prior, too.
        posterior_norm (`str`, defaults to `"none"`):
            Normalisation of the posterior network's output: "layer" (Eq. 11; keeps the KL above a floor), "batch"
            (Table 5, +BN) or "none" (-LN).
        free_nats (`float`, defaults to 1.0):
            Free bits (Kingma et al. 2016): the loss counts a segment's KL as so many nats where it is less, so that
            latents have that much to say for nothing. The KL and the ELBO that are reported know nothing of it.
        spectral_norm (`bool`, defaults to `True`):
            Spectral normalisation of W_mu1 and W_sigma1, for `latent_dynamics="parallel"` only. False: Table 5, -SN.
        residual_scale (`str`, defaults to `"prior"`):
            Unit of the posterior's mean residual. "prior": posterior mean = mu_t + sigma_t * dmu_t, which keeps every
            segment's KL above latent_size * posterior_norm_gamma^2 / 2 nats whatever the prior learns, as long as the
            learned shift beta is equal in all dimensions. "none": mu_t + dmu_t, the paper's Eq. 10.
        posterior_norm_gamma (`float`, defaults to 0.7):
            Fixed scale of the normalisation of the posterior's residuals (Eq. 11, Theorem 1), no unit. With
            `residual_scale="prior"` it sets the least KL: see [`gamma_for_rate`]. Paper: 3.
        posterior_sigma_init (`float`, defaults to 0.7):
            Standard deviation of the posterior at the start of training, in units of the prior's. With gamma^2 +
            sigma^2 = 1 all posteriors together spread as the prior does, so that the decoder learns from latents like
            those it will be given in generation. Paper: 1.
        prior_logvar_bound (`float`, *optional*, defaults to 2.0):
            Smooth bound c * tanh(x / c) of the prior's log variance. None: the paper's unbounded form, which overflows
            on long texts.
        kl_reduction (`str`, defaults to `"sum"`):
            "sum" over segments and dimensions is the ELBO. "mean" over both is what the paper's KL values imply; it
            is no bound on the likelihood.
        encoder_layers (`int`, *optional*):
            Layers of the backbone that read the text for the latents, the first ones; its last norm follows. Fewer
            make training faster, and the latents know the text less well. None: all, as in the paper.
        latent_init_scale (`float`, defaults to 0.1):
            How large W_z z is at the start of training, z ~ N(0, I), as a fraction of what it is added to: the
            embeddings, or the residual stream after `latent_layer`, whose root mean square is measured when the model
            is made ([`residual_rms`]).
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the prior and posterior networks' weights at the start of training.

    Raises:
        ValueError: for an unknown field (the nearest right name is given) or a value out of range.

    Example:

    ```python
    >>> from transformers import GPT2Config
    >>> from modeling_trace import TraceConfig

    >>> config = TraceConfig(backbone_config=GPT2Config(vocab_size=50258), sep_token_id=50257, latent_size=16)
    >>> config.latent_dynamics
    'recurrent'
    ```
    """

    model_type = "trace"
    sub_configs = {"backbone_config": AutoConfig}
    keys_to_ignore_at_inference = [
        "cache",
        "reconstruction_loss",
        "kl_loss",
        "latents",
        "prior_mean",
        "prior_logvar",
        "posterior_mean",
        "posterior_logvar",
        "segment_ids",
    ]

    if TYPE_CHECKING:  # once it is made
        backbone_config: PreTrainedConfig = None
    else:
        backbone_config: dict | PreTrainedConfig | None = None
    latent_dynamics: str = "recurrent"
    latent_dynamics_class: str | None = None
    latent_size: int = 32
    conditional: bool = False
    if TYPE_CHECKING:
        latent_layer: int | None = "middle"
    else:
        latent_layer: int | str | None = "middle"
    separator: str = "none"
    closing_token_ids: list[int] | None = None
    segment_length: int | None = 10
    sep_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    residual_posterior: bool = False
    residual_scale: str = "prior"
    posterior_norm: str = "none"
    free_nats: float = 1.0
    spectral_norm: bool = True
    posterior_norm_gamma: float = 0.7
    posterior_sigma_init: float = 0.7
    prior_logvar_bound: float | None = 2.0
    kl_reduction: str = "sum"
    encoder_layers: int | None = None
    latent_init_scale: float = 0.1
    initializer_range: float = 0.02
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs):
        saved_type = kwargs.get("model_type")  # None unless the values come from a config.json
        if saved_type is None:
            self._check_names(kwargs)
        elif saved_type != self.model_type:
            raise ValueError(
                f"TraceConfig cannot be read from a '{saved_type}' configuration. To turn a language model into TRACE "
                "use TraceForConditionalGeneration.from_backbone."
            )
        else:  # other programs write attributes to the configs of models in their hands: not worth a lost checkpoint
            for name in self._unknown_names(kwargs):
                logger.warning(f"TraceConfig has no field `{name}`. It was saved with the model and has no effect.")
        backbone = self.backbone_config
        if backbone is None:
            backbone = CONFIG_MAPPING["gpt2"]()
        elif isinstance(backbone, dict):
            backbone = dict(backbone)
            model_type = backbone.pop("model_type", "gpt2")
            if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
                near = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING), n=1)
                hint = f" Did you mean '{near[0]}'?" if near else " Use 'gpt2', 'llama' or 'qwen2'."
                raise ValueError(f"`backbone_config` has the unknown model_type {model_type!r}.{hint}")
            backbone = CONFIG_MAPPING[model_type](**backbone)
        elif not isinstance(backbone, PreTrainedConfig):
            raise ValueError(
                f"`backbone_config` must be a configuration or a dict, got {backbone!r}. "
                "With a name use TraceForConditionalGeneration.from_backbone."
            )
        self.backbone_config = backbone
        if self.latent_dynamics == "none":
            self.latent_layer = None  # there is nothing to enter
        elif self.latent_layer == "middle":
            self.latent_layer = middle_layer(backbone)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(getattr(backbone, "tie_word_embeddings", True))
        for name in _SPECIAL_TOKENS:
            if vars(self)[name] is not None:
                setattr(backbone, name, vars(self)[name])
        # the library would otherwise reset the attention implementation of a backbone that is already built
        kwargs.setdefault("attn_implementation", attention_implementation(backbone))
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def paper(cls, **kwargs) -> "TraceConfig":
        """
        The paper's own recipe (Sec. 4.1 and 5.2), where it differs from the defaults of this class: gamma 3, the
        posterior's mean as mu_t + dmu_t, no bound on the prior's variance, a posterior as wide as the prior at the
        start, and the KL as a mean over dimensions, which the published KL values imply.

        Training goes with it: `modeling_trace.presets.RECIPES["paper"]` (learning rate 5e-5, batch 32, cyclical
        annealing), and segments of 10 tokens. On the command line: `modeling-trace train --recipe paper`.

        Args:
            **kwargs: other fields, which win.

        Note: Known to go wrong, hence the warning: see docs/explanation/differences-from-paper.md.
        """
        logger.warning(PAPER_WARNING)
        return cls(**{**PAPER_RECIPE, **kwargs})

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> Any:
        check_config_file(pretrained_model_name_or_path)
        return super().get_config_dict(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> Any:
        """As in Transformers; a value of a wrong type, as in a damaged config.json, is a ValueError of one line."""
        saved = str(config_dict.get("trace_version") or VERSION)
        if _release(saved) > _release(VERSION):
            logger.warning_once(
                f"The model was saved by version {saved} of modeling_trace, this is {VERSION}. Should it not load, or "
                "write other texts, install the newer one."
            )
        config_dict = {name: value for name, value in config_dict.items() if name != "trace_version"}
        try:
            return super().from_dict(config_dict, **kwargs)
        except Exception as error:
            if isinstance(error, ValueError) and saved != VERSION:
                raise ValueError(
                    f"{error} The model was saved by version {saved} of modeling_trace, this is {VERSION}: load it "
                    "with the code beside it, by trust_remote_code=True where modeling_trace is not imported, or "
                    f"install version {saved}."
                ) from None
            # the last is of huggingface_hub, which files that travel do not import
            strict = type(error).__name__.startswith("StrictDataclass")
            if not (strict or isinstance(error, (AttributeError, TypeError))):
                raise
            reason = " ".join(str(error).split())
            raise ValueError(
                f"`config_dict`, which config.json holds, has a value of the wrong type: {reason}. Take config.json "
                "from the model's source again."
            ) from None

    @classmethod
    def _unknown_names(cls, names) -> list[str]:
        allowed = {field.name for field in fields(cls)} | _LIBRARY_KEYS | generation_settings()
        return [name for name in names if name not in allowed and not name.startswith("_")]

    @classmethod
    def _check_names(cls, names) -> None:
        known = {field.name for field in fields(cls)}
        for name in cls._unknown_names(names):
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            hint = f"Did you mean `{near[0]}`?" if near else f"The fields are {', '.join(sorted(known))}."
            raise ValueError(f"TraceConfig has no field `{name}`. {hint}")

    def check(self) -> None:
        """Raise a ValueError, one line with the remedy, for the first setting that cannot work."""
        check_settings(self)

    # BOS, EOS and PAD are the backbone's: others change them there (the Trainer aligns them with the tokenizer's), and
    # where segments begin, what is trained and what is generated must all hear of it.

    def __getattribute__(self, name):
        if name in _SPECIAL_TOKENS:
            backbone = super().__getattribute__("__dict__").get("backbone_config")
            if isinstance(backbone, PreTrainedConfig):
                return getattr(backbone, name, None)
        return super().__getattribute__(name)

    def __setattr__(self, name, value):
        again = name in vars(self)  # the first time is in __init__, before it is known what was given
        super().__setattr__(name, value)
        if name in _SPECIAL_TOKENS and again and isinstance(self.backbone_config, PreTrainedConfig):
            setattr(self.backbone_config, name, value)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), **{name: getattr(self, name) for name in _SPECIAL_TOKENS}}

    def to_diff_dict(self) -> dict[str, Any]:
        # defaults are left out of config.json, and "middle" is another layer in another backbone
        return {**super().to_diff_dict(), "latent_layer": self.latent_layer, "trace_version": VERSION}

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The backbone's configuration: vocabulary, layers and context length are its own."""
        return self.backbone_config


__all__ = ["TraceConfig", "middle_layer"]
