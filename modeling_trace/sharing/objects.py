"""What `push_to_hub` of models, processors and Trainers does: the same files, card and errors as `push`."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo

from ..models.configuration_trace import TraceConfig
from ..network import check_network, check_repo_id, check_token, hub_errors
from .cards import CARD_NAME
from .publishing import card_for_hub, check_private, hub_card, publish, published_files

if TYPE_CHECKING:
    from ..data import TraceProcessor
    from ..models.modeling_trace import TraceForConditionalGeneration


def push_folder(
    folder: str | os.PathLike,
    config: TraceConfig,
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    base_model: str | None = None,
    given: Mapping[str, Any] | None = None,
    **kwargs,
) -> CommitInfo:
    """
    Push a folder that a model was just saved in, with its card.

    Args:
        folder (`str` or `os.PathLike`): what is pushed.
        config ([`TraceConfig`]): of the model in it.
        repo_id (`str`): "user/name".
        revision (`str`, *optional*): the branch.
        token (`str` or `bool`, *optional*): of the Hub; by default the one that is logged in.
        base_model (`str`, *optional*): as for [`write_card`].
        given (`Mapping`, *optional*): fields of the card's metadata that a person gives.
        **kwargs: of [`publish`].
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    check_token(token)
    files = published_files(folder)
    check_network()
    with hub_errors(repo_id):
        there = hub_card(repo_id, revision, token)
    card = card_for_hub(folder, config, repo_id, there, base_model=base_model, given=given)
    files[CARD_NAME] = card.encode()
    check_private(files, folder)
    commit = publish(files, repo_id, branch=revision, token=token, **kwargs)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    return commit


def push_model(
    model: "TraceForConditionalGeneration",
    repo_id: str,
    *,
    tags: list[str] | None = None,
    max_shard_size: int | str = "50GB",
    **kwargs,
) -> CommitInfo:
    """`model.push_to_hub`: arguments as there."""
    check_repo_id(repo_id)
    check_token(kwargs.get("token"))
    check_network()  # before a large model is written
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        return push_folder(folder, model.config, repo_id, given={"tags": tags} if tags else None, **kwargs)


def push_processor(processor: "TraceProcessor", repo_id: str, *, revision: str | None = None, **kwargs) -> CommitInfo:
    """`processor.push_to_hub`: arguments as there."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        files = published_files(folder)
        check_private(files, Path(folder))
        return publish(files, repo_id, branch=revision, **{"commit_message": "Upload processor", **kwargs})


__all__ = ["push_folder", "push_model", "push_processor"]
