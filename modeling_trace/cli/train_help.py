"""`modeling-trace train --help`: the settings that matter, printed without importing what holds all of them."""

from argparse import ArgumentParser

from .parser import HelpFormatter

# Group -> name -> (default, help). Tested against the parser of all settings.
SETTINGS = {
    "model": {
        "backbone": ("gpt2", "Language model to start from: Hub id, folder, GGUF file, or smollm2-135m."),
        "backbone_config": (None, "Start from random weights instead, e.g. '{n_layer: 4, n_embd: 256, n_head: 4}'."),
        "system": (
            None,
            "trace (the default), or one of the paper's: trace-r, trace-p, ind, cgd, no-recurrence, gpt2; gpt2 is the "
            "plain language model.",
        ),
        "latent_size": (32, "Dimensions of each segment's latent."),
        "free_nats": (1.0, "KL of a segment, in nats, that costs nothing."),
        "lora_r": (None, "Train LoRA adapters of this rank, e.g. 16, on a frozen backbone."),
    },
    "texts": {
        "preset": (None, "Data and training settings of the paper: yelp, yahoo, or writing-prompts."),
        "dataset": ("reviews", "reviews (built in), a Hub id, or a file, folder or glob: jsonl, csv, parquet or txt."),
        "text_column": (None, "Column with the texts. Found by itself where there is only one."),
        "validation_split": ("0.1", "Fraction or number of texts held out for validation, a split's name, or none."),
        "max_texts": (None, "Use at most this many texts of each split."),
        "max_length": (None, "Longest text in tokens. Default: the backbone's context, at most 256."),
        "segmenter": ("fixed", "What a segment is: fixed (segment_length tokens), sentence, or regex."),
        "segment_length": (10, "Tokens in a segment, for --segmenter fixed."),
    },
    "training": {
        "output_dir": ("trace-model", "Folder for the model, its checkpoints and its settings."),
        "num_train_epochs": (3.0, "Passes over the texts."),
        "max_steps": (-1, "Training steps, in place of epochs."),
        "per_device_train_batch_size": (32, "Texts in a batch, on each device."),
        "learning_rate": (5e-05, "Peak learning rate."),
        "resume_from_checkpoint": (None, "true, or a checkpoint's folder: continue an interrupted run."),
    },
}


def run(argv: list[str]) -> int:
    """Print the short help. Returns the exit code."""
    parser = ArgumentParser(
        prog="modeling-trace train",
        usage="modeling-trace train [config.yaml] [--name value ...]",
        description="Train TRACE from a language model and texts. Any flag can also stand in a YAML file, as "
        "`name: value`; flags override the file.",
        epilog="These are the settings that matter most. `modeling-trace train --help all` lists every field of "
        "TraceConfig and TrainingArguments.",
        formatter_class=HelpFormatter,
        add_help=False,
    )
    for title, settings in SETTINGS.items():
        group = parser.add_argument_group(title)
        for name, (default, text) in settings.items():
            group.add_argument(f"--{name}", default=default, help=text)
    parser.print_help()
    return 0


__all__ = ["SETTINGS", "run"]
