"""`push`: a trained model's folder to the Hub, with its card, samples and evaluation."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..loading import load_config, load_model
from ..network import check_network, check_repo_id, check_token, hub_errors
from ..utils import atomic_write
from . import sections
from .cards import CARD_NAME
from .publishing import Content, card_for_hub, check_private, hub_card, publish, published_files, without_local_paths

SAMPLES_NAME = "samples.jsonl"
REPORT_FOLDER = "report"
REPORT_FILES = ("report.json", "report.md", "report.html")
DECODING: dict[str, Any] = {"do_sample": True, "top_k": 50}
SAMPLE_TOKENS = 100


@dataclass
class Pushed:
    """
    What went out, or would.

    Args:
        repo_id (`str`): "user/name".
        files (`dict[str, int]`): bytes by name in the repository.
        url (`str`, *optional*): of the commit; None after a dry run.
    """

    repo_id: str
    files: dict[str, int]
    url: str | None = None


def push(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    branch: str | None = None,
    report: str | os.PathLike | None = None,
    num_samples: int = 5,
    prompts: Sequence[str] | None = None,
    language: str | Sequence[str] | None = None,
    license: str | None = None,
    datasets: str | Sequence[str] | None = None,
    token: str | bool | None = None,
    device: str | torch.device | None = None,
    dry_run: bool = False,
) -> Pushed:
    """
    Push a trained model to the Hub: weights, code, processor, card, samples and evaluation, in one commit.

    Nothing else of the folder goes: no optimizer, no training arguments, no texts, no paths of this machine. The card
    keeps what people wrote in it, here or on the Hub. A push that failed is done again whole by the next.

    Args:
        folder (`str` or `os.PathLike`): of a model that [`TraceTrainer`], `modeling-trace train` or `save_pretrained`
            saved, with its processor.
        repo_id (`str`): `"user/name"`, or `"name"` for one of the user's own; made where it is missing.
        private (`bool`, *optional*): whether a new repository is private.
        branch (`str`, *optional*): made where it is missing; by default the main one.
        report (`str` or `os.PathLike`, *optional*): folder of a report of `modeling-trace evaluate` or `compare` that
            has this model; its pages show a few of the real texts. By default `report` in the model's folder, where it
            is there.
        num_samples (`int`, *optional*, defaults to 5): texts to generate for the card, under one seed; 0 for none.
        prompts (`Sequence[str]`, *optional*): what a conditional model's samples are written on, in turn. Without them
            it has no samples.
        language, license, datasets (*optional*): fields of the card's metadata.
        token (`str` or `bool`, *optional*): by default that of `hf auth login`.
        device (`str` or `torch.device`, *optional*): for the samples, as for [`load_model`].
        dry_run (`bool`, *optional*, defaults to `False`): do all but the upload.

    Returns:
        [`Pushed`].

    Raises:
        ValueError: in one line, what is wrong with the folder, the name, the token or the permission.
        ConnectionError: if the Hub does not answer within a few seconds.

    Example:

    ```python
    push("runs/trace", "user/my-trace", private=True, license="mit", language="en")
    ```
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    if not folder.is_dir():
        raise ValueError(f"`folder` must be a trained model's folder, got '{folder}'. Give what training wrote.")
    if not isinstance(num_samples, int) or num_samples < 0:
        raise ValueError(f"`num_samples` must be an integer >= 0, got {num_samples!r}. Use 0 for none.")
    config = load_config(folder)
    if isinstance(prompts, str):
        raise ValueError(f"`prompts` must be a list of prompts, got a string. Use [{prompts!r}].")
    if prompts and not config.conditional:
        raise ValueError("`prompts` are for a conditional model, and this one is not. Leave them out.")
    read = _read_report(folder, report)
    if not dry_run:
        check_token(token)
        check_network()
    model, processor = load_model(folder, device)  # finds weights that are damaged
    base_model = getattr(model, "name_or_path", None) if (folder / "adapter_config.json").is_file() else None
    files = published_files(folder)
    parts: dict[str, str | None] = {}
    metadata: dict[str, Any] = {}
    if num_samples and (prompts or not processor.conditional):
        rows = _samples(model, processor, num_samples, prompts or [None])
        atomic_write(folder / SAMPLES_NAME, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        files[SAMPLES_NAME] = folder / SAMPLES_NAME
        parts["samples"] = sections.samples(rows, "top-k sampling, k = 50, after seed 0")
    if read is not None:
        content, system, pages = read
        files |= pages
        parts["evaluation"] = sections.evaluation(content, system)
        parts["latents"] = sections.measured_latents(content, system, config)
        metadata["model-index"] = sections.model_index(content, system, repo_id)
    there = None
    try:
        check_network()
        with hub_errors(repo_id):
            there = hub_card(repo_id, branch, token)
    except ConnectionError:
        if not dry_run:
            raise
    given = {
        "language": [language] if isinstance(language, str) else language and list(language),
        "license": license,
        "datasets": [datasets] if isinstance(datasets, str) else datasets and list(datasets),
    }
    given = {name: value for name, value in given.items() if value}
    settings = {"base_model": base_model, "parts": parts, "metadata": metadata, "given": given}
    card = card_for_hub(folder, config, repo_id, there, **settings)
    files[CARD_NAME] = card.encode()
    check_private(files, folder)
    pushed = Pushed(repo_id, {name: _size(content) for name, content in sorted(files.items())})
    if not dry_run:
        pushed.url = publish(files, repo_id, private=private, branch=branch, token=token).commit_url
        atomic_write(folder / CARD_NAME, card)  # so that the next push knows what was pushed
    return pushed


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _samples(model, processor, number: int, prompts: Sequence[str | None]) -> list[dict[str, Any]]:
    from ..data import fitting_max_new_tokens, generate_texts

    prompts = [prompts[place % len(prompts)] for place in range(number)]
    length = min(SAMPLE_TOKENS, fitting_max_new_tokens(processor, model.config, prompts))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return generate_texts(model, processor, prompts, max_new_tokens=length, **DECODING)


def _read_report(folder: Path, given: str | os.PathLike | None) -> tuple[dict[str, Any], str, dict[str, bytes]] | None:
    """A report, the name that this model has in it, and its pages without folders of this machine."""
    report = folder / REPORT_FOLDER if given is None else Path(given)
    path = report / REPORT_FILES[0]
    if not path.is_file():
        if given is None:
            return None
        raise ValueError(f"`report` must be a report's folder, found no '{path}'. Use modeling-trace evaluate.")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        systems = {system["name"]: system["path"] for system in content["systems"]}
        names = {name for name in (*systems.values(), content["data"]["name"]) if sections.hub_name(name) is None}
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"`report` '{path}' is no report of modeling-trace evaluate. Write it again.") from None
    own = [name for name, place in systems.items() if os.path.exists(place) and os.path.samefile(place, folder)]
    if not own:
        found = ", ".join(systems)
        raise ValueError(f"`report` must have the model '{folder}', got one of {found}. Evaluate this model.")
    pages: dict[str, bytes] = {}
    for name in REPORT_FILES:
        if (report / name).is_file():
            page = (report / name).read_text(encoding="utf-8")
            for local in sorted(names, key=len, reverse=True):
                if os.path.dirname(local):
                    page = page.replace(local, sections.public_name(local))
            pages[f"{REPORT_FOLDER}/{name}"] = without_local_paths(page).encode()
    return json.loads(pages[f"{REPORT_FOLDER}/{REPORT_FILES[0]}"]), own[0], pages


__all__ = ["Pushed", "push"]
