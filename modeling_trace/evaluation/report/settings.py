"""What an evaluation measures, and how much of it."""

from dataclasses import dataclass, fields

from ..words import WHITESPACE, word_splitter
from .decoding import DECODING

METHOD_NAMES = {  # of the likelihood
    "importance": "importance weighting",
    "particle": "a particle filter",
}
EXTRA_METRICS = ("bert_score", "mauve", "vendi_score")
MIN_TEXTS = 3  # an interval needs texts to leave out


@dataclass
class EvaluationSettings:
    """
    What to measure.

    Args:
        num_samples (`int`): latents drawn per text for L_n (100 in the paper).
        likelihood_method (`str`): `"importance"` or `"particle"`, as in [`evaluate_likelihood`].
        num_likelihood_texts (`int`, *optional*): real texts for likelihood, mutual information and active units; all
            by default.
        num_generated_texts (`int`, *optional*): texts that each system generates for each decoding strategy and seed,
            beside the first so many real ones; as many as there are real texts by default.
        decoding (`tuple[str]`): decoding strategies, of `greedy`, `beam`, `top-k`, `top-p` and `temperature`.
        seeds (`tuple[int]`): of generation; metrics are means over them.
        curve_temperatures (`tuple[float]`): of the tokens, on the plane of quality and diversity, 0 for greedy; empty
            for no plane.
        curve_latent_temperatures (`tuple[float]`): of the latents there, each with each of the tokens; a plain
            language model has none.
        num_curve_texts (`int`): texts for each of its points.
        judge (`str`, *optional*): outside language model, as for [`judge_perplexity`].
        num_judge_texts (`int`, *optional*): texts of each set that the judge reads, all by default; of the plane's
            points it reads all.
        extra_metrics (`tuple[str]`): of `vendi_score`, `mauve` and `bert_score`, which take long.
        max_new_tokens (`int`, *optional*): of a text, [SEP] not counted; by default as the longest real text, at most
            256.
        batch_size (`int`): texts generated or read at once.
        device (`str`, *optional*): where systems and judge run; `"cuda"`, `"mps"` or `"cpu"`, by default the first of
            them that is available.
        confidence (`float`): of the intervals and tests.
        word_tokenizer (`str`): what words are in every metric of them and in `max_words`, see [`word_splitter`].

    Raises:
        ImportError: for a `word_tokenizer` whose package is missing.
        ValueError: for values that cannot be.
    """

    num_samples: int = 100
    likelihood_method: str = "importance"
    num_likelihood_texts: int | None = None
    num_generated_texts: int | None = None
    decoding: tuple[str, ...] = ("greedy", "top-k")
    seeds: tuple[int, ...] = (0,)
    curve_temperatures: tuple[float, ...] = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    curve_latent_temperatures: tuple[float, ...] = (0.0, 0.5, 1.0)
    num_curve_texts: int = 200
    judge: str | None = None
    num_judge_texts: int | None = None
    extra_metrics: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    batch_size: int = 32
    device: str | None = None
    confidence: float = 0.95
    word_tokenizer: str = WHITESPACE

    def __post_init__(self):
        word_splitter(self.word_tokenizer)
        for field in fields(self):
            if isinstance(getattr(self, field.name), list):
                setattr(self, field.name, tuple(getattr(self, field.name)))
        for name in ("num_samples", "batch_size", "max_new_tokens"):
            check_least(name, getattr(self, name), 1)
        for name in ("num_likelihood_texts", "num_generated_texts", "num_judge_texts", "num_curve_texts"):
            check_least(name, getattr(self, name), MIN_TEXTS)
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"`confidence` must be between 0.5 and 1, got {self.confidence}. Use 0.95.")
        for name, known in (("decoding", DECODING), ("extra_metrics", EXTRA_METRICS)):
            unknown = [value for value in getattr(self, name) if value not in known]
            if unknown:
                raise ValueError(f"`{name}` must be of {', '.join(known)}, got '{unknown[0]}'.")
        if self.likelihood_method not in METHOD_NAMES:
            raise ValueError(
                f"`likelihood_method` must be of {', '.join(METHOD_NAMES)}, got '{self.likelihood_method}'."
            )
        for name in ("decoding", "seeds", "curve_temperatures", "curve_latent_temperatures"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"`{name}` must be different ones, got {' '.join(map(str, values))}.")
        for name in ("decoding", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` must hold at least one, got none. Leave it out for the default.")
        for name in ("curve_temperatures", "curve_latent_temperatures"):
            bad = [value for value in getattr(self, name) if not 0 <= value <= 10]
            if bad:
                raise ValueError(f"`{name}` must be from 0 to 10, got {bad[0]:g}. Use 0 1.")
        if self.curve_temperatures and not self.curve_latent_temperatures:
            raise ValueError(
                "`curve_latent_temperatures` must hold at least one temperature, got none. Use 1, or no "
                "`curve_temperatures` for no plane."
            )
        if "mauve" in self.extra_metrics and self.judge is None:
            raise ValueError("`extra_metrics` has 'mauve', which needs a `judge`, got none. Name one.")


def check_least(name: str, value: int | None, least: int) -> None:
    """Raise a ValueError for a number below `least`; None is the default and passes."""
    if value is not None and value < least:
        reason = " An interval needs texts to leave out." if least == MIN_TEXTS else ""
        raise ValueError(f"`{name}` must be >= {least}, got {value}.{reason}")


__all__ = ["METHOD_NAMES", "MIN_TEXTS", "EvaluationSettings", "check_least"]
