"""`modeling-trace train [config.yaml] [--name value ...]`: from texts and a language model to a TRACE model."""

import contextlib
import dataclasses
import json
import math
import os
import re
import shlex
import signal
import sys
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.trainer_utils import get_last_checkpoint

from ..configuration_trace import TraceConfig
from ..data import (
    FixedLengthSegmenter,
    RegexSegmenter,
    SentenceSegmenter,
    TraceProcessor,
    load_texts,
    prepare_dataset,
)
from ..modeling_trace import TraceForConditionalGeneration, resolve_backbone
from ..training import TraceTrainer, check_output_dir, get_schedule
from . import CommandParser, argument_values, nearest, one_line, read_yaml

CONFIG_FILE = "train_config.yaml"
METRICS_FILE = "metrics.json"
END_OF_TEXT = "<|endoftext|>"
MAX_LENGTH = 256  # tokens of a text, where the backbone's context has room for them

# TrainingArguments that this command starts from, in place of their own defaults; always written to train_config.yaml.
TRAINING_DEFAULTS = {
    "output_dir": "trace-model",
    "learning_rate": 5e-5,
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 32,
    "logging_steps": 50,
    "save_total_limit": 1,
    "seed": 42,
    "report_to": "none",
    "dataloader_pin_memory": torch.cuda.is_available(),
}
# TrainingArguments that belong to one run or one machine, or are secret: not written to train_config.yaml.
NOT_SAVED = {"hub_token", "local_rank", "resume_from_checkpoint", "dataloader_pin_memory"}
# Names that users of other scripts may try.
INSTEAD = {
    "model_name_or_path": "backbone",
    "model": "backbone",
    "dataset_name": "dataset",
    "train_file": "dataset",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "block_size": "max_length",
    "max_seq_length": "max_length",
}
# Which schedule takes which flag, and as what.
SCHEDULE_ARGUMENTS = {
    "linear": {"kl_delay": "delay", "kl_ramp": "ramp", "kl_max_weight": "max_weight"},
    "cyclical": {
        "kl_cycles": "num_cycles",
        "kl_zero_fraction": "zero_fraction",
        "kl_ramp": "ramp_fraction",
        "kl_max_weight": "max_weight",
    },
    "constant": {"kl_max_weight": "weight"},
}


def _field(default, text: str):
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass
class DataArguments:
    """What to train on, and from which language model."""

    _argument_group_name = "backbone, data and KL schedule"

    backbone: str = _field(
        "gpt2",
        "Language model to start from: Hub id, folder, GGUF file or smollm2-135m. Not used with backbone_config.",
    )
    backbone_config: dict | None = _field(
        None,
        "Start from random weights with this configuration, e.g. '{model_type: gpt2, n_layer: 4}', and a byte-level "
        "BPE tokenizer trained on the training texts.",
    )
    vocab_size: int = _field(8000, "Vocabulary of that tokenizer, [SEP] and end of text counted.")
    dataset: str = _field(
        "reviews",
        "Texts: reviews (built in), a Hub id, or a file, folder or glob of jsonl, csv, parquet or txt (.gz).",
    )
    text_column: str | None = _field(None, "Column with the texts. Found by itself where there is only one.")
    split: str = _field("train", "Split to train on.")
    validation_split: str | None = _field(
        "0.1", "Fraction or number of training texts to keep back (the same ones whatever the seed), a split, or none."
    )
    max_texts: int | None = _field(None, "Use at most so many texts of each split.")
    max_length: int | None = _field(
        None, "Tokens of a text, [SEP] counted; longer ones lose whole segments. Default: the context, at most 256."
    )
    num_proc: int | None = _field(None, "Processes that tokenize.")
    segmenter: str = _field("fixed", "Where segments end: fixed (see segment_length), sentence or regex.")
    segment_pattern: str | None = _field(None, r"What separates segments, for segmenter regex, e.g. '\n+'.")
    kl_schedule: str = _field("linear", "KL weight over training: linear, cyclical or constant.")
    kl_delay: float | None = _field(None, "linear: fraction of training with weight 0.")
    kl_ramp: float | None = _field(
        None, "linear: fraction of training over which the weight rises; cyclical: fraction of a cycle."
    )
    kl_cycles: int | None = _field(None, "cyclical: number of cycles.")
    kl_zero_fraction: float | None = _field(None, "cyclical: fraction of each cycle with weight 0.")
    kl_max_weight: float | None = _field(None, "Greatest weight; 1 is the ELBO.")


def _model_arguments() -> type:
    """A dataclass of the TraceConfig fields that a user sets; texts and backbone decide the others."""
    decided = {field.name for field in dataclasses.fields(PreTrainedConfig)} | {
        *("backbone_config", "tie_word_embeddings"),
        *("sep_token_id", "bos_token_id", "eos_token_id", "pad_token_id"),
    }
    # "        name (`type`): \n            text, text"
    documented = re.findall(r"^ {8}(\w+) \(.*\):\n((?: {12}.*\n)+)", TraceConfig.__doc__ or "", flags=re.MULTILINE)
    helps = {name: one_line(text).replace("%", "%%") for name, text in documented}
    fields = [
        (field.name, field.type, _field(field.default, helps.get(field.name, "A field of TraceConfig.")))
        for field in dataclasses.fields(TraceConfig)
        if field.name not in decided
    ]
    return dataclasses.make_dataclass(
        "ModelArguments", fields, namespace={"_argument_group_name": "model (fields of TraceConfig)"}
    )


ModelArguments = _model_arguments()


@dataclasses.dataclass
class TrainerFlags(TrainingArguments):
    """`TrainingArguments` under a heading of their own in --help; only their fields are used."""

    _argument_group_name = "training (transformers.TrainingArguments)"


def run(argv: list[str] | None = None) -> int:
    """Train, evaluate and save. Returns the exit code."""
    namespace = _parse(sys.argv[2:] if argv is None else argv)
    _check_output_is_free(namespace.output_dir, namespace.resume_from_checkpoint)
    data, model_settings, args = _to_dataclasses(namespace)
    schedule = _schedule(data)
    segmenter = _segmenter(data, model_settings)
    checkpoint = _checkpoint(args)
    _check_training(args, data)
    say = print if args.process_index == 0 else _silent

    # Each step can fail, so the slow ones come last: configuration, texts, tokens, weights.
    backbone_config = _backbone_config(data)
    tokenizer = _load_tokenizer(data, checkpoint)
    data.max_length = _max_length(data.max_length, backbone_config, model_settings)
    with args.main_process_first(local=False, desc="texts"):
        train_texts, eval_texts = load_texts(
            data.dataset,
            text_column=data.text_column,
            split=data.split,
            validation_split=data.validation_split,
            max_texts=data.max_texts,
        )
    if tokenizer is None:
        tokenizer = _train_tokenizer(train_texts, data.vocab_size)
    processor = TraceProcessor(tokenizer, segmenter)
    if data.backbone_config is not None:
        backbone_config.vocab_size = len(processor.tokenizer)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(backbone_config, name, getattr(processor, name))
    _check_model(backbone_config, processor, model_settings)
    with args.main_process_first(local=False, desc="tokens"):
        prepare = {"max_length": data.max_length, "num_proc": data.num_proc}
        train_dataset = prepare_dataset(train_texts, processor, **prepare)
        eval_dataset = None if eval_texts is None else prepare_dataset(eval_texts, processor, **prepare)

    set_seed(args.seed)
    source = data.backbone
    if data.backbone_config is not None:
        source = AutoModelForCausalLM.from_config(backbone_config)
    model = TraceForConditionalGeneration.from_backbone(source, tokenizer=processor.tokenizer, **model_settings)
    stopper = _StopAtStepEnd()
    trainer = TraceTrainer(
        model,
        args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        kl_schedule=schedule,
        callbacks=[stopper],
    )
    check_output_dir(args.output_dir, model.config, checkpoint)
    say(_announce(model, train_dataset, eval_dataset, args.output_dir))
    config_path = os.path.join(args.output_dir, CONFIG_FILE)
    if trainer.is_world_process_zero():
        _write(config_path, yaml.safe_dump(_resolved(namespace, data, model_settings, schedule), sort_keys=False))

    try:
        with stopper.catching(single_process=args.world_size == 1):
            train_metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
        if stopper.stopped:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_resume(args.output_dir, config_path)) from None
    trainer.save_model()
    trainer.save_state()
    metrics = {**train_metrics, "train_texts": len(train_dataset)}
    if eval_dataset is not None:
        metrics |= {**trainer.evaluate(), "eval_texts": len(eval_dataset)}
    if trainer.is_world_process_zero():
        _write(os.path.join(args.output_dir, METRICS_FILE), json.dumps(metrics, indent=2) + "\n")
    if args.push_to_hub:
        trainer.push_to_hub()
    say(_summary(metrics, model, args.output_dir))
    return 0


# ---- Arguments ----


def _parser() -> CommandParser:
    parser = CommandParser(
        [DataArguments, ModelArguments, TrainerFlags],
        instead=INSTEAD,
        prog="modeling-trace train",
        usage="modeling-trace train [config.yaml] [--name value ...]",
        description="Turn a language model into TRACE (or fine-tune it as it is: --latent_dynamics none). Every flag "
        "can stand in the YAML file, as `name: value`; flags win over the file.",
    )
    parser.set_defaults(**TRAINING_DEFAULTS)
    parser.add_argument("config", nargs="?", help="YAML file with any of the arguments below")
    return parser


def _parse(argv: list[str]) -> Namespace:
    """Flags over the YAML file over the defaults, all still as the user wrote them."""
    parser = _parser()
    config = parser.parse(argv).config
    return parser.parse(argv, {} if config is None else read_yaml(config), source=config)


def _to_dataclasses(namespace: Namespace) -> tuple[DataArguments, dict[str, Any], TrainingArguments]:
    values = vars(namespace)

    def build(dataclass_type):
        return dataclass_type(
            **{field.name: values[field.name] for field in dataclasses.fields(dataclass_type) if field.init}
        )

    data = build(DataArguments)
    data.validation_split = _validation_split(data.validation_split)
    return data, argument_values(build(ModelArguments)), build(TrainingArguments)


def _validation_split(text: str | None) -> int | float | str | None:
    """A number of texts, a fraction, the name of a split, or None."""
    if text is None or text.lower() in ("no", "none", "null"):
        return None
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def _resolved(namespace: Namespace, data: DataArguments, model_settings: dict[str, Any], schedule) -> dict[str, Any]:
    """What train_config.yaml holds: every argument that is not a default of Transformers, ready to run again."""
    names = SCHEDULE_ARGUMENTS[data.kl_schedule]
    texts = argument_values(data) | {argument: getattr(schedule, name) for argument, name in names.items()}
    texts.pop("backbone" if data.backbone_config is not None else "vocab_size")
    texts = {name: value for name, value in texts.items() if value is not None or name == "validation_split"}
    defaults, training = _parser().parse([]), {}
    for field in dataclasses.fields(TrainingArguments):
        value = getattr(namespace, field.name, None)
        if field.name in NOT_SAVED or (value == getattr(defaults, field.name) and field.name not in TRAINING_DEFAULTS):
            continue
        training[field.name] = getattr(value, "value", value)  # an Enum by its value
    return {**texts, **model_settings, **training}


def _schedule(data: DataArguments):
    given = {
        name: value for name, value in argument_values(data).items() if name.startswith("kl_") and value is not None
    }
    name = given.pop("kl_schedule")
    takes = SCHEDULE_ARGUMENTS.get(name)
    if takes is None:
        raise ValueError(f"`kl_schedule` must be linear, cyclical or constant, got '{name}'.")
    for argument in given:
        if argument not in takes:
            others = [other for other, names in SCHEDULE_ARGUMENTS.items() if argument in names]
            raise ValueError(f"`{argument}` is for kl_schedule {' or '.join(others)}, got it with '{name}'.")
    return get_schedule(name, **{takes[argument]: value for argument, value in given.items()})


def _segmenter(data: DataArguments, model_settings: dict[str, Any]):
    """The segmenter, and in the settings the `segment_length` that goes with it."""
    kinds = ("fixed", "sentence", "regex")
    if data.segmenter not in kinds:
        hint = nearest(data.segmenter, kinds)
        raise ValueError(f"`segmenter` must be {', '.join(kinds)}, got '{data.segmenter}'.{hint}")
    if data.segmenter != "regex" and data.segment_pattern is not None:
        raise ValueError(f"`segment_pattern` is for segmenter regex, got it with '{data.segmenter}'.")
    if data.segmenter == "fixed":
        length = model_settings["segment_length"]
        if length is None or length < 1:
            raise ValueError(
                f"`segment_length` must be >= 1 for segmenter fixed, got {length}. Use 10 as in the paper."
            )
        segmenter = FixedLengthSegmenter(length)
    else:
        if model_settings["segment_length"] not in (None, TraceConfig.segment_length):
            raise ValueError(
                f"`segment_length` is for segmenter fixed, got {model_settings['segment_length']} with "
                f"'{data.segmenter}'. Leave it out."
            )
        model_settings["segment_length"] = None
        if data.segmenter == "sentence":
            segmenter = SentenceSegmenter()
        elif data.segment_pattern is None:
            raise ValueError(r"`segment_pattern` is needed for segmenter regex, e.g. '\n+' for lines.")
        else:
            segmenter = RegexSegmenter(data.segment_pattern)
    return None if model_settings["latent_dynamics"] == "none" else segmenter


# ---- Checks ----


def _check_output_is_free(output_dir: str, resume: str | None) -> None:
    """The same as [`check_output_dir`], less exact, but before anything else and in the words of this command."""
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output_dir` must be a folder, got the file '{folder}'.")
    if _wants_resume(resume):
        return
    checkpoint = get_last_checkpoint(output_dir) if folder.is_dir() else None
    if checkpoint or any((folder / name).exists() for name in ("config.json", "model.safetensors")):
        resume = " continue it with --resume_from_checkpoint true," if checkpoint else ""
        raise ValueError(
            f"`output_dir` '{folder}' already holds a model, which training would overwrite. Choose another folder,"
            f"{resume} or delete it."
        )


def _wants_resume(value: str | None) -> bool:
    return value is not None and value.lower() not in ("", "no", "none", "false")


def _checkpoint(args: TrainingArguments) -> str | None:
    """The folder to resume from: "true" or "yes" is the last checkpoint of the output folder."""
    value = args.resume_from_checkpoint
    if not _wants_resume(value):
        return None
    checkpoint = value
    if value.lower() in ("yes", "true"):
        checkpoint = get_last_checkpoint(args.output_dir) if os.path.isdir(args.output_dir) else None
        if checkpoint is None:
            raise ValueError(
                f"`resume_from_checkpoint` found no checkpoint in `output_dir` '{args.output_dir}'. Leave it out to "
                "train from the start."
            )
    if not os.path.isfile(os.path.join(checkpoint, "trainer_state.json")):
        raise ValueError(f"`resume_from_checkpoint` must be true or a checkpoint's folder, got '{checkpoint}'.")
    return checkpoint


def _check_training(args: TrainingArguments, data: DataArguments) -> None:
    """What the Trainer would refuse, but only after the texts and the weights have been loaded."""
    if not data.validation_split:
        if args.eval_strategy != "no" or args.load_best_model_at_end:
            raise ValueError(f"`eval_strategy` '{args.eval_strategy.value}' needs a `validation_split`, got none.")
    if args.label_smoothing_factor:
        raise ValueError(f"`label_smoothing_factor` must be 0 for the ELBO, got {args.label_smoothing_factor}.")
    if args.n_gpu > 1:
        raise ValueError(
            f"one process can train on one GPU, got {args.n_gpu}. Use all of them by `accelerate launch -m "
            "modeling_trace.cli.main train ...`, or one by CUDA_VISIBLE_DEVICES=0."
        )


def _check_model(backbone_config: PreTrainedConfig, processor: TraceProcessor, settings: dict[str, Any]) -> None:
    """Build the model without weights: finds every setting that cannot work, before the texts are tokenized."""
    backbone_config = type(backbone_config).from_dict(backbone_config.to_dict())
    backbone_config.vocab_size = max(backbone_config.vocab_size, len(processor.tokenizer))
    names = ("sep_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    tokens = {name: getattr(processor, name) for name in names}
    with torch.device("meta"):
        TraceForConditionalGeneration(TraceConfig(backbone_config=backbone_config, **tokens, **settings))


# ---- Backbone and tokenizer ----


def _backbone_config(data: DataArguments) -> PreTrainedConfig:
    """The configuration of the backbone: of random weights as given, else read where the backbone is."""
    if data.backbone_config is not None:
        return _scratch_config(data)
    path, gguf = resolve_backbone(data.backbone)
    try:
        config = AutoConfig.from_pretrained(path, **gguf)
    except (OSError, ValueError) as error:
        if os.path.isdir(path):
            raise ValueError(f"`backbone` '{data.backbone}' is no model's folder: {one_line(error)}") from None
        raise ValueError(
            f"`backbone` '{data.backbone}' is neither a folder here nor on the Hub: {one_line(error)} Without any: "
            "--backbone_config '{n_layer: 4, n_embd: 256, n_head: 4}' starts from random weights."
        ) from None
    if getattr(config, "latent_dynamics", "none") != "none":
        raise ValueError(
            f"`backbone` '{data.backbone}' is a TRACE model already. Use a language model, or one that was trained "
            "with --latent_dynamics none."
        )
    return config.get_text_config()


def _scratch_config(data: DataArguments) -> PreTrainedConfig:
    settings = dict(data.backbone_config)
    model_type = settings.pop("model_type", "gpt2")
    if model_type not in CONFIG_MAPPING:
        hint = nearest(str(model_type), list(CONFIG_MAPPING.keys()))
        raise ValueError(f"`model_type` in `backbone_config` is unknown, got '{model_type}'.{hint}")
    config_class = CONFIG_MAPPING[model_type]
    if "vocab_size" in settings:
        raise ValueError(f"`vocab_size` is an argument of its own. Use --vocab_size {settings['vocab_size']}.")
    # any name would be taken: a configuration keeps what it does not know
    known = {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    known |= {"rope_theta", "rope_scaling", "attn_implementation"}
    for name in settings:
        if name not in known:
            hint = nearest(str(name), sorted(known))
            raise ValueError(f"`backbone_config` has no field `{name}` for model_type {model_type}.{hint}")
    least = 258  # the 256 bytes, end of text and [SEP]
    if data.vocab_size < least:
        raise ValueError(f"`vocab_size` must be >= {least} (all bytes, end of text, [SEP]), got {data.vocab_size}.")
    context = config_class.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    if context in known and not {context, "max_position_embeddings"} & settings.keys():
        settings[context] = data.max_length or MAX_LENGTH
    # the tokenizer will say; the defaults of the class may be outside of its vocabulary
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    return config_class(**{"vocab_size": data.vocab_size, **special, **settings})


def _max_length(max_length: int | None, config: PreTrainedConfig, settings: dict[str, Any]) -> int:
    context = getattr(config, "max_position_embeddings", None) or math.inf
    if max_length is None:
        max_length = int(min(context, MAX_LENGTH))
    elif max_length > context:
        raise ValueError(f"`max_length` must fit the backbone's context of {context} tokens, got {max_length}.")
    segment_length = 1 if settings["latent_dynamics"] == "none" else settings["segment_length"] or 1
    if max_length < segment_length + 2:
        raise ValueError(
            f"`max_length` must be >= {segment_length + 2} for BOS, segments of {segment_length} tokens and [SEP], "
            f"got {max_length}."
        )
    return max_length


def _load_tokenizer(data: DataArguments, checkpoint: str | None):
    """The backbone's tokenizer, or None where it has yet to be trained on the texts."""
    if data.backbone_config is not None:
        return None if checkpoint is None else AutoTokenizer.from_pretrained(checkpoint)
    path, gguf = resolve_backbone(data.backbone)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **gguf)
    except (OSError, ValueError) as error:
        raise ValueError(f"`backbone` '{data.backbone}' has no tokenizer: {one_line(error)}") from None
    if not tokenizer.encode("text", add_special_tokens=False):  # Transformers makes one up, without a vocabulary
        raise ValueError(f"`backbone` '{data.backbone}' has no tokenizer. Save it there: tokenizer.save_pretrained.")
    return tokenizer


def _train_tokenizer(texts, vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, as GPT-2's, with room for [SEP] in its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    batches = (batch["text"] for batch in texts.select_columns(["text"]).iter(batch_size=1000))
    tokenizer.train_from_iterator(batches, trainer, length=len(texts))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


# ---- Stopping ----


class _StopAtStepEnd(TrainerCallback):
    """Ctrl-C finishes the step, saves a checkpoint and stops; a second one stops at once, and saves nothing."""

    def __init__(self):
        self.stopped = False

    @contextlib.contextmanager
    def catching(self, single_process: bool):
        # Several processes would stop at different steps, and then wait for each other.
        if not single_process or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _on_signal(self, *_):
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        print("\nStopping after this step, with a checkpoint. Ctrl-C again stops at once.", file=sys.stderr)

    def on_step_end(self, args, state, control, **kwargs):
        if self.stopped:
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.stopped:
            control.should_save = control.should_evaluate = False


def _how_to_resume(output_dir: str, config_path: str) -> str:
    checkpoint = get_last_checkpoint(output_dir) if os.path.isdir(output_dir) else None
    if checkpoint is None:
        return "no checkpoint was saved yet."
    command = f"modeling-trace train {shlex.quote(config_path)} --resume_from_checkpoint true"
    return f"the last checkpoint is '{checkpoint}'. Continue with: {command}"


# ---- Output ----


def _silent(*_):
    pass


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _announce(model: TraceForConditionalGeneration, train_dataset, eval_dataset, output_dir: str) -> str:
    config = model.config
    kind = "a plain language model"
    if model.has_latents:
        kind = f"TRACE ({config.latent_dynamics} latents of {config.latent_size} dimensions)"
    kept_back = f", {len(eval_dataset)} kept back for validation" if eval_dataset is not None else ""
    return (
        f"Training {kind} on {len(train_dataset)} texts{kept_back}. Backbone: {config.backbone_config.model_type}, "
        f"{model.num_parameters():,} parameters in all. Output: {output_dir}"
    )


def _summary(metrics: dict[str, float], model: TraceForConditionalGeneration, output_dir: str) -> str:
    lines = [f"\nThe model and its processor are in {output_dir}."]
    if "eval_reconstruction" in metrics:
        nats = metrics["eval_reconstruction"]
        lines.append(f"On {metrics['eval_texts']} validation texts, in nats per text:")
        if "eval_kl" in metrics:
            kl, per_segment = metrics["eval_kl"], metrics["eval_kl_per_segment"]
            lines += [
                f"  reconstruction      {nats:9.2f}",
                f"  KL                  {kl:9.2f}   ({per_segment:.2f} per segment)",
                f"  both: -log p(text) <= {nats + kl:7.2f}",
            ]
        else:
            lines.append(f"  -log p(text)        {nats:9.2f}")
    decoding = "" if model.has_latents else " --top_k 50"
    lines.append(f"Next: modeling-trace generate {shlex.quote(output_dir)} --num_texts 20{decoding}")
    return "\n".join(lines)


__all__ = ["run"]
