"""
What TRACE relies on in Transformers beyond its documented interface, in one place and with the reason.

A new release of Transformers may change any of it. tests/models/test_private.py asks for each part by name, so that it
fails there first. Imports and calls stand here; methods and attributes that are overridden have to stand in their
classes and are listed in `OVERRIDDEN`.
"""

import torch
import transformers
from transformers import GenerationConfig, PreTrainedConfig

# DynamicLayer: a cache whose layers are views of another's, which `update` would copy
from transformers.cache_utils import DynamicLayer

# create_*_mask: the segment masks, in the form that each attention implementation takes
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

# CONFIG_MAPPING: a backbone's configuration class from the `model_type` of a dict
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# MODEL_FOR_*_MAPPING_NAMES: what kind of model a configuration is for, before any weights are loaded
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import can_return_tuple, logging  # can_return_tuple: `return_dict=False`, as in stock models

logger = logging.get_logger(__name__)

# The releases (major, minor) that the tests have run with, first and last
TESTED = ((5, 24), (5, 24))

# Base class -> what is overridden in it, and why
OVERRIDDEN = {
    "PreTrainedModel": {
        "_init_weights": "how weights start, also those that a checkpoint lacks",
        "_is_stateful": "no assisted decoding with latents; and no backbone with a state that masks do not reach",
        "_tied_weights_keys": "the head is tied to the embeddings, wherever the backbone has them",
        "_tp_plan": "the head is split among processes as the embeddings are",
        "_supports_sdpa": "the backbone's attention is used as it is",
        "_supports_flash_attn": "its kernels do not take the encoder's masks",
        "_supports_flex_attn": "not tried",
        "_supports_attention_backend": "attention implementations are the backbone's own",
        "_can_compile_fullgraph": "drawing a latent is the host's work between two layers",
    },
    "GenerationMixin": {
        "_get_logits_processor": "the model's own score of [SEP] is kept before any processor changes it",
        "_get_stopping_criteria": "the cache hears which rows a stop string or criterion has ended",
        "_validate_generated_length": "texts longer than the backbone's context are an error, not a warning",
        "prepare_inputs_for_generation": "the cache is handed the whole text, and steps are one token",
    },
    "Cache": {
        "reorder_cache": "latents move with their row in beam search",
        "batch_repeat_interleave": "latents move with their row",
        "batch_select_indices": "latents move with their row",
        "reset": "latents are forgotten with their row",
        "is_croppable": "a latent cannot be taken back",
    },
    "PreTrainedConfig": {
        "from_dict": "a value of a wrong type in config.json is one line",
        "to_diff_dict": "`latent_layer` is saved also where it is the default of another backbone",
        "get_text_config": "vocabulary, layers and special tokens are the backbone's",
    },
}

# What other packages hang on modules and parameters, and why the model looks for it
ATTRIBUTES = {
    "_hf_hook": "Accelerate brings the weights of such a module only when it is called",
    "base_layer": "PEFT has put an adapter around the layer, whose weight alone is not what the layer does",
    "ds_id": "DeepSpeed's ZeRO-3 has dealt the parameter out: it cannot be measured now",
}


def check_release(version: str = transformers.__version__) -> None:
    """Warn when Transformers is newer than what the tests have run with."""
    release = tuple(int(part) for part in version.split(".")[:2])
    if release > TESTED[1]:
        newest = ".".join(map(str, TESTED[1]))
        logger.warning(
            f"TRACE relies on private parts of Transformers and was tested up to {newest}; this is {version}. Should "
            f"something fail, install 'transformers<{TESTED[1][0]}.{TESTED[1][1] + 1}'."
        )


def generation_settings() -> set[str]:
    """Names of generation settings, which configurations of older models hold as well."""
    return set(GenerationConfig._get_default_generation_params())


def attention_implementation(config: PreTrainedConfig) -> str | None:
    """That of a model which is built already: a configuration that is put around it must not reset it."""
    return config._attn_implementation


def keeps_running_state(model_class: "type[transformers.PreTrainedModel]") -> bool:
    """Whether a model class (Mamba, RWKV) keeps a state that masks do not reach."""
    return model_class._is_stateful


def layer_of(keys: torch.Tensor, values: torch.Tensor) -> DynamicLayer:
    """A cache layer that holds these tensors themselves: `update` would copy them."""
    layer = DynamicLayer()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer


check_release()

__all__ = [
    "ATTRIBUTES",
    "CONFIG_MAPPING",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "OVERRIDDEN",
    "TESTED",
    "DynamicLayer",
    "attention_implementation",
    "can_return_tuple",
    "check_release",
    "create_bidirectional_mask",
    "create_causal_mask",
    "generation_settings",
    "keeps_running_state",
    "layer_of",
]
