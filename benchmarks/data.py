"""
Rate of `prepare_dataset` (tokenize, cut into segments, add BOS, [SEP] and EOS) as a ratio to `datasets.map` with the
same tokenizer alone, on the same texts: `python benchmarks/data.py`.

Contestants take turns, so that whatever else the machine does hits all of them; medians over the rounds of ratios
within a round. All read the same file and write their own, which is deleted after each call, so that none finds its
result in the cache; only the table of second calls leaves the file there. Sentences are found by NLTK's Punkt, fitted
beforehand: what the tokenizer with its offsets and Punkt take without this package is a contestant of its own.
"""

import argparse
import contextlib
import os
import tempfile
from pathlib import Path

import datasets
from common import add_run_arguments, interleave, parse, ratio, seconds, summary
from datasets import Dataset, load_from_disk
from reporting import goal, write_results

from modeling_trace.data import (
    FixedLengthSegmenter,
    SentenceSegmenter,
    TraceProcessor,
    generate_reviews,
    prepare_dataset,
    train_tokenizer,
)

SIZES = {
    "tiny": {"texts": 40, "vocab_size": 300, "rounds": 1},
    "small": {"texts": 20_000, "rounds": 7},
    "gpt2": {"texts": 100_000, "rounds": 5},
}
FIXED, SENTENCES, FLOOR = "segments of 10", "sentences", "tokenizer and Punkt"
CALLER = 0  # in place of a number of worker processes: the calling process, with the tokenizer's own threads


def remove_files(prepared: Dataset) -> None:
    for file in prepared.cache_files:
        Path(file["filename"]).unlink()


def make_calls(texts: Dataset, processors: dict[str, TraceProcessor], num_proc: int | None) -> dict:
    """Every contestant as a call that returns its data set."""
    tokenizer, sentences = processors[SENTENCES].tokenizer, processors[SENTENCES].segmenter

    def tokenize(batch):
        return tokenizer(batch["text"])

    def tokenize_and_split(batch):
        encoded = tokenizer(batch["text"], return_offsets_mapping=True)
        for text in batch["text"]:
            sentences.sentences(text)
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def map_by(function):
        return texts.map(function, batched=True, remove_columns=texts.column_names, num_proc=num_proc)

    calls = {"plain": lambda: map_by(tokenize)}
    for name, processor in processors.items():
        calls[name] = lambda processor=processor: prepare_dataset(texts, processor, num_proc=num_proc)
    if num_proc is None:  # slow, and the same with workers
        calls[FLOOR] = lambda: map_by(tokenize_and_split)
    return calls


@contextlib.contextmanager
def tokenizer_threads(num_proc: int | None):
    """The tokenizer's own threads with the calling process alone: workers that are forked off may not use them."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "true" if num_proc is None else "false"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=20_000, help="built-in reviews")
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument(
        "--num_procs", nargs="+", type=int, default=[CALLER, 1, 2], help="0: the calling process and its threads"
    )
    add_run_arguments(parser)
    arguments = parse(parser, argv, SIZES)
    datasets.disable_progress_bars()
    reviews = [review.text for review in generate_reviews(arguments.texts)]
    tokenizer = train_tokenizer(reviews, arguments.vocab_size)
    segmenters = {FIXED: FixedLengthSegmenter(10), SENTENCES: SentenceSegmenter()}
    SentenceSegmenter().fit(reviews[:10])  # imports NLTK
    fit = seconds(lambda: segmenters[SENTENCES].fit(reviews))
    processors = {
        name: TraceProcessor(tokenizer, segmenter, separator="token") for name, segmenter in segmenters.items()
    }
    rates, cache, goals = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        Dataset.from_dict({"text": reviews}).save_to_disk(folder)
        texts = load_from_disk(folder)
        for number in arguments.num_procs:
            num_proc = number or None
            calls = make_calls(texts, processors, num_proc)
            with tokenizer_threads(num_proc):
                taken = interleave(
                    {name: lambda call=call: remove_files(call()) for name, call in calls.items()}, arguments.rounds
                )
            for name, base in ((FIXED, "plain"), (SENTENCES, "plain"), (SENTENCES, FLOOR)):
                if base not in taken:
                    continue
                rates.append(
                    {
                        "task": name,
                        "base": base,
                        "worker processes": number,
                        "texts per second": summary([len(texts) / one for one in taken[name]]),
                        "of the base": summary([len(texts) / one for one in taken[base]]),
                        "time / base": ratio(taken[name], taken[base]),
                    }
                )
            title = f"{FIXED}, {f'num_proc {number}' if number else 'calling process'}: time / plain tokenization"
            goals.append(goal(title, ratio(taken[FIXED], taken["plain"])["median"], 1.3))
        calls = make_calls(texts, processors, None)
        for name in (FIXED, SENTENCES):
            with tokenizer_threads(None):
                first = seconds(calls[name])
                second = [seconds(calls[name]) for _ in range(arguments.rounds)]
            cache.append(
                {"task": name, "first call, seconds": first, "second, seconds": summary(second)}
                | {"second / first": summary([one / first for one in second])}
            )
            title = f"{name}, from the cache: second call / first"
            goals.append(goal(title, cache[-1]["second / first"]["median"], 0.1))
    tables = {
        "Rates": rates,
        "Cache": cache,
        "Punkt": [{"task": "fit, once, to a million characters", "seconds": fit}],
    }
    return write_results("data", arguments, tables, goals)


if __name__ == "__main__":
    main()
