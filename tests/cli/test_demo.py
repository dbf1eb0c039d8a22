"""`modeling-trace demo`: what it refuses, what it leaves, also when it is stopped, and nothing when it fails."""

import json
import re
import shlex

import pytest
import torch

from modeling_trace import TraceForConditionalGeneration, TraceProcessor
from modeling_trace import demo as pieces
from modeling_trace.cli import demo
from modeling_trace.cli.main import main

FILES = {"model", "plain-lm", "samples.jsonl", "held-out.jsonl", "training_log.json", "curves.png", "latents.png"}


def contents(folder) -> dict[str, str]:
    """Every file below the folder, hidden ones too, and its text."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with somebody's thesis and an earlier demo."""
    earlier = ("samples.jsonl", "latents.png", "model/config.json", "plain-lm/config.json", "training_log.json")
    for name in ("thesis/chapter.txt", "thesis/samples.jsonl", *(f"earlier/{name}" for name in earlier)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output_dir", "thesis"], "`output_dir` 'thesis' holds something other than a demo"),
        (["--output_dir", "thesis", "--overwrite"], "`output_dir` 'thesis' holds something other than a demo"),
        (["--output_dir", "thesis/chapter.txt"], "`output_dir` 'thesis/chapter.txt' is a file"),
        (["--output_dir", "earlier"], "holds an earlier demo. Replace it by --overwrite"),
        (["--output_dri", "new"], "there is no flag `--output_dri`. Did you mean `--output_dir`?"),
        (["--seed", "x"], "`seed`: invalid int value: 'x'"),
    ],
    ids=" ".join,
)
def test_bad_input_is_refused_before_any_work(home, monkeypatch, flags, message):
    monkeypatch.setattr(demo, "_demo", lambda *_: pytest.fail("it started"))
    before = contents(home)
    with pytest.raises(ValueError, match=re.escape(message)):
        demo.run(flags)
    assert contents(home) == before


@pytest.mark.parametrize("flags", [["--output_dir", "new"], ["--output_dir", "earlier", "--overwrite"]], ids=" ".join)
def test_a_demo_that_fails_leaves_nothing(home, monkeypatch, flags):
    """It fails in the second training, when the plain model has been saved."""
    saved = []

    def train(model, processor, training, validation, folder, *_):
        saved.extend(path.name for path in folder.iterdir())
        if model.has_latents:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(pieces, "NUM_REVIEWS", 400)
    monkeypatch.setattr(pieces, "_train", train)
    before, names = contents(home), sorted(home.iterdir())
    with pytest.raises(RuntimeError, match="out of memory"):
        demo.run(flags)
    assert sorted(saved) == ["held-out.jsonl", "plain-lm", "training_log.json"]
    assert contents(home) == before and sorted(home.iterdir()) == names


@pytest.mark.parametrize("folder", ["new", "new/below", "empty", "link", "."])
def test_results_get_to_any_folder_that_is_taken(home, monkeypatch, folder):
    (home / "empty").mkdir()
    (home / "link").symlink_to("empty")
    monkeypatch.chdir("empty" if folder == "." else ".")
    monkeypatch.setattr(demo, "_demo", lambda work, _: (work / "samples.jsonl").write_text("new"))
    output = home / "empty" if folder == "." else home / folder
    assert demo.run(["--output_dir", folder]) == 0
    assert contents(output) == {"samples.jsonl": "new"}
    assert not list(home.glob(".*"))


def test_overwrite_replaces_only_what_a_demo_wrote(home, monkeypatch):
    def write(work, _):
        (work / "model").mkdir()
        (work / "model" / "model.safetensors").write_text("new")
        (work / "samples.jsonl").write_text("new")

    (home / "earlier" / "notes.txt").write_text("mine")
    monkeypatch.setattr(demo, "_demo", write)
    assert demo.run(["--output_dir", "earlier", "--overwrite"]) == 0
    assert contents(home / "earlier") == {
        "model/model.safetensors": "new",
        "samples.jsonl": "new",
        "latents.png": "old",
        "plain-lm/config.json": "old",
        "training_log.json": "old",
        "notes.txt": "mine",
    }


def stopped_at(monkeypatch, training: int):
    """Ctrl-C in the first or second training; the others train nothing."""
    calls = []

    def train(*_):
        calls.append(_)
        if len(calls) == training:
            raise KeyboardInterrupt
        return [{"eval_reconstruction": 1.0}]

    monkeypatch.setattr(pieces, "NUM_REVIEWS", 400)
    monkeypatch.setattr(pieces, "NUM_HELD_OUT", 3)
    monkeypatch.setattr(pieces, "_train", train)


@pytest.mark.parametrize("flags", [["--output_dir", "new"], ["--output_dir", "earlier", "--overwrite"]], ids=" ".join)
def test_a_demo_that_is_stopped_keeps_what_is_finished(home, monkeypatch, capsys, flags):
    (home / "earlier" / "notes.txt").write_text("mine")
    stopped_at(monkeypatch, training=2)
    assert main(["demo", *flags]) == 130
    said = capsys.readouterr().err
    folder = home / flags[1]
    kept = {path.name for path in folder.iterdir()} - {"notes.txt"}
    assert kept == {"model", "plain-lm", "held-out.jsonl", "training_log.json"}
    assert f"finished so far, in {flags[1]}/: model, plain-lm, held-out.jsonl." in said
    assert TraceForConditionalGeneration.from_pretrained(folder / "model").has_latents
    assert len((folder / "held-out.jsonl").read_text().splitlines()) == 3
    # what it says to do next is not refused
    monkeypatch.setattr(demo, "_demo", lambda work, _: (work / "samples.jsonl").write_text("again"))
    command = re.search(r"modeling-trace (demo .*)$", said, flags=re.MULTILINE)[1]
    assert main(shlex.split(command)) == 0
    assert (folder / "samples.jsonl").read_text() == "again"


def test_a_demo_that_is_stopped_at_once_leaves_nothing(home, monkeypatch, capsys):
    stopped_at(monkeypatch, training=1)
    names = sorted(home.iterdir())
    assert main(["demo", "--output_dir", "new"]) == 130
    assert "nothing was finished yet" in capsys.readouterr().err
    assert sorted(home.iterdir()) == names


def test_the_plan_comes_before_the_work(home, monkeypatch, capsys):
    monkeypatch.setattr(demo, "_demo", lambda *_: pytest.fail(capsys.readouterr().out))
    with pytest.raises(pytest.fail.Exception, match="about three minutes"):
        demo.run(["--output_dir", "new"])


def test_the_first_look_leaves_no_trace_in_training():
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1).train()
    before, seen = torch.get_rng_state(), []
    look = pieces._AtStep(2, lambda: seen.append((model.training, torch.rand(1))))
    for step in range(4):
        state = type("State", (), {"global_step": step})
        look.on_step_end(None, state, None, model=model)
    assert len(seen) == 1 and seen[0][0] is False
    assert model.training and torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_the_demo_leaves_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pieces, "NUM_REVIEWS", 4000)
    output = tmp_path / "my demo"
    assert demo.run(["--output_dir", str(output), "--lm_steps", "30", "--trace_steps", "30"]) == 0
    printed = capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["my demo"]
    for title in ("--- greedy", "--- beam search", "--- top-k 50"):
        assert title in printed
    commands = re.findall(r"^    modeling-trace (\w+) (.*)$", printed, flags=re.MULTILINE)
    assert [name for name, _ in commands] == ["generate", "generate", "compare", "train"]
    assert all(rest.startswith(f"'{output}/model' ") for name, rest in commands if name == "generate")

    # the command that is printed over two lines, on fewer texts
    command = re.search(r"modeling-trace (compare .*) \\\n +(.*)$", printed, flags=re.MULTILINE)
    small = ["--num_texts", "10", "--num_likelihood_texts", "5", "--num_samples", "2", "--num_curve_texts", "5"]
    small += ["--curve_temperatures", "0.7", "1", "--curve_latent_temperatures", "1"]
    assert main([*shlex.split(" ".join(command.groups())), *small, "--max_words", "20"]) == 0
    assert (output / "report" / "report.html").is_file()

    counts = dict(re.findall(r"^    (plain LM|TRACE) +(\d+)$", printed, flags=re.MULTILINE))
    samples = [json.loads(line) for line in (output / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    for system, count in counts.items():
        greedy = [row["text"] for row in samples if (row["system"], row["decoding"]) == (system, "greedy")]
        assert len(set(greedy[-200:])) == int(count)  # the first three are those shown side by side
    assert int(counts["plain LM"]) == 1 < int(counts["TRACE"])

    log = json.loads((output / "training_log.json").read_text())
    assert {"reconstruction", "kl", "kl_weight", "step"} <= log["trace"][0].keys()
    for system in ("plain", "trace"):
        assert f"{log[system][-1]['eval_reconstruction']:.1f}" in printed

    model = TraceForConditionalGeneration.from_pretrained(output / "model")
    processor = TraceProcessor.from_pretrained(output / "model")
    assert len(processor.batch_decode(model.generate(max_new_tokens=20))) == 1
    with pytest.raises(ValueError, match="Replace it by --overwrite"):
        demo._check_output(output, overwrite=False)
    demo._check_output(output, overwrite=True)
