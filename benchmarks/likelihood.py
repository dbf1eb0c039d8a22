"""
Time of the likelihood with n samples, by importance weighting and by a particle filter, as a ratio to n decoder passes
over the same texts: `python benchmarks/likelihood.py`.

A decoder pass scores the batch under one sample of its latents, which is given: no encoder, no draw. All take
turns, so that whatever else the machine does hits them alike; medians over the rounds, and only ratios are reported.
"""

import argparse

import torch
from common import (
    SIZES,
    SYSTEMS,
    add_clock_argument,
    add_size_arguments,
    interleave,
    make_batch,
    make_model,
    parse,
    ratio,
)
from reporting import write_results

from modeling_trace.models.likelihood_trace import LIKELIHOOD_METHODS

OWN = {"tiny": {"samples": 2}, "small": {"batch_size": 4}, "gpt2": {"batch_size": 4, "samples": 20}}


@torch.no_grad()
def decoder_passes(model, ids: torch.Tensor, latents: torch.Tensor, samples: int) -> None:
    """log p(x | z) of every text, once per sample; the loss is the sum over texts, so nothing more is computed."""
    for _ in range(samples):
        model(ids, labels=ids, latents=latents, use_cache=False)


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", nargs="+", default=[name for name in SYSTEMS if name != "gpt2"])
    parser.add_argument("--samples", type=int, default=100)
    add_size_arguments(parser, batch_size=4, rounds=9)
    add_clock_argument(parser)
    arguments = parse(parser, argv, {size: SIZES[size] | own for size, own in OWN.items()}, default=None)
    samples = arguments.samples
    rows = []
    for system in arguments.systems:
        model = make_model(system, arguments).eval()
        ids = make_batch(model, arguments)
        latents = model.encode(ids).latents.detach()
        calls = {
            "passes": lambda: decoder_passes(model, ids, latents, samples),  # noqa: B023
            **{
                method: lambda method=method: model.log_likelihood(ids, num_samples=samples, method=method)  # noqa: B023
                for method in LIKELIHOOD_METHODS
            },
        }
        seconds = interleave(calls, arguments.rounds, arguments.clock)
        title = f"n = {samples}, ratio to {samples} decoder passes"
        own = {f"{method}, {title}": ratio(seconds[method], seconds["passes"]) for method in LIKELIHOOD_METHODS}
        rows.append({"system": system, **own})
    return write_results("likelihood", arguments, {"Likelihood": rows})


if __name__ == "__main__":
    main()
