"""A trained model with its processor, from a folder or the Hub, on a device."""

import os
import shlex

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, find_adapter_config_file

from .data import TraceProcessor
from .models.checksums_trace import WEIGHT_FILES, check_checksums
from .models.configuration_checks_trace import check_config_file
from .models.modeling_trace import TraceForConditionalGeneration
from .network import check_hub
from .utils import sentence

_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)


def load_model(
    name_or_path: str | os.PathLike, device: str | torch.device | None = None
) -> tuple[TraceForConditionalGeneration, TraceProcessor]:
    """
    A trained model and its processor, ready to generate and to be evaluated.

    Args:
        name_or_path (`str` or `os.PathLike`): a folder that [`TraceTrainer`] or `modeling-trace train` saved, or a Hub
            id. Of an adapter (`train --lora_r`), the model is the language model with the adapter merged into it.
        device (`str` or `torch.device`, *optional*): `"cuda"`, `"mps"` or `"cpu"`; the first of them that is available
            by default.

    Returns:
        [`TraceForConditionalGeneration`], in eval mode, and [`TraceProcessor`].

    Raises:
        ValueError: where there is no TRACE model, its weights in a folder are not those that were saved (a bit has
            flipped: SHA256SUMS tells), or there is no such device.

    Example:

    ```python
    model, processor = load_model("runs/trace")
    print(processor.batch_decode(model.generate(num_return_sequences=4, max_new_tokens=60)))
    ```
    """
    name = str(name_or_path)
    device = find_device(device)
    load_config(name)
    processor = TraceProcessor.from_pretrained(name)
    if os.path.isdir(name):  # the Hub has checksums of its own
        check_checksums(name, WEIGHT_FILES)
    if find_adapter_config_file(name) is not None:
        from .training import load_adapter_model  # the Trainer takes long to import

        model = load_adapter_model(name).merge_and_unload()
    elif os.path.isdir(name) and not any(os.path.exists(os.path.join(name, file)) for file in _WEIGHTS):
        raise ValueError(
            f"'{name}' has a config.json, but no weights ({' or '.join(_WEIGHTS)}). Copy them there, or save the "
            "model again."
        )
    else:
        model = TraceForConditionalGeneration.from_pretrained(name)
    return model.to(device).eval(), processor


def load_config(name_or_path: str | os.PathLike) -> PreTrainedConfig:
    """
    The configuration of a trained model, before any weights are read.

    Args:
        name_or_path (`str` or `os.PathLike`): as for [`load_model`].

    Raises:
        ValueError: in one line, what is wrong with the folder or id.
        ConnectionError: if the Hub does not answer.
    """
    name = str(name_or_path)
    is_folder = os.path.isdir(name)
    if not is_folder and (os.path.exists(name) or name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"there is no folder '{name}'. Give a folder that `modeling-trace train` wrote, or a Hub id.")
    check_hub(name)
    try:
        check_config_file(name)
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        what = "holds no model" if is_folder else "is neither a folder here nor a model on the Hub"
        remedy = "Give a folder that `modeling-trace train` wrote, or a Hub id."
        raise ValueError(f"'{name}' {what}: {sentence(error)} {remedy}") from None
    if config.model_type != "trace":
        raise ValueError(
            f"'{name}' is a {config.model_type} model, not TRACE. Turn it into one: modeling-trace train "
            f"--backbone {shlex.quote(os.path.abspath(name) if is_folder else name)}"
        )
    return config


def find_device(name: str | torch.device | None = None) -> torch.device:
    """
    The device of that name, or the best one available.

    Args:
        name (`str` or `torch.device`, *optional*): such as `"cuda:1"`.

    Raises:
        ValueError: for a device that is not available.
    """
    available = [
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
        "cpu",
    ]
    try:
        device = torch.device(name or available[0])
    except RuntimeError:
        raise ValueError(f"`device` must be one of {', '.join(available)}, got '{name}'.") from None
    if device.type not in available or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"`device` '{name}' is not available. Use {' or '.join(available)}.")
    return device


__all__ = ["find_device", "load_config", "load_model"]
