"""
Peak memory and time of `compare` as a whole at many texts: `python benchmarks/comparison.py --texts 100000`.

A tiny untrained model generates as many texts as there are real ones (the built-in reviews); everything runs in a
fresh process, whose peak, imports included, is what a user needs. The likelihood is of fewer texts, whose number is an
argument of `compare` too: mutual information takes every pair of them.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

from common import add_run_arguments, parse
from reporting import goal, write_results
from transformers import GPT2Config, GPT2LMHeadModel

from modeling_trace import TraceForConditionalGeneration
from modeling_trace.data import TraceProcessor, generate_reviews, train_tokenizer

SIZES = {
    "tiny": {"texts": 30, "likelihood_texts": 10},
    "small": {"texts": 10_000, "likelihood_texts": 1000},
    "gpt2": {"texts": 100_000, "likelihood_texts": 1000},
}
GIB = 2**30


def write_inputs(folder: Path, number: int) -> None:
    """A model, its processor, and a file of real texts."""
    texts = [review.text for review in generate_reviews(number)]
    tokenizer = train_tokenizer(texts[:2000], 1000)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 160}
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape, **ids))
    processor = TraceProcessor(tokenizer)
    TraceForConditionalGeneration.from_backbone(lm, processor).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    with open(folder / "texts.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def run(folder: str, number: int, likelihood_texts: int, batch_size: int, device: str, results) -> None:
    from text_metrics import process_peak

    from modeling_trace.evaluation import EvaluationSettings, compare

    settings = EvaluationSettings(
        num_samples=2,
        num_likelihood_texts=likelihood_texts,
        decoding=("top-k",),
        curve_temperatures=(),
        max_new_tokens=40,
        batch_size=batch_size,
        device=device,
    )
    imported = process_peak()
    start = time.perf_counter()
    compare(
        [f"{folder}/model"],
        f"{folder}/texts.jsonl",
        f"{folder}/report",
        settings=settings,
        validation_split=None,
        num_texts=number,
    )
    results.put((time.perf_counter() - start, imported, process_peak()))


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=10_000, help="real ones, and as many generated")
    parser.add_argument("--likelihood_texts", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=500)
    add_run_arguments(parser, rounds=1)
    arguments = parse(parser, argv, SIZES)
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), arguments.texts)
        context = multiprocessing.get_context("spawn")
        results = context.SimpleQueue()
        given = (folder, arguments.texts, arguments.likelihood_texts, arguments.batch_size, arguments.device, results)
        process = context.Process(target=run, args=given)
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"compare ended with {process.exitcode}")
        seconds, imported, peak = results.get()
    row = {"texts": arguments.texts, "seconds": seconds}
    row |= {"after the imports, GiB": imported and imported / GIB, "peak of the process, GiB": peak and peak / GIB}
    goals = [goal(f"compare, {arguments.texts:,} texts: peak of the process, GiB", peak and peak / GIB, 2)]
    return write_results("comparison", arguments, {"compare": [row]}, goals)


if __name__ == "__main__":
    main()
