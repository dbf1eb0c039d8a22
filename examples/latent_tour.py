"""
What the latents of a trained model do, in one picture and a page of text: resample one segment, interpolate between
texts, reconstruct, and a map of the latents.

    python examples/latent_tour.py --smoke --output /tmp/smoke
    python examples/latent_tour.py --model trace-demo/model --output tour            # after `modeling-trace demo`

One process looks, however many are launched.
"""

import os
import textwrap
from dataclasses import dataclass, field

import matplotlib
import torch
from train import main as train_model
from train import parse
from transformers import set_seed

from modeling_trace import load_model
from modeling_trace.data import ASPECTS, TraceDataCollator, load_texts, review_dataset
from modeling_trace.demo import discriminants
from modeling_trace.evaluation import latent_use

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")  # Okabe and Ito
NUM_STEPS = 7  # of an interpolation, both ends included


@dataclass
class ScriptArguments:
    """Which model, on which texts."""

    model: str = field(default="trace-demo/model", metadata={"help": "Folder or Hub id of a TRACE model."})
    dataset: str = field(default="reviews", metadata={"help": "reviews (built in), a Hub id, or files of texts."})
    text_column: str | None = field(default=None, metadata={"help": "Found by itself where it is called text, ..."})
    validation_split: float = field(default=0.1, metadata={"help": "As in training: the held-out texts are used."})
    num_texts: int = field(default=400, metadata={"help": "Held-out texts that are encoded and scored."})
    segment: int = field(default=2, metadata={"help": "Segment to resample, counted from 1."})
    num_draws: int = field(default=50, metadata={"help": "Latents drawn for it."})
    max_length: int = field(default=128, metadata={"help": "Tokens of a text; longer ones lose whole segments."})
    output: str = field(default="latent-tour", metadata={"help": "Folder for tour.png and tour.txt."})
    device: str | None = field(default=None, metadata={"help": "cuda, mps or cpu. Default: the best that is here."})
    seed: int = field(default=0, metadata={"help": "Of all draws."})
    smoke: bool = field(default=False, metadata={"help": "A small model, trained here in a few steps."})


def wrap(name: str, text: str) -> str:
    return textwrap.fill(f"{name:14}{text or '(empty)'}", 110, subsequent_indent=" " * 14)


def resample(model, processor, axis, segment: int, num_draws: int, max_new_tokens: int) -> list[str]:
    """One latent is drawn again and all others are held: which segments of the text change."""
    settings = {"max_new_tokens": max_new_tokens, "return_dict_in_generate": True}  # greedy: only latents differ
    first = model.generate(num_return_sequences=20, **settings)
    segments = [processor.split(row) for row in first.sequences]
    chosen = max(range(len(segments)), key=lambda row: min(len(segments[row]), segment + 2))
    latents, before = first.latents[chosen].clone(), segments[chosen]
    if segment > len(before):
        raise ValueError(f"`segment` must be in a text, got {segment}, but none of 20 has more than {len(before)}.")
    latents[segment - 1] = float("nan")  # NaN: draw again
    again = [
        processor.split(row)
        for row in model.generate(latents=latents, num_return_sequences=num_draws, **settings).sequences
    ]
    changed = [sum(new[i : i + 1] != [old] for new in again) / len(again) for i, old in enumerate(before)]
    numbers = range(1, len(before) + 1)
    axis.bar(numbers, changed, color=[COLORS[1] if number == segment else COLORS[0] for number in numbers])
    axis.set(
        title=f"Only the latent of segment {segment} drawn again",
        xlabel="segment",
        ylabel=f"share of {num_draws} greedy texts that differ",
        ylim=(0, 1.05),
        xticks=numbers,
    )
    lines = [f"The latent of segment {segment} drawn again, all others held, greedy:", ""]
    for name, parts in [("first", before), *(("again", parts) for parts in again[:3])]:
        marked = [f">> {part.strip()} <<" if i == segment - 1 else part.strip() for i, part in enumerate(parts)]
        lines.append(wrap(name, " ".join(marked)))
    return lines


def interpolate(model, processor, axis, rows: list[dict], latents: torch.Tensor, pair: dict) -> list[str]:
    """
    From one text's latents to another's: what both texts cost on the way, in nats per text, over all pairs of
    neighbours in `rows`, which have equally many segments; and the texts that the first pair's latents give.
    """
    collate = TraceDataCollator(processor)
    batch = {name: value.to(model.device) for name, value in collate(rows).items()}
    shares = torch.linspace(0, 1, NUM_STEPS).tolist()
    for name, shift, color in (("the start's text", 0, COLORS[0]), ("the end's text", 1, COLORS[1])):
        start, end = (latents.roll(shift - other, dims=0) for other in (0, 1))
        with torch.no_grad():
            nats = [model(**batch, latents=torch.lerp(start, end, a)).reconstruction_loss.item() for a in shares]
        axis.plot(shares, nats, marker="o", color=color, label=name)
    axis.set(
        title=f"Between the latents of two texts, {len(rows)} pairs",
        xlabel="share of the end's latents",
        ylabel="nats per text",
    )
    axis.legend()
    output = model.interpolate(**pair, num_steps=NUM_STEPS)
    texts = processor.batch_decode(output.sequences)
    return ["From one text to another:", "", *map(wrap, [f"{a:.0%}" for a in shares], texts)]


def reconstruct(model, processor, axis, rows: list[dict], texts: list[str], inputs: dict, seed: int) -> list[str]:
    """What texts cost under their own latents, another text's and the prior's; and texts written from their own."""
    use = latent_use(model, rows, processor, seed=seed)
    names = {"posterior": "own", "other": "another\ntext's", "prior": "drawn from\nthe prior"}
    costs = [getattr(use, name) for name in names]
    errors = [1.96 * (nats - costs[0]).std().item() / len(nats) ** 0.5 for nats in costs]  # of the difference to own
    axis.bar(list(names.values()), [nats.mean().item() for nats in costs], yerr=errors, capsize=4, color=COLORS[:3])
    low, high = (pick(nats.mean().item() for nats in costs) for pick in (min, max))
    axis.set_ylim(low - 2 * (high - low) - max(errors) - 1e-3, high + (high - low) / 2 + max(errors) + 1e-3)
    axis.set(title=f"{len(rows)} texts under latents", ylabel="nats per text (axis cut)")
    lines = [
        f"Texts and what is written from their latents alone ({use.gain_per_nat:.2f} nats gained per nat of KL):",
        "",
    ]
    for text, ids in zip(texts, model.reconstruct(**inputs).sequences, strict=True):
        lines += [wrap("text", text), wrap("from latents", processor.decode(ids))]
    return lines


def draw_map(axis, latents: torch.Tensor, labels: torch.Tensor, names: list[str], what: str) -> None:
    """The two directions that tell the labels apart best, fitted on one half of the segments, for the other half."""
    half = len(latents) // 2
    points = (latents - latents[:half].mean(0)) @ discriminants(latents[:half], labels[:half], len(names))
    for index, name in enumerate(names):
        chosen = points[half:][labels[half:] == index]
        axis.scatter(chosen[:, 0], chosen[:, 1], s=5, alpha=0.6, label=name, color=COLORS[index % len(COLORS)])
    axis.set(title=f"Latents of segments, by {what}", xlabel="first discriminant", ylabel="second discriminant")
    axis.legend(markerscale=3, fontsize=7)


def main(argv: list[str] | None = None) -> str | None:
    (script,) = parse((ScriptArguments,), argv)
    if script.smoke:
        script.model, script.num_texts, script.num_draws = os.path.join(script.output, "model"), 40, 4
        train_model(["--smoke", "--use_cpu", "--output_dir", script.model])
        script.device, script.max_length = "cpu", 40
    if os.environ.get("RANK", "0") != "0":
        return None
    model, processor = load_model(script.model, script.device)
    if not model.has_latents or model.one_latent_per_text or processor.conditional:
        raise ValueError(f"`model` '{script.model}' must have a latent for each segment and no prompts. Use another.")
    set_seed(script.seed)

    source = review_dataset() if script.dataset == "reviews" else script.dataset
    _, held_out = load_texts(source, text_column=script.text_column, validation_split=script.validation_split)
    held_out = held_out[: script.num_texts]
    rows = [{"input_ids": ids} for ids in processor.encode_rows(held_out["text"], max_length=script.max_length)]
    collate, latents = TraceDataCollator(processor), []
    for start in range(0, len(rows), 32):
        batch = {name: x.to(model.device) for name, x in collate(rows[start : start + 32]).items() if name != "labels"}
        with torch.no_grad():
            encoded = model.encode(**batch)
        counts = encoded.segment_ids.amax(dim=1).tolist()
        latents += [z[:count] for z, count in zip(encoded.latents, counts, strict=True)]
    length = max({len(z) for z in latents}, key=lambda n: (sum(len(z) == n for z in latents), n))
    alike = [number for number, z in enumerate(latents) if len(z) == length]  # as many segments: neighbours are pairs

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    page = [resample(model, processor, axes[0, 0], script.segment, script.num_draws, script.max_length - 1)]

    def inputs(numbers):
        batch = collate([rows[number] for number in numbers])
        return {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}

    ends = [inputs([number]) for number in alike[:2]]
    pair = {"start_ids": ends[0]["input_ids"], "end_ids": ends[1]["input_ids"]}
    some = alike[:32]
    stacked = torch.stack([latents[number] for number in some])
    page.append(interpolate(model, processor, axes[0, 1], [rows[number] for number in some], stacked, pair))
    texts = [held_out["text"][number] for number in alike[:3]]
    page.append(reconstruct(model, processor, axes[1, 0], rows, texts, inputs(alike[:3]), script.seed))

    if script.dataset == "reviews" and processor.segment_length is None:
        names, what = list(ASPECTS), "what the sentence is about"
        labels = [names.index(x) for z, row in zip(latents, held_out["aspects"], strict=True) for x in row[: len(z)]]
    else:
        names, what = [str(number + 1) for number in range(max(map(len, latents)))], "their number in the text"
        labels = [number for z in latents for number in range(len(z))]
    draw_map(axes[1, 1], torch.cat(latents).float().cpu(), torch.tensor(labels), names, what)
    os.makedirs(script.output, exist_ok=True)
    figure.savefig(os.path.join(script.output, "tour.png"), dpi=150)
    plt.close(figure)
    text = "\n\n".join("\n".join(lines) for lines in page)
    with open(os.path.join(script.output, "tour.txt"), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    print(text)
    return text


if __name__ == "__main__":
    main()
