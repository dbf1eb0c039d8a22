"""`modeling-trace demo`: what recurrent latents do, on a laptop, offline, in minutes."""

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
import textwrap
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments, set_seed
from transformers.trainer_callback import ProgressCallback

from .. import TraceForConditionalGeneration, TraceProcessor
from ..data import ASPECTS, SentenceSegmenter, prepare_dataset, review_dataset, train_tokenizer
from ..training import KLWeightCallback, TraceTrainer, linear_schedule
from .parser import CommandParser, flag

# A GPT-2 that two CPU cores train in minutes. Without dropout, which blurs what latents are read from.
BACKBONE = {"n_layer": 2, "n_head": 4, "n_embd": 128, "n_positions": 160}
BACKBONE |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
VOCAB_SIZE = 2500
NUM_REVIEWS, NUM_VALIDATION = 20_000, 200
NUM_HELD_OUT = 1000  # further ones, for `modeling-trace compare`
LM_STEPS, TRACE_STEPS = 600, 650
KL_SCHEDULE = {"delay": 0.0, "ramp": 0.8}  # slow: a run this short leaves the latents little time
NUM_GREEDY = 200
MAX_NEW_TOKENS = 110
DECODING = {
    "greedy": {},
    "beam search, 4 beams": {"num_beams": 4},
    "top-k 50": {"do_sample": True, "top_k": 50},
}


@dataclasses.dataclass
class DemoArguments:
    """Where to write, and what to start from."""

    output_dir: str = flag("trace-demo", "Folder for all results.")
    overwrite: bool = flag(False, "Replace what an earlier demo wrote there.")
    seed: int = flag(0, "Seed of the first weights and of the texts.")
    lm_steps: int = flag(LM_STEPS, argparse.SUPPRESS)  # for the tests, as the next
    trace_steps: int = flag(TRACE_STEPS, argparse.SUPPRESS)


def run(argv: list[str] | None = None) -> int:
    """Train, compare, print and write the demo's folder. Returns the exit code."""
    parser = CommandParser(
        [DemoArguments],
        prog="modeling-trace demo",
        usage="modeling-trace demo [--name value ...]",
        description="Train a tiny TRACE model and the same model as a plain language model on the built-in reviews, "
        "and show what they write. Offline, under five minutes on two CPU cores.",
    )
    arguments = parser.parse(sys.argv[2:] if argv is None else argv)

    output = Path(arguments.output_dir)
    _check_output(output, arguments.overwrite)
    started = time.perf_counter()
    # Everything is written beside the folder and moved in at the end: a demo that stops half-way leaves nothing.
    folder = output.resolve()  # `.` and links have their true neighbours
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.parent / f".{folder.name}-{os.getpid()}"
    work.mkdir()
    try:
        _demo(work, arguments)
        _move(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _print_end(output, time.perf_counter() - started)
    return 0


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"`output_dir` '{output}' is a file. Choose a folder by --output_dir.")
    if not any(output.iterdir()):
        return
    if not all((output / name).is_file() for name in ("samples.jsonl", "latents.png")):
        raise ValueError(f"`output_dir` '{output}' holds something else than a demo. Choose another by --output_dir.")
    if not overwrite:
        raise ValueError(
            f"`output_dir` '{output}' holds an earlier demo. Replace it by --overwrite, or choose another by "
            "--output_dir."
        )


def _move(work: Path, folder: Path) -> None:
    """Put the results into their folder, in place of an earlier demo's; what else lies there stays."""
    folder.mkdir(exist_ok=True)
    for new in work.iterdir():
        old = folder / new.name
        if old.is_dir():
            shutil.rmtree(old)
        shutil.move(new, old)


def _demo(work: Path, arguments: argparse.Namespace) -> None:
    set_seed(arguments.seed)
    print(f"1. Built-in corpus: {NUM_REVIEWS:,} short reviews, one latent per sentence.\n")
    reviews = review_dataset(NUM_REVIEWS)
    validation, training = reviews.select(range(NUM_VALIDATION)), reviews.select(range(NUM_VALIDATION, NUM_REVIEWS))
    tokenizer = train_tokenizer(training["text"], VOCAB_SIZE)
    plain_processor = TraceProcessor(tokenizer, segmenter=None)

    print(f"\n2. The plain language model: GPT-2, {BACKBONE['n_layer']} layers, {BACKBONE['n_embd']} wide.\n")
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    backbone = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **BACKBONE, **ids))
    plain = TraceForConditionalGeneration.from_backbone(backbone, tokenizer, latent_dynamics="none")
    plain_log = _train(plain, plain_processor, training, validation, work, arguments.lm_steps, 2e-3)

    print("\n3. TRACE, from that language model: the same backbone, and a latent for every sentence.\n")
    plain.save_pretrained(work / "plain-lm")
    plain_processor.save_pretrained(work / "plain-lm")
    processor = TraceProcessor(tokenizer, SentenceSegmenter())
    trace = TraceForConditionalGeneration.from_backbone(work / "plain-lm", processor)
    schedule = linear_schedule(**KL_SCHEDULE)
    trace_log = _train(trace, processor, training, validation, work, arguments.trace_steps, 1e-3, schedule)

    print("\n4. What they write.")
    samples = _write_texts(plain, plain_processor, trace, processor, arguments.seed)
    _print_figures(plain_log, trace_log)

    trace.save_pretrained(work / "model")
    processor.save_pretrained(work / "model")
    held_out = review_dataset(NUM_REVIEWS + NUM_HELD_OUT).select(range(NUM_REVIEWS, NUM_REVIEWS + NUM_HELD_OUT))
    for name, rows in (("samples", samples), ("held-out", [{"text": text} for text in held_out["text"]])):
        with open(work / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with open(work / "training_log.json", "w", encoding="utf-8") as file:
        json.dump({"plain": plain_log, "trace": trace_log}, file, indent=1)
    _plot_curves(trace_log, plain_log, work / "curves.png")
    _plot_latents(trace, processor, training.select(range(1500)), work / "latents.png")


class _BarOnly(ProgressCallback):
    """The Trainer's progress bar without its log lines: the curves show them."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


def _train(model, processor, training, validation, folder, steps, learning_rate, schedule=None) -> list[dict]:
    """Train and return the log: reconstruction, KL and KL weight by step, and a last row with the validation's."""
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=50,
        train_sampling_strategy="group_by_length",  # a third less padding
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=50,
        logging_steps=20,
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = TraceTrainer(
        model,
        arguments,
        train_dataset=prepare_dataset(training, processor),
        eval_dataset=prepare_dataset(validation, processor),
        processing_class=processor,
        callbacks=None if schedule is None else [KLWeightCallback(schedule)],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_BarOnly)
    trainer.train()
    figures = trainer.evaluate()
    model.eval()
    return [row for row in trainer.state.log_history if "reconstruction" in row] + [figures]


def _generate(model, processor, num_texts: int, seed: int, **decoding):
    """Texts from BOS, and the whole output of generate()."""
    torch.manual_seed(seed)
    start = torch.full((num_texts, 1), processor.bos_token_id, device=model.device)
    output = model.generate(
        start,
        attention_mask=torch.ones_like(start),
        max_new_tokens=MAX_NEW_TOKENS,
        return_dict_in_generate=True,
        **decoding,
    )
    return processor.batch_decode(output.sequences), output


def _write_texts(plain, plain_processor, trace, processor, seed: int) -> list[dict]:
    samples = []
    for name, decoding in DECODING.items():
        columns = {}
        for system, model, its_processor in (("plain LM", plain, plain_processor), ("TRACE", trace, processor)):
            texts, _ = _generate(model, its_processor, 3, seed, **decoding)
            columns[system] = texts
            samples += [{"system": system, "decoding": name, "text": text} for text in texts]
        _print_side_by_side(name, columns)

    print(f"\nOf {NUM_GREEDY} greedy texts, this many are distinct:")
    for system, model, its_processor in (("plain LM", plain, plain_processor), ("TRACE", trace, processor)):
        texts, output = _generate(model, its_processor, NUM_GREEDY, seed)
        print(f"    {system:<9}{len(set(texts)):>4}")
        samples += [{"system": system, "decoding": "greedy", "text": text} for text in texts]

    print("\nOne text, greedy, and the same text with only the latent of its third sentence drawn again:\n")
    counts = [len(processor.split(row)) for row in output.sequences]
    chosen = next((row for row, count in enumerate(counts) if count >= 4), 0)
    latents = output.latents[chosen].clone()
    if latents.shape[0] >= 3:
        latents[2] = float("nan")  # NaN: draw; all others are held
    again, output_again = _generate(trace, processor, 3, seed + 1, latents=latents)
    rows = [output.sequences[chosen], *output_again.sequences]
    for name, row in zip(("first", "again", "again", "again"), rows, strict=True):
        pieces = [piece.strip() for piece in processor.split(row)]
        if len(pieces) >= 3:
            pieces[2] = f">> {pieces[2]} <<"
        print(textwrap.fill(f"{name}: {' '.join(pieces)}", 100, subsequent_indent="       "))
    samples += [{"system": "TRACE", "decoding": "greedy, third latent drawn again", "text": text} for text in again]
    return samples


def _print_side_by_side(title: str, columns: dict[str, list[str]], width: int = 52) -> None:
    names = list(columns)
    print(f"\n--- {title} " + "-" * (2 * width - len(title) - 2))
    print("".join(f"{name:<{width + 3}}" for name in names).rstrip())
    for texts in zip(*columns.values(), strict=True):
        wrapped = [textwrap.wrap(text, width) or ["(empty)"] for text in texts]
        for line in range(max(map(len, wrapped))):
            print("".join(f"{w[line] if line < len(w) else '':<{width + 3}}" for w in wrapped).rstrip())
        print()


def _print_figures(plain_log: list[dict], trace_log: list[dict]) -> None:
    plain, trace = plain_log[-1]["eval_reconstruction"], trace_log[-1]["eval_reconstruction"]
    kl = trace_log[-1]["eval_kl"]
    print(f"\nOn {NUM_VALIDATION} texts kept back, in nats per text, less is better:")
    print(f"    plain LM {plain:6.1f}")
    print(f"    TRACE    {trace + kl:6.1f} at most, a bound: {kl:.1f} for the latents, {trace:.1f} for the text then")
    other, per_nat = trace_log[-1]["eval_reconstruction_other"], trace_log[-1]["eval_gain_per_nat"]
    print(f"    Under another text's latents the text costs {other:.1f}: {per_nat:.2f} nats gained per nat of KL.")


def _plot_curves(trace_log: list[dict], plain_log: list[dict], path: Path) -> None:
    plt = _pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2))
    curves = (("reconstruction", "nats per text"), ("kl", "nats per text"), ("kl_weight", "weight of the KL"))
    for axis, (name, unit) in zip(axes, curves, strict=True):
        rows = [row for row in trace_log if name in row]
        axis.plot([row["step"] for row in rows], [row[name] for row in rows], label="TRACE")
        axis.set(title=name, xlabel="step", ylabel=unit)
        axis.set_ylim(bottom=0)
    axes[0].axhline(plain_log[-1]["eval_reconstruction"], color="gray", ls="--", label="plain LM, validation")
    other = trace_log[-1]["eval_reconstruction_other"]
    axes[0].axhline(other, color="C3", ls=":", label="another text's latents, validation")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


@torch.no_grad()
def _plot_latents(model, processor, reviews, path: Path) -> None:
    """The latents' two most telling directions for the aspect, found on one half of the texts, drawn for the other."""
    latents, aspects = [], []
    for start in range(0, len(reviews), 50):
        rows = reviews[start : start + 50]
        batch = processor(rows["text"], padding=True, return_tensors="pt").to(model.device)
        found = model.encode(**batch).latents.cpu()
        for row, labels in enumerate(rows["aspects"]):
            latents.append(found[row, : len(labels)])
            aspects += [ASPECTS.index(label) for label in labels]
    latents, aspects = torch.cat(latents), torch.tensor(aspects)
    half = len(latents) // 2
    points = (latents - latents[:half].mean(0)) @ _discriminants(latents[:half], aspects[:half])
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(7, 5.5))
    for index, name in enumerate(ASPECTS):
        chosen = points[half:][aspects[half:] == index]
        axis.scatter(chosen[:, 0], chosen[:, 1], s=6, alpha=0.6, label=name, color=plt.cm.tab10(index % 10))
    axis.set(
        title="Latents of sentences, by what the sentence is about",
        xlabel="first discriminant (fitted on other texts)",
        ylabel="second discriminant",
    )
    axis.legend(markerscale=3, fontsize=8, loc="best")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _discriminants(points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Fisher's two linear discriminants, `(dimensions, 2)`: the most variance between classes per variance within."""
    classes = torch.nn.functional.one_hot(labels, len(ASPECTS)).float()
    points = points - points.mean(0)
    means = classes.t() @ points / classes.sum(0).clamp_min(1).unsqueeze(1)
    within = points - classes @ means
    covariance = within.t() @ within / len(points) + 1e-6 * torch.eye(points.shape[1])
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).t()
    _, _, directions = torch.linalg.svd(means @ whiten)
    return whiten @ directions[:2].t()


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _print_end(output: Path, seconds: float) -> None:
    model = shlex.quote(str(output / "model"))
    print(f"\nWritten to {output}/ in {seconds / 60:.1f} minutes:")
    print("    model/             TRACE and its processor")
    print("    plain-lm/          the plain language model that it started from")
    print("    samples.jsonl      all texts printed above, and the greedy ones that were counted")
    print("    held-out.jsonl     1,000 more reviews, to compare the two models on")
    print("    curves.png         reconstruction, KL and KL weight during training (training_log.json)")
    print("    latents.png        the latents in two dimensions, coloured by what the sentence is about")
    print("\nTry next:")
    print(f"    modeling-trace generate {model} --num_texts 20 --top_k 50")
    print(f'    modeling-trace generate {model} --num_texts 5 --prompt "The staff were friendly."')
    plain, held_out, report = (shlex.quote(str(output / name)) for name in ("plain-lm", "held-out.jsonl", "report"))
    print(f"    modeling-trace compare {plain} {model} --dataset {held_out} --validation_split none \\")
    print(f"        --num_texts 500 --num_likelihood_texts 100 --num_samples 20 --judge none --output {report}")
    print("    modeling-trace train --dataset your_texts.jsonl --backbone gpt2 --output_dir my-trace")


__all__ = ["run"]
