"""A user's own latent dynamics: registered, trained, saved with their code, loaded with and without this package."""

import importlib
import inspect
import json
import logging
import re
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hub_server import run_hub
from test_generation import MODES, rescoring_error, run
from test_remote_code import AUTO_MAP, CODE_FILES, PACKAGE, WITHOUT_PACKAGE, make_pair, run_script, write
from tiny import make_batch, make_text, tiny_config, tiny_model
from transformers import AutoConfig, AutoModel, TrainingArguments, default_data_collator, dynamic_module_utils

from modeling_trace import LatentDynamics, TraceConfig, TraceForConditionalGeneration, register_latent_dynamics
from modeling_trace.cli.main import main
from modeling_trace.configuration_trace import REGISTERED_DYNAMICS
from modeling_trace.custom_dynamics_trace import needs_remote_code, portable_source
from modeling_trace.dynamics_trace import LATENT_DYNAMICS, RecurrentDynamics
from modeling_trace.training import TraceTrainer

MODULE = '''
"""Two dynamics, one with weights of its own."""

import torch
from torch import nn

from modeling_trace import LatentDynamics, register_latent_dynamics
from modeling_trace.latents_trace import linear_float32, smooth_bound


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
    """Modules written to tmp_path/code can be imported; nothing of them, and no remote code, is left afterwards."""
    (tmp_path / "code").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
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


@pytest.fixture
def warned(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- in the process that defines them --------------------------------------------------------------------------------


def test_the_recurrence_is_that_of_the_prior(tmp_path):
    module = make_module(tmp_path)
    model = tiny_model(latent_dynamics="random-walk").train()
    assert type(model.latents) is module.RandomWalk
    assert type(model.latents).forward is LatentDynamics.forward
    ids, mask, labels = make_batch([make_text([3, 3, 2]), make_text([3, 1])])
    out = model(ids, attention_mask=mask, labels=labels)
    assert out.latents.shape == (2, 3, 4) and not out.prior_mean[:, 0].any() and not out.prior_logvar.any()
    assert torch.equal(out.prior_mean[0, 1:], out.latents[0, :-1]) and out.latents[0].all()
    assert torch.equal(out.prior_mean[1, 1], out.latents[1, 0]) and not out.prior_mean[1, 2].any()


@pytest.mark.parametrize("name", ["random-walk", "drift"])
def test_a_step_of_training_moves_every_weight(tmp_path, name):
    make_module(tmp_path)
    model = tiny_model(latent_dynamics=name).train()
    before = {key: value.clone() for key, value in model.latents.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids, mask, labels = make_batch([make_text([3, 3, 2]), make_text([3, 1])])
    model(ids, attention_mask=mask, labels=labels).loss.backward()
    optimizer.step()
    assert ("drift.weight" in before) == (name == "drift")
    assert all(not torch.equal(value, before[key]) for key, value in model.latents.named_parameters())


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
    assert (AutoModel.from_pretrained(tmp_path / "model").latents.step == 2).all()


# --- saving ----------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_in_the_same_process_without_trust(tmp_path):
    """From a Trainer's checkpoint. The module that is imported here is used, not the file beside the model."""
    module = make_module(tmp_path)
    model = tiny_model(latent_dynamics="drift")
    texts = Dataset.from_dict({"input_ids": [make_text([3, 3, 2])] * 2, "labels": [make_text([3, 3, 2])] * 2})
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True
    )
    TraceTrainer(model, arguments, default_data_collator, train_dataset=texts).train()
    folder = tmp_path / "checkpoint-1"
    assert sorted(path.name for path in folder.glob("*.py")) == sorted([*CODE_FILES, "my_dynamics.py"])
    wanted = AUTO_MAP | {"LatentDynamics": "my_dynamics.Drift"}
    assert json.loads((folder / "config.json").read_text())["auto_map"] == wanted
    for load in (TraceForConditionalGeneration.from_pretrained, AutoModel.from_pretrained):
        for trust in ({}, {"trust_remote_code": True}):
            loaded = load(folder, **trust)
            assert type(loaded.latents) is module.Drift
            assert write(loaded) == write(model.eval())


REWRITTEN = [
    ("from modeling_trace import LatentDynamics", "from .dynamics_trace import LatentDynamics"),
    (
        "from modeling_trace import (  # why\n    LatentDynamics as Base,\n    gamma_for_rate, TraceConfig,\n)  # end",
        "from .dynamics_trace import LatentDynamics as Base\nfrom .latents_trace import gamma_for_rate\n"
        "from .configuration_trace import TraceConfig  # end",
    ),
    (
        "from modeling_trace.latents_trace import smooth_bound, \\\n    linear_float32",
        "from .latents_trace import smooth_bound, linear_float32",
    ),
    ("from modeling_trace.latents_trace import *", "from .latents_trace import *"),
    (
        "def f():\n    from modeling_trace import gamma_for_rate; return gamma_for_rate",
        "def f():\n    from .latents_trace import gamma_for_rate; return gamma_for_rate",
    ),
    ("text = '''\nfrom modeling_trace import nothing\n'''", "text = '''\nfrom modeling_trace import nothing\n'''"),
    ("import math, torch.nn as nn", "import math, torch.nn as nn"),
]


@pytest.mark.parametrize("written, saved", REWRITTEN)
def test_imports_from_the_package_become_relative(tmp_path, written, saved):
    text = walk(1) + "\nBETWEEN = 'ä'\n{}\n"
    module = make_module(tmp_path, text.format(written))
    reference, files = portable_source(module.RandomWalk)
    head = "from .dynamics_trace import LatentDynamics, register_latent_dynamics"
    wanted = text.replace("from modeling_trace import LatentDynamics, register_latent_dynamics", head).format(saved)
    assert reference == "my_dynamics.RandomWalk"
    assert files == {"my_dynamics.py": wanted}
    compile(wanted, "my_dynamics.py", "exec")


@pytest.mark.parametrize(
    "statement, remedy",
    [
        ("import modeling_trace", "Write from modeling_trace.dynamics_trace import"),
        ("import torch, modeling_trace.latents_trace as l", "Write from modeling_trace.dynamics_trace import"),
        ("from modeling_trace.training import TraceTrainer", "Import from its *_trace modules only"),
        ("from modeling_trace import TraceProcessor", "Import from its *_trace modules only"),
        ("from modeling_trace import dynamics_trace", "Import from its *_trace modules only"),
        ("from modeling_trace import *", "Import from its *_trace modules only"),
        ("from .helpers import thing", "Put what it imports into my_dynamics.py itself"),
        ("from . import helpers", "Put what it imports into my_dynamics.py itself"),
        ("x = 1; from modeling_trace import TraceConfig", "Write it on a line of its own"),
    ],
)
def test_imports_that_cannot_travel_are_refused_before_anything_is_written(tmp_path, warned, statement, remedy):
    (tmp_path / "code" / "mine").mkdir()
    (tmp_path / "code" / "mine" / "__init__.py").touch()
    (tmp_path / "code" / "mine" / "helpers.py").write_text("thing = 1\n")
    make_module(tmp_path, walk(1) + statement + "\n", "mine.my_dynamics")
    model = tiny_model(latent_dynamics="random-walk")
    shown = statement.removeprefix("x = 1; ")
    (early,) = warned()  # before training, not only after it
    assert f"`{shown}` in my_dynamics.py" in early and "save_pretrained, and the Trainer's, will fail" in early
    with pytest.raises(ValueError, match=re.escape(f"`{shown}` in my_dynamics.py, which")) as caught:
        model.save_pretrained(tmp_path / "model")
    assert remedy in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_other_modules_are_named_in_a_warning(tmp_path, warned):
    (tmp_path / "code" / "my_helpers.py").write_text("scale = 1\n")
    make_module(tmp_path, "import math\nimport numpy\nfrom my_helpers import scale\n" + walk(1))
    model = tiny_model(latent_dynamics="random-walk")
    model.save_pretrained(tmp_path / "model")
    (said,) = warned()  # once, not at every checkpoint
    assert "imports my_helpers: whoever loads the model must have that installed" in said


def make_local():
    @register_latent_dynamics("random-walk")
    class Local(LatentDynamics):
        reads_context = False

        def prior(self, previous, context, first):
            return previous, torch.zeros_like(previous)

    return Local


def test_without_a_file_the_weights_are_saved_all_the_same(tmp_path, warned):
    """A class of a script, a notebook or a function."""
    module = make_module(tmp_path)
    script = type("Scripted", (module.RandomWalk,), {"__module__": "__main__"})
    for make in (make_local, lambda: register_latent_dynamics("random-walk")(script)):
        cls = make()
        model = tiny_model(latent_dynamics="random-walk")
        model.config.auto_map["LatentDynamics"] = "left.Over"
        model.save_pretrained(tmp_path / "model")
        (said,) = warned()[-1:]
        assert "is saved without its code" in said and cls.__name__ in said and "\n" not in said
        assert json.loads((tmp_path / "model" / "config.json").read_text())["auto_map"] == AUTO_MAP
        assert sorted(path.name for path in (tmp_path / "model").glob("*.py")) == CODE_FILES
        assert write(AutoModel.from_pretrained(tmp_path / "model")) == write(model)
    forget()
    with pytest.raises(ValueError, match="must be one of 'recurrent'.*import the module that registers them"):
        AutoModel.from_pretrained(tmp_path / "model", trust_remote_code=True)
    with pytest.raises(ValueError, match="got 'recurent'. Did you mean 'recurrent'?"):
        TraceConfig(latent_dynamics="recurent")


def test_a_file_named_like_one_of_the_package_does_not_take_its_place(tmp_path):
    for name in ("dynamics_trace", "modeling_trace"):
        module = make_module(tmp_path, walk(0.5), f"mine.{name}")
        model = tiny_model(latent_dynamics="random-walk")
        model.save_pretrained(tmp_path / name)
        forget()
        assert (tmp_path / name / f"{name}.py").read_text() == (PACKAGE / f"{name}.py").read_text()
        loaded = AutoModel.from_pretrained(tmp_path / name, trust_remote_code=True)
        assert loaded.config.auto_map["LatentDynamics"] == f"user_{name}.RandomWalk"
        assert type(loaded.latents) is not module.RandomWalk
        assert write(loaded) == write(model)


def test_the_code_saved_is_the_code_that_was_trained(tmp_path):
    """The file may be edited meanwhile."""
    make_module(tmp_path)
    model = tiny_model(latent_dynamics="random-walk")
    (tmp_path / "code" / "my_dynamics.py").write_text("half of the new ver(")
    model.save_pretrained(tmp_path / "model")
    assert "class RandomWalk" in (tmp_path / "model" / "my_dynamics.py").read_text()


# --- loading ---------------------------------------------------------------------------------------------------------


def save(tmp_path, folder, scale):
    make_module(tmp_path, walk(scale))
    model = tiny_model(latent_dynamics="random-walk")
    model.save_pretrained(tmp_path / folder)
    forget()
    return model


def test_no_code_runs_without_trust(tmp_path):
    save(tmp_path, "model", 1)
    (tmp_path / "model" / "my_dynamics.py").write_text("raise SystemExit('this code ran')")
    assert AutoConfig.from_pretrained(tmp_path / "model").latent_dynamics == "random-walk"
    for load in (TraceForConditionalGeneration.from_pretrained, AutoModel.from_pretrained):
        for trust in ({}, {"trust_remote_code": False}, {"config": AutoConfig.from_pretrained(tmp_path / "model")}):
            with pytest.raises(ValueError) as caught:
                load(tmp_path / "model", **trust)
            said = str(caught.value)
            assert "my_dynamics.RandomWalk" in said and "Import the module that registers it" in said
            assert "\n" not in said
        with pytest.raises(SystemExit, match="this code ran"):
            load(tmp_path / "model", trust_remote_code=True)
    with pytest.raises(ValueError, match="its class is not here. Import the module that registers it"):
        AutoModel.from_config(AutoConfig.from_pretrained(tmp_path / "model"))


def test_the_command_line_needs_a_flag_to_run_it(tmp_path, capsys):
    make_module(tmp_path, walk(1))
    model, processor = make_pair("gpt2", latent_dynamics="random-walk")
    folder = str(tmp_path / "model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    forget()
    flags = [folder, "--num_texts", "1", "--max_new_tokens", "3"]
    assert main(["generate", *flags]) == 2
    assert "pass trust_remote_code=True" in capsys.readouterr().err.strip().splitlines()[-1]
    assert main(["generate", *flags, "--trust_remote_code"]) == 0


def test_two_models_may_give_one_name_to_different_classes(tmp_path):
    models = {scale: save(tmp_path, f"model-{scale}", scale) for scale in (1, 0.5)}
    loaded = {}
    for scale in models:
        with pytest.raises(ValueError, match="pass trust_remote_code=True"):  # nor does trust in another model count
            AutoModel.from_pretrained(tmp_path / f"model-{scale}")
        loaded[scale] = AutoModel.from_pretrained(tmp_path / f"model-{scale}", trust_remote_code=True)
        assert isinstance(loaded[scale].latents, LatentDynamics)
    assert write(models[1]) != write(models[0.5])
    for scale, model in models.items():  # each with its own code, also when saved now
        assert write(loaded[scale]) == write(model)
        loaded[scale].save_pretrained(tmp_path / "again")
        assert f"return {scale} * previous" in (tmp_path / "again" / "my_dynamics.py").read_text()
    # a module imported here wins over them
    make_module(tmp_path, walk(0.25))
    mine = AutoModel.from_pretrained(tmp_path / "model-1", trust_remote_code=True)
    assert type(mine.latents) is sys.modules["my_dynamics"].RandomWalk


def test_a_models_file_replaces_nothing_that_is_registered_here(tmp_path):
    make_module(tmp_path)
    tiny_model(latent_dynamics="drift").save_pretrained(tmp_path / "model")
    forget()
    mine = make_module(tmp_path, walk(0.5), "mine")
    loaded = AutoModel.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert type(loaded.latents).__name__ == "Drift"
    assert LATENT_DYNAMICS["random-walk"] is mine.RandomWalk
    # new models of the loaded class start as those of the package do
    made = tiny_model(latent_dynamics="drift")
    assert torch.allclose(made.latents.logvar_norm.bias, torch.tensor(made.latents.logvar_norm.beta_init))


def test_files_that_someone_put_beside_the_model_are_kept(tmp_path):
    model = save(tmp_path, "model", 1)
    path = tmp_path / "model" / "my_dynamics.py"
    path.write_text("from .my_helpers import scale\n" + path.read_text().replace("1 *", "scale *"))
    (tmp_path / "model" / "my_helpers.py").write_text("scale = 1\n")
    loaded = AutoModel.from_pretrained(tmp_path / "model", trust_remote_code=True)
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "my_helpers.py").read_text() == "scale = 1\n"
    assert write(AutoModel.from_pretrained(tmp_path / "again", trust_remote_code=True)) == write(model)


@pytest.mark.parametrize(
    "reference, message",
    [
        ("RandomWalk", "must name a file and a class, as in 'my_dynamics.RandomWalk', got 'RandomWalk'"),
        ("../code/my_dynamics.RandomWalk", "must name a file and a class"),
        (["my_dynamics.RandomWalk", None], "must name a file and a class"),
        ("my_dynamics.Nothing", "names my_dynamics.Nothing, and that file could not be run: .*no attribute 'Nothing'"),
        ("my_dynamics.torch", "must name a subclass of LatentDynamics, got <module 'torch'"),
        ("nowhere.RandomWalk", "nowhere.py"),
    ],
)
def test_a_wrong_entry_in_the_configuration(tmp_path, reference, message):
    save(tmp_path, "model", 1)
    path = tmp_path / "model" / "config.json"
    values = json.loads(path.read_text())
    values["auto_map"]["LatentDynamics"] = reference
    path.write_text(json.dumps(values))
    with pytest.raises((ValueError, OSError), match=message):
        TraceForConditionalGeneration.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert needs_remote_code("random-walk")


def test_built_in_dynamics_need_no_trust_whatever_the_entry(tmp_path):
    model = tiny_model()
    model.config.auto_map["LatentDynamics"] = "left.Over"
    config = model.config
    loaded = TraceForConditionalGeneration(config)
    loaded.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP
    tiny_config(auto_map={"LatentDynamics": "left.Over"}).save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path).latents) is RecurrentDynamics


def test_what_a_method_imports_is_found_later_too(tmp_path):
    text = walk(1).replace(
        "        return 1 * previous",
        "        from modeling_trace import gamma_for_rate\n\n        return gamma_for_rate(8.0, 16) * previous",
    )
    make_module(tmp_path, text)
    model = tiny_model(latent_dynamics="random-walk")
    model.save_pretrained(tmp_path / "model")
    forget()
    assert write(AutoModel.from_pretrained(tmp_path / "model", trust_remote_code=True)) == write(model)


def test_the_page_in_docs_runs(tmp_path, monkeypatch, capsys):
    text = (PACKAGE.parent / "docs" / "custom_dynamics.md").read_text(encoding="utf-8")
    files = re.findall(r"`(\w+)\.py`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == ["my_dynamics", "train"]
    (tmp_path / "code" / "my_dynamics.py").write_text(files[0][1])
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    script = files[1][1].replace("max_steps=200", "max_steps=2, use_cpu=True, report_to='none', disable_tqdm=True")
    exec(compile(script, "train.py", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines()[-1].startswith("{'AutoConfig'")
    saved = (tmp_path / "walk" / "my_dynamics.py").read_text()
    assert "from .dynamics_trace import LatentDynamics, register_latent_dynamics" in saved
    forget()
    again = AutoModel.from_pretrained(tmp_path / "walk", trust_remote_code=True)
    assert type(again.latents).__name__ == "SlowWalk" and again.latents.rate.shape == (16,)


# --- other processes, through a folder and through the Hub -----------------------------------------------------------

AUTHOR = """
import json, sys
sys.path[:0] = sys.argv[1:3]  # the tests and the user's module
import my_dynamics
from test_remote_code import write
from tiny import tiny_model

texts = {}
for name in ("random-walk", "drift"):
    model = tiny_model("llama", latent_dynamics=name)
    model.save_pretrained(f"{sys.argv[3]}/{name}", push_to_hub=True, repo_id=f"user/{name}")
    texts[name] = write(model)
model.push_to_hub("user/pushed")
print(json.dumps(texts))
"""

READER = (
    inspect.getsource(write)
    + """
import json, os, sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

def code(folder):
    return {name: open(os.path.join(folder, name)).read() for name in os.listdir(folder) if name.endswith(".py")}

trust = {"trust_remote_code": True}
folders, revision = sys.argv[1], sys.argv[2]
with_package = sys.modules.get("modeling_trace") is not None
texts = {}
for name in ("random-walk", "drift"):
    folder = f"{folders}/{name}"
    if with_package:
        assert AutoConfig.from_pretrained(folder).latent_dynamics == name
    try:
        AutoModel.from_pretrained(folder, trust_remote_code=False)
        raise SystemExit("code ran without trust")
    except ValueError as error:
        assert "trust_remote_code=True" in str(error), error
    model = AutoModel.from_pretrained(folder, **trust)
    assert type(model).__module__.startswith("modeling_trace." if with_package else "transformers_modules.")
    assert type(model.latents).__module__.startswith("transformers_modules.")
    assert all("PosteriorNorm" not in str(type(m)) or isinstance(m, sys.modules[type(model).__module__].PosteriorNorm)
               for m in model.modules())
    texts[name] = write(model)
    ids = torch.tensor([[0, 5, 6, 7, 3, 8, 9, 1]])
    model.train()(ids, labels=ids).loss.backward()
    model.eval()
    model.save_pretrained(folder + "-again")
    assert code(folder + "-again") == code(folder)
    assert model.config.auto_map == AutoConfig.from_pretrained(folder, **trust).auto_map
    for other in (folder + "-again", f"user/{name}"):
        assert write(AutoModelForCausalLM.from_pretrained(other, **trust)) == texts[name]
pushed = AutoModel.from_pretrained("user/pushed", revision=revision, **trust)
assert write(pushed) == texts["drift"]
pushed.push_to_hub("reader/copy-" + str(with_package))
assert ("modeling_trace" in sys.modules and sys.modules["modeling_trace"] is not None) == with_package
assert not any(name.startswith("my_dynamics") for name in sys.modules)
print(json.dumps(texts))
"""
)


@pytest.mark.slow
def test_other_processes_write_the_same_texts(tmp_path):
    """With this package but not the user's module, and with neither; by folder, by name and by revision."""
    (tmp_path / "code" / "my_dynamics.py").write_text(MODULE)
    with run_hub() as hub:
        names = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
        for home in ("author", "with", "without"):
            (tmp_path / home).mkdir()
        wanted = run_script(AUTHOR, tmp_path / "author", Path(__file__).parent, tmp_path / "code", tmp_path, **names)
        assert wanted["random-walk"] != wanted["drift"]
        for name in ("random-walk", "drift", "pushed"):
            *_, files = hub.commits[f"user/{name}"].values()
            assert sorted(path for path in files if path.endswith(".py")) == sorted([*CODE_FILES, "my_dynamics.py"])
        revision = list(hub.commits["user/pushed"])[-1]
        # "main" is another model by now, and one that cannot run
        hub.commit("user/pushed", {"my_dynamics.py": b"raise SystemExit('not the revision asked for')"})
        for home, before in (("with", "import modeling_trace\n"), ("without", WITHOUT_PACKAGE)):
            assert run_script(before + READER, tmp_path / home, tmp_path, revision, **names) == wanted
            *_, copied = hub.commits[f"reader/copy-{home == 'with'}"].values()
            assert copied["my_dynamics.py"] == files["my_dynamics.py"]
