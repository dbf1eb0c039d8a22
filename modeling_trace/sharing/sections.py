"""The parts of a model card, each from something that is known; nothing is said of what is not."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..models.backbones_trace import HUB_NAMES
from ..models.configuration_trace import TraceConfig
from ..models.dynamics_registry_trace import has_segments
from ..network import is_repo_id

TAGS = ("trace", "text-generation", "latent-variables", "variational-autoencoder")
CURVE_ROWS = 12
# Settings of training that say what was done; where and how it was watched does not belong on a card
SETTINGS = (
    *("max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio"),
    *("latent_lr_factor", "per_device_train_batch_size", "gradient_accumulation_steps", "optim", "weight_decay"),
    *("max_grad_norm", "max_length", "kl_schedule", "kl_delay", "kl_ramp", "kl_max_weight", "seed", "bf16", "fp16"),
)


def hub_name(name: str | None) -> str | None:
    """A name as others know it: the id on the Hub, or None for a folder or file of this machine."""
    name = HUB_NAMES.get(name, name)
    if not name or os.path.exists(name) or re.search(r"\.(jsonl?|csv|tsv|txt|parquet)(\.\w+)?$|^[.~]|\\", name):
        return None
    return name if is_repo_id(name) else None


def public_name(name: str) -> str:
    """A name without the folders of this machine."""
    return hub_name(name) or os.path.basename(os.path.abspath(name))


def metadata(
    config: TraceConfig, *, base_model: str | None, dataset: str | None, is_adapter: bool, name: str
) -> dict[str, Any]:
    """
    The fields at the head of the card.

    Args:
        config ([`TraceConfig`]).
        base_model (`str`, *optional*): what the model was built from, as it was given.
        dataset (`str`, *optional*): what it was trained on, as it was given.
        is_adapter (`bool`).
        name (`str`): of the model.
    """
    found = {
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "base_model": hub_name(base_model),
        "datasets": [hub_name(dataset)] if dataset != "reviews" and hub_name(dataset) else None,
        "tags": list(TAGS),
    }
    return {name: value for name, value in found.items() if value}


def title(config: TraceConfig, name: str, base_model: str | None, segmenter: Mapping[str, Any] | None) -> str:
    """The heading, and in three sentences what the model is."""
    backbone = config.backbone_config
    base = hub_name(base_model)
    origin = f"[{base}](https://huggingface.co/{base})" if base else f"a {backbone.model_type} language model"
    short = name.rpartition("/")[2]
    if config.latent_dynamics == "none":
        return (
            f"# {short}\n\nA plain language model, made from {origin} as the baseline of a TRACE model: "
            "it has no latent variables. It reads and writes texts as that one does, each after a BOS token."
        )
    segment = _segment(config, segmenter)
    place = "at the embeddings" if config.latent_layer is None else f"after layer {config.latent_layer}"
    layers = f"{place} of {backbone.num_hidden_layers}"
    if config.latent_layer is None:
        layers = f"{place}, before {backbone.num_hidden_layers} layers"
    prompt = " Every text answers to a prompt." if config.conditional else ""
    if not has_segments(config.latent_dynamics):
        second = (
            f"It draws one latent of {config.latent_size} dimensions for the whole text, which enters {layers}, so "
            "that texts differ even under greedy decoding."
        )
    else:
        second = (
            f"At the start of every segment ({segment}) it draws a latent of {config.latent_size} dimensions from a "
            f"prior that knows what came before, and adds it {layers}, so that texts differ even "
            "under greedy decoding."
        )
    third = f"The latents of a text can be read, held, drawn again and mixed.{prompt}"
    return f"# {short}\n\nA TRACE model: {origin} with latent variables (`{config.latent_dynamics}`). {second} {third}"


def _segment(config: TraceConfig, segmenter: Mapping[str, Any] | None) -> str:
    if config.segment_length is not None:
        return f"{config.segment_length} tokens"
    kind = (segmenter or {}).get("type")
    return {"sentence": "a sentence", "regex": "what a pattern cuts"}.get(kind, "of varying length")


def training(settings: Mapping[str, Any], history: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> str | None:
    """
    Settings and curve of the training.

    Args:
        settings (`Mapping`): training arguments; those in `SETTINGS` are shown.
        history (`Sequence[Mapping]`): the Trainer's logs.
        data (`Mapping`): other facts, by what to call them.
    """
    shown = {name: settings[name] for name in SETTINGS if _says_something(settings.get(name))}
    if "max_steps" in shown:  # which then decides
        shown.pop("num_train_epochs", None)
    rows = {**data, **shown}
    steps = [entry["step"] for entry in history if "step" in entry]
    if steps:
        rows["steps taken"] = max(steps)
    logs = [entry for entry in history if "loss" in entry and "train_runtime" not in entry]
    evals = list({entry.get("step"): entry for entry in history if "eval_loss" in entry}.values())
    parts = ["## Training"]
    if rows:
        parts.append(_table(["setting", "value"], [[f"`{k}`" if k in SETTINGS else k, v] for k, v in rows.items()]))
    names = {"step": "step", "loss": "loss per token", "reconstruction": "reconstruction", "kl": "KL"}
    if logs:
        parts.append("Training, means since the row before; reconstruction and KL in nats per text:")
        parts.append(_log_table(logs, names))
    if evals:
        parts.append("Validation, in nats per token (loss) and per text:")
        names = {"step": "step", "eval_loss": "loss per token", "eval_reconstruction": "reconstruction"}
        parts.append(_log_table(evals, {**names, "eval_kl": "KL", "eval_latent_gain": "gain by own latents"}))
    return "\n\n".join(parts) if len(parts) > 1 else None


def _says_something(value) -> bool:
    return value is not None and value is not False and value != -1 and value != 0


def _log_table(entries: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    shown = [key for key in names if any(key in entry for entry in entries)]
    if len(entries) > CURVE_ROWS:
        last = len(entries) - 1
        entries = [entries[round(place * last / (CURVE_ROWS - 1))] for place in range(CURVE_ROWS)]
    return _table([names[key] for key in shown], [[entry.get(key) for key in shown] for entry in entries])


def trained_latents(metrics: Mapping[str, Any]) -> str | None:
    """What the last validation of the training says of the latents."""
    if metrics.get("eval_kl") is None:
        return None
    names = {
        "eval_kl": "KL, nats per text",
        "eval_kl_per_segment": "KL, nats per segment",
        "eval_reconstruction": "the text under its own latents, nats",
        "eval_reconstruction_other": "the text under another text's latents, nats",
        "eval_gain_per_nat": "nats gained per nat of KL (near 0: the latents are not read)",
        "eval_texts": "validation texts",
    }
    rows = [[text, metrics[name]] for name, text in names.items() if metrics.get(name) is not None]
    return "## Latents\n\nOn validation texts, at the end of the training:\n\n" + _table(["", "value"], rows)


def report_row(report: Mapping[str, Any], system: str) -> dict[str, tuple[dict, dict]]:
    """The columns and cells of one system in an evaluation's report, by metric; of the first table that has it."""
    found: dict[str, tuple[dict, dict]] = {}
    for table in report["tables"]:
        if table["id"] not in ("overview", "likelihood", "latents"):
            continue
        for row in table["rows"]:
            if row["name"] == system:
                for column, cell in zip(table["columns"], row["cells"], strict=True):
                    if cell is not None and cell.get("value") is not None:
                        found.setdefault(column["metric"], (column, cell))
    return found


def measured_latents(report: Mapping[str, Any], system: str, config: TraceConfig) -> str | None:
    """What an evaluation says of the latents, with the greatest values that it could have found."""
    row = report_row(report, system)
    if "kl" not in row:
        return None
    positions = report.get("positions", {}).get(system, {})
    caps = {"au": f"of {config.latent_size} dimensions"}
    if positions.get("mi_joint_cap") is not None:
        caps["mi"] = f"at most {positions['mi_joint_cap']:.2f} can be seen with so many texts"
    names = {
        "kl": "KL, nats per text",
        "mi": "mutual information of text and latents, nats",
        "au": "active units",
        "own_z": "the text under its own latents, nats",
        "other_z": "the text under another text's latents, nats",
        "prior_z": "the text under latents from the prior, nats",
        "gain_per_nat": "nats gained per nat of KL (near 0: the latents are not read)",
    }
    rows = [[text, _cell(*row[name]), caps.get(name, "")] for name, text in names.items() if name in row]
    where = f"On {row['kl'][0]['num_texts']} texts of {public_name(report['data']['name'])}"
    return f"## Latents\n\n{where}:\n\n" + _table(["", "value", "cap"], rows)


def evaluation(report: Mapping[str, Any], system: str) -> str | None:
    """The overview of an evaluation's report, and what may not be concluded from it."""
    overview = next((table for table in report["tables"] if table["id"] == "overview"), None)
    if overview is None:
        return None
    heads = [column["label"] for column in overview["columns"]]
    rows = [
        [row["name"], *(_cell(c, cell) for c, cell in zip(overview["columns"], row["cells"], strict=True))]
        for row in overview["rows"]
        if any(cell is not None for cell in row["cells"])
    ]
    data = report["data"]
    parts = [
        "## Evaluation",
        f"{overview['title']}; on {data['num_real']} texts of {public_name(data['name'])}, by `modeling-trace "
        f"{'compare' if len(report['systems']) > 1 else 'evaluate'}`. This model is `{system}`.",
        _table(["", *heads], rows),
    ]
    if report.get("findings"):
        parts.append("What may not be concluded:\n\n" + "\n".join(f"- {finding}" for finding in report["findings"]))
    return "\n\n".join(parts)


def model_index(report: Mapping[str, Any], system: str, name: str) -> list[dict[str, Any]]:
    """The metrics of an evaluation's report in the form that the Hub reads."""
    dataset = public_name(report["data"]["name"])
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=metric,
            metric_name=re.sub(r" *[↑↓]", "", column["label"]),
            metric_value=round(cell["value"], column["decimals"] + 2),
        )
        for metric, (column, cell) in report_row(report, system).items()
    ]
    return ModelCardData(model_name=name.rpartition("/")[2], eval_results=results).to_dict()["model-index"]


def samples(rows: Sequence[Mapping[str, Any]], decoding: str) -> str:
    """Random texts, each as a quotation, after its prompt where it has one."""

    def shown(row: Mapping[str, Any]) -> str:
        text = "> " + " ".join(str(row["text"]).split())
        prompt = row.get("prompt")
        return text if prompt is None else f'On "{" ".join(prompt.split())}":\n\n{text}'

    texts = "\n\n".join(map(shown, rows))
    return f"## Samples\n\nThe first {len(rows)} texts by {decoding}; none was picked or left out.\n\n{texts}"


def limits(config: TraceConfig, is_adapter: bool) -> str:
    """What holds for every such model."""
    rows = []
    if config.latent_dynamics != "none":
        rows.append(
            "Not possible with latents: assisted decoding, static, quantized and paged caches, `inputs_embeds` "
            "prompts and FlashAttention. `generate()` says so."
        )
    if config.conditional:
        rows.append("Every text needs a prompt, which ends with [SEP]: the tokenizer writes both BOS and [SEP].")
    elif config.separator == "token" and has_segments(config.latent_dynamics):
        rows.append(
            "Prompts need [SEP] after each segment, which the tokenizer cannot write by itself: make them by "
            "`TraceProcessor.from_pretrained(...)(prompts, add_eos=False)` of the package modeling_trace."
        )
    else:
        rows.append("Prompts need BOS first: the tokenizer of this repository writes it, the backbone's own may not.")
    context = getattr(config.backbone_config, "max_position_embeddings", None)
    if context is not None:
        rows.append(f"A text has at most {context} tokens, its prompt included.")
    if is_adapter:
        rows.append("This is an adapter: `load_model` of the package modeling_trace puts it on its language model.")
    return "## Limits\n\n" + "\n".join(f"- {row}" for row in rows)


def citation() -> str:
    """The paper."""
    return (
        "## Citation\n\n```bibtex\n@inproceedings{hu-etal-2022-recurrence,\n"
        "  title = {Recurrence Boosts Diversity! Revisiting Recurrent Latent Variable in Transformer-Based "
        "Variational AutoEncoder for Diverse Text Generation},\n"
        "  author = {Hu, Jinyi and Yi, Xiaoyuan and Li, Wenhao and Sun, Maosong and Xie, Xing},\n"
        "  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2022},\n"
        "  year = {2022},\n  pages = {6306--6320},\n  doi = {10.18653/v1/2022.findings-emnlp.470},\n"
        "  url = {https://aclanthology.org/2022.findings-emnlp.470},\n}\n```"
    )


def _cell(column: Mapping[str, Any], cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell.get("value") is None:
        return ""
    text = f"{cell['value']:.{column['decimals']}f}"
    if cell.get("low") is not None and cell.get("high") is not None and cell["high"] > cell["low"]:
        text += f" ± {(cell['high'] - cell['low']) / 2:.{column['decimals']}f}"
    return text


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_value(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else ""
    return str(value).replace("|", "\\|")


__all__ = [
    *("citation", "evaluation", "hub_name", "limits", "measured_latents", "metadata", "model_index", "public_name"),
    *("samples", "title", "trained_latents", "training"),
]
