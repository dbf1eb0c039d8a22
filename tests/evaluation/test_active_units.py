"""Active units: closed forms, the definition by many paths, and the noise of the paths."""

import math

import pytest
import torch
from helpers.latents import DYNAMICS, OwnWalk, linear_chain, make
from helpers.tiny import tiny_config

from modeling_trace import LatentDynamics
from modeling_trace.evaluation import active_units, encode_states


def test_active_units_are_those_that_differ_in_expectation():
    """Two of four dimensions carry the text; the variance of E[z_t | x] is that of sum_s P^(t-s) m_s."""
    made, context, states, mask = linear_chain(3000, 4, 1.0, 1.0, 0.5)
    states[..., 2:] = 0
    units = active_units(encode_states(made, context, states, mask), num_paths=4)
    assert (units.latent, units.residual) == (2, 2)
    wanted = torch.tensor([sum(0.25**s for s in range(t + 1)) for t in range(4)], dtype=torch.float64)
    error = 5 * math.sqrt(2 / 3000)  # of a variance, relative
    torch.testing.assert_close(units.latent_per_step[:, 0], wanted, atol=0, rtol=error)
    torch.testing.assert_close(units.latent_variance[:2], wanted.mean().expand(2), atol=0, rtol=error)
    torch.testing.assert_close(units.residual_variance[:2], torch.ones(2).double(), atol=0, rtol=error)
    assert units.latent_variance[2:].abs().max() < 1e-9
    # what the step does to all texts alike is no activity: every step is centred on its own mean
    shifted = states + 10 * torch.arange(4).view(-1, 1) * (torch.arange(32) < 4)
    same = active_units(encode_states(made, context, shifted, mask), num_paths=4)
    torch.testing.assert_close(same.latent_variance, units.latent_variance, atol=1e-6, rtol=0)


class OwnSquare(LatentDynamics):
    """E[z_2 | x] is 0 for all texts, and z_2 is even in z_1, so that pairs of paths do not cancel."""

    def prior(self, previous, context, first):
        mean = context[..., :4] * (previous.square() - 1)
        return mean.masked_fill(first.unsqueeze(-1), 0.0), torch.zeros_like(mean)


def test_active_units_do_not_count_the_noise_of_the_paths():
    made = OwnSquare(tiny_config(posterior_norm="none", residual_scale="none", posterior_sigma_init=1.0)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    context = torch.randn(2000, 2, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2000, 2, dtype=torch.bool)
    texts = encode_states(made, context, torch.zeros_like(context), mask)
    units = active_units(texts, num_paths=16)
    assert units.latent == 0 and units.latent_per_step.abs().max() < 0.1
    pairs = []
    for seed in range(8):
        noise = torch.randn(2, 2000, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        pairs.append(list(texts.paths(noise))[1][4])
    assert (torch.stack(pairs).mean(0).var(0) > 0.15).all()  # the mean over as many, with its noise


@pytest.mark.parametrize("name", [*DYNAMICS, OwnWalk])
def test_active_units_by_hand(name):
    """Against the definition with many independent paths for each text, drawn by the dynamics' own forward."""
    made, context, states, mask = make(name, count=6)
    made.double()
    units = active_units(encode_states(made, context, states, mask), num_paths=3000, threshold=0.05)
    rows = 3000
    repeated = [None if x is None else x.repeat_interleave(rows, 0) for x in (context, states, mask)]
    found = made(*repeated, sample=True, generator=torch.Generator().manual_seed(7))
    means = found.posterior_mean.view(6, rows, *mask.shape[1:], -1).mean(1)
    residual = (found.posterior_mean - found.prior_mean).view(6, rows, *mask.shape[1:], -1).mean(1)
    for values, got in ((means, units.latent_per_step), (residual, units.residual_per_step)):
        for t in range(mask.shape[1]):
            torch.testing.assert_close(got[t], values[mask[:, t], t].var(0), atol=0.05, rtol=0.1)
    pooled = torch.stack([(mask[:, t].sum() - 1) * units.latent_per_step[t] for t in range(mask.shape[1])]).sum(0)
    torch.testing.assert_close(units.latent_variance, pooled / (mask.sum(0) - 1).sum())
    assert units.latent == (units.latent_variance > 0.05).sum()
