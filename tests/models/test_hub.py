"""Pushing to a Hub and loading from it by name, on the loopback, in processes that know no other Hub."""

import inspect
from pathlib import Path

import pytest
from helpers.hub import run_hub
from helpers.remote_code import CODE_FILES, WITHOUT_PACKAGE, run_script, write

AUTHOR = """
import json, sys
sys.path.insert(0, sys.argv[1])  # the tests
import torch
from helpers.tiny import backbone_config
from helpers.remote_code import make_pair, word_tokenizer, write
from transformers import AutoModelForCausalLM
from modeling_trace import TraceForConditionalGeneration, TraceProcessor

# a backbone by its name, with a revision
lm = AutoModelForCausalLM.from_config(backbone_config("gpt2"))
lm.push_to_hub("user/tiny-gpt2")
first = word_tokenizer().push_to_hub("user/tiny-gpt2").oid
wanted = lm.transformer.wte.weight.detach().clone()
lm.transformer.wte.weight.data.zero_()
lm.push_to_hub("user/tiny-gpt2")
for revision, weight in ((first, wanted), (None, torch.zeros_like(wanted))):
    model = TraceForConditionalGeneration.from_backbone("user/tiny-gpt2", revision=revision, latent_size=4)
    assert torch.equal(model.get_input_embeddings().weight[: len(weight)], weight)
processor = TraceProcessor.from_backbone("user/tiny-gpt2", revision=first)
assert processor.sep_token_id == model.config.sep_token_id

errors = []
for load, settings in (
    (TraceForConditionalGeneration.from_backbone, {}),
    (TraceForConditionalGeneration.from_backbone, {"revision": "v9"}),
    (TraceForConditionalGeneration.from_pretrained, {}),
    (TraceProcessor.from_pretrained, {}),
):
    try:
        load("user/tiny-gpt2" if settings else "user/nothing", **settings)
    except (OSError, ValueError) as error:
        errors.append([type(error).__name__, str(error)])

model, processor = make_pair("gpt2")
model.push_to_hub("user/trace-tiny")
processor.push_to_hub("user/trace-tiny")
assert TraceProcessor.from_pretrained("user/trace-tiny").segmenter == processor.segmenter
assert type(AutoModelForCausalLM.from_pretrained("user/trace-tiny")) is TraceForConditionalGeneration
print(json.dumps({"texts": write(model), "errors": errors}))
"""

READER = (
    WITHOUT_PACKAGE
    + inspect.getsource(write)
    + """
import json
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

trust = {"trust_remote_code": True}
model = AutoModel.from_pretrained("user/trace-tiny", **trust)
texts = write(model)
assert write(AutoModelForCausalLM.from_pretrained("user/trace-tiny", revision=sys.argv[1], **trust)) == texts
assert AutoTokenizer.from_pretrained("user/trace-tiny", **trust).sep_token_id == model.config.sep_token_id
assert pipeline("text-generation", model="user/trace-tiny", **trust)("w5", max_new_tokens=3)
model.push_to_hub("reader/copy")
assert write(AutoModel.from_pretrained("reader/copy", **trust)) == texts
print(json.dumps(texts))
"""
)


@pytest.mark.slow
def test_from_one_process_to_another_by_name(tmp_path):
    with run_hub() as hub:
        names = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
        for home in ("author", "reader"):
            (tmp_path / home).mkdir()
        said = run_script(AUTHOR, tmp_path / "author", Path(__file__).parents[1], **names)
        pushed = hub.commits["user/trace-tiny"]
        newest = list(pushed)[-1]
        assert sorted(path for path in pushed[newest] if path.endswith(".py")) == CODE_FILES
        assert {"README.md", "model.safetensors", "processor_config.json", "tokenizer.json"} <= pushed[newest].keys()
        assert run_script(READER, tmp_path / "reader", newest, **names) == said["texts"]
        *_, copied = hub.commits["reader/copy"].values()
        assert all(copied[name] == pushed[newest][name] for name in CODE_FILES)

    backbone, revision, model, processor = said["errors"]
    for kind, message in (backbone, revision, processor):
        assert kind == "ValueError" and "\n" not in message
    assert "`backbone` must be a Hub id or a folder. user/nothing is not a local folder" in backbone[1]
    assert "v9 is not a valid git identifier" in revision[1]
    assert "`user/nothing` must hold a saved TraceProcessor" in processor[1]
    assert model[0] == "OSError" and "user/nothing is not" in model[1]  # Transformers' own, in its own words
