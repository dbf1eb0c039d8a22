"""TRACE: recurrent latent variables for Transformers language models (Hu et al., Findings of EMNLP 2022)."""

import importlib
import os
import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public names and their modules, each imported when its name is first used.
_EXPORTS = {
    "LatentDynamics": "models.dynamics_trace",
    "SegmentLogitsProcessor": "models.logits_processor_trace",
    "TraceCache": "models.cache_trace",
    "TraceConfig": "models.configuration_trace",
    "TraceForConditionalGeneration": "models.modeling_trace",
    "TraceOutput": "models.output_trace",
    "TracePreTrainedModel": "models.pretrained_trace",
    "TraceProcessor": "data",
    "TraceTrainer": "training",
    "TraceTrainingArguments": "training",
    "gamma_for_rate": "models.gaussian_trace",
    "load_model": "loading",
    "middle_layer": "models.configuration_trace",
    "push": "sharing",
    "register_latent_dynamics": "models.dynamics_registry_trace",
}
_SUBPACKAGES = ("data", "evaluation", "models", "sharing", "training")

if TYPE_CHECKING:
    from .data import TraceProcessor as TraceProcessor
    from .loading import load_model as load_model
    from .models.cache_trace import TraceCache as TraceCache
    from .models.configuration_trace import TraceConfig as TraceConfig
    from .models.configuration_trace import middle_layer as middle_layer
    from .models.dynamics_registry_trace import register_latent_dynamics as register_latent_dynamics
    from .models.dynamics_trace import LatentDynamics as LatentDynamics
    from .models.gaussian_trace import gamma_for_rate as gamma_for_rate
    from .models.logits_processor_trace import SegmentLogitsProcessor as SegmentLogitsProcessor
    from .models.modeling_trace import TraceForConditionalGeneration as TraceForConditionalGeneration
    from .models.output_trace import TraceOutput as TraceOutput
    from .models.pretrained_trace import TracePreTrainedModel as TracePreTrainedModel
    from .sharing import push as push
    from .training import TraceTrainer as TraceTrainer
    from .training import TraceTrainingArguments as TraceTrainingArguments


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *_SUBPACKAGES})


def _is_command_line() -> bool:
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    # while `python -m` imports the packages of its module
    return name in ("modeling-trace", "modeling-trace.exe") or (
        name == "-m" and f"{__name__}.cli.main" in sys.orig_argv
    )


# With this package imported, `AutoModel.from_pretrained` needs neither remote code nor trust: `models` and `data`
# register their classes. The command line's process imports it by itself, when a command has something to do.
if not _is_command_line():
    importlib.import_module(f"{__name__}.models")
    importlib.import_module(f"{__name__}.data")

__all__ = [
    "LatentDynamics",
    "SegmentLogitsProcessor",
    "TraceCache",
    "TraceConfig",
    "TraceForConditionalGeneration",
    "TraceOutput",
    "TracePreTrainedModel",
    "TraceProcessor",
    "TraceTrainer",
    "TraceTrainingArguments",
    "gamma_for_rate",
    "load_model",
    "middle_layer",
    "push",
    "register_latent_dynamics",
]
