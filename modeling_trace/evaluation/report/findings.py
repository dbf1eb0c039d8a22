"""What the metrics of an evaluation do not show, in plain words."""

from collections.abc import Sequence
from itertools import combinations

from .metric_values import DIVERSITY, METRICS
from .systems import EvaluationData, EvaluationSettings, System
from .tables import LOOSE, SATURATED

COLLAPSED = 0.1  # nats of KL per segment, as in CollapseWarningCallback
IDLE = 0.05  # nats of text gained per nat of KL, as in CollapseWarningCallback
SHARED = 0.5  # share of the posterior's squared shift
FEW_NATS = 0.5  # of mutual information


def find(
    systems: Sequence[System],
    data: EvaluationData,
    settings: EvaluationSettings,
    measures,
    own,
    texts,
    real,
    tests,
    judges,
) -> list[str]:
    """
    Sentences on what may not be concluded: collapse, loose and saturated estimators, differences that the tests do not
    bear out, texts that do not compare.
    """
    found = []
    for system in systems:
        if system.has_latents:
            found += _latents(system.name, measures[system.name], own[system.name], settings)
    found += _tokens(own)
    found += _lengths(texts, real)
    for decoding in settings.decoding:
        found += _undecided(decoding, list(measures), tests)
    for (metric, reason), labels in judges.left_out.items():
        sets = ", ".join(labels) if len(labels) <= 3 else f"{len(labels)} sets of texts"
        found.append(f"{METRICS[metric][0]} was left out for {sets}: {reason}")
    found += _equal_quality(systems, settings, tests, judges)
    if data.references and len(data.references) < 100:
        found.append(f"CND compares with {len(data.references)} texts only, which its intervals do not know of.")
    if not data.references:
        found.append(
            "No real texts were left to compare n-grams with, so there is no CND and no BLEU. Ask for fewer texts."
        )
    if len(data.real) < 200:
        found.append(
            f"{len(data.real)} texts are few: Self-BLEU and Distinct depend on that number, and intervals are wide."
        )
    found.append(
        "All intervals are over texts, for these trained models: another seed of training would give other models, "
        "which nothing here speaks of."
    )
    return found


def _latents(name, measured, own, settings) -> list[str]:
    found, representation = [], measured["representation"]
    rows = measured["likelihood"]["kl_per_segment_position"]
    segments = sum(sum(value == value for value in row) for row in rows)
    per_segment = sum(measured["likelihood"]["kl"]) / max(1, segments)
    information, joint, cap = own["mi"].value, representation["mi_joint"], representation["mi_joint_cap"]
    if per_segment < COLLAPSED:
        found.append(
            f"{name} has collapsed: {per_segment:.2g} nats of KL per segment. Its latents carry nothing, and where "
            "its texts differ from those of the plain model, latents are not the reason."
        )
    elif own["gain_per_nat"].value < IDLE:
        found.append(
            f"The latents of {name} are idle: they cost {own['kl'].value:.1f} nats per text, and under another text's "
            f"latents a text costs {own['gain'].value:.2f} nats more, {own['gain_per_nat'].value:.2f} per nat of KL. "
            "Where its texts differ from those of the plain model, latents are not the reason."
        )
    elif information < FEW_NATS:
        found.append(
            f"The latents of {name} cost {own['kl'].value:.1f} nats per text and tell {information:.2f} nats of which "
            "text it is: KL alone is no proof of use."
        )
    if per_segment >= COLLAPSED and own["shared_offset"] > SHARED:
        found.append(
            f"{own['shared_offset']:.0%} of the squared shift of {name}'s posterior from its prior is one offset that "
            "all texts share: it costs KL and says nothing of any text."
        )
    if joint > SATURATED * cap:
        found.append(
            f"The joint mutual information of {name} is at its cap ({joint:.2f} of log N = {cap:.2f}): only a lower "
            "bound. Use the sum over segments, or more texts."
        )
    full = sum(
        u > SATURATED * c
        for u, c in zip(representation["mi_per_step"], representation["mi_caps"], strict=True)
        if c > 0
    )
    if full:
        found.append(
            f"{name}: mutual information of {full} of {len(representation['mi_caps'])} segments is at its cap log N; "
            "their sum is a lower bound."
        )
    if own["ess"] < LOOSE and per_segment >= COLLAPSED:
        filtered = settings.likelihood_method == "particle"
        where = " in their worst segment" if filtered else ""
        remedy = "" if filtered else " A particle filter is tighter: --likelihood_method particle."
        found.append(
            f"L_{settings.num_samples} of {name} is loose: half of the texts have an effective sample size below "
            f"{own['ess']:.1f} of {settings.num_samples}{where}. Its perplexity is an upper bound, nobody knows how "
            f"far above the truth: that another system's metric is lower proves nothing.{remedy}"
        )
    return found


def _tokens(own) -> list[str]:
    counts = {name: int(metrics["tokens"]) for name, metrics in own.items()}
    if len(set(counts.values())) == 1:
        return []
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return [f"PPL does not compare where the same texts have other tokens ({shown}): use PPL/word."]


def _lengths(texts, real) -> list[str]:
    found = []
    for decoding, rows in texts.items():
        other = {
            name: metrics["words"]
            for name, metrics in rows.items()
            if abs(metrics["words"] - real["words"]) > 0.2 * real["words"]
        }
        if other:
            shown = ", ".join(f"{name} {words:.0f}" for name, words in other.items())
            found.append(
                f"{decoding}: texts of another length than real ones ({real['words']:.0f} words): "
                f"{shown}. All of Self-BLEU, Distinct, Jaccard and CND depend on length."
            )
        words = {name: metrics["words"] for name, metrics in rows.items()}
        short, long = min(words, key=words.get), max(words, key=words.get)
        if not other and words[long] > 1.1 * words[short]:
            found.append(
                f"{decoding}: texts of {long} have {words[long]:.1f} words, those of {short} {words[short]:.1f}: on "
                "which Self-BLEU, Distinct, Jaccard and CND depend."
            )
        same = [name for name, metrics in rows.items() if metrics["different"] == 1]
        if same:
            found.append(f"{decoding}: all texts of {', '.join(same)} are the same.")
    return found


def _undecided(decoding, names, tests) -> list[str]:
    """Pairs of systems that the tests do not tell apart, by metric."""
    found = []
    for metric in ("cnd", "judge", *DIVERSITY):
        own = [t for t in tests if t["table"] == f"decoding-{decoding}" and t["metric"] == metric]
        open_pairs = [f"{t['first']} and {t['second']}" for t in own if not t["significant"]]
        if open_pairs:
            found.append(
                f"{decoding}, {METRICS[metric][0]}: no difference is shown between {_some(open_pairs)} "
                f"({len(open_pairs)} of {len(own)} pairs)."
            )
    return found


def _equal_quality(systems, settings, tests, judges) -> list[str]:
    if len(systems) < 2 or not settings.curve_temperatures:
        return []
    own = [t for t in tests if t["table"] == "equal-quality"]
    if not own:
        if settings.judge is None or any(metric == "judge" for metric, _ in judges.left_out):
            return ["Without an outside judge nothing is said of diversity at equal quality."]
        return [
            "The envelopes of quality and diversity share no range, so nothing is said of diversity at equal quality."
        ]
    names = [system.name for system in systems]
    shown = {frozenset((t["first"], t["second"])) for t in own if t["significant"]}
    open_pairs = [f"{a} and {b}" for a, b in combinations(names, 2) if frozenset((a, b)) not in shown]
    if not open_pairs:
        return []
    return [f"At equal quality (judge), no difference in Self-BLEU is shown between {_some(open_pairs)}."]


def _some(pairs: list[str], most: int = 8) -> str:
    return ", ".join(pairs[:most]) + (f" and {len(pairs) - most} more pairs" if len(pairs) > most else "")


__all__ = ["find"]
