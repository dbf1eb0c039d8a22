"""Training: `TraceTrainer` and its arguments, schedules of the KL weight, LoRA, callbacks for any `Trainer`."""

from .callbacks import CollapseWarningCallback, GracefulStopCallback, KLWeightCallback
from .guards import check_distributed_settings, check_output_dir
from .lora import load_adapter_model, lora_config
from .memory import TrainingMemoryError
from .schedules import constant_schedule, cyclical_schedule, get_schedule, linear_schedule
from .trainer import TraceTrainer, TrainingDivergedError
from .training_args import TraceTrainingArguments

__all__ = [
    "CollapseWarningCallback",
    "GracefulStopCallback",
    "KLWeightCallback",
    "TraceTrainer",
    "TraceTrainingArguments",
    "TrainingDivergedError",
    "TrainingMemoryError",
    "check_distributed_settings",
    "check_output_dir",
    "constant_schedule",
    "cyclical_schedule",
    "get_schedule",
    "linear_schedule",
    "load_adapter_model",
    "lora_config",
]
