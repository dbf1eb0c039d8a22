"""The scripts of examples/ in smoke mode, and train.py on two processes."""

import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.processes import launch
from PIL import Image
from transformers import AutoConfig

from modeling_trace import TraceForConditionalGeneration, TraceProcessor

EXAMPLES = Path(__file__).parents[1] / "examples"
SMOKE = ["--smoke", "--use_cpu", "--disable_tqdm", "true", "--max_steps", "2"]


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    """Scripts import each other as where they are started by name; nothing of them is left afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(EXAMPLES)):
            del sys.modules[name]


def run(name: str, *flags):
    return importlib.import_module(name).main([*map(str, flags)])


def test_train_takes_flags_over_the_file_over_defaults(tmp_path):
    file = tmp_path / "own.yaml"
    given = yaml.safe_load((EXAMPLES / "train.yaml").read_text())
    given |= {"model_init_kwargs": {"segment_length": 5, "latent_size": 6}, "learning_rate": 1e-2, "seed": 7}
    file.write_text(yaml.safe_dump(given))
    metrics = run("train", *SMOKE, "--config", file, "--output_dir", tmp_path / "run", "--learning_rate", 1e-3)
    args = torch.load(tmp_path / "run" / "training_args.bin", weights_only=False)
    assert (args.learning_rate, args.seed, args.max_length, args.max_steps) == (1e-3, 7, 128, 2)
    config = AutoConfig.from_pretrained(tmp_path / "run")
    assert (config.segment_length, config.latent_size, config.latent_dynamics) == (5, 6, "recurrent")
    assert TraceProcessor.from_pretrained(tmp_path / "run").segment_length == 5
    saved = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert saved["eval_loss"] == metrics["eval_loss"] and metrics["eval_texts"] == 3  # 0.05 of 60


def test_train_refuses_an_unknown_name_in_the_file(tmp_path):
    (tmp_path / "bad.yaml").write_text("learning_rat: 1.0e-4\n")
    with pytest.raises(ValueError, match="`config` .*bad.yaml' has no argument `learning_rat`"):
        run("train", "--config", tmp_path / "bad.yaml")


def test_train_takes_systems_and_sentences(tmp_path):
    run("train", *SMOKE, "--system", "trace-r", "--segmenter", "sentence", "--output_dir", tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.latent_layer, config.separator, config.segment_length) == (None, "token", None)


def test_train_is_short():
    assert len((EXAMPLES / "train.py").read_text().splitlines()) < 100


def test_conditional_writes_on_prompts_that_were_held_out(tmp_path):
    rows = run("train_conditional", *SMOKE, "--output_dir", tmp_path, "--max_new_tokens", "5")
    assert [row["prompt"] == rows[0]["prompt"] for row in rows] == [True] * 3 + [False] * 3
    assert AutoConfig.from_pretrained(tmp_path).conditional


def test_lora_merges_to_what_the_adapter_is(tmp_path):
    pytest.importorskip("peft")
    from modeling_trace.training import load_adapter_model

    run("train_lora", *SMOKE, "--lora_r", 4, "--output_dir", tmp_path)
    merged = TraceForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    inputs = TraceProcessor.from_pretrained(tmp_path / "merged")(["The food was good."], return_tensors="pt")
    adapted = load_adapter_model(tmp_path)
    assert adapted.peft_config["default"].r == 4
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, adapted(**inputs).logits, rtol=1e-4, atol=1e-4)


def test_custom_dynamics_are_trained_and_named_by_their_module(tmp_path):
    from modeling_trace.models.configuration_checks_trace import REGISTERED_DYNAMICS
    from modeling_trace.models.dynamics_registry_trace import LATENT_DYNAMICS

    try:
        results = run("custom_dynamics", *SMOKE, "--output_dir", tmp_path, "--learning_rate", "0.1")
        assert list(results) == ["recurrent", "slow-walk"]
        assert all(math.isfinite(metrics["eval_kl"]) for metrics in results.values())
        config = json.loads((tmp_path / "slow-walk" / "config.json").read_text())
        assert config["latent_dynamics_class"] == "custom_dynamics.SlowWalk"
        model = TraceForConditionalGeneration.from_pretrained(tmp_path / "slow-walk")
        assert not torch.allclose(model.dynamics.rate, torch.tensor(0.9))  # was trained
    finally:
        LATENT_DYNAMICS.pop("slow-walk", None)
        REGISTERED_DYNAMICS.discard("slow-walk")


def test_compare_writes_its_report(tmp_path):
    pytest.importorskip("scipy")
    report = run("compare", "--smoke", "--output", tmp_path)
    assert [system["name"] for system in report["systems"]] == ["gpt2", "trace"]
    assert {"report.html", "report.md", "report.json"} <= {file.name for file in (tmp_path / "report").iterdir()}


def test_latent_tour_draws_and_writes(tmp_path):
    page = run("latent_tour", "--smoke", "--output", tmp_path)
    assert (tmp_path / "tour.txt").read_text() == page + "\n"
    assert page.count("\nagain ") == 3 and page.count("%") == 7 and page.count("\nfrom latents ") == 3
    assert min(Image.open(tmp_path / "tour.png").size) > 1000


@pytest.mark.parametrize("name", ["compare", "latent_tour"])
def test_other_processes_leave_measuring_to_the_first(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run(name, "--output", tmp_path / "none") is None and not (tmp_path / "none").exists()


def test_all_are_described():
    page = (EXAMPLES / "README.md").read_text()
    for file in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.yaml")]:
        assert f"]({file.name})" in page


@pytest.mark.slow
@pytest.mark.processes
def test_train_on_two_processes(tmp_path):
    launch("ddp", str(EXAMPLES / "train.py"), *SMOKE, "--output_dir", str(tmp_path))
    assert json.loads((tmp_path / "eval_results.json").read_text())["eval_texts"] == 6
    assert TraceForConditionalGeneration.from_pretrained(tmp_path).has_latents
