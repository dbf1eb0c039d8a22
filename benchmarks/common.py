"""
What the benchmarks share: models and texts of a size, calls that take turns, and memory. The benchmarks themselves are
run one by one, or all by `python benchmarks/run_all.py`.

Times are compared within a round only, and the report is the median over rounds with its range, so that whatever else
the machine does hits all contestants.
"""

import argparse
import multiprocessing
import statistics
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from modeling_trace import TraceConfig, TraceForConditionalGeneration
from modeling_trace.presets import SYSTEMS

BOS, EOS, PAD, SEP = 0, 1, 2, 3
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
PLAIN = "plain LM"  # Transformers' own GPT2LMHeadModel
# A small vocabulary makes "small" a hard case: most of its time is in the layers, of which the paper's TRACE runs
# three times as many. "gpt2" is GPT-2 small.
SIZES = {
    "tiny": {"layers": 2, "width": 32, "heads": 2, "vocab_size": 64, "batch_size": 2, "tokens": 12, "rounds": 1},
    "small": {"layers": 4, "width": 256, "heads": 4, "vocab_size": 4096, "batch_size": 32, "tokens": 96, "rounds": 7},
    "gpt2": {"layers": 12, "width": 768, "heads": 12, "vocab_size": 50257, "batch_size": 8, "tokens": 96, "rounds": 5},
}


def add_size_arguments(parser: argparse.ArgumentParser, batch_size: int = 32, rounds: int = 7) -> None:
    """What [`make_model`] and [`make_batch`] read, and where results go."""
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument("--batch_size", type=int, default=batch_size)
    parser.add_argument("--tokens", type=int, default=60, help="of a text, [SEP] not counted")
    parser.add_argument("--segment_length", type=int, default=10)
    add_run_arguments(parser, rounds)


def add_run_arguments(parser: argparse.ArgumentParser, rounds: int = 7) -> None:
    parser.add_argument("--rounds", type=int, default=rounds, help="one more comes first, to warm up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", default=str(Path(__file__).parent / "results"), help="folder of the results")


def add_clock_argument(parser: argparse.ArgumentParser) -> None:
    clocks = "processor: of this process alone, for one thread on a machine that others use too; not for a GPU"
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help=clocks)


def parse(parser: argparse.ArgumentParser, argv=None, sizes=SIZES, default: str | None = "small"):
    """Parse `argv`; `--size` sets the defaults of the sizes that are not given one by one."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--size", choices=list(sizes), default=default, help="a name for all sizes at once")
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--size", choices=list(sizes), default=default)
    parser.set_defaults(**sizes.get(early.parse_known_args(argv)[0].size, {}))
    return parser.parse_args(argv)


def backbone_config(arguments: argparse.Namespace, **settings) -> GPT2Config:
    shape = {
        "vocab_size": arguments.vocab_size,
        "n_layer": arguments.layers,
        "n_embd": arguments.width,
        "n_head": arguments.heads,
        "n_positions": max(1024, 2 * arguments.tokens + 2),  # segments of one token have as many [SEP]
    }
    return GPT2Config(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, **shape | settings)


def make_model(system: str, arguments: argparse.Namespace, separator: str | None = None, **settings):
    """A system of `--system`, or [`PLAIN`], untrained, in training mode. `settings` are the backbone's."""
    torch.manual_seed(0)
    backbone = backbone_config(arguments, **settings)
    if system == PLAIN:
        return GPT2LMHeadModel(backbone).to(arguments.device).train()
    config = {"segment_length": arguments.segment_length, "sep_token_id": SEP, **SYSTEMS[system].model}
    if separator is not None:
        config["separator"] = separator
    model = TraceForConditionalGeneration(TraceConfig(backbone_config=backbone, **config))
    return model.to(arguments.device).train()


def make_batch(model, arguments: argparse.Namespace, segment_length: int | None = None) -> torch.Tensor:
    """Random texts of the same number of tokens; [SEP] after each segment where the system has segments."""
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch_size, arguments.tokens)
    tokens = torch.randint(4, arguments.vocab_size, shape, generator=generator)
    segments = getattr(model, "has_latents", False) and not model.one_latent_per_text
    if segments and model.config.separator == "token":
        pieces = tokens.split(segment_length or arguments.segment_length, dim=1)
        sep = torch.full((arguments.batch_size, 1), SEP)
        tokens = torch.cat([part for piece in pieces for part in (piece, sep)][:-1], dim=1)
    start, end = (torch.full((arguments.batch_size, 1), token) for token in (BOS, EOS))
    return torch.cat([start, tokens, end], dim=1).to(arguments.device)


def training_step(model, optimizer, ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **inputs) -> None:
    labels = ids if attention_mask is None else ids.masked_fill(attention_mask == 0, -100)
    model(ids, attention_mask=attention_mask, labels=labels, **inputs).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(call, clock: str = "wall") -> float:
    _wait_for_gpu()
    start = CLOCKS[clock]()
    call()
    _wait_for_gpu()
    return CLOCKS[clock]() - start


def interleave(calls: dict, rounds: int, clock: str = "wall") -> dict[str, list[float]]:
    """Seconds of every call, by round. All take turns in every round; the first round warms up and is not kept."""
    taken = [{name: seconds(call, clock) for name, call in calls.items()} for _ in range(rounds + 1)]
    return {name: [one[name] for one in taken[1:]] for name in calls}


def summary(values: list[float]) -> dict:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": list(values)}


def ratio(own: list[float], base: list[float]) -> dict:
    """own / base, round by round."""
    return summary([a / b for a, b in zip(own, base, strict=True)])


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


def _resident(field: str) -> int:
    """Bytes of this process; not ru_maxrss, which a child inherits from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def _measure_peak(results, prepare, arguments, cuda: bool) -> None:
    call = prepare(*arguments)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        results.put(torch.cuda.max_memory_allocated() - before)
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _resident("VmRSS")
    call()
    results.put(_resident("VmHWM") - before)


def peak_bytes(prepare, *arguments, device: str = "cpu") -> int | None:
    """
    How far memory rises while `prepare(*arguments)()` runs, what `prepare` allocated not counted, in a fresh process:
    the allocator's count on a GPU, else the resident set. None where the process was killed or has no /proc.
    """
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    cuda = str(device).startswith("cuda")
    process = context.Process(target=_measure_peak, args=(results, prepare, arguments, cuda))
    process.start()
    process.join()
    return results.get() if process.exitcode == 0 else None
