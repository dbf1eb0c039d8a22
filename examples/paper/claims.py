"""
What the paper claims, and by what rules results decide whether it holds. The place of a claim is a section of the
paper or a table; no number of ours or theirs is written here but the factors of the rules. What all share: rules.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pooled import REAL, Pooled, Results, cell, label
from rules import (
    FAILS,
    HOLDS,
    MARGIN,
    MIN_SEEDS,
    OPEN,
    OUTCOMES,
    Part,
    chance,
    combine,
    compare,
    decide_not_worse,
    not_enough,
)

from modeling_trace import TraceConfig
from modeling_trace.evaluation.report.equal_quality import LEVELS
from modeling_trace.evaluation.report.tables import LENGTH_RATIO
from modeling_trace.presets import RECIPES, SYSTEMS

SHORT_SEGMENTS = 5  # tokens: at lengths up to this one Sec. 5.8 says how much faster TRACE-P is
LONG_TEXTS = 200  # words; those of Sec. 5.5.2 have 421
VANISHED = 10  # KL at most one in so many of TRACE-R's; the published ones are 1 in 50 (Yelp) and 1 in 21 (Yahoo)
NO_SCALE = ("smoke",)  # tests of the runner: nothing is learned in a few steps
BASELINES = ("ind", "cgd", "no-recurrence")
DIVERSITY = {"self_bleu": -1, "distinct_2": 1, "jaccard": -1}
WORDS = {-1: "lower", 1: "higher"}
TOP_K = {"decoding": "top-k"}
# The paper does not say how these are computed: a claim holds or fails by both readings, or is not told
OTHER_READING = {"neg_elbo": ("neg_elbo_mean_kl", "the KL as a mean over segments and dimensions")}

Evidence = Mapping[str, Results]  # by experiment, of one scale and recipe


@dataclass(frozen=True)
class Pairs:
    """
    One system against others, in each data set.

    Args:
        experiment (`str`): of whose results.
        first (`str`), seconds (`Sequence[str]`): systems.
        metrics (`Mapping[str, int]`): -1 where `first` is to be lower, 1 where higher.
        where (`Mapping`): further labels of both.
        not_worse (`bool`): `first` need not be better, only no worse.
        factor (`float`): the metric of `first` is to be lower or higher after multiplication by it.
        least_words (`int`): what the claim is of: nothing is told where the real texts have fewer words on average.
    """

    experiment: str
    first: str
    seconds: Sequence[str]
    metrics: Mapping[str, int]
    where: Mapping[str, Any] = field(default_factory=dict)
    not_worse: bool = False
    factor: float = 1.0
    least_words: int = 0

    def parts(self, evidence: Evidence) -> list[Part]:
        results = evidence.get(self.experiment)
        if results is None:
            return [Part(OPEN, f"{self.experiment}: not run")]
        return [
            self._part(results, dataset, metric, direction, second)
            for dataset in results.datasets
            for metric, direction in self.metrics.items()
            for second in self.seconds
        ]

    def _part(self, results: Results, dataset: str | None, metric: str, direction: int, second: str) -> Part:
        places = [{"dataset": dataset, **self.where, "system": system} for system in (self.first, second)]
        part = compare(results, metric, direction, *places, self.factor, not_worse=self.not_worse)
        if metric in OTHER_READING:
            other, how = OTHER_READING[metric]
            again = compare(results, other, direction, *places, self.factor, not_worse=self.not_worse)
            if again.outcome != part.outcome:
                part = Part(OPEN, f"{part.text} ({part.outcome}); by {how}: {again.text} ({again.outcome})")
        if self.least_words:
            words = results.find("words", dataset=dataset, system=REAL)
            if isinstance(words, str) or words.mean < self.least_words:
                known = words if isinstance(words, str) else f"real texts of {words.mean:.0f} words"
                part = Part(OPEN, f"{part.text}; {known}, and the claim is of {self.least_words} or more")
        return part

    @property
    def rule(self) -> str:
        kinds = []
        for direction in (-1, 1):
            names = [label(metric) for metric, own in self.metrics.items() if own == direction]
            if names:
                worse = {-1: "not higher", 1: "not lower"}[direction]
                kinds.append(f"{worse if self.not_worse else WORDS[direction]} in {', '.join(names)}")
        if self.factor != 1:
            kinds = [f"{self.factor:g} times {kind}" for kind in kinds]
        where = "".join(f", {value}" for value in self.where.values())
        return f"{self.experiment}{where}: {self.first} {' and '.join(kinds)} than {', '.join(self.seconds)}"


@dataclass(frozen=True)
class Check:
    """A rule that is no comparison of systems: `parts` of the evidence, and its words."""

    parts: Callable[[Evidence], list[Part]]
    rule: str


@dataclass(frozen=True)
class Claim:
    """
    Args:
        title (`str`): in our words.
        place (`str`): where the paper makes it.
        checks (`Sequence`): of [`Pairs`] and [`Check`]; all must hold.
        in_abstract (`bool`).
    """

    title: str
    place: str
    checks: Sequence[Pairs | Check]
    in_abstract: bool = False

    @property
    def rule(self) -> str:
        return "; ".join(check.rule for check in self.checks)

    def judge(self, evidence: Evidence) -> tuple[str, list[Part]]:
        """The outcome and the parts that it rests on, the failed ones first."""
        parts = list(dict.fromkeys(part for check in self.checks for part in check.parts(evidence)))
        scales = {results.scale for results in evidence.values()}
        if scales & set(NO_SCALE):
            parts = [Part(OPEN, f"{part.text}; the scale {', '.join(scales)} tells nothing") for part in parts]
        parts.sort(key=lambda part: OUTCOMES.index(part.outcome))
        return combine(parts), parts


def _speed(evidence: Evidence, lengths: Callable[[list[int]], list[int]], factor: float, equal: bool = False):
    """TRACE-P's step against TRACE-R's, at some of the segment lengths."""
    results = evidence.get("figure2")
    if results is None:
        return [Part(OPEN, "figure2: not run")]
    measured = sorted(length for length in results.labels("segment_length") if isinstance(length, int))
    chosen = lengths(measured)
    if not chosen:
        return [Part(OPEN, f"figure2: no such segment length, but {', '.join(map(str, measured)) or 'none'}")]
    parts = [
        compare(
            results,
            "seconds_per_step",
            -1,
            {"segment_length": length, "system": first},
            {"segment_length": length, "system": second},
            factor,
            not_worse=equal,
        )
        for length in chosen
        for first, second in [("trace-p", "trace-r")] + ([("trace-r", "trace-p")] if equal else [])
    ]
    device = str((results.content.get("machine") or {}).get("device", "an unknown device"))
    if device.startswith("cpu"):  # the paper's claim is of a GPU, which does in parallel what a processor does in turn
        return [Part(OPEN, f"on {device}, which shows no parallelism: {part.text}") for part in parts]
    return [part._replace(text=f"on {device}, {part.text}") for part in parts]


def _by_segment_length(evidence: Evidence) -> list[Part]:
    results = evidence.get("figure3")
    if results is None:
        return [Part(OPEN, "figure3: not run")]
    parts = []
    for dataset in results.datasets:
        where = {"dataset": dataset, "system": "trace-r", **TOP_K}
        lengths = sorted(one for one in results.labels("segment_length", **where) if isinstance(one, int))
        if len(lengths) < 2:
            parts.append(Part(OPEN, f"figure3, {dataset}: {len(lengths)} segment lengths of trace-r"))
            continue
        short, long = ({**where, "segment_length": one} for one in (lengths[0], lengths[-1]))
        parts.append(compare(results, "self_bleu", -1, short, long))
    return parts


def _floor(evidence: Evidence) -> list[Part]:
    """The least KL of all seeds against the floor of Theorem 1 at sigma = 1 and beta = 0, gamma^2 / 2 a dimension."""
    results = evidence.get("table2")
    if results is None:
        return [Part(OPEN, "table2: not run")]
    parts = []
    for dataset in results.datasets:
        for system in ("trace-r", "trace-p"):
            found = results.find("kl_per_dim", dataset=dataset, system=system, **TOP_K)
            name = f"{dataset}, {label('kl_per_dim')} of {system}: "
            if isinstance(found, str):
                parts.append(Part(OPEN, name + found))
                continue
            recipe = RECIPES[results.recipe].model if results.recipe in RECIPES else {}
            config = TraceConfig(**{**recipe, **SYSTEMS[system].model})
            floor = config.posterior_norm_gamma**2 / 2
            shown = f"{name}at least {min(found.values):.3g} over seeds, floor {floor:.3g}"
            if config.residual_scale != "prior":
                parts.append(Part(OPEN, f"{shown} divided by the prior's variance, which is not known here"))
            elif len(found.values) < MIN_SEEDS:
                parts.append(Part(OPEN, f"{shown}; {len(found.values)} seed"))
            else:
                # beta is learned, and the norm has an epsilon: what lies just below the floor lies on it
                near = OPEN if min(found.values) >= floor * (1 - MARGIN) else FAILS
                parts.append(Part(HOLDS if min(found.values) >= floor else near, shown))
    return parts


def _equal_quality(evidence: Evidence) -> list[Part]:
    """
    Self-BLEU where the judge's perplexity is the same, TRACE-R against the plain model, by seeds; between texts of
    like length alone.
    """
    results = evidence.get("plane")
    if results is None:
        return [Part(OPEN, "plane: not run")]
    return [part for dataset in results.datasets for part in _equal_quality_of(results, dataset)]


def _equal_quality_of(results: Results, dataset: str | None) -> list[Part]:
    systems = ("trace-r", "gpt2")
    name = f"plane, {dataset}, {label('self_bleu')} at equal judged quality"
    found: dict[Any, list[list[Readings]]] = {}  # by seed: of each level, what the curves of both systems are there
    for seed in results.labels("seed", decoding="plane"):
        where = {"decoding": "plane", "dataset": dataset, "seed": seed}
        curves = [plane_curves(results, system=system, **where) for system in systems]
        if all(curves):
            low = max(min(line[0][0] for line in own.values()) for own in curves)
            high = min(max(line[0][-1] for line in own.values()) for own in curves)
            levels = [low + share * (high - low) for share in LEVELS]
            rows = [[_readings(own, level) for own in curves] for level in levels]
            if low < high and all(map(all, rows)):
                found[seed] = rows
    if not found:
        return [Part(OPEN, f"{name}: no range of quality that {' and '.join(systems)} share")]
    parts = []
    for place, share in enumerate(LEVELS):
        chosen = [_chosen([rows[place][column] for rows in found.values()]) for column in (0, 1)]
        first, second = (Pooled(tuple(one[0] for one in own), tuple(found)) for own in chosen)
        words = [sum(one[1] for one in own) / len(own) for own in chosen]
        text = f"{name}, {share:.0%} of the shared range: trace-r {cell(first, 'self_bleu')}, "
        text += f"gpt2 {cell(second, 'self_bleu')}"
        reason = not_enough(first, second)
        if not max(words) <= LENGTH_RATIO * min(words):  # NaN where they are not known
            reason = f"texts of {words[0]:.0f} and {words[1]:.0f} words do not compare"
        outcome = OPEN if reason else decide_not_worse(first, second, -1)
        parts.append(Part(outcome, text + (f"; {reason}" if reason else ""), chance(first, second)))
    return parts


Readings = dict[Any, tuple[float, float]]  # by latent temperature: Self-BLEU and words at one quality
Curve = tuple[list[float], list[float], list[float]]  # nats per word of the judge, ascending; Self-BLEU; words


def _readings(curves: Mapping[Any, Curve], level: float) -> Readings:
    """Of the curves that reach this quality."""
    return {
        temperature: (float(np.interp(level, line[0], line[1])), float(np.interp(level, line[0], line[2])))
        for temperature, line in curves.items()
        if line[0][0] <= level <= line[0][-1]
    }


def _chosen(of_seeds: Sequence[Readings]) -> list[tuple[float, float]]:
    """
    A reading for each seed, at the latent temperature that is best by the mean over the *other* seeds: the best of
    several noisy curves looks better than it is. Where no other seed is, or none reached it, all readings are in it.
    """
    chosen = []
    for place, own in enumerate(of_seeds):
        others = [one for other, one in enumerate(of_seeds) if other != place] or [own]
        means = {
            temperature: float(np.mean([one[temperature][0] for one in others if temperature in one] or [math.inf]))
            for temperature in own
        }
        chosen.append(own[min(means, key=means.get)])
    return chosen


def plane_curves(results: Results, **where) -> dict[Any, Curve]:
    """One for each latent temperature, of settings with different texts; a single point is no curve."""
    curves: dict[Any, list[tuple[float, float, float]]] = {}
    for labels, rows in results.groups(**where):
        metrics = [row["metrics"] for row in rows if not row.get("failed")]
        if metrics and None not in (metrics[0].get("judge"), metrics[0].get("self_bleu")):
            if metrics[0].get("different", math.inf) > 1:
                words = metrics[0].get("words")
                point = math.log(metrics[0]["judge"]), metrics[0]["self_bleu"], math.nan if words is None else words
                curves.setdefault(labels.get("latent_temperature"), []).append(point)
    return {
        temperature: tuple(map(list, zip(*sorted(own), strict=True)))
        for temperature, own in curves.items()
        if len(own) > 1
    }


# ---- The claims ----

CLAIMS = (
    Claim(
        "Recurrent latents make texts more varied",
        "Abstract; Sec. 5.5, Tables 2 and 3",
        (
            Pairs("table2", "trace-r", ("gpt2", *BASELINES), DIVERSITY, TOP_K),
            Pairs("table3", "trace-r", BASELINES, {"self_bleu": -1, "distinct_2": 1}, TOP_K),  # as its text says
        ),
        in_abstract=True,
    ),
    Claim(
        "Quality stays satisfactory",
        "Abstract; Sec. 5.5, Tables 2 and 3",
        (
            Pairs("table2", "trace-r", ("gpt2",), {"ppl": -1, "cnd": -1}, TOP_K, not_worse=True),
            Pairs("table3", "trace-r", ("gpt2",), {"bleu": 1, "rouge1": 1, "rougeL": 1}, TOP_K, not_worse=True),
            Check(
                _equal_quality,
                "plane: where the judge likes the texts equally, at three levels of the range that both reach, "
                "Self-BLEU of trace-r not higher than of gpt2",
            ),
        ),
        in_abstract=True,
    ),
    Claim(
        "The approximation gives training its parallelism back",
        "Abstract; Sec. 5.8, Fig. 2",
        (
            Check(
                lambda evidence: _speed(evidence, lambda all_: [one for one in all_ if one <= SHORT_SEGMENTS], 1.0),
                f"figure2: trace-p's step takes less time than trace-r's at each length up to {SHORT_SEGMENTS}",
            ),
        ),
        in_abstract=True,
    ),
    Claim(
        "The KL has a lower bound that is not zero",
        "Abstract; Theorem 1, Table 2",
        (
            Check(
                _floor,
                "table2: in each seed the KL of trace-r and trace-p, per segment and dimension, is at least gamma^2/2",
            ),
            Pairs("table2", "trace-r", ("cgd",), {"kl": 1}, TOP_K),
        ),
        in_abstract=True,
    ),
    Claim(
        "TRACE represents texts better: bound, mutual information, active units",
        "Sec. 5.5.1, Table 2",
        (
            Pairs("table2", "trace-r", BASELINES, {"neg_elbo": -1, "au": 1}, TOP_K),
            Pairs("table2", "trace-r", ("ind", "cgd"), {"mi": 1}, TOP_K),  # of one latent a text it has another cap
        ),
    ),
    Claim(
        "CGD's KL vanishes",
        "Sec. 5.5.1, Table 2",
        (Pairs("table2", "cgd", ("trace-r", "trace-p"), {"kl": -1}, TOP_K, factor=VANISHED),),
    ),
    Claim(
        "CGD's texts are the least varied",
        "Sec. 5.5.1, Table 2",
        (Pairs("table2", "cgd", ("ind", "no-recurrence", "trace-r", "trace-p"), {"self_bleu": 1}, TOP_K),),
    ),
    Claim(
        "TRACE-P is still more varied than the baselines",
        "Sec. 5.5.1, Table 2",
        (Pairs("table2", "trace-p", BASELINES, {"self_bleu": -1}, TOP_K),),
    ),
    Claim(
        "On short texts TRACE-R is more varied than TRACE-P",
        "Sec. 5.5.1, Table 2",
        (Pairs("table2", "trace-r", ("trace-p",), {"self_bleu": -1, "distinct_2": 1}, TOP_K),),
    ),
    Claim(
        "On long texts TRACE-P is more varied than TRACE-R",
        "Sec. 5.5.2, Table 3",
        (Pairs("table3", "trace-p", ("trace-r",), {"self_bleu": -1, "distinct_2": 1}, TOP_K, least_words=LONG_TEXTS),),
    ),
    Claim(
        "People find TRACE-R's stories the most novel, and no less fluent or coherent than GPT-2's",
        "Sec. 5.6, Table 4",
        (
            Pairs("table4", "trace-r", ("gpt2", *BASELINES), {"novelty": 1}),
            Pairs("table4", "trace-r", ("gpt2",), {"fluency": 1, "coherence": 1}, not_worse=True),
        ),
    ),
    Claim(
        "Layer normalisation and the residual posterior each serve bound and diversity",
        "Sec. 5.7, Table 5",
        (Pairs("table5", "trace-r", ("trace-r-LN", "trace-r-RP"), {"neg_elbo": -1, "self_bleu": -1}, TOP_K),),
    ),
    Claim(
        "Layer normalisation is better than batch normalisation",
        "Sec. 5.7, Table 5",
        (Pairs("table5", "trace-r", ("trace-r+BN",), {"neg_elbo": -1, "cnd": -1, "self_bleu": -1}, TOP_K),),
    ),
    Claim(
        "Spectral normalisation serves TRACE-P",
        "Sec. 5.7, Table 5",
        (Pairs("table5", "trace-p", ("trace-p-SN",), {"neg_elbo": -1, "cnd": -1, "self_bleu": -1}, TOP_K),),
    ),
    Claim(
        "Under greedy and beam decoding, too, TRACE-R is the most varied",
        "Sec. 5.8, Table 6",
        tuple(
            Pairs("table6", "trace-r", BASELINES, {"self_bleu": -1, "distinct_2": 1}, {"decoding": decoding})
            for decoding in ("greedy", "beam")
        ),
    ),
    Claim(
        "With segments of one token TRACE-P's step is more than twice as fast",
        "Sec. 5.8, Fig. 2",
        (
            Check(
                lambda evidence: _speed(evidence, lambda all_: [one for one in all_ if one == 1], 2.0),
                "figure2: twice a step of trace-p takes less time than one of trace-r at length 1",
            ),
        ),
    ),
    Claim(
        "With segments of five tokens it is half as fast again",
        "Sec. 5.8, Fig. 2",
        (
            Check(
                lambda evidence: _speed(evidence, lambda all_: [one for one in all_ if one == 5], 1.5),
                "figure2: 1.5 times a step of trace-p takes less time than one of trace-r at length 5",
            ),
        ),
    ),
    Claim(
        "With long segments both take the same time",
        "Sec. 5.8, Fig. 2",
        (
            Check(
                lambda evidence: _speed(evidence, lambda all_: all_[-1:], 1.0, equal=True),
                f"figure2: at the longest length neither is more than {MARGIN:.0%} slower",
            ),
        ),
    ),
    Claim(
        "Shorter segments give more varied texts",
        "Sec. 5.8, Fig. 3",
        (
            Check(
                _by_segment_length,
                "figure3: trace-r at the shortest length lower in SB than at the longest",
            ),
        ),
    ),
)

__all__ = ["CLAIMS", "Claim", "Evidence", "Pairs"]
