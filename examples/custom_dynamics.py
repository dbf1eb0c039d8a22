"""
Latent dynamics of your own, trained beside the built-in ones: a random walk that forgets, z_t ~ N(rate * z_{t-1}, I),
with one learned rate for each latent dimension.

    python examples/custom_dynamics.py --smoke --output_dir /tmp/smoke
    python examples/custom_dynamics.py --model_name_or_path gpt2 --dataset texts.jsonl --output_dir walk

A saved model names the module of its dynamics: import this one before loading it (docs/how-to/custom-dynamics.md).
"""

import os
from dataclasses import dataclass, field, replace

import torch
from smoke import make_small
from torch import nn
from train import parse

from modeling_trace import LatentDynamics, TraceTrainer, TraceTrainingArguments, register_latent_dynamics
from modeling_trace.data import load_texts


@register_latent_dynamics("slow-walk")
class SlowWalk(LatentDynamics):
    """z_t ~ N(rate * z_{t-1}, I)."""

    reads_context = False  # the prior reads z_{t-1} only

    def __init__(self, config):
        super().__init__(config)
        self.rate = nn.Parameter(torch.full((config.latent_size,), 0.9))

    def prior(self, previous, context, first):
        return self.rate.float() * previous, torch.zeros_like(previous)  # mean and log variance


@dataclass
class ScriptArguments:
    """What to train, and on which texts."""

    model_name_or_path: str = field(default="gpt2", metadata={"help": "Language model to start from."})
    dynamics: list[str] = field(
        default_factory=lambda: ["recurrent", "slow-walk"],
        metadata={"help": "Values of `latent_dynamics`, trained one after the other."},
    )
    dataset: str = field(default="reviews", metadata={"help": "reviews (built in), a Hub id, or files of texts."})
    text_column: str | None = field(default=None, metadata={"help": "Found by itself where it is called text, ..."})
    validation_split: float = field(default=0.1, metadata={"help": "Fraction of the texts to hold out."})
    max_texts: int | None = field(default=None, metadata={"help": "Use at most this many texts."})
    smoke: bool = field(default=False, metadata={"help": "A small random GPT-2, a few texts, a few steps."})


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    script, training = parse((ScriptArguments, TraceTrainingArguments), argv)
    if script.smoke:
        make_small(script, training)
    train, validation = load_texts(
        script.dataset,
        text_column=script.text_column,
        validation_split=script.validation_split,
        max_texts=script.max_texts,
    )
    results = {}
    for name in script.dynamics:
        settings = {**(training.model_init_kwargs or {}), "latent_dynamics": name}
        args = replace(training, output_dir=os.path.join(training.output_dir, name), model_init_kwargs=settings)
        trainer = TraceTrainer(script.model_name_or_path, args, train_dataset=train, eval_dataset=validation)
        trainer.train()
        trainer.save_model()
        results[name] = trainer.evaluate()
        if trainer.is_world_process_zero() and name == "slow-walk":
            rates = trainer.accelerator.unwrap_model(trainer.model).dynamics.rate
            print(f"{name}: rates from {rates.min():.3f} to {rates.max():.3f}")
        trainer.end()
    if trainer.is_world_process_zero():
        for name, metrics in results.items():  # nats per text
            print(f"{name:12} text {metrics['eval_reconstruction']:8.2f}   KL {metrics['eval_kl']:6.2f}")
    return results


if __name__ == "__main__":
    # not as `__main__`: who loads the model imports its module by the name that the model says
    from custom_dynamics import main

    main()
