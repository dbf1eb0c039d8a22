"""
A lack of memory, of the kinds that PyTorch raises, is one line that names the setting; Transformers' own search for a
batch size still sees PyTorch's error.
"""

from pathlib import Path

import pytest
import torch
from helpers.training import make_args, make_model, make_texts, make_trainer

from modeling_trace.cli.main import main
from modeling_trace.training import TraceTrainer, TrainingMemoryError
from modeling_trace.training.memory import OptimizerStepCallback, guard_run_memory, guard_step_memory

CONFIG = """\
backbone_config: {model_type: gpt2, n_layer: 2, n_embd: 16, n_head: 2}
vocab_size: 300
max_length: 64
max_texts: 20
max_steps: 3
save_steps: 1
per_device_train_batch_size: 4
per_device_eval_batch_size: 2
latent_size: 4
disable_tqdm: true
"""


def cuda():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 1.00 GiB free.")


def cpu():
    torch.empty(2**48)  # PyTorch's own error, really


def windows():
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")


def driver():
    raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")


def fail_in(monkeypatch, fail, training=True, step=1, fits=0):
    """Let the model fail at a step, for all batches of more than `fits` texts; returns the sizes that it met."""
    compute_loss, sizes, steps = TraceTrainer.compute_loss, [], []

    def failing(self, model, inputs, *args, **kwargs):
        if model.training == training:
            sizes.append(len(inputs["input_ids"]))
            steps.append(self.state.global_step + 1)
            if sizes[-1] > fits and steps[-1] >= step:
                fail()
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(TraceTrainer, "compute_loss", failing)
    return sizes


@pytest.mark.parametrize("fail", [cuda, cpu, windows, driver])
def test_every_kind_of_error(tmp_path, fail):
    inputs = {"input_ids": torch.zeros(2, 17)}
    with pytest.raises(TrainingMemoryError) as error, guard_step_memory(make_args(tmp_path), inputs, training=True):
        fail()
    assert isinstance(error.value, torch.OutOfMemoryError) and type(error.value.__cause__) is not TrainingMemoryError
    assert "got 2 with texts of up to 17 tokens" in str(error.value) and "\n" not in str(error.value)
    optimizer_step = OptimizerStepCallback()
    with pytest.raises(TrainingMemoryError), guard_run_memory(make_args(tmp_path), 1, optimizer_step):
        optimizer_step.on_pre_optimizer_step(None, None, None)
        fail()
    # while logits are gathered or a checkpoint is written, it is not the optimizer
    with pytest.raises(RuntimeError) as error, guard_run_memory(make_args(tmp_path), 1, optimizer_step):
        optimizer_step.on_pre_optimizer_step(None, None, None)
        optimizer_step.on_optimizer_step(None, None, None)
        fail()
    assert not isinstance(error.value, TrainingMemoryError)
    # Transformers, which looks for a batch size, sees PyTorch's own error
    args = make_args(tmp_path, auto_find_batch_size=True)
    with pytest.raises(RuntimeError) as error, guard_step_memory(args, inputs, training=True):
        fail()
    assert not isinstance(error.value, TrainingMemoryError)


def test_training_step(tmp_path, monkeypatch):
    fail_in(monkeypatch, cpu)
    with pytest.raises(TrainingMemoryError) as error:
        make_trainer(tmp_path, per_device_train_batch_size=4).train()
    assert str(error.value) == (
        "`per_device_train_batch_size` is too large for the memory of cpu, got 4 with texts of up to 17 tokens: lower "
        "it and raise `gradient_accumulation_steps` by as much (the steps stay the same), or set "
        "`activation_checkpointing`, or set `bf16`, or lower `max_length`."
    )


def test_only_what_helps_is_named(tmp_path, monkeypatch):
    fail_in(monkeypatch, cpu, step=2)
    settings = {"per_device_train_batch_size": 1, "activation_checkpointing": True, "bf16": True}
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=2, **settings)
    with pytest.raises(TrainingMemoryError) as error:
        trainer.train()
    message = str(error.value)
    assert "got 1 with" in message and "tokens: lower `max_length`. Go on from" in message
    assert f"'{tmp_path / 'checkpoint-1'}', which is intact, by `resume_from_checkpoint`" in message
    monkeypatch.undo()
    assert make_trainer(tmp_path, max_steps=2, **settings).train(resume_from_checkpoint=True).global_step == 2


@pytest.mark.parametrize("auto_find", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_evaluation_step(tmp_path, monkeypatch, auto_find):
    """Also under `auto_find_batch_size`, which would lower the batches of training in vain."""
    fail_in(monkeypatch, cpu, training=False)
    settings = {"eval_strategy": "steps", "eval_steps": 1, "auto_find_batch_size": auto_find}
    trainer = make_trainer(tmp_path, eval_dataset=make_texts(4), **settings)
    with pytest.raises(TrainingMemoryError) as error:
        trainer.train()
    assert "`per_device_eval_batch_size` is too large for the memory of cpu, got 3 with texts" in str(error.value)
    assert "tokens: lower it, or set `bf16`, or lower `max_length`." in str(error.value)
    with pytest.raises(TrainingMemoryError):
        trainer.evaluate()


@pytest.mark.slow
def test_transformers_finds_a_batch_size(tmp_path, monkeypatch):
    settings = {"auto_find_batch_size": True, "max_steps": 1}
    with monkeypatch.context() as context:
        sizes = fail_in(context, cpu, fits=1)
        make_trainer(tmp_path, per_device_train_batch_size=2, **settings).train()
    assert sizes == [2, 1]
    fail_in(monkeypatch, cpu)
    with pytest.raises(TrainingMemoryError, match="found no batch that fits .* got down to 1 text: set `activation"):
        make_trainer(tmp_path, per_device_train_batch_size=1, **settings).train()


def test_optimizer(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    trainer.create_optimizer()
    monkeypatch.setattr(trainer.optimizer, "step", lambda *_: cpu())
    with pytest.raises(TrainingMemoryError, match="`optim` adamw_torch.* does not fit in the memory of cpu") as error:
        trainer.train()
    assert f"got {make_model().num_parameters():,} trained parameters: use adafactor" in str(error.value)


def test_other_errors_are_left_alone(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    fail_in(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="size of tensor a") as error:
        make_trainer(tmp_path).train()
    assert not isinstance(error.value, TrainingMemoryError)


def test_command_line(tmp_path, monkeypatch, capsys):
    """One line, from whichever process lacks memory; the checkpoint before it is there to go on from."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    arguments = ["train", str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path / "out")]
    fail_in(monkeypatch, cpu, step=3)
    with monkeypatch.context() as context:
        context.setattr("modeling_trace.cli.main.os.environ", {"RANK": "1"})
        assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "error: `per_device_train_batch_size` is too large for the memory of cpu, got 4 with texts"
    )
    assert error.endswith(
        f"Go on from '{tmp_path / 'out' / 'checkpoint-2'}', which is intact, by `resume_from_checkpoint`."
    )
    monkeypatch.undo()
    smaller = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    assert main([*arguments, *smaller, "--resume_from_checkpoint", "true"]) == 0
    assert Path(tmp_path, "out", "model.safetensors").is_file()
