"""What `save_pretrained` writes: complete and alike with and without this package, as Transformers expects it."""

import copy
import inspect
import json
import pickle
import sys

import pytest
import torch
from datasets import Dataset
from helpers.remote_code import (
    AUTO_MAP,
    CODE_FILES,
    PACKAGE,
    WITHOUT_PACKAGE,
    make_pair,
    run_script,
    write,
)
from helpers.tiny import VOCAB, backbone_config, make_batch, make_text, tiny_config, tiny_model
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainingArguments,
    pipeline,
)
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from modeling_trace import TraceConfig, TraceForConditionalGeneration
from modeling_trace.training import TraceTrainer

STRANGER = (
    WITHOUT_PACKAGE
    + inspect.getsource(write)
    + """
import json, os
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

def code(folder):
    return {name: open(os.path.join(folder, name)).read() for name in os.listdir(folder) if name.endswith(".py")}

results = []
for folder in sys.argv[1:]:
    trust = {"trust_remote_code": True}
    config = AutoConfig.from_pretrained(folder, **trust)
    model = AutoModelForCausalLM.from_pretrained(folder, **trust)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    texts = write(model)
    generator = pipeline("text-generation", model=folder, **trust)
    torch.manual_seed(2)
    piped = generator("w5 w6", max_new_tokens=8, do_sample=True)
    again = folder + "-again"
    model = AutoModel.from_pretrained(folder, **trust)
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    model.save_pretrained(again)
    tokenizer.save_pretrained(again)
    assert code(again) == code(folder)
    assert AutoConfig.from_pretrained(again, **trust).auto_map == config.auto_map
    assert write(AutoModel.from_pretrained(again, **trust)) == texts
    results.append({"texts": texts, "pipeline": piped, "ids": tokenizer("w5 w6")["input_ids"]})

# a model made here, from a language model in memory
lm = AutoModelForCausalLM.from_config(config.backbone_config)
made = type(model).from_backbone(lm, latent_size=3)
made.save_pretrained(folder + "-made")
assert AutoModelForCausalLM.from_pretrained(folder + "-made", **trust).config.latent_size == 3

assert all(module is None for name, module in sys.modules.items() if name.split(".")[0] == "modeling_trace")
print(json.dumps(results))
"""
)


@pytest.mark.slow
def test_saved_models_write_the_same_texts_without_the_package(tmp_path):
    """By every Auto class and the pipeline; of every dynamics, tied and untied, and from a Trainer's checkpoint."""
    folders, expected = [], []

    def keep(folder, model, processor):
        tokenizer = AutoTokenizer.from_pretrained(folder)  # which writes BOS
        generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
        torch.manual_seed(2)
        piped = generator("w5 w6", max_new_tokens=8, do_sample=True)
        folders.append(folder)
        expected.append({"texts": write(model), "pipeline": piped, "ids": tokenizer("w5 w6")["input_ids"]})

    for family, dynamics, settings in (
        *(("gpt2", name, {}) for name in ("single", "parallel", "independent", "context")),
        ("llama", "recurrent", {"latent_layer": 1}),
        *(("gpt2", "recurrent", {}), ("llama", "recurrent", {})),
    ):
        model, processor = make_pair(family, latent_dynamics=dynamics, **settings)
        folder = tmp_path / f"{family}-{dynamics}-{len(settings)}"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        keep(folder, model, processor)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True
    )
    texts = Dataset.from_dict(dict(processor(["w5 w6 w7 w8 w9", "w10 w11"])))
    TraceTrainer(model, arguments, train_dataset=texts, processing_class=processor).train()
    keep(tmp_path / "checkpoint-1", model.eval(), processor)

    for folder in folders:
        assert sorted(path.name for path in folder.glob("*.py")) == CODE_FILES
        assert json.loads((folder / "config.json").read_text())["auto_map"] == AUTO_MAP
    assert len({json.dumps(value) for value in expected}) == len(expected)
    assert run_script(STRANGER, tmp_path, *folders) == expected


def test_with_the_package_its_own_classes_load_without_trust(tmp_path):
    model, processor = make_pair("gpt2")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is TraceConfig
    for settings in ({}, {"trust_remote_code": True}):  # remote code does not win where it is allowed either
        for auto_class in (AutoModel, AutoModelForCausalLM):
            assert type(auto_class.from_pretrained(tmp_path, **settings)) is TraceForConditionalGeneration
    assert AutoTokenizer.from_pretrained(tmp_path).sep_token_id == model.config.sep_token_id
    generator = pipeline("text-generation", model=str(tmp_path))
    assert type(generator.model) is TraceForConditionalGeneration
    assert generator("w5", max_new_tokens=3)[0]["generated_text"].startswith("w5")


@pytest.mark.parametrize("name", CODE_FILES)
def test_files_that_travel_need_only_torch_transformers_and_each_other(name):
    assert set(get_imports(PACKAGE / name)) <= {"torch", "transformers", *sys.stdlib_module_names}
    assert {f"{module}.py" for module in get_relative_imports(PACKAGE / name)} <= set(CODE_FILES)


# --- what Transformers expects of every model ------------------------------------------------------------------------


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_resized_sharded_and_copied(tmp_path, family, tied):
    model = tiny_model(family, backbone_config=backbone_config(family, tie_word_embeddings=tied))
    model.resize_token_embeddings(VOCAB + 5)
    assert model.config.backbone_config.vocab_size == model.lm_head.out_features == VOCAB + 5
    ids, mask, _ = make_batch([make_text([3, 3, 2]), make_text([3, 1])])
    logits = model(ids, attention_mask=mask).logits
    assert logits.shape[-1] == VOCAB + 5

    model.save_pretrained(tmp_path / "whole")
    with safe_open(tmp_path / "whole" / "model.safetensors", "pt") as file:
        assert len(file.keys()) == len(list(model.parameters()))  # neither a tied weight twice nor a buffer
        assert ("lm_head.weight" in file.keys()) != tied
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    loaded = [TraceForConditionalGeneration.from_pretrained(tmp_path / name) for name in ("whole", "shards")]
    for other in (*loaded, copy.deepcopy(model)):
        assert (other.lm_head.weight is other.get_input_embeddings().weight) == tied
        assert torch.equal(other(ids, attention_mask=mask).logits, logits)
        assert write(other) == write(model)


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tmp_path, dtype):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    half = AutoModel.from_pretrained(tmp_path, dtype=dtype, device_map="cpu")
    assert {p.dtype for p in half.parameters()} == {dtype} and half.kl_weight == 1
    ids, mask, labels = make_batch([make_text([3, 3, 2]), make_text([3, 1])])
    for other in (half, tiny_model("llama").to(dtype)):
        out = other(ids, attention_mask=mask, labels=labels)
        assert out.logits.dtype == dtype and out.loss.dtype == out.latents.dtype == torch.float32
        torch.testing.assert_close(out.loss, model(ids, attention_mask=mask, labels=labels).loss, rtol=0.1, atol=0)
        assert other.generate(max_new_tokens=10, do_sample=True, num_return_sequences=2).shape[0] == 2
    other.train()(ids, attention_mask=mask, labels=labels).loss.backward()
    assert all(p.grad.isfinite().all() for p in other.parameters())


@pytest.mark.usefixtures("architecture")
def test_outputs_are_tuples_where_asked_and_the_loss_comes_first():
    model = tiny_model()
    ids, _, labels = make_batch([make_text([3, 2])])
    out = model(ids, labels=labels)
    assert out[0] is out.loss and out[1] is out.reconstruction_loss
    as_tuple = model(ids, labels=labels, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], out.loss) and len(as_tuple) == len(out.to_tuple())


def test_configurations_are_copied_pickled_and_keep_what_others_wrote(tmp_path):
    model = tiny_model()
    assert pickle.loads(pickle.dumps(model.config)).to_dict() == model.config.to_dict()
    assert copy.deepcopy(model.config).to_dict() == model.config.to_dict()
    model.config.pretraining_tp = 1  # as scripts for Llama do: the checkpoint must still load
    model.save_pretrained(tmp_path)
    assert TraceForConditionalGeneration.from_pretrained(tmp_path).config.pretraining_tp == 1


def test_a_language_model_is_no_trace_model(tmp_path):
    AutoModelForCausalLM.from_config(backbone_config("llama")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'llama' configuration.*use TraceForConditionalGeneration.from_backbone"):
        TraceForConditionalGeneration.from_pretrained(tmp_path)


def test_a_configuration_alone_names_its_own_class_only(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    files = ["config.json", "configuration_checks_trace.py", "configuration_trace.py", "private_trace.py"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {"AutoConfig": AUTO_MAP["AutoConfig"]}
