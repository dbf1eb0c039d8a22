"""The built-in corpus: short reviews from a seeded grammar, with the factors behind every sentence."""

from .generator import ASPECTS, REGISTERS, SENTIMENTS, Review, generate_reviews, review_dataset

__all__ = ["ASPECTS", "REGISTERS", "SENTIMENTS", "Review", "generate_reviews", "review_dataset"]
