"""
What a training run would find out too late: settings of the ELBO and of several processes, the output folder, other
texts on resuming, files that cannot be written.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging

from .private import TRAINER_STATE_NAME, ExportableState, get_last_checkpoint, has_adapters

# ---- Settings ----


def check_elbo_settings(args: TrainingArguments) -> None:
    """
    Refuse settings under which the Trainer would not train on the ELBO, or not at all.

    Args:
        args (`TrainingArguments`): `label_smoothing_factor` and the number of GPUs of this process count.

    Raises:
        ValueError: with the argument, what was got and the remedy.
    """
    if args.label_smoothing_factor:
        raise ValueError(
            f"`label_smoothing_factor` must be 0 for the ELBO, got {args.label_smoothing_factor}. Leave it out."
        )
    if args.n_gpu > 1:
        # the replicas of DataParallel return latents of unequal shapes, which cannot be gathered
        raise ValueError(
            f"`DataParallel` over {args.n_gpu} GPUs is not supported. Start the script by `torchrun` or "
            "`accelerate launch`, or choose one GPU by CUDA_VISIBLE_DEVICES."
        )


def check_distributed_settings(args: TrainingArguments, train_dataset: Any = None, eval_dataset: Any = None) -> None:
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


# ---- The output folder ----

# Fields that differ between runs of one and the same model: versions, and what the Trainer itself sets.
_VOLATILE_FIELDS = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "*.gguf")


def _config_differences(saved: dict, ours: dict, prefix: str = "") -> list[str]:
    differences = []
    for key in sorted((saved.keys() | ours.keys()) - _VOLATILE_FIELDS):
        saved_value, our_value = saved.get(key), ours.get(key)
        if isinstance(saved_value, dict) and isinstance(our_value, dict):
            differences += _config_differences(saved_value, our_value, f"{prefix}{key}.")
        elif saved_value != our_value:
            differences.append(f"`{prefix}{key}` is {saved_value!r} there and {our_value!r} here")
    return differences


def _read_config(folder: Path) -> dict | None:
    """The model's config.json in `folder`, or None where that is missing or of something else."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and "model_type" in config else None


def _compare_saved_config(folder: Path, config: PreTrainedConfig) -> list[str]:
    """How the model saved in `folder` differs from `config`; empty if it does not, or if no config.json is there."""
    saved = _read_config(folder)
    if saved is None:
        return []
    if saved.get("model_type") != config.model_type:
        return [f"`model_type` is {saved.get('model_type')!r} there and {config.model_type!r} here"]
    try:
        saved = type(config).from_dict(saved)  # config.json leaves out what equals the defaults
    except (TypeError, ValueError) as error:
        return [f"its config.json cannot be read: {error}"]
    return _config_differences(
        json.loads(saved.to_json_string(use_diff=False)), json.loads(config.to_json_string(use_diff=False))
    )


def _holds_model(folder: Path) -> bool:
    has_weights = any(True for pattern in _WEIGHT_FILES for _ in folder.glob(pattern))
    return has_weights or _read_config(folder) is not None


def check_output_dir(
    output_dir: str | os.PathLike, config: PreTrainedConfig, resume_from_checkpoint: str | bool | None = None
) -> None:
    """
    Refuse an output folder whose model a training run would overwrite.

    A folder without a model (missing, empty, or logs only) is always accepted. One with a model, in itself or in its
    `checkpoint-*` folders, is accepted only to resume from it, with the same configuration. [`TraceTrainer.train`]
    calls this before any work; a script may do so earlier, before it tokenizes its data.

    Args:
        output_dir (`str` or `os.PathLike`): Folder that the run will write to.
        config (`PreTrainedConfig`): Configuration of the model to train.
        resume_from_checkpoint (`str` or `bool`, *optional*): As in `Trainer.train`.

    Raises:
        ValueError: If the folder holds another model, or any model while not resuming from it.
    """
    output_dir = Path(output_dir)
    folders = [output_dir, *sorted(output_dir.glob("checkpoint-*"))]
    folders = [folder for folder in folders if folder.is_dir() and _holds_model(folder)]
    resumes_elsewhere = False
    if resume_from_checkpoint and not isinstance(resume_from_checkpoint, bool):
        checkpoint = Path(resume_from_checkpoint)
        resumes_elsewhere = output_dir.resolve() not in checkpoint.resolve().parents
        for difference in _compare_saved_config(checkpoint, config)[:1]:
            raise ValueError(
                f"`resume_from_checkpoint` '{checkpoint}' holds another model: {difference}. "
                "Resume with the configuration that it was trained with."
            )
    for folder in folders:
        for difference in _compare_saved_config(folder, config)[:1]:
            raise ValueError(f"`output_dir` '{output_dir}' holds another model: {difference}. Choose an empty folder.")
    if folders and (resumes_elsewhere or not resume_from_checkpoint):
        has_checkpoint = folders[-1] != output_dir
        remedy = "continue it with train(resume_from_checkpoint=True)" if has_checkpoint else "delete it"
        raise ValueError(
            f"`output_dir` '{output_dir}' already holds a model, which training would overwrite. "
            f"Choose an empty folder, or {remedy}."
        )


# ---- Resuming ----


def find_checkpoint(output_dir: str | os.PathLike, resume_from_checkpoint: str | bool | None) -> str | None:
    """
    The folder to resume from.

    Args:
        output_dir (`str` or `os.PathLike`): Folder of the run.
        resume_from_checkpoint (`str` or `bool`, *optional*): A checkpoint's folder; True, "true" or "yes" for the last
            one in `output_dir`; None, False, "", "no", "none" or "false" to start anew.

    Returns:
        `str`: the checkpoint's folder, or None to start anew.

    Raises:
        ValueError: If there is no checkpoint.
    """
    value = str(resume_from_checkpoint)
    if value.lower() in ("", "no", "none", "false"):
        return None
    checkpoint = value
    if value.lower() in ("yes", "true"):
        checkpoint = get_last_checkpoint(output_dir) if os.path.isdir(output_dir) else None
        if checkpoint is None:
            raise ValueError(
                f"`resume_from_checkpoint` found no checkpoint in `output_dir` '{output_dir}'. Leave it out to "
                "train from the start."
            )
    if not os.path.isfile(os.path.join(checkpoint, TRAINER_STATE_NAME)):
        raise ValueError(f"`resume_from_checkpoint` must be true or a checkpoint's folder, got '{checkpoint}'.")
    return checkpoint


class TrainingTextsCallback(TrainerCallback, ExportableState):
    """
    Writes into the state of every checkpoint which texts it was trained on, so that resuming on others is refused.

    Args:
        fingerprint (`str`, *optional*): as [`fingerprint_texts`] finds it; None where it is not known.
        num_texts (`int`, *optional*): None for a stream.
    """

    def __init__(self, fingerprint: str | None = None, num_texts: int | None = None):
        self.fingerprint, self.num_texts = fingerprint, num_texts
        self._read = None

    def read(self, train_dataset: Any) -> None:
        """Look at the tokenized texts; data sets that are not of the package `datasets` have no fingerprint."""
        if train_dataset is not None and train_dataset is self._read:
            return
        self._read = train_dataset
        from datasets import Dataset, IterableDataset

        from ..data.preparation import fingerprint_texts

        known = isinstance(train_dataset, (Dataset, IterableDataset))
        columns = (train_dataset.column_names or ["input_ids"]) if known else []
        self.fingerprint = fingerprint_texts(train_dataset) if "input_ids" in columns else None
        self.num_texts = len(train_dataset) if hasattr(train_dataset, "__len__") else None

    def check(self, checkpoint: str | os.PathLike) -> None:
        """
        Refuse a checkpoint of other texts: resuming goes on at a place in the texts, which means nothing in others.

        Raises:
            ValueError: if the checkpoint's texts are known and are not these.
        """
        state = json.loads(Path(checkpoint, TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        saved = state.get("stateful_callbacks", {}).get(type(self).__name__, {}).get("args", {})
        if None in (saved.get("fingerprint"), self.fingerprint) or saved["fingerprint"] == self.fingerprint:
            return
        got = "other ones" if self.num_texts is None else f"{self.num_texts:,} other ones"
        before = "" if saved["num_texts"] is None else f" {saved['num_texts']:,}"
        raise ValueError(
            f"`resume_from_checkpoint` needs the{before} training texts of the first run, got {got}: `dataset`, a "
            "file behind it, `split`, `max_texts`, `max_length` or the segments have changed. Restore them, or start "
            "a run in an empty `output_dir`."
        )

    def state(self) -> dict:
        return {"args": {"fingerprint": self.fingerprint, "num_texts": self.num_texts}, "attributes": {}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        # also in a state that was read from a checkpoint without it, where the Trainer would look for it in vain
        state.stateful_callbacks[type(self).__name__] = self.state()


# ---- Saving ----


@contextlib.contextmanager
def _no_progress_bars():
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_saving(model: PreTrainedModel, processing_class: Any, args: TrainingArguments) -> None:
    """
    Save all but the weights into a temporary folder, so that what only saving finds out is found before training.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model to train, not wrapped.
        processing_class (*optional*): The processor or tokenizer that is saved beside it.
        args (`TrainingArguments`): Pickled into each checkpoint.

    Raises:
        ValueError: What the save would raise, as one line.
    """
    parts = {
        # PEFT saves the adapter, and nothing else of the model
        "model.config": lambda folder: model.config.save_pretrained(folder),
        "args": lambda folder: torch.save(args, io.BytesIO()),
    }
    if not has_adapters(model):
        parts["model.generation_config"] = lambda folder: model.generation_config.save_pretrained(folder)
        parts["model"] = lambda folder: model.save_pretrained(folder, state_dict={})
    if processing_class is not None:
        parts["processing_class"] = lambda folder: processing_class.save_pretrained(folder)
    for name, save in parts.items():
        with tempfile.TemporaryDirectory() as folder, _no_progress_bars():
            try:
                save(folder)
            except Exception as error:
                raise ValueError(
                    f"`{name}` cannot be saved, which would end training at its first checkpoint: "
                    f"{' '.join(str(error).split())}"
                ) from error


__all__ = [
    "TrainingTextsCallback",
    "check_distributed_settings",
    "check_elbo_settings",
    "check_output_dir",
    "check_saving",
    "find_checkpoint",
]
