"""The arguments of `modeling-trace train`: what a user can set, from where, and what it makes."""

import contextlib
import dataclasses
import re
from argparse import Namespace
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..data import FixedLengthSegmenter, RegexSegmenter, Segmenter, SentenceSegmenter
from ..models.backbones_trace import full_backbone_name
from ..models.configuration_trace import TraceConfig
from ..models.dynamics_registry_trace import has_segments
from ..presets import PRESETS, SYSTEMS, named_settings
from ..training import TraceTrainingArguments, check_distributed_settings
from ..training.preparation import MAX_LENGTH
from ..training.training_args import SCHEDULE_ARGUMENTS, make_kl_schedule
from ..utils import nearest, one_line
from .parser import CommandParser, argument_values, flag, read_yaml

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
NAMED = ("preset", "system", "recipe")  # stand for other arguments, see `named_settings`
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


@dataclasses.dataclass
class DataArguments:
    """What to train on, and from which language model."""

    _argument_group_name = "backbone and data"

    preset: str | None = flag(None, f"Data set and training settings of the paper: {', '.join(PRESETS)}.")
    system: str | None = flag(
        None,
        f"trace, the default, or one of the paper's systems: {', '.join(SYSTEMS)}. Flags win over these three.",
    )
    recipe: str | None = flag(
        None,
        "paper: TraceConfig.paper() and the paper's training settings, with a warning. Default: what worked here.",
    )
    backbone: str = flag(
        "gpt2",
        "Language model to start from: Hub id, folder, GGUF file or smollm2-135m. Not used with backbone_config.",
    )
    backbone_config: dict | None = flag(
        None,
        "Start from random weights with this configuration, e.g. '{model_type: gpt2, n_layer: 4}', and a byte-level "
        "BPE tokenizer trained on the training texts.",
    )
    lora_r: int | None = flag(
        None, "Train LoRA adapters of this rank (16) on a frozen backbone, and save them alone. Needs peft."
    )
    lora_alpha: float | None = flag(None, "Scale of the adapters, over lora_r. Default: 2 lora_r.")
    lora_target_modules: list[str] | None = flag(
        None, "Last names of the layers to adapt, e.g. q_proj v_proj. Default: all of attention and MLP."
    )
    freeze_trunk: bool = flag(
        False, "Train only the layers above latent_layer and the latent networks: less time and memory."
    )
    vocab_size: int = flag(8000, "Vocabulary of that tokenizer, [SEP] and end of text counted.")
    dataset: str = flag(
        "reviews",
        "Texts: reviews (built in), a Hub id, or a file, folder or glob of jsonl, csv, tsv, parquet or txt (.gz).",
    )
    encoding: str | None = flag(None, "Encoding of the files, e.g. latin-1 or utf-16. Default: utf-8.")
    delimiter: str | None = flag(
        None, "What separates the fields of csv files, e.g. ';'. Default: told from their first line."
    )
    text_column: str | None = flag(
        None,
        "Column with the texts. Found by itself where called text, review, ... or (not in csv) the only one.",
    )
    prompt_column: str | None = flag(
        None, "Column with the prompts, for --conditional true. Found by itself where it is called prompt, title, ..."
    )
    drop_empty: bool = flag(False, "Leave rows without a text (or prompt) out, rather than stop at them.")
    split: str = flag("train", "Split to train on.")
    validation_split: str | None = flag(
        "0.1", "Fraction or number of training texts to hold out (the same ones whatever the seed), a split, or none."
    )
    max_texts: int | None = flag(None, "Use at most this many texts of each split.")
    streaming: bool = flag(
        False,
        "Read and tokenize texts as they are needed. Needs --max_steps, and a number of texts, a split or none as "
        "--validation_split.",
    )
    segmenter: str = flag("fixed", "Where segments end: fixed (see segment_length), sentence or regex.")
    segment_pattern: str | None = flag(None, r"What separates segments, for segmenter regex, e.g. '\n+'.")


def _model_arguments() -> type:
    """A dataclass of the TraceConfig fields that a user sets; texts and backbone decide the others."""
    decided = {field.name for field in dataclasses.fields(PreTrainedConfig)} | {
        *("backbone_config", "tie_word_embeddings", "closing_token_ids"),
        *("sep_token_id", "bos_token_id", "eos_token_id", "pad_token_id"),
    }
    # "        name (`type`): \n            text, text"
    documented = re.findall(r"^ {8}(\w+) \(.*\):\n((?: {12}.*\n)+)", TraceConfig.__doc__ or "", flags=re.MULTILINE)
    helps = {name: one_line(text).replace("%", "%%") for name, text in documented}
    fields = [
        (field.name, field.type, flag(field.default, helps.get(field.name, "A field of TraceConfig.")))
        for field in dataclasses.fields(TraceConfig)
        if field.name not in decided
    ]
    return dataclasses.make_dataclass(
        "ModelArguments", fields, namespace={"_argument_group_name": "model (fields of TraceConfig)"}
    )


ModelArguments = _model_arguments()


@dataclasses.dataclass
class TrainerFlags(TraceTrainingArguments):
    """The arguments of `TraceTrainer` under a heading of their own in --help; only their fields are used."""

    _argument_group_name = "training (transformers.TrainingArguments, the KL schedule and the like)"
    # what it would hold are flags of their own
    model_init_kwargs: dict[str, Any] | None = dataclasses.field(default=None, init=False)


def make_parser() -> CommandParser:
    """A parser of every argument of the command."""
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


def parse_arguments(argv: list[str]) -> Namespace:
    """Flags over the YAML file over the defaults, as the user wrote them; names of systems as what they stand for."""
    parser = make_parser()
    flags = parser.parse(argv)
    values = {} if flags.config is None else read_yaml(flags.config)
    # A name in the file stands under the file's values, one on the command line over them: flags win over the file.
    by_flag = {name: getattr(flags, name) for name in NAMED}
    by_file = {name: values.pop(name, None) for name in NAMED}
    under = named_settings(**{name: value for name, value in by_file.items() if by_flag[name] is None})
    return parser.parse(argv, {**under, **values, **named_settings(**by_flag)}, source=flags.config)


def to_dataclasses(namespace: Namespace) -> tuple[DataArguments, dict[str, Any], TraceTrainingArguments]:
    """The data's arguments, the settings of `TraceConfig`, and the Trainer's arguments."""
    values = vars(namespace)

    def build(dataclass_type):
        names = (field.name for field in dataclasses.fields(dataclass_type) if field.init)
        return dataclass_type(**{name: values[name] for name in names if name in values})

    data = build(DataArguments)
    data.validation_split = _validation_split(data.validation_split)
    model_settings = argument_values(build(ModelArguments))
    layer = model_settings["latent_layer"]
    if isinstance(layer, str) and layer != "middle":  # a flag is text; what is no number, the configuration refuses
        numbers = {"none": None} | ({layer: int(layer)} if layer.isdecimal() else {})
        model_settings["latent_layer"] = numbers.get(layer.lower(), layer)
    return data, model_settings, build(TraceTrainingArguments)


def _validation_split(text: str | None) -> int | float | str | None:
    """A number of texts, a fraction, the name of a split, or None."""
    if text is None or text.lower() in ("no", "none", "null"):
        return None
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def resolved_arguments(
    namespace: Namespace, data: DataArguments, model_settings: dict[str, Any], args: TraceTrainingArguments
) -> dict[str, Any]:
    """What train_config.yaml holds: every argument that is not a default of Transformers, ready to run again."""
    texts = argument_values(data)
    for name in NAMED:  # what they stand for is written out
        texts.pop(name)
    texts.pop("backbone" if data.backbone_config is not None else "vocab_size")
    if "backbone" in texts:  # a folder is the same one when the file is used from elsewhere
        texts["backbone"] = full_backbone_name(texts["backbone"])
    texts = {name: value for name, value in texts.items() if value is not None or name == "validation_split"}
    schedule, takes = make_kl_schedule(args), SCHEDULE_ARGUMENTS.get(args.kl_schedule, {})
    texts |= {"max_length": args.max_length, "kl_schedule": args.kl_schedule}
    texts |= {setting: getattr(schedule, name) for setting, name in takes.items()}
    defaults, training = make_parser().parse([]), {}
    for field in dataclasses.fields(TraceTrainingArguments):
        value = getattr(namespace, field.name, None)
        if field.name in NOT_SAVED | texts.keys() or (
            value == getattr(defaults, field.name, None) and field.name not in TRAINING_DEFAULTS
        ):
            continue
        training[field.name] = getattr(value, "value", value)  # an Enum by its value
    return {**texts, **model_settings, **training}


def make_segmenter(data: DataArguments, model_settings: dict[str, Any]) -> Segmenter:
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
    return segmenter if has_segments(model_settings["latent_dynamics"]) else None


def make_backbone_config(data: DataArguments, max_length: int | None) -> PreTrainedConfig:
    """The configuration of a backbone with random weights."""
    settings = dict(data.backbone_config)
    model_type = settings.pop("model_type", "gpt2")
    if model_type not in CONFIG_MAPPING:
        hint = nearest(str(model_type), list(CONFIG_MAPPING.keys()))
        raise ValueError(f"`model_type` in `backbone_config` is unknown, got '{model_type}'.{hint}")
    config_class = CONFIG_MAPPING[model_type]
    if "vocab_size" in settings:
        raise ValueError(
            "`backbone_config` takes no vocab_size, which is an argument of its own. Move it there: --vocab_size "
            f"{settings['vocab_size']}"
        )
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
        # room for the [SEP] of a system that is trained from this one, whatever its segments
        settings[context] = 2 * (max_length or MAX_LENGTH)
    # the tokenizer will say; the defaults of the class may be outside of its vocabulary
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    return config_class(**{"vocab_size": data.vocab_size, **special, **settings})


def check_training(args: TraceTrainingArguments, data: DataArguments) -> None:
    """What the Trainer would refuse, but only after the texts and the weights have been loaded."""
    if args.eval_strategy != "no" and not data.validation_split:
        raise ValueError(
            f"`eval_strategy` '{args.eval_strategy.value}' needs a `validation_split`, got none. Use "
            "--validation_split 0.1, or leave eval_strategy out."
        )
    if data.streaming:
        _check_streaming(args, data)
    check_lora(data)
    if data.freeze_trunk and data.lora_r is not None:
        raise ValueError(
            f"`freeze_trunk` and `lora_r` both choose what is trained, got True and {data.lora_r}. Use one."
        )
    check_distributed_settings(args)
    if args.n_gpu > 1:
        raise ValueError(
            f"one process can train on one GPU, got {args.n_gpu}. Use all of them by `accelerate launch -m "
            "modeling_trace.cli.main train ...`, or one by CUDA_VISIBLE_DEVICES=0."
        )


def _check_streaming(args: TraceTrainingArguments, data: DataArguments) -> None:
    if args.max_steps <= 0:
        raise ValueError(
            f"`max_steps` is needed for `streaming`, whose length is not known, got {args.max_steps}. Use 10000."
        )
    if isinstance(data.validation_split, float):
        raise ValueError(
            "`validation_split` must be a number of texts, a split or none for `streaming`, got the fraction "
            f"{data.validation_split}. Use 1000."
        )
    if args.num_proc is not None:
        raise ValueError(
            f"`num_proc` is for texts tokenized before training, got {args.num_proc} with `streaming`. Leave it out."
        )
    if args.dataloader_num_workers > 1:
        raise ValueError(
            f"`dataloader_num_workers` must be 0 or 1 for `streaming`, which one process reads in order, got "
            f"{args.dataloader_num_workers}. Use 1."
        )
    if args.train_sampling_strategy != "random":
        raise ValueError(
            f"`train_sampling_strategy` must be random for `streaming`, got '{args.train_sampling_strategy}': texts "
            "come as they are read. Leave it out."
        )


def check_lora(data: DataArguments) -> None:
    given = [name for name in ("lora_r", "lora_alpha", "lora_target_modules") if getattr(data, name) is not None]
    if given and data.backbone_config is not None:
        raise ValueError(
            f"`{given[0]}` is for a trained language model, got it with `backbone_config`, whose weights are random. "
            f"Use `backbone` in place of `backbone_config`, or leave {' and '.join(given)} out."
        )
    if data.lora_r is None:
        if given:
            raise ValueError(f"`{given[0]}` is for LoRA, got it without `lora_r`. Add --lora_r 16.")
        return
    if data.lora_r < 1:
        raise ValueError(f"`lora_r` must be >= 1, got {data.lora_r}. Use 16.")


__all__ = [
    "DataArguments",
    "check_training",
    "make_backbone_config",
    "make_parser",
    "make_segmenter",
    "parse_arguments",
    "resolved_arguments",
    "to_dataclasses",
]
