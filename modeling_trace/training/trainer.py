"""`TraceTrainer`: the Hugging Face `Trainer` that logs the parts of the ELBO (paper Eq. 6) and guards its weights."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, set_seed
from transformers.utils import ModelOutput, logging

from ..data import TraceDataCollator, TraceProcessor
from ..data.collator import check_collator
from ..models.checksums_trace import check_checksums
from .batches import SegmentCollator, SharedOrderSampler
from .callbacks import CollapseWarningCallback, GracefulStopCallback, KLWeightCallback, get_kl_weight
from .checkpoints import WholeCheckpointsMixin
from .guards import (
    TrainingTextsCallback,
    check_distributed_settings,
    check_elbo_settings,
    check_output_dir,
    check_saving,
    find_checkpoint,
)
from .learning_rates import raise_latent_rates
from .memory import OptimizerStepCallback, guard_run_memory, guard_step_memory
from .metrics import LossSums, mean_metrics
from .preparation import TextPreparation, check_dataset, check_processor
from .private import (
    EvalLoopOutput,
    LengthGroupedSampler,
    TrainOutput,
    custom_object_save,
    get_last_checkpoint,
    has_adapters,
    local_shard,
    number_of,
    unsharded_class,
)
from .sharing import SharingMixin
from .training_args import TraceTrainingArguments, correct_best_metric, make_kl_schedule

logger = logging.get_logger(__name__)


class TrainingDivergedError(RuntimeError):
    """The loss or the weights are not finite. Raised before anything is saved, so earlier checkpoints are intact."""


class TraceTrainer(SharingMixin, WholeCheckpointsMixin, Trainer):
    """
    `Trainer` for [`TraceForConditionalGeneration`]. It takes every argument of `Trainer`; what it adds:

    - It takes the name of a model and texts, and makes of them the model and the tokens to train on.
    - The KL weight follows `args.kl_schedule`, exactly so after resuming.
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
      training. `metric_for_best_model` may be any of the names above: less of a loss is better, more of a gain.
    - Training stops with a [`TrainingDivergedError`] when the loss or the weights are not finite: when it next logs,
      evaluates or saves, and always before saving. It warns once when the latents collapse
      ([`CollapseWarningCallback`]).
    - A step that does not fit in memory is a [`TrainingMemoryError`], which says what to change.
    - Ctrl-C finishes the step and saves a checkpoint before it stops ([`GracefulStopCallback`]).
    - Mistakes in the data, an output folder that holds another model, resuming on other texts and what could not be
      saved are errors before any work.

    Args:
        model (`str` or `PreTrainedModel`, *optional*):
            A model, also with adapters; or the name or folder of a language model, from which
            `from_backbone(model, processor, **args.model_init_kwargs)` builds one, or of a saved TRACE model.
        args ([`TraceTrainingArguments`] or `TrainingArguments`, *optional*):
            Standard `TrainingArguments` stand for the defaults of the settings that they lack.
        train_dataset, eval_dataset (*optional*):
            Texts: a `Dataset` or `IterableDataset` with a column `text`, and `prompt` for conditional models (a model
            that is built here from a name is conditional where there is one). They are tokenized as
            [`prepare_dataset`] does, to at most `args.max_length` tokens. Rows with `input_ids` are taken as they are.
        processing_class ([`TraceProcessor`] or `PreTrainedTokenizerBase`, *optional*):
            Says where segments end, and is saved with the model. Default: that of the named model, with segments of
            `segment_length` tokens.
        data_collator (*optional*): By default `TraceDataCollator(processing_class)`, which pads and makes labels.
        callbacks (`list[TrainerCallback]`, *optional*):
            As in `Trainer`. A [`KLWeightCallback`] takes the place of `args.kl_schedule`.
        kwargs: Other arguments of `Trainer`.

    Raises:
        ValueError: For a model that cannot be built, a data set that cannot be used, a missing collator, or settings
            that cannot work with the ELBO (label smoothing, another loss function, `DataParallel`) or with several
            processes ([`check_distributed_settings`]).

    Note: In a data set without a length (streamed) that several processes evaluate, the last batch may hold texts
    twice, which are then counted twice; with one process, or with a length, every text counts once.

    Example:

    ```python
    texts = Dataset.from_dict({"text": ["The food was good. We will be back.", ...]})
    args = TraceTrainingArguments("out", max_steps=300, model_init_kwargs={"free_nats": 1.5})
    trainer = TraceTrainer("gpt2", args, train_dataset=texts)
    trainer.train()
    ```
    """

    data_collator: Callable[[list[dict]], dict]
    model_wrapped: torch.nn.Module

    def __init__(
        self,
        model=None,
        args=None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        *,
        callbacks: list | None = None,
        **kwargs,
    ):
        args = TraceTrainingArguments() if args is None else args
        # the class holds the defaults
        self._settings = args if isinstance(args, TraceTrainingArguments) else TraceTrainingArguments
        check_elbo_settings(args)
        correct_best_metric(args)
        needs_input_ids = data_collator is None or args.remove_unused_columns
        check_dataset("train_dataset", train_dataset, needs_input_ids)
        check_dataset("eval_dataset", eval_dataset, needs_input_ids)
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("`compute_loss_func` cannot be used: the model itself computes the ELBO from `labels`.")
        self._texts = TextPreparation(model, processing_class, args, needs_input_ids)
        train_dataset, eval_dataset = self._texts(train_dataset), self._texts(eval_dataset)
        if (named := self._texts.named_model) is not None:
            self._texts.make_processor()
        processing_class = self._texts.processing_class
        if data_collator is None and processing_class is not None:
            data_collator = TraceDataCollator(processing_class)
        elif data_collator is None and (train_dataset is not None or eval_dataset is not None):
            raise ValueError(
                "`processing_class` is needed to pad texts. Pass the TraceProcessor or a `data_collator`."
            )
        if named is not None:
            set_seed(args.seed)  # of the latent networks, which start at random
            model = named.load(processing_class)
        callbacks = list(callbacks or [])
        schedule = make_kl_schedule(self._settings)
        if schedule is not None and not any(isinstance(callback, KLWeightCallback) for callback in callbacks):
            callbacks.append(KLWeightCallback(schedule))
        if not any(isinstance(callback, CollapseWarningCallback) for callback in callbacks):
            callbacks.append(CollapseWarningCallback())
        self._optimizer_step, self._stop = OptimizerStepCallback(), GracefulStopCallback()
        self._fingerprint = TrainingTextsCallback()
        callbacks += [self._optimizer_step, self._stop, self._fingerprint]
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
        if get_kl_weight(self.model) is None:
            raise ValueError(
                f"`model` must be a TraceForConditionalGeneration, got {type(self.model).__name__}. "
                "Build one by from_backbone, with latent_dynamics='none' for a plain language model."
            )
        check_distributed_settings(self.args, train_dataset, eval_dataset)
        # The loss is divided by the number of target tokens of the whole (accumulated, distributed) batch.
        self.model_accepts_loss_kwargs = True
        self._sums = LossSums(self.args.device)
        self._evaluating = False
        self._alone_before = None  # latents and number of segments of an evaluation batch of one text
        self._owns_output_dir = False
        check_processor(processing_class, self.model)
        if isinstance(processing_class, (TraceProcessor, PreTrainedTokenizerBase)):
            check_collator(self.data_collator, processing_class)
        config = self.model.config
        # batches that one process reads for all are cut into tensors of one shape, which a layout is not
        with_layout = config.latent_dynamics != "none" and not self.args.accelerator_config.dispatch_batches
        if config.conditional or with_layout:  # whatever collator: the loss is divided by its number of targets
            self.data_collator = SegmentCollator(self.data_collator, self.model, with_layout)

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
            sampler = SharedOrderSampler(sampler, lambda: seed + int(self.state.epoch or 0))
        return sampler

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        made = self.optimizer is None  # one of the caller's has the rates that it has
        optimizer = super().create_optimizer(model)
        if made:
            model = self.model if model is None else model
            raise_latent_rates(optimizer, model, self.model.config, self._settings.latent_lr_factor)
        return optimizer

    # ---- Loss ----

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ModelOutput]:
        if self._evaluating and self._settings.eval_sample_latents:
            inputs = {**inputs, "sample_latents": True}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self._evaluating:
            inputs, parts, num_texts = self._without_repeated_texts(model, inputs, outputs)
            self._collect(inputs, parts, num_texts, self._latent_gain(model, inputs, parts))
        else:
            self._collect(inputs, outputs, len(inputs["input_ids"]))
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args, **kwargs) -> torch.Tensor:
        with guard_step_memory(self.args, inputs, training=True):
            return super().training_step(model, inputs, *args, **kwargs)

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], *args, **kwargs
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        with guard_step_memory(self.args, inputs, training=False):
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
        num_own = state.remainder - self.accelerator.process_index * per_process
        num_own = min(max(num_own, 0), num_texts)
        # Every process calls the model, also one without a text of its own: under FSDP a call is collective.
        rows = max(num_own, 1)
        inputs = {
            key: value[:rows] if isinstance(value, torch.Tensor) and value.shape[:1] == (num_texts,) else value
            for key, value in inputs.items()
            if key != "segment_layout"
        }
        return inputs, model(**inputs), num_own

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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # the training log, which all processes write at the same step
            totals = self._read_sums()
            self._sums = LossSums(self.args.device)
            metrics = mean_metrics(totals, self.model.config.latent_size)
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
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        if self.is_in_train:
            self._read_sums()  # stops before a long evaluation of broken weights
        training_sums, self._sums = self._sums, LossSums(self.args.device)
        self._evaluating, self._alone_before = True, None
        try:
            with self._elbo():
                output = super().evaluation_loop(
                    dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
                )
            totals, first_bad_step = self._sums.read(self.accelerator)
        finally:
            self._sums, self._evaluating = training_sums, False
        metrics = mean_metrics(totals, self.model.config.latent_size)
        if totals["tokens"]:
            # The Trainer's own value is a mean over batches, which weighs tokens by their batch.
            metrics["loss"] = (totals["reconstruction"] + totals["kl"]) / totals["tokens"]
        if first_bad_step:
            metrics = dict.fromkeys(metrics, float("nan"))
        metrics["texts"] = int(totals["texts"])
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        return super().get_eval_dataloader(self._texts(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        return super().get_test_dataloader(self._texts(test_dataset))

    # ---- Start and save ----

    def check_before_training(self, resume_from_checkpoint: str | bool | None = None) -> str | None:
        """
        What [`train`] checks before any work, for scripts that write files of their own first.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): As in `train`.

        Returns:
            `str`: the checkpoint's folder, or None to start anew.

        Raises:
            ValueError: If the output folder holds another model, there is no such checkpoint, it is damaged or of
                other texts, or the model could not be saved.
        """
        if not self._owns_output_dir:  # later calls continue in this run's own folder
            check_output_dir(self.args.output_dir, self.model.config, resume_from_checkpoint)
        checkpoint = find_checkpoint(self.args.output_dir, resume_from_checkpoint)
        self._fingerprint.read(self.train_dataset)
        if checkpoint is not None:
            check_checksums(checkpoint)
            self._fingerprint.check(checkpoint)
        with unsharded_class(self.model):
            check_saving(self.accelerator.unwrap_model(self.model), self.processing_class, self.args)
        return checkpoint

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """
        As in `Trainer`, after [`check_before_training`].

        Raises:
            TrainingDivergedError: If the loss or the weights are not finite.
            TrainingMemoryError: If a step does not fit in memory.
            KeyboardInterrupt: After Ctrl-C; where a checkpoint was saved, it says how to continue.
        """
        if trial is None:
            resume_from_checkpoint = self.check_before_training(resume_from_checkpoint)
            if not self._owns_output_dir:  # later calls go on in this run's own folder
                self.remove_unfinished()
            self._owns_output_dir = True
        self._sums = LossSums(self.args.device)
        trained = sum(number_of(p) for p in self.model.parameters() if p.requires_grad)
        with guard_run_memory(self.args, trained, self._optimizer_step), self._stop.catching(self.args):
            result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        self._read_sums()  # what came after the last log
        if self._stop.stopped:
            checkpoint = get_last_checkpoint(self.args.output_dir)
            raise KeyboardInterrupt(
                f"the last checkpoint is '{checkpoint}'. Continue with train(resume_from_checkpoint=True)"
            )
        return result

    def end(self) -> None:
        """
        As in `Trainer`, the last call of a script: no process waits for another after it. The model that
        `DistributedDataParallel` had wrapped is gone then; `trainer.model` stays.
        """
        self.accelerator.wait_for_everyone()
        # DistributedDataParallel owns the process group too: while it lives, destroying the group stops none of Gloo's
        # threads, and they run on into the interpreter's exit, which aborts where one still holds a tensor.
        if isinstance(self.model_wrapped, DistributedDataParallel):
            self.model_wrapped = self.model
            self.accelerator.free_memory()
        super().end()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        # Each process looks at its own weights: users may call this in one process only.
        finite = [local_shard(p).isfinite().all() for p in self.model.parameters() if p.requires_grad]
        if finite and not all(torch.stack(finite).tolist()):
            what = f"the weights are not finite after step {self.state.global_step}, and were not saved"
            raise TrainingDivergedError(self._diverged_message(what))
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        if state_dict is not None:
            # Gathered from shards, tied weights are equal but no longer one: they would be saved twice.
            tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", {})
            state_dict = {name: value for name, value in state_dict.items() if name not in tied}
        folder = output_dir if output_dir is not None else self.args.output_dir
        card = self._card_before(folder)  # PEFT writes one over it
        with unsharded_class(self.model):
            super()._save(output_dir, state_dict=state_dict)
        model = self.accelerator.unwrap_model(self.model)
        if self.args.should_save and has_adapters(model):
            # PEFT saves the adapter alone; `load_adapter_model` builds what it belongs to from this. The code is for
            # people without this package: it tells them what to call
            config = copy.deepcopy(self.model.config)
            custom_object_save(model.get_base_model(), folder, config=config)
            config.to_json_file(os.path.join(folder, "config.json"))
        if self.args.should_save:
            self._write_card(folder, card)


__all__ = ["TraceTrainer", "TrainingDivergedError"]
