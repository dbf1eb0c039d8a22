"""`TraceTrainer`: the Hugging Face `Trainer` that logs the parts of the ELBO (paper Eq. 6) and guards its weights."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedConfig, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from ..models.segments_trace import check_prompts, segment_layout
from .callbacks import CollapseWarningCallback, KLWeightCallback, get_kl_weight
from .checkpoints import WholeCheckpointsMixin
from .distributed import OneOrder, check_processes
from .memory import OptimizerStepCallback, run_must_fit, step_must_fit

logger = logging.get_logger(__name__)


class TrainingDivergedError(RuntimeError):
    """The loss or the weights are not finite. Raised before anything is saved, so earlier checkpoints are intact."""


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
# Starts from nothing beside a trained backbone: measured in docs/differences_from_paper.md
LATENT_LR_FACTOR = 5.0
_LATENT_PARAMETERS = re.compile(r"(^|\.)(dynamics|latent_injection|state_reader)\.")
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "*.gguf")


def _config_differences(saved: dict, ours: dict, prefix: str = "") -> list[str]:
    differences = []
    for key in sorted((saved.keys() | ours.keys()) - _VOLATILE_FIELDS):
        there, here = saved.get(key), ours.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            differences += _config_differences(there, here, f"{prefix}{key}.")
        elif there != here:
            differences.append(f"`{prefix}{key}` is {there!r} there and {here!r} here")
    return differences


def _read_config(folder: Path) -> dict | None:
    """The model's config.json in `folder`; None if there is none or it is no model's."""
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


def _check_dataset(name: str, dataset, needs_input_ids: bool) -> None:
    """One-line errors for the usual mistakes; `dataset` is a `datasets.Dataset` or any PyTorch dataset."""
    if dataset is None:
        return
    is_dataset_dict = isinstance(dataset, Mapping) and "DatasetDict" in type(dataset).__name__
    if is_dataset_dict or (isinstance(dataset, Mapping) and name == "train_dataset"):
        split = "train" if name == "train_dataset" else "validation"
        raise ValueError(
            f"`{name}` must be one Dataset, got a {type(dataset).__name__} with {list(dataset)}. "
            f"Did you pass the DatasetDict? Use dataset['{split}']."
        )
    if isinstance(dataset, Mapping):  # Trainer evaluates each entry of a dict by itself
        for key, part in dataset.items():
            _check_dataset(f"{name}[{key!r}]", part, needs_input_ids)
        return
    if hasattr(dataset, "__len__") and len(dataset) == 0:
        raise ValueError(f"`{name}` is empty. Check the split and the filters that it went through.")
    columns = getattr(dataset, "column_names", None)
    if columns is None and hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        columns = list(dataset[0]) if isinstance(dataset[0], Mapping) else None
    if needs_input_ids and columns is not None and "input_ids" not in columns:
        raise ValueError(
            f"`{name}` has no column `input_ids`, only {list(columns)}. Tokenize it first: "
            "modeling_trace.data.prepare_dataset(dataset, processor)."
        )


class _LossSums:
    """
    Sums of the loss parts over texts since the last log.

    They stay on the device, in float64 where it exists: nothing is read back, so no step waits for them, before
    `read`. Batches that are not finite are left out of the sums; the first step with such a part is kept instead.
    """

    NAMES = ("reconstruction", "kl", "texts", "segments", "tokens", "kl_weight", "gain", "gain_texts")

    def __init__(self, device: torch.device):
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(len(self.NAMES), dtype=dtype, device=device)
        self.first_bad_step = torch.full((2,), torch.inf, dtype=dtype, device=device)  # of reconstruction, KL

    @torch.no_grad()
    def add(
        self,
        outputs,
        labels: torch.Tensor,
        kl_weight: torch.Tensor | None,
        step: int,
        num_texts: int,
        gain: torch.Tensor | None = None,
    ) -> None:
        """
        Add a batch: `num_texts` texts with mean loss parts `outputs`, at optimizer step `step` (from 1); `gain` is
        what they cost more under other texts' latents, mean nats per text, where that is known.
        """
        zero = self.sums.new_zeros(())
        reconstruction = outputs.reconstruction_loss.to(self.sums)
        kl = zero if outputs.kl_loss is None else outputs.kl_loss.to(self.sums)
        num_segments = zero
        if outputs.latents is not None and outputs.segment_ids is not None:
            # "single" dynamics have one latent however many segments a text has
            num_segments = outputs.segment_ids.amax(dim=1).clamp(0, outputs.latents.shape[1]).sum().to(self.sums)
        num_tokens = labels[..., 1:].ne(-100).sum().to(self.sums)
        weight = zero if kl_weight is None else kl_weight.to(self.sums)
        parts = torch.stack([reconstruction, kl])  # (2,)
        finite = parts.isfinite()
        texts = torch.full_like(zero, num_texts)
        gain = torch.full_like(zero, torch.nan) if gain is None else gain.to(self.sums)
        gained, gain_texts = torch.stack([gain * num_texts, texts]).where(gain.isfinite(), zero)
        row = [texts, num_segments, num_tokens, weight * num_texts, gained, gain_texts]
        row = torch.cat([parts * num_texts, torch.stack(row)])
        self.sums += torch.where(finite.all(), row, zero)
        self.first_bad_step = torch.where(finite, self.first_bad_step, self.first_bad_step.clamp(max=step))

    def read(self, accelerator) -> tuple[dict[str, float], dict[str, int]]:
        """Sums over all processes, and the first bad step of each part that was not finite. Waits for the device."""
        rows = accelerator.gather(torch.cat([self.sums, self.first_bad_step])[None])  # (num_processes, 10)
        number = len(self.NAMES)
        sums, first = rows[:, :number].sum(dim=0).tolist(), rows[:, number:].amin(dim=0).tolist()
        bad = zip(self.NAMES[:2], first, strict=True)
        return dict(zip(self.NAMES, sums, strict=True)), {name: int(step) for name, step in bad if math.isfinite(step)}


@contextlib.contextmanager
def _own_class(model: torch.nn.Module):
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


def _own_part(parameter: torch.nn.Parameter) -> torch.Tensor:
    """What this process holds of a parameter."""
    for name in ("_local_tensor", "ds_tensor"):  # a shard, under FSDP2 and ZeRO-3
        if hasattr(parameter, name):
            return getattr(parameter, name).detach()
    return parameter.detach()


class _SegmentCollator:
    """
    A collator whose batches say where their segments lie, so that the model need not wait for the device to know, and
    have no targets in their prompts.
    """

    def __init__(self, collator: Callable, model, with_layout: bool):
        self.collator, self.with_layout = collator, with_layout
        config = model.config  # nothing else of the model: workers get a copy
        self.conditional, self.hidden_size = config.conditional, model.packed_hidden_size
        self.rule = model.segment_rule

    def __call__(self, features):
        from ..data.collator import mask_prompts

        batch = self.collator(features)
        if self.conditional and getattr(self.collator, "prompt_end", None) is None:
            batch = mask_prompts(batch, self.rule.sep_token_id)
        if not self.with_layout:
            return batch
        attention_mask, segment_ids = batch.get("attention_mask"), batch.get("segment_ids")
        if segment_ids is None:
            segment_ids = self.rule.segment_ids(batch["input_ids"], attention_mask)
        elif attention_mask is not None:
            segment_ids = segment_ids.masked_fill(attention_mask == 0, -1)
        if self.conditional:
            check_prompts(segment_ids)
        return {**batch, "segment_layout": segment_layout(segment_ids, self.hidden_size)}


class TraceTrainer(WholeCheckpointsMixin, Trainer):
    """
    `Trainer` for [`TraceForConditionalGeneration`]. It takes every argument of `Trainer`, and standard
    `TrainingArguments` and callbacks; what it adds:

    - The KL weight follows `kl_schedule`, exactly so after resuming.
    - Logs carry `reconstruction` and `kl` (nats per text), `kl_per_segment` (nats per segment), `kl_per_dim` (nats per
      segment and latent dimension) and `kl_weight`: averages since the last log, over all texts of gradient
      accumulation and of all processes. Evaluation reports the first four, by its prefix, over the whole data set.
    - Evaluation also scores each text under another text's latents, one of its own batch with as many segments or
      nearly so ([`choose_donors`]): `reconstruction_other` and `latent_gain`, what that costs more than its own
      latents (nats per text), and `gain_per_nat`, nats gained per nat of KL, which is near 0 where the decoder ignores
      the latents. That is one more decoder pass for each batch. A text alone in its batch takes the latents of the
      batch before it, where that has one text too, and else is left out of the gain.
    - Evaluation is the ELBO whatever the schedule and `kl_reduction` are: KL weight 1, latents drawn from the
      posterior under a fixed seed, and `eval_loss` its negative in nats per target token, exact over the data set.
      Values of different steps compare, `load_best_model_at_end` may choose by them, and evaluating does not change
      training.
    - Training stops with a [`TrainingDivergedError`] when the loss or the weights are not finite: when it next logs,
      evaluates or saves, and always before saving. It warns once when the latents collapse
      ([`CollapseWarningCallback`]).
    - A step that does not fit in memory is a [`TrainingMemoryError`], which says what to change.
    - Mistakes in the data and an output folder that holds another model are errors before any work.

    Args:
        model, args, data_collator, train_dataset, eval_dataset, processing_class:
            As in `Trainer`. Without a `data_collator`, `TraceDataCollator(processing_class)` pads and makes labels.
        kl_schedule (`Callable[[float], float]`, `str` or `None`, *optional*, defaults to `"linear"`):
            Maps training progress in [0, 1] to the KL weight, as [`linear_schedule`] does; a name stands for that
            schedule with its defaults. None leaves `model.kl_weight` alone. A [`KLWeightCallback`] among `callbacks`
            takes its place.
        eval_sample_latents (`bool`, *optional*, defaults to `True`):
            Draw one latent per segment from the posterior when evaluating, an unbiased estimate of the ELBO. False
            uses the posterior mean, which has less reconstruction error and is no bound.
        latent_lr_factor (`float`, *optional*):
            The learning rate of what reads and writes latents (dynamics, W_z, state reader), which starts from
            nothing, over the backbone's. Default: 5 with `latent_layer`, 1 for latents at the embeddings, as in the
            paper.
        kwargs: Other arguments of `Trainer`.

    Raises:
        ValueError: For a data set that cannot be used, a missing collator, or settings that cannot work with the
            ELBO (label smoothing, another loss function, `DataParallel`) or with several processes
            ([`check_processes`]).

    Note: In a data set without a length (streamed) that several processes evaluate, the last batch may hold texts
    twice, which are then counted twice; with one process, or with a length, every text counts once.

    Example:

    ```python
    trainer = TraceTrainer(model, TrainingArguments("out"), train_dataset=dataset, processing_class=processor)
    trainer.train()
    ```
    """

    def __init__(
        self,
        model=None,
        args=None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        *,
        kl_schedule: Callable[[float], float] | str | None = "linear",
        eval_sample_latents: bool = True,
        latent_lr_factor: float | None = None,
        callbacks: list | None = None,
        **kwargs,
    ):
        needs_input_ids = data_collator is None or args is None or args.remove_unused_columns
        _check_dataset("train_dataset", train_dataset, needs_input_ids)
        _check_dataset("eval_dataset", eval_dataset, needs_input_ids)
        if data_collator is None and processing_class is not None:
            from ..data import TraceDataCollator

            data_collator = TraceDataCollator(processing_class)
        elif data_collator is None and (train_dataset is not None or eval_dataset is not None):
            raise ValueError(
                "`processing_class` is needed to pad texts. Pass the TraceProcessor or a `data_collator`."
            )
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("`compute_loss_func` cannot be used: the model itself computes the ELBO from `labels`.")
        callbacks = list(callbacks or [])
        if kl_schedule is not None and not any(isinstance(callback, KLWeightCallback) for callback in callbacks):
            callbacks.append(KLWeightCallback(kl_schedule))
        if not any(isinstance(callback, CollapseWarningCallback) for callback in callbacks):
            callbacks.append(CollapseWarningCallback())
        if latent_lr_factor is not None and not (0 < latent_lr_factor < math.inf):
            raise ValueError(f"`latent_lr_factor` must be a number > 0, got {latent_lr_factor!r}. Use 5.")
        self.latent_lr_factor = latent_lr_factor
        self._optimizer_step = OptimizerStepCallback()
        callbacks.append(self._optimizer_step)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            **kwargs,
        )
        self._check_settings()
        check_processes(self.args, train_dataset, eval_dataset)
        # The loss is divided by the number of target tokens of the whole (accumulated, distributed) batch.
        self.model_accepts_loss_kwargs = True
        self.eval_sample_latents = eval_sample_latents
        self._sums = _LossSums(self.args.device)
        self._evaluating = False
        self._alone_before = None  # latents and number of segments of an evaluation batch of one text
        self._owns_output_dir = False
        self._check_segments(processing_class)
        config = self.model.config
        # batches that one process reads for all are cut into tensors of one shape, which a layout is not
        with_layout = config.latent_dynamics != "none" and not self.args.accelerator_config.dispatch_batches
        if config.conditional or with_layout:  # whatever collator: the loss is divided by its number of targets
            self.data_collator = _SegmentCollator(self.data_collator, self.model, with_layout)

    def _check_settings(self) -> None:
        if get_kl_weight(self.model) is None:
            raise ValueError(
                f"`model` must be a TraceForConditionalGeneration, got {type(self.model).__name__}. "
                "Build one by from_backbone, with latent_dynamics='none' for a plain language model."
            )
        if self.args.label_smoothing_factor:
            raise ValueError(
                f"`label_smoothing_factor` must be 0, got {self.args.label_smoothing_factor}: "
                "a smoothed reconstruction is no part of the ELBO."
            )
        if self.args.n_gpu > 1:
            # its replicas return latents of unequal shapes, which cannot be gathered
            raise ValueError(
                f"`DataParallel` over {self.args.n_gpu} GPUs is not supported. Start the script by `torchrun` or "
                "`accelerate launch`, or choose one GPU by CUDA_VISIBLE_DEVICES."
            )

    def _check_segments(self, processing_class) -> None:
        config = self.model.config
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        conditional = getattr(processing_class, "conditional", config.conditional)
        if conditional != config.conditional:
            raise ValueError(
                f"`processing_class` has conditional={conditional}, the model {config.conditional}: prompts would be "
                "taken for text, or the reverse. Make both the same."
            )
        segments = self.model.has_latents and not self.model.one_latent_per_text
        separator = getattr(processing_class, "separator", config.separator)
        if segments and separator != config.separator:
            raise ValueError(
                f"`processing_class` has separator='{separator}', the model '{config.separator}': segments would end "
                "elsewhere. Build the model by from_backbone(backbone, processor), which takes it from there."
            )
        closing = getattr(processing_class, "closing_token_ids", config.closing_token_ids)
        if segments and closing != config.closing_token_ids:
            raise ValueError(
                "`processing_class` has other `closing_token_ids` than the model: segments would end elsewhere. Build "
                "the model by from_backbone(backbone, processor), which takes them from there."
            )
        if not (segments or conditional) or not hasattr(tokenizer, "sep_token_id"):
            return
        needs_separator = conditional or config.separator == "token"
        if needs_separator and tokenizer.sep_token_id != config.sep_token_id:
            raise ValueError(
                f"`processing_class` has [SEP] id {tokenizer.sep_token_id}, the model {config.sep_token_id}: segments "
                "would not be found. Use the tokenizer that `from_backbone` was given or that is saved with the model."
            )
        length = getattr(processing_class, "segment_length", config.segment_length)
        if segments and length != config.segment_length:
            raise ValueError(
                f"`processing_class` makes segments of length {length}, the model generates {config.segment_length} "
                f"(None: varying). Build the model with segment_length={length}."
            )

    def create_accelerator_and_postprocess(self) -> None:
        if self.args.accelerator_config.dispatch_batches is None:
            # Accelerate would read streams in one process and put the batches of all together, which cannot be done
            # where each is padded to its own longest text: let each process read its own.
            self.args.accelerator_config.dispatch_batches = False
        super().create_accelerator_and_postprocess()

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler) and self.args.world_size > 1:
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            sampler = OneOrder(sampler, lambda: seed + int(self.state.epoch or 0))
        return sampler

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        made = self.optimizer is None  # one of the caller's has the rates that it has
        optimizer = super().create_optimizer(model)
        factor = self.latent_lr_factor
        if factor is None:
            factor = 1.0 if self.model.config.latent_layer is None else LATENT_LR_FACTOR
        if made and factor != 1.0:
            named = (self.model if model is None else model).named_parameters()
            latent = {id(p) for name, p in named if _LATENT_PARAMETERS.search(name)}
            groups = []
            for group in optimizer.param_groups:
                parts = ([p for p in group["params"] if (id(p) in latent) is its] for its in (False, True))
                groups += [
                    {**group, "params": part, "lr": group["lr"] * rate}
                    for part, rate in zip(parts, (1.0, factor), strict=True)
                    if part
                ]
            optimizer.param_groups[:] = sorted(groups, key=lambda group: group["lr"])  # the first one's is logged
        return optimizer

    # ---- Loss ----

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self._evaluating and self.eval_sample_latents:
            inputs = {**inputs, "sample_latents": True}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self._evaluating:
            inputs, parts, num_texts = self._without_repeated_texts(model, inputs, outputs)
            self._collect(inputs, parts, num_texts, self._latent_gain(model, inputs, parts))
        else:
            self._collect(inputs, outputs, len(inputs["input_ids"]))
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, *args, **kwargs):
        with step_must_fit(self.args, inputs, training=True):
            return super().training_step(model, inputs, *args, **kwargs)

    def prediction_step(self, model, inputs, *args, **kwargs):
        with step_must_fit(self.args, inputs, training=False):
            return super().prediction_step(model, inputs, *args, **kwargs)

    def _collect(self, inputs, outputs, num_texts: int, gain: torch.Tensor | None = None) -> None:
        if num_texts == 0:
            return
        # The Trainer counts a step only when it is over.
        step = self.state.global_step + (0 if self._evaluating else 1)
        self._sums.add(outputs, inputs["labels"], get_kl_weight(self.model), step, num_texts, gain)

    def _without_repeated_texts(self, model, inputs, outputs):
        """
        Several processes share the last evaluation batch evenly, which repeats some texts. Their losses are means over
        their texts, so a process with repeated texts looks at its own again, without them.
        """
        state, num_texts = self.accelerator.gradient_state, len(inputs["input_ids"])
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return inputs, outputs, num_texts
        per_process = state.active_dataloader.total_batch_size // self.accelerator.num_processes
        own = state.remainder - self.accelerator.process_index * per_process
        own = min(max(own, 0), num_texts)
        # Every process calls the model, also one without a text of its own: under FSDP a call is collective.
        rows = max(own, 1)
        inputs = {
            key: value[:rows] if isinstance(value, torch.Tensor) and value.shape[:1] == (num_texts,) else value
            for key, value in inputs.items()
            if key != "segment_layout"
        }
        return inputs, model(**inputs), own

    def _latent_gain(self, model, inputs, outputs) -> torch.Tensor | None:
        """What the batch's texts cost more under other texts' latents, mean nats per text; None where unknown."""
        if outputs.latents is None:
            return None
        from ..evaluation.latent_use import choose_donors, lend

        latents = outputs.latents.nan_to_num()  # the model refuses others, in this process alone
        counts = outputs.segment_ids.amax(dim=1)
        alone = (latents, counts) if len(latents) == 1 else None
        lenders, self._alone_before = self._alone_before, alone
        if alone is None:
            donors = choose_donors(counts)
            lenders = (latents[donors], counts[donors])
        # Every process calls the model, also where it counts for nothing: under FSDP a call is collective.
        others = model(**inputs, latents=lend(*(lenders or alone), latents.shape[1]))
        return None if lenders is None else others.reconstruction_loss - outputs.reconstruction_loss

    # ---- Logs ----

    def _read_sums(self) -> dict[str, float]:
        """Sums over all processes; a collective call. Raises if a part was not finite."""
        totals, first_bad_step = self._sums.read(self.accelerator)
        if first_bad_step:
            step = min(first_bad_step.values())
            parts = " and ".join(name for name, first in first_bad_step.items() if first == step)
            what = f"{parts} not finite at step {step}"
            if self.accelerator.scaler is None:
                raise TrainingDivergedError(self._diverged_message(what))
            # float16 training skips steps whose gradients overflow and lowers its loss scale
            logger.warning_once(f"{what}: the step was skipped. If this goes on, train in bfloat16 (`bf16=True`).")
        return totals

    def _diverged_message(self, what: str) -> str:
        checkpoint = get_last_checkpoint(self.args.output_dir) if os.path.isdir(self.args.output_dir) else None
        saved = "Nothing was saved yet" if checkpoint is None else f"The last checkpoint, '{checkpoint}', is intact"
        return (
            f"Training diverged: {what}. {saved}. Lower `learning_rate` (now {self.args.learning_rate:g}), keep "
            "`prior_logvar_bound` and `residual_scale='prior'` in the configuration, then train again."
        )

    @staticmethod
    def _metrics(totals: dict[str, float], latent_size: int) -> dict[str, float]:
        metrics = {}
        if totals["texts"]:
            metrics["reconstruction"] = totals["reconstruction"] / totals["texts"]
        if totals["segments"]:
            metrics["kl"] = totals["kl"] / totals["texts"]
            metrics["kl_per_segment"] = totals["kl"] / totals["segments"]
            metrics["kl_per_dim"] = metrics["kl_per_segment"] / latent_size
        if totals["gain_texts"]:
            gain = totals["gain"] / totals["gain_texts"]
            metrics |= {"reconstruction_other": metrics["reconstruction"] + gain, "latent_gain": gain}
            if metrics.get("kl", 0) > 0:
                metrics["gain_per_nat"] = gain / metrics["kl"]
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # the training log, which all processes write at the same step
            totals = self._read_sums()
            self._sums = _LossSums(self.args.device)
            metrics = self._metrics(totals, self.model.config.latent_size)
            if "kl" in metrics:
                metrics["kl_weight"] = totals["kl_weight"] / totals["texts"]
            logs.update(metrics)
        super().log(logs, start_time)

    # ---- Evaluation ----

    @contextlib.contextmanager
    def _elbo(self):
        """KL weight 1 and a fixed seed inside; the weight and the state of the random generators as before outside."""
        weight, device = get_kl_weight(self.model), self.args.device
        before = weight.clone()
        on_accelerator = device.type not in ("cpu", "mps")  # these two have no generator per device
        rng = {"devices": [device], "device_type": device.type} if on_accelerator else {"devices": []}
        with torch.random.fork_rng(**rng):
            torch.manual_seed(self.args.seed + self.args.process_index)
            weight.fill_(1.0)
            try:
                yield
            finally:
                weight.copy_(before)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        if self.is_in_train:
            self._read_sums()  # stops before a long evaluation of broken weights
        training_sums, self._sums = self._sums, _LossSums(self.args.device)
        self._evaluating, self._alone_before = True, None
        try:
            with self._elbo():
                output = super().evaluation_loop(
                    dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
                )
            totals, first_bad_step = self._sums.read(self.accelerator)
        finally:
            self._sums, self._evaluating = training_sums, False
        metrics = self._metrics(totals, self.model.config.latent_size)
        if totals["tokens"]:
            # The Trainer's own figure is a mean over batches, which weighs tokens by their batch.
            metrics["loss"] = (totals["reconstruction"] + totals["kl"]) / totals["tokens"]
        if first_bad_step:
            metrics = dict.fromkeys(metrics, float("nan"))
        metrics["texts"] = int(totals["texts"])
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    # ---- Start and save ----

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        if trial is None and not self._owns_output_dir:  # later calls continue in this run's own folder
            check_output_dir(self.args.output_dir, self.model.config, resume_from_checkpoint)
            self._owns_output_dir = True
            self.remove_unfinished()
        self._sums = _LossSums(self.args.device)
        # under ZeRO-3 `numel` is that of what is not dealt out: nothing
        trained = sum(getattr(p, "ds_numel", p.numel()) for p in self.model.parameters() if p.requires_grad)
        with run_must_fit(self.args, trained, self._optimizer_step):
            result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        self._read_sums()  # what came after the last log
        return result

    def end(self) -> None:
        # A thread of Gloo may still hold tensors of the last collective; a process that exits then is aborted now and
        # then. After a barrier, which has no tensors of Python's, no thread does.
        self.accelerator.wait_for_everyone()
        super().end()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        # Each process looks at its own weights: users may call this in one process only.
        finite = [_own_part(p).isfinite().all() for p in self.model.parameters() if p.requires_grad]
        if finite and not all(torch.stack(finite).tolist()):
            what = f"the weights are not finite after step {self.state.global_step}, and were not saved"
            raise TrainingDivergedError(self._diverged_message(what))
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        if state_dict is not None:
            # Gathered from shards, tied weights are equal but no longer one: they would be saved twice.
            tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", {})
            state_dict = {name: value for name, value in state_dict.items() if name not in tied}
        with _own_class(self.model):
            super()._save(output_dir, state_dict=state_dict)
        if self.args.should_save and hasattr(self.accelerator.unwrap_model(self.model), "peft_config"):
            # PEFT saves the adapter alone; `load_adapter_model` builds what it belongs to from this
            config = copy.deepcopy(self.model.config)
            config.__dict__.pop("auto_map", None)  # no code lies beside an adapter
            folder = output_dir if output_dir is not None else self.args.output_dir
            config.to_json_file(os.path.join(folder, "config.json"))


__all__ = ["TraceTrainer", "TrainingDivergedError", "check_output_dir"]
