"""`modeling-trace train [config.yaml] [--name value ...]`: from texts and a language model to a TRACE model."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    set_seed,
)

from ..data import TraceProcessor, load_texts, prepare_dataset, train_tokenizer
from ..data.sources import check_dataset_name
from ..models.backbones_trace import full_backbone_name, resolve_backbone
from ..models.dynamics_registry_trace import has_segments
from ..models.modeling_trace import TraceForConditionalGeneration
from ..network import check_hub
from ..training import TraceTrainer, check_distributed_settings, lora_config
from ..training.guards import find_checkpoint
from ..training.preparation import check_max_length, check_settings
from ..training.private import get_last_checkpoint
from ..utils import one_line, sentence
from .train_arguments import (
    DataArguments,
    check_training,
    make_backbone_config,
    make_segmenter,
    parse_arguments,
    resolved_arguments,
    to_dataclasses,
)

CONFIG_FILE = "train_config.yaml"
METRICS_FILE = "metrics.json"
FIRST_TEXTS = 100_000  # of a stream, to train a tokenizer on


def run(argv: list[str] | None = None) -> int:
    """Train, evaluate and save. Returns the exit code."""
    namespace = parse_arguments(sys.argv[2:] if argv is None else argv)
    _check_output_is_free(namespace.output_dir, namespace.resume_from_checkpoint)
    if namespace.backbone_config is None and namespace.output_dir == namespace.backbone:
        raise ValueError(
            f"`output_dir` must not have the name of the `backbone`, '{namespace.backbone}', which would mean the new "
            f"folder from then on. Use --output_dir my-{os.path.basename(os.path.abspath(namespace.output_dir))}"
        )
    data, model_settings, args = to_dataclasses(namespace)
    segmenter = make_segmenter(data, model_settings)
    checkpoint = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
    check_training(args, data)
    check_dataset_name(data.dataset)  # the backbone may need the network
    say = print if args.process_index == 0 else _silent

    # Each step can fail, so the slow ones come last: configuration, texts, tokens, weights.
    backbone_config = _backbone_config(data, args.max_length)
    tokenizer = _load_tokenizer(data, checkpoint)
    segment_length = model_settings["segment_length"] if has_segments(model_settings["latent_dynamics"]) else None
    args.max_length = check_max_length(args.max_length, backbone_config, segment_length)
    with args.main_process_first(local=False, desc="texts"):
        train_texts, eval_texts = load_texts(
            data.dataset,
            text_column=data.text_column,
            prompt_column=data.prompt_column,
            conditional=model_settings["conditional"],
            drop_empty=data.drop_empty,
            encoding=data.encoding,
            delimiter=data.delimiter,
            split=data.split,
            validation_split=data.validation_split,
            max_texts=data.max_texts,
            streaming=data.streaming,
        )
    check_distributed_settings(args, train_texts, eval_texts)
    if tokenizer is None:
        first_texts = train_texts
        if data.streaming:
            say(f"Training the tokenizer on the first {FIRST_TEXTS:,} texts of the stream.")
            first_texts = Dataset.from_list(list(train_texts.take(FIRST_TEXTS)))
        texts = [text for name in ("prompt", "text") if name in first_texts.column_names for text in first_texts[name]]
        tokenizer = train_tokenizer(texts, data.vocab_size)
    processor = TraceProcessor(tokenizer, segmenter, model_settings["conditional"], model_settings["separator"])
    if data.backbone_config is not None:
        backbone_config.vocab_size = len(processor.tokenizer)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(backbone_config, name, getattr(processor, name))
    _with_adapters(check_settings(backbone_config, processor, model_settings), data, dry_run=True)
    if data.streaming and processor.cuts_texts and not segmenter.is_ready:
        say("Learning where sentences end from the first million characters of the stream.")
    with args.main_process_first(local=False, desc="tokens"):
        prepare: dict[str, Any] = {"max_length": args.max_length, "num_proc": args.num_proc}
        train_dataset = prepare_dataset(train_texts, processor, **prepare)
        eval_dataset = None if eval_texts is None else prepare_dataset(eval_texts, processor, **prepare)
    if data.streaming:
        # The Trainer takes a stream for one pass: resumed in a later one, it would look for its place in the first.
        train_dataset = train_dataset.repeat(None)

    set_seed(args.seed)
    source = data.backbone
    if data.backbone_config is not None:
        source = AutoModelForCausalLM.from_config(backbone_config)
    model = TraceForConditionalGeneration.from_backbone(source, processor, **model_settings)
    trained = _with_adapters(model, data)
    trainer = TraceTrainer(
        trained, args, train_dataset=train_dataset, eval_dataset=eval_dataset, processing_class=processor
    )
    trainer.check_before_training(checkpoint)
    origin = "random weights" if data.backbone_config is not None else full_backbone_name(data.backbone)
    say(_announce(model, origin, train_dataset, eval_dataset, args.output_dir))
    config_path = os.path.join(args.output_dir, CONFIG_FILE)
    if trainer.is_world_process_zero():
        settings = resolved_arguments(namespace, data, model_settings, args)
        _write(config_path, yaml.safe_dump(settings, sort_keys=False))

    try:
        train_metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_resume(args.output_dir, config_path)) from None
    trainer.save_model()
    trainer.save_state()
    metrics = dict(train_metrics)
    if not data.streaming:
        metrics["train_texts"] = len(train_dataset)
    if eval_dataset is not None:
        metrics |= {**trainer.evaluate(), "eval_texts": len(eval_dataset)}
    if trainer.is_world_process_zero():
        _write(os.path.join(args.output_dir, METRICS_FILE), json.dumps(metrics, indent=2) + "\n")
    trainer.create_model_card()  # again, with the evaluation
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.end()
    say(_summary(metrics, model, args.output_dir))
    return 0


# ---- Checks ----


def _check_output_is_free(output_dir: str, resume: str | None) -> None:
    """The same as `check_output_dir`, less exact, but before anything else and in the words of this command."""
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output_dir` must be a folder, got the file '{folder}'.")
    if str(resume).lower() not in ("", "no", "none", "false"):
        return
    checkpoint = get_last_checkpoint(output_dir) if folder.is_dir() else None
    if checkpoint or any((folder / name).exists() for name in ("config.json", "model.safetensors")):
        resume = " continue it with --resume_from_checkpoint true," if checkpoint else ""
        raise ValueError(
            f"`output_dir` '{folder}' already holds a model, which training would overwrite. Choose another folder,"
            f"{resume} or delete it."
        )


def _num_texts(train_dataset) -> int | None:
    """The number of training texts, which is not known of a stream."""
    return len(train_dataset) if hasattr(train_dataset, "__len__") else None


def _with_adapters(model: TraceForConditionalGeneration, data: DataArguments, dry_run: bool = False):
    """The model with what of it is to be trained: a part, adapters or all. A dry run only checks the settings."""
    if data.freeze_trunk:
        model.freeze_trunk()
    if data.lora_r is None:
        return model
    try:
        config = lora_config(model, data.lora_r, data.lora_alpha, data.lora_target_modules)
    except ValueError as error:  # in the flags' names
        raise ValueError(str(error).replace("`target_modules`", "`lora_target_modules`")) from None
    if dry_run:
        return model
    from peft import get_peft_model

    return get_peft_model(model, config)


# ---- Backbone and tokenizer ----


def _backbone_config(data: DataArguments, max_length: int | None) -> PreTrainedConfig:
    """The configuration of the backbone: of random weights as given, else read where the backbone is."""
    if data.backbone_config is not None:
        return make_backbone_config(data, max_length)
    path, gguf = resolve_backbone(data.backbone)
    check_hub(path, f"`backbone` '{data.backbone}'")
    try:
        config = AutoConfig.from_pretrained(path, **gguf)
    except (OSError, ValueError) as error:
        if os.path.isdir(path):
            raise ValueError(f"`backbone` '{data.backbone}' is no model's folder: {one_line(error)}") from None
        raise ValueError(
            f"`backbone` '{data.backbone}' is neither a folder here nor on the Hub: {sentence(error)} Without any: "
            "--backbone_config '{n_layer: 4, n_embd: 256, n_head: 4}' starts from random weights."
        ) from None
    if getattr(config, "latent_dynamics", "none") != "none":
        raise ValueError(
            f"`backbone` '{data.backbone}' is a TRACE model already. Use a language model, or one that was trained "
            "with --latent_dynamics none."
        )
    return config.get_text_config()


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


# ---- Output ----


def _how_to_resume(output_dir: str, config_path: str) -> str:
    checkpoint = get_last_checkpoint(output_dir) if os.path.isdir(output_dir) else None
    if checkpoint is None:
        return "no checkpoint was saved yet."
    command = f"modeling-trace train {shlex.quote(config_path)} --resume_from_checkpoint true"
    return f"the last checkpoint is '{checkpoint}'. Continue with: {command}"


def _silent(*_):
    pass


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _announce(model: TraceForConditionalGeneration, origin: str, train_dataset, eval_dataset, output_dir: str) -> str:
    config = model.config
    kind = "a plain language model"
    if model.has_latents:
        kind = f"TRACE ({config.latent_dynamics} latents of {config.latent_size} dimensions)"
    if config.conditional:
        kind = f"conditional {kind.removeprefix('a ')}"
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parameters = model.num_parameters()
    size = f"{parameters:,} parameters in all"
    if trained < parameters:
        size += f", {trained:,} of them trained"
    number = _num_texts(train_dataset)
    texts = "a stream of texts" if number is None else f"{number} texts"
    held_out = f", {len(eval_dataset)} held out for validation" if eval_dataset is not None else ""
    return (
        f"Training {kind} on {texts}{held_out}. Backbone: {config.backbone_config.model_type} from {origin}, "
        f"{size}. Output: {output_dir}"
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
            if "eval_gain_per_nat" in metrics:
                gain, per_nat = metrics["eval_latent_gain"], metrics["eval_gain_per_nat"]
                lines.append(f"  another's latents   {nats + gain:9.2f}   ({per_nat:.2f} gained per nat of KL)")
        else:
            lines.append(f"  -log p(text)        {nats:9.2f}")
    decoding = "" if model.has_latents else " --top_k 50"
    if model.config.conditional:
        decoding += " --prompt '...'"
    lines.append(f"Next: modeling-trace generate {shlex.quote(output_dir)} --num_texts 20{decoding}")
    return "\n".join(lines)


__all__ = ["run"]
