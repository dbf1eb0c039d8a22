"""Statistics of the human evaluation (Table 4): means, agreement of the annotators, and tests between systems."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from ..multiple_tests import correct_tests
from ..ngrams import require

SCALE = (1, 2, 3, 4, 5)
WEIGHTS = {"unweighted": None, "linear": "linear", "quadratic": "quadratic"}
_NOT_CRITERIA = ("annotator", "item", "system", "group")


def summarise(
    ratings: Sequence[Mapping[str, Any]], *, confidence: float = 0.95, significance: float = 0.05
) -> dict[str, Any]:
    """
    The values of Table 4, with intervals, agreement and tests.

    Args:
        ratings (`list[dict]`): as `read_sheets` returns them: `annotator`, `item`, `system`, `group`, and a rating
            from 1 to 5 for each criterion.
        confidence (`float`): of the intervals of the means.
        significance (`float`): the share of studies in which chance alone may make any difference significant.

    Returns:
        `dict`, which JSON can hold; what is not defined is None:

        - `systems`, `criteria`, and the numbers `num_groups`, `num_items`, `num_annotators`, `num_ratings`;
        - `means`: by system and criterion `mean`, `low` and `high`, a t interval over the texts, whose score is the
            mean of its annotators' ratings;
        - `agreement`: by criterion, and for `all` of them together, `kappa` (Cohen's; `unweighted`, `linear`,
            `quadratic`; mean over the pairs of annotators with texts in common), `num_pairs` and `alpha`
            (Krippendorff's, ordinal);
        - `tests`: see `paired_tests`;
        - `marks`: by criterion the system that is `best`, and `second`, where the tests tell it from all others.

    Raises:
        ImportError: without the `eval` extra.
        ValueError: for ratings that do not make a complete study.
    """
    stats = require("scipy.stats", "`summarise`")
    for module in ("sklearn.metrics", "krippendorff"):
        require(module, "`summarise`")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}.")
    criteria, scores = _scores(ratings)
    means = {
        system: {name: _interval(list(system_scores[name].values()), confidence, stats) for name in criteria}
        for system, system_scores in scores.items()
    }
    tests = paired_tests(ratings, significance=significance)
    agreement = {name: _agreement(ratings, [name]) for name in criteria}
    agreement["all"] = _agreement(ratings, criteria)
    return {
        "systems": list(scores),
        "criteria": criteria,
        "num_groups": len({row["group"] for row in ratings}),
        "num_items": len({row["item"] for row in ratings}),
        "num_annotators": len({row["annotator"] for row in ratings}),
        "num_ratings": len(ratings) * len(criteria),
        "confidence": confidence,
        "significance": significance,
        "means": means,
        "agreement": agreement,
        "tests": tests,
        "marks": {name: _marks(name, means, tests) for name in criteria},
    }


def _scores(ratings: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, dict[str, dict[Any, float]]]]:
    """The criteria, and by system, criterion and group the mean of the annotators' ratings."""
    if not ratings:
        raise ValueError("`ratings` is empty. Give what `read_sheets` returns.")
    criteria = [name for name in ratings[0] if name not in _NOT_CRITERIA]
    if not criteria or "all" in criteria:
        raise ValueError(
            f"`ratings` must have criteria, none of them named 'all', got {', '.join(criteria) or 'none'}."
        )
    given = defaultdict(lambda: defaultdict(list))  # system -> group -> rows
    items, raters = {}, set()
    for number, row in enumerate(ratings):
        missing = [name for name in (*_NOT_CRITERIA, *criteria) if name not in row]
        if missing:
            raise ValueError(f"`ratings`[{number}] has no `{missing[0]}`.")
        for name in criteria:
            if row[name] not in SCALE:
                raise ValueError(f"`ratings`[{number}]: `{name}` must be an integer from 1 to 5, got {row[name]!r}.")
        if items.setdefault((row["system"], row["group"]), row["item"]) != row["item"]:
            raise ValueError(f"`ratings`[{number}]: '{row['system']}' has two texts in group {row['group']}.")
        if (row["annotator"], row["item"]) in raters:
            raise ValueError(f"`ratings`[{number}]: {row['annotator']} rated item '{row['item']}' twice.")
        raters.add((row["annotator"], row["item"]))
        given[row["system"]][row["group"]].append(row)
    groups = sorted({row["group"] for row in ratings})
    for system, by_group in given.items():
        lacking = [group for group in groups if group not in by_group]
        if lacking:
            raise ValueError(
                f"`ratings` has no text of '{system}' in group {lacking[0]}; systems are compared in pairs."
            )
    return criteria, {
        system: {
            name: {group: statistics.fmean(row[name] for row in by_group[group]) for group in groups}
            for name in criteria
        }
        for system, by_group in given.items()
    }


def _interval(values: list[float], confidence: float, stats) -> dict[str, float | None]:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = (
        float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    )
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _agreement(ratings: Sequence[Mapping[str, Any]], criteria: Sequence[str]) -> dict[str, Any]:
    """Cohen's kappas and Krippendorff's alpha over the ratings of these criteria."""
    metrics = require("sklearn.metrics", "`summarise`")
    krippendorff = require("krippendorff", "`summarise`")
    by_annotator = defaultdict(dict)
    for row in ratings:
        for name in criteria:
            by_annotator[row["annotator"]][row["item"], name] = row[name]
    kappas = defaultdict(list)
    for first, second in combinations(by_annotator.values(), 2):
        both = [unit for unit in first if unit in second]
        pair = [first[unit] for unit in both], [second[unit] for unit in both]
        if len(set(pair[0] + pair[1])) < 2:  # 0 / 0 where both gave one and the same rating, or share no text
            continue
        for kind, weights in WEIGHTS.items():
            kappa = metrics.cohen_kappa_score(*pair, labels=SCALE, weights=weights)
            kappas[kind].append(float(kappa))
    units = {(row["item"], name): None for row in ratings for name in criteria}
    table = [[ratings_of.get(unit, math.nan) for unit in units] for ratings_of in by_annotator.values()]
    alpha = math.nan
    several = [unit for unit in units if sum(unit in ratings_of for ratings_of in by_annotator.values()) > 1]
    if len({ratings_of[unit] for ratings_of in by_annotator.values() for unit in several if unit in ratings_of}) > 1:
        alpha = float(krippendorff.alpha(table, value_domain=SCALE, level_of_measurement="ordinal"))
    return {
        "kappa": {kind: statistics.fmean(kappas[kind]) if kappas[kind] else None for kind in WEIGHTS},
        "num_pairs": len(kappas["linear"]),
        "alpha": None if math.isnan(alpha) else alpha,
    }


def paired_tests(ratings: Sequence[Mapping[str, Any]], *, significance: float = 0.05) -> list[dict[str, Any]]:
    """
    Test each pair of systems on each criterion: Wilcoxon's signed-rank test, two-sided, over the groups.

    All tests of the study are one family for Holm's correction: in at most `significance` of studies where no systems
    differ does any pair come out as different on any criterion.

    Args:
        ratings (`list[dict]`): as for `summarise`.
        significance (`float`): see above.

    Returns:
        `list[dict]`: `criterion`, `first`, `second`, `difference` (of the means, first less second), `effect` (the
        matched-pairs rank-biserial correlation, from -1 to 1), `p`, `p_holm`, `significant`.

    Raises:
        ImportError: without the `eval` extra.
        ValueError: for ratings that do not make a complete study.
    """
    stats = require("scipy.stats", "`paired_tests`")
    if not 0 < significance < 1:
        raise ValueError(f"`significance` must be between 0 and 1, got {significance}.")
    criteria, scores = _scores(ratings)
    tests = []
    for name in criteria:
        for first, second in combinations(scores, 2):
            ours, theirs = scores[first][name], scores[second][name]
            # rounded, so that equal differences of means of three ratings are equal
            differences = [round(ours[group] - theirs[group], 9) for group in ours]
            p, effect = _signed_rank(differences, stats)
            mean = statistics.fmean(ours.values()) - statistics.fmean(theirs.values())
            tests.append(
                {"criterion": name, "first": first, "second": second, "difference": mean, "effect": effect, "p": p}
            )
    return correct_tests(tests, significance)


def _signed_rank(differences: list[float], stats) -> tuple[float, float]:
    """The p-value and the rank-biserial correlation."""
    differences = [difference for difference in differences if difference]  # Wilcoxon's own way with ties
    if not differences:
        return 1.0, 0.0
    # only one-sided, the statistic is the sum of the positive ranks; its p-value is not used
    positive = float(stats.wilcoxon(differences, alternative="greater", method="asymptotic").statistic)
    total = len(differences) * (len(differences) + 1) / 2
    return float(stats.wilcoxon(differences).pvalue), 2 * positive / total - 1


def _marks(name: str, means: Mapping[str, Any], tests: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """The best and the second system by mean, each only where it differs from every other one."""
    ranked = sorted(means, key=lambda system: -means[system][name]["mean"])
    order = {system: number for number, system in enumerate(ranked)}
    open_pairs = set()  # the pairs that are not told apart, or only against the order of their means
    for test in tests:
        if test["criterion"] == name:
            first, second = test["first"], test["second"]
            agrees = test["effect"] * (order[second] - order[first]) > 0
            if not (test["significant"] and agrees):
                open_pairs.add(frozenset((first, second)))

    def stands_out(system):
        return len(ranked) > 1 and not any(frozenset((system, other)) in open_pairs for other in ranked)

    return {
        "best": ranked[0] if stands_out(ranked[0]) else None,
        # of two systems, the second is the worst
        "second": ranked[1] if len(ranked) > 2 and stands_out(ranked[1]) else None,
    }


def summary_table(summary: Mapping[str, Any]) -> str:
    """
    Markdown in the shape of Table 4, with half-widths of the intervals, and what is needed to read it.

    Args:
        summary (`dict`): what `summarise` returns.

    Returns:
        `str`: the best system of a column in bold and the second underlined, only where the tests bear it out.
    """
    criteria = summary["criteria"]
    lines = [
        f"| Model | {' | '.join(name.capitalize() for name in criteria)} |",
        f"| --- |{' ---: |' * len(criteria)}",
    ]
    for system in summary["systems"]:
        cells = []
        for name in criteria:
            mean, marks = summary["means"][system][name], summary["marks"][name]
            cell = f"{mean['mean']:.2f}"
            cell = (
                f"**{cell}**" if marks["best"] == system else f"<u>{cell}</u>" if marks["second"] == system else cell
            )
            if mean["high"] is not None:
                cell += f" ± {mean['high'] - mean['mean']:.2f}"
            cells.append(cell)
        label = " ".join(system.split()).replace("|", "\\|")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    both = summary["agreement"]["all"]
    kappa = both["kappa"]
    pairs = len(summary["tests"])
    num_significant = sum(test["significant"] for test in summary["tests"])
    lines += [
        "",
        f"Ratings from 1 (worst) to 5 (best), {summary['num_groups']} texts per system, "
        f"{summary['num_annotators']} annotators; ± is half of the {summary['confidence']:.0%} t interval over texts. "
        "Bold is best and underlined second, only where the system differs from every other one (Wilcoxon "
        f"signed-rank test, two-sided, Holm's correction over {pairs} tests, p < {summary['significance']:g}); "
        f"{num_significant} of the {pairs} tests found a difference.",
        "",
        f"Agreement: Cohen's kappa {_decimals(kappa['unweighted'])}, linear {_decimals(kappa['linear'])}, quadratic "
        f"{_decimals(kappa['quadratic'])} (mean over {both['num_pairs']} pairs of annotators); Krippendorff's alpha "
        f"(ordinal) {_decimals(both['alpha'])}.",
    ]
    return "\n".join(lines) + "\n"


def _decimals(value: float | None) -> str:
    """Two decimals, or the word for what is not defined."""
    return "undefined" if value is None else f"{value:.2f}"


__all__ = ["paired_tests", "summarise", "summary_table"]
