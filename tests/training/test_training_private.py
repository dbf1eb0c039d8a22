"""Each private part that training relies on, by name: a release that changes one fails here first."""

import ast
import inspect
from pathlib import Path

import peft
import pytest
import torch
import transformers
from accelerate.state import GradientState
from helpers.tiny import tiny_model
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

from modeling_trace import TraceTrainer
from modeling_trace.training import lora_config, private

RELEASE = f"Transformers {transformers.__version__}"


@pytest.mark.parametrize("name", private.OVERRIDDEN)
def test_what_is_overridden_is_still_there(name):
    assert hasattr(Trainer, name), f"{RELEASE} has no Trainer.{name} any more"
    mine = inspect.signature(getattr(TraceTrainer, name)).parameters
    if {parameter.kind for parameter in mine.values()} & {inspect.Parameter.VAR_KEYWORD}:
        return
    missing = set(inspect.signature(getattr(Trainer, name)).parameters) - set(mine) - {"args", "kwargs"}
    assert not missing, f"Trainer.{name} of {RELEASE} now takes {missing}"


def test_all_that_is_overridden_is_listed():
    ours = [cls for cls in TraceTrainer.__mro__ if cls.__module__.startswith("modeling_trace.")]
    names = {name for cls in ours for name, value in vars(cls).items() if inspect.isfunction(value)}
    assert {name for name in names if hasattr(Trainer, name)} - {"__init__"} == set(private.OVERRIDDEN)


@pytest.mark.parametrize("name", private.USED)
def test_what_is_used_is_still_used(name):
    assert f"self.{name}" in inspect.getsource(Trainer), f"the Trainer of {RELEASE} has no `{name}` any more"


def test_what_repeats_in_the_last_batch_is_known():
    state = GradientState()
    assert {"end_of_dataloader", "remainder", "active_dataloader"} <= set(dir(state))


def test_a_sharded_class_is_put_aside_and_back():
    class Model(torch.nn.Linear):
        pass

    class Sharded(FSDPModule, Model):  # as `fully_shard` makes it
        pass

    model = Model(1, 1)
    model.__class__ = Sharded
    with private.unsharded_class(model):
        assert type(model) is Model
    assert type(model) is Sharded


def test_parameters_and_their_shards():
    parameter = torch.nn.Parameter(torch.arange(4.0))
    assert torch.equal(private.local_shard(parameter), parameter) and private.number_of(parameter) == 4
    parameter._local_tensor, parameter.ds_numel = torch.arange(2.0), 8
    assert private.local_shard(parameter).numel() == 2 and private.number_of(parameter) == 8
    assert "_local_tensor" in torch.distributed.tensor.DTensor.__slots__, f"of PyTorch {torch.__version__}"


def test_adapters_are_known():
    model = tiny_model()
    assert not private.has_adapters(model)
    assert private.has_adapters(peft.get_peft_model(model, lora_config(model, r=2))), f"PEFT {peft.__version__}"


def test_private_parts_are_used_through_this_file_only():
    """Neither what is inside Transformers nor FSDP's classes are imported elsewhere in training/."""
    public = {"transformers", "transformers.utils", "transformers.pytorch_utils"}
    for path in Path(private.__file__).parent.glob("*.py"):
        if path.name == "private.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if module.split(".")[0] == "transformers":
                assert module in public, f"{path.name} imports from {module}"
            assert not module.startswith("torch.distributed.fsdp"), path.name
