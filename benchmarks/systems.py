"""
Time of a training step of every system, as a ratio to the plain language model's: `python benchmarks/systems.py`.

The systems take turns on the same texts (forward, backward, AdamW), so that whatever else the machine does hits all of
them; medians over the rounds. Activations are what autograd keeps between forward and backward, in bytes, which no
allocator and no other process blurs.
"""

import argparse
import statistics
import time

import torch
from transformers import GPT2Config

from modeling_trace import TraceConfig, TraceForConditionalGeneration
from modeling_trace.data.presets import SYSTEMS

BOS, EOS, PAD, SEP = 0, 1, 2, 3


def add_size_arguments(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """What [`make_model`] and [`make_batch`] read."""
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument("--batch_size", type=int, default=batch_size)
    parser.add_argument("--tokens", type=int, default=60, help="of a text, [SEP] not counted")
    parser.add_argument("--segment_length", type=int, default=10)


def make_model(system: str, arguments: argparse.Namespace) -> TraceForConditionalGeneration:
    torch.manual_seed(0)
    backbone = GPT2Config(
        vocab_size=arguments.vocab_size,
        n_layer=arguments.layers,
        n_embd=arguments.width,
        n_head=4,
        n_positions=2 * arguments.tokens,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    settings = {"segment_length": arguments.segment_length, **SYSTEMS[system]}
    return TraceForConditionalGeneration(TraceConfig(backbone_config=backbone, sep_token_id=SEP, **settings)).train()


def make_batch(model, arguments: argparse.Namespace) -> torch.Tensor:
    """Random texts of the same number of tokens; [SEP] after each segment where the system has segments."""
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch_size, arguments.tokens)
    tokens = torch.randint(4, arguments.vocab_size, shape, generator=generator)
    if model.has_latents and not model.one_latent_per_text:
        pieces = tokens.split(arguments.segment_length, dim=1)
        sep = torch.full((arguments.batch_size, 1), SEP)
        tokens = torch.cat([part for piece in pieces for part in (piece, sep)][:-1], dim=1)
    start, end = (torch.full((arguments.batch_size, 1), token) for token in (BOS, EOS))
    return torch.cat([start, tokens, end], dim=1)


def step(model, optimizer, ids: torch.Tensor) -> float:
    """Seconds of one training step."""
    start = time.perf_counter()
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start


def saved_bytes(model, ids: torch.Tensor) -> int:
    """Bytes that autograd keeps between forward and backward, each storage once, the weights not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(ids, labels=ids).loss
    total = sum(storages.values())
    loss.backward()
    model.zero_grad()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=["gpt2", *(name for name in SYSTEMS if name != "gpt2")])
    add_size_arguments(parser, batch_size=32)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    models = {system: make_model(system, arguments) for system in arguments.systems}
    batches = {system: make_batch(model, arguments) for system, model in models.items()}
    optimizers = {system: torch.optim.AdamW(model.parameters()) for system, model in models.items()}
    seconds = {system: [] for system in models}
    for round_number in range(arguments.rounds + 1):
        for system in models:
            took = step(models[system], optimizers[system], batches[system])
            if round_number:  # the first round warms up
                seconds[system].append(took)
    first = arguments.systems[0]
    memory = {system: saved_bytes(models[system], batches[system]) for system in models}
    print(f"| system | step, ratio to {first} | range of the ratio | activations, ratio |")
    print("| --- | --- | --- | --- |")
    for system in models:
        ratios = [own / base for own, base in zip(seconds[system], seconds[first], strict=True)]
        print(
            f"| {system} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} "
            f"| {memory[system] / memory[first]:.2f} |"
        )
    print(f"\n{first}: median {statistics.median(seconds[first]):.3f} s, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
