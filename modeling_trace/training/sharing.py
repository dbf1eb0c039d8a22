"""The Trainer's model card and its pushes: what a stranger needs, and nothing else of the run's folder."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import CommitInfo, HfApi
from transformers.utils import PushInProgress

from .. import __version__
from ..network import check_network, check_repo_id, check_token, hub_errors
from ..sharing import published_files, push_folder, write_card
from ..sharing.cards import CARD_NAME
from ..sharing.sections import SETTINGS, trained_latents, training
from .checkpoints import SAVING
from .private import HubStrategy, SaveStrategy

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import TrainerControl, TrainerState, TrainingArguments

# Of the weights before: no longer true of those that a Trainer saves
OUTDATED = ("samples", "evaluation", "model-index")


class SharingMixin:
    """
    The part of [`TraceTrainer`] that writes the card and pushes.

    Overrides `create_model_card`, `init_hf_repo`, `push_to_hub` and `_push_from_checkpoint` of
    `transformers.Trainer`.
    """

    if TYPE_CHECKING:  # what it needs of its host
        args: TrainingArguments
        state: TrainerState
        control: TrainerControl
        accelerator: Accelerator
        hub_model_id: str | None
        push_in_progress: Any
        callback_handler: Any
        model: Any
        train_dataset: Any

        def is_world_process_zero(self) -> bool: ...
        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None: ...
        def _finish_current_push(self) -> None: ...

    @property
    def _base_model(self) -> str:
        """The language model that the model was built from; "" for random weights."""
        return self.model.name_or_path or self._config.get_text_config().name_or_path or ""

    @property
    def _config(self):
        return self.accelerator.unwrap_model(self.model).config

    def _card_before(self, folder: str | os.PathLike) -> str | None:
        """The card that is in a folder, or will be replaced where this one is moved to."""
        path = Path(folder, CARD_NAME)
        if not path.is_file() and Path(folder).name == SAVING:
            path = Path(folder).parent / CARD_NAME
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    def _write_card(self, folder: str | os.PathLike, before: str | None, **kwargs) -> None:
        data: dict[str, Any] = {}
        if hasattr(self.train_dataset, "__len__"):
            data["training texts"] = len(self.train_dataset)
        if self.args.world_size > 1:
            data["processes"] = self.args.world_size
        packages = {
            "modeling_trace": __version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }
        data["versions"] = ", ".join(f"{name} {version}" for name, version in packages.items())
        settings = {name: getattr(self.args, name, None) for name in SETTINGS}
        settings = {name: getattr(value, "value", value) for name, value in settings.items()}
        history = self.state.log_history
        metrics = next((entry for entry in reversed(history) if "eval_loss" in entry), {})
        name = self.hub_model_id or os.path.basename(os.path.abspath(self.args.output_dir))
        write_card(
            folder,
            self._config,
            source=self.args.output_dir,
            before=before,
            parts={"training": training(settings, history, data), "latents": trained_latents(metrics)},
            outdated=OUTDATED,
            **{"name": name, "base_model": self._base_model, **kwargs},
        )

    def create_model_card(
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """
        Write the card of the output folder from what is known; what people wrote in it stays. It is also written
        whenever the model is saved.

        Args:
            language, license, tags: fields of the metadata, as in `Trainer`.
            model_name (`str`, *optional*): by default the repository or the output folder.
            finetuned_from (`str`, *optional*): by default the language model that the model was built from.
            dataset_tags (`str` or `list[str]`, *optional*): Hub ids of the data sets.
            tasks, dataset, dataset_args: not used: the task is always to generate text.
        """
        if not self.is_world_process_zero():
            return
        fields = {"language": language, "license": license, "tags": tags, "datasets": dataset_tags}
        lists = {name: [value] if isinstance(value, str) else value for name, value in fields.items() if value}
        given = {**lists, "license": license} if license else lists
        names = {"name": model_name, "base_model": finetuned_from}
        known = {name: value for name, value in names.items() if value is not None}
        folder = self.args.output_dir
        os.makedirs(folder, exist_ok=True)
        self._write_card(folder, self._card_before(folder), given=given, **known)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """
        As in `Trainer`; what is wrong with the name, the token or the network is one line, before training.

        Raises:
            ValueError, ConnectionError: for these, and for a `hub_strategy` that would push optimizer states.
        """
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"`hub_strategy` '{self.args.hub_strategy.value}' would push optimizer states and training arguments. "
                "Use 'every_save', and keep checkpoints in `output_dir`."
            )
        if not self.is_world_process_zero():
            return
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        check_repo_id(name)
        check_token(token or self.args.hub_token)
        check_network()
        with hub_errors(name):
            super().init_hf_repo(token, private)  # type: ignore[misc]

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | Any:
        """
        Save the model, and push it with its code, processor and card in one commit; nothing else of the output folder.
        `modeling_trace.push` also adds samples and an evaluation.

        Args:
            commit_message, blocking, token, revision, private: as in `Trainer`.
            **kwargs: of [`~SharingMixin.create_model_card`].

        Returns:
            `CommitInfo`, or its `Future` with `blocking=False`; None in all processes but the first.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        upload = self._upload(commit_message, token, revision)
        return upload() if blocking else HfApi().run_as_future(upload)

    def _upload(self, commit_message: str | None, token: str | None = None, revision: str | None = None):
        return partial(
            push_folder,
            self.args.output_dir,
            self._config,
            self.hub_model_id,
            base_model=self._base_model,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        for name in published_files(checkpoint_folder):  # the checkpoint may be deleted while the upload goes on
            shutil.copy(Path(checkpoint_folder, name), Path(self.args.output_dir, name))
        self.create_model_card()
        by_step = self.args.save_strategy == SaveStrategy.STEPS
        when = f"step {self.state.global_step}" if by_step else f"epoch {int(self.state.epoch or 0)}"
        job = HfApi().run_as_future(self._upload(f"Training in progress, {when}"))
        if busy:
            self.push_in_progress.jobs.append(job)
        else:
            self.push_in_progress = PushInProgress([job])


__all__ = ["SharingMixin"]
