"""Texts with the latents that they were written under: write, resample one segment, hold others, read, interpolate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch

from ..data import TraceProcessor, fitting_max_new_tokens
from ..models.editing_trace import _StopAfterSegments
from ..models.gaussian_trace import reparameterize, standard_normal
from ..models.modeling_trace import TraceForConditionalGeneration
from .running import Watch

BATCH_SIZE = 32  # texts that are read at once


@dataclass(frozen=True)
class Draft:
    """
    A text, its segments, and their latents.

    Args:
        ids (`tuple[int, ...]`): its tokens: BOS and prompt first, without padding, EOS where the text has ended.
        segments (`tuple[str, ...]`): the text of each segment, numbered from 1.
        latents (`torch.Tensor` of shape `(num_segments, latent_size)`, *optional*): None of a plain language model.
        prompt_length (`int`): tokens at the start that were given, BOS included.
        num_given (`int`): segments of the text that were given whole, in the prompt.
        held (`frozenset[int]`): segments whose latents stay when an earlier one is resampled.
        temperatures (`Mapping[int, float]`): segments whose latents are drawn at a temperature of their own.
        resampled (`int`, *optional*): the segment that was resampled last.
        before (`tuple[str, ...]`): the segments before that.
    """

    ids: tuple[int, ...]
    segments: tuple[str, ...]
    latents: torch.Tensor | None
    prompt_length: int = 1
    num_given: int = 0
    held: frozenset[int] = frozenset()
    temperatures: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    resampled: int | None = None
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decoding:
    """
    How tokens and latents are drawn.

    Args:
        temperature (`float`): of the tokens, sampled from the whole vocabulary; 0 is greedy.
        latent_temperature (`float`): scales the standard deviation of the latents' prior; 0 takes its mean.
        max_new_tokens (`int`, *optional*): after the prompt; by default what the context holds, at most 256.
    """

    temperature: float = 0.0
    latent_temperature: float = 1.0
    max_new_tokens: int | None = None

    def tokens(self) -> dict[str, Any]:
        """Arguments of `generate()` for the tokens: those of the report's quality-diversity plane."""
        from ..evaluation.report.decoding import sampling_at  # what it imports takes a second

        return sampling_at(self.temperature)


def write(
    model: TraceForConditionalGeneration,
    processor: TraceProcessor,
    num_texts: int,
    prompt: str = "",
    decoding: Decoding = Decoding(),
    watch: Watch | None = None,
    latents_off: bool = False,
) -> list[Draft]:
    """
    Write texts.

    Args:
        model, processor: TRACE or a plain language model, and its processor.
        num_texts (`int`): how many, in one batch.
        prompt (`str`, *optional*): start of the texts, or what a conditional model writes about.
        decoding ([`Decoding`], *optional*).
        watch ([`Watch`], *optional*): of this work.
        latents_off (`bool`, *optional*, defaults to `False`): add nothing for latents (z = 0 and so W_z z = 0): the
            backbone alone, with the weights that it has in TRACE.

    Raises:
        ValueError: for a prompt that is missing or leaves no room.
    """
    ids = _prompt_ids(processor, prompt)
    room = fitting_max_new_tokens(processor, model.config, [prompt] if prompt else [], decoding.max_new_tokens)
    settings = {"max_new_tokens": room, **decoding.tokens()}
    if model.has_latents and latents_off:
        num_latents = 1 if model.one_latent_per_text else len(ids) + room
        settings["latents"] = torch.zeros(num_latents, model.config.latent_size, device=model.device)
    elif model.has_latents:
        settings["latent_temperature"] = decoding.latent_temperature
    out = _generate(model, [ids] * num_texts, watch, settings)
    latents = [None] * num_texts if latents_off or not model.has_latents else out.latents
    return [_draft(processor, row, z, len(ids)) for row, z in zip(out.sequences.tolist(), latents, strict=True)]


def resample(
    model: TraceForConditionalGeneration,
    processor: TraceProcessor,
    draft: Draft,
    segment: int,
    decoding: Decoding = Decoding(),
    watch: Watch | None = None,
) -> Draft:
    """
    Draw the latent of one segment again and write from there on.

    What stands before the segment stays as it is, word for word and latent for latent. Later segments are written
    again: those that are held under the latents that they have, the others under new ones, since their prior depends
    on what came before. Where the last segment is held, the text ends with it.

    Args:
        model, processor: TRACE and its processor.
        draft ([`Draft`]): a text with latents.
        segment (`int`): counted from 1.
        decoding ([`Decoding`], *optional*): its latent temperature is for segments that have none of their own.
        watch ([`Watch`], *optional*): of this work.

    Raises:
        ValueError: for a segment that is not there, is held, or stands in the prompt.
    """
    if draft.latents is None or model.one_latent_per_text:
        raise ValueError("This model has no latent for each segment, and so none to resample. Generate a new text.")
    if not 1 <= segment <= len(draft.segments):
        raise ValueError(f"`segment` must be between 1 and {len(draft.segments)}, got {segment}.")
    if segment in draft.held:
        raise ValueError(f"Segment {segment} is held. Release it first, or resample another one.")
    if segment <= draft.num_given:
        raise ValueError(f"Segment {segment} stands in the prompt and is not written. Choose one after it.")
    ids = torch.tensor([draft.ids])
    before = int((model.segment_rule.segment_ids(ids) < segment).sum())
    kept = list(draft.ids[: max(before, draft.prompt_length)])
    own = draft.latents
    given = torch.full_like(own, float("nan"))
    given[: segment - 1] = own[: segment - 1]
    for number in draft.held:
        if number > segment:
            given[number - 1] = own[number - 1]
    most = decoding.max_new_tokens
    most = None if most is None else max(1, most - (len(kept) - draft.prompt_length))
    settings = {
        "max_new_tokens": _room(model, len(kept), most),
        "latents": given.to(model.device),
        "latent_temperature": decoding.latent_temperature,
        "segment_callback": _draw_at(draft.temperatures, given),
        **decoding.tokens(),
    }
    ends = []
    if len(draft.segments) in draft.held:
        wanted = torch.tensor([len(draft.segments) - (segment - 1)])
        ends.append(_StopAfterSegments(model.segment_rule, torch.ones(1, len(kept)), wanted))
    out = _generate(model, [kept], watch, settings, ends)
    new = _draft(processor, out.sequences[0].tolist(), out.latents[0], draft.prompt_length, start=len(kept))
    numbers = range(1, len(new.segments) + 1)
    return replace(
        new,
        num_given=draft.num_given,
        held=draft.held.intersection(numbers),
        temperatures={number: value for number, value in draft.temperatures.items() if number in numbers},
        resampled=segment,
        before=draft.segments,
    )


def hold(draft: Draft, segments: Sequence[int], held: bool = True) -> Draft:
    """The same text with segments held, or released."""
    changed = draft.held.union(segments) if held else draft.held.difference(segments)
    return replace(draft, held=changed.intersection(range(1, len(draft.segments) + 1)))


def set_temperature(draft: Draft, segment: int, temperature: float) -> Draft:
    """The same text with a temperature for the latent of one segment, at which it is drawn from now on."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"`temperature` must be a number >= 0, got {temperature}. Use 0 for the prior's mean.")
    return replace(draft, temperatures={**draft.temperatures, segment: temperature})


@torch.no_grad()
def read(
    model: TraceForConditionalGeneration,
    processor: TraceProcessor,
    texts: Sequence[str],
    prompt: str = "",
    watch: Watch | None = None,
) -> list[Draft]:
    """
    Texts that are there, with the means of their posterior as latents; texts past the context lose whole segments.

    Args:
        model, processor: TRACE and its processor.
        texts (`Sequence[str]`): the texts.
        prompt (`str`, *optional*): of all texts, for a conditional model.
        watch ([`Watch`], *optional*): of this work, in texts. Stopped, what is read so far is returned.
    """
    limit = _context(model)
    prompts = [prompt] * len(texts) if processor.conditional else None
    if processor.conditional and not prompt.strip():
        raise ValueError("This model writes on a prompt. Enter one.")
    drafts: list[Draft] = []
    for start in range(0, len(texts), BATCH_SIZE):
        if watch is not None and watch.stopped:
            break
        part = slice(start, start + BATCH_SIZE)
        batch = processor(
            list(texts[part]), prompt=prompts and prompts[part], max_length=limit, padding=True, return_tensors="pt"
        ).to(model.device)
        encoded = model.encode(**batch, sample_latents=False)
        for row, mask, segment_ids, latents in zip(
            batch["input_ids"], batch["attention_mask"], encoded.segment_ids, encoded.latents, strict=True
        ):
            prompt_length = int((segment_ids[mask.bool()] == 0).sum())
            drafts.append(_draft(processor, row[mask.bool()].tolist(), latents, prompt_length))
        if watch is not None:
            watch.done = len(drafts)
    return drafts


def interpolate(
    model: TraceForConditionalGeneration,
    processor: TraceProcessor,
    start: str,
    end: str,
    num_steps: int,
    prompt: str = "",
    decoding: Decoding = Decoding(),
    watch: Watch | None = None,
) -> list[Draft]:
    """
    Texts on the straight way from one text's latents to another's, ends included: [`~LatentEditingMixin.interpolate`].

    Args:
        model, processor: TRACE and its processor.
        start, end (`str`): the two texts.
        num_steps (`int`): texts, >= 2.
        prompt (`str`, *optional*): of both texts, for a conditional model.
        decoding ([`Decoding`], *optional*): of the tokens; latents are not drawn here.
        watch ([`Watch`], *optional*): of this work.
    """
    for name, text in (("first", start), ("second", end)):
        if not text.strip():
            raise ValueError(f"The {name} text is empty. Enter one, or take two of those on the first tab.")
    if processor.conditional and not prompt.strip():
        raise ValueError("This model writes on a prompt. Enter one.")
    watch = watch or Watch()
    batch = processor(
        [start, end],
        prompt=[prompt] * 2 if processor.conditional else None,
        max_length=_context(model),
        padding=True,
        return_tensors="pt",
    ).to(model.device)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    settings = decoding.tokens()
    if decoding.max_new_tokens is not None:
        settings["max_new_tokens"] = decoding.max_new_tokens
    out = model.interpolate(
        ids[:1], ids[1:], mask[:1], mask[1:], num_steps=num_steps, stopping_criteria=[watch], **settings
    )
    prompt_length = int((model.segment_rule.segment_ids(ids[:1], mask[:1]) == 0).sum())
    return [
        _draft(processor, row, z, prompt_length) for row, z in zip(out.sequences.tolist(), out.latents, strict=True)
    ]


def latent_map(drafts: Sequence[Draft]) -> tuple[list[dict[str, Any]], tuple[float, float]]:
    """
    The latents of texts in the plane of their two main components (PCA).

    Args:
        drafts (`Sequence[Draft]`): from [`read`], so that latents are posterior means.

    Returns:
        A row for each segment, with `x`, `y`, `segment` (its number), `words` and `text` (number of the draft, from
        1); and the shares of the variance that the two components have.

    Raises:
        ValueError: where there are fewer than three segments.
    """
    rows = [
        {"segment": number, "words": words.strip(), "text": text}
        for text, draft in enumerate(drafts, 1)
        for number, words in enumerate(draft.segments, 1)
    ]
    if len(rows) < 3:
        raise ValueError(f"A map needs at least three segments, got {len(rows)}. Take more texts.")
    latents = torch.cat([draft.latents[: len(draft.segments)] for draft in drafts]).double().cpu()
    centred = latents - latents.mean(dim=0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    variances = torch.nn.functional.pad(values**2, (0, 2))[:2] / (values**2).sum().clamp_min(1e-12)
    points = torch.nn.functional.pad(centred @ directions[:2].t(), (0, 2))[:, :2]
    for row, (x, y) in zip(rows, points.tolist(), strict=True):
        row |= {"x": x, "y": y}
    first, second = variances.tolist()
    return rows, (first, second)


def partial(processor: TraceProcessor, rows: torch.Tensor | None) -> list[tuple[str, ...]]:
    """The segments of texts that are still being written, from [`Watch.rows`]."""
    return [] if rows is None else [tuple(processor.split(_until_end(processor, row, 1))) for row in rows.tolist()]


def _prompt_ids(processor, prompt: str) -> list[int]:
    if processor.conditional:
        if not prompt.strip():
            raise ValueError("This model writes on a prompt. Enter one.")
        return processor(prompt=prompt)["input_ids"]
    return processor(prompt, add_eos=False)["input_ids"] if prompt.strip() else [processor.bos_token_id]


def _generate(model, rows: list[list[int]], watch: Watch | None, settings: dict[str, Any], ends: Sequence = ()):
    ids = torch.tensor(rows, device=model.device)
    watch = watch or Watch()
    watch.total = settings["max_new_tokens"]
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        stopping_criteria=[watch, *ends],
        return_dict_in_generate=True,
        **settings,
    )


def _draft(processor, ids: list[int], latents, prompt_length: int, start: int | None = None) -> Draft:
    """A row of `generate()`, or of the processor, as a draft; what was written begins at `start`."""
    prompt = ids[:prompt_length]
    ids = _until_end(processor, ids, prompt_length if start is None else start)
    segments = tuple(processor.split(ids))
    if latents is not None:
        latents = latents[: max(1, len(segments))].detach().cpu()
    rule = processor.segment_rule
    closed = int(rule.closes(torch.tensor([prompt])).sum()) - int(processor.conditional)
    return Draft(tuple(ids), segments, latents, prompt_length, max(0, closed))


def _until_end(processor, ids: list[int], start: int) -> list[int]:
    """Without what stands after the end of the text: padding."""
    end = processor.eos_token_id
    return ids[: ids.index(end, start) + 1] if end in ids[start:] else ids


def _draw_at(temperatures: Mapping[int, float], given: torch.Tensor):
    """A segment callback that draws the latents of chosen segments at temperatures of their own, of one text."""
    held = ~given.isnan().any(dim=1)

    def draw(latents, prior, rows, segment):
        number = int(segment[0])
        is_held = number <= len(held) and bool(held[number - 1])
        if number not in temperatures or is_held:
            return None
        return reparameterize(*prior, standard_normal(prior[0]), temperatures[number])

    return draw


def _context(model) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _room(model, length: int, most: int | None) -> int:
    limit = _context(model)
    most = 256 if most is None else most
    return max(1, most if limit is None else min(most, limit - length))


__all__ = [
    "Decoding",
    "Draft",
    "hold",
    "interpolate",
    "latent_map",
    "partial",
    "read",
    "resample",
    "set_temperature",
    "write",
]
