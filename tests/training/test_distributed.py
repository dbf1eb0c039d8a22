"""
Several processes whose numbers do not divide: refused before any work, in one line, where they would hang, stop deep
inside or train on nothing; one order of the texts in all of them.
"""

import sys
import time

import psutil
import pytest
import torch
from datasets import IterableDataset
from helpers.processes import LIMIT, run_command, run_in_processes
from helpers.training import make_args, make_texts, make_trainer
from transformers import TrainingArguments

from modeling_trace.cli.main import main
from modeling_trace.training import check_distributed_settings
from modeling_trace.training.batches import SharedOrderSampler


@pytest.fixture
def two_processes(monkeypatch):
    """As the settings of one of two processes say."""
    monkeypatch.setattr(TrainingArguments, "world_size", 2)


def stream(shards: int) -> IterableDataset:
    def rows(parts):
        for part in parts:
            yield {"input_ids": [1, part, 2]}

    return IterableDataset.from_generator(rows, gen_kwargs={"parts": list(range(shards))})


SPLIT, UNEVEN, DISPATCH = (
    {"accelerator_config": {name: value}}
    for name, value in (("split_batches", True), ("even_batches", False), ("dispatch_batches", True))
)


@pytest.mark.parametrize(
    ("settings", "datasets", "message"),
    [
        (
            {**SPLIT, "per_device_train_batch_size": 3},
            {},
            "`per_device_train_batch_size` must be a multiple of the 2 processes.* got 3. Use 4, or leave",
        ),
        (
            {**SPLIT, "per_device_eval_batch_size": 5},
            {},
            "`per_device_eval_batch_size` must be a multiple of the 2 processes.* got 5. Use 6, or leave",
        ),
        ({"per_device_train_batch_size": 0}, {}, "`per_device_train_batch_size` must be >= 1, got 0. Use 8"),
        (UNEVEN, {}, "`even_batches` must be true for 2 processes, got false"),
        (DISPATCH, {}, "`dispatch_batches` must be false for 2 processes, got true"),
        (
            {"dataloader_drop_last": True},
            {"train_dataset": make_texts(3)},
            r"`train_dataset` must fill a batch of 4 texts \(2 processes\).* got 3 texts.* `per_device_train",
        ),
        (
            {"dataloader_drop_last": True},
            {"eval_dataset": {"a": make_texts(6), "b": make_texts(5)}},
            r"`eval_dataset` must fill a batch of 6 texts.* got 5 texts.* Lower `per_device_eval_batch_size`",
        ),
        ({}, {"eval_dataset": stream(3)}, "`eval_dataset` must not be a stream of 3 shards for 2 processes"),
        (
            {"save_strategy": "epoch"},
            {"train_dataset": stream(2)},
            "`save_strategy` must be steps for a stream of 2 shards and 2 processes",
        ),
    ],
)
def test_what_does_not_divide(tmp_path, two_processes, settings, datasets, message):
    with pytest.raises(ValueError, match=message) as error:
        check_distributed_settings(make_args(tmp_path, **settings), **datasets)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "datasets"),
    [
        ({}, {"train_dataset": make_texts(1), "eval_dataset": make_texts(1)}),  # repeated, and counted once
        ({**SPLIT, "per_device_eval_batch_size": 4, "dataloader_drop_last": True}, {"train_dataset": make_texts(2)}),
        ({"dataloader_drop_last": True}, {"train_dataset": make_texts(4), "eval_dataset": {"a": make_texts(6)}}),
        ({"save_strategy": "epoch"}, {"train_dataset": stream(1), "eval_dataset": stream(1)}),  # read by all
        ({}, {"train_dataset": stream(5)}),
    ],
)
def test_what_does(tmp_path, two_processes, settings, datasets):
    check_distributed_settings(make_args(tmp_path, **settings), **datasets)


def test_one_process_has_nothing_to_divide(tmp_path):
    for settings in (SPLIT, UNEVEN, DISPATCH):
        check_distributed_settings(make_args(tmp_path, **settings), stream(3), stream(3))
    with pytest.raises(ValueError, match="must fill a batch of 2 texts .1 processes"):
        make_trainer(tmp_path, train_dataset=make_texts(1), dataloader_drop_last=True)


def test_command_line_says_so_before_loading(tmp_path, two_processes, capsys, monkeypatch):
    monkeypatch.setattr("modeling_trace.cli.train.load_texts", None)
    flags = ["--accelerator_config", '{"split_batches": true}', "--per_device_train_batch_size", "7"]
    assert main(["train", "--output_dir", str(tmp_path / "out"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: `per_device_train_batch_size` must be a multiple of the 2") and "Use 8" in error


def test_one_order_in_all_processes(tmp_path, two_processes):
    trainer = make_trainer(tmp_path / "out", train_dataset=make_texts(20), train_sampling_strategy="group_by_length")
    sampler = trainer._get_train_sampler()
    assert isinstance(sampler, SharedOrderSampler) and len(sampler) == 20
    orders = []
    for epoch, seed in ((None, 1), (0.0, 2), (1.0, 3), (1.4, 4)):  # 1.4: resumed in the second pass
        trainer.state.epoch = epoch
        torch.manual_seed(seed)
        orders.append(list(sampler))
    assert orders[0] == orders[1] != orders[2] == orders[3]
    assert all(sorted(order) == list(range(20)) for order in orders)


GROUPED_SCRIPT = """
    import shutil, sys, torch
    from helpers.training import *
    from modeling_trace.training import *

    def run(folder, **kwargs):
        seen = []

        class Watch(Collator):
            def __call__(self, features):
                seen.append([feature["input_ids"] for feature in features])
                return super().__call__(features)

        settings = {"max_steps": -1, "num_train_epochs": 3, "train_sampling_strategy": "group_by_length"}
        settings |= {"save_strategy": "steps", "save_steps": 1, "use_cpu": True}
        trainer = make_trainer(folder, train_dataset=make_texts(10), data_collator=Watch(), **settings)
        trainer.train(**kwargs)
        everywhere = [None, None]
        torch.distributed.all_gather_object(everywhere, seen)
        return trainer, everywhere

    trainer, whole = run(sys.argv[1] + "/whole")
    whole_weights = weights(trainer.model)
    if trainer.is_world_process_zero():
        shutil.copytree(sys.argv[1] + "/whole/checkpoint-4", sys.argv[1] + "/resumed/checkpoint-4")
    trainer.accelerator.wait_for_everyone()
    trainer, resumed = run(sys.argv[1] + "/resumed", resume_from_checkpoint=True)
    if trainer.is_world_process_zero():
        torch.save((whole, resumed, whole_weights, weights(trainer.model)), sys.argv[1] + "/result.pt")
    trainer.end()
"""


@pytest.mark.slow
@pytest.mark.processes
def test_groups_of_like_length_hold_every_text_in_every_pass_and_resume(tmp_path):
    """10 texts by 2 by 2 processes: three steps in a pass, two texts of which come twice; resumed in the second."""
    (tmp_path / "resumed").mkdir()
    whole, resumed, wanted, found = run_in_processes(2, GROUPED_SCRIPT, tmp_path)
    texts = sorted(make_texts(10)["input_ids"])
    for start in (0, 3, 6):
        rows = [row for process in whole for batch in process[start : start + 3] for row in batch]
        assert len(rows) == 12 and sorted(map(list, set(map(tuple, rows)))) == texts
    assert resumed == [process[4:] for process in whole]
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


WAITING = """
import subprocess, sys, time

def wait_in_vain():
    time.sleep(100)

if len(sys.argv) > 1:
    wait_in_vain()
command = [sys.executable, __file__, "worker"]
subprocess.run(command, start_new_session=True)  # as a launcher's workers
"""


def test_a_run_that_does_not_end_says_where_its_workers_wait_and_leaves_none(tmp_path):
    (tmp_path / "script.py").write_text(WAITING)
    with pytest.raises(AssertionError, match=r"not done in 3 s(.|\n)*in wait_in_vain"):
        run_command([sys.executable, str(tmp_path / "script.py")], limit=3)
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(one.info["cmdline"])]


@pytest.mark.slow
@pytest.mark.processes
def test_a_process_that_fails_ends_the_others_and_says_why(tmp_path):
    script = """
        import os, time
        if os.environ["RANK"] == "1":
            raise ValueError("of the second")
        time.sleep(100_000)
    """
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"(?s)File \"script\", line 5 in <module>.*ValueError: of the second"):
        run_in_processes(2, script, tmp_path)
    assert time.monotonic() - start < LIMIT
