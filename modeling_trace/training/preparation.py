"""From what a user gives `TraceTrainer` to what it trains: a model by its name, a processor, tokenized texts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase, TrainingArguments

from ..data import FixedLengthSegmenter, TraceProcessor, prepare_dataset
from ..models.backbones_trace import LOADING_ARGUMENTS, resolve_backbone
from ..models.configuration_trace import TraceConfig
from ..models.dynamics_registry_trace import has_segments
from ..models.modeling_trace import TraceForConditionalGeneration
from ..network import check_hub
from ..utils import sentence
from .training_args import TraceTrainingArguments

MAX_LENGTH = 256  # tokens of a text, where the backbone's context has room for them
_TOKENIZER_LOADING = {"cache_dir", "force_download", "local_files_only", "revision", "token", "trust_remote_code"}


# ---- Data sets ----


def _columns(dataset) -> list[str] | None:
    """The columns of a data set of any kind; None where they are not known."""
    columns = getattr(dataset, "column_names", None)
    if columns is None and hasattr(dataset, "take"):  # a stream that does not say
        return list(next(iter(dataset.take(1)), {})) or None
    if columns is None and hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        columns = list(dataset[0]) if isinstance(dataset[0], Mapping) else None
    return columns


def holds_texts(dataset: Any) -> bool:
    """Whether a data set, or one of a mapping of them, is of the package `datasets` and has texts to tokenize."""
    if isinstance(dataset, Mapping):
        return any(map(holds_texts, dataset.values()))
    if not hasattr(dataset, "map"):
        return False
    columns = _columns(dataset) or []
    return "text" in columns and "input_ids" not in columns


def check_dataset(name: str, dataset: Any, needs_input_ids: bool) -> None:
    """
    One-line errors for the usual mistakes.

    Args:
        name (`str`): The argument, for errors.
        dataset: A `datasets.Dataset` or any PyTorch data set, or for evaluation a mapping of them; None is accepted.
        needs_input_ids (`bool`): The rows go to a collator that pads `input_ids`; texts will be tokenized.

    Raises:
        ValueError: for a DatasetDict, an empty data set, and one with neither `input_ids` nor a column `text`.
    """
    if dataset is None:
        return
    is_dataset_dict = isinstance(dataset, Mapping) and "DatasetDict" in type(dataset).__name__
    if is_dataset_dict or (isinstance(dataset, Mapping) and name == "train_dataset"):
        split = "train" if name == "train_dataset" else "validation"
        raise ValueError(
            f"`{name}` must be one Dataset, got a {type(dataset).__name__} with {list(dataset)}. "
            f"Did you pass the DatasetDict? Use dataset['{split}']."
        )
    if isinstance(dataset, Mapping):  # Trainer evaluates each entry of a dict by itself
        for key, part in dataset.items():
            check_dataset(f"{name}[{key!r}]", part, needs_input_ids)
        return
    if hasattr(dataset, "__len__") and len(dataset) == 0:
        raise ValueError(f"`{name}` is empty. Check the split and the filters that it went through.")
    columns = _columns(dataset)
    if needs_input_ids and columns is not None and "input_ids" not in columns and not holds_texts(dataset):
        raise ValueError(
            f"`{name}` has neither a column `text` nor `input_ids`, only {columns}. Rename the column with the texts: "
            f"dataset.rename_column({str(columns[0])!r}, 'text')."
            if hasattr(dataset, "map")
            else f"`{name}` has no column `input_ids`, only {columns}. Make it a Dataset with a column `text`: "
            "datasets.Dataset.from_list."
        )


def check_max_length(
    max_length: int | None, backbone_config: PreTrainedConfig | None, segment_length: int | None
) -> int:
    """
    How many tokens of a text are kept.

    Args:
        max_length (`int`, *optional*): As the user set it. Default: the backbone's context, at most 256.
        backbone_config (`PreTrainedConfig`): Says how long the context is, where it is known.
        segment_length (`int`, *optional*): Of the processor; one segment has to fit.

    Raises:
        ValueError: if it is longer than the context or shorter than BOS, a segment and [SEP].
    """
    context = getattr(backbone_config, "max_position_embeddings", None) or math.inf
    if max_length is None:
        max_length = int(min(context, MAX_LENGTH))
    elif max_length > context:
        raise ValueError(
            f"`max_length` must fit the backbone's context of {context} tokens, got {max_length}. Use {context}."
        )
    segment_length = segment_length or 1
    if segment_length + 2 > context:  # a greater `max_length` would be no remedy
        raise ValueError(
            f"`segment_length` must be <= {context - 2} for BOS and [SEP] in the backbone's context of {context} "
            f"tokens, got {segment_length}."
        )
    if max_length < segment_length + 2:
        raise ValueError(
            f"`max_length` must be >= {segment_length + 2} for BOS, segments of {segment_length} tokens and [SEP], "
            f"got {max_length}."
        )
    return max_length


# ---- Processor and model ----


def make_processor(tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any]) -> TraceProcessor:
    """
    The processor that goes with settings of a model.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The backbone's. [SEP] is added in place where it is needed.
        settings (`Mapping[str, Any]`): Fields of [`TraceConfig`]; `latent_dynamics`, `segment_length`, `conditional`
            and `separator` count.

    Raises:
        ValueError: for segments of varying length, which only a segmenter of the user's can find.
    """
    settings = {
        name: settings.get(name, getattr(TraceConfig, name))
        for name in ("latent_dynamics", "segment_length", "conditional", "separator")
    }
    segmenter = None
    if has_segments(settings["latent_dynamics"]):
        if settings["segment_length"] is None:
            raise ValueError(
                "`processing_class` must be a TraceProcessor for segments of varying length (segment_length=None), "
                f"got a {type(tokenizer).__name__}, which does not say where they end."
            )
        segmenter = FixedLengthSegmenter(settings["segment_length"])
    return TraceProcessor(tokenizer, segmenter, settings["conditional"], settings["separator"])


class NamedModel:
    """
    A model that is known by its name: what can be checked before its weights are loaded, then the model.

    Args:
        name (`str` or `os.PathLike`): Language model, as for [`~TraceForConditionalGeneration.from_backbone`]; or a
            saved TRACE model, which is trained further.
        settings (`dict`, *optional*): Fields of [`TraceConfig`] and arguments of `from_pretrained`.

    Raises:
        ValueError: if there is no such model, or no such setting.
    """

    def __init__(self, name: str | os.PathLike, settings: dict[str, Any] | None = None):
        self.name, self.settings = str(name), dict(settings or {})
        TraceConfig._check_names(self.fields.keys() - TraceConfig.__dataclass_fields__.keys())
        path, gguf = resolve_backbone(self.name)
        self.path, loading = path, {k: v for k, v in self.settings.items() if k in _TOKENIZER_LOADING}
        self.tokenizer_loading = {**gguf, **loading}
        check_hub(path, f"`model` '{self.name}'")
        try:
            self.config = AutoConfig.from_pretrained(path, **self.tokenizer_loading)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`model` '{self.name}' is neither a model's folder here nor a model on the Hub: {sentence(error)}"
            ) from None
        self.is_trace = getattr(self.config, "latent_dynamics", "none") != "none"

    @property
    def fields(self) -> dict[str, Any]:
        """Of the settings those of [`TraceConfig`]."""
        return {name: value for name, value in self.settings.items() if name not in LOADING_ARGUMENTS}

    def make_processor(self, tokenizer: PreTrainedTokenizerBase | None = None) -> TraceProcessor:
        """The processor saved with a TRACE model; else one of the tokenizer, by default of the backbone's own."""
        if self.is_trace and tokenizer is None:
            return TraceProcessor.from_pretrained(self.name)
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(self.path, **self.tokenizer_loading)
        saved = vars(self.config) if self.is_trace else {}
        return make_processor(tokenizer, {**saved, **self.fields})

    def load(self, processor: TraceProcessor) -> TraceForConditionalGeneration:
        """The model with its weights, and new latent networks where it is a plain language model."""
        if self.is_trace:
            return TraceForConditionalGeneration.from_pretrained(self.name, **self.settings)
        return TraceForConditionalGeneration.from_backbone(self.name, processor, **self.settings)


class TextPreparation:
    """
    Tokenizes the texts that a Trainer is given, as its model reads them; all other data sets are left as they are.

    Args:
        model (`str`, `os.PathLike` or `PreTrainedModel`): As the Trainer got it.
        processing_class ([`TraceProcessor`] or `PreTrainedTokenizerBase`, *optional*): As the Trainer got it. A
            processor is made where texts or the name of a model need one.
        args ([`TraceTrainingArguments`] or `TrainingArguments`): `model_init_kwargs`, `max_length` and `num_proc`
            count, or their defaults.
        enabled (`bool`): False where the user's own collator reads the texts.

    Raises:
        ValueError: if there is no such model, and for `model_init_kwargs` without the name of one.
    """

    def __init__(self, model, processing_class, args: TrainingArguments, enabled: bool = True):
        self.model, self.processing_class, self.args, self.enabled = model, processing_class, args, enabled
        # the class holds the defaults
        settings = self.settings = args if isinstance(args, TraceTrainingArguments) else TraceTrainingArguments
        init: dict[str, Any] | None = settings.model_init_kwargs
        self.named_model, self._has_processor = None, False
        if isinstance(model, (str, os.PathLike)):
            self.named_model = NamedModel(model, init)
        elif init:
            raise ValueError(
                f"`model_init_kwargs` is for the name of a model, got {init} with a model in memory. Give them to "
                "from_backbone."
            )

    def __call__(self, dataset):
        if not self.enabled or not holds_texts(dataset):
            return dataset
        if isinstance(dataset, Mapping):
            return {name: self(part) for name, part in dataset.items()}
        self.make_processor("prompt" in _columns(dataset))
        config = getattr(self.named_model or self.model, "config", None)  # None: `model_init` makes it later
        backbone_config = None if config is None else config.get_text_config()
        max_length = check_max_length(self.settings.max_length, backbone_config, self.processing_class.segment_length)
        with self.args.main_process_first(local=False, desc="tokens"):  # the others find them in the cache
            return prepare_dataset(
                dataset, self.processing_class, max_length=max_length, num_proc=self.settings.num_proc
            )

    def make_processor(self, has_prompts: bool = False) -> None:
        """Settle what the processor is, and check the settings of a model that is yet to be loaded; once."""
        if self._has_processor:
            return
        named, is_processor = self.named_model, isinstance(self.processing_class, TraceProcessor)
        if named is not None:
            if not (is_processor or named.is_trace):
                named.settings.setdefault("conditional", has_prompts)
            if not is_processor:
                self.processing_class = named.make_processor(self.processing_class)
            if not named.is_trace:
                check_settings(named.config.get_text_config(), self.processing_class, named.fields)
        elif not is_processor:
            config = getattr(self.model, "config", None)
            if self.processing_class is None or config is None:
                raise ValueError(
                    f"`processing_class` is needed to tokenize texts, got {type(self.processing_class).__name__}. "
                    "Pass the TraceProcessor that the model was built with."
                )
            self.processing_class = make_processor(self.processing_class, vars(config))
        self._has_processor = True


def check_settings(
    backbone_config: PreTrainedConfig, processor: TraceProcessor | PreTrainedTokenizerBase, settings: dict[str, Any]
) -> TraceForConditionalGeneration:
    """
    Build the model without weights: finds every setting that cannot work, before texts are tokenized.

    Args:
        backbone_config (`PreTrainedConfig`): Of the language model.
        processor (`TraceProcessor`): Says which tokens are special, and what segments are.
        settings (`dict[str, Any]`): Fields of [`TraceConfig`], which win over the processor's.

    Returns:
        [`TraceForConditionalGeneration`] on the meta device.
    """
    backbone_config = type(backbone_config).from_dict(backbone_config.to_dict())
    backbone_config.vocab_size = max(backbone_config.vocab_size, len(processor.tokenizer))
    names = ["sep_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "closing_token_ids", "conditional"]
    if processor.segmenter is not None:
        names += ["segment_length", "separator"]
    of_processor = {name: getattr(processor, name) for name in names}
    with torch.device("meta"):
        return TraceForConditionalGeneration(
            TraceConfig(backbone_config=backbone_config, **{**of_processor, **settings})
        )


def check_processor(processing_class: Any, model: TraceForConditionalGeneration) -> None:
    """
    Refuse a processor that cuts texts elsewhere than the model does.

    Args:
        processing_class ([`TraceProcessor`] or `PreTrainedTokenizerBase`, *optional*): A tokenizer says only which id
            [SEP] has.
        model ([`TraceForConditionalGeneration`]): Also with adapters.

    Raises:
        ValueError: with the setting in which they differ.
    """
    config = model.config
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    conditional = getattr(processing_class, "conditional", config.conditional)
    if conditional != config.conditional:
        raise ValueError(
            f"`processing_class` has conditional={conditional}, the model {config.conditional}: prompts would be "
            "taken for text, or the reverse. Make both the same."
        )
    segments = model.has_latents and not model.one_latent_per_text
    separator = getattr(processing_class, "separator", config.separator)
    if segments and separator != config.separator:
        raise ValueError(
            f"`processing_class` has separator='{separator}', the model '{config.separator}': segments would end "
            "elsewhere. Build the model by from_backbone(backbone, processor), which takes it from there."
        )
    closing = getattr(processing_class, "closing_token_ids", config.closing_token_ids)
    if segments and closing != config.closing_token_ids:
        raise ValueError(
            "`processing_class` has other `closing_token_ids` than the model: segments would end elsewhere. Build "
            "the model by from_backbone(backbone, processor), which takes them from there."
        )
    if not (segments or conditional) or not hasattr(tokenizer, "sep_token_id"):
        return
    needs_separator = conditional or config.separator == "token"
    if needs_separator and tokenizer.sep_token_id != config.sep_token_id:
        raise ValueError(
            f"`processing_class` has [SEP] id {tokenizer.sep_token_id}, the model {config.sep_token_id}: segments "
            "would not be found. Use the tokenizer that `from_backbone` was given or that is saved with the model."
        )
    length = getattr(processing_class, "segment_length", config.segment_length)
    if segments and length != config.segment_length:
        raise ValueError(
            f"`processing_class` makes segments of length {length}, the model generates {config.segment_length} "
            f"(None: varying). Build the model with segment_length={length}."
        )


__all__ = [
    "MAX_LENGTH",
    "NamedModel",
    "TextPreparation",
    "check_dataset",
    "check_max_length",
    "check_processor",
    "check_settings",
    "holds_texts",
    "make_processor",
]
