"""
Turns a language model into TRACE on texts of your own, by `TraceTrainer`.

    python examples/train.py --smoke --output_dir /tmp/smoke                        # seconds, offline
    python examples/train.py --config examples/train.yaml --learning_rate 1e-4      # flags win over the file
    accelerate launch --config_file examples/accelerate/ddp.yaml examples/train.py --config examples/train.yaml
"""

import argparse
import sys
from dataclasses import dataclass, field

from smoke import make_small
from transformers import HfArgumentParser

from modeling_trace import TraceProcessor, TraceTrainer, TraceTrainingArguments
from modeling_trace.cli.parser import read_yaml
from modeling_trace.data import SentenceSegmenter, load_texts
from modeling_trace.presets import named_settings


@dataclass
class ScriptArguments:
    """What to train, and on which texts."""

    model_name_or_path: str = field(default="gpt2", metadata={"help": "Language model, or TRACE to train further."})
    system: str = field(default="trace", metadata={"help": "trace, or one of the paper's: trace-r, trace-p, ind ..."})
    segmenter: str = field(default="fixed", metadata={"help": "Where segments end.", "choices": ["fixed", "sentence"]})
    dataset: str = field(default="reviews", metadata={"help": "reviews (built in), a Hub id, or files of texts."})
    text_column: str | None = field(default=None, metadata={"help": "Found by itself where it is called text, ..."})
    validation_split: float = field(default=0.1, metadata={"help": "Fraction of the texts to hold out."})
    max_texts: int | None = field(default=None, metadata={"help": "Use at most this many texts."})
    smoke: bool = field(default=False, metadata={"help": "A small random GPT-2, a few texts, a few steps."})


def parse(dataclasses, argv: list[str] | None = None):
    """The arguments of several dataclasses: flags over a YAML file (`--config`) over defaults."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--config", help="YAML file with any of the arguments")
    known, flags = own.parse_known_args(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(dataclasses, parents=[own], description=__doc__)
    if known.config is not None:
        values = read_yaml(known.config)
        if unknown := sorted(values.keys() - {action.dest for action in parser._actions}):
            raise ValueError(f"`config` '{known.config}' has no argument `{unknown[0]}` to set. See --help.")
        parser.set_defaults(**values)
    return parser.parse_args_into_dataclasses(flags)[: len(dataclasses)]  # without what only the file's flag needs


def main(argv: list[str] | None = None) -> dict[str, float]:
    script, training = parse((ScriptArguments, TraceTrainingArguments), argv)
    if script.smoke:
        make_small(script, training)
    settings = {**named_settings(system=script.system), **(training.model_init_kwargs or {})}
    training.model_init_kwargs = settings
    processor = None  # of the model's own tokenizer, with segments of `segment_length` tokens
    if script.segmenter == "sentence":
        separator = settings.get("separator", "none")
        processor = TraceProcessor.from_backbone(script.model_name_or_path, SentenceSegmenter(), separator=separator)
    train, validation = load_texts(
        script.dataset,
        text_column=script.text_column,
        validation_split=script.validation_split,
        max_texts=script.max_texts,
    )
    trainer = TraceTrainer(
        script.model_name_or_path,
        training,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    if training.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset)
    trainer.end()
    return metrics


if __name__ == "__main__":
    main()
