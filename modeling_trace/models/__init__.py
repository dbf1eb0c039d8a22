"""What travels to the Hub: configuration, model, latents, generation. Flat, for remote code has no folders."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration_trace import TraceConfig
from .modeling_trace import TraceForConditionalGeneration

AutoConfig.register("trace", TraceConfig, exist_ok=True)
AutoModel.register(TraceConfig, TraceForConditionalGeneration, exist_ok=True)
AutoModelForCausalLM.register(TraceConfig, TraceForConditionalGeneration, exist_ok=True)

# What `save_pretrained` writes loads without this package, through `trust_remote_code=True`.
TraceConfig.register_for_auto_class()
TraceForConditionalGeneration.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["TraceConfig", "TraceForConditionalGeneration"]
