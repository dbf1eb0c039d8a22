"""A tokenizer that makes prompts as the model knows them: for those who load it without [`TraceProcessor`]."""

import copy

from tokenizers.processors import Sequence, TemplateProcessing
from transformers import PreTrainedTokenizerBase


def prompt_tokenizer(
    tokenizer: PreTrainedTokenizerBase, bos_token_id: int, conditional: bool
) -> PreTrainedTokenizerBase:
    """
    A copy that adds BOS by itself, or BOS and [SEP] around the prompt of a conditional model, and pads on the left.

    `tokenizer(text)` is then the start of a text, `BOS x_1 x_2 ...`; for a conditional model `tokenizer(prompt)` is
    `BOS prompt [SEP]`, and `tokenizer(prompt, text)` is the whole of `BOS prompt [SEP] x_1 ... EOS`. With
    `separator="token"` the [SEP] between segments are still to be written: a tokenizer cannot know where.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): that of a [`TraceProcessor`]; not changed. A slow one comes back as it
            is: what it adds is in its own code.
        bos_token_id (`int`): the token that starts every text.
        conditional (`bool`): texts have prompts.
    """
    if not tokenizer.is_fast:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    ids = {"bos": bos_token_id, "eos": tokenizer.eos_token_id}
    template = {"single": "{bos} $A", "pair": "{bos} $A $B:1 {eos}:1"}
    if conditional:
        ids["sep"] = tokenizer.sep_token_id
        template = {"single": "{bos} $A {sep}", "pair": "{bos} $A {sep} $B:1 {eos}:1"}
    names = {name: tokenizer.convert_ids_to_tokens(index) for name, index in ids.items()}
    layout = TemplateProcessing(
        **{kind: text.format(**names) for kind, text in template.items()},
        special_tokens=sorted({(names[name], index) for name, index in ids.items()}),
    )
    backend = tokenizer.backend_tokenizer
    before = backend.post_processor
    # what adds tokens is replaced; what only moves offsets, as that of GPT-2, stays before
    keeps = before is not None and before.num_special_tokens_to_add(False) == 0
    backend.post_processor = Sequence([before, layout]) if keeps else layout
    # Transformers saves the settings that a tokenizer was made with; these two would write the layout over
    for name in ("add_bos_token", "add_eos_token"):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    return tokenizer


__all__ = ["prompt_tokenizer"]
