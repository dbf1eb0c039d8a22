"""Evaluation of trained models: what their texts are like, to people and by metrics."""

from .active_units import ActiveUnits, active_units
from .diversity import (
    bleu,
    compression_ratio,
    distinct_n,
    expectation_adjusted_distinct,
    jaccard_similarity,
    rep_n,
    self_bleu,
    vendi_score,
)
from .encoded_texts import EncodedTexts, encode_states, encode_texts
from .human_study.reading import read_sheets
from .human_study.sheets import make_sheets
from .human_study.statistics import paired_tests, summarise, summary_table
from .intervals import bootstrap_interval, metric_difference, metric_interval, paired_difference
from .jackknife import Difference, Interval, Replicates, mean_replicates, metric_replicates
from .latent_use import LatentUse, SharedOffset, latent_use, shared_offset
from .likelihood import LikelihoodResult, evaluate_likelihood
from .metrics import TextMetric, load_metric
from .mutual_information import MutualInformation, mutual_information
from .quality import Cnd, JudgePerplexity, bert_score, cnd, judge_perplexity, mauve, rouge, sacrebleu
from .report.comparison import compare, evaluate
from .report.decoding import DECODING
from .report.metric_values import METRICS
from .report.real_texts import EvaluationData, load_real_texts
from .report.settings import EvaluationSettings
from .report.writing import write_report
from .words import word_splitter

__all__ = [
    "DECODING",
    "METRICS",
    "ActiveUnits",
    "Cnd",
    "Difference",
    "EncodedTexts",
    "EvaluationData",
    "EvaluationSettings",
    "Interval",
    "JudgePerplexity",
    "LatentUse",
    "LikelihoodResult",
    "MutualInformation",
    "Replicates",
    "SharedOffset",
    "TextMetric",
    "active_units",
    "bert_score",
    "bleu",
    "bootstrap_interval",
    "cnd",
    "compare",
    "compression_ratio",
    "distinct_n",
    "encode_states",
    "encode_texts",
    "evaluate",
    "evaluate_likelihood",
    "expectation_adjusted_distinct",
    "jaccard_similarity",
    "judge_perplexity",
    "latent_use",
    "load_metric",
    "load_real_texts",
    "make_sheets",
    "mauve",
    "mean_replicates",
    "metric_difference",
    "metric_interval",
    "metric_replicates",
    "mutual_information",
    "paired_difference",
    "paired_tests",
    "read_sheets",
    "rep_n",
    "rouge",
    "sacrebleu",
    "self_bleu",
    "shared_offset",
    "summarise",
    "summary_table",
    "vendi_score",
    "word_splitter",
    "write_report",
]
