"""What a run would find out too late: other texts on resuming, Ctrl-C, what cannot be saved; the model card."""

import signal
import threading

import pytest
import torch
from helpers.training import ONE_PASS, Collator, make_args, make_model, make_texts, make_trainer, weights
from transformers import Trainer, TrainerCallback

from modeling_trace.training import TraceTrainer, check_output_dir
from modeling_trace.training.guards import find_checkpoint

SAVING = {"save_strategy": "steps", "save_steps": 2}


# ---- Resuming ----


def test_resuming_with_other_texts_is_refused(tmp_path):
    make_trainer(tmp_path, **SAVING).train()
    for texts in (make_texts(8, seed=1), make_texts(7)):
        trainer = make_trainer(tmp_path, make_model(seed=1), train_dataset=texts, max_steps=6, **SAVING)
        with pytest.raises(ValueError, match="`resume_from_checkpoint` needs the 8 training texts .* got [78] other"):
            trainer.train(resume_from_checkpoint=True)
    again = make_trainer(tmp_path, make_model(seed=1), max_steps=6, **SAVING)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 6
    # what was resumed is known, too
    other = make_trainer(tmp_path, train_dataset=make_texts(8, seed=1), max_steps=8, **SAVING)
    with pytest.raises(ValueError, match="got 8 other ones"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_checkpoints_that_do_not_say_their_texts_resume(tmp_path):
    """Those of a plain Trainer, and those of data sets that are not of the package `datasets`."""
    make_trainer(tmp_path / "0", trainer_class=Trainer, **SAVING).train()
    rows = [{"input_ids": row["input_ids"]} for row in make_texts(8)]
    make_trainer(tmp_path / "1", train_dataset=rows, **SAVING).train()
    for folder in (tmp_path / "0", tmp_path / "1"):
        trainer = make_trainer(folder, train_dataset=make_texts(8, seed=1), max_steps=6, **SAVING)
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 6


def test_where_to_resume(tmp_path):
    make_trainer(tmp_path, **SAVING).train()
    last = str(tmp_path / "checkpoint-4")
    assert find_checkpoint(tmp_path, True) == find_checkpoint(tmp_path, "yes") == find_checkpoint("x", last) == last
    assert find_checkpoint(tmp_path, None) is find_checkpoint(tmp_path, "none") is find_checkpoint("x", False) is None
    with pytest.raises(ValueError, match="found no checkpoint in `output_dir` 'x'"):
        find_checkpoint("x", True)
    with pytest.raises(ValueError, match="must be true or a checkpoint's folder, got 'x'"):
        find_checkpoint(tmp_path, "x")


# ---- Ctrl-C ----


class Interrupt(TrainerCallback):
    """Ctrl-C in the second step, so many times."""

    def __init__(self, times):
        self.times = times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def test_ctrl_c_saves_a_checkpoint_from_which_the_run_goes_on(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    before = signal.getsignal(signal.SIGINT)
    settings = {"save_strategy": "steps", "save_steps": 100}
    stopped = make_trainer(tmp_path / "out", callbacks=[Interrupt(1)], **settings)
    with pytest.raises(KeyboardInterrupt, match=r"checkpoint-2'. Continue with train\(resume_from_checkpoint=True\)"):
        stopped.train()
    assert signal.getsignal(signal.SIGINT) is before and stopped.state.global_step == 2
    resumed = make_trainer(tmp_path / "out", make_model(seed=5), **settings)
    resumed.train(resume_from_checkpoint=True)
    for name, value in weights(whole.model).items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


@pytest.fixture
def ctrl_c_heard():
    """As in a terminal: a shell's background jobs, and what they start, are born deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_at_once(tmp_path, ctrl_c_heard):
    """The second time; and the first where no checkpoint is wanted."""
    trainer = make_trainer(tmp_path, callbacks=[Interrupt(2)], **SAVING)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 1 and not list(tmp_path.glob("checkpoint-*"))
    trainer = make_trainer(tmp_path, callbacks=[Interrupt(1)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 1


def test_training_in_a_thread_leaves_signals_alone(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, **SAVING)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 1


# ---- Saving ----


def test_what_cannot_be_saved_is_refused_before_training(tmp_path):
    model = make_model()
    model.generation_config.temperature = 0.7
    trainer = make_trainer(tmp_path / "out", model, **SAVING)
    with pytest.raises(ValueError, match="`model.generation_config` cannot be saved.*`temperature`") as error:
        trainer.train()
    assert "\n" not in str(error.value) and not list((tmp_path / "out").iterdir())
    model.generation_config.do_sample = True  # as the message says
    trainer.train()
    assert (tmp_path / "out" / "checkpoint-4" / "model.safetensors").is_file()


def test_what_else_only_saving_finds_out(tmp_path):
    class Unsaved:
        def save_pretrained(self, folder):
            raise OSError("the vocabulary\nis gone")

    args = make_args(tmp_path)
    trainer = TraceTrainer(make_model(), args, Collator(), make_texts(4), processing_class=Unsaved())
    with pytest.raises(ValueError, match="`processing_class` cannot be saved.*: the vocabulary is gone"):
        trainer.train()
    trainer = make_trainer(tmp_path)
    trainer.args.extra = lambda: None
    with pytest.raises(ValueError, match="`args` cannot be saved.*pickle"):
        trainer.train()
    trainer = make_trainer(tmp_path)
    trainer.model.config.extra = {1, 2}
    with pytest.raises(ValueError, match="`model.config` cannot be saved"):
        trainer.train()


def test_the_dry_save_leaves_no_trace(tmp_path):
    trainer = make_trainer(tmp_path / "out", make_model(**ONE_PASS))
    before = weights(trainer.model)
    assert trainer.check_before_training() is None
    assert not list((tmp_path / "out").iterdir())
    assert all(torch.equal(trainer.model.state_dict()[name], value) for name, value in before.items())
    check_output_dir(tmp_path / "out", trainer.model.config)


# ---- The model card ----


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("openai-community/gpt2", "openai-community/gpt2"),
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("", None),
        (None, None),  # a folder here
        ("./gone", None),  # one that is there no more
    ],
)
def test_model_card_names_the_base_model(tmp_path, name, base):
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.train()
    trainer.model.name_or_path = str(tmp_path) if name is None else name
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert (f"base_model: {base}\n" in card) == ("base_model" in card.partition("\n---\n")[0]) == (base is not None)
    assert (f"[{base}](https://huggingface.co/{base})" in card) == (base is not None)
    assert str(tmp_path) not in card and "gone" not in card and "[](" not in card
    trainer.create_model_card(finetuned_from="org/other")
    assert "[org/other]" in (tmp_path / "README.md").read_text()
