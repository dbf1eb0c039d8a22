"""Text in, batches out: segmenters, the processor, the collator, loading of data sets, and the built-in corpus."""

from ..presets import PAPER_TRAINING, PRESETS, SYSTEMS
from .collator import TraceDataCollator
from .generation import generate_texts
from .loading import load_texts
from .preparation import prepare_dataset
from .processor import TraceProcessor
from .reviews import ASPECTS, REGISTERS, SENTIMENTS, Review, generate_reviews, review_dataset
from .segmenters import FixedLengthSegmenter, RegexSegmenter, Segmenter, SentenceSegmenter
from .tokenizer import train_tokenizer

__all__ = [
    "ASPECTS",
    "PAPER_TRAINING",
    "PRESETS",
    "REGISTERS",
    "SENTIMENTS",
    "SYSTEMS",
    "FixedLengthSegmenter",
    "RegexSegmenter",
    "Review",
    "Segmenter",
    "SentenceSegmenter",
    "TraceDataCollator",
    "TraceProcessor",
    "generate_reviews",
    "generate_texts",
    "load_texts",
    "prepare_dataset",
    "review_dataset",
    "train_tokenizer",
]
