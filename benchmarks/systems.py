"""
Time of a training step of every system, as a ratio to the plain language model's: `python benchmarks/systems.py`.

The systems take turns on the same texts (forward, backward, AdamW), so that whatever else the machine does hits all of
them; medians over the rounds. Activations are what autograd keeps between forward and backward, in bytes, which no
allocator and no other process blurs.
"""

import argparse

import torch
from common import (
    SYSTEMS,
    add_size_arguments,
    interleave,
    make_batch,
    make_model,
    parse,
    ratio,
    saved_bytes,
    summary,
    training_step,
)
from reporting import write_results


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", nargs="+", default=["gpt2", *(name for name in SYSTEMS if name != "gpt2")])
    add_size_arguments(parser, rounds=11)
    arguments = parse(parser, argv, default=None)
    models = {system: make_model(system, arguments) for system in arguments.systems}
    batches = {system: make_batch(model, arguments) for system, model in models.items()}
    optimizers = {system: torch.optim.AdamW(model.parameters()) for system, model in models.items()}
    calls = {
        system: lambda m=model, o=optimizers[system], i=batches[system]: training_step(m, o, i)
        for system, model in models.items()
    }
    seconds = interleave(calls, arguments.rounds)
    first = arguments.systems[0]
    memory = {system: saved_bytes(models[system], batches[system]) for system in models}
    rows = [
        {
            "system": system,
            "seconds": summary(seconds[system]),
            f"step, ratio to {first}": ratio(seconds[system], seconds[first]),
            "activations, bytes": memory[system],
            f"activations, ratio to {first}": memory[system] / memory[first],
        }
        for system in models
    ]
    return write_results("systems", arguments, {"Training step": rows})


if __name__ == "__main__":
    main()
