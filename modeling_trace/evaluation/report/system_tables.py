"""The tables of a report: in the paper's shape, and what stands beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

from .decoding import DECODING, DESCRIPTIONS
from .equal_quality import equal_quality_table
from .metric_values import DIVERSITY, VENDI_TEXTS
from .results import Metrics, Results
from .settings import METHOD_NAMES
from .systems import REAL
from .tables import BOUNDS, make_column, make_difference_table, make_table

LIKELIHOOD = ("nats", "sep_nats", "neg_elbo", "reconstruction", "kl", "kl_per_dim", "mi", "au")
LIKELIHOOD += ("ess", "ess_step", "resampled", "ppl", "ppl_word")
LATENT_USE = ("kl", "own_z", "other_z", "prior_z", "gain", "gain_per_nat", "shared_offset", "au")


def make_tables(results: Results) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, list]]:
    """
    All tables of a report.

    Args:
        results ([`Results`]): its `tests` are not looked at.

    Returns:
        The tables and their tests, and for each system the settings of its envelope at the levels of equal quality,
        none where the envelopes share no range.
    """
    data, settings = results.data, results.settings
    tables, tests = [], []
    sampled = [name for name in settings.decoding if DECODING[name]["do_sample"]]
    shown = "top-k" if "top-k" in sampled else (sampled or list(settings.decoding))[0]
    names = [system.name for system in results.systems]
    everything = {name: {**results.likelihood[name], **results.texts[shown][name]} for name in names}
    # of other tokenizers the perplexity per token does not compare
    untested = () if len({results.likelihood[name]["tokens"] for name in names}) == 1 else ("ppl",)

    def add(identifier: str, title: str, metrics: Sequence[str], rows: Mapping[str, Metrics], caption: str = ""):
        columns = _columns(results, metrics)
        table, own_tests = make_table(identifier, title, columns, rows, settings.confidence, caption, untested)
        if table["columns"]:
            tables.append(table)
            tests.extend(own_tests)

    if data.prompts is None:
        title = f"Representation, quality and diversity (as Table 2); {DESCRIPTIONS[shown]}"
        metrics = ("neg_elbo", "kl", "mi", "au", "ppl", "cnd", *DIVERSITY)
    else:
        title = f"Quality and diversity with prompts (as Table 3); {DESCRIPTIONS[shown]}"
        metrics = ("bleu", "rouge1", "rouge2", "rougeL", "bert_score", *DIVERSITY)
    add("overview", title, metrics, {REAL: results.real, **everything})
    add(
        "likelihood",
        "Likelihood of real texts and what the latents do for it",
        LIKELIHOOD,
        results.likelihood,
        "Nats per text, summed over tokens, segments and dimensions; [SEP] is paid for in nats and is no token; "
        "nats of [SEP]: that part of nats/text, so that the rest is for the text itself. "
        f"nats/text, PPL and PPL/word are upper bounds by {METHOD_NAMES[settings.likelihood_method]}; exact for "
        "models without latents. ESS: effective sample size of a text's draws, of a particle filter the least of its "
        "steps; ESS/step: after each segment.",
    )
    add(
        "latents",
        "What the latents carry: nats per text under the text's own latents, another text's and draws from the prior",
        LATENT_USE,
        {system.name: results.likelihood[system.name] for system in results.systems if system.has_latents},
        "Gain: what a text costs more under another text's latents than under its own; gain/KL: nats of text gained "
        "per nat of KL, near 0 where the decoder does not read them. Shared offset: the part of the posterior's "
        "squared shift from the prior that is the same for all texts.",
    )
    for decoding in settings.decoding:
        rows = {REAL: results.real, **results.texts[decoding]}
        add(
            f"decoding-{decoding}",
            f"Quality and diversity by decoding strategy (as Table 6): {DESCRIPTIONS[decoding]}",
            ("cnd", "judge", "mauve", "sacrebleu", "self_bleu", "jaccard", "distinct_2"),
            rows,
        )
        add(
            f"further-{decoding}",
            f"Further metrics: {DESCRIPTIONS[decoding]}",
            ("words", "finished", "different", "ead_1", "rep_4", "compression", "vendi_score", "bleu_to_set"),
            rows,
        )
    equal_quality = None
    if len(names) > 1:
        title = f"Differences from {names[0]} (columns as Table 5 and two more); {DESCRIPTIONS[shown]}"
        columns = _columns(results, ("neg_elbo", "ppl_word", "cnd", "judge", *DIVERSITY))
        tables.append(make_difference_table("differences", title, columns, everything, settings.confidence, untested))
        equal_quality = equal_quality_table(results.curves, settings.num_curve_texts, settings.confidence)
    if equal_quality is None:
        return tables, tests, {name: [] for name in names}
    table, own_tests, envelope_settings = equal_quality
    return [*tables, table], [*tests, *own_tests], envelope_settings


def _columns(results: Results, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Columns with the number of texts behind each, and labels that name a particle filter's bounds."""
    settings, num_real = results.settings, len(results.data.real)
    sizes = dict.fromkeys((*LIKELIHOOD, *LATENT_USE), settings.num_likelihood_texts)
    sizes |= {"judge": settings.num_judge_texts, "vendi_score": min(VENDI_TEXTS, num_real)}
    columns = [make_column(metric, sizes.get(metric, num_real)) for metric in metrics]
    if settings.likelihood_method == "particle":
        for column in columns:
            if column["metric"] in BOUNDS:
                column["label"] = column["label"].replace(" ↓", " (particle) ↓")
    return columns


__all__ = ["make_tables"]
