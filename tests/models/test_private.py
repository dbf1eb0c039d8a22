"""Each private part of Transformers that TRACE relies on, by name: a release that changes one fails here first."""

import ast
import inspect
import logging
import re
from pathlib import Path

import accelerate
import peft
import pytest
import torch
import transformers
from helpers.tiny import backbone_config
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin

from modeling_trace import TraceCache, TraceConfig, TraceForConditionalGeneration
from modeling_trace.models import private_trace

BASES = {
    "PreTrainedModel": (PreTrainedModel, TraceForConditionalGeneration),
    "GenerationMixin": (GenerationMixin, TraceForConditionalGeneration),
    "Cache": (Cache, TraceCache),
    "PreTrainedConfig": (PreTrainedConfig, TraceConfig),
}
PARTS = [(base, name) for base, names in private_trace.OVERRIDDEN.items() for name in names]


@pytest.mark.parametrize("base,name", PARTS)
def test_what_is_overridden_is_still_there(base, name):
    stock, ours = BASES[base]
    assert hasattr(stock, name), f"Transformers {transformers.__version__} has no {base}.{name} any more"
    if not inspect.isfunction(getattr(stock, name)):
        return
    names = set(inspect.signature(getattr(stock, name)).parameters)
    mine = inspect.signature(getattr(ours, name)).parameters
    takes_all = {kind.kind for kind in mine.values()} & {inspect.Parameter.VAR_KEYWORD}
    missing = names - set(mine) - {"args", "kwargs", "model_kwargs"}
    assert takes_all or not missing, f"{base}.{name} of Transformers {transformers.__version__} now takes {missing}"


@pytest.mark.parametrize("name", ["_is_stateful", "_tied_weights_keys", "_init_weights"])
def test_what_is_overridden_is_still_read(name):
    source = inspect.getsource(transformers.modeling_utils) + inspect.getsource(transformers.generation.utils)
    assert re.search(rf"\.{name}\b", source), f"Transformers {transformers.__version__} no longer reads {name}"


@pytest.mark.parametrize(
    "function,arguments",
    [
        ("create_causal_mask", {"block_sequence_ids", "allow_is_causal_skip", "cache"}),
        ("create_bidirectional_mask", {"and_mask_function", "allow_is_bidirectional_skip", "cache"}),
    ],
)
def test_masks_take_what_they_are_given(function, arguments):
    missing = arguments - set(inspect.signature(getattr(private_trace, function)).parameters)
    assert not missing, f"{function} of Transformers {transformers.__version__} no longer takes {missing}"


def test_values_are_what_they_were():
    assert {"top_k", "temperature", "num_beams"} <= private_trace.generation_settings()
    config = backbone_config(attn_implementation="eager")
    assert private_trace.attention_implementation(config) == "eager"
    assert private_trace.keeps_running_state(transformers.MambaModel)
    assert not private_trace.keeps_running_state(transformers.GPT2Model)
    assert private_trace.CONFIG_MAPPING["gpt2"] is transformers.GPT2Config
    assert "gpt2" in private_trace.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert "bert" in private_trace.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    keys, values = torch.randn(2, 1, 2, 3, 4)
    layer = private_trace.layer_of(keys, values)
    assert layer.keys is keys and layer.values is values and layer.is_initialized and layer.get_seq_length() == 3


def test_what_others_hang_on_modules_is_what_they_hang():
    """DeepSpeed, which has `ds_id`, is installed for no test."""
    hooked = torch.nn.Linear(1, 1)
    accelerate.hooks.add_hook_to_module(hooked, accelerate.hooks.ModelHook())
    assert hasattr(hooked, "_hf_hook"), f"Accelerate {accelerate.__version__} hangs no `_hf_hook` any more"
    adapted = peft.tuners.lora.Linear(torch.nn.Linear(2, 2), "default", peft.LoraConfig(r=1), r=1)
    assert hasattr(adapted, "base_layer"), f"PEFT {peft.__version__} has no `base_layer` any more"
    sources = "".join(path.read_text() for path in Path(private_trace.__file__).parent.glob("*_trace.py"))
    assert all(sources.count(f'"{name}"') > 1 for name in private_trace.ATTRIBUTES)  # listed, and looked for


def test_private_parts_are_used_through_this_file_only():
    """Neither imports from inside Transformers nor its underscored names stand elsewhere in models/."""
    public = {"transformers", "transformers.utils", "transformers.generation"}
    folder = Path(private_trace.__file__).parent
    for path in folder.glob("*_trace.py"):
        if path.name == "private_trace.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformers":
                assert node.module in public, f"{path.name} imports from {node.module}"
                assert not any(name.name.startswith("_") for name in node.names), path.name


def warnings_of(version, caplog):
    root = logging.getLogger("modeling_trace")
    caplog.clear()
    root.addHandler(caplog.handler)
    try:
        private_trace.check_release(version)
    finally:
        root.removeHandler(caplog.handler)
    return [record.getMessage() for record in caplog.records]


def test_a_newer_release_is_a_warning_and_no_refusal(caplog):
    (major, minor), newest = private_trace.TESTED[0], private_trace.TESTED[1]
    assert warnings_of(f"{major}.{minor}.0", caplog) == warnings_of(f"{newest[0]}.{newest[1]}.9", caplog) == []
    for version in (f"{newest[0]}.{newest[1] + 1}.0.dev0", f"{newest[0] + 1}.0.0"):
        found = warnings_of(version, caplog)
        assert len(set(found)) == 1 and f"this is {version}" in found[0] and "\n" not in found[0]


def test_this_release_was_tested():
    """Run the tests with a new release, then put it into `TESTED`."""
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    assert private_trace.TESTED[0] <= release <= private_trace.TESTED[1]
    requirement = re.search(r"transformers(.*)", Path("setup.cfg").read_text())[1]
    assert requirement == ">=" + ".".join(map(str, private_trace.TESTED[0]))
