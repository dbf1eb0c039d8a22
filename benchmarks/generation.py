"""
Speed and memory of generation against the same backbone's own `generate()`: `python benchmarks/generation.py`, with
`--size gpt2` for the size of GPT-2 small.

Greedy decoding from BOS to a fixed number of new tokens, [SEP] counted as a token. Segments of varying length follow a
schedule that closes each row at other places, by [SEP] in every model; the plain language model writes the same ids at
the same places, so that all pay for the schedule. Caches are counted in bytes at the end of a text.
"""

import argparse

import torch
from common import (
    BOS,
    PLAIN,
    SEP,
    SIZES,
    add_clock_argument,
    add_size_arguments,
    interleave,
    make_model,
    parse,
    ratio,
    summary,
)
from reporting import goal, write_results
from transformers import LogitsProcessor, LogitsProcessorList

OWN = {
    "tiny": {"new_tokens": 12, "long_tokens": 40, "beams": 2},
    "small": {"new_tokens": 100, "long_tokens": 1000, "beams": 10},
    "gpt2": {"new_tokens": 100, "long_tokens": 1000, "beams": 10, "batch_size": 32, "rounds": 3},
}


class ScheduledSegments(LogitsProcessor):
    """
    Writes [SEP] where `schedule` says so and nowhere else.

    Args:
        schedule (`torch.BoolTensor` of shape `(rows, new_tokens)`): where a row's new token is [SEP].
    """

    def __init__(self, schedule: torch.BoolTensor):
        self.schedule = schedule

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        closes = self.schedule[:, input_ids.shape[1] - 1]  # the prompt is BOS
        highest = torch.finfo(scores.dtype).max
        scores[:, SEP] = torch.where(closes, highest, -highest)
        return scores


def make_schedule(rows: int, new_tokens: int, least: int = 5, greatest: int = 15) -> torch.BoolTensor:
    """Segments of `least` to `greatest` tokens, of other lengths in every row."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(least, greatest + 1, (rows, new_tokens), generator=generator)
    ends = (lengths + 1).cumsum(dim=1) - 1
    schedule = torch.zeros(rows, int(ends.max()) + 1, dtype=torch.bool)
    return schedule.scatter_(1, ends, True)[:, :new_tokens]


@torch.no_grad()
def write(model, rows: int, new_tokens: int, schedule: torch.BoolTensor | None = None, **settings):
    """One call of `generate()` for texts of exactly `new_tokens` tokens; `settings` are generate()'s own."""
    ids = torch.full((rows, 1), BOS, device=model.device)
    if schedule is not None:
        settings["logits_processor"] = LogitsProcessorList([ScheduledSegments(schedule.to(model.device))])
        if hasattr(model, "has_latents") and model.config.separator == "token":
            settings["min_segment_length"] = 1  # the schedule closes segments, not a fixed length
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        **settings,
    )


def cache_bytes(cache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def count_caches(model, rows: int, new_tokens: int) -> dict[str, int]:
    """Bytes of keys and values at the end of a text, by pass."""
    cache = write(model, rows, new_tokens, return_dict_in_generate=True)["cache"]
    return {"decoder": cache_bytes(cache), "encoder": cache_bytes(cache.encoder)}


def measure_speed(models: dict, varying: dict, arguments: argparse.Namespace) -> list[dict]:
    new, many = arguments.new_tokens, arguments.batch_size
    schedule = make_schedule(many, new)
    cases = {
        "fixed segments, batch 1": (0.92, models, 1, {}),
        f"fixed segments, batch {many}": (0.92, models, many, {}),
        f"segments of varying length, batch {many}": (0.88, varying, many, {"schedule": schedule}),
    }
    rows = []
    for case, (limit, contestants, size, settings) in cases.items():
        calls = {
            system: lambda m=model, s=size, k=settings: write(m, s, new, **k)  # noqa: B023
            for system, model in contestants.items()
        }
        taken = interleave(calls, arguments.rounds, arguments.clock)
        for system in contestants:
            rows.append(
                {
                    "case": case,
                    "system": system,
                    "seconds": summary(taken[system]),
                    "tokens per second": summary([size * new / one for one in taken[system]]),
                    "speed, ratio to plain": ratio(taken[PLAIN], taken[system]),
                    "limit": limit,
                }
            )
    return rows


def measure_lengths(models: dict, arguments: argparse.Namespace) -> list[dict]:
    """Batch 1, by number of tokens."""
    long = arguments.long_tokens
    lengths = [long // 10, long // 4, long // 2, long]
    calls = {
        (system, length): lambda m=model, n=length: write(m, 1, n)
        for system, model in models.items()
        for length in lengths
    }
    taken = interleave(calls, arguments.rounds, arguments.clock)
    return [
        {
            "system": system,
            "tokens": length,
            "seconds": summary(taken[system, length]),
            "per token, ratio to the shortest": ratio(
                [one / length for one in taken[system, length]],
                [one / lengths[0] for one in taken[system, lengths[0]]],
            ),
        }
        for system, length in calls
    ]


def measure_beams(models: dict, arguments: argparse.Namespace) -> list[dict]:
    beams = {"num_beams": arguments.beams}
    calls = {s: lambda m=m: write(m, 1, arguments.new_tokens, **beams) for s, m in models.items()}
    taken = interleave(calls, arguments.rounds, arguments.clock)
    return [
        {
            "system": system,
            "beams": arguments.beams,
            "seconds": summary(taken[system]),
            "time, ratio to plain": ratio(taken[system], taken[PLAIN]),
        }
        for system in models
    ]


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    add_size_arguments(parser)
    add_clock_argument(parser)
    parser.add_argument("--new_tokens", type=int, default=100)
    parser.add_argument("--long_tokens", type=int, default=1000, help="at least 10, at most the context of 1,024")
    parser.add_argument("--beams", type=int, default=10)
    arguments = parse(parser, argv, {size: SIZES[size] | own for size, own in OWN.items()})
    systems = (PLAIN, "trace", "trace-r")
    models = {system: make_model(system, arguments).eval() for system in systems}
    varying = {system: make_model(system, arguments, separator="token").eval() for system in systems}
    speed = measure_speed(models, varying, arguments)
    lengths = measure_lengths(models, arguments)
    beams = measure_beams(models, arguments)
    counted = count_caches(models["trace-r"], 1, arguments.long_tokens)
    caches = [{"tokens": arguments.long_tokens, "pass": name, "bytes": size} for name, size in counted.items()]
    goals = [
        goal(
            f"TRACE in one pass, tokens per second / plain, {row['case']}",
            row["speed, ratio to plain"]["median"],
            row["limit"],
            True,
        )
        for row in speed
        if row["system"] == "trace"
    ]
    own = [row for row in lengths if row["system"] == "trace"]
    text = f"TRACE in one pass, time of {own[-1]['tokens']:,} tokens / 10 times that of {own[0]['tokens']:,}"
    goals += [
        goal(text, own[-1]["per token, ratio to the shortest"]["median"], 1.5),
        goal("TRACE-R: bytes of the encoder cache / decoder cache", counted["encoder"] / counted["decoder"], 1.0),
        goal(
            f"TRACE in one pass, {arguments.beams} beams / plain {arguments.beams} beams",
            beams[1]["time, ratio to plain"]["median"],
            1.12,
        ),
    ]
    lines = {}
    for system in models:
        shown = [row for row in lengths if row["system"] == system]
        lines[system] = [[row["tokens"] for row in shown], [row["seconds"]["median"] for row in shown]]
    plot = {"title": "Generation, batch 1", "x": "new tokens", "y": "seconds", "lines": lines}
    for row in speed:
        del row["limit"]
    tables = {"Speed": speed, "Length, batch 1": lengths, "Beam search, batch 1": beams, "Caches, batch 1": caches}
    return write_results("generation", arguments, tables, goals, plot)


if __name__ == "__main__":
    main()
