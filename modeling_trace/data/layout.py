"""How a text lies in a row of ids: from tokens and cuts to `BOS | x_1 | ... | x_T EOS`, and back to the segments."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def cuts_at_closing(ids: list[int], closing: set[int]) -> list[int]:
    """Where new segments start by the rule of [`SegmentRule`]: after the first of a run of closing tokens."""
    ends = [token in closing for token in ids]
    return [i + 1 for i in range(len(ids) - 1) if ends[i] and not (i and ends[i - 1])]


def lay_out(
    prefix: list[int], ids: list[int], cuts: list[int], sep: list[int], eos: list[int], max_length: int | None
) -> list[int]:
    """`prefix | x_1 [SEP] | ... | x_T eos` of one text; see `max_length` of [`~TraceProcessor.__call__`]."""
    fits = max_length is None or len(prefix) + len(ids) + len(cuts) * len(sep) + len(eos) <= max_length
    row, start = list(prefix), 0
    for cut in cuts:
        if not fits and len(row) + cut - start + len(sep) > max_length:
            break
        row += ids[start:cut] + sep
        start = cut
    if fits:
        return row + ids[start:] + eos
    # too long, so the last segment is left out, and every one that stays is closed by [SEP]
    return row if start else row + ids[: cuts[0] if cuts else None][: max_length - len(prefix)]


def segment_ends(
    ids: list[int], closes: list[bool], control: set[int], keep_empty: bool
) -> tuple[list[int], list[int]]:
    """
    The tokens of the text in a row without its prompt, and where among them each segment ends.

    Args:
        ids (`list[int]`): the row.
        closes (`list[bool]`): whether each token closes a segment.
        control (`set[int]`): BOS, [SEP], EOS and PAD, which are no text.
        keep_empty (`bool`): segments without tokens count, as between two [SEP].
    """
    ends, text_ids, is_open = [], [], False
    for token, closed in zip(ids, closes, strict=True):
        if token not in control:
            text_ids.append(token)
            is_open = True
        if closed and (is_open or keep_empty):  # EOS alone has no text
            ends.append(len(text_ids))
            is_open = False
    if is_open:
        ends.append(len(text_ids))
    return text_ids, ends


def segment_texts(tokenizer: "PreTrainedTokenizerBase", ids: list[int], ends: list[int]) -> list[str]:
    """The text of each segment; joined, they are the text of `ids`."""
    # Decoded from the start of the text each time: a tokenizer may drop the blank before a piece's first word, and a
    # cut may fall inside a character, which then goes to the segment that completes it.
    texts, done = [], ""
    for number, end in enumerate(ends):
        text = tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if number < len(ends) - 1:
            text = text.rstrip("\ufffd")
        texts.append(text[len(done) :])
        done = text if len(text) > len(done) else done
    return texts


__all__ = ["cuts_at_closing", "lay_out", "segment_ends", "segment_texts"]
