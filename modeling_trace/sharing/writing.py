"""Writing the model card beside a model, from what its folder and its Trainer know."""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import ADAPTER_CONFIG_NAME, PROCESSOR_NAME, logging

from ..models.configuration_trace import TraceConfig
from ..utils import atomic_write
from . import sections
from .cards import CARD_NAME, Card
from .snippets import usage

logger = logging.get_logger(__name__)

TRAINING_FILE = "train_config.yaml"  # of `modeling-trace train`: read here, never pushed


def read_json(path: Path) -> dict[str, Any]:
    """What a file holds, or nothing where it is missing or no JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _training_file(folder: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load((folder / TRAINING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def describe(
    folder: str | os.PathLike,
    config: TraceConfig,
    name: str,
    base_model: str | None = None,
    source: str | os.PathLike | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """
    The metadata and the parts of a card that follow from a model's folder.

    Args:
        folder (`str` or `os.PathLike`): of the model.
        config ([`TraceConfig`]): of the model.
        name (`str`): its repository, or its folder's name.
        base_model (`str`, *optional*): the language model that it was built from, "" for none, where the caller knows.
        source (`str` or `os.PathLike`, *optional*): folder of the training run, where that is another.

    Returns:
        Metadata by field, and Markdown by the name of its part.
    """
    folder = Path(folder)
    trained = _training_file(folder if source is None else Path(source))
    adapter = read_json(folder / ADAPTER_CONFIG_NAME)
    base = base_model
    if base is None:
        base = adapter.get("base_model_name_or_path") or config.get_text_config().name_or_path
    if not base and not trained.get("backbone_config"):
        base = trained.get("backbone")
    data, is_adapter = trained.get("dataset"), bool(adapter)
    segmenter = read_json(folder / PROCESSOR_NAME).get("segmenter")
    metadata = sections.metadata(config, base_model=base, dataset=data, is_adapter=is_adapter, name=name)
    return metadata, {
        "title": sections.title(config, name, base, segmenter),
        "usage": usage(config, name, is_adapter),
        "limits": sections.limits(config, is_adapter),
        "citation": sections.citation(),
    }


def write_card(
    folder: str | os.PathLike,
    config: TraceConfig,
    *,
    name: str | None = None,
    base_model: str | None = None,
    source: str | os.PathLike | None = None,
    parts: Mapping[str, str | None] | None = None,
    given: Mapping[str, Any] | None = None,
    outdated: Collection[str] = (),
    before: str | None = None,
) -> None:
    """
    Write README.md beside a saved model, or bring it up to date; what people wrote in it stays.

    Args:
        folder (`str` or `os.PathLike`): of the model.
        config ([`TraceConfig`]): of the model.
        name (`str`, *optional*): its repository; by default the folder's name.
        base_model, source (*optional*): as for [`describe`].
        parts (`Mapping`, *optional*): further parts that are known, None for those that are not.
        given, outdated: as for [`Card.update`].
        before (`str`, *optional*): the card to start from; by default what is in the folder.
    """
    path = Path(folder, CARD_NAME)
    if before is None and path.is_file():
        before = path.read_text(encoding="utf-8", errors="replace")
    try:
        card = Card.read(before)
    except ValueError as error:  # a save is worth more than its card
        logger.warning(f"The model card in '{folder}' was left as it is: {error}")
        return
    name = name or os.path.basename(os.path.abspath(folder))
    metadata, known = describe(folder, config, name, base_model, source)
    known |= {part: text for part, text in (parts or {}).items() if text}
    card.update(metadata, known, given, outdated)
    atomic_write(path, card.write())


__all__ = ["TRAINING_FILE", "describe", "read_json", "write_card"]
