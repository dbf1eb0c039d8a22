"""
Are latents worth what they cost? Every system from the same plain model, on the same text tokens, at equal steps and
at equal processor time, over seeds: `python benchmarks/worth.py --dataset reviews --output worth`.

Texts are cut at the same number of *text* tokens for all (a [SEP] takes no place of theirs); a text that is cut has no
end. For each seed a plain model is trained for `--base_steps`; from there each system goes on for `--steps`, and the
plain model as well, once for as many steps ("plain") and once for as much processor time as `trace` took ("plain,
time of trace"); so does `trace-r`, for as much processor time as the plain model took. A cell that is done is kept in
the output folder, so that an interrupted run goes on, and larger ones can be put together from several machines; the
models are kept, too, for `modeling-trace compare`.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments, set_seed

from modeling_trace import TraceForConditionalGeneration, TraceProcessor
from modeling_trace.data import FixedLengthSegmenter, TraceDataCollator, load_texts, train_tokenizer
from modeling_trace.models.dynamics_registry_trace import has_segments
from modeling_trace.models.gaussian_trace import gaussian_kl
from modeling_trace.models.likelihood_trace import evaluation_mode
from modeling_trace.presets import SYSTEMS
from modeling_trace.training import TraceTrainer

SHAPE = {"n_layer": 3, "n_embd": 160, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
PLAIN = "plain"
# Cells at another's processor time: which system goes on for as long as which other's cell took
SAME_TIME = {"plain, time of trace": (PLAIN, "trace"), "trace-r, time of plain": ("trace-r", PLAIN)}
# What the table compares: systems of `--system`, and the new architecture taken apart
CONTESTANTS = {
    PLAIN: SYSTEMS["gpt2"].model,
    "trace": SYSTEMS["trace"].model,
    "plain, time of trace": SYSTEMS["gpt2"].model,
    "trace-r": SYSTEMS["trace-r"].model,
    "trace-r, time of plain": SYSTEMS["trace-r"].model,
    "trace-p": SYSTEMS["trace-p"].model,
    "ind": SYSTEMS["ind"].model,
    "ind, LayerNorm": SYSTEMS["ind"].model | {"posterior_norm": "layer"},
    "cgd": SYSTEMS["cgd"].model,
    "cgd, LayerNorm": SYSTEMS["cgd"].model | {"posterior_norm": "layer", "residual_posterior": True},
    "no-recurrence": SYSTEMS["no-recurrence"].model,
    "one-pass independent": {"latent_dynamics": "independent"},
    "trace-r, free bits": SYSTEMS["trace-r"].model | {"posterior_norm": "none", "free_nats": 3.0},
    "trace, floor": {"posterior_norm": "layer", "free_nats": 0.0, "residual_posterior": True},
    "trace, no free bits": {"free_nats": 0.0},
    "trace, free bits of 0.5": {"free_nats": 0.5},
    "trace, free bits of 3": {"free_nats": 3.0},
    "trace, residual": {"residual_posterior": True},
    "trace, [SEP]": {"separator": "token"},
}


def cut_rows(texts, processor: TraceProcessor, text_tokens: int) -> list[dict]:
    """BOS, the first tokens of each text, [SEP] after each whole segment but the last, EOS where the text ends."""
    rows = []
    for ids in processor.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
        if not ids:
            continue
        kept = ids[:text_tokens]
        row = [processor.bos_token_id]
        for start in range(0, len(kept), processor.segment_length or len(kept)):
            if start and processor.separator == "token":
                row.append(processor.sep_token_id)
            row += kept[start : start + (processor.segment_length or len(kept))]
        rows.append({"input_ids": row + [processor.eos_token_id] * (len(ids) <= text_tokens)})
    return rows


def train(model, processor, rows, folder: Path, arguments, steps: int, seed: int, warmup: int) -> float:
    """Train, and say how many seconds of processor time it took."""
    settings = TrainingArguments(
        str(folder),
        max_steps=steps,
        learning_rate=arguments.learning_rate,
        warmup_steps=warmup,
        per_device_train_batch_size=arguments.batch_size,
        seed=seed,
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = TraceTrainer(model, settings, train_dataset=rows, processing_class=processor)
    start = time.process_time()
    trainer.train()
    return time.process_time() - start


@torch.no_grad()
def measure(model, processor, rows, batch_size: int, seed: int = 0) -> dict:
    """Nats per text: under a posterior draw, another text's, a draw from the prior; KL; [SEP] apart."""
    collator = TraceDataCollator(processor)
    # texts of one length together: donors have as many segments
    rows = sorted(rows, key=lambda row: len(row["input_ids"]))
    sums = dict.fromkeys(("text", "separators", "kl", "other", "prior"), 0.0)
    torch.manual_seed(seed)

    def nats(batch, **latents):
        logits = model(batch["input_ids"], batch["attention_mask"], **latents).logits[:, :-1].float()
        targets = batch["labels"][:, 1:]
        cost = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        at_separator = targets == (-1 if processor.sep_token_id is None else processor.sep_token_id)
        return (cost * ~at_separator).sum().item(), (cost * at_separator).sum().item()

    with evaluation_mode(model):
        for start in range(0, len(rows), batch_size):
            batch = {k: v.to(model.device) for k, v in collator(rows[start : start + batch_size]).items()}
            if not model.has_latents:
                sums["text"] += nats(batch)[0]
                continue
            found = model.encode(batch["input_ids"], batch["attention_mask"], sample_latents=True)
            kl = gaussian_kl(found.posterior_mean, found.posterior_logvar, found.prior_mean, found.prior_logvar)
            text, separators = nats(batch, latents=found.latents)
            sums["text"] += text
            sums["separators"] += separators
            sums["kl"] += kl.sum().item()
            sums["other"] += nats(batch, latents=found.latents.roll(1, dims=0))[0]
            sums["prior"] += nats(batch, latents=prior_draws(model, batch))[0]
    found = {name: value / len(rows) for name, value in sums.items()}
    found["elbo"] = found["text"] + found["separators"] + found["kl"]
    return found


def prior_draws(model, batch) -> torch.Tensor:
    """z_1..z_T of texts, drawn from the prior given their own contexts, `(B, S, D)`."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    context, states, _ = model._encoder_states(ids, mask, model.segment_rule.segment_ids(ids, mask))
    previous = states.new_zeros(len(ids), model.config.latent_size)
    steps = []
    for t in range(states.shape[1]):
        first = torch.full((len(ids),), t == 0, device=ids.device)
        mean, logvar = model.dynamics.prior(previous, None if context is None else context[:, t], first)
        previous = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        steps.append(previous)
    return torch.stack(steps, dim=1)


def processor_for(tokenizer, settings: dict, segment_length: int) -> TraceProcessor:
    segments = has_segments(settings.get("latent_dynamics", "recurrent"))
    return TraceProcessor(
        tokenizer,
        FixedLengthSegmenter(segment_length) if segments else None,
        separator=settings.get("separator", "none"),
    )


def run_seed(name: str, texts, seed: int, arguments) -> None:
    folder = Path(arguments.output) / name / f"seed-{seed}"
    train_texts, held_out = texts
    base = folder / "base"
    if not (base / "result.json").exists():
        shutil.rmtree(base, ignore_errors=True)
        tokenizer = train_tokenizer(train_texts, vocab_size=arguments.vocab_size)
        set_seed(seed)
        config = GPT2Config(vocab_size=arguments.vocab_size, n_positions=128, **SHAPE)
        ids = {f"{kind}_token_id": tokenizer.eos_token_id for kind in ("bos", "eos", "pad")}
        for key, value in ids.items():
            setattr(config, key, value)
        processor = processor_for(tokenizer, CONTESTANTS[PLAIN], arguments.segment_length)
        rows = cut_rows(train_texts, processor, arguments.text_tokens)
        model = TraceForConditionalGeneration.from_backbone(
            GPT2LMHeadModel(config), processor.tokenizer, latent_dynamics="none"
        )
        spent = train(model, processor, rows, base, arguments, arguments.base_steps, seed, warmup=50)
        model.save_pretrained(base)
        processor.save_pretrained(base)
        found = measure(model, processor, cut_rows(held_out, processor, arguments.text_tokens), arguments.batch_size)
        write(base, {"seconds": spent, "steps": arguments.base_steps, **found})
    for system in arguments.systems:
        cell = cell_folder(folder, system)
        if (cell / "result.json").exists():
            continue
        settings = {
            **CONTESTANTS[system],
            **(json.loads(arguments.settings) if CONTESTANTS[system] != SYSTEMS["gpt2"].model else {}),
        }
        processor = processor_for(TraceProcessor.from_pretrained(base).tokenizer, settings, arguments.segment_length)
        shutil.rmtree(cell, ignore_errors=True)  # of a run that was stopped between its model and its result
        set_seed(seed)
        model = (
            TraceForConditionalGeneration.from_backbone(
                str(base), processor.tokenizer, segment_length=processor.segment_length, **settings
            )
            if CONTESTANTS[system] != SYSTEMS["gpt2"].model
            else TraceForConditionalGeneration.from_pretrained(base)
        )
        steps = arguments.steps
        if system in SAME_TIME:
            own, other = (read(cell_folder(folder, name)) for name in SAME_TIME[system])
            steps = max(1, round(steps * other["seconds"] / own["seconds"]))
        rows = cut_rows(train_texts, processor, arguments.text_tokens)
        spent = train(model, processor, rows, cell, arguments, steps, seed, warmup=30)
        model.save_pretrained(cell)
        processor.save_pretrained(cell)
        found = measure(model, processor, cut_rows(held_out, processor, arguments.text_tokens), arguments.batch_size)
        write(cell, {"seconds": spent, "steps": steps, **found})
        print(name, seed, system, json.dumps({k: round(v, 2) for k, v in read(cell).items()}), flush=True)


def cell_folder(folder: Path, system: str) -> Path:
    return folder / system.replace(", ", "-").replace(" ", "-")


def write(folder: Path, result: dict) -> None:
    whole = folder / "result.tmp"
    whole.write_text(json.dumps(result, indent=2))
    whole.rename(folder / "result.json")


def read(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def table(name: str, arguments) -> str:
    """Markdown: mean over seeds, and the spread (greatest minus least) of -ELBO and of its difference to plain."""
    lines = [
        "| system | steps | text | [SEP] | KL | -ELBO (spread) | -ELBO - plain (spread) | own / another's / prior z | "
        "gained per nat of KL | time, plain = 1 |",
        "| --- " * 10 + "|",
    ]
    folders = sorted((Path(arguments.output) / name).glob("seed-*"))
    for system in CONTESTANTS:
        own = [cell_folder(folder, system) for folder in folders]
        cells = [(read(f), read(f.parent / PLAIN)) for f in own if (f / "result.json").exists()]
        if not cells:
            continue

        def mean(key, cells=cells):
            return statistics.mean(own[key] for own, _ in cells)

        elbo, gap = [own["elbo"] for own, _ in cells], [own["elbo"] - plain["elbo"] for own, plain in cells]
        latents = mean("kl") > 0
        per_nat = (mean("other") - mean("text")) / mean("kl") if latents else None
        lines.append(
            f"| {system} | {mean('steps'):.0f} | {mean('text'):.1f} | {mean('separators'):.1f} | {mean('kl'):.1f} | "
            f"{mean('elbo'):.1f} ({max(elbo) - min(elbo):.1f}) | {statistics.mean(gap):+.1f} "
            f"({max(gap) - min(gap):.1f}) | "
            + (
                f"{mean('text'):.1f} / {mean('other'):.1f} / {mean('prior'):.1f} | {per_nat:.2f}"
                if latents
                else "- | -"
            )
            + f" | {statistics.mean(own['seconds'] / plain['seconds'] for own, plain in cells):.2f} |"
        )
    return "\n".join(lines)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["reviews"], help="as for modeling-trace train")
    parser.add_argument("--output", default="worth")
    parser.add_argument("--systems", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--settings", default="{}", help="JSON: fields of TraceConfig for all systems with latents")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--text_tokens", type=int, default=40)
    parser.add_argument("--segment_length", type=int, default=10)
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument("--base_steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--num_texts", type=int, default=800, help="held out, to measure on")
    parser.add_argument("--max_texts", type=int, default=None)
    arguments = parser.parse_args(argv)
    for seed in arguments.seeds:
        for dataset in arguments.dataset:
            texts = load_texts(dataset, validation_split=arguments.num_texts, max_texts=arguments.max_texts)
            name = Path(dataset).name.partition(".")[0]
            run_seed(name, [list(part["text"]) for part in texts], seed, arguments)
            print(table(name, arguments), flush=True)


if __name__ == "__main__":
    main()
