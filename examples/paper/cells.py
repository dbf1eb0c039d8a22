"""
What is done for a cell of a plan: its model is trained, unless it is there, and measured on test texts; or steps are
timed. `python cells.py FOLDER`, with a specification.json in it, trains one model, by `accelerate launch` where there
are several devices.
"""

import copy
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import load_from_disk
from experiment import SENTENCES
from plan import Cell, Training, has_segments
from pooled import REAL
from texts import Texts
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PrinterCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from modeling_trace import TraceForConditionalGeneration, TraceProcessor, TraceTrainer, TraceTrainingArguments
from modeling_trace.data import FixedLengthSegmenter, SentenceSegmenter
from modeling_trace.evaluation import EvaluationData, EvaluationSettings, evaluate
from modeling_trace.utils import atomic_write, one_line

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


TRAINED = "trained.json"
LAUNCH_FILE = Path(__file__).parents[1] / "accelerate" / "ddp.yaml"


class BaseTrainingError(RuntimeError):
    """The model that others start from could not be trained: none of them can be."""


# ---- Training ----


def make_processor(training: Training, tokenizer) -> TraceProcessor:
    """Segments as the plan says; none for a plain language model, or for one latent of the whole text."""
    segmenter = None
    if has_segments(training.model):
        sentences = training.segments == SENTENCES
        segmenter = SentenceSegmenter() if sentences else FixedLengthSegmenter(training.segments)
    separator = training.model.get("separator", "none")
    return TraceProcessor(copy.deepcopy(tokenizer), segmenter, training.conditional, separator)


def make_model(training: Training, tokenizer, base: Path | None) -> tuple[TraceForConditionalGeneration, Any]:
    """The untrained model and its processor, from the folder of its base, or from the backbone."""
    if base is not None:
        tokenizer = TraceProcessor.from_pretrained(base).tokenizer
    processor = make_processor(training, tokenizer)
    set_seed(training.seed)
    backbone = training.backbone if base is None else str(base)
    if isinstance(backbone, dict):
        ids = {f"{kind}_token_id": getattr(processor, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        backbone = GPT2LMHeadModel(GPT2Config(vocab_size=len(processor.tokenizer), **backbone, **ids))
    return TraceForConditionalGeneration.from_backbone(backbone, processor, **training.model), processor


def make_trainer(training: Training, tokenizer, train_texts, base: Path | None, folder: Path, **settings):
    """The Trainer; `settings` are of [`TraceTrainingArguments`], and win."""
    model, processor = make_model(training, tokenizer, base)
    devices = int(os.environ.get("WORLD_SIZE", 1))
    if training.batch_size % devices:
        raise ValueError(f"`batch_size` must be a multiple of the {devices} devices, got {training.batch_size}.")
    arguments = {
        **{name: getattr(training, name) for name in ("learning_rate", "warmup_steps", "seed", "kl_schedule")},
        **{"max_steps": training.steps, "per_device_train_batch_size": training.batch_size // devices},
        **{"save_strategy": "steps" if training.save_steps else "no", "save_steps": training.save_steps or 500},
        **{"save_total_limit": 1, "logging_steps": 50, "report_to": "none", "disable_tqdm": True},
        "max_length": model.config.get_text_config().max_position_embeddings,  # the texts are cut already
        "use_cpu": not torch.cuda.is_available(),
    }
    trainer = TraceTrainer(
        model,
        TraceTrainingArguments(str(folder), **{**arguments, **settings}),
        train_dataset=train_texts,
        processing_class=processor,
    )
    trainer.remove_callback(PrinterCallback)
    _check_whole(trainer, training)
    return trainer


def _check_whole(trainer: TraceTrainer, training: Training) -> None:
    """[SEP] after each sentence may be more than there is room for; a row that is cut has no EOS."""
    eos = trainer.processing_class.eos_token_id
    cut = sum(row[-1] != eos for row in trainer.train_dataset["input_ids"])
    if cut:
        raise ValueError(
            f"`text_tokens` must leave room for [SEP] and the prompt in the backbone's context, got {cut} texts with "
            f"segments of '{training.segments}' that are longer. Lower it."
        )


def run_training(training: Training, tokenizer, train_texts, models: Path) -> TraceTrainer:
    """Train in this process, or as one of several; the model comes to its place whole. Returns the Trainer."""
    work = models / f"{training.key}.training"
    base = None if training.base is None else models / training.base.key
    trainer = make_trainer(training, tokenizer, train_texts, base, work)
    checkpoint = get_last_checkpoint(work) if work.is_dir() else None
    start = time.perf_counter(), time.process_time()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = {"train": time.perf_counter() - start[0], "train_processor": time.process_time() - start[1]}
    trainer.save_model(str(work / "model"))
    if trainer.is_world_process_zero():
        record = {**seconds, "resumed": checkpoint is not None, "log": trainer.state.log_history}
        atomic_write(work / "model" / TRAINED, json.dumps({**record, "training": dataclasses.asdict(training)}))
        os.replace(work / "model", models / training.key)
        shutil.rmtree(work)
    return trainer


def ensure_trained(training: Training, texts: Texts, models: Path) -> bool:
    """Train a model, and its base before, unless they are there. Returns whether there was something to do."""
    if (models / training.key / TRAINED).exists():
        return False
    if training.base is not None:
        try:
            ensure_trained(training.base, texts, models)
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise BaseTrainingError(f"the model that it starts from could not be trained. {reason}") from error
    models.mkdir(parents=True, exist_ok=True)
    devices = torch.cuda.device_count()
    if devices > 1:
        _launch(training, texts, models, devices)
    else:
        run_training(training, texts.tokenizer, texts.train, models)
    return True


def _launch(training: Training, texts: Texts, models: Path, devices: int) -> None:
    handed = models / f"{training.key}.handed"
    texts.train.save_to_disk(handed / "texts")
    texts.tokenizer.save_pretrained(handed / "tokenizer")
    specification = {"training": dataclasses.asdict(training), "models": str(models)}
    atomic_write(handed / "specification.json", json.dumps(specification))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH_FILE)]
    command += ["--num_processes", str(devices), "--mixed_precision", "no", "--main_process_port", "0"]
    command += [str(Path(__file__)), str(handed)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        errors = [line for line in done.stderr.splitlines() if "Error" in line] or ["no error was printed"]
        raise RuntimeError(f"accelerate launch ended with code {done.returncode}: {errors[0].strip()}")
    shutil.rmtree(handed)


def read_training(values: dict[str, Any]) -> Training:
    """What `dataclasses.asdict` made of one."""
    base = values["base"]
    return Training(**{**values, "base": base and read_training(base)})


# ---- Measuring ----


def measure(model: Path, name: str, texts: Texts, settings: dict[str, Any], cache: Path | None = None) -> dict:
    """
    Measure a trained model on the test texts.

    Args:
        model (`Path`): its folder.
        name (`str`): of the system; other names are other draws.
        texts ([`Texts`]).
        settings (`dict`): of a [`Cell`].
        cache (`Path`, *optional*): where results are kept.

    Returns:
        `dict`: the report of `modeling_trace.evaluation.evaluate`.
    """
    data = EvaluationData(
        "test",
        real=list(texts.test["text"]),
        references=list(texts.validation["text"]),
        prompts=list(texts.test["prompt"]) if "prompt" in texts.test.column_names else None,
    )
    count = min(settings["num_generated_texts"], len(data.real))
    chosen = EvaluationSettings(
        decoding=tuple(settings["decodings"]),
        num_generated_texts=count,
        max_new_tokens=settings["text_tokens"] + 1,
        **{
            key: settings[key]
            for key in (
                *("num_samples", "judge", "extra_metrics"),
                *("curve_temperatures", "curve_latent_temperatures", "num_curve_texts"),
            )
        },
    )
    return evaluate(str(model), data, name=name, settings=chosen, cache=cache)


def rows_of(report: dict[str, Any], labels: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a cell: for each decoding strategy, and for each point of the plane."""
    name = report["systems"][0]["name"]
    metrics = report["metrics"][name]
    likelihood = {**metrics["likelihood"]}
    if "kl_per_dim" in likelihood:  # what the published -ELBO is if its KL is a mean over dimensions
        value = likelihood["reconstruction"]["value"] + likelihood["kl_per_dim"]["value"]
        likelihood["neg_elbo_mean_kl"] = {"value": value, "low": None, "high": None}
    count, few = (report["settings"][f"num_{kind}_texts"] for kind in ("generated", "curve"))
    rows = []
    for decoding, own in metrics["texts"].items():
        rows.append(_row({**labels, "decoding": decoding}, {**likelihood, **own}, count))
    for point in report["curves"].get(name, []):
        place = {key: point[key] for key in ("temperature", "latent_temperature")}
        rows.append(_row({**labels, "decoding": "plane", **place}, point["metrics"], few))
    real = {"dataset": labels.get("dataset"), "system": REAL}
    if report["curves"].get(name):
        rows.append(_row({**real, "decoding": "plane"}, report["real_on_curve"], few))
    rows.append(_row(real, report["metrics"][REAL]["texts"], count))
    return rows


def _row(labels: dict[str, Any], cells: dict[str, dict], count: int) -> dict[str, Any]:
    def number(value):
        return value if value is not None and abs(value) < float("inf") else None  # NaN compares as False

    return {
        "labels": labels,
        "metrics": {key: number(cell["value"]) for key, cell in cells.items()},
        "intervals": {key: [cell["low"], cell["high"]] for key, cell in cells.items() if cell["low"] is not None},
        "texts": count,
        "failed": None,
    }


def run_model_cell(cell: Cell, texts: Texts, models: Path) -> dict[str, Any]:
    """Train and measure. Returns `rows`, `texts` (rows of JSON lines), and whether there was something to train."""
    trained = ensure_trained(cell.training, texts, models)
    folder = models / cell.training.key
    start = time.perf_counter()
    report = measure(folder, cell.labels["system"], texts, cell.settings, models / f"{cell.training.key}.cache")
    seconds = {"measure": time.perf_counter() - start}
    record = json.loads((folder / TRAINED).read_text())
    seconds |= {name: _whole_time(record, name) for name in ("train", "train_processor")}
    if cell.training.base is not None:
        base = json.loads((models / cell.training.base.key / TRAINED).read_text())
        seconds["base"] = _whole_time(base, "train")
    written = [
        {**cell.labels, "decoding": decoding, **row}
        for decoding, systems in report["texts"].items()
        for row in systems[cell.labels["system"]][0]
    ]
    rows = [{**row, "seconds": seconds} for row in rows_of(report, cell.labels)]
    return {"rows": rows, "texts": written, "trained": trained, "findings": report["findings"]}


def _whole_time(record: dict[str, Any], name: str) -> float | None:
    """Seconds of a training; None of one that was interrupted, of which the last part alone was timed."""
    return None if record["resumed"] else record[name]


# ---- Seconds a step ----


def run_step_time_cell(cell: Cell) -> dict[str, Any]:
    """benchmarks/training.py at one segment length."""
    import argparse

    import common
    from training import measure_times

    parser = argparse.ArgumentParser()
    common.add_size_arguments(parser)
    common.add_clock_argument(parser)
    sizes = {name: value for name, value in cell.settings.items() if name != "systems"}
    arguments = common.parse(parser, [part for name, value in sizes.items() for part in (f"--{name}", str(value))])
    arguments.segment_lengths = [cell.labels["segment_length"]]
    start = time.perf_counter()
    measured = measure_times(arguments)
    seconds = {"measure": time.perf_counter() - start}
    columns = {
        "seconds_per_step": "seconds",
        "ratio_to_plain": "time, ratio to plain",
        "ratio_to_trace_p": "time, ratio to trace-p",
    }
    rows = []
    for row in measured:
        system = "gpt2" if row["system"] == common.PLAIN else row["system"]
        if system in cell.settings["systems"]:
            cells = {
                name: {"value": row[column]["median"], "low": row[column]["low"], "high": row[column]["high"]}
                for name, column in columns.items()
            }
            rows.append({**_row({**cell.labels, "system": system}, cells, arguments.batch_size), "seconds": seconds})
    return {"rows": rows, "texts": [], "trained": False, "findings": []}


def main() -> None:
    handed = Path(sys.argv[1])
    specification = json.loads((handed / "specification.json").read_text())
    trainer = run_training(
        read_training(specification["training"]),
        AutoTokenizer.from_pretrained(handed / "tokenizer"),
        load_from_disk(handed / "texts"),
        Path(specification["models"]),
    )
    trainer.end()


if __name__ == "__main__":
    main()
