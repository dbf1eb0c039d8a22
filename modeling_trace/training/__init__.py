"""Training: `TraceTrainer`, schedules of the KL weight, LoRA, callbacks that also work with a plain `Trainer`."""

from .callbacks import CollapseWarningCallback, KLWeightCallback
from .distributed import check_processes
from .lora import load_adapter_model, lora_config
from .memory import TrainingMemoryError
from .schedules import constant_schedule, cyclical_schedule, get_schedule, linear_schedule
from .trainer import TraceTrainer, TrainingDivergedError, check_output_dir

__all__ = [
    "CollapseWarningCallback",
    "KLWeightCallback",
    "TraceTrainer",
    "TrainingDivergedError",
    "TrainingMemoryError",
    "check_output_dir",
    "check_processes",
    "constant_schedule",
    "cyclical_schedule",
    "get_schedule",
    "linear_schedule",
    "load_adapter_model",
    "lora_config",
]
