"""Pushing to a Hub and loading from it by name, on the loopback, in processes that know no other Hub."""

import inspect
import json
from pathlib import Path

import pytest
from helpers.docs import python_blocks
from helpers.hub import run_hub
from helpers.remote_code import CODE_FILES, TORCH_AND_TRANSFORMERS_ALONE, run_script, write

# The default architecture: [SEP] is not written, BOS is all that a prompt needs
ONE_PASS = {"latent_layer": 1, "separator": "none", "free_nats": 1.0, "posterior_norm": "none"}
AUTHOR = (
    f"""
ONE_PASS = {ONE_PASS}
"""
    + """
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

model, processor = make_pair("gpt2", **ONE_PASS)
model.push_to_hub("user/trace-tiny")
processor.push_to_hub("user/trace-tiny")
assert TraceProcessor.from_pretrained("user/trace-tiny").segmenter == processor.segmenter
assert type(AutoModelForCausalLM.from_pretrained("user/trace-tiny")) is TraceForConditionalGeneration
prompts = ["w5 w6 w7 w8", "w9 w10"]
ids = processor(prompts, add_eos=False, padding=True)["input_ids"]
inputs = processor(prompts, add_eos=False, padding=True, return_tensors="pt")
torch.manual_seed(3)
going_on = processor.batch_decode(model.generate(**inputs, max_new_tokens=8))
print(json.dumps({"texts": write(model), "errors": errors, "ids": ids, "going_on": going_on}))
"""
)

READER = (
    TORCH_AND_TRANSFORMERS_ALONE
    + inspect.getsource(write)
    + """
import json, os
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, pipeline

for name in ("modeling_trace", "datasets", "accelerate", "nltk", "peft"):
    try:
        __import__(name)
        raise SystemExit(f"{name} can be imported")
    except ModuleNotFoundError:
        pass

trust = {"trust_remote_code": True}
assert AutoConfig.from_pretrained("user/trace-tiny", **trust).auto_map
model = AutoModel.from_pretrained("user/trace-tiny", **trust)
texts = write(model)
assert write(AutoModelForCausalLM.from_pretrained("user/trace-tiny", revision=sys.argv[1], **trust)) == texts
prompts = ["w5 w6 w7 w8", "w9 w10"]
tokenizer = AutoTokenizer.from_pretrained("user/trace-tiny", **trust)
ids = tokenizer(prompts, padding=True)["input_ids"]
assert AutoProcessor.from_pretrained("user/trace-tiny", **trust)(prompts, padding=True)["input_ids"] == ids
torch.manual_seed(3)
sequences = model.generate(**tokenizer(prompts, padding=True, return_tensors="pt"), max_new_tokens=8)
going_on = tokenizer.batch_decode(sequences, skip_special_tokens=True)
writer = pipeline("text-generation", model="user/trace-tiny", **trust)
settings = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
torch.manual_seed(3)
alone = model.generate(**tokenizer(prompts[:1], return_tensors="pt"), max_new_tokens=8)
assert alone[0][: len(ids[0])].tolist() == ids[0]
torch.manual_seed(3)
piped = writer(prompts[0], **settings)[0]["generated_text"]
assert piped.split() == tokenizer.decode(alone[0][len(ids[0]) :], skip_special_tokens=True).split(), piped
if os.environ["HF_HUB_OFFLINE"] == "0":
    model.push_to_hub("reader/copy")
    assert write(AutoModel.from_pretrained("reader/copy", **trust)) == texts
    namespace = {}
    for block in json.loads(sys.argv[2]):  # of the card, as it is printed
        exec(block.replace("Once upon a time", "w5 w6"), namespace)
print()
print(json.dumps({"texts": texts, "ids": ids, "going_on": going_on}))
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
        (tmp_path / "README.md").write_bytes(pushed[newest]["README.md"])
        blocks = python_blocks(tmp_path / "README.md")
        assert len(blocks) == 5 and "segments, latent_size" in blocks[2]
        wanted = {name: said[name] for name in ("texts", "ids", "going_on")}
        assert run_script(READER, tmp_path / "reader", newest, json.dumps(blocks), **names) == wanted
        offline = {**names, "HF_HUB_OFFLINE": "1"}
        assert run_script(READER, tmp_path / "reader", newest, "[]", **offline) == wanted
        *_, copied = hub.commits["reader/copy"].values()
        assert all(copied[name] == pushed[newest][name] for name in CODE_FILES)

    backbone, revision, model, processor = said["errors"]
    for kind, message in (backbone, revision, processor):
        assert kind == "ValueError" and "\n" not in message
    assert "`backbone` must be a Hub id or a folder. user/nothing is not a local folder" in backbone[1]
    assert "v9 is not a valid git identifier" in revision[1]
    assert "`user/nothing` must hold a saved TraceProcessor" in processor[1]
    assert model[0] == "OSError" and "user/nothing is not" in model[1]  # Transformers' own, in its own words
