"""A user's own latent dynamics: registered, trained, saved, and loaded by importing the module that registers them."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from helpers.generation import MODES, rescoring_error, run
from helpers.remote_code import AUTO_MAP, CODE_FILES, make_pair, write
from helpers.tiny import make_batch, make_text, tiny_model
from transformers import AutoConfig, AutoModel, TrainingArguments, default_data_collator

from modeling_trace import LatentDynamics, TraceConfig, TraceForConditionalGeneration, register_latent_dynamics
from modeling_trace.cli.main import main
from modeling_trace.models.configuration_checks_trace import REGISTERED_DYNAMICS
from modeling_trace.models.dynamics_registry_trace import LATENT_DYNAMICS
from modeling_trace.models.recurrent_dynamics_trace import RecurrentDynamics
from modeling_trace.training import TraceTrainer

MODULE = '''
"""Two dynamics, one with weights of its own."""

import torch
from torch import nn

from modeling_trace import LatentDynamics, register_latent_dynamics
from modeling_trace.models.gaussian_trace import linear_float32, smooth_bound


@register_latent_dynamics("random-walk")
class RandomWalk(LatentDynamics):
    reads_context = False

    def prior(self, previous, context, first):
        return previous, torch.zeros_like(previous)


@register_latent_dynamics("drift")
class Drift(LatentDynamics):
    def __init__(self, config):
        super().__init__(config)
        self.drift = nn.Linear(config.backbone_config.hidden_size, config.latent_size)

    def prior(self, previous, context, first):
        mean = 0.5 * previous + linear_float32(context, self.drift.weight, self.drift.bias)
        return mean, smooth_bound(mean, self.bound)
'''


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    """Modules written to tmp_path/code can be imported; nothing of them is left afterwards."""
    (tmp_path / "code").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    registry, names, modules = dict(LATENT_DYNAMICS), set(REGISTERED_DYNAMICS), set(sys.modules)
    yield
    forget(registry, names)
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def forget(registry=None, names=()):
    """As in a process that has not imported the user's module."""
    kept = registry or {name: cls for name, cls in LATENT_DYNAMICS.items() if cls.__module__.startswith("modeling_")}
    LATENT_DYNAMICS.clear()
    LATENT_DYNAMICS.update(kept)
    REGISTERED_DYNAMICS.intersection_update(names)


def make_module(tmp_path, text=MODULE, name="my_dynamics"):
    path = tmp_path / "code" / f"{name.replace('.', '/')}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def walk(scale, imports="import torch\nfrom modeling_trace import LatentDynamics, register_latent_dynamics"):
    """A module whose random walk is shrunk."""
    return (
        f"{imports}\n\n@register_latent_dynamics('random-walk')\nclass RandomWalk(LatentDynamics):\n"
        f"    reads_context = False\n\n    def prior(self, previous, context, first):\n"
        f"        return {scale} * previous, torch.zeros_like(previous)\n"
    )


# --- in the process that defines them --------------------------------------------------------------------------------


def test_the_recurrence_is_that_of_the_prior(tmp_path):
    module = make_module(tmp_path)
    model = tiny_model(latent_dynamics="random-walk").train()
    assert type(model.dynamics) is module.RandomWalk
    assert type(model.dynamics).forward is LatentDynamics.forward
    ids, mask, labels = make_batch([make_text([3, 3, 2]), make_text([3, 1])])
    out = model(ids, attention_mask=mask, labels=labels)
    assert out.latents.shape == (2, 3, 4) and not out.prior_mean[:, 0].any() and not out.prior_logvar.any()
    assert torch.equal(out.prior_mean[0, 1:], out.latents[0, :-1]) and out.latents[0].all()
    assert torch.equal(out.prior_mean[1, 1], out.latents[1, 0]) and not out.prior_mean[1, 2].any()


@pytest.mark.parametrize("name", ["random-walk", "drift"])
def test_a_step_of_training_moves_every_weight(tmp_path, name):
    make_module(tmp_path)
    model = tiny_model(latent_dynamics=name).train()
    before = {key: value.clone() for key, value in model.dynamics.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids, mask, labels = make_batch([make_text([3, 3, 2]), make_text([3, 1])])
    model(ids, attention_mask=mask, labels=labels).loss.backward()
    optimizer.step()
    assert ("drift.weight" in before) == (name == "drift")
    assert all(not torch.equal(value, before[key]) for key, value in model.dynamics.named_parameters())


@pytest.mark.parametrize("mode", ["greedy", "sample_3_returned", "beam_4_of_2"])
@pytest.mark.parametrize("name", ["random-walk", "drift"])
def test_every_returned_row_is_reproduced_by_its_own_latents(tmp_path, name, mode):
    make_module(tmp_path)
    model = tiny_model(latent_dynamics=name)
    out = run(model, **MODES[mode])
    assert rescoring_error(model, out, "left_padded", out.latents) < 1e-4
    assert rescoring_error(model, out, "left_padded", out.latents + 0.1) > 1e-3


@pytest.mark.parametrize(
    "name, cls, message",
    [
        (LatentDynamics, None, "`name` must be the value of `latent_dynamics`, a string, got <class.*Write @register"),
        ("", None, "`name` must be.*got ''"),
        ("parallel", type("P", (RecurrentDynamics,), {}), "`name` must not be one of the built-in dynamics"),
        ("none", type("P", (RecurrentDynamics,), {}), "`name` must not be one of the built-in dynamics"),
        ("mine", torch.nn.Linear, "`register_latent_dynamics` is for subclasses of LatentDynamics, got <class"),
        ("mine", type("Empty", (LatentDynamics,), {}), "`Empty` has no prior. Define prior"),
        ("mine", "RandomWalk", "`register_latent_dynamics` is for subclasses of LatentDynamics, got 'RandomWalk'"),
    ],
)
def test_what_cannot_be_registered(name, cls, message):
    before = dict(LATENT_DYNAMICS)
    with pytest.raises(ValueError, match=message):
        register_latent_dynamics(name)(cls)
    assert before == LATENT_DYNAMICS


def test_buffers_that_loading_would_leave_undefined_are_refused(tmp_path):
    buffer = (
        "    def __init__(self, config):\n        super().__init__(config)\n        self.register_buffer('step', {})\n"
    )
    lost, kept = (walk(1) + "\n" + buffer.format(f"torch.full((4,), 2.0), persistent={x}") for x in (False, True))
    make_module(tmp_path, lost)
    with pytest.raises(ValueError, match="`RandomWalk` has the buffer `step` with persistent=False.*persistent=True"):
        tiny_model(latent_dynamics="random-walk")
    make_module(tmp_path, kept)
    tiny_model(latent_dynamics="random-walk").save_pretrained(tmp_path / "model")
    assert (AutoModel.from_pretrained(tmp_path / "model").dynamics.step == 2).all()


# --- saving and loading ----------------------------------------------------------------------------------------------


def test_a_saved_model_names_module_and_class_and_no_code_travels(tmp_path):
    """From a Trainer's checkpoint."""
    module = make_module(tmp_path)
    model = tiny_model(latent_dynamics="drift")
    texts = Dataset.from_dict({"input_ids": [make_text([3, 3, 2])] * 2, "labels": [make_text([3, 3, 2])] * 2})
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True
    )
    TraceTrainer(model, arguments, default_data_collator, train_dataset=texts).train()
    folder = tmp_path / "checkpoint-1"
    assert sorted(path.name for path in folder.glob("*.py")) == CODE_FILES
    saved = json.loads((folder / "config.json").read_text())
    assert saved["latent_dynamics_class"] == "my_dynamics.Drift" and saved["auto_map"] == AUTO_MAP
    for load in (TraceForConditionalGeneration.from_pretrained, AutoModel.from_pretrained):
        for trust in ({}, {"trust_remote_code": True}):
            loaded = load(folder, **trust)
            assert type(loaded.dynamics) is module.Drift
            assert write(loaded) == write(model.eval())


def test_without_the_module_one_line_says_what_to_import(tmp_path):
    make_module(tmp_path)
    model = tiny_model(latent_dynamics="random-walk")
    model.save_pretrained(tmp_path / "model")
    forget()
    (tmp_path / "code" / "my_dynamics.py").write_text("raise SystemExit('this code ran')")
    config = AutoConfig.from_pretrained(tmp_path / "model")  # needs nothing
    assert (config.latent_dynamics, config.latent_dynamics_class) == ("random-walk", "my_dynamics.RandomWalk")
    for load in (TraceForConditionalGeneration.from_pretrained, AutoModel.from_pretrained):
        for trust in ({}, {"trust_remote_code": True}, {"config": config}):
            with pytest.raises(ValueError) as caught:
                load(tmp_path / "model", **trust)
            said = str(caught.value)
            assert "`latent_dynamics='random-walk'` is the class RandomWalk of my_dynamics" in said
            assert "First import my_dynamics, then load the model" in said and "\n" not in said
    with pytest.raises(ValueError, match="First import my_dynamics"):
        AutoModel.from_config(config)
    make_module(tmp_path)  # the remedy
    assert write(AutoModel.from_pretrained(tmp_path / "model")) == write(model)


def test_a_class_of_a_script_is_registered_again(tmp_path):
    module = make_module(tmp_path)
    script = type("Scripted", (module.RandomWalk,), {"__module__": "__main__"})
    register_latent_dynamics("random-walk")(script)
    model = tiny_model(latent_dynamics="random-walk")
    model.save_pretrained(tmp_path / "model")
    forget()
    with pytest.raises(
        ValueError, match="is the class Scripted of __main__, which is not imported. First register it"
    ):
        AutoModel.from_pretrained(tmp_path / "model")
    register_latent_dynamics("random-walk")(script)
    assert write(AutoModel.from_pretrained(tmp_path / "model")) == write(model)


def test_built_in_dynamics_need_no_module_whatever_the_entry(tmp_path):
    model = tiny_model()
    assert model.config.latent_dynamics_class is None
    model.config.latent_dynamics_class = "left.Over"
    loaded = TraceForConditionalGeneration(model.config)
    assert loaded.config.latent_dynamics_class is None
    assert type(loaded.dynamics) is RecurrentDynamics
    with pytest.raises(ValueError, match="got 'recurent'. Did you mean 'recurrent'?"):
        TraceForConditionalGeneration(TraceConfig(latent_dynamics="recurent"))


def test_the_command_line_imports_the_module(tmp_path, capsys, monkeypatch):
    make_module(tmp_path, walk(1))
    model, processor = make_pair("gpt2", latent_dynamics="random-walk")
    folder = str(tmp_path / "model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    forget()
    sys.modules.pop("my_dynamics")
    flags = ["generate", folder, "--num_texts", "1", "--max_new_tokens", "3"]
    assert main(flags) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "modeling-trace --import my_dynamics ..." in said
    monkeypatch.chdir(tmp_path / "code")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not entry.startswith(str(tmp_path))])
    assert main(["--import", "my_dynamics", *flags]) == 0
    assert main(["--import", "no_such_module", *flags]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == "error: No module named 'no_such_module'"
    assert main(["--import", "my_dynamics"]) == 2
    assert "must be followed by a module and a command" in capsys.readouterr().err


def test_the_page_in_docs_runs(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "custom-dynamics.md").read_text(encoding="utf-8")
    files = re.findall(r"`(\w+)\.py`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == ["my_dynamics", "train"]
    (tmp_path / "code" / "my_dynamics.py").write_text(files[0][1])
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    script = files[1][1].replace("max_steps=200", "max_steps=2, use_cpu=True, report_to='none', disable_tqdm=True")
    exec(compile(script, "train.py", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines()[-1] == "my_dynamics.SlowWalk"
    forget()
    sys.modules.pop("my_dynamics")
    names = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[2], names)
    assert type(names["model"].dynamics).__name__ == "SlowWalk" and names["model"].dynamics.rate.shape == (16,)
