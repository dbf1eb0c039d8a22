"""
Time and memory of a training step on long texts against short ones, and what lowers them:
`python benchmarks/long_texts.py`.

Batches of all lengths have about the same number of tokens (BOS, [SEP] and EOS counted, as `--max_length` counts), and
all contestants read the same ones. What a step costs more on longer texts is then attention, which grows with the
square of the length. The plain language model is Transformers' own GPT2LMHeadModel.

GPT-2 drops attention weights out (0.1), most later models do not; both are measured. Peak memory is taken as in
training.py. Checkpointing is measured on the first of the long lengths.

Length grouping is that of `--train_sampling_strategy group_by_length`, over texts of log-normal lengths, by TRACE-R
without dropout of attention weights. Padding is counted over a whole pass; what is timed are steps on some batches of
it, the same quantiles of either pass by length.
"""

import argparse
import math
from typing import NamedTuple

import torch
from common import (
    BOS,
    EOS,
    PAD,
    PLAIN,
    SEP,
    SIZES,
    add_clock_argument,
    add_size_arguments,
    interleave,
    make_model,
    parse,
    peak_bytes,
    ratio,
    summary,
    training_step,
)
from reporting import goal, write_results
from torch.utils.data import BatchSampler, RandomSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

OWN = {
    "tiny": {"long_lengths": [16, 24], "num_texts": 40, "texts_per_batch": 4, "timed_batches": 2},
    "small": {},
    "gpt2": {"batch_size": 32},  # 8 texts of 96 tokens have fewer than one of 1,024
}
DROPOUTS = (0.1, 0.0)  # of attention weights: GPT-2's own, and none


class Case(NamedTuple):
    """What is measured; attention dropout is that of the backbone."""

    system: str
    dropout: float
    checkpointing: bool
    length: int


def make_ids(num_rows: int, length: int, arguments: argparse.Namespace) -> torch.Tensor:
    """Random texts with [SEP] after each segment, `(num_rows, length)`, for all systems alike."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, arguments.vocab_size, (num_rows, length), generator=generator)
    period = arguments.segment_length + 1
    ids[:, period::period] = SEP
    ids[:, 0], ids[:, -1] = BOS, EOS
    return ids.to(arguments.device)


def batch_size(length: int, arguments: argparse.Namespace) -> int:
    """Texts of that length that have as many tokens as `--batch_size` texts of `--tokens`."""
    return max(1, round(arguments.batch_size * arguments.tokens / length))


def make_trained(case: Case, arguments: argparse.Namespace) -> tuple:
    """Model and optimizer; the same for all lengths."""
    longest = max(arguments.tokens, *arguments.long_lengths)
    model = make_model(case.system, arguments, attn_pdrop=case.dropout, n_positions=longest)
    if case.checkpointing:
        model.activation_checkpointing_enable()  # as `--activation_checkpointing true` does
    return model, torch.optim.AdamW(model.parameters())


def prepare_step(case: Case, arguments: argparse.Namespace, trained: tuple | None = None):
    """A training step, ready to be called; the first makes gradients and the optimizer's state."""
    trained = trained or make_trained(case, arguments)
    ids = make_ids(batch_size(case.length, arguments), case.length, arguments)
    return lambda: training_step(*trained, ids)


def measure_lengths(arguments: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """Rows by system, dropout and length; rows with checkpointing against the same without."""
    short, long = arguments.tokens, arguments.long_lengths[0]
    cases = [
        Case(system, dropout, False, length)
        for dropout in DROPOUTS
        for system in (PLAIN, "trace-r")
        for length in (short, *arguments.long_lengths)
    ]
    cases += [Case("trace-r", dropout, True, long) for dropout in DROPOUTS]
    trained = {case[:3]: make_trained(case, arguments) for case in cases if case.length == long}
    calls = {case: prepare_step(case, arguments, trained[case[:3]]) for case in cases}
    taken = interleave(calls, arguments.rounds, arguments.clock)
    peaks = {case: peak_bytes(prepare_step, case, arguments, device=arguments.device) for case in cases}
    rows, checkpointed = [], []
    for case in cases:
        base, name = case._replace(length=short), f"ratio to {short} tokens"
        if case.checkpointing:
            base, name = case._replace(checkpointing=False), "ratio to without checkpointing"
        per_token = [
            [value / (one.length * batch_size(one.length, arguments)) for value in taken[one]] for one in (case, base)
        ]
        row = {
            "system": case.system,
            "attention dropout": case.dropout,
            "tokens of a text": case.length,
            "texts": batch_size(case.length, arguments),
            "seconds": summary(taken[case]),
            f"time per token, {name}": ratio(*per_token),
            "peak bytes": peaks[case],
            f"peak, {name}": peaks[case] / peaks[base] if peaks[case] and peaks[base] else None,
        }
        (checkpointed if case.checkpointing else rows).append(row)
    return rows, checkpointed


def draw_lengths(arguments: argparse.Namespace) -> list[int]:
    """Log-normal: half of them below an eighth of the context, one in twenty above 3.7 times that."""
    longest = max(arguments.long_lengths)
    lengths = torch.empty(arguments.num_texts)
    lengths.log_normal_(math.log(longest / 8), 0.8, generator=torch.Generator().manual_seed(0))
    return lengths.round().clamp(2, longest).int().tolist()


def padded(lengths: list[int], arguments: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and attention mask of a batch of texts of these lengths."""
    ids = make_ids(len(lengths), max(lengths), arguments)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(ids)
    return ids.masked_fill(mask == 0, PAD), mask


def padding(batches: list[list[int]]) -> float:
    """Share of padding in batches of texts of these lengths."""
    return 1 - sum(map(sum, batches)) / sum(len(batch) * max(batch) for batch in batches)


def measure_grouping(arguments: argparse.Namespace) -> list[dict]:
    lengths = draw_lengths(arguments)
    generator = torch.Generator().manual_seed(0)
    samplers = {
        "random": RandomSampler(lengths, generator=generator),
        "group_by_length": LengthGroupedSampler(arguments.texts_per_batch, lengths=lengths, generator=generator),
    }
    trained = make_trained(Case("trace-r", 0.0, False, 0), arguments)
    passes, timed, calls = {}, {}, {}
    for name, sampler in samplers.items():
        batches = BatchSampler(sampler, arguments.texts_per_batch, drop_last=True)
        passes[name] = sorted([[lengths[index] for index in batch] for batch in batches], key=max)
        parts = 2 * arguments.timed_batches
        timed[name] = [passes[name][part * len(passes[name]) // parts] for part in range(1, parts, 2)]
        inputs = [padded(batch, arguments) for batch in timed[name]]
        calls[name] = lambda i=inputs: [training_step(*trained, *one) for one in i]
    taken = interleave(calls, arguments.rounds, arguments.clock)
    per_token = {name: [value / sum(map(sum, timed[name])) for value in taken[name]] for name in samplers}
    return [
        {
            "batches": name,
            "padding": padding(passes[name]),
            "padding of what was timed": padding(timed[name]),
            "seconds per real token": summary(per_token[name]),
            "ratio to random": ratio(per_token[name], per_token["random"]),
        }
        for name in samplers
    ]


def make_goals(rows: list[dict], arguments: argparse.Namespace) -> list[dict]:
    short, long = arguments.tokens, arguments.long_lengths[0]
    goals = []
    for row in rows:
        if row["system"] == "trace-r" and row["tokens of a text"] == long:
            what = f"{long} tokens / {short}, attention dropout {row['attention dropout']:g}"
            per_token = row[f"time per token, ratio to {short} tokens"]["median"]
            goals.append(goal(f"TRACE-R time per token, {what}", per_token, 1.6))
            goals.append(goal(f"TRACE-R peak memory, {what}", row[f"peak, ratio to {short} tokens"], 1.6))
    return goals


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    add_size_arguments(parser, rounds=3)
    parser.add_argument("--long_lengths", type=int, nargs="+", default=[750, 1024], help="the last: the context")
    parser.add_argument("--num_texts", type=int, default=10_000, help="of unequal lengths")
    parser.add_argument("--texts_per_batch", type=int, default=8, help="of unequal lengths")
    parser.add_argument("--timed_batches", type=int, default=8)
    add_clock_argument(parser)
    arguments = parse(parser, argv, {size: SIZES[size] | own for size, own in OWN.items()})
    rows, checkpointed = measure_lengths(arguments)
    grouping = measure_grouping(arguments)
    lines = {}
    y = f"time per token, ratio to {arguments.tokens} tokens"
    for row in rows:
        line = lines.setdefault(f"{row['system']}, attention dropout {row['attention dropout']:g}", [[], []])
        line[0].append(row["tokens of a text"])
        line[1].append(row[y]["median"])
    plot = {"title": "Training step", "x": "tokens of a text", "y": y, "lines": lines}
    tables = {"Long texts": rows, "Gradient checkpointing": checkpointed, "Length grouping": grouping}
    return write_results("long_texts", arguments, tables, make_goals(rows, arguments), plot)


if __name__ == "__main__":
    main()
