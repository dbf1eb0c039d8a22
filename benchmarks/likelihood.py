"""
Time of the importance-weighted likelihood with n samples, as a ratio to n decoder passes over the same texts:
`python benchmarks/likelihood.py`.

A decoder pass scores the batch under one sample of its latents, which is given: no encoder, no draw. The two take
turns, so that whatever else the machine does hits both; medians over the rounds, and only the ratio is reported.
"""

import argparse
import statistics
import time

import torch
from systems import SYSTEMS, add_size_arguments, make_batch, make_model


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.no_grad()
def decoder_passes(model, ids: torch.Tensor, latents: torch.Tensor, samples: int) -> None:
    """log p(x | z) of every text, once per sample; the loss is the sum over texts, so nothing more is computed."""
    for _ in range(samples):
        model(ids, labels=ids, latents=latents, use_cache=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=[name for name in SYSTEMS if name != "gpt2"])
    parser.add_argument("--samples", type=int, default=100)
    add_size_arguments(parser, batch_size=4)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    print(f"| system | likelihood with n = {arguments.samples}, ratio to {arguments.samples} decoder passes | range |")
    print("| --- | --- | --- |")
    for system in arguments.systems:
        model = make_model(system, arguments).eval()
        ids = make_batch(model, arguments)
        latents = model.encode(ids).latents.detach()
        ratios = []
        for round_number in range(arguments.rounds + 1):
            passes = seconds(lambda: decoder_passes(model, ids, latents, arguments.samples))  # noqa: B023
            whole = seconds(lambda: model.log_likelihood(ids, num_samples=arguments.samples))  # noqa: B023
            if round_number:  # the first round warms up
                ratios.append(whole / passes)
        print(f"| {system} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |", flush=True)
    print(f"\n{arguments.batch_size} texts of {arguments.tokens} tokens, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
