"""Saved models in processes that do not have the package."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
)

import modeling_trace
from helpers import tiny
from helpers.tiny import VOCAB, backbone_config
from modeling_trace import TraceForConditionalGeneration
from modeling_trace.data import FixedLengthSegmenter, TraceProcessor

PACKAGE = Path(modeling_trace.__file__).parent / "models"


CODE_FILES = sorted(path.name for path in PACKAGE.glob("*_trace.py"))


AUTO_MAP = {
    "AutoConfig": "configuration_trace.TraceConfig",
    "AutoModel": "modeling_trace.TraceForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_trace.TraceForConditionalGeneration",
}


def word_tokenizer():
    """The ids of the tiny models; [SEP] is not among them."""
    words = ["<s>", "</s>", "<pad>", *(f"w{i}" for i in range(3, VOCAB))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def make_pair(family, **settings):
    """A model by from_backbone, and its processor."""
    torch.manual_seed(0)
    processor = TraceProcessor(word_tokenizer(), FixedLengthSegmenter(3), separator=settings.get("separator", "token"))
    lm = AutoModelForCausalLM.from_config(backbone_config(family))
    settings = {"latent_size": 4, "segment_length": 3, "initializer_range": 0.2} | settings
    settings = tiny.ARCHITECTURE | {"latent_init_scale": 5.0} | settings
    return TraceForConditionalGeneration.from_backbone(lm, processor.tokenizer, **settings).eval(), processor


def write(model):
    """Ids and latents from every way to generate, as lists. Its source also runs in other processes."""
    import torch

    sep = model.config.sep_token_id or 4
    segments = 1 if model.one_latent_per_text else 3
    prompt = torch.tensor([[0, 5, 6, 7, sep, 8], [2, 0, 9, 10, 11, sep]])
    ways = {
        "greedy": {},
        "sampling": {"do_sample": True, "num_return_sequences": 2},
        "beams": {"num_beams": 3, "num_return_sequences": 2},
        "held": {"latents": torch.linspace(-1, 1, 4 * segments).view(segments, 4)},
        "prompts": {"input_ids": prompt, "attention_mask": (prompt != 2).long(), "do_sample": True},
    }
    found = {}
    for name, settings in ways.items():
        torch.manual_seed(1)
        out = model.generate(max_new_tokens=10, return_dict_in_generate=True, **settings)
        # rounded: enough to tell latents apart, whatever the number of threads
        found[name] = [out.sequences.tolist(), out.latents.mul(1000).round().tolist()]
    return found


# Runs scripts, each a line of JSON with its arguments, and answers each by the last line that it prints.
SCRIPTS = """
import contextlib, io, json, sys

for line in sys.stdin:
    script, *sys.argv[1:] = json.loads(line)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(script, "script", "exec"), {"__name__": "__main__"})
    print(printed.getvalue().splitlines()[-1], flush=True)
"""


@contextlib.contextmanager
def script_process(home, **environment):
    """
    A process of its own, with an empty Hugging Face home, as a function that runs a script there and returns what it
    prints last, which is JSON. It imports torch and Transformers once, whatever the number of scripts.
    """
    names = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and not name.lower().endswith("_proxy")
    }
    with tempfile.TemporaryFile("w+") as said:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said, "text": True}
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPTS], env={**kept, **names, **environment}, cwd=home, **pipes
        )

        def run(script, *arguments):
            process.stdin.write(json.dumps([script, *map(str, arguments)]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                process.wait()
                said.seek(0)
                raise AssertionError(said.read()[-4000:])
            return json.loads(answer)

        try:
            yield run
        finally:
            process.communicate()


def run_script(script, home, *arguments, **environment):
    """One script in a [`script_process`]."""
    with script_process(home, **environment) as run:
        return run(script, *arguments)


# Put before a script: nothing can be imported but Python's own library, and torch and transformers with what they
# require. A fresh environment of `pip install torch transformers` holds as much.
TORCH_AND_TRANSFORMERS_ALONE = """
import importlib.metadata, re, sys

names, waiting = {"pip", "setuptools"}, ["torch", "transformers"]
while waiting:
    name = re.sub("[-_.]+", "-", re.match("[A-Za-z0-9._-]+", waiting.pop())[0]).lower()
    if name not in names:
        names.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [line for line in required if "extra ==" not in line]
owners = importlib.metadata.packages_distributions()
normal = lambda name: re.sub("[-_.]+", "-", name).lower()
others = {module for module, owned in owners.items() if not names.intersection(map(normal, owned))}



class Alone:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        first = name.split(".")[0]
        return None if first in others or first == "modeling_trace" else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [Alone(finder) for finder in sys.meta_path]
others -= set(sys.stdlib_module_names)
"""

# Put before a script: the package cannot be imported, whether it is installed or on the path.
WITHOUT_PACKAGE = """
import sys

sys.modules["modeling_trace"] = None
try:
    import modeling_trace
    raise SystemExit("the package can be imported")
except ModuleNotFoundError:
    pass
"""
