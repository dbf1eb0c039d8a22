"""LoRA: adapters for the backbone, with the latent networks and [SEP] trained in full, through PEFT."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.pytorch_utils import Conv1D
from transformers.utils import cached_file, find_adapter_config_file

from ..models.backbones_trace import resolve_backbone
from ..models.configuration_trace import TraceConfig
from ..models.modeling_trace import TraceForConditionalGeneration

if TYPE_CHECKING:
    import peft

# The parts of a model that no adapter stands for: they are trained and saved whole.
LATENT_MODULES = ("dynamics", "latent_injection", "state_reader")


def _peft(what: str):
    try:
        import peft
    except ImportError:
        raise ImportError(f"{what} requires the `peft` extra: pip install 'modeling-trace[peft]'") from None
    return peft


def _projections(model: TraceForConditionalGeneration) -> dict[str, nn.Module]:
    """The linear layers of the backbone by their names in it; quantized ones are among them."""
    return {name: part for name, part in model.backbone.named_modules() if isinstance(part, (nn.Linear, Conv1D))}


def lora_config(
    model: TraceForConditionalGeneration,
    r: int = 16,
    lora_alpha: float | None = None,
    target_modules: Sequence[str] | None = None,
    **kwargs,
) -> peft.LoraConfig:
    """
    The `peft.LoraConfig` that trains TRACE on a frozen backbone.

    Low-rank matrices on the backbone's projections; the latent networks and W_z, which start from nothing, in full;
    and the row of [SEP], where there is one, in the embeddings and the head, tied or not. All of it is saved with the
    adapter.

    A `peft.LoraConfig(target_modules="all-linear")` of your own leaves the latent networks as they start and puts
    adapters on their linear layers, too; W^f of TRACE-R, and W_mu1 and W_sigma1 of TRACE-P, are no layers to PEFT.

    Args:
        model ([`TraceForConditionalGeneration`]): The model to train, from `from_backbone`.
        r (`int`, *optional*, defaults to 16): Rank of the matrices.
        lora_alpha (`float`, *optional*): Scale of their product, which is multiplied by lora_alpha / r. Default: 2 r.
        target_modules (`Sequence[str]`, *optional*): Last names of the backbone's layers to adapt, such as
            `["q_proj", "v_proj"]`. Default: every linear layer of attention and MLP.
        **kwargs: Other arguments of `peft.LoraConfig`; `modules_to_save` is added to.

    Returns:
        `peft.LoraConfig`: for `peft.get_peft_model(model, config)`.

    Raises:
        ImportError: without the package peft.
        ValueError: if `model` is no TRACE model or already has adapters, or no layer has a name in `target_modules`.

    Example:

    ```python
    from peft import get_peft_model
    model = TraceForConditionalGeneration.from_backbone("Qwen/Qwen3-0.6B", processor)
    model = get_peft_model(model, lora_config(model, r=16))
    TraceTrainer(model, TrainingArguments("out"), train_dataset=dataset, processing_class=processor).train()
    ```
    """
    peft = _peft("lora_config")
    if not isinstance(model, TraceForConditionalGeneration):
        hint = " Call lora_config before get_peft_model." if isinstance(model, peft.PeftModel) else ""
        raise ValueError(f"`model` must be a TraceForConditionalGeneration, got {type(model).__name__}.{hint}")
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise ValueError(f"`r` must be an integer >= 1, got {r!r}. Use 16.")
    layers = _projections(model)
    names = sorted({name.rpartition(".")[2] for name in layers})
    if target_modules is None:
        target_modules = names
    else:
        target_modules = [target_modules] if isinstance(target_modules, str) else list(target_modules)
        for name in target_modules:
            if name not in names:
                raise ValueError(
                    f"`target_modules` must be linear layers of the backbone, got '{name}'. Use {', '.join(names)}."
                )
    extra = kwargs.pop("modules_to_save", None) or []
    if isinstance(extra, str):
        extra = [extra]
    modules_to_save = [*(name for name in LATENT_MODULES if getattr(model, name, None) is not None), *extra]
    sep = model.config.sep_token_id
    rows = None
    if sep is not None:
        embedding = model.get_input_embeddings()
        rows = {next(name for name, part in model.named_modules() if part is embedding): [sep]}
        if model.lm_head.weight is not embedding.weight:
            rows["lm_head"] = [sep]
    chosen = [layer for name, layer in layers.items() if name.rpartition(".")[2] in target_modules]
    settings = {
        "lora_alpha": 2 * r if lora_alpha is None else lora_alpha,
        # a regular expression, matched in full: layers of the latent networks may have the same names
        "target_modules": rf"backbone\.(.*\.)?({'|'.join(map(re.escape, target_modules))})",
        "modules_to_save": modules_to_save or None,
        "trainable_token_indices": rows,
        "fan_in_fan_out": any(isinstance(layer, Conv1D) for layer in chosen),
    }
    return peft.LoraConfig(**{"r": r, **settings, **kwargs})


def _saved_config(folder: str) -> TraceConfig:
    # asked by itself: from_pretrained would go on to the configuration of the adapted language model
    if cached_file(folder, "config.json", _raise_exceptions_for_missing_entries=False) is None:
        raise ValueError(
            f"`folder` '{folder}' holds an adapter without the config.json of its TRACE model. Save one there: "
            "model.config.save_pretrained(folder), as TraceTrainer does."
        )
    return TraceConfig.from_pretrained(folder)


def load_adapter_model(folder: str | os.PathLike, base: str | os.PathLike | None = None, **kwargs) -> peft.PeftModel:
    """
    A model from the folder of an adapter: builds TRACE from the language model that was adapted, then loads it.

    Args:
        folder (`str` or `os.PathLike`): What [`TraceTrainer`] or `modeling-trace train --lora_r` saved: the adapter,
            the config.json of the model, and its tokenizer. Or a Hub id of such.
        base (`str` or `os.PathLike`, *optional*): Name or folder of the language model, where it has moved. Default:
            as in adapter_config.json.
        **kwargs: Arguments of `from_pretrained` for the language model, such as `dtype` or `quantization_config`; and
            `is_trainable=True` to train on.

    Returns:
        `peft.PeftModel`: in eval mode. Its `merge_and_unload()` is a [`TraceForConditionalGeneration`] again.

    Raises:
        ImportError: without the package peft.
        ValueError: if `folder` holds no adapter or no config.json, the adapter does not say what it is for, or `base`
            is another model.

    Example:

    ```python
    model = load_adapter_model("trace-lora")
    model.generate(num_return_sequences=8, max_new_tokens=60)
    model.merge_and_unload().save_pretrained("trace-merged")
    ```
    """
    peft = _peft("load_adapter_model")
    folder = str(folder)
    if find_adapter_config_file(folder) is None:
        raise ValueError(
            f"`folder` '{folder}' holds no adapter_config.json. Load a whole model by "
            "TraceForConditionalGeneration.from_pretrained."
        )
    is_trainable = kwargs.pop("is_trainable", False)
    config = _saved_config(folder)
    base = base or peft.PeftConfig.from_pretrained(folder).base_model_name_or_path
    if not base:
        raise ValueError(
            f"`folder` '{folder}' does not say which language model it adapts: that one came from memory. "
            "Pass its folder as `base`."
        )
    path, gguf = resolve_backbone(base)
    base_config = None if gguf else AutoConfig.from_pretrained(path)
    if isinstance(base_config, TraceConfig) and base_config.latent_dynamics == config.latent_dynamics:
        model = TraceForConditionalGeneration.from_pretrained(base, **kwargs)  # the adapter was trained on TRACE
    else:
        inherited = {field.name for field in fields(PreTrainedConfig)} | {"backbone_config", "tie_word_embeddings"}
        tokens = {"bos_token_id", "eos_token_id", "pad_token_id"}
        names = {field.name for field in fields(TraceConfig)} - inherited | tokens
        settings = {name: getattr(config, name) for name in names}
        model = TraceForConditionalGeneration.from_backbone(base, _saved_tokenizer(folder), **settings, **kwargs)
    for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
        got, wanted = (getattr(c.backbone_config, name) for c in (model.config, config))
        if got != wanted:
            raise ValueError(
                f"`base` '{base}' is another model than the adapter's: `{name}` is {got}, not {wanted}. Pass the one "
                "that was adapted."
            )
    if model.has_latents:  # they may have been trained in float32 beside a backbone in bfloat16
        for name in LATENT_MODULES:
            if getattr(model, name) is not None:
                getattr(model, name).float()
    return peft.PeftModel.from_pretrained(model, folder, is_trainable=is_trainable).eval()


def _saved_tokenizer(folder: str):
    """The tokenizer beside an adapter, which knows [SEP]; None if there is none, so that the backbone's is used."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError):
        return None


__all__ = ["load_adapter_model", "lora_config"]
