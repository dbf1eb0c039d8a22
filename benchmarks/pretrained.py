"""
Does a pretrained backbone read its latents, and at what price? SmolLM2-135M with a frozen trunk, as a plain model and
as `trace`, the same layers trained on the same text tokens for the same steps: `python benchmarks/pretrained.py
--dataset reviews --output pretrained`. About half an hour of one CPU core a system; a cell that is done is kept.
"""

import argparse
import json
import time
from pathlib import Path

from transformers import TrainerCallback, set_seed
from worth import cut_rows, measure, processor_for, read, write

from modeling_trace import TraceForConditionalGeneration
from modeling_trace.data import load_texts
from modeling_trace.models.backbones_trace import layer_stack, load_backbone
from modeling_trace.training import TraceTrainer, TraceTrainingArguments

# What is trained: fields of TraceConfig, or the backbone alone
CONTESTANTS = {
    "plain": None,
    "trace": {},
    "trace, scale 0.2": {"latent_init_scale": 0.2},
    "trace, scale 0.5": {"latent_init_scale": 0.5},
    "trace, free bits of 3": {"free_nats": 3.0},
}


class Curve(TrainerCallback):
    """Measures while training goes on, outside the clock."""

    def __init__(self, processor, rows, every, batch_size):
        self.processor, self.rows, self.every, self.batch_size = processor, rows, every, batch_size
        self.points, self.measuring = [], 0.0

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every == 0 and state.global_step < state.max_steps:
            start = time.process_time()
            point = measure(model, self.processor, self.rows, self.batch_size)
            self.points.append({"step": state.global_step, **point})
            print(json.dumps({key: round(value, 2) for key, value in self.points[-1].items()}), flush=True)
            self.measuring += time.process_time() - start


def run(system: str, texts, arguments) -> dict:
    settings = CONTESTANTS[system]
    set_seed(arguments.seed)
    backbone, tokenizer = load_backbone(arguments.backbone, None, {})
    processor = processor_for(tokenizer, {"latent_dynamics": "none"} if settings is None else settings, 10)
    model = TraceForConditionalGeneration.from_backbone(
        backbone, processor, **({"latent_dynamics": "none"} if settings is None else settings)
    )
    if settings is None:  # the same layers as with latents
        stack = layer_stack(model.backbone)[1]
        for part in (model.get_input_embeddings(), *stack[: len(stack) // 2]):
            part.requires_grad_(False)
    else:
        model.freeze_trunk()
    train, held_out = (cut_rows(part, processor, arguments.text_tokens) for part in texts)
    before = measure(model, processor, held_out, arguments.batch_size)
    curve = Curve(processor, held_out, arguments.measure_steps, arguments.batch_size)
    trainer = TraceTrainer(
        model,
        TraceTrainingArguments(
            str(Path(arguments.output) / "trainer"),
            max_steps=arguments.steps,
            learning_rate=arguments.learning_rate,
            warmup_steps=20,
            per_device_train_batch_size=arguments.batch_size,
            seed=arguments.seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=50,
            latent_lr_factor=None if settings is None else arguments.latent_lr_factor,
        ),
        train_dataset=train,
        processing_class=processor,
        callbacks=[curve],
    )
    start = time.process_time()
    trainer.train()
    seconds = time.process_time() - start - curve.measuring
    after = measure(model, processor, held_out, arguments.batch_size)
    return {"seconds": seconds, "before": before, "curve": curve.points, **after}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset", default="reviews", help="as for modeling-trace train")
    parser.add_argument("--output", default="pretrained")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--systems", nargs="+", default=["plain", "trace"], choices=list(CONTESTANTS))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--measure_steps", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--latent_lr_factor", type=float, default=25.0)
    parser.add_argument("--text_tokens", type=int, default=40)
    parser.add_argument("--num_texts", type=int, default=96, help="held out, to measure on")
    parser.add_argument("--max_texts", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    parts = load_texts(arguments.dataset, validation_split=arguments.num_texts, max_texts=arguments.max_texts)
    texts = [list(part["text"]) for part in parts]
    print("| system | before training | text | KL | -ELBO | under another's z | gain per nat of KL | seconds |")
    print("| --- " * 8 + "|")
    for system in arguments.systems:
        folder = Path(arguments.output) / system.replace(", ", "-").replace(" ", "-")
        if not (folder / "result.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write(folder, run(system, texts, arguments))
        found = read(folder)
        gain = f"{(found['other'] - found['text']) / found['kl']:.2f}" if found["kl"] else "-"
        other = f"{found['other']:.1f}" if found["kl"] else "-"
        print(
            f"| {system} | {found['before']['text']:.1f} | {found['text']:.1f} | {found['kl']:.1f} | "
            f"{found['elbo']:.1f} | {other} | {gain} | {found['seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
