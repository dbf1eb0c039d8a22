"""TRACE: recurrent latent variables for Transformers language models (Hu et al., Findings of EMNLP 2022)."""

from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

from .data import TraceProcessor
from .loading import load_model
from .models.cache_trace import TraceCache
from .models.configuration_trace import TraceConfig, middle_layer
from .models.dynamics_trace import LatentDynamics, register_latent_dynamics
from .models.gaussian_trace import gamma_for_rate
from .models.logits_processor_trace import SegmentLogitsProcessor
from .models.modeling_trace import TraceForConditionalGeneration, TraceOutput, TracePreTrainedModel

if TYPE_CHECKING:
    from .training import TraceTrainer, TraceTrainingArguments

__version__ = "0.1.0"

# With this package imported, `AutoModel.from_pretrained` needs neither remote code nor trust.
AutoConfig.register("trace", TraceConfig, exist_ok=True)
AutoModel.register(TraceConfig, TraceForConditionalGeneration, exist_ok=True)
AutoModelForCausalLM.register(TraceConfig, TraceForConditionalGeneration, exist_ok=True)
AutoProcessor.register(TraceConfig, TraceProcessor, exist_ok=True)

# What `save_pretrained` writes loads without this package, through `trust_remote_code=True`.
TraceConfig.register_for_auto_class()
TraceForConditionalGeneration.register_for_auto_class("AutoModelForCausalLM")

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
    "register_latent_dynamics",
]


def __getattr__(name: str):
    # Transformers' Trainer takes as long to import as all else, and those who only generate do without it.
    if name in ("TraceTrainer", "TraceTrainingArguments"):
        from . import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
