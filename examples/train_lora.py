"""
Trains LoRA adapters and the latent networks on a frozen language model, and merges them into one model.

    python examples/train_lora.py --smoke --output_dir /tmp/smoke
    python examples/train_lora.py --model_name_or_path Qwen/Qwen3-0.6B --dataset texts.jsonl --output_dir adapter

Needs the `peft` extra: pip install 'modeling-trace[peft]'. The output folder holds the adapter, its folder `merged` a
model that needs neither PEFT nor the language model.
"""

import os
from dataclasses import dataclass, field

from peft import get_peft_model
from smoke import make_small
from train import parse
from transformers import set_seed

from modeling_trace import TraceForConditionalGeneration, TraceProcessor, TraceTrainer, TraceTrainingArguments
from modeling_trace.data import FixedLengthSegmenter, load_texts
from modeling_trace.training import load_adapter_model, lora_config


@dataclass
class ScriptArguments:
    """What to adapt, and to which texts."""

    model_name_or_path: str = field(default="gpt2", metadata={"help": "Language model, which stays as it is."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: float | None = field(default=None, metadata={"help": "Their scale, over the rank. Default: 2 r."})
    segment_length: int = field(default=10, metadata={"help": "Tokens of a segment."})
    dataset: str = field(default="reviews", metadata={"help": "reviews (built in), a Hub id, or files of texts."})
    text_column: str | None = field(default=None, metadata={"help": "Found by itself where it is called text, ..."})
    validation_split: float = field(default=0.1, metadata={"help": "Fraction of the texts to hold out."})
    max_texts: int | None = field(default=None, metadata={"help": "Use at most this many texts."})
    smoke: bool = field(default=False, metadata={"help": "A small random GPT-2, a few texts, a few steps."})


def main(argv: list[str] | None = None) -> dict[str, float]:
    script, training = parse((ScriptArguments, TraceTrainingArguments), argv)
    if script.smoke:
        make_small(script, training)
    train, validation = load_texts(
        script.dataset,
        text_column=script.text_column,
        validation_split=script.validation_split,
        max_texts=script.max_texts,
    )
    name, settings = script.model_name_or_path, training.model_init_kwargs or {}
    training.model_init_kwargs = None  # they are for a model that the Trainer loads
    processor = TraceProcessor.from_backbone(name, FixedLengthSegmenter(script.segment_length))
    set_seed(training.seed)  # of the latent networks, which start at random
    model = TraceForConditionalGeneration.from_backbone(name, processor, **settings)
    model = get_peft_model(model, lora_config(model, script.lora_r, script.lora_alpha))
    trainer = TraceTrainer(model, training, train_dataset=train, eval_dataset=validation, processing_class=processor)
    if trainer.is_world_process_zero():
        model.print_trainable_parameters()
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.end()

    if trainer.is_world_process_zero():
        merged, folder = load_adapter_model(training.output_dir).merge_and_unload(), training.output_dir
        merged.save_pretrained(os.path.join(folder, "merged"))
        processor.save_pretrained(os.path.join(folder, "merged"))
        print(*processor.batch_decode(merged.generate(num_return_sequences=3, max_new_tokens=40)), sep="\n")
    return metrics


if __name__ == "__main__":
    main()
