"""Training that is killed or has no space left: it resumes exactly, and no folder is half a model."""

import errno
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import time
from multiprocessing import connection
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from helpers.docs import make_demo_folder
from helpers.training import make_texts, make_trainer, weights
from safetensors.torch import load_file
from transformers.trainer_utils import get_last_checkpoint

from modeling_trace import TraceForConditionalGeneration, load_model
from modeling_trace.models.checksums_trace import check_checksums, write_checksums
from modeling_trace.training.checkpoints import SAVING, written_whole

STEPS = 12
SAVES = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 3}


def train(folder: Path) -> None:
    """From the last checkpoint where there is one, to the end."""
    folder.mkdir(parents=True, exist_ok=True)
    last = get_last_checkpoint(folder)
    trainer = make_trainer(folder, train_dataset=make_texts(16), **SAVES)
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model()
    trainer.end()


def whole(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(folder)
    return folder


def models_in(folder: Path) -> list[Path]:
    """Every folder that a reader would take for a model."""
    return sorted({path.parent for path in folder.rglob("config.json") if SAVING not in path.parts})


def train_until(folder: Path, last_write: int, others=()) -> None:
    """
    Killed, as by the system, before it opens, makes, moves or removes a file of `folder` for the n-th time, after the
    processes `others`.
    """
    writes = 0

    def count(event, arguments):
        nonlocal writes
        if event in ("open", "os.mkdir", "os.rename", "os.remove") and str(arguments[0]).startswith(str(folder)):
            writes += 1
            if writes == last_write:
                for process in (*others, os.getpid()):
                    os.kill(process, signal.SIGKILL)

    sys.addaudithook(count)
    train(folder)


def in_a_process(function, *arguments) -> int:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.slow
def test_killed_at_twenty_moments_it_resumes_to_the_same_weights(tmp_path, undisturbed):
    """Most moments are in the middle of saving, where a run has most to lose."""
    moments = random.Random(0)
    wanted, kills, runs = whole(undisturbed), 0, 0
    while kills < 20:
        folder = tmp_path / f"run-{runs}"
        runs += 1
        while in_a_process(train_until, folder, moments.randrange(10, 150)) == -signal.SIGKILL:
            kills += 1
            for model in models_in(folder):  # each is whole
                TraceForConditionalGeneration.from_pretrained(model)
        assert not (folder / SAVING).exists()
        found = whole(folder)
        assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert runs < 15


def one_of_two(rank: int, port: int, pids, folder: Path, kill: tuple[str, int] | None) -> None:
    PartialState._reset_state()
    pids[rank] = os.getpid()
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in {**address, "RANK": rank, "LOCAL_RANK": rank}.items()})
    who, moment = kill or ("nobody", 0)
    if who == "both" and rank == 0:
        while not pids[1]:
            time.sleep(0.01)
        train_until(folder, moment, [pids[1]])
    elif who == str(rank):
        train_until(folder, moment)
    else:
        train(folder)


def in_two_processes(folder: Path, kill: tuple[str, int] | None = None) -> list[int]:
    """The exit codes of a run in two processes (gloo); one that is left alone is ended, as torchrun does."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = context.Array("i", 2)
    processes = [context.Process(target=one_of_two, args=(rank, port, pids, folder, kill)) for rank in range(2)]
    for process in processes:
        process.start()
    connection.wait([process.sentinel for process in processes])
    for process in processes:
        process.join(120 if kill is None else 10)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_killed_together_or_one_alone_resume_to_the_same_weights(tmp_path):
    """The first one writes the checkpoint, the second its random state alone."""
    assert in_two_processes(tmp_path / "undisturbed") == [0, 0]
    moments = random.Random(0)
    # after the first checkpoint, which takes 77 writes, and anywhere in the next one
    kills = [(who, moments.randrange(90, 180)) for who in ("both", "0")]
    kills.append(("1", moments.randrange(2, 5)))
    folder = tmp_path / "run"
    for kill in kills:
        codes = in_two_processes(folder, kill)
        assert -signal.SIGKILL in codes and 0 not in codes
        for model in models_in(folder):
            TraceForConditionalGeneration.from_pretrained(model)
    assert 0 < int(get_last_checkpoint(folder).rpartition("-")[2]) < STEPS
    assert in_two_processes(folder) == [0, 0]
    assert not (folder / SAVING).exists()
    found, wanted = whole(folder), whole(tmp_path / "undisturbed")
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_full_disk_leaves_the_last_checkpoint_and_training_goes_on_from_there(tmp_path, undisturbed, monkeypatch):
    folder = tmp_path / "run"
    trainer = make_trainer(folder, train_dataset=make_texts(16), **SAVES)
    save = type(trainer)._save_rng_state

    def full(self, output_dir):
        if self.state.global_step == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(self, output_dir)

    monkeypatch.setattr(type(trainer), "_save_rng_state", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.train()
    assert Path(get_last_checkpoint(folder)).name == "checkpoint-4" and not (folder / SAVING).exists()
    monkeypatch.undo()
    train(folder)
    assert all(torch.equal(whole(folder)[name], value) for name, value in whole(undisturbed).items())


def test_the_best_checkpoint_is_known_by_its_own_name(tmp_path):
    best = {"metric_for_best_model": "loss", "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1}
    trainer = make_trainer(
        tmp_path, train_dataset=make_texts(8), eval_dataset=make_texts(3), **SAVES | best | {"max_steps": 3}
    )
    trainer.train()
    step = trainer.state.best_global_step
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{step}")
    state = (tmp_path / "checkpoint-3" / "trainer_state.json").read_text()
    assert f'"best_model_checkpoint": "{tmp_path}/checkpoint-{step}"' in state and SAVING not in state
    saved = whole(tmp_path / f"checkpoint-{step}")
    own = weights(trainer.model)
    assert all(torch.equal(own[name], value) for name, value in saved.items())


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_an_error_while_a_model_is_written_changes_nothing(tmp_path):
    (tmp_path / "config.json").write_text("old")
    (tmp_path / "model.safetensors").write_text("old")
    with pytest.raises(OSError, match="full"), written_whole(tmp_path) as saving:
        (saving / "model.safetensors").write_text("new")
        raise OSError("full")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "config.json": "old",
        "model.safetensors": "old",
    }
    # shards of an earlier, larger model do not stay beside the new one
    (tmp_path / "model-00001-of-00002.safetensors").write_text("old")
    (tmp_path / "model.safetensors.index.json").write_text("old")
    with written_whole(tmp_path) as saving:
        for name in ("config.json", "model.safetensors"):
            (saving / name).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "config.json": "new",
        "model.safetensors": "new",
    }


def spoil(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        content = content[: len(content) // 2]
    elif kind == "empty":
        content = b""
    elif kind == "header":
        content[0] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["truncated", "empty", "header"])
def test_broken_weights_are_one_line_that_names_the_file(tmp_path, undisturbed, kind):
    folder = tmp_path / "checkpoint-12"
    shutil.copytree(undisturbed / "checkpoint-12", folder)
    spoil(folder / "model.safetensors", kind)
    with pytest.raises(ValueError, match="The weights in '.*checkpoint-12' are damaged: .*Copy them again") as caught:
        TraceForConditionalGeneration.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def flip_a_bit(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
@pytest.mark.parametrize("place", [0.3, 0.6])
def test_a_bit_that_flipped_is_found_before_a_run_resumes(tmp_path, undisturbed, name, place):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed / "checkpoint-12", folder / "checkpoint-12")
    trainer = make_trainer(folder, train_dataset=make_texts(16), **SAVES)
    trainer.check_before_training(True)  # as it was written
    flip_a_bit(folder / "checkpoint-12" / name, place)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match=rf"checkpoint-12/{name}' is damaged: its SHA-256 is not .*SHA256SUMS"
    ) as error:
        trainer.train(resume_from_checkpoint=True)
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}  # nothing is lost
    (folder / "checkpoint-12" / "SHA256SUMS").unlink()  # of a file that one has changed oneself, as the error says
    trainer.check_before_training(True)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_file_that_is_gone_is_found_before_a_run_resumes(tmp_path, undisturbed, name):
    """Transformers would begin with a new optimizer, and say nothing."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed / "checkpoint-12", folder / "checkpoint-12")
    (folder / "checkpoint-12" / name).unlink()
    trainer = make_trainer(folder, train_dataset=make_texts(16), **SAVES)
    with pytest.raises(ValueError, match=rf"checkpoint-12/{name}' is gone, which SHA256SUMS names") as error:
        trainer.train(resume_from_checkpoint=True)
    assert "\n" not in str(error.value)


def test_checkpoints_that_are_gone_are_not_missed(tmp_path):
    """A finished run's folder may have checksums of its checkpoints, which people delete."""
    (tmp_path / "checkpoint-3").mkdir()
    for file in ("model.safetensors", "checkpoint-3/model.safetensors"):
        (tmp_path / file).write_bytes(b"weights")
    write_checksums(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-3")
    check_checksums(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model.safetensors' is gone"):
        check_checksums(tmp_path)


def test_a_bit_that_flipped_in_a_model_is_found_by_load_model(tmp_path):
    make_demo_folder(tmp_path)
    folder = tmp_path / "model"
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"latent_init_scale": 2.0}))  # what people edit
    (folder / "README.md").write_text("A model.")
    load_model(folder, "cpu")
    sums = (folder / "SHA256SUMS").read_text()
    assert sums == f"{hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest()}  model.safetensors\n"
    flip_a_bit(folder / "model.safetensors", 0.5)
    with pytest.raises(ValueError, match="model.safetensors' is damaged: .*Copy the file again") as error:
        load_model(folder, "cpu")
    assert "\n" not in str(error.value)
    model = TraceForConditionalGeneration.from_pretrained(folder)  # stock loading does not look
    model.save_pretrained(folder)  # other weights, their own checksums; also in several files
    load_model(folder, "cpu")
    model.save_pretrained(folder, max_shard_size="50KB")
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    assert len(sums) == len(list(folder.glob("*.safetensors"))) > 1
    load_model(folder, "cpu")
