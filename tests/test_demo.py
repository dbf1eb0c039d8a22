"""`modeling-trace demo`: what it refuses, what it leaves, and that it leaves nothing when it fails."""

import json

import pytest

from modeling_trace import TraceForConditionalGeneration, TraceProcessor
from modeling_trace.cli import demo

FILES = {"model", "plain-lm", "samples.jsonl", "training_log.json", "curves.png", "latents.png"}


def test_a_folder_that_is_not_the_demos_is_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    for flags in ([], ["--overwrite"]):
        with pytest.raises(ValueError, match="is not empty. It was not written by the demo"):
            demo.run(["--output_dir", str(tmp_path / "thesis"), *flags])
    with pytest.raises(ValueError, match="is a file"):
        demo.run(["--output_dir", str(tmp_path / "thesis" / "chapter.txt")])
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_a_demo_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(demo, "_demo", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        demo.run(["--output_dir", str(tmp_path / "demo")])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demo_leaves_what_it_says(tmp_path, capsys):
    output = tmp_path / "demo"
    demo.run(["--output_dir", str(output), "--lm_steps", "30", "--trace_steps", "30"])
    printed = capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    for text in ("--- greedy", "--- beam search", "--- top-k 50", "Of 200 greedy texts", "Try next:"):
        assert text in printed
    assert printed.rstrip().count("\n    modeling-trace ") == 3
    samples = [json.loads(line) for line in (output / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    greedy = {
        s: {r["text"] for r in samples if (r["system"], r["decoding"]) == (s, "greedy")} for s in ("plain LM", "TRACE")
    }
    assert len(greedy["plain LM"]) == 1 < len(greedy["TRACE"])
    log = json.loads((output / "training_log.json").read_text())["trace"]
    assert {"reconstruction", "kl", "kl_weight", "step"} <= log[0].keys()
    model = TraceForConditionalGeneration.from_pretrained(output / "model")
    processor = TraceProcessor.from_pretrained(output / "model")
    assert processor.batch_decode(model.generate(max_new_tokens=20))
    with pytest.raises(ValueError, match="Replace it by --overwrite"):
        demo._check_output(output, overwrite=False)
    demo._check_output(output, overwrite=True)
