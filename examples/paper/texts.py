"""The texts of an experiment: its three splits, cut once for all systems, and the tokenizer that cuts them."""

from dataclasses import dataclass

from datasets import Dataset
from experiment import Scale
from plan import key_of
from splits import load_splits
from transformers import PreTrainedTokenizerBase

from modeling_trace import TraceProcessor
from modeling_trace.data import train_tokenizer

BLOCK = 1000  # texts to tokenize at once: each token has some hundred bytes of offsets
NUM_REFERENCES = 10_000


@dataclass
class Texts:
    """
    Args:
        train, validation, test (`datasets.Dataset`): columns `text` and, for conditional ones, `prompt`; cut.
        tokenizer (`PreTrainedTokenizerBase`): the backbone's, or a new one of the training texts.
        train_hash, test_hash (`str`): of the content of what is trained on, and of what is measured on.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    tokenizer: PreTrainedTokenizerBase
    train_hash: str
    test_hash: str


def load_cut_texts(name_or_path: str, conditional: bool, scale: Scale) -> Texts:
    """
    Args:
        name_or_path (`str`): as for `splits.load_splits`.
        conditional (`bool`): texts have prompts.
        scale ([`Scale`]): how many texts, and where they are cut. A text that is cut there ends there for every
            system, in likelihood as in all metrics of texts.
    """
    parts = load_splits(name_or_path, "prompts" if conditional else "texts")
    limits = {"train": scale.train_texts, "validation": NUM_REFERENCES, "test": scale.test_texts}
    parts = {
        name: part.shuffle(seed=0).select(range(min(limits[name] or len(part), len(part))))
        for name, part in parts.items()
    }
    if isinstance(scale.backbone, str):
        tokenizer = TraceProcessor.from_backbone(scale.backbone, None).tokenizer
    else:
        columns = ["text", "prompt"] if conditional else ["text"]
        tokenizer = train_tokenizer([text for name in columns for text in parts["train"][name]], scale.vocab_size)
    lengths = {"text": scale.text_tokens} | ({"prompt": scale.prompt_tokens} if conditional else {})
    parts = {
        name: Dataset.from_dict({column: cut(part[column], tokenizer, most) for column, most in lengths.items()})
        for name, part in parts.items()
    }
    content = {name: part.to_dict() for name, part in parts.items()}
    vocabulary = tokenizer.backend_tokenizer.to_str()
    return Texts(
        **parts,
        tokenizer=tokenizer,
        train_hash=key_of([content["train"], vocabulary]),
        test_hash=key_of([content["test"], content["validation"]]),
    )


def cut(texts: list[str], tokenizer: PreTrainedTokenizerBase, most: int) -> list[str]:
    """The beginning of each text, of at most so many tokens."""
    beginnings = []
    for first in range(0, len(texts), BLOCK):
        block = list(texts[first : first + BLOCK])
        encoded = tokenizer(block, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        beginnings += [
            text if len(offsets) <= most else text[: offsets[most - 1][1]]
            for text, offsets in zip(block, encoded["offset_mapping"], strict=True)
        ]
    return beginnings


__all__ = ["Texts", "cut", "load_cut_texts"]
