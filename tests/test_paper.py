"""examples/paper: the plan, its errors, what is kept and what goes on; and, slow, every experiment at smoke scale."""

import csv
import dataclasses
import importlib
import json
import subprocess
import sys

import pytest
import torch
import yaml
from helpers.paper import PAPER, paper_modules
from safetensors.torch import load_file

from modeling_trace import TraceConfig
from modeling_trace.presets import RECIPES, SYSTEMS


class TextsOf:
    """In place of texts, for plans."""

    def __init__(self, name):
        self.train_hash, self.test_hash = f"train of {name}", f"test of {name}"
        self.train = range(10)


@pytest.fixture(scope="module", autouse=True)
def modules():
    with paper_modules():
        yield


@pytest.fixture
def script():
    return importlib.import_module


def plan_of(script, name, scale="smoke", recipe="ours", data=None, **settings):
    experiment, size = script("experiment").load(name, scale, data, settings)
    return script("plan").make_plan(
        experiment, size, scale, recipe, {one: TextsOf(one) for one in experiment.datasets}
    )


# ---- The plan ----

NAMES = ["figure2", "figure3", "likelihood_time", "plane", "table2", "table3", "table4", "table5", "table6"]


def test_the_experiments_are_those_of_the_files(script):
    assert script("experiment").experiment_names() == NAMES


@pytest.mark.parametrize("scale", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_a_plan_at_every_scale(script, name, scale):
    data = {"yelp": "yelp.jsonl", "yahoo": "yahoo.jsonl"} if scale == "cpu" else None
    found = plan_of(script, name, scale, data=data)
    assert bool(found.cells) == (found.experiment.kind != "ratings")
    assert len({cell.key for cell in found.cells}) == len(found.cells)
    json.dumps(found.configuration)


def test_all_systems_are_trained_alike(script):
    """The same texts, steps, batches and learning rate, from the base of their data set and seed."""
    found = plan_of(script, "table2", "cpu", data={"yelp": "a", "yahoo": "b"})
    assert len(found.cells) == 2 * 3 * 7 and len(found.trainings) == 2 * 3 * (7 + 1)
    for name in ("steps", "batch_size", "learning_rate", "warmup_steps", "kl_schedule"):
        assert len({getattr(cell.training, name) for cell in found.cells}) == 1
    bases = {}
    for cell in found.cells:
        base = bases.setdefault((cell.labels["dataset"], cell.labels["seed"]), cell.training.base)
        assert cell.training.base == base and base.texts == cell.training.texts and base.seed == cell.labels["seed"]
        assert base.model == SYSTEMS["gpt2"].model and base.steps == 1200
    assert len({base.key for base in bases.values()}) == 6
    order = [one.key for one in found.trainings]
    assert all(order.index(cell.training.base.key) < order.index(cell.training.key) for cell in found.cells)


def test_experiments_share_models_whatever_they_call_them(script):
    keys = {name: {one.key for one in plan_of(script, name).trainings} for name in ("table2", "table5", "table6")}
    assert keys["table6"] <= keys["table2"]
    assert len(keys["table5"] & keys["table2"]) == 4  # trace-r, trace-p, trace and their base
    other = {one.key for one in plan_of(script, "table2", steps=11).trainings}
    assert len(other & keys["table2"]) == 1  # the base


def test_another_model_in_the_same_folder_is_another_model(script, tmp_path):
    (tmp_path / "config.json").write_text("{}")

    def keys():
        plan = plan_of(script, "plane", "paper", backbone=str(tmp_path), judge=str(tmp_path), data={"yelp": "x"})
        return {cell.key for cell in plan.cells} | {training.key for training in plan.trainings}

    first = keys()
    assert keys() == first
    (tmp_path / "config.json").write_text('{"n_layer": 3}')
    assert not keys() & first


def test_an_ablation_differs_in_one_field(script):
    plan = script("plan")
    found = plan_of(script, "table5")
    models = {cell.labels["system"]: cell.training.model for cell in found.cells}
    assert set(found.experiment.ablations) < set(models)
    for name, ablation in found.experiment.ablations.items():
        (field,) = set(ablation) - {"of"}
        own, whole = ({**models[one]} for one in (name, ablation["of"]))
        value = own.pop(field)
        assert value == ablation[field] != whole.pop(field, getattr(TraceConfig, field))
        assert own == whole
        if name in SYSTEMS:  # the same as `--system`
            assert models[name] == SYSTEMS[name].model == plan.model_settings(name, found.experiment)
    assert models["trace-r-LN+FB"]["free_nats"] > 0


def test_the_papers_recipe_is_of_the_papers_systems(script):
    ours, paper = (plan_of(script, "table2", recipe=recipe) for recipe in ("ours", "paper"))
    for one, other in zip(ours.cells, paper.cells, strict=True):
        assert other.training.kl_schedule == "cyclical" and other.training.learning_rate == 5e-5
        assert other.training.batch_size == 32 and other.training.steps == one.training.steps
        if one.labels["system"] in ("gpt2", "trace"):
            assert one.training.model == other.training.model
        else:
            stated = dict(RECIPES["paper"].model) | dict(SYSTEMS[one.labels["system"]].model)
            assert other.training.model == {name: v for name, v in stated.items() if name != "segment_length"}
            assert other.training.model["posterior_norm_gamma"] == 3 and other.training.model["kl_reduction"] == "mean"


def test_segment_lengths_are_what_is_trained(script):
    found = plan_of(script, "figure3")
    for cell in found.cells:
        assert cell.training.segments == cell.labels["segment_length"]
    assert {cell.labels["segment_length"] for cell in found.cells} == {5, 10, "sentences"}
    assert {cell.training.segments for cell in plan_of(script, "table2").cells} == {10, None}


# ---- Bad input ----


@pytest.mark.parametrize(
    "change, message",
    [
        ({"systems": ["trace-q"]}, "`systems` 'trace-q' is not known. Did you mean 'trace-"),
        ({"decodings": ["topk"]}, "`decodings` 'topk' is not known. Did you mean 'top-k'?"),
        ({"metrics": ["selfbleu"]}, "`metrics` 'selfbleu' is not known. Did you mean 'self_bleu'?"),
        ({"segment_lengths": ["sentence"]}, "`segment_lengths` must be numbers of tokens >= 1 or 'sentences'"),
        ({"kind": "model"}, "`kind` 'model' is not known. Did you mean 'models'?"),
        ({"system": ["gpt2"]}, "'system' is not known. Did you mean 'systems'?"),
        ({"ablations": {"x": {"of": "trace-r", "free_nats": 1.0, "latent_size": 3}}}, "the one field that differs"),
        ({"ablations": {"x": {"of": "trace-r", "freenats": 1.0}}}, "'freenats' is not known. Did you mean 'free_nats"),
        ({"scales": {"smok": {}}}, "`scales` 'smok' is not known. Did you mean 'smoke'?"),
        ({"scales": {"smoke": {"step": 3}}}, "`set` 'step' is not known. Did you mean 'steps'?"),
    ],
)
def test_an_unknown_name_in_a_file_is_one_line(script, tmp_path, change, message):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load((PAPER / "table6.yaml").read_text()), **change}))
    with pytest.raises(ValueError) as caught:
        script("run").main([str(file), "--output", str(tmp_path / "results")])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["tabel2"], "`experiment` 'tabel2' is not known. Did you mean 'table2'?"),
        (["table2", "--scale", "smok"], "`scale` 'smok' is not known. Did you mean 'smoke'?"),
        (["table2", "--recipe", "papr"], "`recipe` 'papr' is not known. Did you mean 'paper'?"),
        (["table2", "--data", "yelp"], "`--data` must be NAME=VALUE, got 'yelp'"),
        (["table2", "--set", "step=5"], "`set` 'step' is not known. Did you mean 'steps'?"),
        (["table2", "--scale", "cpu"], "`--data` must say where the texts of 'yelp' are at this scale"),
        (["table2", "--set", "steps=many"], "`steps` must be an integer >= 1, got 'many'"),
        (["table2", "--set", "text_tokens=0"], "`text_tokens` must be an integer >= 1, got 0"),
        (["table2", "--set", "seeds=3"], "`seeds` must be a list, got 3. Use [3]."),
        (["table2", "--set", "systems=gpt2"], "`systems` must be a list, got 'gpt2'. Use [gpt2]."),
        (
            ["table2", "--set", "text_tokens=120"],
            "`text_tokens` must fit the backbone's context of 128 tokens, got 120",
        ),
        (["table2", "--seeds", "1", "1"], "`seeds` must be different ones, got [1, 1]"),
        (["table2", "--ratings", "sheets"], "`--ratings` is for an experiment of ratings"),
        (["table2", "--data", "reviews=nowhere/yelp.jsonl"], "nowhere/yelp.jsonl"),
        (["nowhere.yaml"], "there is no experiment 'nowhere.yaml'. Name one of figure2,"),
        (["table4"], "Run the experiment that writes them first"),
        (["table2", "--set", "seeds=[1"], "`--set` seeds must be a YAML value, got '[1'"),
        (["table2", "--set", "steps=5", "steps=6"], "`--set` has steps twice, 5 and 6"),
        (["table2", "--seeds", "-1"], "`seeds` must be integers from 0 to 2**32 - 1"),
        (["table2", "--set", "seeds=[0, 0.5]"], "`seeds` must be integers from 0 to 2**32 - 1"),
        (["table2", "--set", "systems=[gpt2, gpt2]"], "`systems` must be different ones"),
        (["likelihood_time", "--set", "step_shares=[a]"], "`step_shares` must be above 0 and at most 1, got ['a']"),
        (["likelihood_time", "--set", "step_shares=[]"], "`step_shares` must be above 0 and at most 1, got []"),
        (["plane", "--set", "curve_temperatures=[a]"], "`curve_temperatures` must be numbers >= 0, got ['a']"),
        (["table5", "--set", "ablations={x: 3}"], "`ablations` 'x' must have `of`"),
        (["table2", "--set", "backbone={n_layers: 3}"], "`backbone` 'n_layers' is no field of a GPT-2"),
        (["table2", "--set", "backbone={n_layer: a}"], "`backbone` n_layer must be an integer >= 1, got 'a'"),
        (["table2", "--set", "judge=3"], "`judge` must be a text, got 3"),
        (["table2", "--set", "conditional=maybe"], "`conditional` must be true or false, got 'maybe'"),
        (["table2", "--set", "learning_rate=.nan"], "`learning_rate` must be a number >= 0, got nan"),
        (["table2", "--set", "extra_metrics=[foo]"], "`extra_metrics` 'foo' is not known"),
        (["figure2", "--set", "systems=[ind]"], "`systems` 'ind' is not known. Known: gpt2, trace"),
        (["figure2", "--set", "step_time={size: huge}"], "`step_time size` 'huge' is not known"),
        (["figure2", "--set", "segment_lengths=[sentences]"], "`segment_lengths` must be numbers of tokens >= 1, got"),
        (["figure2", "--seeds", "0"], "`--seeds` is of trainings"),
        (["table4", "--set", "ratings={}"], "`ratings` must have integers >= 1 for num_prompts"),
        (["table4", "--ratings", "nowhere"], "`--ratings` must be the folder with the filled sheets"),
    ],
)
def test_a_bad_flag_is_one_line_before_any_work(script, tmp_path, monkeypatch, flags, message):
    run = script("run")
    if not any("nowhere/yelp" in flag for flag in flags):
        monkeypatch.setattr(run, "load_cut_texts", lambda *_: pytest.fail("texts were read"))
    with pytest.raises(ValueError) as caught:
        run.main([*flags, "--output", str(tmp_path / "results")])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_in_place_of_the_output_is_one_line_and_an_exit_code(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, str(PAPER / "run.py"), "table2", "--output", str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: `--output` must be a folder") and done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_a_failed_cell_is_an_exit_code(script):
    run = script("run")
    rows = [{"failed": None}, {"failed": "not run yet"}, {"failed": script("ratings").NOT_RATED}]
    assert run.exit_code({"rows": rows}) == 0 == run.exit_code(None)
    assert run.exit_code({"rows": [*rows, {"failed": "RuntimeError: no memory"}]}) == 1


def test_a_scale_for_a_gpu_needs_one(script, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        ValueError, match="`--scale paper` needs a GPU, and none is found. Use --scale cpu, or --allow"
    ):
        script("run").main(["table2", "--scale", "paper", "--output", str(tmp_path)])


# ---- What is kept ----


@pytest.fixture
def stub(script, tmp_path, monkeypatch):
    """The runner with cells that take no time; `stub.ran` says which ran, and `stub.broken` which fail."""
    run = script("run")
    texts = {name: TextsOf(name) for name in ("reviews",)}
    monkeypatch.setattr(run, "load_cut_texts", lambda path, conditional, scale: texts[path])
    monkeypatch.setattr(run, "report", lambda results, folder: None)
    state = type("Stub", (), {"ran": [], "broken": set()})()

    def run_cell(cell, texts, folder):
        system = cell.labels["system"]
        state.ran.append(system)
        if system in state.broken:
            raise RuntimeError("no memory\nat all")
        rows = [
            {"labels": {**cell.labels, "decoding": "top-k"}, "metrics": {"cnd": 1.0}, "intervals": {}}
            | {"seconds": {}, "texts": 3, "failed": None}
        ]
        return {"rows": rows, "texts": [{**cell.labels, "text": "A."}], "trained": True, "findings": []}

    monkeypatch.setattr(run, "run_cell", run_cell)
    state.run = lambda *flags: run.main(["table2", "--output", str(tmp_path), *flags])
    state.folder = tmp_path / "table2-smoke"
    return state


def test_a_cell_that_fails_is_a_hole_and_is_tried_again(stub, capsys):
    stub.broken = {"cgd"}
    results = stub.run()
    assert len(stub.ran) == 7 == len(results["rows"])
    assert results["training_texts"] == {"reviews": 10}
    (hole,) = [row for row in results["rows"] if row["failed"]]
    assert hole["labels"]["system"] == "cgd" and hole["labels"]["decoding"] == "top-k" and hole["metrics"] == {}
    assert hole["failed"] == "RuntimeError: no memory at all"
    shown = capsys.readouterr().out
    assert "reviews: 10 training texts, 16.0 passes and 8.0 more; the models will know them by heart" in shown
    assert "cell 3 of 7, reviews cgd 0 10 10: FAILED, RuntimeError: no memory at all" in shown
    assert "| cgd | hole |" in shown.replace("  ", " ") and "seed 0: RuntimeError: no memory at all" in shown
    (log,) = (stub.folder / "logs").iterdir()
    assert "Traceback" in log.read_text()
    assert json.loads((stub.folder / "results.json").read_text()) == results
    stub.ran, stub.broken = [], set()
    assert not any(row["failed"] for row in stub.run()["rows"]) and stub.ran == ["cgd"]
    stub.ran = []
    again = stub.run()
    assert stub.ran == [] and len((stub.folder / "texts.jsonl").read_text().splitlines()) == 7 == len(again["rows"])


def test_an_interrupted_run_goes_on(stub, monkeypatch):
    run = sys.modules["run"]
    whole, counted = run.run_cell, []

    def interrupted(*arguments):
        if len(counted) == 2:
            raise KeyboardInterrupt
        counted.append(1)
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run, "run_cell", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stub.run()
    assert len(list((stub.folder / "cells").iterdir())) == 2
    stub.ran = []
    reported = stub.run("--only_report")["rows"]
    assert [row["failed"] for row in reported] == [None] * 2 + ["not run yet"] * 5 and not stub.ran
    stub.run()
    assert len(stub.ran) == 5


def test_another_configuration_is_refused_and_more_seeds_are_not(stub):
    stub.run()
    before = (stub.folder / "results.json").read_bytes()
    with pytest.raises(ValueError, match="another configuration: `steps` was 10, and is 12. Choose another --output"):
        stub.run("--set", "steps=12")
    assert (stub.folder / "results.json").read_bytes() == before
    stub.ran = []
    results = stub.run("--seeds", "0", "1")
    assert len(stub.ran) == 7 and {row["labels"]["seed"] for row in results["rows"]} == {0, 1}
    with pytest.raises(ValueError, match="`seeds` was .0, 1., and is .0."):
        stub.run()


def test_results_say_where_and_when_each_of_them_was_made(stub, monkeypatch):
    """Not where and when they were last put together."""
    folder = sys.modules["folder"]
    first = {"commit": "a", "package_version": "1", "date": "2026-01-01", "machine": {"device": "cpu", "cores": 2}}
    monkeypatch.setattr(folder, "circumstances", lambda: first)
    stub.run()
    monkeypatch.setattr(
        folder, "circumstances", lambda: {**first, "commit": "b", "machine": {"device": "H", "cores": 2}}
    )
    found = stub.run()
    assert (found["commit"], found["machine"]) == ("a", first["machine"])
    found = stub.run("--seeds", "0", "1")
    assert (found["commit"], found["machine"]) == ("a and b", {"device": "cpu and H", "cores": 2})


def test_a_folder_of_something_else_is_refused(stub):
    stub.folder.mkdir(parents=True)
    (stub.folder / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds something else than results"):
        stub.run()


def test_texts_are_cut_at_tokens_and_keep_their_letters(script):
    from modeling_trace.data import load_texts, train_tokenizer

    texts = [
        *load_texts("reviews", max_texts=30, validation_split=None)[0]["text"],
        "a naïve “café” \U0001f600 it was",
    ]
    tokenizer = train_tokenizer(texts, 300)
    for most in (3, 7, 1000):
        for text, short in zip(texts, script("texts").cut(texts, tokenizer, most), strict=True):
            assert text.startswith(short) and short
            assert short == text or len(tokenizer(short, add_special_tokens=False)["input_ids"]) <= most + 1
    assert script("texts").cut(texts, tokenizer, 1000) == texts


@pytest.fixture
def one_training(script, tmp_path):
    """The plain model that the others start from, in six steps, and its texts."""
    file = tmp_path / "texts.jsonl"
    lines = [{"text": f"We had dish {number}, and the waiter was {number % 7} minutes late."} for number in range(80)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sizes = {"systems": ["gpt2"], "base_steps": 6, "save_steps": 2}
    experiment, scale = script("experiment").load("table2", "smoke", {"dishes": str(file)}, sizes)
    texts = script("texts").load_cut_texts(str(file), False, scale)
    (cell,) = script("plan").make_plan(experiment, scale, "smoke", "ours", {"dishes": texts}).cells
    return cell.training.base, texts


def test_a_training_that_was_stopped_goes_on_from_its_last_checkpoint(script, one_training, tmp_path, monkeypatch):
    cells = script("cells")
    training, texts = one_training
    cells.ensure_trained(training, texts, tmp_path / "whole")

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("transformers.trainer_callback.DefaultFlowCallback.on_step_begin", stop, raising=False)
        cells.ensure_trained(training, texts, tmp_path / "stopped")
    assert (tmp_path / "stopped" / f"{training.key}.training" / "checkpoint-4").is_dir()
    cells.ensure_trained(training, texts, tmp_path / "stopped")

    whole, stopped = (load_file(tmp_path / name / training.key / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole) and whole.keys() == stopped.keys()
    records = [
        json.loads((tmp_path / name / training.key / "trained.json").read_text()) for name in ("whole", "stopped")
    ]
    assert [record["resumed"] for record in records] == [False, True]
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == [training.key]


def test_texts_with_more_separators_than_there_is_room_for_are_refused(script, one_training, tmp_path):
    training, texts = one_training
    trace = dataclasses.replace(training, model=dict(SYSTEMS["trace-r"].model), segments=1)
    small = dataclasses.replace(
        trace, backbone={**trace.backbone, "n_positions": 24}
    )  # the texts are of some 15 tokens
    with pytest.raises(ValueError, match=r"`text_tokens` must leave room for \[SEP\].*, got \d+ texts.*Lower it"):
        script("cells").make_trainer(small, texts.tokenizer, texts.train, None, tmp_path)
    script("cells").make_trainer(trace, texts.tokenizer, texts.train, None, tmp_path)


# ---- Every experiment, small ----


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """One folder for all, so that models are trained once."""
    return tmp_path_factory.mktemp("paper")


@pytest.fixture
def smoke(script, output):
    return lambda name, *flags: script("run").main([name, "--scale", "smoke", "--output", str(output), *flags])


def values(results, metric, **labels):
    rows = [row for row in results["rows"] if all(row["labels"].get(key) == one for key, one in labels.items())]
    return [row["metrics"][metric] for row in rows]


def models(output):
    return {path.name: path.stat().st_mtime_ns for path in (output / "models").glob("*/model.safetensors")}


@pytest.mark.slow
def test_table_2(smoke, output, script, capsys):
    results = smoke("table2")
    systems = results["configuration"]["experiment"]["systems"]
    assert [row["labels"]["system"] for row in results["rows"] if row["labels"]["system"] != "real text"] == systems
    assert not any(row["failed"] for row in results["rows"])
    (plain,) = values(results, "nats", system="gpt2")
    for system in systems[1:]:
        assert len(values(results, "tokens", system=system)) == 1
        # the same tokens for all, and both readings of the KL
        assert values(results, "tokens", system=system) == values(results, "tokens", system="gpt2")
        own = {name: values(results, name, system=system)[0] for name in ("neg_elbo", "reconstruction", "kl", "nats")}
        assert own["neg_elbo"] == pytest.approx(own["reconstruction"] + own["kl"])
        assert own["nats"] <= own["neg_elbo"] + 1e-6 and 0.5 * plain < own["nats"] < 2 * plain
        (other,), (mean_kl,) = (values(results, name, system=system) for name in ("neg_elbo_mean_kl", "kl_per_dim"))
        assert other == pytest.approx(own["reconstruction"] + mean_kl)
        (mi,), (cap,) = (values(results, name, system=system) for name in ("mi", "mi_cap"))
        assert mi <= cap + 1e-6
    # a system equals itself but for its draws: no metric tells it from itself
    cells, texts = script("cells"), script("texts")
    plan = script("plan")
    experiment, scale = script("experiment").load("table2", "smoke")
    own = {"reviews": texts.load_cut_texts("reviews", False, scale)}
    cell = plan.make_plan(experiment, scale, "smoke", "ours", own).cells[-1]
    again = cells.measure(output / "models" / cell.training.key, "again", own["reviews"], cell.settings)
    found = again["metrics"]["again"]["texts"]["top-k"]
    (row,) = [row for row in results["rows"] if row["labels"]["system"] == cell.labels["system"]]
    for metric in ("self_bleu", "distinct_2", "jaccard"):
        widths = [
            0.5 * (high - low)
            for low, high in (row["intervals"][metric], (found[metric]["low"], found[metric]["high"]))
        ]
        assert abs(row["metrics"][metric] - found[metric]["value"]) <= sum(widths) + 1e-9
    likelihood = again["metrics"]["again"]["likelihood"]["nats"]["value"]
    assert likelihood == pytest.approx(row["metrics"]["nats"])
    # and nothing is done twice
    before, first = models(output), (output / "table2-smoke" / "results.json").read_text()
    capsys.readouterr()
    smoke("table2")
    assert "7 of 7 cells are done already." in capsys.readouterr().out
    assert models(output) == before and (output / "table2-smoke" / "results.json").read_text() == first
    assert (output / "table2-smoke" / "results.md").exists()


@pytest.mark.slow
@pytest.mark.processes
def test_several_devices_train_one_model(script, tmp_path, monkeypatch):
    """By accelerate, from the same start on the same texts; a batch is that of all together."""
    cells, plan = script("cells"), script("plan")
    experiment, scale = script("experiment").load("table2", "smoke", settings={"systems": ["trace"]})
    texts = {"reviews": script("texts").load_cut_texts("reviews", False, scale)}
    (cell,) = plan.make_plan(experiment, scale, "smoke", "ours", texts).cells
    cells.ensure_trained(cell.training.base, texts["reviews"], tmp_path)  # on one: a launch takes seconds
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert cells.ensure_trained(cell.training, texts["reviews"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([cell.training.key, cell.training.base.key])
    log = json.loads((tmp_path / cell.training.key / "trained.json").read_text())["log"]
    assert log[-1]["step"] == 10
    assert not cells.ensure_trained(cell.training, texts["reviews"], tmp_path)
    with pytest.raises(ValueError, match="`batch_size` must be a multiple of the 3 devices, got 8"):
        monkeypatch.setenv("WORLD_SIZE", "3")
        cells.make_trainer(cell.training, texts["reviews"].tokenizer, texts["reviews"].train, None, tmp_path / "x")


@pytest.mark.slow
def test_tables_3_and_4(smoke, output, script):
    stories = smoke("table3")
    assert not any(row["failed"] for row in stories["rows"])
    assert all(row["metrics"]["bleu"] >= 0 for row in stories["rows"] if row["labels"]["system"] != "real text")
    lines = (output / "table3-smoke" / "texts.jsonl").read_text().splitlines()
    prompts = {}
    for row in map(json.loads, lines):
        prompts.setdefault(row["system"], []).append(row["prompt"])
    assert len(prompts) == 7 and len({tuple(own) for own in prompts.values()}) == 1
    holes = smoke("table4")
    assert all("not rated yet" in row["failed"] for row in holes["rows"])
    sheets = output / "table4-smoke" / "sheets"
    key = json.loads((sheets / "key.json").read_text())
    assert len(key["items"]) == 10 * 6
    filled = output / "filled"
    filled.mkdir()
    for sheet in sheets.glob("*.csv"):
        with open(sheet, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:  # TRACE-R is the best, the plain model the worst
            best = {"trace-r": 5, "gpt2": 1}.get(key["items"][row["item"]]["system"], 3)
            row |= dict.fromkeys(("fluency", "coherence", "novelty"), best)
        with open(filled / sheet.name, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    rated = smoke("table4", "--ratings", str(filled))
    assert values(rated, "novelty", system="trace-r") == [5] and values(rated, "fluency", system="gpt2") == [1]
    assert values(rated, "coherence", system="ind") == [3] and not any(row["failed"] for row in rated["rows"])


@pytest.mark.slow
def test_table_5_ablations_differ_in_what_was_trained(smoke, output):
    results = smoke("table5")
    assert not any(row["failed"] for row in results["rows"])
    ablations = results["configuration"]["experiment"]["ablations"]
    configs = {}
    for cell in (output / "table5-smoke" / "cells").iterdir():
        saved = json.loads((cell / "result.json").read_text())
        configs[saved["labels"]["system"]] = json.loads(
            (output / "models" / saved["model"] / "config.json").read_text()
        )
    for name, ablation in ablations.items():
        own, whole = configs[name], configs[ablation["of"]]
        differing = {key for key in {*own, *whole} if own.get(key) != whole.get(key)}
        assert differing == set(ablation) - {"of"}


@pytest.mark.slow
def test_table_6(smoke):
    results = smoke("table6")
    assert not any(row["failed"] for row in results["rows"])
    for system in ("ind", "cgd", "no-recurrence", "trace-r", "trace"):
        for decoding in ("greedy", "beam", "top-k"):
            assert len(values(results, "cnd", system=system, decoding=decoding)) == 1
        # tokens that are drawn differ more than those that are not
        assert values(results, "different", system=system, decoding="greedy") <= values(
            results, "different", system=system, decoding="top-k"
        )
    assert {len(values(results, "nats", decoding=decoding)) for decoding in ("greedy", "beam", "top-k")} == {5}


@pytest.mark.slow
def test_figure_2_is_the_benchmarks(smoke):
    results = smoke("figure2")
    assert [row["labels"]["segment_length"] for row in results["rows"]] == [2] * 4 + [5] * 4
    assert values(results, "ratio_to_plain", system="gpt2") == [1, 1]
    assert all(value > 0 for value in values(results, "seconds_per_step"))


@pytest.mark.slow
def test_figure_3_shows_what_was_trained(smoke, output):
    results = smoke("figure3")
    assert not any(row["failed"] for row in results["rows"])
    for cell in (output / "figure3-smoke" / "cells").iterdir():
        saved = json.loads((cell / "result.json").read_text())
        config = json.loads((output / "models" / saved["model"] / "config.json").read_text())
        length = saved["labels"]["segment_length"]
        assert config.get("segment_length", 10) == (None if length == "sentences" else length)
    # more segments have more KL under a floor for each
    floor = values(results, "kl", system="trace-r", segment_length=5)[0]
    assert floor > values(results, "kl", system="trace-r", segment_length=10)[0]
    assert list((output / "figure3-smoke").glob("figure3*.csv"))


@pytest.mark.slow
def test_the_plane_and_likelihood_against_time(smoke):
    plane = smoke("plane")
    assert not any(row["failed"] for row in plane["rows"])
    assert len(values(plane, "self_bleu", system="trace", decoding="plane")) == 4
    assert len(values(plane, "self_bleu", system="gpt2", decoding="plane")) == 2
    assert values(plane, "self_bleu", system="gpt2", decoding="plane", temperature=0.0) == [100]
    times = smoke("likelihood_time")
    assert not any(row["failed"] for row in times["rows"])
    for system in ("gpt2", "trace"):
        rows = [row for row in times["rows"] if row["labels"]["system"] == system]
        assert [row["labels"]["steps"] for row in rows] == [2, 5, 10]
        assert all(row["seconds"]["train"] > 0 for row in rows)
        nats = [row["metrics"]["nats"] for row in rows]
        assert nats == sorted(nats, reverse=True)


@pytest.mark.slow
def test_a_dry_run_says_what_it_takes_and_trains_nothing(smoke, tmp_path, script, capsys):
    flags = ["--output", str(tmp_path), "--set", "systems=[gpt2, trace]", "--dry_run"]
    assert script("run").main(["table2", *flags]) is None
    shown = capsys.readouterr().out
    assert "2 cells, 3 models of 40 steps in all" in shown and "To do: 2 cells, 3 models, 40 steps." in shown
    assert "Disk: about" in shown and "Time: about" in shown and not list(tmp_path.iterdir())
