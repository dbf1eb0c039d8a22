"""What the metrics of an evaluation do not show, in plain words."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from ..words import find_unsuited
from .metric_values import DIVERSITY, METRICS
from .results import Metrics, Results
from .settings import EvaluationSettings
from .tables import LOOSE, SATURATED

COLLAPSED = 0.1  # nats of KL per segment, as in CollapseWarningCallback
IDLE = 0.05  # nats of text gained per nat of KL, as in CollapseWarningCallback
SHARED = 0.5  # share of the posterior's squared shift
FEW_NATS = 0.5  # of mutual information


def make_findings(results: Results, tests: Sequence[dict[str, Any]]) -> list[str]:
    """
    Sentences on what may not be concluded: collapse, loose and saturated estimators, differences that the tests do not
    bear out, texts that do not compare.

    Args:
        results ([`Results`]): what was measured.
        tests (`Sequence[dict]`): of all tables.
    """
    data, settings = results.data, results.settings
    unsuited = find_unsuited(data.real, settings.word_tokenizer)
    findings = [] if unsuited is None else [unsuited]
    for system in results.systems:
        if system.has_latents:
            name = system.name
            findings += _latents(name, results.measurements[name], results.likelihood[name], settings)
    findings += _tokens(results.likelihood)
    findings += _lengths(results.texts, results.real, tests)
    for decoding in settings.decoding:
        findings += _undecided(decoding, tests)
    for (metric, reason), labels in results.left_out.items():
        sets = ", ".join(labels) if len(labels) <= 3 else f"{len(labels)} sets of texts"
        findings.append(f"{METRICS[metric][0]} was left out for {sets}: {reason}")
    findings += _equal_quality(results, tests)
    if data.references and len(data.references) < 100:
        findings.append(f"CND compares with {len(data.references)} texts only, which its intervals do not know of.")
    if not data.references:
        findings.append(
            "No real texts were left to compare n-grams with, so there is no CND and no BLEU. Ask for fewer texts."
        )
    if len(data.real) < 200:
        findings.append(
            f"{len(data.real)} texts are few: Self-BLEU and Distinct depend on that number, and intervals are wide."
        )
    findings.append(
        "All intervals are over texts, for these trained models: another seed of training would give other models, "
        "which nothing here speaks of."
    )
    return findings


def _latents(name: str, measured: Mapping[str, Any], metrics: Metrics, settings: EvaluationSettings) -> list[str]:
    """Collapsed and idle latents of one system, an offset that all texts share, bounds that are loose or at a cap."""
    findings, representation = [], measured["representation"]
    rows = measured["likelihood"]["kl_per_segment_position"]
    segments = sum(sum(value == value for value in row) for row in rows)
    per_segment = sum(measured["likelihood"]["kl"]) / max(1, segments)
    information, joint, cap = metrics["mi"].value, representation["mi_joint"], representation["mi_joint_cap"]
    if per_segment < COLLAPSED:
        findings.append(
            f"{name} has collapsed: {per_segment:.2g} nats of KL per segment. Its latents carry nothing, and where "
            "its texts differ from those of the plain model, latents are not the reason."
        )
    elif metrics["gain_per_nat"].value < IDLE:
        findings.append(
            f"The latents of {name} are idle: they cost {metrics['kl'].value:.1f} nats per text, and under another "
            f"text's latents a text costs {metrics['gain'].value:.2f} nats more, "
            f"{metrics['gain_per_nat'].value:.2f} per nat of KL. Where its texts differ from those of the plain "
            "model, latents are not the reason."
        )
    elif information < FEW_NATS:
        findings.append(
            f"The latents of {name} cost {metrics['kl'].value:.1f} nats per text and tell {information:.2f} nats of "
            "which text it is: KL alone is no proof of use."
        )
    if per_segment >= COLLAPSED and metrics["shared_offset"] > SHARED:
        findings.append(
            f"{metrics['shared_offset']:.0%} of the squared shift of {name}'s posterior from its prior is one offset "
            "that all texts share: it costs KL and says nothing of any text."
        )
    if joint > SATURATED * cap:
        findings.append(
            f"The joint mutual information of {name} is at its cap ({joint:.2f} of log N = {cap:.2f}): only a lower "
            "bound. Use the sum over segments, or more texts."
        )
    full = sum(
        u > SATURATED * c
        for u, c in zip(representation["mi_per_step"], representation["mi_caps"], strict=True)
        if c > 0
    )
    if full:
        findings.append(
            f"{name}: mutual information of {full} of {len(representation['mi_caps'])} segments is at its cap log N; "
            "their sum is a lower bound."
        )
    if metrics["ess"] < LOOSE and per_segment >= COLLAPSED:
        filtered = settings.likelihood_method == "particle"
        where = " in their worst segment" if filtered else ""
        remedy = "" if filtered else " A particle filter is tighter: --likelihood_method particle."
        findings.append(
            f"L_{settings.num_samples} of {name} is loose: half of the texts have an effective sample size below "
            f"{metrics['ess']:.1f} of {settings.num_samples}{where}. Its perplexity is an upper bound, nobody knows "
            f"how far above the truth: that another system's value is lower proves nothing.{remedy}"
        )
    return findings


def _tokens(likelihood: Mapping[str, Metrics]) -> list[str]:
    counts = {name: int(metrics["tokens"]) for name, metrics in likelihood.items()}
    if len(set(counts.values())) == 1:
        return []
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return [f"PPL does not compare where the same texts have other tokens ({shown}): use PPL/word."]


def _lengths(
    texts: Mapping[str, Mapping[str, Metrics]], real: Metrics, tests: Sequence[dict[str, Any]] = ()
) -> list[str]:
    """Texts of other lengths than real texts or other systems' texts, and texts that are all the same."""
    findings = []
    for decoding, systems in texts.items():
        words = {name: metrics["words"] for name, metrics in systems.items()}
        other = {name: count for name, count in words.items() if abs(count - real["words"]) > 0.2 * real["words"]}
        if other:
            shown = ", ".join(f"{name} {count:.0f}" for name, count in other.items())
            findings.append(
                f"{decoding}: texts of another length than real ones ({real['words']:.0f} words): "
                f"{shown}. All of Self-BLEU, Distinct, Jaccard and CND depend on length."
            )
        unlike = _pairs(t for t in tests if t["table"] == f"decoding-{decoding}" and "lengths" in t)
        short, long = min(words, key=words.get), max(words, key=words.get)
        if unlike:
            shown = _some([f"{first} and {second} ({m:.0f} and {n:.0f} words)" for first, second, m, n in unlike])
            findings.append(
                f"{decoding}: Self-BLEU, Distinct, Jaccard, CND, rep-4 and compression are not compared where lengths "
                f"differ much: {shown}. Cut all texts to one length: --max_words {max(1, int(words[short]))}."
            )
        elif not other and words[long] > 1.1 * words[short]:
            findings.append(
                f"{decoding}: texts of {long} have {words[long]:.1f} words, those of {short} {words[short]:.1f}: on "
                "which Self-BLEU, Distinct, Jaccard and CND depend."
            )
        same = [name for name, metrics in systems.items() if metrics["different"] == 1]
        if same:
            findings.append(f"{decoding}: all texts of {', '.join(same)} are the same.")
    return findings


def _pairs(tests) -> list[tuple[str, str, float, float]]:
    """Each pair of systems once, with the lengths that keep it from being tested."""
    return list(dict.fromkeys((t["first"], t["second"], *t["lengths"]) for t in tests))


def _undecided(decoding: str, tests: Sequence[dict[str, Any]]) -> list[str]:
    """Pairs of systems that the tests do not tell apart, by metric."""
    findings = []
    for metric in ("cnd", "judge", *DIVERSITY):
        table_tests = [t for t in tests if t["table"] == f"decoding-{decoding}" and t["metric"] == metric]
        open_pairs = [
            f"{t['first']} and {t['second']}" for t in table_tests if not t["significant"] and "lengths" not in t
        ]
        if open_pairs:
            findings.append(
                f"{decoding}, {METRICS[metric][0]}: no difference is shown between {_some(open_pairs)} "
                f"({len(open_pairs)} of {len(table_tests)} pairs)."
            )
    return findings


def _equal_quality(results: Results, tests: Sequence[dict[str, Any]]) -> list[str]:
    """Whether diversity can be compared at equal quality, and which systems it does not tell apart there."""
    settings = results.settings
    if len(results.systems) < 2 or not settings.curve_temperatures:
        return []
    table_tests = [t for t in tests if t["table"] == "equal-quality"]
    if not table_tests:
        if settings.judge is None or any(metric == "judge" for metric, _ in results.left_out):
            return ["Without an outside judge nothing is said of diversity at equal quality."]
        return [
            "The envelopes of quality and diversity share no range, so nothing is said of diversity at equal quality."
        ]
    findings = []
    unlike = [f"{first} and {second}" for first, second, *_ in _pairs(t for t in table_tests if "lengths" in t)]
    if unlike:
        findings.append(
            "At equal quality (judge), Self-BLEU is not compared at every level, since lengths differ much there: "
            f"{_some(list(dict.fromkeys(unlike)))}."
        )
    names = [system.name for system in results.systems]
    shown = {frozenset((t["first"], t["second"])) for t in table_tests if t["significant"]}
    open_pairs = [f"{a} and {b}" for a, b in combinations(names, 2) if frozenset((a, b)) not in shown]
    if open_pairs:
        findings.append(f"At equal quality (judge), no difference in Self-BLEU is shown between {_some(open_pairs)}.")
    return findings


def _some(pairs: list[str], most: int = 8) -> str:
    return ", ".join(pairs[:most]) + (f" and {len(pairs) - most} more pairs" if len(pairs) > most else "")


__all__ = ["make_findings"]
