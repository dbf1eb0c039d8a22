"""
Time, operations and memory of a training step against fine-tuning the plain language model:
`python benchmarks/training.py`, with `--size gpt2` for the size of GPT-2 small.

A step is forward, backward and AdamW, as in Fig. 2 of the paper by segment length. The plain language model is
Transformers' own GPT2LMHeadModel with its own loss, on the same texts without [SEP].

Operations are counted, not timed: two for each multiplication and addition of a matrix product, forward and backward,
by torch.utils.flop_counter, on the layers and latent networks of one text. The counter does not see
torch.nn.functional.linear_cross_entropy, so the head is added by hand for all systems alike: 6 * width * vocabulary
for every target token. AdamW, normalisation and activation functions are in nobody's count.

Memory is how far a first step raises it in a fresh process (gradients and AdamW's state included, weights not), and
what autograd keeps between forward and backward; both also without layers, where the head is nearly all that is left.
"""

import argparse

import torch
from common import (
    PLAIN,
    add_clock_argument,
    add_size_arguments,
    interleave,
    make_batch,
    make_model,
    parse,
    peak_bytes,
    ratio,
    saved_bytes,
    summary,
    training_step,
)
from reporting import goal, write_results
from torch.utils.flop_counter import FlopCounterMode

SYSTEMS = (PLAIN, "trace", "trace-r", "trace-p")


def count_body(model, ids: torch.Tensor) -> int:
    """Operations of forward and backward without the head, which is taken off the model."""
    model.lm_head = torch.nn.Identity()
    with FlopCounterMode(display=False) as counter:
        model(ids, use_cache=False).logits.sum().backward()
    return counter.get_total_flops()


def count_operations(system: str, arguments: argparse.Namespace, segment_length: int) -> dict[str, int]:
    """
    Floating-point operations of a training step on the batch: `body`, `head` and their sum, `total`; and `whole`, what
    the decoder and, for the paper's systems, two encoder passes over the whole text would take (without the latents).
    """
    one = argparse.Namespace(**vars(arguments) | {"batch_size": 1, "device": "cpu"})
    # eager attention is matrix products that the counter knows; every operation grows with the number of texts
    model = make_model(system, one, attn_implementation="eager")
    ids = make_batch(model, one, segment_length)
    targets = ids.shape[1] - 1
    body = arguments.batch_size * count_body(model, ids)
    head = arguments.batch_size * 6 * arguments.width * arguments.vocab_size * targets
    plain = make_model(PLAIN, one, attn_implementation="eager")
    passes = 1 if system in (PLAIN, "trace") else 3
    whole = arguments.batch_size * passes * count_body(plain, ids) + head
    return {"body": body, "head": head, "total": body + head, "whole": whole}


def prepare_step(system: str, arguments: argparse.Namespace):
    """A first training step, ready to be called: gradients and the optimizer's state are made in it."""
    model = make_model(system, arguments)
    ids = make_batch(model, arguments)
    optimizer = torch.optim.AdamW(model.parameters())
    return lambda: training_step(model, optimizer, ids)


def measure_times(arguments: argparse.Namespace) -> list[dict]:
    models = {system: make_model(system, arguments) for system in SYSTEMS}
    optimizers = {system: torch.optim.AdamW(model.parameters()) for system, model in models.items()}
    rows = []
    for length in arguments.segment_lengths:
        calls = {}
        for system, model in models.items():
            ids = make_batch(model, arguments, length)
            calls[system] = lambda m=model, o=optimizers[system], i=ids: training_step(m, o, i)
        taken = interleave(calls, arguments.rounds, arguments.clock)
        operations = {system: count_operations(system, arguments, length) for system in SYSTEMS}
        for system in SYSTEMS:
            times = ratio(taken[system], taken[PLAIN])
            done, whole = (operations[system][kind] / operations[PLAIN]["total"] for kind in ("total", "whole"))
            rows.append(
                {
                    "segment length": length,
                    "system": system,
                    "seconds": summary(taken[system]),
                    "time, ratio to plain": times,
                    "operations": operations[system]["total"],
                    "operations, ratio to plain": done,
                    "of three whole passes, ratio to plain": whole,
                    "time ratio / that of three whole passes": times["median"] / whole,
                    "time, ratio to trace-p": ratio(taken[system], taken["trace-p"]),
                }
            )
    return rows


def measure_memory(arguments: argparse.Namespace) -> list[dict]:
    """Of the whole model and of a model without layers, which is embeddings, latent networks and head alone."""
    rows = []
    for part, layers in (("whole model", arguments.layers), ("no layers", 0)):
        sized = vars(arguments) | {"vocab_size": arguments.memory_vocab_size, "layers": layers}
        sized = argparse.Namespace(**sized)
        measured = {}
        for system in (PLAIN, "trace", "trace-r"):
            if system == "trace" and not layers:
                continue  # its latents enter between layers
            peak = peak_bytes(prepare_step, system, sized, device=arguments.device)
            model = make_model(system, sized)
            measured[system] = {"peak": peak, "saved": saved_bytes(model, make_batch(model, sized))}
            del model
        for system, own in measured.items():
            row = {"part": part, "system": system}
            for kind, base in measured[PLAIN].items():
                row[f"{kind} bytes"] = own[kind]
                row[f"{kind}, ratio to plain"] = own[kind] / base if own[kind] and base else None
            rows.append(row)
    return rows


def make_goals(times: list[dict], memory: list[dict]) -> list[dict]:
    one_pass = [row for row in times if row["system"] == "trace"]
    goals = [
        goal(
            f"TRACE in one pass, step / plain step, segments of {row['segment length']}",
            row["time, ratio to plain"]["median"],
            1.25,
        )
        for row in one_pass
    ]
    own = [row for row in times if row["system"] == "trace-r"]
    goals += [
        goal(
            f"TRACE-R step / TRACE-P step, segments of {row['segment length']}",
            row["time, ratio to trace-p"]["median"],
            1.05,
        )
        for row in own
    ]
    goals += [
        goal(
            f"TRACE-R step / plain step / ratio of operations of whole passes, segments of {row['segment length']}",
            row["time ratio / that of three whole passes"],
            1.10,
        )
        for row in own
    ]
    goals += [
        goal(f"{row['system']}: peak memory of a step / plain, {row['part']}", row["peak, ratio to plain"], 1.3)
        for row in memory
        if row["system"] != PLAIN
    ]
    return goals


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    add_size_arguments(parser)
    add_clock_argument(parser)
    parser.add_argument("--segment_lengths", type=int, nargs="+", default=[1, 2, 5, 10, 20])
    parser.add_argument("--memory_vocab_size", type=int, default=50257, help="where memory is measured")
    arguments = parse(parser, argv)
    times, memory = measure_times(arguments), measure_memory(arguments)
    lines = {}
    for system in SYSTEMS:
        own = [row for row in times if row["system"] == system]
        lines[system] = [[row["segment length"] for row in own], [row["seconds"]["median"] for row in own]]
    plot = {"title": "Training step", "x": "segment length", "y": "seconds per step", "lines": lines}
    tables = {"Training step": times, f"Memory of a step, vocabulary {arguments.memory_vocab_size:,}": memory}
    return write_results("training", arguments, tables, make_goals(times, memory), plot)


if __name__ == "__main__":
    main()
