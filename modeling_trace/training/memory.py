"""A lack of memory in training or evaluation, as one line that says which setting to change."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .private import get_last_checkpoint

# Some devices have an error class for it, the others raise a RuntimeError with one of these in it.
_MESSAGES = (
    "out of memory",  # CUDA's driver, MPS
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class TrainingMemoryError(torch.OutOfMemoryError):
    """
    Training or evaluation does not fit in memory; the message says which setting to change, and PyTorch's own error is
    its `__cause__`. Checkpoints are intact.
    """


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _MESSAGES)


@contextlib.contextmanager
def guard_step_memory(args: TrainingArguments, inputs: dict, training: bool) -> Iterator[None]:
    """
    A lack of memory inside becomes a [`TrainingMemoryError`] that names the batch size.

    Args:
        args (`TrainingArguments`): the settings to name.
        inputs (`dict`): the batch, whose `input_ids` are `(batch_size, sequence_length)`.
        training (`bool`): a step of training, else one of evaluation.
    """
    try:
        yield
    except RuntimeError as error:
        # Transformers starts again with smaller batches when it sees PyTorch's own error
        if not _is_out_of_memory(error) or (training and args.auto_find_batch_size):
            raise
        setting = "per_device_train_batch_size" if training else "per_device_eval_batch_size"
        batch_size, tokens = getattr(args, setting), inputs["input_ids"].shape[1]
        remedies = _less_memory(args, training)
        if batch_size > 1:
            steps = " and raise `gradient_accumulation_steps` by as much (the steps stay the same)" if training else ""
            remedies = [f"lower it{steps}", *remedies]
        raise TrainingMemoryError(
            f"`{setting}` is too large for the memory of {args.device}, got {batch_size} with texts of up to {tokens} "
            f"tokens: {', or '.join(remedies)}.{_saved(args)}"
        ) from error


class OptimizerStepCallback(TrainerCallback):
    """Knows whether the optimizer is at work, which allocates its state in its first step."""

    inside = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.inside = True

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.inside = False


@contextlib.contextmanager
def guard_run_memory(
    args: TrainingArguments, num_trained: int, optimizer_step: OptimizerStepCallback
) -> Iterator[None]:
    """The same for the optimizer and for the search for a batch size. Another lack of memory stays what it is."""
    optimizer_step.inside = False
    try:
        yield
    except TrainingMemoryError:
        raise
    except RuntimeError as error:
        if args.auto_find_batch_size and "No executable batch size" in str(error):
            raise TrainingMemoryError(
                f"`auto_find_batch_size` found no batch that fits in the memory of {args.device}, got down to 1 text: "
                f"{', or '.join(_less_memory(args))}.{_saved(args)}"
            ) from error
        if not (optimizer_step.inside and _is_out_of_memory(error)):
            raise
        raise TrainingMemoryError(
            f"`optim` {args.optim.value} does not fit in the memory of {args.device} beside the model, got "
            f"{num_trained:,} trained parameters: use adafactor, or LoRA, or several devices by FSDP2.{_saved(args)}"
        ) from error


def _less_memory(args: TrainingArguments, training: bool = True) -> list[str]:
    remedies = ["lower `max_length`"]
    if not (args.bf16 or args.fp16):
        remedies.insert(0, "set `bf16`")
    if training and not args.activation_checkpointing:
        remedies.insert(0, "set `activation_checkpointing`")
    return remedies


def _saved(args: TrainingArguments) -> str:
    checkpoint = get_last_checkpoint(args.output_dir) if os.path.isdir(args.output_dir) else None
    return "" if checkpoint is None else f" Go on from '{checkpoint}', which is intact, by `resume_from_checkpoint`."


__all__ = ["OptimizerStepCallback", "TrainingMemoryError", "guard_run_memory", "guard_step_memory"]
