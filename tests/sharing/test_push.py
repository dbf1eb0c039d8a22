"""`push` and `push_to_hub`: what goes out and what never does, and bad input, against the Hub of the tests."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from datasets import Dataset
from helpers.docs import make_demo_folder
from helpers.hub import run_hub
from helpers.remote_code import CODE_FILES, run_script, script_process
from huggingface_hub import constants

from modeling_trace import (
    TraceForConditionalGeneration,
    TraceProcessor,
    TraceTrainer,
    TraceTrainingArguments,
    load_model,
    push,
)
from modeling_trace.cli.main import main
from modeling_trace.data import SentenceSegmenter, load_texts
from modeling_trace.evaluation.quality import load_judge
from modeling_trace.network import PROBE_SECONDS, hub_errors
from modeling_trace.sharing import sections
from modeling_trace.sharing.cards import Card
from modeling_trace.sharing.publishing import hub_card

# What lies in the folder of a run and must stay there
PRIVATE = {
    "training_args.bin": b"pickled",
    "optimizer.pt": b"states",
    "train_texts.json": b'["a text of somebody"]',
    "trainer_state.json": b"{}",
    "train_config.yaml": b"backbone: /home/somebody/lm\ndataset: user/reviews\n",
    "checkpoint-1/model.safetensors": b"earlier",
    "notes.md": b"mine",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # read at import
    make_demo_folder(tmp_path)
    for name, content in PRIVATE.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "model"


def report_of(folder):
    def column(metric, label, decimals):
        return {"metric": metric, "key": metric, "label": label, "decimals": decimals, "num_texts": 50}

    def cell(value):
        return {"value": value, "low": value - 0.5, "high": value + 0.5, "mark": None}

    overview = {"id": "overview", "title": "Representation, quality and diversity", "columns": [], "rows": []}
    overview["columns"] = [column("neg_elbo", "-ELBO ↓", 1), column("kl", "KL", 1), column("mi", "MI ↑", 2)]
    overview["rows"] = [
        {"name": "real text", "cells": [None, None, None]},
        {"name": "mine", "cells": [cell(61.25), cell(5.0), cell(2.5)]},
    ]
    latents = {"id": "latents", "title": "", "columns": [column("own_z", "text, own z", 1)], "rows": []}
    latents["columns"].append(column("other_z", "text, another's z", 1))
    latents["rows"] = [{"name": "mine", "cells": [cell(50.0), cell(57.0)]}]
    return {
        "systems": [{"name": "mine", "path": str(folder)}],
        "data": {"name": f"{folder}/secret/texts.jsonl", "num_real": 200, "conditional": False},
        "tables": [overview, latents],
        "positions": {"mine": {"mi_joint": 2.5, "mi_joint_cap": 3.9}},
        "findings": [f"Nothing follows from this, trained on '{folder}/config.json'."],
    }


def write_report(folder):
    (folder / "report").mkdir()
    report = json.dumps(report_of(folder), ensure_ascii=False)
    (folder / "report" / "report.json").write_text(report)
    (folder / "report" / "report.md").write_text(f"of {folder}, on {folder}/secret/texts.jsonl")
    return folder / "report"


def test_a_dry_run_lists_what_would_go_out(folder, capsys):
    write_report(folder)
    assert main(["push", str(folder), "user/mine", "--dry_run", "--license", "mit", "--num_samples", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in lines[:-1]}
    model = {"config.json", "generation_config.json", "model.safetensors", "README.md", "samples.jsonl"}
    processor = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(listed) == {*CODE_FILES, *model, *processor, "report/report.json", "report/report.md"}
    assert listed["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert lines[-1].endswith("would go to user/mine. Nothing was pushed.")


def test_a_conditional_models_samples_are_written_on_the_prompts_given(folder):
    plain = folder.parent / "plain-lm"
    processor = TraceProcessor.from_backbone(plain, SentenceSegmenter().fit(["It rained. We left."]), conditional=True)
    model = TraceForConditionalGeneration.from_backbone(plain, processor)
    stories = folder.parent / "stories"
    model.save_pretrained(stories)
    processor.save_pretrained(stories)
    assert "samples.jsonl" not in push(stories, "user/stories", dry_run=True).files
    assert (
        "samples.jsonl" in push(stories, "user/stories", num_samples=3, prompts=["A walk", "Soup"], dry_run=True).files
    )
    rows = [json.loads(line) for line in (stories / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["A walk", "Soup", "A walk"]
    shown = sections.samples(rows, "top-k")
    assert shown.count('On "A walk":\n\n> ') == 2 and shown.count('On "Soup":\n\n> ') == 1
    with pytest.raises(ValueError, match="`prompts` must be a list of prompts, got a string. Use \\['A walk'\\]"):
        push(stories, "user/stories", prompts="A walk", dry_run=True)
    with pytest.raises(ValueError, match="`prompts` are for a conditional model, and this one is not. Leave them out"):
        push(folder, "user/x", prompts=["A walk"], dry_run=True)


def test_bad_input_is_one_line(folder, tmp_path, monkeypatch, capsys):
    def says(message, *arguments):
        assert main(["push", *map(str, arguments)]) == 2
        said = capsys.readouterr().err
        last = said.rstrip("\n").split("\n")[-1]  # after the bars of loading
        assert message in last and last.startswith("error: ") and "Traceback" not in said, said

    monkeypatch.setattr("modeling_trace.network.get_token", lambda: None)
    says("takes a model's folder and a repository, got 1. Use: modeling-trace push MODEL REPO", folder)
    says("`repo_id` must be a name or user/name, got 'a/b/c'", folder, "a/b/c")
    says("`repo_id` must be a name or user/name, got 'user/my model'", folder, "user/my model")
    says("must be a trained model's folder, got 'nowhere'", "nowhere", "user/x")
    says("there is no token for the Hub. Run `hf auth login`", folder, "user/x")
    monkeypatch.setattr("modeling_trace.network.get_token", lambda: "hf_test")
    says("HF_HUB_OFFLINE is set", folder, "user/x")
    says("Use `--branch`", folder, "user/x", "--revision", "main")
    (tmp_path / "empty").mkdir()
    says("holds no model", tmp_path / "empty", "user/x", "--dry_run")
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "config.json").write_text('{"model_type": "gpt2"}')
    says("is a gpt2 model, not TRACE", tmp_path / "lm", "user/x", "--dry_run")
    says("`report` must be a report's folder, found no", folder, "user/x", "--dry_run", "--report", tmp_path)
    report = write_report(folder)
    says("`report` must have the model", tmp_path / "plain-lm", "user/x", "--dry_run", "--report", report)
    (folder / "samples.jsonl").write_text(str(folder))
    says(
        f"'samples.jsonl' names '{folder}', which is on this machine",
        folder,
        "user/x",
        "--dry_run",
        "--num_samples",
        "0",
    )
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    says("is damaged", folder, "user/x", "--dry_run")
    (folder / "SHA256SUMS").unlink()
    says("are damaged", folder, "user/x", "--dry_run")


def test_a_card_that_cannot_be_read_is_not_taken_for_none_or_for_an_earlier_one(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with run_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        hub.commit("user/mine", {"README.md": b"# By me"})
        hub.commit("user/bare", {"config.json": b"{}"})
        assert hub_card("user/mine", None, False).body == "# By me" and hub_card("user/bare", None, False) is None
        assert hub_card("user/none", None, False) is None and hub_card("user/mine", "none", False) is None
        hub.failure = 400
        for name in ("user/mine", "user/bare"):  # with a card in the cache, and with none
            with pytest.raises(ValueError, match=f"the Hub refused '{name}': "), hub_errors(name):
                hub_card(name, None, False)


@pytest.mark.parametrize("host", ["deaf", "127.0.0.1:9", "no-such-host.invalid"])
def test_no_network_is_said_without_many_tries(host, folder, tmp_path, monkeypatch, capsys):
    model, processor = load_model(folder)
    assert PROBE_SECONDS + 1 <= 5  # what `check_network` waits for
    with socket.socket() as deaf:  # it listens, and nobody answers
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        host = f"127.0.0.1:{deaf.getsockname()[1]}" if host == "deaf" else host
        monkeypatch.setattr(constants, "ENDPOINT", f"http://{host}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("modeling_trace.network.get_token", lambda: "hf_test")

        texts = Dataset.from_dict({"text": ["The food was good."]})
        args = TraceTrainingArguments(tmp_path / "a", max_steps=1)

        def refused(call):
            start = time.monotonic()
            with pytest.raises(ConnectionError, match=f"the Hub at http://{host} does not answer: ") as caught:
                call()
            assert "\n" not in str(caught.value)
            assert time.monotonic() - start < 20  # 3 or 4 on an idle machine; the libraries' own tries take 25 to 40

        calls = (
            lambda: push(folder, "user/x"),
            lambda: model.push_to_hub("user/x"),
            lambda: processor.push_to_hub("user/x"),
            lambda: load_model("user/x"),
            lambda: load_judge("user/x"),
            lambda: load_texts("user/x"),
            lambda: TraceTrainer("user/x", args, train_dataset=texts),
        )
        with ThreadPoolExecutor(len(calls)) as pool:  # each waits for seconds
            list(pool.map(refused, calls))
    if host == "127.0.0.1:9":
        flags = ["--backbone", "user/x", "--dataset", "reviews", "--output_dir", str(tmp_path / "b")]
        assert main(["train", *flags]) == 2
        assert "error: `backbone` 'user/x' is no file or folder here, and the Hub at " in capsys.readouterr().err


PUSH = """
import json, sys
from modeling_trace import push
folder, settings = sys.argv[1], json.loads(sys.argv[2])
try:
    pushed = push(folder, "user/mine", **settings)
    print(json.dumps({"files": pushed.files, "url": pushed.url}))
except (ConnectionError, ValueError) as error:
    print(json.dumps({"error": str(error)}))
"""

TRAINER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from datasets import Dataset
from modeling_trace import TraceForConditionalGeneration, TraceProcessor, TraceTrainer, TraceTrainingArguments
folder = sys.argv[2]
model, processor = TraceForConditionalGeneration.from_pretrained(folder), TraceProcessor.from_pretrained(folder)
texts = Dataset.from_dict({"text": ["The food was good. We liked it.", "The soup was cold."] * 4})
args = TraceTrainingArguments(
    "run", max_steps=4, save_steps=2, eval_strategy="steps", eval_steps=2, logging_steps=1, report_to="none",
    use_cpu=True, disable_tqdm=True, push_to_hub=True, hub_model_id="user/trained", hub_strategy="every_save",
)
trainer = TraceTrainer(model, args, train_dataset=texts, eval_dataset=texts, processing_class=processor)
trainer.train()
trainer.push_to_hub(license="mit")
try:
    args.hub_strategy = type(args.hub_strategy)("checkpoint")
    trainer.init_hf_repo()
except ValueError as error:
    print(json.dumps(str(error)))
"""


def hub_process(hub, home):
    return script_process(home, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0", HF_TOKEN="hf_test")


@pytest.mark.slow
def test_pushed_whole_again_and_as_it_was_edited(folder, tmp_path):
    write_report(folder)
    with run_hub() as hub, hub_process(hub, tmp_path) as process:

        def run(**settings):
            return process(PUSH, folder, json.dumps({"num_samples": 2, **settings}))

        # refused, and then whole: what failed leaves nothing behind
        for status, message in ((403, "no permission to write to 'user/mine'"), (401, "does not take the token")):
            hub.refusal = status
            assert message in run()["error"] and "user/mine" not in hub.commits
        hub.refusal = None
        pushed = run(private=True, language="en", license="mit")
        files = hub.files("user/mine")
        assert {name: len(data) for name, data in files.items() if name != ".gitattributes"} == pushed["files"]
        assert hub.private == {"user/mine"} and pushed["url"].startswith(hub.endpoint)
        assert not {Path(name).name for name in PRIVATE if name != "checkpoint-1/model.safetensors"} & set(files)
        for name, data in files.items():
            assert str(tmp_path).encode() not in data and b"/home/somebody" not in data, name
        assert b"on texts.jsonl" in files["report/report.md"]
        card = Card.read(files["README.md"].decode())
        assert card.metadata["license"] == "mit" and card.metadata["language"] == ["en"]
        assert card.metadata["datasets"] == ["user/reviews"] and "base_model" not in card.metadata
        results = card.metadata["model-index"][0]["results"]
        assert {m["type"]: m["value"] for m in results[0]["metrics"]}["neg_elbo"] == 61.25
        for words in (
            "61.2 ± 0.5",
            "at most 3.90",
            "another text's latents, nats | 57.0",
            "trained on 'model/config.json'",
        ):
            assert words in card.body, words
        assert card.body.count("\n> ") == 2 and 'name = "user/mine"' in card.body

        # edited on the Hub, then in the folder; weights in shards, then whole
        text = files["README.md"].decode().replace("## Limits", "Words of mine.\n\n## Limits")
        hub.commit("user/mine", {"README.md": text.encode()})
        model = TraceForConditionalGeneration.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="100KB")
        assert "Words of mine." not in (folder / "README.md").read_text()
        assert run()["url"]
        assert "Words of mine." in hub.files("user/mine")["README.md"].decode()
        assert "Words of mine." in (folder / "README.md").read_text()
        sharded = hub.files("user/mine")
        assert "model.safetensors" not in sharded and "model.safetensors.index.json" in sharded
        model.save_pretrained(folder)
        assert run(branch="next")["url"]
        assert [name for name in hub.files("user/mine", "next") if "safetensors" in name] == ["model.safetensors"]
        assert hub.files("user/mine") == sharded
        assert run() and run()["url"] and "Words of mine." in hub.files("user/mine")["README.md"].decode()

        # a Trainer's pushes, while it trains and at its end
        refusal = process(TRAINER, Path(__file__).parents[1], folder)
        assert "`hub_strategy` 'checkpoint' would push optimizer states" in refusal
        trained = hub.files("user/trained")
        assert {"README.md", "model.safetensors", "tokenizer.json", "config.json", *CODE_FILES} <= set(trained)
        assert set(trained) <= set(files) | {".gitattributes"}
        card = trained["README.md"].decode()
        assert "| step | loss per token |" in card and "license: mit" in card and "gained per nat" in card
        assert str(tmp_path) not in card and len(hub.commits["user/trained"]) >= 3


def test_a_model_card_is_written_where_a_model_is_saved(folder):
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace("# model", "# model, renamed"))
    TraceForConditionalGeneration.from_pretrained(folder).save_pretrained(folder)
    assert "# model, renamed" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("---\na: [\n---\nbroken")
    TraceForConditionalGeneration.from_pretrained(folder).save_pretrained(folder)
    assert (folder / "README.md").read_text().endswith("broken")  # a save is worth more than its card
    with pytest.raises(ValueError, match="no YAML"):
        push(folder, "user/x", dry_run=True)


PAGE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from helpers.docs import run_blocks
from modeling_trace.cli.main import main
page = Path(sys.argv[2])
for line in page.read_text(encoding="utf-8").splitlines():
    if line.startswith("    modeling-trace "):
        assert main(line.split()[1:]) == 0, line
run_blocks(page)
print(json.dumps("done"))
"""


@pytest.mark.slow
def test_the_page_on_sharing_runs(tmp_path):
    make_demo_folder(tmp_path / "trace-demo")
    tests = Path(__file__).parents[1]
    with run_hub() as hub:
        names = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
        assert run_script(PAGE, tmp_path, tests, tests.parent / "docs" / "how-to" / "sharing.md", **names) == "done"
        assert set(hub.commits) == {"user/my-trace", "user/another-trace"} and hub.private == {"user/my-trace"}
