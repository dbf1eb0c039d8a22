"""
Speed and memory of the text metrics against nltk, fast-bleu and Python sets: `python benchmarks/text_metrics.py`.

Texts are drawn from a Zipf law. Contestants take turns, so that whatever else the machine does hits all of them;
medians over the rounds. Values are compared, too: a fast metric that is another metric is not fast. Peak memory is
what the task allocates (tracemalloc, in a run of its own, for it slows), and what the process, with all its imports,
held.
"""

import argparse
import multiprocessing
import time
import tracemalloc
from itertools import combinations

import numpy as np
from common import add_run_arguments, interleave, parse, ratio, summary
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from reporting import goal, write_results

from modeling_trace.evaluation import jaccard_similarity, metric_interval, self_bleu

SIZES = {
    "tiny": {"words": 20, "texts": 50, "large": 50, "rounds": 1},
    "small": {"words": 80, "texts": 1000, "large": 10_000, "rounds": 3},
    "gpt2": {"words": 80, "texts": 1000, "large": 10_000, "rounds": 5},
}


def draw_texts(number: int, words: int, vocabulary: int = 20_000, exponent: float = 1.05, seed: int = 0) -> list[str]:
    """Texts whose lengths vary by a fourth around `words`, each word drawn from a Zipf law."""
    generator = np.random.default_rng(seed)
    chances = np.arange(1, vocabulary + 1) ** -exponent
    lengths = generator.integers(words - words // 4, words + words // 4 + 1, size=number)
    drawn = iter(generator.choice(vocabulary, size=lengths.sum(), p=chances / chances.sum()).tolist())
    return [" ".join(f"w{next(drawn)}" for _ in range(length)) for length in lengths]


def nltk_self_bleu(texts: list[str]) -> float:
    smoothing = SmoothingFunction().method1
    split = [text.split() for text in texts]
    scores = [
        sentence_bleu(split[:i] + split[i + 1 :], own, smoothing_function=smoothing) for i, own in enumerate(split)
    ]
    return 100 * float(np.mean(scores))


def fast_bleu_self_bleu(texts: list[str]) -> float:
    from fast_bleu import SelfBLEU

    scores = SelfBLEU([text.split() for text in texts], {"bleu": (0.25,) * 4}).get_score()["bleu"]
    return 100 * float(np.mean(scores))


def sets_jaccard(texts: list[str]) -> float:
    total = 0.0
    for n in (2, 3, 4):
        sets = []
        for text in texts:
            words = text.split()
            sets.append({tuple(words[i : i + n]) for i in range(len(words) - n + 1)})
        for one, two in combinations(sets, 2):
            common = len(one & two)
            total += common / (len(one) + len(two) - common) if common else 0.0
    return 100 * total / (3 * len(texts) * (len(texts) - 1) / 2)


def race(title: str, ours, theirs, texts: list[str], rounds: int) -> dict:
    values = {}

    def call(function):
        values[function] = function(texts)

    seconds = interleave({"ours": lambda: call(ours), "theirs": lambda: call(theirs)}, rounds)
    return {
        "task": title,
        "ours, seconds": summary(seconds["ours"]),
        "theirs, seconds": summary(seconds["theirs"]),
        "theirs / ours": ratio(seconds["theirs"], seconds["ours"]),
        "difference of the values": abs(values[ours] - values[theirs]),
    }


def process_peak() -> int | None:
    """Peak memory of this process in bytes; not ru_maxrss, which a child inherits from its parent."""
    try:
        with open("/proc/self/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except OSError:
        return None


def measure(name: str, number: int, words: int, results) -> None:
    function = {
        "self_bleu": self_bleu,
        "jaccard_similarity": jaccard_similarity,
        "interval of self_bleu": lambda texts: metric_interval("self_bleu", texts).value,
        "interval of distinct_n": lambda texts: metric_interval("distinct_n", texts).value,
    }[name]
    texts = draw_texts(number, words)
    function(texts[:20])
    start = time.perf_counter()
    value = function(texts)
    seconds, held = time.perf_counter() - start, process_peak()
    tracemalloc.start()
    function(texts)
    results.put((seconds, tracemalloc.get_traced_memory()[1], held, value))


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=80, help="of a text, on average")
    parser.add_argument("--texts", type=int, default=1000, help="of the races; nltk gets a fifth of them")
    parser.add_argument("--large", type=int, default=10_000, help="texts of the runs for memory")
    add_run_arguments(parser, rounds=3)
    arguments = parse(parser, argv, SIZES)
    texts = draw_texts(arguments.texts, arguments.words)
    few = texts[: arguments.texts // 5]
    tasks = [
        (f"Self-BLEU, N = {len(few):,}, nltk", self_bleu, nltk_self_bleu, few, 500),
        (f"Self-BLEU, N = {len(texts):,}, fast-bleu", self_bleu, fast_bleu_self_bleu, texts, 20),
        (f"Jaccard, N = {len(texts):,}, Python sets", jaccard_similarity, sets_jaccard, texts, 30),
    ]
    rows, goals = [], []
    for title, ours, theirs, own_texts, limit in tasks:
        try:
            rows.append(race(title, ours, theirs, own_texts, arguments.rounds))
        except ImportError as error:
            print(f"{title}: skipped, {error} (pip install fast-bleu)")
            goals.append(goal(f"{title}: theirs / ours", None, limit, at_least=True))
        else:
            goals.append(goal(f"{title}: theirs / ours", rows[-1]["theirs / ours"]["median"], limit, at_least=True))
    memory = []
    context = multiprocessing.get_context("spawn")
    for name in ("self_bleu", "jaccard_similarity", "interval of self_bleu", "interval of distinct_n"):
        results = context.SimpleQueue()
        process = context.Process(target=measure, args=(name, arguments.large, arguments.words, results))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name} ended with {process.exitcode}")
        names = ("seconds", "peak bytes of the task", "peak bytes of the process", "value")
        memory.append({"task": name, **dict(zip(names, results.get(), strict=True))})
    tables = {"Speed": rows, f"Memory, N = {arguments.large:,}": memory}
    return write_results("text_metrics", arguments, tables, goals)


if __name__ == "__main__":
    main()
