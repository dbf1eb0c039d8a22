"""Which files of a model's folder go to the Hub, and their upload: one commit, so all of them or none."""

import fnmatch
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..models.configuration_trace import TraceConfig
from ..network import check_network, check_repo_id, check_token, hub_errors
from . import sections
from .cards import CARD_NAME, Card, meet
from .writing import describe, read_json

# All that a stranger needs. Everything else stays: optimizers, arguments, logs, texts, other checkpoints.
PUBLISHED = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "adapter_config.json"),
    *("*_trace.py", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
    *("sentencepiece.bpe.model", "chat_template.jinja", "samples.jsonl"),
)
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
# Absolute, of two parts or more; what is none of this machine's is left alone
_LOCAL_PATH = re.compile(r"""(?:/[^\s/"'<>|,;:*?\\`()]+){2,}""")
_TEXTS = (".json", ".jsonl", ".md", ".html", ".jinja", ".txt")

Content = Path | bytes


def published_files(folder: str | os.PathLike) -> dict[str, Content]:
    """
    What of a model's folder may go out, without its card: by name, a file's path or its changed content.

    Args:
        folder (`str` or `os.PathLike`): where a model, an adapter or a processor was saved.

    Raises:
        ValueError: for an adapter of a language model in a folder of this machine.
    """
    folder = Path(folder)
    files: dict[str, Content] = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in PUBLISHED)
    }
    if SAFE_WEIGHTS_NAME in files and SAFE_WEIGHTS_INDEX_NAME in files:  # of an earlier save; the former loads
        shards = set(read_json(folder / SAFE_WEIGHTS_INDEX_NAME).get("weight_map", {}).values())
        files = {name: path for name, path in files.items() if name not in {SAFE_WEIGHTS_INDEX_NAME, *shards}}
    adapter = read_json(folder / ADAPTER_CONFIG_NAME)
    base = adapter.get("base_model_name_or_path")
    if adapter and sections.hub_name(base) is None:
        raise ValueError(
            f"the adapter in '{folder}' is for a language model that others do not have, '{base}'. Push the whole "
            "model: load_model(folder)[0].save_pretrained(other_folder)."
        )
    config = read_json(folder / CONFIG_NAME)
    if config and _without_local_names(config):
        files[CONFIG_NAME] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    return files


def _without_local_names(config: dict[str, Any]) -> bool:
    """Empty the names of folders in a configuration, in place; whether there were any."""
    changed = False
    for key, value in config.items():
        if isinstance(value, dict):
            changed |= _without_local_names(value)
        elif key in ("_name_or_path", "name_or_path") and value and sections.hub_name(value) is None:
            config[key], changed = "", True
    return changed


def without_local_paths(text: str) -> str:
    """A text in which paths of files and folders that are on this machine are their last parts."""

    def last_part(found: re.Match) -> str:
        path = found[0].rstrip(".")
        return found[0].replace(path, os.path.basename(path)) if os.path.exists(path) else found[0]

    return _LOCAL_PATH.sub(last_part, text)


def check_private(files: Mapping[str, Content], folder: Path) -> None:
    """
    Look for this machine's folders in what goes out.

    Raises:
        ValueError: if a file names one.
    """
    local = {str(Path.home()), str(folder.absolute()), str(folder.resolve()), os.getcwd()}
    local = {path for path in local if len(Path(path).parts) > 2}
    for name, content in files.items():
        if name.endswith(_TEXTS):
            text = content if isinstance(content, bytes) else content.read_bytes()
            found = next((path for path in sorted(local) if path.encode() in text), None)
            if found is None and not name.startswith(("tokenizer", "vocab", "merges", "added", "samples")):  # words
                paths = (match[0].rstrip(".") for match in _LOCAL_PATH.finditer(text.decode(errors="replace")))
                found = next((path for path in paths if os.path.exists(path)), None)
            if found is not None:
                raise ValueError(f"'{name}' names '{found}', which is on this machine. Take it out, then push again.")


def hub_card(repo_id: str, branch: str | None, token: str | bool | None) -> Card | None:
    """
    The card that is on the Hub, None where there is none.

    Raises:
        what the Hub answers, for [`hub_errors`], if it says neither: people's edits could be written over.
    """
    try:
        try:
            # forced: else the cache answers for a Hub that fails, with an earlier card or as if there were none
            path = HfApi().hf_hub_download(repo_id, CARD_NAME, revision=branch, token=token, force_download=True)
        except ValueError as error:  # "Force download failed due to the above error"
            raise (error.__cause__ or error) from None
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        return None
    return Card.read(Path(path).read_text(encoding="utf-8"))


def publish(
    files: Mapping[str, Content],
    repo_id: str,
    *,
    private: bool | None = None,
    branch: str | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    **kwargs,
) -> CommitInfo:
    """
    One commit with these files; weights that are in the repository and not among them, of an earlier push, go.

    Args:
        files (`Mapping[str, Content]`): by their names in the repository.
        repo_id (`str`): made where it is missing.
        private (`bool`, *optional*): whether a new repository is private.
        branch (`str`, *optional*): made where it is missing; by default the main one.
        token (`str` or `bool`, *optional*): by default that of `hf auth login`.
        commit_message (`str`, *optional*).
        **kwargs: of `HfApi.create_commit`.

    Returns:
        `CommitInfo`: of huggingface_hub, with `commit_url` and `oid`.

    Raises:
        ValueError: what the Hub refused, in one line.
        ConnectionError: if it could not be reached.
    """
    check_repo_id(repo_id)
    check_token(token)
    check_network()
    api = HfApi(token=token)
    with hub_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if branch is not None:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        operations: list[Any] = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        if any(fnmatch.fnmatch(name, pattern) for name in files for pattern in WEIGHTS):
            there = api.list_repo_files(repo_id, revision=branch)
            stale = [name for name in there if any(fnmatch.fnmatch(name, p) for p in WEIGHTS) and name not in files]
            operations += [CommitOperationDelete(name) for name in stale]
        message = commit_message or "Upload model"
        return api.create_commit(repo_id, operations, commit_message=message, revision=branch, **kwargs)


def card_for_hub(
    folder: Path,
    config: TraceConfig,
    repo_id: str,
    there: Card | None,
    *,
    base_model: str | None = None,
    parts: Mapping[str, str | None] | None = None,
    metadata: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
) -> str:
    """
    The card of a folder, brought up to date and put together with that on the Hub.

    Args:
        folder (`Path`), config ([`TraceConfig`]), repo_id (`str`).
        there ([`Card`], *optional*): on the Hub.
        base_model (`str`, *optional*): as for [`describe`].
        parts, metadata (`Mapping`, *optional*): what else is known.
        given (`Mapping`, *optional*): fields of the metadata that a person gives.

    Raises:
        ValueError: if both cards were edited.
    """
    path = folder / CARD_NAME
    here = Card.read(path.read_text(encoding="utf-8") if path.is_file() else None)
    card = meet(here, there)
    fields, known = describe(folder, config, repo_id, base_model)
    known |= {name: text for name, text in (parts or {}).items() if text}
    card.update({**fields, **(metadata or {})}, known, given)
    card.pushed = card.edits
    return card.write()


__all__ = [
    "PUBLISHED",
    "Content",
    "card_for_hub",
    "check_private",
    "hub_card",
    "publish",
    "published_files",
    "without_local_paths",
]
