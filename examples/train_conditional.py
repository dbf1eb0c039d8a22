"""
Trains TRACE to write on prompts, with a latent per sentence, and writes a few texts on prompts that it has not seen.

    python examples/train_conditional.py --smoke --output_dir /tmp/smoke
    python examples/train_conditional.py --dataset stories.jsonl --prompt_column title --output_dir stories

The built-in reviews have no prompts: here their prompt is what they review, and which aspects, in their order.
"""

from dataclasses import dataclass, field

from smoke import make_small
from train import parse
from transformers import set_seed

from modeling_trace import TraceForConditionalGeneration, TraceProcessor, TraceTrainer, TraceTrainingArguments
from modeling_trace.data import SentenceSegmenter, generate_texts, load_texts, review_dataset


@dataclass
class ScriptArguments:
    """What to train, and on which prompts and texts."""

    model_name_or_path: str = field(default="gpt2", metadata={"help": "Language model to start from."})
    dataset: str = field(default="reviews", metadata={"help": "reviews (built in), a Hub id, or files."})
    text_column: str | None = field(default=None, metadata={"help": "Found by itself where it is called text, ..."})
    prompt_column: str | None = field(default=None, metadata={"help": "Found by itself where called prompt, ..."})
    validation_split: float = field(default=0.1, metadata={"help": "Fraction of the texts to hold out."})
    max_texts: int | None = field(default=None, metadata={"help": "Use at most this many texts."})
    max_new_tokens: int = field(default=60, metadata={"help": "Of the texts that are written in the end."})
    smoke: bool = field(default=False, metadata={"help": "A small random GPT-2, a few texts, a few steps."})


def reviews_with_prompts(num_reviews: int):
    """The built-in reviews; a prompt reads `bakery: product, price, price`."""
    reviews = review_dataset(num_reviews)
    return reviews.map(lambda row: {"prompt": f"{row['business']}: {', '.join(row['aspects'])}"})


def main(argv: list[str] | None = None) -> list[dict]:
    script, training = parse((ScriptArguments, TraceTrainingArguments), argv)
    if script.smoke:
        make_small(script, training)
    train, validation = load_texts(
        reviews_with_prompts(script.max_texts or 20_000) if script.dataset == "reviews" else script.dataset,
        text_column=script.text_column,
        prompt_column=script.prompt_column,
        conditional=True,
        validation_split=script.validation_split,
        max_texts=script.max_texts,
    )
    processor = TraceProcessor.from_backbone(script.model_name_or_path, SentenceSegmenter(), conditional=True)
    trainer = TraceTrainer(
        script.model_name_or_path,
        training,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    trainer.log_metrics("eval", trainer.evaluate())
    trainer.end()
    if not trainer.is_world_process_zero():
        return []

    # from the folder: what is left in memory may be a shard of the model
    model = TraceForConditionalGeneration.from_pretrained(training.output_dir).to(training.device).eval()
    set_seed(training.seed)
    prompts = [prompt for prompt in validation["prompt"][:2] for _ in range(3)]
    rows = generate_texts(model, processor, prompts, max_new_tokens=script.max_new_tokens)  # greedy
    for row in rows:
        print(f"{row['prompt']} | {row['text']}")
    return rows


if __name__ == "__main__":
    main()
