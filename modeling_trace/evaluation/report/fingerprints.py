"""What a result depends on, as short hashes of its content: of texts and settings, files, and models in memory."""

import hashlib
import json
import os
import re
import tempfile
from typing import Any

import torch
import xxhash
from transformers.utils.peft_utils import find_adapter_config_file

# In a model's folder, but no part of the model: what a Trainer resumes from, and pages for readers
NOT_THE_MODEL = re.compile(
    r"(optimizer|scheduler|scaler|rng_state.*)\.(pt|pth|bin)|README\.md|SHA256SUMS|samples\.jsonl|\..*"
)
BLOCK_SIZE = 1 << 24  # bytes


def digest(value: Any) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def file_fingerprint(path: str | os.PathLike) -> str:
    """
    Of the bytes of a file, or of the files of a model's folder with their names; where they are and when they were
    written does not matter.
    """
    if not os.path.isdir(path):
        hashed = xxhash.xxh3_128()
        with open(path, "rb") as file:
            while block := file.read(BLOCK_SIZE):
                hashed.update(block)
        return hashed.hexdigest()
    names = [
        entry.name
        for entry in os.scandir(os.fspath(path))
        if entry.is_file() and not NOT_THE_MODEL.fullmatch(entry.name)
    ]
    return digest({name: file_fingerprint(os.path.join(path, name)) for name in names})


def saved_model_fingerprint(path: str, config) -> str | None:
    """
    Of a saved model, without loading its weights: of the files in its folder and in that of an adapter's base, or of
    the commit on the Hub.

    Args:
        path (`str`): folder or Hub id.
        config ([`TraceConfig`]): loaded from there.

    Returns:
        `str`, or None where only the loaded weights can tell: an adapter whose base is on the Hub, or a Hub model
        without a known commit.
    """
    adapter = find_adapter_config_file(path)
    if not os.path.isdir(path):
        commit = getattr(config, "_commit_hash", None)
        return None if commit is None or adapter is not None else f"{path}@{commit}"
    if adapter is None:
        return file_fingerprint(path)
    with open(adapter, encoding="utf-8") as file:
        base = json.load(file).get("base_model_name_or_path") or ""
    return digest([file_fingerprint(path), file_fingerprint(base)]) if os.path.exists(base) else None


def model_fingerprint(model, processor) -> str:
    """
    Of a model in memory: its weights, its configurations, and all that its processor saves.

    Args:
        model ([`TraceForConditionalGeneration`]), processor ([`TraceProcessor`]).
    """
    hashed = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        hashed.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    configs = [model.config.to_json_string(), model.generation_config.to_json_string()]
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        return digest([hashed.hexdigest(), configs, file_fingerprint(folder)])


__all__ = ["digest", "file_fingerprint", "model_fingerprint", "saved_model_fingerprint"]
