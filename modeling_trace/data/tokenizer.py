"""A tokenizer trained on the user's own texts, for backbones that start from scratch."""

from collections.abc import Iterable

from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8000) -> PreTrainedTokenizerFast:
    """
    A byte-level BPE tokenizer, as GPT-2's, whose end-of-text token is BOS, EOS and PAD.

    Args:
        texts (`Iterable[str]`): what to train it on.
        vocab_size (`int`, *optional*, defaults to 8000): tokens, with end of text and room for [SEP].

    Example:

    ```python
    >>> from modeling_trace.data import generate_reviews, train_tokenizer

    >>> tokenizer = train_tokenizer([review.text for review in generate_reviews(200)], vocab_size=500)
    >>> tokenizer.eos_token
    '<|endoftext|>'
    ```
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
