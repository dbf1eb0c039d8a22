"""
The demo in pieces: a tiny plain language model and TRACE from it, trained on the built-in reviews, and what shows the
difference: texts side by side, one latent resampled, the training curves, a map of the latents.

[`run_demo`] is all of it, as in `modeling-trace demo`; the rest works with other models, too.
"""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import ProgressCallback

from .data import (
    ASPECTS,
    SentenceSegmenter,
    TraceProcessor,
    prepare_dataset,
    review_dataset,
    save_rows,
    train_tokenizer,
)
from .models.modeling_trace import TraceForConditionalGeneration
from .training import KLWeightCallback, TraceTrainer, linear_schedule

# Name -> (model, processor)
Systems = Mapping[str, tuple[TraceForConditionalGeneration, TraceProcessor]]

# A GPT-2 that two CPU cores train in minutes. Without dropout, which blurs what latents are read from.
BACKBONE: dict[str, float] = {"n_layer": 2, "n_head": 4, "n_embd": 128, "n_positions": 160}
BACKBONE |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
VOCAB_SIZE = 2500
NUM_REVIEWS, NUM_VALIDATION = 20_000, 200
NUM_HELD_OUT = 1000  # further ones, for `modeling-trace compare`
LM_STEPS, TRACE_STEPS = 600, 650
FIRST_LOOK = 0.2  # of TRACE's training: when its first texts are shown
KL_SCHEDULE = {"delay": 0.0, "ramp": 0.8}  # slow: a run this short leaves the latents little time
NUM_GREEDY = 200
MAX_NEW_TOKENS = 110
DECODING = {
    "greedy": {},
    "beam search, 4 beams": {"num_beams": 4},
    "top-k 50": {"do_sample": True, "top_k": 50},
}


def run_demo(
    folder: str | Path,
    *,
    seed: int = 0,
    lm_steps: int = LM_STEPS,
    trace_steps: int = TRACE_STEPS,
    say: Callable[[str], None] = print,
) -> None:
    """
    Train both models, compare them, and save everything to a folder.

    Interrupted (KeyboardInterrupt), it leaves what is finished: the plain model once that is trained, and TRACE as far
    as it was trained.

    Args:
        folder (`str` or `Path`): where to; exists. Gets `plain-lm/`, `model/`, `samples.jsonl`, `held-out.jsonl`,
            `training_log.json`, `curves.png` and `latents.png`.
        seed (`int`, *optional*, defaults to 0): of the first weights and of the texts.
        lm_steps, trace_steps (`int`, *optional*): training steps of the two models.
        say (`Callable`, *optional*, defaults to `print`): gets what there is to read, piece by piece.
    """
    folder = Path(folder)
    set_seed(seed)
    say(f"1. Built-in corpus: {NUM_REVIEWS:,} short reviews, one latent per sentence.\n")
    reviews = review_dataset(NUM_REVIEWS + NUM_HELD_OUT)
    validation, training = reviews.select(range(NUM_VALIDATION)), reviews.select(range(NUM_VALIDATION, NUM_REVIEWS))
    held_out = reviews.select(range(NUM_REVIEWS, NUM_REVIEWS + NUM_HELD_OUT))
    tokenizer = train_tokenizer(training["text"], VOCAB_SIZE)
    plain_processor = TraceProcessor(tokenizer, segmenter=None)

    say(f"\n2. The plain language model: GPT-2, {BACKBONE['n_layer']} layers, {BACKBONE['n_embd']} wide.\n")
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    backbone = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **BACKBONE, **ids))
    plain = TraceForConditionalGeneration.from_backbone(backbone, tokenizer, latent_dynamics="none")
    plain_log = _train(plain, plain_processor, training, validation, folder, lm_steps, 2e-3)
    plain.save_pretrained(folder / "plain-lm")
    plain_processor.save_pretrained(folder / "plain-lm")
    save_rows([{"text": text} for text in held_out["text"]], folder / "held-out.jsonl")
    _save_log(folder, plain=plain_log)

    say("\n3. TRACE, from that language model: the same backbone, and a latent for every sentence.\n")
    processor = TraceProcessor(tokenizer, SentenceSegmenter())
    trace = TraceForConditionalGeneration.from_backbone(folder / "plain-lm", processor)
    systems = {"plain LM": (plain, plain_processor), "TRACE": (trace, processor)}

    def first_look():
        say(f"\nA first look, after {FIRST_LOOK:.0%} of TRACE's training:")
        save_rows(compare_texts(systems, {"greedy": {}}, seed=seed, say=say), folder / "samples.jsonl")

    try:
        schedule = linear_schedule(**KL_SCHEDULE)
        look = _AtStep(max(1, int(FIRST_LOOK * trace_steps)), first_look)
        trace_log = _train(trace, processor, training, validation, folder, trace_steps, 1e-3, schedule, [look])
    finally:  # interrupted, too
        trace.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
    _save_log(folder, plain=plain_log, trace=trace_log)
    plot_curves(trace_log, plain_log, folder / "curves.png")

    say("\n4. What they generate.")
    samples = compare_texts(systems, DECODING, seed=seed, say=say)
    save_rows(samples, folder / "samples.jsonl")
    samples += count_distinct(systems, NUM_GREEDY, seed=seed, say=say)
    samples += resample_third(trace, processor, NUM_GREEDY, seed=seed, say=say)
    save_rows(samples, folder / "samples.jsonl")
    say(likelihoods(plain_log, trace_log))
    labelled = training.select(range(min(1500, len(training))))
    plot_latents(trace, processor, labelled["text"], labelled["aspects"], ASPECTS, folder / "latents.png")


def _save_log(folder: Path, **logs) -> None:
    (folder / "training_log.json").write_text(json.dumps(logs, indent=1), encoding="utf-8")


# ---- Training ----


class _BarOnly(ProgressCallback):
    """The Trainer's progress bar without its log lines: the curves show them."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


class _AtStep(TrainerCallback):
    """Calls something once, after a step, without a trace in what training draws."""

    def __init__(self, step: int, action: Callable[[], None]):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            model.eval()
            with torch.random.fork_rng():
                self.action()
            model.train()


def _train(
    model, processor, training, validation, folder, steps, learning_rate, schedule=None, callbacks=()
) -> list[dict]:
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
        callbacks=[*callbacks, *([] if schedule is None else [KLWeightCallback(schedule)])],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_BarOnly)
    trainer.train()
    metrics = trainer.evaluate()
    model.eval()
    return [row for row in trainer.state.log_history if "reconstruction" in row] + [metrics]


# ---- Texts ----


def generate_from_bos(
    model: TraceForConditionalGeneration, processor: TraceProcessor, num_texts: int, seed: int, **decoding
) -> tuple[list[str], Any]:
    """
    Texts from nothing, and the output of `generate()` that they come from.

    Args:
        model ([`TraceForConditionalGeneration`]): the model, plain or with latents.
        processor ([`TraceProcessor`]): the model's own.
        num_texts (`int`): how many, in one batch.
        seed (`int`): of PyTorch's generator, which is set.
        **decoding: of `generate()`.
    """
    torch.manual_seed(seed)
    start = torch.full((num_texts, 1), processor.bos_token_id, device=model.device)
    settings = {"max_new_tokens": MAX_NEW_TOKENS, "return_dict_in_generate": True, **decoding}
    output: Any = model.generate(start, attention_mask=torch.ones_like(start), **settings)
    return processor.batch_decode(output.sequences), output


def compare_texts(
    systems: Systems,
    decoding: Mapping[str, dict[str, Any]],
    *,
    num_texts: int = 3,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> list[dict]:
    """
    Say texts of several systems side by side, by decoding strategy.

    Args:
        systems (`Mapping`): name -> (model, processor).
        decoding (`Mapping`): name -> settings of `generate()`.
        num_texts (`int`, *optional*, defaults to 3): of each.
        seed (`int`, *optional*, defaults to 0): the same for all.
        say (`Callable`, *optional*, defaults to `print`).

    Returns:
        `list[dict]`: `system`, `decoding` and `text` of each text.
    """
    rows = []
    for strategy, settings in decoding.items():
        columns = {}
        for name, (model, processor) in systems.items():
            columns[name], _ = generate_from_bos(model, processor, num_texts, seed, **settings)
            rows += [{"system": name, "decoding": strategy, "text": text} for text in columns[name]]
        say(side_by_side(strategy, columns))
    return rows


def count_distinct(
    systems: Systems, num_texts: int, *, seed: int = 0, say: Callable[[str], None] = print
) -> list[dict]:
    """Say how many greedy texts of each system are distinct; arguments and rows as for [`compare_texts`]."""
    say(f"\nOf {num_texts} greedy texts, this many are distinct:")
    rows = []
    for name, (model, processor) in systems.items():
        texts, _ = generate_from_bos(model, processor, num_texts, seed)
        say(f"    {name:<9}{len(set(texts)):>4}")
        rows += [{"system": name, "decoding": "greedy", "text": text} for text in texts]
    return rows


def resample_third(
    model: TraceForConditionalGeneration,
    processor: TraceProcessor,
    num_texts: int,
    *,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> list[dict]:
    """
    Say one greedy text of at least four sentences, and three more with the latent of its third sentence resampled and
    all others held; rows as for [`compare_texts`].

    Args:
        model, processor: TRACE with sentences as segments.
        num_texts (`int`): greedy texts to take the first suitable one from.
        seed (`int`, *optional*, defaults to 0): of those texts; one more for the new latents.
        say (`Callable`, *optional*, defaults to `print`).
    """
    say("\nOne text, greedy, and the same text with only the latent of its third sentence resampled:\n")
    _, output = generate_from_bos(model, processor, num_texts, seed)
    counts = [len(processor.split(row)) for row in output.sequences]
    chosen = next((row for row, count in enumerate(counts) if count >= 4), 0)
    latents = output.latents[chosen].clone()
    if latents.shape[0] >= 3:
        latents[2] = float("nan")  # NaN: sample; all others are held
    texts, resampled = generate_from_bos(model, processor, 3, seed + 1, latents=latents)
    rows = [output.sequences[chosen], *resampled.sequences]
    for name, row in zip(("first", "again", "again", "again"), rows, strict=True):
        pieces = [piece.strip() for piece in processor.split(row)]
        if len(pieces) >= 3:
            pieces[2] = f">> {pieces[2]} <<"
        say(textwrap.fill(f"{name}: {' '.join(pieces)}", 100, subsequent_indent="       "))
    return [{"system": "TRACE", "decoding": "greedy, third latent resampled", "text": text} for text in texts]


def side_by_side(title: str, columns: Mapping[str, Sequence[str]], width: int = 52) -> str:
    """Texts in columns under their names; texts of one row begin on the same line."""
    lines = [f"\n--- {title} " + "-" * (2 * width - len(title) - 2)]
    lines.append("".join(f"{name:<{width + 3}}" for name in columns).rstrip())
    for texts in zip(*columns.values(), strict=True):
        wrapped = [textwrap.wrap(text, width) or ["(empty)"] for text in texts]
        for line in range(max(map(len, wrapped))):
            lines.append("".join(f"{w[line] if line < len(w) else '':<{width + 3}}" for w in wrapped).rstrip())
        lines.append("")
    return "\n".join(lines)


def likelihoods(plain_log: list[dict], trace_log: list[dict]) -> str:
    """The last rows of both training logs in words, in nats per text."""
    plain, trace = plain_log[-1]["eval_reconstruction"], trace_log[-1]["eval_reconstruction"]
    kl = trace_log[-1]["eval_kl"]
    other, per_nat = trace_log[-1]["eval_reconstruction_other"], trace_log[-1]["eval_gain_per_nat"]
    return (
        f"\nOn {NUM_VALIDATION} held-out texts, in nats per text, lower is better:\n"
        f"    plain LM {plain:6.1f}\n"
        f"    TRACE    {trace + kl:6.1f} at most, a bound: {kl:.1f} for the latents, {trace:.1f} for the text then\n"
        f"    Under another text's latents the text costs {other:.1f}: {per_nat:.2f} nats gained per nat of KL."
    )


# ---- Pictures ----


def plot_curves(trace_log: list[dict], plain_log: list[dict], path: str | Path) -> None:
    """A picture of reconstruction, KL and KL weight over the steps, from the Trainer's `log_history`."""
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
def plot_latents(
    model: TraceForConditionalGeneration,
    processor: TraceProcessor,
    texts: Sequence[str],
    labels: Sequence[Sequence[str]],
    names: Sequence[str],
    path: str | Path,
    batch_size: int = 50,
) -> None:
    """
    A map of the posterior's means: the two directions that tell the labels apart best ([`discriminants`]), fitted on
    one half of the segments and drawn for the other.

    Args:
        model, processor: TRACE and its processor.
        texts (`Sequence[str]`): the texts.
        labels (`Sequence[Sequence[str]]`): what each of their segments is about, one of `names`.
        names (`Sequence[str]`): all labels.
        path (`str` or `Path`): the picture.
        batch_size (`int`, *optional*, defaults to 50): texts that are encoded at once.
    """
    latents, classes = [], []
    for start in range(0, len(texts), batch_size):
        batch = processor(list(texts[start : start + batch_size]), padding=True, return_tensors="pt").to(model.device)
        encoded = model.encode(**batch).latents.cpu()
        for row, row_labels in enumerate(labels[start : start + batch_size]):
            latents.append(encoded[row, : len(row_labels)])
            classes += [names.index(label) for label in row_labels]
    latents, classes = torch.cat(latents), torch.tensor(classes)
    half = len(latents) // 2
    points = (latents - latents[:half].mean(0)) @ discriminants(latents[:half], classes[:half], len(names))
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(7, 5.5))
    for index, name in enumerate(names):
        chosen = points[half:][classes[half:] == index]
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


def discriminants(points: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """
    Fisher's two linear discriminants: the most variance between classes per variance within.

    Args:
        points (`torch.Tensor`): `(num_points, dimensions)`.
        labels (`torch.Tensor`): `(num_points,)`, each below `num_classes`.
        num_classes (`int`): how many there are.

    Returns:
        `torch.Tensor`: `(dimensions, 2)`.
    """
    classes = torch.nn.functional.one_hot(labels, num_classes).float()
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


__all__ = [
    "compare_texts",
    "count_distinct",
    "discriminants",
    "generate_from_bos",
    "likelihoods",
    "plot_curves",
    "plot_latents",
    "resample_third",
    "run_demo",
    "side_by_side",
]
