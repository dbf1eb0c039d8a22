"""
What training relies on in the Trainer, Accelerate, PEFT and PyTorch's FSDP beyond their documented interface, in one
place and with the reason; the model's own part of it is in models/private_trace.py.

A new release may change any of it. tests/training/test_training_private.py asks for each part by name, so that it
fails there first. Imports and calls stand here; methods that are overridden have to stand in their classes and are
listed in `OVERRIDDEN`.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch.distributed.fsdp import FSDPModule

# custom_object_save: the model's code is copied beside an adapter as `save_pretrained` copies it beside a model
from transformers.dynamic_module_utils import custom_object_save

# TRAINER_STATE_NAME: a checkpoint is known by it
from transformers.trainer import TRAINER_STATE_NAME

# ExportableState: which texts a run was trained on is written into its state, and found there on resuming
from transformers.trainer_callback import ExportableState

# LengthGroupedSampler: its order is drawn anew, one for all processes
from transformers.trainer_pt_utils import LengthGroupedSampler

# PREFIX_CHECKPOINT_DIR, rotate_checkpoints: a checkpoint is moved to its place when it is whole, and then counted;
# HubStrategy, SaveStrategy: when a checkpoint is pushed
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    EvalLoopOutput,
    HubStrategy,
    SaveStrategy,
    TrainOutput,
    get_last_checkpoint,
    rotate_checkpoints,
)

# What is overridden in `Trainer`, and why
OVERRIDDEN = {
    "_get_output_dir": "a checkpoint is written beside its place",
    "_get_train_sampler": "one order of the texts in all processes, also by length",
    "_push_from_checkpoint": "what goes out is the model, its card and its processor, no other file of the run",
    "_save": "tied weights once, the model's own class, and config.json beside an adapter",
    "_save_checkpoint": "a checkpoint is whole or not there",
    "compute_loss": "the parts of the loss are collected, and the gain of the latents is measured",
    "create_accelerator_and_postprocess": "each process reads its own part of a stream",
    "create_model_card": "the base model is the language model that the model was built from",
    "create_optimizer": "the latent networks have a learning rate of their own",
    "end": "no process ends in a collective of others",
    "evaluation_loop": "the ELBO, exact over the data set",
    "get_eval_dataloader": "texts become tokens",
    "get_test_dataloader": "texts become tokens",
    "init_hf_repo": "a bad name, a lack of network or token is one line before training",
    "log": "the parts of the ELBO",
    "prediction_step": "a lack of memory is one line",
    "push_to_hub": "the model, its card and its processor, in one commit",
    "save_model": "no weights that are not finite, and whole or not at all",
    "train": "checks before, and a stop by Ctrl-C after",
    "training_step": "a lack of memory is one line",
}

# Attributes of a Trainer that are written or read, and why
USED = {
    "accelerator": "sums over processes, and what repeats in the last batch: its `gradient_state`",
    "is_fsdp_enabled": "sharded weights are written by every process",
    "is_deepspeed_enabled": "sharded weights are written by every process",
    "is_in_train": "an evaluation within training first asks whether the weights are finite",
    "model_accepts_loss_kwargs": "the loss is divided by the targets of the whole batch, also behind wrappers",
}


@contextlib.contextmanager
def unsharded_class(model: torch.nn.Module) -> Iterator[None]:
    """
    FSDP2 gives a sharded model a class of its own making. Saved as such, the model's folder would hold PyTorch's code
    in place of the model's, under a name that no loader knows.
    """
    sharded = type(model)
    if issubclass(sharded, FSDPModule):
        model.__class__ = next(base for base in sharded.__mro__ if not issubclass(base, FSDPModule))
    try:
        yield
    finally:
        model.__class__ = sharded


def local_shard(parameter: torch.nn.Parameter) -> torch.Tensor:
    """What this process holds of a parameter: a part of it under FSDP2 (`_local_tensor`) and ZeRO-3 (`ds_tensor`)."""
    for name in ("_local_tensor", "ds_tensor"):
        if hasattr(parameter, name):
            return getattr(parameter, name).detach()
    return parameter.detach()


def number_of(parameter: torch.nn.Parameter) -> int:
    """Elements of a parameter in all processes: under ZeRO-3 `numel` is that of what is not dealt out, nothing."""
    return getattr(parameter, "ds_numel", parameter.numel())


def has_adapters(model: torch.nn.Module) -> bool:
    """Whether PEFT has wrapped the model: it then saves the adapter alone."""
    return hasattr(model, "peft_config")


__all__ = [
    "OVERRIDDEN",
    "PREFIX_CHECKPOINT_DIR",
    "TRAINER_STATE_NAME",
    "USED",
    "EvalLoopOutput",
    "ExportableState",
    "HubStrategy",
    "LengthGroupedSampler",
    "SaveStrategy",
    "TrainOutput",
    "custom_object_save",
    "get_last_checkpoint",
    "has_adapters",
    "local_shard",
    "number_of",
    "rotate_checkpoints",
    "unsharded_class",
]
