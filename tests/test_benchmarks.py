"""The benchmarks run at their tiniest size, and what they count is what the formulas say. No time is asserted."""

import argparse
import json
import multiprocessing
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_from_disk

from modeling_trace.data import FixedLengthSegmenter, SentenceSegmenter, TraceProcessor, train_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import common
import compiled
import data
import generation
import long_texts
import reporting
import run_all
import training
import worth

LATENT_SIZE = 32


@pytest.fixture
def sizes():
    parser = argparse.ArgumentParser()
    common.add_size_arguments(parser)
    return common.parse(parser, ["--size", "tiny", "--device", "cpu"])


def tiny(tmp_path, *flags):
    return ["--size", "tiny", "--device", "cpu", "--output", str(tmp_path), *flags]


def layers_by_hand(sizes, length):
    """Forward and backward of one text: QKV, projection and MLP are 12 width^2 weights, attention 2 products L x L."""
    return 3 * sizes.layers * length * (24 * sizes.width**2 + 4 * length * sizes.width)


@pytest.mark.parametrize("segment_length", [1, 5, 20])
def test_operations_are_those_of_the_formulas(sizes, segment_length):
    segments = -(-sizes.tokens // segment_length)
    plain, length = sizes.tokens + 2, sizes.tokens + 2 + segments - 1  # BOS, EOS, [SEP] between segments
    head = 6 * sizes.width * sizes.vocab_size
    counted = training.count_operations(training.PLAIN, sizes, segment_length)
    body = layers_by_hand(sizes, plain)
    assert counted["body"] == sizes.batch_size * body
    assert counted["total"] == sizes.batch_size * (body + head * (plain - 1))

    # The decoder; the context pass up to the last segment; the segment pass, a segment to a row (at length 5 the last
    # row, of two tokens, would make that more than the whole);
    # W_z on every token, W^g and W_c on every segment
    last = (sizes.tokens - 1) % segment_length + 1
    context, width = length - last - 1, min(segment_length, sizes.tokens) + 1
    segment = layers_by_hand(sizes, length) if segment_length == 5 else segments * layers_by_hand(sizes, width)
    own = layers_by_hand(sizes, length) + layers_by_hand(sizes, context) + segment
    linear = 6 * LATENT_SIZE * sizes.width * (length + 2 * 2 * segments)
    step = 4 * LATENT_SIZE**2  # [A; B] z_{t-1}, once; z_0 = 0 has no gradient of [A; B]
    for system, steps in (("trace-r", 3 * segments - 1), ("trace-p", 6 * segments)):
        counted = training.count_operations(system, sizes, segment_length)
        assert counted["body"] == sizes.batch_size * (own + linear + steps * step)
        assert counted["head"] == sizes.batch_size * head * (length - 1)
        assert counted["whole"] == sizes.batch_size * 3 * layers_by_hand(sizes, length) + counted["head"]


def test_operations_do_not_depend_on_the_size_that_was_counted(sizes):
    """Counting one text and multiplying is counting the batch."""
    model = common.make_model("trace-r", sizes, attn_implementation="eager")
    whole = training.count_body(model, common.make_batch(model, sizes))
    assert whole == training.count_operations("trace-r", sizes, sizes.segment_length)["body"]


@pytest.mark.parametrize("new_tokens, encoded", [(9, 1), (12, 12), (23, 23), (25, 23)])
def test_cache_bytes(sizes, new_tokens, encoded):
    """The decoder holds BOS and all tokens but the last, the encoder BOS and the closed segments of 10 and [SEP]."""
    model = common.make_model("trace-r", sizes).eval()
    slot = 2 * sizes.layers * sizes.width * 4  # keys and values, float32
    expected = {"decoder": 3 * new_tokens * slot, "encoder": 3 * encoded * slot}
    assert generation.count_caches(model, 3, new_tokens) == expected


def test_scheduled_segments_close_where_the_schedule_says(sizes):
    schedule = generation.make_schedule(4, 40)
    assert len({tuple(row) for row in schedule.tolist()}) == 4
    gaps = [b - a - 1 for row in schedule for a, b in zip(row.nonzero()[:-1], row.nonzero()[1:], strict=True)]
    assert 5 <= min(gaps) and max(gaps) <= 15
    for system in (common.PLAIN, "trace-r"):
        model = common.make_model(system, sizes).eval()
        written = generation.write(model, 4, 40, schedule)
        assert torch.equal(written[:, 1:] == common.SEP, schedule)


def test_calls_take_turns_and_the_first_round_is_left_out():
    calls = []
    seconds = common.interleave({name: lambda n=name: calls.append(n) for name in "ab"}, rounds=2)
    assert calls == list("ababab") and {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
    assert common.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == {
        "median": 2.0,
        "low": 2.0,
        "high": 3.0,
        "rounds": [2.0, 3.0, 2.0],
    }


def test_goals_say_by_how_much():
    goals = [reporting.goal("a", 1.2, 1.0), reporting.goal("b", 0.9, 0.6, at_least=True), reporting.goal("c", None, 1)]
    assert [one["met"] for one in goals] == [False, True, None]
    table = reporting.goals_table(goals)
    assert "| a <= 1 | 1.2 | **missed** by 20% |" in table
    assert "| b >= 0.6 | 0.9 | met by 50% |" in table and "| c <= 1 |  | not measured |" in table


def test_training_writes_its_results(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "peak_bytes", lambda *arguments, device: 1000)  # a process of its own takes seconds
    flags = ("--memory_vocab_size", "100", "--segment_lengths", "1", "5")
    results = training.main(tiny(tmp_path, *flags))
    assert json.loads((tmp_path / "training.json").read_text()) == results
    assert [one["met"] for one in results["goals"][-2:]] == [True, True]  # 1000 against 1000
    assert len(results["goals"]) == 2 * 3 + 3
    assert results["plot"]["lines"]["trace-r"][0] == [1, 5]
    assert (tmp_path / "training.md").is_file() and (tmp_path / "training.png").is_file()
    assert {"CPU", "cores", "threads", "date", "torch", "transformers"} <= results["machine"].keys()


def test_long_texts_writes_its_results(tmp_path, monkeypatch):
    monkeypatch.setattr(long_texts, "peak_bytes", lambda *arguments, device: 1000)
    results = long_texts.main(tiny(tmp_path))
    assert json.loads((tmp_path / "long_texts.json").read_text()) == results
    rows, checkpointed, grouping = results["tables"].values()
    assert [(row["tokens of a text"], row["texts"]) for row in rows[:3]] == [(12, 2), (16, 2), (24, 1)]
    assert len(rows) == 2 * 2 * 3 and len(checkpointed) == 2 and len(results["goals"]) == 2 * 2
    assert grouping[1]["padding"] < grouping[0]["padding"]
    assert results["plot"]["lines"]["trace-r, attention dropout 0"][0] == [12, 16, 24]


def test_padding_is_what_the_mask_says(sizes):
    ids, mask = long_texts.padded([3, 14, 5], sizes)
    assert mask.sum(1).tolist() == [3, 14, 5] and torch.equal(ids == common.PAD, mask == 0)
    assert (ids[1] == common.SEP).nonzero().tolist() == [[11]]  # after BOS and a segment of 10
    assert long_texts.padding([[3, 14, 5], [4]]) == pytest.approx((11 + 9) / 46)


def test_generation_writes_its_results(tmp_path):
    results = generation.main(tiny(tmp_path))
    assert json.loads((tmp_path / "generation.json").read_text()) == results
    cache = next(one for one in results["goals"] if "cache" in one["goal"])
    assert cache["measured"] == 34 / 40  # BOS and three segments of 10 and [SEP], of 40 tokens
    assert cache["met"] and len(results["goals"]) == 6


def test_data_writes_its_results(tmp_path):
    results = data.main(tiny(tmp_path, "--num_procs", "0"))
    assert json.loads((tmp_path / "data.json").read_text()) == results
    assert [(row["task"], row["base"]) for row in results["tables"]["Rates"]] == [
        (data.FIXED, "plain"),
        (data.SENTENCES, "plain"),
        (data.SENTENCES, data.FLOOR),
    ]
    assert len(results["goals"]) == 3 and len(results["tables"]["Cache"]) == 2


def test_contestants_do_not_find_each_other_in_the_cache(tmp_path):
    Dataset.from_dict({"text": ["One text. Or two.", "Another."] * 10}).save_to_disk(tmp_path)
    before, texts = sorted(tmp_path.iterdir()), load_from_disk(tmp_path)
    processors = {
        name: TraceProcessor(train_tokenizer(texts["text"], 300), segmenter, separator="token")
        for name, segmenter in ((data.FIXED, FixedLengthSegmenter(2)), (data.SENTENCES, SentenceSegmenter()))
    }
    prepared = {name: call() for name, call in data.make_calls(texts, processors, None).items()}
    assert len(list(tmp_path.iterdir())) == len(before) + 4
    rows = {name: dataset["input_ids"][:] for name, dataset in prepared.items()}
    assert rows["plain"] == rows[data.FLOOR] and len(set(map(str, rows.values()))) == 3
    for dataset in prepared.values():
        data.remove_files(dataset)
    assert sorted(tmp_path.iterdir()) == before


def test_compiled_writes_its_results(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)  # compiling takes seconds at any size
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    results = compiled.main(tiny(tmp_path))
    assert json.loads((tmp_path / "compiled.json").read_text()) == results
    assert [len(rows) for rows in results["tables"].values()] == [3, 6, 4, 4]


def allocate(size):
    return lambda: torch.ones(size, dtype=torch.uint8)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the resident set is read from /proc")
def test_peak_memory_is_that_of_the_call():
    assert 2**26 <= common.peak_bytes(allocate, 2**26) < 2**26 + 2**24


@pytest.mark.slow
def test_all_run(tmp_path, monkeypatch):
    """The benchmarks that no test above runs; those that one does are only seen to get the flags that it gives."""

    def stand_in(name, flags):
        assert sorted(flags) == sorted(tiny(tmp_path))
        arguments = argparse.Namespace(output=str(tmp_path))
        return reporting.write_results(name, arguments, {}, [reporting.goal(f"goal of {name}", 1.0, 2.0)])

    for module in (training, long_texts, generation, data, compiled):
        monkeypatch.setattr(module, "main", partial(stand_in, module.__name__))
    context = multiprocessing.get_context("fork")  # with its own imports a process takes seconds
    monkeypatch.setattr(multiprocessing, "get_context", lambda name: context)
    results = run_all.main(tiny(tmp_path))
    assert [one["name"] for one in results] == list(run_all.BENCHMARKS)
    assert json.loads((tmp_path / "all.json").read_text()) == results
    page = (tmp_path / "all.md").read_text()
    assert all(one["goal"] in page for result in results for one in result["goals"])


def test_worth_goes_on_where_it_was_and_cuts_all_texts_alike(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(worth, "SHAPE", {**worth.SHAPE, "n_layer": 2, "n_embd": 16, "n_head": 2})
    texts = [f"Text number {n} is about the soup, the {n % 7} waiters and more." for n in range(60)]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    flags = ["--dataset", str(tmp_path / "few.jsonl"), "--output", str(tmp_path / "out"), "--seeds", "0"]
    flags += ["--num_texts", "20", "--base_steps", "2", "--steps", "2", "--vocab_size", "300", "--text_tokens", "9"]
    flags += ["--segment_length", "4", "--systems", "plain", "trace", "plain, time of trace", "trace-r"]
    flags += ["trace-r, time of plain"]
    worth.main(flags)
    folder = tmp_path / "out" / "few" / "seed-0"
    names = ("plain", "trace", "plain-time-of-trace", "trace-r", "trace-r-time-of-plain")
    cells = {name: folder / name for name in names}
    before = {name: (cell / "result.json").stat().st_mtime_ns for name, cell in cells.items()}
    found = {name: worth.read(cell) for name, cell in cells.items()}
    for name in ("trace", "trace-r"):
        own = found[name]
        assert own["kl"] > 0 and own["elbo"] == pytest.approx(own["text"] + own["separators"] + own["kl"])
        assert own["other"] != own["text"] != own["prior"]
    assert found["trace"]["separators"] == 0 < found["trace-r"]["separators"]
    for slug, own, other in (("plain-time-of-trace", "plain", "trace"), ("trace-r-time-of-plain", "trace-r", "plain")):
        wanted = max(1, round(2 * found[other]["seconds"] / found[own]["seconds"]))
        assert found[slug]["steps"] == wanted
    # as many tokens of text, with [SEP] between or without
    rows = {}
    for name in ("plain", "trace", "trace-r"):
        processor = TraceProcessor.from_pretrained(cells[name])
        rows[name] = [row["input_ids"] for row in worth.cut_rows(texts, processor, 9)]
        rows[name] = [[token for token in row if token != processor.sep_token_id] for row in rows[name]]
    assert rows["plain"] == rows["trace"] == rows["trace-r"] and max(map(len, rows["plain"])) == 10

    (cells["trace"] / "result.json").unlink()
    capsys.readouterr()
    worth.main(flags)
    after = {name: (cell / "result.json").stat().st_mtime_ns for name, cell in cells.items()}
    assert {name for name in cells if after[name] != before[name]} == {"trace"}
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("| trace")]) == 3
