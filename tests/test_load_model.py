"""`load_model`: a saved model with its processor, on a device; what is wrong with a name in one line."""

import shutil

import pytest
import torch
from helpers.docs import make_demo_folder
from transformers import GPT2Config, GPT2LMHeadModel

from modeling_trace import TraceConfig, TraceForConditionalGeneration, load_model
from modeling_trace.data import TraceProcessor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_demo_folder(folder)
    return folder


def test_model_and_processor_are_ready_to_generate(folder):
    model, processor = load_model(folder / "model", "cpu")
    assert not model.training and model.device == torch.device("cpu")
    with torch.no_grad():
        texts = processor.batch_decode(model.generate(num_return_sequences=2, max_new_tokens=5))
    assert len(texts) == 2 and processor.sep_token_id == model.config.sep_token_id


def test_adapters_are_merged(folder, tmp_path):
    peft = pytest.importorskip("peft")
    from modeling_trace.training import lora_config

    model, processor = load_model(folder / "model", "cpu")
    adapted = peft.get_peft_model(model, lora_config(model, r=2))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
    adapted.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    merged, _ = load_model(tmp_path, "cpu")
    ids = torch.tensor([[processor.bos_token_id, 5, 6, 7]])
    expected, (plain, _) = adapted.merge_and_unload().eval(), load_model(folder / "model", "cpu")
    with torch.no_grad():
        found, wanted, before = (
            each(input_ids=ids, generator=torch.Generator().manual_seed(0)).logits
            for each in (merged, expected, plain)
        )
    assert not isinstance(merged, peft.PeftModel)
    torch.testing.assert_close(found, wanted)
    assert (found - before).abs().max() > 1e-3  # the adapter is in it


@pytest.mark.parametrize(
    "name, device, message",
    [
        ("./nowhere", "cpu", "^there is no folder './nowhere'"),
        ("{folder}", "cpu", "^'.*' holds no model: "),
        ("{folder}/gpt2", "cpu", "^'.*' is a gpt2 model, not TRACE. Turn it into one: "),
        ("{folder}/model", "gpu", "^`device` must be one of .*, got 'gpu'"),
        ("{folder}/model", "cuda:99", "^`device` 'cuda:99' is not available. Use "),
    ],
)
def test_bad_names_are_one_line(folder, name, device, message):
    if not (folder / "gpt2").exists():
        GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=9)).save_pretrained(folder / "gpt2")
    with pytest.raises(ValueError, match=message) as error:
        load_model(name.format(folder=folder), device)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[1]", "3", "null", '"trace"', '{"model_type": ["trace"]}'])
def test_a_config_that_is_no_json_object_is_one_line(folder, tmp_path, content):
    shutil.copytree(folder / "model", tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(content)
    for load in (
        load_model,
        TraceConfig.from_pretrained,
        TraceForConditionalGeneration.from_pretrained,
        TraceForConditionalGeneration.from_backbone,
        TraceProcessor.from_pretrained,
        TraceProcessor.from_backbone,
    ):
        with pytest.raises(
            ValueError, match="config.json' must hold the settings of a model as a JSON object"
        ) as error:
            load(str(tmp_path))
        assert "\n" not in str(error.value)


def test_a_folder_without_weights_is_one_line(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "SHA256SUMS"))
    with pytest.raises(ValueError, match="has a config.json, but no weights .model.safetensors or ") as caught:
        load_model(tmp_path / "model")
    assert "\n" not in str(caught.value)
