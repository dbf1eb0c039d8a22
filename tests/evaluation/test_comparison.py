"""`modeling-trace evaluate` and `compare`: the metrics are right, nothing is marked by chance, and nothing is lost."""

import dataclasses
import inspect
import json
import math
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.tiny import tiny_config
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_trace import TraceForConditionalGeneration, load_model
from modeling_trace.cli import compare as command
from modeling_trace.cli.main import main
from modeling_trace.data import (
    FixedLengthSegmenter,
    TraceProcessor,
    load_texts,
    prepare_dataset,
    review_dataset,
    train_tokenizer,
)
from modeling_trace.evaluation import (
    EvaluationData,
    EvaluationSettings,
    Replicates,
    compare,
    evaluate,
    evaluate_likelihood,
    load_real_texts,
    mean_replicates,
    metric_replicates,
)
from modeling_trace.evaluation.report import findings, fingerprints, metric_values, settings, systems
from modeling_trace.evaluation.report import latent_measurement as measure_latents
from modeling_trace.evaluation.report import measurement as measure
from modeling_trace.evaluation.report.cache import EvaluationCache
from modeling_trace.evaluation.report.contamination import find_training_texts
from modeling_trace.evaluation.report.decoding import DECODING, plane_settings, sampling_at, setting_label
from modeling_trace.evaluation.report.equal_quality import (
    envelope_at,
    envelope_line,
    envelope_of,
    equal_quality_table,
    interpolate,
)
from modeling_trace.evaluation.report.markdown import markdown_report
from modeling_trace.evaluation.report.systems import EvaluatedSystem, check_systems
from modeling_trace.evaluation.report.tables import make_column, make_difference_table, make_table
from modeling_trace.evaluation.words import cut_words

NUM_TEXTS = 20
TRAIN = [
    *("--backbone_config", "{model_type: gpt2, n_layer: 2, n_embd: 16, n_head: 2, n_positions: 64}"),
    *("--vocab_size", "300", "--max_steps", "60", "--per_device_train_batch_size", "8", "--learning_rate", "1e-2"),
    *("--latent_size", "4", "--segment_length", "5", "--use_cpu", "true", "--disable_tqdm", "true"),
]
DATA = ["--max_texts", "160", "--validation_split", "120", "--max_words", "12"]
SMALL = [
    *("--num_texts", NUM_TEXTS, "--num_likelihood_texts", 8, "--num_samples", 2, "--num_judge_texts", 6),
    *("--num_curve_texts", 6, "--max_new_tokens", 12, "--curve_temperatures", 0, 0.8, 1.0),
    *("--curve_latent_temperatures", 0, 1.0),
]


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A plain language model, a TRACE model, and a judge; their texts are cut, so that all are of one length."""
    folder = tmp_path_factory.mktemp("compare")
    for system in ("gpt2", "trace-r"):
        flags = [*TRAIN, *DATA[:4], "--system", system, "--output_dir", str(folder / system)]
        assert main(["train", *flags]) == 0
    plain = TraceForConditionalGeneration.from_pretrained(folder / "gpt2")
    plain.get_decoder().config.architectures = None
    judge = AutoModelForCausalLM.from_config(plain.config.backbone_config)
    judge.save_pretrained(folder / "judge")
    AutoTokenizer.from_pretrained(folder / "gpt2").save_pretrained(folder / "judge")
    return folder


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    """Both systems, compared once."""
    output = tmp_path_factory.mktemp("report") / "out"
    arguments = ["compare", folder / "gpt2", folder / "trace-r", "--dataset", "reviews", *DATA, *SMALL]
    arguments += ["--judge", folder / "judge", "--output", output]
    assert main([str(argument) for argument in arguments]) == 0
    return output


def read(output) -> dict:
    return json.loads((output / "report.json").read_text(encoding="utf-8"))


def cell(report: dict, table: str, row: str, metric: str) -> dict:
    found = next(one for one in report["tables"] if one["id"] == table)
    place = [column["metric"] for column in found["columns"]].index(metric)
    return next(one for one in found["rows"] if one["name"] == row)["cells"][place]


def real_texts(count: int) -> list[str]:
    """What the command evaluates on."""
    _, validation = load_texts("reviews", max_texts=160, validation_split=120)
    return [cut_words(text, 12) for text in validation.shuffle(seed=0)["text"][:count]]


# ---- Metrics ----


def test_plain_language_model_is_scored_by_its_backbones_own_loss(folder, report):
    """`none` through `evaluate`: nats and perplexity are those of the backbone, by Transformers alone."""
    found = read(report)
    model = TraceForConditionalGeneration.from_pretrained(folder / "gpt2")
    backbone = AutoModelForCausalLM.from_config(model.config.backbone_config).eval()
    decoder = model.get_decoder().state_dict()
    assert not backbone.transformer.load_state_dict(decoder, strict=False).missing_keys
    backbone.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(folder / "gpt2")
    nats, tokens, words = [], 0, 0
    for text in real_texts(8):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]])
        with torch.no_grad():
            loss = backbone(input_ids=ids, labels=ids).loss.item()
        nats.append(loss * (ids.shape[1] - 1))
        tokens, words = tokens + ids.shape[1] - 1, words + len(text.split())
    assert cell(found, "likelihood", "gpt2", "nats")["value"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert cell(found, "likelihood", "gpt2", "ppl")["value"] == pytest.approx(math.exp(sum(nats) / tokens), rel=1e-4)
    assert cell(found, "likelihood", "gpt2", "ppl_word")["value"] == pytest.approx(
        math.exp(sum(nats) / words), rel=1e-4
    )
    error = stats.sem(nats) * stats.t.ppf(0.975, 7)
    own = cell(found, "likelihood", "gpt2", "nats")
    assert (own["high"] - own["low"]) / 2 == pytest.approx(error, rel=1e-4)
    assert cell(found, "overview", "gpt2", "neg_elbo") is None  # as in Table 2: it has no ELBO


def test_metrics_are_those_of_the_texts_that_are_written(report):
    found = read(report)
    real = real_texts(NUM_TEXTS)
    for decoding in ("greedy", "top-k"):
        for name in ("gpt2", "trace-r"):
            path = report / "texts" / decoding / f"{name}.jsonl"
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            texts = [row["text"] for row in rows]
            assert len(texts) == NUM_TEXTS and all(len(text.split()) <= 12 for text in texts)
            value = cell(found, f"decoding-{decoding}", name, "self_bleu")
            assert value["value"] == pytest.approx(metric_replicates("self_bleu", texts).value)
            assert cell(found, f"further-{decoding}", name, "different")["value"] == len(set(texts))
            assert found["samples"][decoding][name][0]["text"] in texts
    assert len({json.dumps(row) for row in rows}) > 1
    assert cell(found, "overview", "real text", "self_bleu")["value"] == pytest.approx(
        metric_replicates("self_bleu", real).value
    )
    # a plain model has one greedy text
    assert cell(found, "further-greedy", "gpt2", "different")["value"] == 1
    assert any("greedy: all texts of gpt2 are the same" in finding for finding in found["findings"])


def test_what_latents_carry_stands_in_a_table_of_the_systems_that_have_some(report):
    found = read(report)
    table = next(one for one in found["tables"] if one["id"] == "latents")
    assert [row["name"] for row in table["rows"]] == ["trace-r"]
    value = {name: cell(found, "latents", "trace-r", name) for name in ("own_z", "other_z", "gain", "gain_per_nat")}
    gain = value["other_z"]["value"] - value["own_z"]["value"]
    assert value["gain"]["value"] == pytest.approx(gain)
    assert value["gain"]["low"] < gain < value["gain"]["high"]
    assert value["gain_per_nat"]["low"] < value["gain_per_nat"]["value"] < value["gain_per_nat"]["high"]
    assert value["gain_per_nat"]["value"] == pytest.approx(
        gain / cell(found, "latents", "trace-r", "kl")["value"], rel=0.5
    )
    assert -1 < cell(found, "latents", "trace-r", "shared_offset")["value"] <= 1
    assert "gain/KL" in (report / "report.md").read_text(encoding="utf-8")


def test_report_is_written_in_three_forms(report):
    found = read(report)
    assert {path.name for path in report.iterdir()} == {"cache", "texts", "report.md", "report.json", "report.html"}
    markdown = (report / "report.md").read_text(encoding="utf-8")
    assert markdown.startswith("# Comparison of gpt2, trace-r") and "## What does not hold" in markdown
    for table in found["tables"]:
        assert table["title"] in markdown
        assert all(column["num_texts"] in (6, 8, NUM_TEXTS) for column in table["columns"])
    assert "real text" in markdown and "N = 20" in markdown
    settings = {
        name: [(point["temperature"], point["latent_temperature"]) for point in points]
        for name, points in found["curves"].items()
    }
    tokens = [0.0, 0.8, 1.0]
    assert settings == {
        "gpt2": [(token, None) for token in tokens],
        "trace-r": [(token, latent) for latent in (0.0, 1.0) for token in tokens],
    }
    for name, points in found["curves"].items():
        # neither tokens nor latents are drawn: one text, which is no end of a line
        assert [point["metrics"]["different"]["value"] == 1 for point in points] == [True] + [False] * (
            len(points) - 1
        )
        assert not points[0]["on_envelope"] and any(point["on_envelope"] for point in points)
        for point in points:
            assert f"| {name} | {setting_label(*settings[name][points.index(point)])} |" in markdown
    assert set(found["positions"]) == set(found["scatter"]) == {"trace-r"}
    own = found["positions"]["trace-r"]
    kl = cell(found, "likelihood", "trace-r", "kl")["value"]
    assert sum(k * n for k, n in zip(own["kl"], own["num_texts"], strict=True)) / 8 == pytest.approx(kl)
    assert sum(own["mi"]) == pytest.approx(cell(found, "likelihood", "trace-r", "mi")["value"])


def test_texts_are_taken_by_the_kit_for_human_evaluation(report, tmp_path, capsys):
    files = [report / "texts" / "top-k" / f"{name}.jsonl" for name in ("gpt2", "trace-r")]
    code, out, err = run(capsys, "human", "make", *files, "--num_prompts", 5, "--output", tmp_path / "sheets")
    assert code == 0 and "Sheets for 5 annotators" in out, err


# ---- A model and itself ----


def test_a_model_does_not_differ_from_itself(folder, tmp_path, capsys):
    same = [folder / "trace-r", folder / "trace-r", "--names", "one", "two", "--dataset", "reviews", *DATA]
    same += ["--decoding", "top-k"]  # greedy, a model that is hardly trained writes few texts, over and over
    code, out, err = run(capsys, "compare", *same, *SMALL, "--judge", "none", "--output", tmp_path / "out")
    assert code == 0, err
    found = read(tmp_path / "out")
    assert found["tests"] and not any(test["significant"] for test in found["tests"])
    # of texts of their own, or that would prove nothing
    assert cell(found, "overview", "one", "self_bleu") != cell(found, "overview", "two", "self_bleu")
    # and of the same real texts, with the same draws: no difference at all
    assert cell(found, "likelihood", "one", "nats") == cell(found, "likelihood", "two", "nats")


def test_one_table_in_twenty_has_a_mark_by_chance():
    """
    Three systems that are one, in three metrics that depend on one another: Holm's correction holds for the table,
    marks are rarer still. That single metrics of texts keep their level is tested with the intervals.
    """
    generator = np.random.default_rng(0)
    names = ("self_bleu", "distinct_2", "jaccard")
    tables = 400
    any_test = any_mark = wrong = 0
    for _ in range(tables):
        values = generator.exponential(size=(3, 1, 30)) + generator.exponential(size=(3, 3, 30))  # (system, metric, N)
        rows = {
            system: {name: mean_replicates(row, num_groups=15) for name, row in zip(names, own, strict=True)}
            for system, own in zip("abc", values, strict=True)
        }
        table, tests = make_table("x", "", [make_column(name, 30) for name in names], rows)
        any_test += any(test["significant"] for test in tests)
        any_mark += any(one["mark"] for row in table["rows"] for one in row["cells"])
        wrong += sum(test["p"] < 0.05 for test in tests)
    assert len(tests) == 9
    assert any_test <= stats.binom.ppf(0.999, tables, 0.05)
    assert any_mark <= any_test
    # single tests have their level; that they find differences is tested with intervals
    assert 0.03 < wrong / (9 * tables) < 0.07


# ---- Marks, differences, equal quality ----


def constant(value: float, error: float, seed: int = 0) -> Replicates:
    """A metric with about that standard error, of 400 texts."""
    noise = np.random.default_rng(seed).normal(size=400)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    return mean_replicates(value + error * 20 * noise)


@pytest.mark.parametrize(
    "values, marks",
    [
        ([1.0, 2.0, 3.0], {"a": "best", "b": "second"}),
        ([1.0, 1.0, 3.0], {}),  # no best; and c is no second
        ([1.0, 2.0, 2.0], {"a": "best"}),
        ([1.0, 1.0, 1.0], {}),
    ],
)
def test_marks_need_a_difference_from_every_other_system(values, marks):
    rows = {
        name: {"self_bleu": constant(value, 0.05, seed)}
        for seed, (name, value) in enumerate(zip("abc", values, strict=True))
    }
    table, tests = make_table("x", "", [make_column("self_bleu", 400)], rows)
    found = {row["name"]: row["cells"][0]["mark"] for row in table["rows"] if row["cells"][0]["mark"]}
    assert found == marks and len(tests) == 3
    higher = {name: {"distinct_2": metrics["self_bleu"].map(np.negative)} for name, metrics in rows.items()}
    table, _ = make_table("x", "", [make_column("distinct_2", 400)], higher)
    assert {row["name"]: row["cells"][0]["mark"] for row in table["rows"] if row["cells"][0]["mark"]} == marks


def test_second_of_two_is_no_mark():
    rows = {name: {"self_bleu": constant(value, 0.05)} for name, value in (("a", 1.0), ("b", 2.0))}
    table, _ = make_table("x", "", [make_column("self_bleu", 400)], rows)
    assert [row["cells"][0]["mark"] for row in table["rows"]] == ["best", None]


def test_a_loose_upper_bound_is_not_shown_to_be_worse():
    """Exact 10, bounds 20: with an effective sample size of 1 the truth may be 5; with one of 50 it is not."""
    for ess, marks in ((1.0, [None, None]), (50.0, ["best", None])):
        rows = {"plain": {"ppl": constant(10, 0.1)}, "trace": {"ppl": constant(20, 0.1, 1), "ess": ess}}
        table, _ = make_table("x", "", [make_column("ppl", 400)], rows)
        assert [row["cells"][0]["mark"] for row in table["rows"]] == marks
    # a bound that is below the exact metric is no question
    rows = {"plain": {"ppl": constant(10, 0.1)}, "trace": {"ppl": constant(5, 0.1, 1), "ess": 1.0}}
    table, _ = make_table("x", "", [make_column("ppl", 400)], rows)
    assert [row["cells"][0]["mark"] for row in table["rows"]] == [None, "best"]


def test_metrics_that_are_no_numbers_are_not_tested():
    """Nor do they stand in the way of the tests of other systems."""
    broken = Replicates(2.0, np.array([2.0, np.nan] * 25), np.full(50, 8))
    infinite = Replicates(math.inf, np.full(50, math.inf), np.full(50, 8))
    rows = {
        "a": {"ppl": constant(10, 0.1)},
        "b": {"ppl": broken},
        "c": {"ppl": infinite},
        "d": {"ppl": constant(9, 0.1)},
    }
    table, tests = make_table("x", "", [make_column("ppl", 400)], rows)
    assert [(test["first"], test["second"]) for test in tests] == [("a", "d")]
    assert {row["name"]: row["cells"][0]["mark"] for row in table["rows"]} == dict.fromkeys("abcd")
    with pytest.raises(ValueError, match="^`weights` must be above 0 in more than one group of texts"):
        mean_replicates(np.ones(20), np.eye(20)[0])


def test_mutual_information_at_its_cap_is_not_shown_to_be_less():
    for own, marks in (({"mi_share_of_cap": 0.5}, ["best", None]), ({"mi_share_of_cap": 0.99}, [None, None])):
        rows = {"a": {"mi": constant(20, 0.1)}, "b": {"mi": constant(10, 0.1, 1), **own}}
        table, _ = make_table("x", "", [make_column("mi", 400)], rows)
        assert [row["cells"][0]["mark"] for row in table["rows"]] == marks
    # one latent for a text is another estimate than one for each segment
    rows = {"a": {"mi": constant(20, 0.1), "one_latent": 0.0}, "b": {"mi": constant(5, 0.1, 1), "one_latent": 1.0}}
    table, _ = make_table("x", "", [make_column("mi", 400)], rows)
    assert [row["cells"][0]["mark"] for row in table["rows"]] == [None, None]


def test_interpolation_is_on_the_line_and_carries_the_errors_of_both_metrics():
    points = [(constant(1.0, 0.0), constant(10.0, 0.3, 1)), (constant(3.0, 0.0), constant(20.0, 0.4, 2))]
    found = interpolate(points, 1.5)
    assert found.value == pytest.approx(12.5)
    ends = [interpolate(points, level) for level in (1.0, 3.0)]
    for end, (_, own) in zip(ends, points, strict=True):
        assert (end.value, end.standard_error) == pytest.approx((own.value, own.standard_error))
    independent = math.hypot(0.75 * 0.3, 0.25 * 0.4)
    assert found.standard_error == pytest.approx(independent, rel=0.25)
    # an error in the quality is one in the diversity, by the slope
    tilted = [(constant(1.0, 0.1, 3), constant(10.0, 0.0)), (constant(3.0, 0.0), constant(20.0, 0.0))]
    assert interpolate(tilted, 1.5).standard_error == pytest.approx(5 * 0.75 * 0.1, rel=0.1)


def test_hand_made_points_give_the_hand_made_envelope():
    cold = [(1.0, 50.0), (2.0, 30.0), (3.0, 20.0)]
    warm = [(1.5, 44.0), (2.0, 34.0), (3.0, 16.0), (4.0, 10.0)]
    corners = [(1.0, 50.0), (1.5, 40.0), (2.0, 30.0), (2.5, 25.0), (3.0, 16.0), (4.0, 10.0)]  # they cross at 2.5
    assert np.array(envelope_line([cold, warm])) == pytest.approx(np.array(corners))
    assert envelope_line([cold]) == cold
    # where a curve begins or ends, the envelope may jump; where there is none, it has a gap
    assert envelope_line([[(1.0, 50.0), (3.0, 20.0)], [(2.0, 10.0), (4.0, 5.0)]]) == [
        *((1.0, 50.0), (2.0, 35.0), (2.0, 10.0), (3.0, 7.5), (4.0, 5.0))
    ]
    curve = [point for latent, row in ((0.5, cold), (1.0, warm)) for point in curve_of([(0, *p) for p in row], latent)]
    line, places = envelope_of(curve)
    assert np.array(line) == pytest.approx(np.array(corners)) and places == [0, 1, 5, 6]


@pytest.mark.parametrize("seed", range(20))
def test_the_envelope_is_never_worse_than_a_curve_that_it_is_made_from(seed):
    generator = np.random.default_rng(seed)
    rows = [np.stack([np.sort(generator.uniform(0, 9, 6)), generator.uniform(0, 100, 6)], axis=1) for _ in range(3)]
    line = np.array(envelope_line(rows))
    for (start, first), (end, last) in zip(line[:-1], line[1:], strict=True):
        for share in (0.25, 0.5, 0.75) if end > start else ():
            level, height = start + share * (end - start), first + share * (last - first)
            curves = [np.interp(level, *row.T) for row in rows if row[0, 0] <= level <= row[-1, 0]]
            assert height == pytest.approx(min(curves))  # and no better than the best of them


def noisy_metric(value: float, error: float, generator) -> Replicates:
    """A metric of 50 texts with noise of that standard error."""
    texts = value + error * math.sqrt(50) * generator.normal(size=50)
    return Replicates(texts.mean(), (texts.sum() - texts) / 49, np.ones(50))


def test_one_curve_is_its_envelope():
    generator = np.random.default_rng(0)
    row = [
        (noisy_metric(quality, 0.05, generator), noisy_metric(90 - 10 * quality, 1.0, generator))
        for quality in (2, 3, 4)
    ]
    far = [(noisy_metric(quality, 0.05, generator), noisy_metric(9, 1.0, generator)) for quality in (5, 6)]
    only, found = envelope_at([row, far], 2.6), interpolate(row, 2.6)  # nothing to choose: the other is elsewhere
    assert only.value == found.value and (only.left_out == found.left_out).all()


def test_the_choice_among_many_curves_is_no_advantage():
    """
    One curve and three, all on the same line: chosen and measured on the same texts, the three look better than they
    are; chosen on one half and measured on the other, they do not, and equal systems do not differ.
    """
    generator = np.random.default_rng(0)
    level, truth, repeats = 5.0, 80.0, 300
    same, halves, differs = [], [], 0
    for _ in range(repeats):
        systems = []
        for shifts in ((0.0,), (0.0, 0.15, 0.3)):
            qualities = [np.linspace(4, 8, 6) + shift for shift in shifts]
            systems.append(
                [
                    [(noisy_metric(q, 0.06, generator), noisy_metric(130 - 10 * q, 1.2, generator)) for q in row]
                    for row in qualities
                ]
            )
        plain, latent = (envelope_at(rows, level) for rows in systems)
        same.append(min(interpolate(row, level).value for row in systems[1]) - truth)
        halves.append([plain.value - truth, latent.value - truth])
        differs += plain.difference(latent).significant
    assert np.mean(same) < -0.5
    error = np.std(halves, axis=0, ddof=1) / math.sqrt(repeats)
    assert (np.abs(np.mean(halves, axis=0)) < 4 * error).all() and error.max() < 0.08
    assert differs <= stats.binom.ppf(0.999, repeats, 0.05)


def curve_of(points, latent=None, error=0.01) -> list[dict]:
    """A row of a system's points from (temperature, nats per word, Self-BLEU)."""
    return [
        {"temperature": temperature, "latent_temperature": latent}
        | {"metrics": {"judge": constant(math.exp(quality), 0.0), "self_bleu": constant(diversity, error, 5)}}
        for temperature, quality, diversity in points
    ]


def test_equal_quality_is_over_the_range_that_all_envelopes_share():
    def row(low, high, slope, latent=None, more=0.0):
        qualities = (high, low, (low + high) / 2)  # in any order
        return curve_of([(q / 10, q, 100 + more - slope * q) for q in qualities], latent)

    first = row(1, 5, 2.0)
    second = row(3, 9, 1.0, 0.5) + row(3.2, 8.5, 1.0, 1.0, more=2.0)  # the second row is nowhere on the envelope
    table, tests, settings = equal_quality_table({"a": first, "b": second}, 400)
    labels = [f"SB ↓ at {math.exp(level):.0f}" for level in (3.5, 4.0, 4.5)]
    assert [column["label"] for column in table["columns"]] == labels
    own, other = ([cell["value"] for cell in row["cells"]] for row in table["rows"])
    assert own == pytest.approx([93, 92, 91]) and other == pytest.approx([96.5, 96, 95.5])
    assert [cell["mark"] for cell in table["rows"][0]["cells"]] == ["best"] * 3
    assert len(tests) == 3 and all(test["significant"] for test in tests)
    assert equal_quality_table({"a": row(1, 2, 2.0), "b": second}, 400) is None
    assert equal_quality_table({"a": first, "b": []}, 400) is None
    # nor over a gap between a system's curves
    assert equal_quality_table({"a": first, "b": row(1, 1.5, 1.0, 0.5) + row(4.6, 5, 1.0, 1.0)}, 400) is None
    # one text, repeated, is no end of a line
    greedy = curve_of([(0.0, 0.5, 99.9)])
    greedy[0]["metrics"]["different"] = 1.0
    again, *_ = equal_quality_table({"a": first + greedy, "b": second}, 400)
    assert again == table and envelope_of(first + greedy) == envelope_of(first)
    # between which settings that is
    assert [level["perplexity"] for level in settings["b"]] == pytest.approx(np.exp([3.5, 4.0, 4.5]))
    assert [level["temperatures"] for level in settings["b"]] == [pytest.approx([0.3, 0.6])] * 3
    assert {level["latent_temperature"] for level in settings["b"]} == {0.5}
    assert [level["temperatures"] for level in settings["a"]] == [pytest.approx([0.3, 0.5])] * 3


# ---- Seeds, resuming, what is left out ----


def test_several_seeds_are_averaged(folder, tmp_path, capsys):
    arguments = [folder / "trace-r", "--dataset", "reviews", *DATA, *SMALL[:6], "--max_new_tokens", 12]
    arguments += ["--judge", "none", "--decoding", "top-k", "--seeds", 3, 4, "--curve_temperatures"]
    code, out, err = run(capsys, "evaluate", *arguments, "--output", tmp_path / "out")
    assert code == 0, err
    found = read(tmp_path / "out")
    own = found["seeds"]["top-k"]["trace-r"]
    assert len(own) == 2 and own[0]["self_bleu"] != own[1]["self_bleu"]
    mean = (own[0]["self_bleu"] + own[1]["self_bleu"]) / 2
    assert cell(found, "overview", "trace-r", "self_bleu")["value"] == pytest.approx(mean)
    assert sorted(path.name for path in (tmp_path / "out/texts/top-k").iterdir()) == [
        "trace-r-1.jsonl",
        "trace-r-2.jsonl",
    ]
    assert found["curves"] == {"trace-r": []} and found["tests"] == []
    assert (tmp_path / "out/report.md").read_text().startswith("# Evaluation of trace-r")


@pytest.mark.slow
def test_goes_on_where_it_was_stopped(folder, report, tmp_path, capsys, monkeypatch):
    arguments = ["compare", folder / "gpt2", folder / "trace-r", "--dataset", "reviews", *DATA, *SMALL]
    arguments += ["--judge", folder / "judge", "--output", tmp_path / "out"]
    written = []
    generate_texts = measure.generate_texts

    def counted(*args, **settings):
        written.append(settings["description"])
        return generate_texts(*args, **settings)

    def stopped(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "generate_texts", counted)
    with monkeypatch.context() as patch:
        patch.setattr(measure_latents, "active_units", stopped)  # the last part that needs weights
        code, out, err = run(capsys, *arguments)
    assert code == 130 and "the same command goes on from here" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cache"}
    assert len(written) == 13
    code, out, err = run(capsys, *arguments)
    assert code == 0 and len(written) == 13 and "results of an earlier run were used again" in out, err
    again, whole = read(tmp_path / "out"), read(report)
    assert again == whole
    # other settings are computed anew
    code, out, err = run(capsys, *arguments, "--max_new_tokens", 11)
    assert code == 0 and len(written) == 26, err


def test_nothing_but_the_block_in_work_is_lost(folder, tmp_path, capsys, monkeypatch):
    """Stopped in the third block of texts, it writes what it would have written."""
    monkeypatch.setattr(measure, "BLOCK", 6)
    arguments = [folder / "trace-r", "--dataset", "reviews", *DATA, *SMALL[:6], "--max_new_tokens", 12]
    arguments += ["--judge", "none", "--decoding", "top-k", "--curve_temperatures", "--output"]
    code, _, err = run(capsys, "evaluate", *arguments, tmp_path / "whole")
    assert code == 0, err
    generate_texts, calls = measure.generate_texts, []

    def stopped(*args, **settings):
        calls.append(args[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate_texts(*args, **settings)

    monkeypatch.setattr(measure, "generate_texts", stopped)
    assert run(capsys, "evaluate", *arguments, tmp_path / "stopped")[0] == 130
    assert run(capsys, "evaluate", *arguments, tmp_path / "stopped")[0] == 0
    assert [len(prompts) for prompts in calls] == [6, 6, 6, 6, 2]
    assert read(tmp_path / "stopped") == read(tmp_path / "whole")


def test_points_of_the_plane_that_are_there_are_not_written_again(folder, tmp_path, capsys, monkeypatch):
    arguments = [folder / "trace-r", "--dataset", "reviews", *DATA, *SMALL[:10], "--max_new_tokens", 6]
    arguments += ["--judge", "none", "--decoding", "top-k", "--curve_temperatures", 0, 1]
    arguments += ["--output", tmp_path / "out", "--curve_latent_temperatures"]
    generate_texts, calls = measure.generate_texts, []

    def stopped(*args, **settings):
        calls.append((settings.get("temperature", 0), settings.get("latent_temperature"), len(args[2])))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate_texts(*args, **settings)

    monkeypatch.setattr(measure, "generate_texts", stopped)
    assert run(capsys, "evaluate", *arguments, 0, 1)[0] == 130
    code, _, err = run(capsys, "evaluate", *arguments, 0, 1)
    assert code == 0, err
    points = [(0, 0.0, 1), (1, 0.0, 6), (0, 1.0, 6), (1, 1.0, 6)]  # no more than one text where nothing is drawn
    assert calls == [(1.0, None, 20), *points[:3], *points[2:]]
    # another temperature is written beside those that are there
    assert run(capsys, "evaluate", *arguments, 0, 0.5, 1)[0] == 0
    assert calls[6:] == [(0, 0.5, 6), (1, 0.5, 6)]
    assert len(read(tmp_path / "out")["curves"]["trace-r"]) == 6


def test_a_model_without_numbers_does_not_stop_the_others(folder, tmp_path, capsys):
    model = TraceForConditionalGeneration.from_pretrained(folder / "trace-r")
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(math.nan)
    model.save_pretrained(tmp_path / "broken")
    TraceProcessor.from_pretrained(folder / "trace-r").save_pretrained(tmp_path / "broken")
    arguments = [tmp_path / "broken", folder / "gpt2", "--dataset", "reviews", *DATA, *SMALL, "--judge", "none"]
    code, out, err = run(capsys, "compare", *arguments, "--decoding", "top-k", "--output", tmp_path / "out")
    assert code == 0, err
    found = read(tmp_path / "out")
    assert any(finding.startswith("broken could not be measured: ") for finding in found["findings"])
    assert [system["name"] for system in found["systems"]] == ["gpt2"]


def test_a_judge_that_cannot_read_one_set_reads_the_others(folder, report, tmp_path, capsys, monkeypatch):
    """More texts on the curve than the judge reads of the rest, and one set that it refuses."""
    judge_perplexity, calls = metric_values.judge_perplexity, []

    def picky(texts, *args, **settings):
        calls.append(len(texts))
        if len(calls) == 2:
            raise ValueError("`texts[0]` must have at most 64 tokens, got 65.")
        return judge_perplexity(texts, *args, **settings)

    monkeypatch.setattr(metric_values, "judge_perplexity", picky)
    arguments = ["compare", folder / "gpt2", folder / "trace-r", "--dataset", "reviews", *DATA, *SMALL]
    arguments += ["--num_judge_texts", 4, "--num_curve_texts", 8, "--judge", folder / "judge"]
    code, out, err = run(capsys, *arguments, "--output", tmp_path / "out")
    assert code == 0, err
    found = read(tmp_path / "out")
    assert calls == [4] * 5 + [8] * 10
    (finding,) = [one for one in found["findings"] if one.startswith("judge PPL/word was left out")]
    assert finding.startswith(
        "judge PPL/word was left out for trace-r, greedy: `texts[0]` must have at most 64 tokens"
    )
    assert cell(found, "decoding-greedy", "trace-r", "judge") is None
    assert cell(found, "decoding-top-k", "trace-r", "judge")["value"] > 1
    assert all("judge" in point["metrics"] for points in found["curves"].values() for point in points)


def test_likelihood_is_of_texts_that_all_systems_can_read(folder, tmp_path, capsys):
    flags = [*TRAIN, *DATA[:4], "--system", "trace-r", "--output_dir", str(tmp_path / "short")]
    flags[1] = flags[1].replace("64", "34")
    assert main(["train", *flags]) == 0
    arguments = [folder / "gpt2", tmp_path / "short", "--dataset", "reviews", *DATA, *SMALL[:6], "--judge", "none"]
    arguments += ["--decoding", "top-k", "--curve_temperatures", "--max_words", 9, "--max_new_tokens", 12]
    code, out, err = run(capsys, "compare", *arguments, "--output", tmp_path / "out")
    assert code == 0, err
    found = read(tmp_path / "out")
    (note,) = [one for one in found["findings"] if "do not fit the context of every system" in one]
    assert note.startswith(tuple("123456789")) and "of 20 real texts" in note
    lengths = [found["positions"]["short"]["num_texts"][0]]
    assert lengths == [min(8, 20 - int(note.split()[0]))]


def test_results_are_found_by_content(folder, tmp_path):
    """The same bytes are the same model, wherever and whenever they were written; other weights never are."""
    shutil.copytree(folder / "trace-r", tmp_path / "m")
    config = TraceForConditionalGeneration.from_pretrained(tmp_path / "m").config

    def fingerprint():
        return fingerprints.saved_model_fingerprint(str(tmp_path / "m"), config)

    found = [fingerprint()]
    assert found == [fingerprints.saved_model_fingerprint(str(folder / "trace-r"), config)]
    weights = tmp_path / "m" / "model.safetensors"
    before, stat = weights.read_bytes(), weights.stat()
    changed = before[:-1] + bytes([before[-1] ^ 1])  # one bit, with the size and the time of before
    weights.write_bytes(changed)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    found.append(fingerprint())
    weights.write_bytes(before)
    assert fingerprint() == found[0]  # also with another time
    (tmp_path / "m" / "README.md").write_text("a page for readers")
    (tmp_path / "m" / "optimizer.pt").write_bytes(b"what training resumes from")
    assert fingerprint() == found[0]
    for name in ("dynamics_trace.py", "generation_config.json", "tokenizer.json"):
        with open(tmp_path / "m" / name, "a") as file:
            file.write("\n")
        found.append(fingerprint())
    base, adapter = tmp_path / "base", tmp_path / "m" / "adapter_config.json"
    base.mkdir()
    adapter.write_text(json.dumps({"base_model_name_or_path": str(base)}))
    found.append(fingerprint())
    (base / "model.safetensors").write_text("new weights")
    found.append(fingerprint())
    assert len(set(found)) == 7
    adapter.write_text(json.dumps({"base_model_name_or_path": "a/base-on-the-hub"}))
    assert fingerprint() is None  # only the loaded weights tell


def test_weights_in_memory_that_change_are_measured_anew(folder, tmp_path):
    model, processor = load_model(folder / "gpt2", "cpu")
    texts = real_texts(20)
    data = EvaluationData("mine", texts[:8], texts[8:])
    what = EvaluationSettings(num_likelihood_texts=5, decoding=("top-k",), curve_temperatures=(), max_new_tokens=5)

    def nats(folder):
        report = compare([(model, processor)], data, folder, names=["mine"], settings=what)
        return cell(report, "likelihood", "mine", "nats")["value"], report["num_reused"]

    before, reused = nats(tmp_path / "out")
    assert reused == 0
    again, reused = nats(tmp_path / "out")
    assert again == before and reused > 0
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    after, _ = nats(tmp_path / "out")
    assert after == nats(None)[0] != before  # as without any cache
    model.train()
    assert nats(None)[0] == after and model.training  # in eval mode, and left as it was
    model.generation_config.repetition_penalty = 1.5
    _, reused = nats(tmp_path / "out")
    assert reused == 7  # those of the real texts alone, which are too few for CND


def test_what_separators_cost_is_shown_for_the_systems_that_generate_them(tmp_path):
    """One vocabulary, with and without [SEP] in the texts: a part of nats/text for the one, nothing for the other."""
    torch.manual_seed(0)
    texts = real_texts(12)
    tokenizer = train_tokenizer(texts, 300)
    models = []
    for separator in ("token", "none"):
        processor = TraceProcessor(tokenizer, FixedLengthSegmenter(4), separator=separator)
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "sep")}
        backbone = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 128}
        backbone["vocab_size"] = len(processor.tokenizer)
        config = tiny_config(backbone_config=backbone, separator=separator, segment_length=4, **ids)
        models.append((TraceForConditionalGeneration(config).eval(), processor))
    data = EvaluationData("mine", texts[:8], texts[8:])
    what = EvaluationSettings(num_samples=2, decoding=("top-k",), curve_temperatures=(), max_new_tokens=4)
    found = compare(models, data, tmp_path / "out", names=["with", "without"], settings=what)

    model, processor = models[0]
    order = Dataset.from_dict({"text": data.real})
    expected = evaluate_likelihood(model, prepare_dataset(order, processor), processor, 2, batch_size=16, seed=0)
    value = cell(found, "likelihood", "with", "sep_nats")["value"]
    assert value == pytest.approx(expected.separator_nats_per_text) and value > 0
    rest = cell(found, "likelihood", "with", "nats")["value"] - value
    assert rest == pytest.approx(expected.nats_per_text_without_separators)
    assert cell(found, "likelihood", "without", "sep_nats") is None
    assert not any(test["metric"] == "sep_nats" for test in found["tests"])  # less is not better by itself
    assert all("nats of [SEP]" in (tmp_path / "out" / name).read_text() for name in ("report.md", "report.html"))


def test_half_written_results_are_computed_again(tmp_path):
    cache = EvaluationCache(tmp_path)
    assert cache.get_or_compute("a/b", {"x": (1, 2)}, lambda: [1.5, float("inf")]) == [1.5, float("inf")]
    assert cache.get_or_compute("a/b", {"x": [1, 2]}, lambda: 1 / 0) == [1.5, float("inf")]
    assert cache.get_or_compute("a/b", {"x": [1, 3]}, lambda: "new") == "new"
    for content in ('{"settings": {"x": [1', "[]", '{"settings": {"x": [1, 3]}}'):
        (tmp_path / "a/b.json").write_text(content)
        assert cache.get_or_compute("a/b", {"x": [1, 3]}, lambda: "newer") == "newer"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


def test_only_results_of_an_earlier_run_count_as_such(tmp_path):
    """A run that meets its own result twice, as of real texts on two tables, reuses nothing of an earlier one."""
    for runs in range(3):
        cache = EvaluationCache(tmp_path)
        for _ in range(2):
            cache.get_or_compute("a", {}, lambda: 1)
        cache.get_or_compute(f"new{runs}", {}, lambda: 1)
        assert cache.num_reused == (0 if runs == 0 else 2)


@pytest.mark.parametrize("judge", ["nowhere", pytest.param("nowhere.gguf", marks=pytest.mark.slow)])
def test_without_the_judge_the_rest_is_written(judge, folder, report, tmp_path, capsys):
    arguments = ["compare", folder / "gpt2", folder / "trace-r", "--dataset", "reviews", *DATA, *SMALL]
    arguments += ["--extra_metrics", "mauve", "vendi_score"]
    code, out, err = run(capsys, *arguments, "--judge", tmp_path / judge, "--output", tmp_path / "out")
    assert code == 0, err
    found, whole = read(tmp_path / "out"), read(report)
    assert any(f.startswith("judge PPL/word was left out for 15 sets of texts: ") for f in found["findings"])
    assert any(f.startswith("MAUVE (judge) was left out for 4 sets of texts: ") for f in found["findings"])
    assert sum("nowhere" in finding for finding in found["findings"]) == 2
    assert "Without an outside judge nothing is said of diversity at equal quality." in found["findings"]
    assert cell(found, "decoding-top-k", "trace-r", "cnd") == cell(whole, "decoding-top-k", "trace-r", "cnd")
    with pytest.raises(ValueError, match="'judge' is not in list"):
        cell(found, "decoding-top-k", "trace-r", "judge")
    assert 1 <= cell(found, "further-greedy", "trace-r", "vendi_score")["value"] <= NUM_TEXTS


def test_conditional_systems_are_measured_against_their_references(tmp_path, capsys):
    stories = [
        {"title": f"Story {number}", "text": f"It was day {number}. We went out. It rained {'a lot ' * (number % 4)}."}
        for number in range(40)
    ]
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stories))
    data = ["--dataset", str(tmp_path / "stories.jsonl"), "--validation_split", "12"]
    flags = ["--conditional", "true", "--output_dir", str(tmp_path / "m")]
    assert main(["train", *TRAIN, *data, *flags]) == 0
    arguments = [
        *data,
        *SMALL[4:6],
        *SMALL[8:10],
        "--num_texts",
        12,
        "--num_likelihood_texts",
        5,
        "--decoding",
        "beam",
    ]
    code, out, err = run(
        capsys, "evaluate", tmp_path / "m", *arguments, "--judge", "none", "--output", tmp_path / "out"
    )
    assert code == 0, err
    found = read(tmp_path / "out")
    assert found["data"]["conditional"] and found["tables"][0]["title"].endswith(
        "beam search, 10 beams: only latents are drawn"
    )
    assert [column["metric"] for column in found["tables"][0]["columns"]][:4] == ["bleu", "rouge1", "rouge2", "rougeL"]
    rows = [json.loads(line) for line in (tmp_path / "out/texts/beam/m.jsonl").read_text().splitlines()]
    assert len({row["prompt"] for row in rows}) == 12
    assert "compared with 28 training texts" in " ".join(found["findings"])  # 12 of 12 are evaluated on


# ---- The likelihood's estimator ----


def test_reports_say_which_estimator_of_the_likelihood(folder, report, tmp_path, capsys):
    arguments = [folder / "gpt2", folder / "trace-r", "--dataset", "reviews", *DATA, *SMALL[:2]]
    arguments += ["--num_likelihood_texts", 8, "--num_samples", 4, "--max_new_tokens", 12, "--curve_temperatures"]
    arguments += ["--judge", "none", "--decoding", "top-k", "--likelihood_method", "particle"]
    code, _, err = run(capsys, "compare", *arguments, "--output", tmp_path / "out")
    assert code == 0, err
    found, weighted = read(tmp_path / "out"), read(report)
    table = {
        each: next(t for t in one["tables"] if t["id"] == "likelihood") for each, one in enumerate((weighted, found))
    }
    labels = [{column["metric"]: column["label"] for column in table[each]["columns"]} for each in (0, 1)]
    for metric in ("nats", "ppl", "ppl_word"):
        assert labels[1][metric] == labels[0][metric].replace(" ↓", " (particle) ↓") != labels[0][metric]
    assert "by importance weighting" in table[0]["caption"] and "by a particle filter" in table[1]["caption"]
    assert "4 latent samples each, by a particle filter" in (tmp_path / "out" / "report.md").read_text()
    assert "2 latent samples each, by importance weighting" in (report / "report.md").read_text()
    # the plain model's is exact by either; of the other, steps were counted
    assert cell(found, "likelihood", "gpt2", "nats") == cell(weighted, "likelihood", "gpt2", "nats")
    assert 1 <= cell(found, "likelihood", "trace-r", "ess_step")["value"] <= 4
    assert cell(found, "likelihood", "trace-r", "kl")["value"] > 0
    bound = {name: cell(found, "likelihood", "trace-r", name)["value"] for name in ("nats", "neg_elbo")}
    assert bound["nats"] < bound["neg_elbo"]


# ---- Findings ----


@pytest.mark.parametrize("method", ["importance", "particle"])
def test_findings_name_collapse_saturation_and_loose_bounds(method):
    segments = [[0.01, 0.02], [0.01, math.nan]]
    settings = EvaluationSettings(likelihood_method=method)

    def say(kl, mi, joint, ess, per_step, gain_per_nat=0.5, offset=0.1):
        measured = {
            "likelihood": {"kl": [kl, kl], "kl_per_segment_position": segments},
            "representation": {
                **{"mi_joint": joint, "mi_joint_cap": 5.0, "mi_per_step": per_step, "mi_caps": [5.0, 4.0]},
            },
        }
        own = {"mi": constant(mi, 0.0), "kl": constant(kl, 0.0), "ess": ess}
        own |= {"gain": constant(gain_per_nat * kl, 0.0), "gain_per_nat": constant(gain_per_nat, 0.0)}
        own["shared_offset"] = offset
        return " ".join(findings._latents("a", measured, own, settings))

    assert "a has collapsed: 0.02 nats of KL per segment" in say(0.03, 0.0, 0.0, 90.0, [0.0, 0.0])
    assert "loose" not in say(0.03, 0.0, 0.0, 1.0, [0.0, 0.0])
    assert "KL alone is no proof of use" in say(30.0, 0.1, 0.0, 90.0, [0.1, 0.0])
    healthy = say(30.0, 6.0, 3.0, 50.0, [3.0, 3.0])
    assert healthy == ""
    idle = say(30.0, 6.0, 3.0, 50.0, [3.0, 3.0], gain_per_nat=0.01)
    assert (
        "latents of a are idle: they cost 30.0 nats per text, and under another text's latents a text costs 0.30"
        in idle
    )
    assert say(30.0, 6.0, 3.0, 50.0, [3.0, 3.0], gain_per_nat=0.06) == ""
    assert "91% of the squared shift of a's posterior" in say(30.0, 6.0, 3.0, 50.0, [3.0, 3.0], offset=0.91)
    assert "joint mutual information of a is at its cap (4.99 of log N = 5.00)" in say(30, 6, 4.99, 50.0, [3.0, 3.0])
    assert "mutual information of 1 of 2 segments is at its cap" in say(30, 9, 3.0, 50.0, [4.99, 3.0])
    loose = say(30, 6, 3.0, 1.2, [3.0, 3.0])
    assert "half of the texts have an effective sample size below 1.2 of 100" in loose
    assert ("--likelihood_method particle" in loose) == (method == "importance")
    assert ("in their worst segment" in loose) == (method == "particle")


def test_findings_name_texts_of_other_lengths():
    real = {"words": 50.0}
    texts = {"greedy": {"a": {"words": 45.0, "different": 9.0}, "b": {"words": 30.0, "different": 1.0}}}
    found = " ".join(findings._lengths(texts, real))
    assert "(50 words): b 30." in found and "all texts of b are the same" in found


def test_texts_of_other_lengths_are_not_marked_as_more_diverse():
    """Distinct of 11 words a text against 49 is higher by the length alone."""
    names = ("distinct_2", "self_bleu", "judge", "ppl")
    values = {"short": (90.0, 10.0, 9.0, 9.0), "long": (60.0, 30.0, 20.0, 20.0)}

    def marks(words):
        rows = {
            name: {metric: constant(value, 0.1, seed) for metric, value in zip(names, own, strict=True)}
            | {"words": words[name], "different": 9.0}
            for seed, (name, own) in enumerate(values.items())
        }
        columns = [make_column(metric, 400) for metric in names]
        table, tests = make_table("decoding-top-k", "", columns, rows)
        differences = make_difference_table("x", "", columns, rows)
        stars = [one["mark"] for one in differences["rows"][0]["cells"]]
        found = findings._lengths({"top-k": rows}, {"words": 40.0}, tests)
        undecided = findings._undecided("top-k", tests)
        return [one["mark"] for one in table["rows"][0]["cells"]], stars, found, undecided

    found, stars, notes, undecided = marks({"short": 11.0, "long": 49.0})
    assert found == [None, None, None, "best"] and stars == [None, None, "differs", "differs"]
    assert any("are not compared where lengths differ much: short and long (11 and 49 words)" in one for one in notes)
    assert any("--max_words 11" in one for one in notes) and undecided == []
    found, stars, notes, _ = marks({"short": 40.0, "long": 49.0})
    assert found == ["best", "best", None, "best"] and stars == ["differs"] * 4
    assert not any("are not compared" in one for one in notes)


def test_equal_quality_does_not_compare_texts_of_other_lengths():
    def systems_of(words):
        curves = {name: curve_of([(0.1, 1, low), (0.9, 5, low - 8)]) for name, low in (("a", 98.0), ("b", 90.0))}
        for name, curve in curves.items():
            for point, count in zip(curve, words[name], strict=True):
                point["metrics"]["words"] = count
        return curves

    same, tests, _ = equal_quality_table(systems_of({"a": (12.0, 50.0), "b": (12.0, 50.0)}), 400)
    assert [one["mark"] for one in same["rows"][1]["cells"]] == ["best"] * 3
    other, tests, _ = equal_quality_table(systems_of({"a": (12.0, 50.0), "b": (12.0, 12.0)}), 400)
    assert [one["mark"] for one in other["rows"][1]["cells"]] == [None] * 3
    # at 2, 3 and 4 nats per word, on the line between both points
    assert [test["lengths"] for test in tests] == [[pytest.approx(12 + 9.5 * n), pytest.approx(12)] for n in (1, 2, 3)]
    assert [[one["value"] for one in row["cells"]] for row in other["rows"]] == [
        [one["value"] for one in row["cells"]] for row in same["rows"]
    ]


# ---- Texts that a system was trained on ----


def trained_on(tmp_path, **trained) -> SimpleNamespace:
    """A system whose folder says what it was trained on."""
    path = tmp_path / f"m{len(list(tmp_path.glob('m*')))}"
    path.mkdir()
    (path / "train_config.yaml").write_text(json.dumps(trained))  # which is YAML, too
    return SimpleNamespace(name="m", path=str(path))


@pytest.fixture
def reviews_file(tmp_path):
    """40 texts in a column of another name, beside a column of numbers."""
    texts = [f"Text {number} of  many." for number in range(40)]
    rows = [{"review": text, "stars": number % 5} for number, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "a.jsonl")


def test_held_out_texts_were_not_trained_on_whatever_the_flags_are_called(reviews_file, tmp_path):
    named = trained_on(tmp_path, dataset=reviews_file, text_column="review", validation_split=0.25)
    found = trained_on(tmp_path, dataset=reviews_file, text_column=None, validation_split=0.25)
    for column in (None, "review"):
        data = load_real_texts(reviews_file, text_column=column, validation_split=0.25)
        assert len(data.real) == 10 and find_training_texts([named, found], data) == []


def test_the_same_texts_are_found_under_any_name(reviews_file, tmp_path):
    system = trained_on(tmp_path, dataset=reviews_file, text_column="review", validation_split=0.25)
    rows = [json.loads(line) for line in open(reviews_file)]
    renamed = [{"story": "  ".join(row["review"].split())} for row in rows]  # other name, column and white space
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in renamed))
    for dataset in (str(tmp_path / "b.jsonl"), Dataset.from_list(renamed), reviews_file):
        data = load_real_texts(dataset, validation_split=None, num_texts=40)
        (note,) = find_training_texts([system], data)
        assert note.startswith(f"m was trained on 30 of the 40 real texts, as texts of '{reviews_file}'")
    # cut texts are looked for as they were, and another division is seen
    data = load_real_texts(reviews_file, validation_split=0.5, max_words=1)
    held_out = set(load_real_texts(reviews_file, validation_split=0.25).real)
    number = sum(text not in held_out for text in data.uncut)
    assert 0 < number < 20 and set(data.real) == {"Text"}
    (note,) = find_training_texts([system], data)
    assert f"trained on {number} of the 20 real texts" in note
    # and among texts in memory
    own = EvaluationData("mine", [text for text in data.uncut if text not in held_out][:1] + ["Another.", "More."], [])
    (note,) = find_training_texts([system], own)
    assert "trained on 1 of the 3 real texts" in note


def test_files_are_read_as_training_read_them(tmp_path):
    """Encoding and delimiter, of the texts of the evaluation and of those that a system was trained on; and words."""
    path = tmp_path / "a.csv"
    rows = [f"{number};Caf\xe9, the {number}." for number in range(40)]
    path.write_text("\n".join(["id;text", *rows]) + "\n", encoding="latin-1")
    read_as = {"text_column": "text", "encoding": "latin-1", "delimiter": ";"}
    data = load_real_texts(str(path), **read_as, validation_split=0.25, max_words=5, word_tokenizer="characters")
    assert data.real == ["Caf\xe9,"] * 10 and all(text.startswith("Caf\xe9, the ") for text in data.uncut)
    system = trained_on(tmp_path, dataset=str(path), **read_as, validation_split=None)
    (note,) = find_training_texts([system], data)
    assert "trained on 10 of the 10 real texts" in note


def test_training_texts_that_cannot_be_read_are_no_clean_bill(reviews_file, tmp_path):
    data = load_real_texts(reviews_file)
    gone = trained_on(tmp_path, dataset=str(tmp_path / "gone.jsonl"))
    stream = trained_on(tmp_path, dataset=reviews_file, streaming=True)
    (tmp_path / "bare").mkdir()
    notes = find_training_texts([gone, stream, SimpleNamespace(name="m", path=str(tmp_path / "bare"))], data)
    assert len(notes) == 2
    assert all(note.startswith("Whether m was trained on these texts is not known") for note in notes)
    assert "gone.jsonl" in notes[0] and "they were a stream" in notes[1]


def test_the_report_names_systems_that_were_trained_on_its_texts(folder, report, tmp_path, capsys):
    """Five training texts and 15 held-out ones, in a file and a column of other names."""
    train, held_out = load_texts("reviews", max_texts=160, validation_split=120)
    rows = [{"story": text} for text in train["text"][:5] + held_out["text"][:15]]
    (tmp_path / "copy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [folder / "trace-r", "--dataset", tmp_path / "copy.jsonl", "--validation_split", "none"]
    arguments += ["--max_words", 12, *SMALL[:4], "--num_samples", 1, "--max_new_tokens", 6, "--curve_temperatures"]
    arguments += ["--judge", "none", "--decoding", "top-k", "--output", tmp_path / "out"]
    code, out, err = run(capsys, "evaluate", *arguments)
    assert code == 0, err
    found = read(tmp_path / "out")["findings"]
    assert any(one.startswith("trace-r was trained on 5 of the 20 real texts, as texts of 'reviews'") for one in found)
    assert not any("was trained on" in one for one in read(report)["findings"])


# ---- Small things ----


def test_names_of_the_command_line_are_those_of_the_library():
    assert command.DECODING_NAMES == tuple(DECODING)
    assert command.LIKELIHOOD_METHODS == tuple(settings.METHOD_NAMES)
    assert command.EXTRA_METRICS == settings.EXTRA_METRICS
    fields = {field.name for field in dataclasses.fields(EvaluationSettings)}
    told = {"dataset", "conditional", "word_tokenizer"}  # by the models and the settings
    texts = set(inspect.signature(load_real_texts).parameters) - told
    assert texts == set(command.TEXTS)
    arguments = vars(command._parse(["m", "--dataset", "d", "--output", "o"], "compare", "", ""))
    assert set(arguments) == fields | texts | {"models", "names", "dataset", "output"}
    defaults = EvaluationSettings(**{name: arguments[name] for name in fields})
    assert dataclasses.replace(defaults, judge=None) == EvaluationSettings()
    for name, parameter in inspect.signature(load_real_texts).parameters.items():
        assert name not in texts or arguments[name] == parameter.default


def test_decoding_presets_are_the_papers():
    assert DECODING["greedy"] == {"do_sample": False, "num_beams": 1} == sampling_at(0)
    assert sampling_at(0) is not DECODING["greedy"]  # callers may add to it
    assert DECODING["beam"]["num_beams"] == 10 and DECODING["top-k"]["top_k"] == 50
    assert sampling_at(0.5) == {**DECODING["temperature"], "temperature": 0.5}
    assert sampling_at(0.5, 0.0) == {**DECODING["temperature"], "temperature": 0.5, "latent_temperature": 0.0}


def test_a_plain_model_has_one_row_of_the_plane():
    assert plane_settings((0, 1), (0.5, 1), has_latents=True) == [(0, 0.5), (1, 0.5), (0, 1), (1, 1)]
    assert plane_settings((0, 1), (0.5, 1), has_latents=False) == [(0, None), (1, None)]
    assert [setting_label(0.5, None), setting_label(1.0, 0.0)] == ["T=0.5", "T=1, τ=0"]
    assert setting_label(0.5, 0.5, to=0.6) == "T=0.5 to 0.6, τ=0.5"
    default = EvaluationSettings()
    grid = plane_settings(default.curve_temperatures, default.curve_latent_temperatures, has_latents=True)
    assert len(grid) == len(set(grid)) >= 10


def test_markdown_shows_texts_as_they_are(report):
    found = read(report)
    found["samples"] = {"": {"real text": [{"text": "a | b *c* <unk>\nnew `line`", "prompt": None}]}}
    markdown = markdown_report(found)
    assert r"1. a \| b \*c\* \<unk\> new \`line\`" in markdown


# ---- Bad input ----


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--num_texts", "500"],
            "`num_texts` must be at most the 120 texts that 'reviews' holds for evaluation, got 500",
        ),
        (["--num_texts", "2"], "`num_texts` must be >= 3, got 2. An interval needs texts"),
        (["--num_samples", "0"], "`num_samples` must be >= 1, got 0"),
        (
            ["--num_texts", "20", "--num_judge_texts", "21"],
            "`num_judge_texts` must be at most `num_texts`, got 21 and 20",
        ),
        (
            ["--decoding", "greedy", "nucleus"],
            "`decoding` must be of greedy, beam, top-k, top-p, temperature, got 'nucleus'",
        ),
        (["--decoding", "greedy", "greedy"], "`decoding` must be different ones, got greedy greedy"),
        (["--likelihood_method", "fivo"], "`likelihood_method` must be of importance, particle, got 'fivo'"),
        (["--seeds", "1", "1"], "`seeds` must be different ones, got 1 1"),
        (["--extra_metrics", "bleurt"], "`extra_metrics` must be of bert_score, mauve, vendi_score, got 'bleurt'"),
        (["--curve_temperatures", "-1"], "`curve_temperatures` must be from 0 to 10, got -1"),
        (["--curve_latent_temperatures", "1", "-0.5"], "`curve_latent_temperatures` must be from 0 to 10, got -0.5"),
        (["--curve_latent_temperatures", "nan"], "`curve_latent_temperatures` must be from 0 to 10, got nan"),
        (["--curve_latent_temperatures"], "`curve_latent_temperatures` must hold at least one temperature, got none"),
        (["--curve_latent_temperatures", "1", "1"], "`curve_latent_temperatures` must be different ones, got 1.0 1.0"),
        (
            ["--latent_temperatures", "1"],
            "there is no flag `--latent_temperatures`. Use `--curve_latent_temperatures`",
        ),
        (["--confidence", "95"], "`confidence` must be between 0.5 and 1, got 95.0"),
        (["--names", "a"], "`names` must be one for each model, got 1 for 2"),
        (["--names", "a", "a"], "`names` must differ, also as file names, got 'a' and 'a'"),
        (["--max_length", "80"], "there is no flag `--max_length`. Use `--max_words`"),
        (
            ["--max_new_tokens", "60"],
            "`max_new_tokens` must fit the context of 'trace-r', 64 tokens, got 60, which are",
        ),
        (["--names", "a/b", "a_b"], "`names` must differ, also as file names, got 'a/b' and 'a_b'"),
        (["--names", "real text", "b"], "`names` must be names of systems, got 'real text'"),
        (["--names", "..", "b"], "`names` must be names of systems, got '..'"),
        (
            ["--extra_metrics", "mauve", "--judge", "none"],
            "`extra_metrics` has 'mauve', which needs a `judge`, got none",
        ),
        (["--device", "cuda:7"], "`device` 'cuda:7' is not available"),
    ],
)
def test_bad_flags(flags, message, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(systems, "load_model", lambda *a, **k: pytest.fail("weights are read before the check"))
    arguments = [folder / "gpt2", folder / "trace-r", "--dataset", "reviews", "--max_texts", 160]
    arguments += ["--validation_split", 120, "--output", tmp_path / "out", *flags]
    code, out, err = run(capsys, "compare", *arguments)
    assert code == 2 and message in err, err
    assert len(err.strip().splitlines()[-1]) < 250 and not (tmp_path / "out" / "report.json").exists()


def test_bad_models_and_outputs(folder, tmp_path, capsys):
    code, _, err = run(capsys, "compare", "--dataset", "reviews", "--output", tmp_path / "o")
    assert code == 2 and "the model is missing. Use: modeling-trace compare RUN RUN" in err
    code, _, err = run(capsys, "evaluate", folder / "gpt2", folder / "trace-r", "--dataset", "reviews")
    assert code == 2 and "`evaluate` takes one model, got 2. Use: modeling-trace compare" in err
    code, _, err = run(capsys, "evaluate", folder / "gpt2", "--output", tmp_path / "o")
    assert code == 2 and "`dataset` is missing" in err
    code, _, err = run(capsys, "evaluate", tmp_path / "no", "--dataset", "reviews", "--output", tmp_path / "o")
    assert code == 2 and "there is no folder" in err
    code, _, err = run(capsys, "evaluate", folder / "judge", "--dataset", "reviews", "--output", tmp_path / "o")
    assert code == 2 and "is a gpt2 model, not TRACE" in err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    code, _, err = run(capsys, "evaluate", folder / "gpt2", "--dataset", "reviews", "--output", tmp_path / "mine")
    assert code == 2 and "holds something else than a report" in err
    code, _, err = run(
        capsys, "evaluate", folder / "gpt2", "--dataset", "reviews", "--output", tmp_path / "mine/thesis.tex"
    )
    assert code == 2 and "`output` must be a folder, got the file" in err


def test_conditional_and_other_systems_do_not_mix(folder):
    def system(name, conditional):
        config = TraceForConditionalGeneration.from_pretrained(folder / "trace-r").config
        config.conditional = conditional
        processor = TraceProcessor.from_pretrained(folder / "trace-r")
        return EvaluatedSystem(name, config, processor, "cpu")

    with pytest.raises(ValueError, match="^systems must all be conditional or none, got b among 2. "):
        check_systems([system("a", False), system("b", True)])


@pytest.mark.parametrize(
    "texts, message",
    [
        (["one text", "two texts"], "`dataset` must hold at least three texts to evaluate on, got 2"),
        (["so [SEP] it", "goes on", "and on"], "'[SEP]'"),
        (["so it goes", "", "and on"], "`dataset` has 1 row (1) without text"),
    ],
)
def test_bad_texts(texts, message, folder, tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    arguments = ["--dataset", tmp_path / "t.jsonl", "--validation_split", "none", "--output", tmp_path / "out"]
    code, _, err = run(capsys, "evaluate", folder / "trace-r", *arguments)
    assert code == 2 and message in err, err


def test_fewer_texts_only_when_asked(folder, tmp_path, capsys):
    reviews: Dataset = review_dataset(24)
    (tmp_path / "t.txt").write_text("\n".join(reviews["text"]) + "\n")
    arguments = [folder / "gpt2", "--dataset", tmp_path / "t.txt", "--validation_split", "none", "--num_texts", 100]
    arguments += [*SMALL[2:6], "--max_words", 12, "--curve_temperatures", "--judge", "none", "--decoding", "top-k"]
    code, _, err = run(capsys, "evaluate", *arguments, "--output", tmp_path / "out")
    assert code == 2 and "Lower it, or go on with 24 by --allow_fewer." in err
    code, _, err = run(capsys, "evaluate", *arguments, "--allow_fewer", "--output", tmp_path / "out")
    assert code == 0, err
    found = read(tmp_path / "out")
    assert "100 texts were asked for; the data hold 24, so all metrics are of 24." in found["findings"]
    assert any(finding.startswith("No real texts were left to compare n-grams with") for finding in found["findings"])
    assert found["data"]["num_real"] == 24


# ---- In Python ----


def test_python_says_what_the_command_says(folder, report, tmp_path):
    """The same systems, texts and settings: the same report, whether from paths, and whatever is written."""
    what = EvaluationSettings(
        num_samples=2,
        num_likelihood_texts=8,
        num_judge_texts=6,
        num_curve_texts=6,
        max_new_tokens=12,
        curve_temperatures=(0, 0.8, 1.0),
        curve_latent_temperatures=(0, 1.0),
        judge=str(folder / "judge"),
    )
    which = {"max_texts": 160, "validation_split": 120, "max_words": 12, "num_texts": NUM_TEXTS}
    shutil.copytree(report / "cache", tmp_path / "out" / "cache")
    found = compare([folder / "gpt2", folder / "trace-r"], "reviews", tmp_path / "out", settings=what, **which)
    assert read(tmp_path / "out") == read(report) and set(found["texts"]) == {"greedy", "top-k"}
    # nothing was computed: all that they depend on is the same
    files = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out" / "cache").rglob("*.json")}
    assert files == {path.relative_to(report) for path in (report / "cache").rglob("*.json")}
    assert found["num_reused"] >= len(files)


def test_models_in_memory_are_measured_where_they_are(folder):
    model, processor = load_model(folder / "trace-r", "cpu")
    texts = real_texts(20)
    data = EvaluationData("mine", texts[:8], texts[8:])
    what = EvaluationSettings(num_likelihood_texts=5, decoding=("top-k",), curve_temperatures=(), num_samples=2)
    found = evaluate((model, processor), data, name="mine", settings=what)
    assert found["tables"][0]["rows"][1]["name"] == "mine" and found["systems"][0]["path"] == "in memory"
    saved = evaluate(folder / "trace-r", data, name="mine", settings=what)
    assert saved["tables"] == found["tables"] and saved["texts"] == found["texts"]


def test_fewer_texts_are_generated_than_read(folder, tmp_path):
    """Likelihoods are of all real texts; what is generated stands beside the first of them alone."""
    texts = real_texts(20)
    what = EvaluationSettings(decoding=("top-k",), curve_temperatures=(), num_samples=2, num_generated_texts=5)
    whole = EvaluationData("mine", texts[:12], texts[12:])
    found = evaluate(folder / "trace-r", whole, settings=what, cache=tmp_path / "cache")
    assert len(found["texts"]["top-k"]["trace-r"][0]) == 5 and found["settings"]["num_likelihood_texts"] == 12
    few = dataclasses.replace(what, num_generated_texts=None)
    first = evaluate(folder / "trace-r", EvaluationData("mine", texts[:5], texts[12:]), settings=few)
    assert first["metrics"]["real text"] == found["metrics"]["real text"]
    few = EvaluationSettings(**vars(few) | {"num_generated_texts": None, "num_judge_texts": None})
    everything = evaluate(folder / "trace-r", whole, settings=few)
    assert everything["metrics"]["trace-r"]["likelihood"] == found["metrics"]["trace-r"]["likelihood"]
    # the cache stands for the work, and nothing else is written
    again = evaluate(folder / "trace-r", whole, settings=what, cache=tmp_path / "cache")
    assert again["num_reused"] > 5 and again["metrics"] == found["metrics"]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    with pytest.raises(ValueError, match="`num_generated_texts` must be at most `num_texts`, got 13 and 12"):
        evaluate(folder / "trace-r", whole, settings=dataclasses.replace(what, num_generated_texts=13))


def test_metrics_are_those_of_the_tables(report):
    found = read(report)
    tables = {table["id"]: table for table in found["tables"]}
    for identifier, place in (("likelihood", ("likelihood",)), ("decoding-greedy", ("texts", "greedy"))):
        for row in tables[identifier]["rows"]:
            own = found["metrics"][row["name"]]
            for name in place if row["name"] != "real text" else place[:1]:
                own = own[name]
            for column, cell in zip(tables[identifier]["columns"], row["cells"], strict=True):
                if cell is not None:
                    assert {name: cell[name] for name in ("value", "low", "high")} == own[column["key"]]
    traced = found["metrics"]["trace-r"]["likelihood"]
    assert traced["mi"]["value"] <= traced["mi_cap"]["value"] + 1e-6
    assert traced["ppl_with_sep"]["value"] < traced["ppl"]["value"] > traced["ppl_without_sep"]["value"]


def test_bad_arguments_in_python(folder):
    data = EvaluationData("mine", real_texts(8), [])
    for models, message in (
        (folder / "gpt2", "`models` must be a list of one or more"),
        ([], "`models` must be a list of one or more"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(models, data)
    with pytest.raises(ValueError, match="^`max_words` is for a `dataset` to load, got it with EvaluationData"):
        evaluate(folder / "gpt2", data, max_words=3)
    with pytest.raises(ValueError, match="^`decoding` must hold at least one, got none"):
        EvaluationSettings(decoding=())
    with pytest.raises(ValueError, match="^`num_likelihood_texts` must be at most `num_texts`, got 9 and 8. Lower it"):
        evaluate(folder / "gpt2", data, settings=EvaluationSettings(num_likelihood_texts=9))
