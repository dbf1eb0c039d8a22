"""Several processes: settings under which they would not take the same number of steps, and one order of the texts."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch.utils.data import Sampler
from transformers import TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler


def check_processes(args: TrainingArguments, train_dataset=None, eval_dataset=None) -> None:
    """
    Refuse what would end in a hang, in an error deep inside or in no training at all, before any long work.

    Args:
        args (`TrainingArguments`): batch sizes, `accelerator_config`, `dataloader_drop_last`.
        train_dataset, eval_dataset (*optional*): any data sets, before or after tokenizing; looked at where given.

    Raises:
        ValueError: with the argument, what was got and the remedy.
    """
    number, batches = args.world_size, args.accelerator_config
    sizes = {name: getattr(args, name) for name in ("per_device_train_batch_size", "per_device_eval_batch_size")}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{name}` must be >= 1, got {size}. Use 8, or 1 where memory is short.")
    if batches.split_batches:
        for name, size in sizes.items():
            if size % number:
                raise ValueError(
                    f"`{name}` must be a multiple of the {number} processes with `split_batches`, which deals each "
                    f"batch out to them, got {size}. Use {size + -size % number}, or leave split_batches out."
                )
    if number > 1 and not batches.even_batches:
        raise ValueError(
            f"`even_batches` must be true for {number} processes, got false: one with fewer batches would keep the "
            "others waiting for ever. Leave it out."
        )
    if number > 1 and batches.dispatch_batches:
        raise ValueError(
            f"`dispatch_batches` must be false for {number} processes, got true: their batches are padded to unequal "
            "lengths and cannot be put together. Leave it out."
        )
    evaluated = eval_dataset if isinstance(eval_dataset, Mapping) else {"": eval_dataset}
    parts = [("train_dataset", train_dataset, "per_device_train_batch_size")]
    parts += [("eval_dataset", part, "per_device_eval_batch_size") for part in evaluated.values()]
    for name, dataset, setting in parts:
        _check_fills_a_batch(args, name, dataset, setting)
        _check_shards(args, name, dataset)


def _check_fills_a_batch(args: TrainingArguments, name: str, dataset, setting: str) -> None:
    if not args.dataloader_drop_last or not hasattr(dataset, "__len__"):
        return
    size = getattr(args, setting) * (1 if args.accelerator_config.split_batches else args.world_size)
    if len(dataset) < size:
        raise ValueError(
            f"`{name}` must fill a batch of {size} texts ({args.world_size} processes) with `dataloader_drop_last`, "
            f"got {len(dataset)} texts, of which none would be left. Lower `{setting}`, or leave dataloader_drop_last "
            "out."
        )


def _check_shards(args: TrainingArguments, name: str, dataset) -> None:
    """Accelerate deals a stream of as many shards as processes out by shards, whose sizes nobody knows."""
    shards = 1 if hasattr(dataset, "__len__") else getattr(dataset, "n_shards", 1)
    if args.world_size == 1 or shards < args.world_size or args.accelerator_config.split_batches:
        return
    if name == "eval_dataset":
        raise ValueError(
            f"`eval_dataset` must not be a stream of {shards} shards for {args.world_size} processes, which would end "
            "at different steps and wait for each other. Hold the texts in memory: "
            "Dataset.from_list(list(eval_dataset))."
        )
    for setting in ("eval_strategy", "save_strategy", "logging_strategy"):
        if getattr(args, setting).value == "epoch":
            raise ValueError(
                f"`{setting}` must be steps for a stream of {shards} shards and {args.world_size} processes, which "
                "come to its end at different steps, got epoch. Use steps, and train_dataset.repeat(None)."
            )


class OneOrder(Sampler):
    """
    The same order of the texts in all processes: Transformers draws the order of `group_by_length` from each process's
    own random state, and from the second pass on these differ, so that some texts come twice and others never.

    Args:
        sampler (`LengthGroupedSampler`): what draws the order.
        seed (`Callable[[], int]`): of the pass that begins, the same in all processes, also after resuming.
    """

    def __init__(self, sampler: LengthGroupedSampler, seed: Callable[[], int]):
        self.sampler, self.seed = sampler, seed

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator = torch.Generator().manual_seed(self.seed())
        return iter(self.sampler)


__all__ = ["OneOrder", "check_processes"]
