"""
Several processes and streams: the same texts give the same weights however they are dealt out, sharded or read; the
launch files in examples/ are those that Accelerate knows.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from datasets import Dataset
from helpers.processes import LAUNCH_FILES, launch, launch_script, run_in_processes
from helpers.training import ONE_PASS, Collator, make_model, make_texts, make_trainer, training_logs, weights
from safetensors.torch import load_file

from modeling_trace import TraceForConditionalGeneration
from modeling_trace.cli.main import main
from modeling_trace.training import constant_schedule

CONFIG = """\
backbone_config: {model_type: gpt2, n_layer: 2, n_embd: 16, n_head: 2}
vocab_size: 300
max_length: 64
validation_split: 6
max_steps: 14
save_steps: 1
save_total_limit: 20
per_device_train_batch_size: 2
learning_rate: 1e-2
latent_size: 4
logging_steps: 1
"""


@pytest.fixture
def config(tmp_path) -> str:
    """A config file of a run over 26 training texts, of unequal lengths: 3.25 steps of 8 texts in a pass."""
    rows = [{"body": f"This is number {number}. It is {'very ' * (number % 7)}long."} for number in range(32)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text(f"{CONFIG}dataset: {tmp_path / 'texts.jsonl'}\n")
    return str(tmp_path / "config.yaml")


def assert_same(first: dict, second: dict, atol: float = 0.0) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=atol, msg=name)


# ---- Data parallel ----

UNEVEN = {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0, "gradient_accumulation_steps": 2}

UNEVEN_SCRIPT = """
    import sys, torch
    from pathlib import Path
    from helpers.training import *
    from modeling_trace.training import *

    seen = []

    class Watch(Collator):
        def __call__(self, features):
            seen.append([feature["input_ids"] for feature in features])
            return super().__call__(features)

    texts = make_texts(10)
    trainer = make_trainer(
        sys.argv[1] + "/out",
        train_dataset=texts.to_iterable_dataset().repeat(None) if {streamed} else texts,
        data_collator=Watch(sample_latents=False),
        kl_schedule=constant_schedule(0.5),
        max_steps=2,
        use_cpu=True,
        **{uneven},
    )
    trainer.train()
    everywhere = [None, None]
    torch.distributed.all_gather_object(everywhere, seen)
    if trainer.is_world_process_zero():
        torch.save((weights(trainer.model), training_logs(trainer), everywhere), sys.argv[1] + "/result.pt")
    trainer.end()
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]  # none but on Linux
    assert not [name for name in names if "gloo" in name], names  # or the exit may abort
"""


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_uneven_batches_of_two_processes_train_as_one_batch(tmp_path, streamed):
    """
    10 texts by 2 by 2 processes: the last batch of a pass has too few, and the last step one batch in place of two. In
    a stream without end the next pass fills both.
    """
    script = UNEVEN_SCRIPT.format(streamed=streamed, uneven=UNEVEN)
    two, two_logs, seen = run_in_processes(2, script, tmp_path)
    batches = [first + second for first, second in zip(*seen, strict=True)][: 4 if streamed else 3]
    rows = [row for batch in batches for row in batch]
    texts = [text["input_ids"] for text in make_texts(10)]
    if streamed:
        assert rows == (texts + texts)[:16]
    else:  # every text once, and two of them again, so that both processes have as many
        assert len(rows) == 12 and sorted(texts) == sorted(map(list, set(map(tuple, rows))))
    trainer = make_trainer(
        tmp_path / "one",
        train_dataset=Dataset.from_list([{"input_ids": row} for row in rows]),
        data_collator=Collator(sample_latents=False),
        kl_schedule=constant_schedule(0.5),
        max_steps=2,
        per_device_train_batch_size=4,
        train_sampling_strategy="sequential",
        **UNEVEN,
    )
    trainer.train()
    assert_same(weights(trainer.model), two, atol=1e-6)
    for first, second in zip(training_logs(trainer), two_logs, strict=True):
        for name in ("loss", "reconstruction", "kl", "kl_per_segment"):
            assert second[name] == pytest.approx(first[name], rel=1e-5), name


RESUME_SCRIPT = """
    from modeling_trace.cli.main import main

    assert main({arguments}) == 0
"""


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_resume_a_stream_to_the_same_weights(config, tmp_path):
    """Of texts that are no stream: test_distributed.py, and below."""
    arguments = ["train", config, "--use_cpu", "true", "--streaming", "true", "--max_steps", "10", "--save_steps", "5"]
    arguments += ["--gradient_accumulation_steps", "2", "--output_dir"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    launch("ddp", "-m", "modeling_trace.cli.main", *arguments, str(whole))
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-5", resumed / "checkpoint-5")  # in the second pass over the texts
    arguments += [str(resumed), "--resume_from_checkpoint", "true"]
    run_in_processes(2, RESUME_SCRIPT.format(arguments=arguments), tmp_path)
    assert_same(load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors"))


# ---- Sharded ----

SHARDED = {"optim": "adamw_torch", "learning_rate": 0.01, "gradient_accumulation_steps": 2, "max_steps": 2}

# Accelerate leaves the FSDP settings of its launch file aside where there is no accelerator: do what it does with one.
FSDP_ON_CPU = """
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__

    def with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        # every later AcceleratorState() is this one again
        self.fsdp_plugin = fsdp_plugin or self.fsdp_plugin
        self.distributed_type = DistributedType.FSDP

    AcceleratorState.__init__ = with_fsdp
"""

SHARDED_SCRIPT = """
    import shutil, sys, torch
    from helpers.training import *
    from modeling_trace.training import *

    def make(folder):
        return make_trainer(
            sys.argv[1] + folder,
            make_model(**{settings!r}),
            data_collator=Collator(sample_latents=False),
            kl_schedule="linear",
            save_strategy="steps",
            save_steps=1,
            use_cpu=True,
            **{sharded!r},
        )

    trainer = make("/whole")
    trainer.train()
    trainer.save_model()
    kinds = sorted({{type(parameter).__name__ for parameter in trainer.model.parameters()}})
    if trainer.is_world_process_zero():
        shutil.copytree(sys.argv[1] + "/whole/checkpoint-1", sys.argv[1] + "/resumed/checkpoint-1")
        torch.save((kinds, training_logs(trainer), trainer.model.kl_weight), sys.argv[1] + "/result.pt")
    trainer.accelerator.wait_for_everyone()
    if {resume}:
        trainer = make("/resumed")
        trainer.train(resume_from_checkpoint=True)
        trainer.save_model()
    trainer.end()
"""


def assert_trained_as_one_process(folder: Path, logs: list[dict], kl_weight: torch.Tensor, **settings) -> None:
    one = make_trainer(
        folder / "one",
        make_model(**settings),
        data_collator=Collator(sample_latents=False),
        kl_schedule="linear",
        per_device_train_batch_size=4,
        **SHARDED,
    )
    one.train()
    one.save_model()
    for first, second in zip(training_logs(one), logs, strict=True):
        for name in ("loss", "grad_norm", "reconstruction", "kl", "kl_per_segment", "kl_weight"):
            assert second[name] == pytest.approx(first[name], rel=1e-4), name
    assert [log["kl_weight"] for log in logs] == [0.0, 1.0]  # the buffer follows the schedule on every process
    assert torch.equal(kl_weight, one.model.kl_weight)
    # a whole model, with its code, as from one process
    names = {path.name for path in (folder / "one").iterdir()}
    assert names == {path.name for path in (folder / "whole").iterdir() if path.is_file()}
    assert (folder / "one" / "config.json").read_text() == (folder / "whole" / "config.json").read_text()
    assert_same(
        load_file(folder / "one" / "model.safetensors"), load_file(folder / "whole" / "model.safetensors"), atol=5e-5
    )
    start = weights(make_model(**settings))
    model = TraceForConditionalGeneration.from_pretrained(folder / "whole")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert all((value - start[name]).abs().max() > 1e-3 for name, value in weights(model).items() if value.dim() > 1)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("settings", [{}, ONE_PASS], ids=["embeddings", "one pass"])
def test_fsdp2_trains_saves_and_resumes_as_one_process(tmp_path, settings):
    (tmp_path / "resumed").mkdir()
    script = FSDP_ON_CPU + SHARDED_SCRIPT.format(sharded=SHARDED, resume=True, settings=settings)
    kinds, logs, kl_weight = launch_script("fsdp2", script, tmp_path)
    assert kinds == ["DTensor"]
    assert_trained_as_one_process(tmp_path, logs, kl_weight, **settings)
    assert_same(
        load_file(tmp_path / "whole" / "model.safetensors"), load_file(tmp_path / "resumed" / "model.safetensors")
    )


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("settings", [{}, ONE_PASS], ids=["embeddings", "one pass"])
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_trains_saves_and_resumes_as_one_process(stage, settings, tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    (tmp_path / "resumed").mkdir()
    script = SHARDED_SCRIPT.format(sharded=SHARDED, resume=True, settings=settings)
    _, logs, kl_weight = launch_script(f"deepspeed_zero{stage}", script, tmp_path)
    assert_trained_as_one_process(tmp_path, logs, kl_weight, **settings)
    assert_same(
        load_file(tmp_path / "whole" / "model.safetensors"), load_file(tmp_path / "resumed" / "model.safetensors")
    )


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
def test_launch_files_hold_what_accelerate_knows(name):
    path = LAUNCH_FILES / f"{name}.yaml"
    load_config_from_file(str(path))  # unknown names on the outside are errors
    known = vars(launch_command_parser().parse_args(["script.py"]))
    values = yaml.safe_load(path.read_text())
    inner = {**values.get("fsdp_config", {}), **values.get("deepspeed_config", {})}
    assert set(inner) <= set(known)
    if "deepspeed_config" in values:
        config = HfDeepSpeedConfig(str(LAUNCH_FILES / inner["deepspeed_config_file"]))
        assert config.is_zero2() == (name == "deepspeed_zero2") and config.is_zero3() == (name == "deepspeed_zero3")


# ---- Streams ----


def test_stream_resumes_in_a_later_pass(config, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    arguments = ["train", config, "--streaming", "true", "--max_steps", "18", "--per_device_train_batch_size", "4"]
    assert main([*arguments, "--output_dir", str(whole)]) == 0
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-9", resumed / "checkpoint-9")  # 26 texts by 4: in the second pass
    assert main([*arguments, "--output_dir", str(resumed), "--resume_from_checkpoint", "true"]) == 0
    assert_same(load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors"))
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["eval_texts"] == 6 and "train_texts" not in metrics


def test_stream_trains_tokenizer_and_punkt_on_its_first_texts(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nltk.data.path", [])
    arguments = ["train", config, "--streaming", "true", "--max_steps", "1", "--segmenter", "sentence"]
    arguments += ["--separator", "token"]
    assert main([*arguments, "--output_dir", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert "Training the tokenizer on the first 100,000 texts of the stream." in output
    assert "from the first million characters of the stream" in output
    assert "on a stream of texts, 6 held out for validation" in output


def test_bad_row_of_a_stream_is_one_line(config, tmp_path, capsys):
    rows = [{"body": "Some text."}] * 40 + [{"body": ""}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["train", config, "--streaming", "true", "--output_dir", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: `dataset` has 1 row (40) without text in the column 'body'. Leave them out by")
    assert main([*arguments, "--drop_empty", "true", "--max_steps", "1"]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_steps", "-1"], "`max_steps` is needed for `streaming`"),
        (["--validation_split", "0.1"], "`validation_split` must be a number of texts, a split or none"),
        (["--num_proc", "2"], "`num_proc` is for texts tokenized before training, got 2"),
        (["--dataloader_num_workers", "2"], "`dataloader_num_workers` must be 0 or 1"),
        (["--train_sampling_strategy", "group_by_length"], "must be random for `streaming`, got 'group_by_length'"),
    ],
)
def test_settings_that_streams_cannot_have(config, tmp_path, capsys, flags, message, monkeypatch):
    monkeypatch.setattr("modeling_trace.cli.train.load_texts", None)  # said before anything is loaded
    arguments = ["train", config, "--streaming", "true", "--output_dir", str(tmp_path / "out"), *flags]
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and output.out == ""


# ---- Other texts on resuming ----


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_resuming_with_other_texts_is_refused(config, tmp_path, capsys, streaming):
    out, file = tmp_path / "out", tmp_path / "texts.jsonl"
    arguments = ["train", config, "--streaming", streaming, "--output_dir", str(out), "--max_steps", "2"]
    assert main(arguments) == 0
    before = file.read_text()
    resume = [*arguments, "--resume_from_checkpoint", "true", "--max_steps", "3"]
    file.write_text(before.replace("number 20.", "number 99."))
    assert main(resume) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    size = "got 26 other ones" if streaming == "false" else "got other ones"
    assert error.startswith("error: `resume_from_checkpoint` needs the ") and size in error
    file.write_text(before)  # the same texts, in a newer file
    assert main(resume) == 0
