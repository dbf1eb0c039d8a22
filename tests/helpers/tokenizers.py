"""Tokenizers made on the spot, and texts for them."""

import random
from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
)

from helpers.tiny import VOCAB
from modeling_trace.data import (
    SentenceSegmenter,
    generate_reviews,
)

TEXTS = [
    "The soup was cold. We waited for an hour!  Nobody said sorry.",
    "Great place :) Dr. Brown comes here, too. His wife (a chef) loves it.",
    'She said: "Come back!" We did.\n\nThe second time was better...   Much better.',
    "Café Zoë sells naïve 😀 cakes. 😀 They smile. Ünder 5 €!",
    "one two three four five six seven eight nine ten eleven twelve thirteen",
    "  leading and trailing blanks.  ",
    "No full stop here",
    "x",
]


def byte_level(texts=TEXTS, trim_offsets=False):
    """As GPT-2: byte-level BPE, one special token that is BOS, EOS and unknown at once."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim_offsets)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", unk_token="<|endoftext|>")


def metaspace(texts=TEXTS):
    """As Llama: blanks are part of the words, unknown characters become bytes, BOS and EOS differ."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="first")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def word_level(texts=TEXTS):
    """Whole words; blanks are no part of the tokens and are lost."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]", "[EOS]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[EOS]", pad_token="[PAD]", unk_token="[UNK]")


@cache
def punkt():
    """Punkt parameters learnt from what a user might have: a few hundred texts."""
    texts = [review.text for review in generate_reviews(300)]
    texts += ["We met Dr. Brown at 5 p.m. on Sunday.", "Dr. Brown left. Dr. Green came at 6 p.m. and stayed."] * 5
    return SentenceSegmenter().fit(texts).to_dict()["punkt"]


TOKENIZERS = {
    "byte_level": byte_level,
    "byte_level_trimmed": lambda: byte_level(trim_offsets=True),
    "metaspace": metaspace,
    "word_level": word_level,
}


def random_texts(count, seed=0):
    rng = random.Random(seed)
    pieces = [*"abcXYZ .,!?\n'\"()-é😀€ ", ". ", ".  ", "! ", "\n\n", " the ", " Mr. ", "soup", "Was ", "...", "\t"]
    texts = ("".join(rng.choices(pieces, k=rng.randint(1, 40))) for _ in range(3 * count))
    return [text for text in texts if text.strip()][:count]


def word_tokenizer(**special):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<s>", "</s>", "<pad>", *(f"w{i}" for i in range(VOCAB - 3))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} | special)
    )
