"""
Speed and memory of the text metrics against nltk, fast-bleu and Python sets: `python benchmarks/text_metrics.py`.

Texts are drawn from a Zipf law. Contestants take turns, so that whatever else the machine does hits all of them;
medians over the rounds. Values are compared, too: a fast metric that is another metric is not fast. Peak memory is
what the task allocates (tracemalloc, in a run of its own, for it slows), and what the process, with all its imports,
held.
"""

import argparse
import multiprocessing
import os
import statistics
import time
import tracemalloc
from itertools import combinations

import numpy as np
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from modeling_trace.evaluation import jaccard_similarity, metric_interval, self_bleu


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


def race(title: str, ours, theirs, texts: list[str], rounds: int, goal: float) -> None:
    seconds, values = {ours: [], theirs: []}, {}
    ours(texts[:20])  # imports and first use
    for _ in range(rounds):
        for function in (ours, theirs):
            start = time.perf_counter()
            values[function] = function(texts)
            seconds[function].append(time.perf_counter() - start)
    own, other = (statistics.median(seconds[function]) for function in (ours, theirs))
    ratios = [slow / fast for fast, slow in zip(seconds[ours], seconds[theirs], strict=True)]
    print(
        f"| {title} | {own:.3f} s | {other:.2f} s | {statistics.median(ratios):.0f} "
        f"({min(ratios):.0f} to {max(ratios):.0f}) | {goal:.0f} | {abs(values[ours] - values[theirs]):.1e} |",
        flush=True,
    )


def process_peak() -> str:
    """Peak memory of this process; not ru_maxrss, which a child inherits from its parent."""
    try:
        with open("/proc/self/status") as status:
            return next(f"{int(line.split()[1]) / 1e6:.2f} GB" for line in status if line.startswith("VmHWM"))
    except OSError:
        return "unknown"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--words", type=int, default=80, help="of a text, on average")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=10_000, help="texts of the runs for memory")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, texts of {arguments.words} words\n")
    print("| task | ours | theirs | ratio, median and range | goal | difference of the values |")
    print("| --- | --- | --- | --- | --- | --- |")
    texts = draw_texts(1000, arguments.words)
    race("Self-BLEU, N = 200, nltk", self_bleu, nltk_self_bleu, texts[:200], arguments.rounds, 500)
    try:
        import fast_bleu  # noqa: F401
    except ImportError as error:
        print(f"| Self-BLEU, N = 1,000, fast-bleu | skipped: {error} (pip install fast-bleu) | | | 20 | |")
    else:
        race("Self-BLEU, N = 1,000, fast-bleu", self_bleu, fast_bleu_self_bleu, texts, arguments.rounds, 20)
    race("Jaccard, N = 1,000, Python sets", jaccard_similarity, sets_jaccard, texts, arguments.rounds, 30)
    print(f"\n| task, N = {arguments.large:,} | time | peak memory of the task | of the process | value |")
    print("| --- | --- | --- | --- | --- |")
    context = multiprocessing.get_context("spawn")
    for name in ("self_bleu", "jaccard_similarity", "interval of self_bleu", "interval of distinct_n"):
        results = context.SimpleQueue()
        process = context.Process(target=measure, args=(name, arguments.large, arguments.words, results))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name} ended with {process.exitcode}")
        seconds, peak, held, value = results.get()
        print(f"| {name} | {seconds:.2f} s | {peak / 1e9:.2f} GB | {held} | {value:.3f} |", flush=True)


if __name__ == "__main__":
    main()
