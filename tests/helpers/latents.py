"""A processor and dynamics for tests of what latents carry."""

import math

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedTokenizerFast

from helpers.tiny import VOCAB, tiny_config
from modeling_trace import LatentDynamics
from modeling_trace.data import FixedLengthSegmenter, TraceProcessor
from modeling_trace.models.dynamics_registry_trace import LATENT_DYNAMICS


def tiny_processor(segment_length=3, conditional=False):
    """With the ids of the tiny models, [SEP] among them."""
    words = ["<s>", "</s>", "<pad>", "[SEP]", *(f"w{i}" for i in range(4, VOCAB))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w4"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    segmenter = None if segment_length is None else FixedLengthSegmenter(segment_length)
    return TraceProcessor(tokenizer, segmenter, conditional, separator="token")


class Questions(TorchDispatchMode):
    """Counts what makes a host wait for its device: values read as numbers, results of unknown size."""

    WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "equal", "is_nonzero"}

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = [x for x in args[1] if x is not None] if name in ("index", "index_put", "index_put_") else []
        if name in self.WAITING or any(x.dtype == torch.bool for x in indices):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


DYNAMICS = ["recurrent", "parallel", "independent", "context", "single"]


SETTINGS = {
    "as_is": {},
    "unbounded": {"prior_logvar_bound": None},
    "unbounded_additive": {"prior_logvar_bound": None, "residual_scale": "none"},
    "additive": {"residual_scale": "none"},
    "-RP": {"residual_posterior": False},
    "+BN": {"posterior_norm": "batch"},
    "conditional": {"conditional": True},
}


def make(name, case="as_is", seed=0, count=7, steps=4, scale=0.3):
    torch.manual_seed(seed)
    cls = name if isinstance(name, type) else LATENT_DYNAMICS[name]
    made = cls(tiny_config(**SETTINGS[case]))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    if name == "parallel":
        for _ in range(20):  # in training mode: the spectral norm of the new weights
            assert made._recurrent_weight().shape == (8, 4)
    made.eval()
    if made.one_per_text:
        steps = 1
    context, states = torch.randn(2, count, steps, 32, dtype=torch.float64)
    mask = torch.arange(steps) < torch.tensor([steps, 1, 2, 3, steps, 2, 3])[:count].clamp_max(steps).unsqueeze(1)
    return made, context if made.reads_context else None, states, mask


class OwnWalk(LatentDynamics):
    """A user's: no context, and a posterior of its own making."""

    reads_context = False

    def prior(self, previous, context, first):
        return 0.5 * previous.flip(-1), 0.1 * previous

    def combine(self, prior_mean, prior_logvar, delta_mean, delta_logvar):
        return torch.tanh(prior_mean) + delta_mean, delta_logvar + 0.2 * prior_mean


def linear_chain(count, steps, spread, sigma, recurrence, size=4, seed=0):
    """q(z_t | z_<t, x) = N(P z_{t-1} + m_t(x), sigma^2), with m ~ N(0, spread^2), independent of all else."""
    made = LATENT_DYNAMICS["recurrent"](
        tiny_config(
            latent_size=size, prior_logvar_bound=None, residual_scale="none", posterior_norm="none", conditional=True
        )
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
        made.prior_network.weight[:size, :size] = recurrence * torch.eye(size)
        made.posterior_network.weight[:size, :size] = torch.eye(size)
        made.logvar_norm.bias.fill_(2 * math.log(sigma))
    generator = torch.Generator().manual_seed(seed)
    states = torch.zeros(count, steps, 32, dtype=torch.float64)
    states[..., :size] = spread * torch.randn(count, steps, size, generator=generator, dtype=torch.float64)
    return made, torch.zeros_like(states), states, torch.ones(count, steps, dtype=torch.bool)
