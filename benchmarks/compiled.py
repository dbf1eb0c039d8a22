"""
What torch.compile saves in a training step and in generation, and what it costs: `python benchmarks/compiled.py`,
with `--size gpt2` for the size of GPT-2 small.

A training step is that of `training.py`, with the segment layout that TraceTrainer makes beside the collator, so that
the model is one graph. Generation is greedy, from BOS, with the backbone compiled for a cache of any length
(`model.backbone.compile(dynamic=True)`), which is where its time goes. A compiled model and its eager twin take turns.

First steps include compilation: of the length that was timed, then of other lengths, where the first of them compiles
for any length and the next should find it done.
"""

import argparse
import functools

import torch
from common import (
    PLAIN,
    SIZES,
    add_clock_argument,
    add_size_arguments,
    interleave,
    make_batch,
    make_model,
    parse,
    ratio,
    seconds,
    summary,
    training_step,
)
from generation import write
from reporting import write_results
from torch._inductor.utils import fresh_cache

from modeling_trace.models.segments_trace import make_layout

SYSTEMS = (PLAIN, "trace-r", "trace-p")
OWN = {
    # traced, not compiled: that takes minutes at any size
    "tiny": {"new_tokens": 6, "other_tokens": [25], "backend": "eager", "layers": 1, "tokens": 35},
    "small": {"new_tokens": 100, "other_tokens": [48, 72]},
    "gpt2": {"new_tokens": 100, "other_tokens": [48, 72]},
}


def make_step(model, callee, optimizer, arguments: argparse.Namespace, tokens: int):
    """A training step of `callee`, which is `model` or what torch.compile made of it, on texts of `tokens` tokens."""
    ids = make_batch(model, argparse.Namespace(**vars(arguments) | {"tokens": tokens}))
    inputs = {}
    if getattr(model, "has_latents", False):
        segments = model._segment_ids(ids, None, None)
        inputs["segment_layout"] = make_layout(segments, arguments.width)
    return lambda: training_step(callee, optimizer, ids, **inputs)


def measure_training(arguments: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    steps, calls, firsts = {}, {}, []

    def first(system, tokens):
        before, taken = graphs(), seconds(steps[system, "compiled"](tokens))
        firsts.append({"system": system, "tokens": tokens, "seconds": taken, "graphs": graphs() - before})

    for system in SYSTEMS:
        model = make_model(system, arguments)
        optimizer = torch.optim.AdamW(model.parameters())
        for name, callee in (("eager", model), ("compiled", torch.compile(model, backend=arguments.backend))):
            steps[system, name] = functools.partial(make_step, model, callee, optimizer, arguments)
            calls[system, name] = steps[system, name](arguments.tokens)
        first(system, arguments.tokens)
    # before other lengths: what is timed was compiled for this one
    taken = interleave(calls, arguments.rounds, arguments.clock)
    for system in SYSTEMS:
        for tokens in arguments.other_tokens:
            first(system, tokens)
    return compare(taken, SYSTEMS), firsts


def graphs() -> int:
    """How many graphs torch.compile has made so far."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def compare(taken: dict, systems) -> list[dict]:
    return [
        {
            "system": system,
            "eager, seconds": summary(taken[system, "eager"]),
            "compiled, seconds": summary(taken[system, "compiled"]),
            "compiled / eager": ratio(taken[system, "compiled"], taken[system, "eager"]),
            "eager, ratio to plain": ratio(taken[system, "eager"], taken[PLAIN, "eager"]),
            "compiled, ratio to plain": ratio(taken[system, "compiled"], taken[PLAIN, "compiled"]),
        }
        for system in systems
    ]


def measure_generation(arguments: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    systems, rows, firsts = (PLAIN, "trace-r"), [], []
    for many in (1, arguments.batch_size):
        calls = {}
        for system in systems:
            eager, compiled = (make_model(system, arguments).eval() for _ in range(2))
            backbone = compiled.base_model
            backbone.compile(backend=arguments.backend, dynamic=True)
            calls[system, "eager"] = lambda m=eager, n=many: write(m, n, arguments.new_tokens)
            calls[system, "compiled"] = lambda m=compiled, n=many: write(m, n, arguments.new_tokens)
            before = graphs()
            first = seconds(calls[system, "compiled"])
            firsts.append({"system": system, "batch": many, "seconds": first, "graphs": graphs() - before})
        taken = interleave(calls, arguments.rounds, arguments.clock)
        rows += [{"batch": many, **row} for row in compare(taken, systems)]
    return rows, firsts


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    add_size_arguments(parser)
    parser.add_argument("--other_tokens", type=int, nargs="+", default=[48, 72], help="of texts after the first ones")
    parser.add_argument("--new_tokens", type=int, default=100)
    add_clock_argument(parser)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    arguments = parse(parser, argv, {size: SIZES[size] | own for size, own in OWN.items()})
    torch._dynamo.config.recompile_limit = 64  # models of one class share their code, and so the limit of its graphs
    with fresh_cache():  # nothing that an earlier run compiled
        training, first_steps = measure_training(arguments)
        generation, first_texts = measure_generation(arguments)
    tables = {
        "Training step": training,
        "First steps, compilation included": first_steps,
        "Generation": generation,
        "First texts, compilation included": first_texts,
    }
    return write_results("compiled", arguments, tables)


if __name__ == "__main__":
    main()
