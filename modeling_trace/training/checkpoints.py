"""Checkpoints and models that are written whole or not at all, whenever the process is killed or the disk is full."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import CONFIG_NAME

from ..models.checksums_trace import CHECKSUMS_NAME, write_checksums

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import TrainerState, TrainingArguments

# Where a checkpoint or model is written before it is moved to its place; no one takes it for either
SAVING = ".saving"


class WholeCheckpointsMixin:
    """
    The part of [`TraceTrainer`] that writes beside the place where a reader looks, and then moves.

    Overrides `_get_output_dir`, `_save_checkpoint` and `save_model` of `transformers.Trainer`.
    """

    if TYPE_CHECKING:  # what it needs of its host
        args: TrainingArguments
        state: TrainerState
        accelerator: Accelerator
        is_fsdp_enabled: bool
        is_deepspeed_enabled: bool

    _saving_to: str | None = None

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._saving_to is None else self._saving_to

    def _save_checkpoint(self, model, trial):
        if self.args.push_to_hub:  # is uploaded from where it is written, while training goes on
            return super()._save_checkpoint(model, trial)
        run_dir = Path(self._get_output_dir(trial))
        saving = run_dir / SAVING
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._saving_to = str(saving)
        try:
            super()._save_checkpoint(model, trial)
        except OSError:
            shutil.rmtree(saving, ignore_errors=True)
            raise
        finally:
            self._saving_to = None
        self.accelerator.wait_for_everyone()  # each process has written its part
        if not self.args.should_save:
            return
        best = self.state.best_global_step
        if best and (best == self.state.global_step or (run_dir / f"{PREFIX_CHECKPOINT_DIR}-{best}").is_dir()):
            self.state.best_model_checkpoint = str(run_dir / f"{PREFIX_CHECKPOINT_DIR}-{best}")
            self.state.save_to_json(str(saving / name / "trainer_state.json"))
        write_checksums(saving / name)
        if (run_dir / name).exists():  # of the run that is resumed from an earlier step
            os.replace(run_dir / name, saving / "replaced")
        os.replace(saving / name, run_dir / name)
        shutil.rmtree(saving)
        rotate_checkpoints(
            output_dir=str(run_dir),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        # sharded weights are written by every process, and this may be called in one alone, which cannot wait
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        target = Path(self.args.output_dir if output_dir is None else output_dir)
        if sharded or not self.args.should_save or self._saving_to is not None:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
            return
        with written_whole(target) as saving:
            super().save_model(str(saving), _internal_call)  # type: ignore[misc]
            write_checksums(saving)

    def remove_unfinished(self) -> None:
        """Take away what a process that was killed had not finished writing."""
        if self.args.should_save:
            shutil.rmtree(Path(self.args.output_dir) / SAVING, ignore_errors=True)


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """
    A place to write a model's files, which then take their places in `folder`, its configuration last: without one
    nothing loads the folder. On an error nothing in `folder` has changed.
    """
    saving = folder / SAVING
    shutil.rmtree(saving, ignore_errors=True)
    saving.mkdir(parents=True)
    try:
        yield saving
        (folder / CHECKSUMS_NAME).unlink(missing_ok=True)  # the new ones come when all that they name is there
        last = (CONFIG_NAME, CHECKSUMS_NAME)
        names = sorted((path.name for path in saving.iterdir()), key=lambda name: (name in last, name))
        stale = {
            path.name for pattern in ("*.safetensors", "*.safetensors.index.json") for path in folder.glob(pattern)
        }
        if stale - set(names) and any(name.endswith(".safetensors") for name in names):
            (folder / CONFIG_NAME).unlink(missing_ok=True)  # half of both models is neither
            for name in stale - set(names):
                (folder / name).unlink()
        for name in names:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            os.replace(saving / name, folder / name)
    finally:
        shutil.rmtree(saving, ignore_errors=True)


__all__ = ["SAVING", "WholeCheckpointsMixin", "written_whole"]
