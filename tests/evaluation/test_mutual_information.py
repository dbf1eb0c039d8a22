"""Mutual information: exact against brute force, closed forms, and the traps of recurrent latents."""

import importlib
import math

import pytest
import torch
from helpers.latents import DYNAMICS, SETTINGS, OwnWalk, linear_chain, make
from torch.distributions import Normal

from modeling_trace import LatentDynamics
from modeling_trace.evaluation import active_units, encode_states, encoded_texts, mutual_information

MODULE = importlib.import_module("modeling_trace.evaluation.mutual_information")  # the name is also the function's


class OwnDrift(LatentDynamics):
    """A user's, which takes float32 only."""

    def __init__(self, config):
        super().__init__(config)
        self.drift = torch.nn.Linear(config.backbone_config.hidden_size, config.latent_size)

    def prior(self, previous, context, first):
        mean = 0.5 * previous + self.drift(context)
        return mean, torch.tanh(mean)


CASES = [
    (name, case) for name in DYNAMICS for case in SETTINGS if name in ("recurrent", "parallel") or case == "as_is"
]
CASES += [
    ("single", "conditional"),
    ("context", "unbounded"),
    (OwnWalk, "as_is"),
    (OwnWalk, "-RP"),
    (OwnDrift, "as_is"),
]


def brute_force(made, context, states, mask, noise, wide=True):
    """U_t and the joint figure by two loops over texts, from `prior` and `residual` and torch's own Gaussian."""
    count, steps = mask.shape
    dtype = torch.float64 if wide else torch.float32

    def posterior(z, j, t):
        c = None if context is None else context[j : j + 1, t].to(dtype)
        prior = [x.double() for x in made.prior(z.view(1, -1).to(dtype), c, torch.tensor([t == 0]))]
        delta = made.residual(states[j : j + 1, t])
        return [x[0] for x in made.combine(*prior, *delta)]

    log_q = torch.full((count, count, steps), math.nan, dtype=torch.float64)
    for i in range(count):
        z = torch.zeros(made.latent_size, dtype=torch.float64)
        for t in range(int(mask[i].sum())):
            mean, logvar = posterior(z, i, t)
            drawn = mean + torch.exp(0.5 * logvar) * noise[t, i]
            for j in range(count):
                if mask[j, t]:
                    mean, logvar = posterior(z, j, t)
                    log_q[i, j, t] = Normal(mean, torch.exp(0.5 * logvar)).log_prob(drawn).sum()
            z = drawn
    per_step = []
    for t in range(steps):
        there = [i for i in range(count) if mask[i, t]]
        values = [log_q[i, i, t] - torch.logsumexp(log_q[i, there, t], 0) + math.log(len(there)) for i in there]
        per_step.append(sum(values) / len(values))
    joint, lengths = 0.0, mask.sum(1)
    for i in range(count):
        sums = log_q[i, :, : lengths[i]].sum(-1)
        rivals = [j for j in range(count) if lengths[j] >= lengths[i]]
        joint += (sums[i] - torch.logsumexp(sums[rivals], 0) + math.log(len(rivals))) / count
    return torch.stack(per_step), joint


@pytest.mark.parametrize("name,case", CASES)
def test_mutual_information_is_that_of_brute_force(name, case, monkeypatch):
    states = make(name, case)
    noise = torch.randn(states[3].shape[1], 7, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wanted, wanted_joint = brute_force(*states, noise, wide=name is not OwnDrift)
    tolerance = {"atol": 1e-10 if name is not OwnDrift else 1e-5, "rtol": 0}
    for block, table in ((2**19, 2**22), (40, 15)):  # chunk sizes change nothing
        monkeypatch.setattr(encoded_texts, "_BLOCK", block)
        monkeypatch.setattr(MODULE, "_TABLE", table)
        found = mutual_information(encode_states(*states), generator=torch.Generator().manual_seed(5))
        torch.testing.assert_close(found.per_step, wanted, **tolerance)
        assert found.joint == pytest.approx(wanted_joint.item(), abs=tolerance["atol"])
    assert (found.per_step <= found.caps + 1e-9).all() and found.joint <= found.joint_cap + 1e-9
    assert found.total == pytest.approx(found.per_step.sum().item()) and found.mean * len(wanted) == found.total
    lengths = states[3].sum(1)
    assert found.num_texts.tolist() == states[3].sum(0).tolist()
    assert found.joint_cap == pytest.approx(sum(math.log((lengths >= n).sum()) for n in lengths) / 7)
    assert wanted.abs().max() > 0.05  # the law can fail


@pytest.mark.parametrize(
    "name,case,fast",
    [
        ("recurrent", "unbounded", True),
        ("parallel", "unbounded_additive", True),
        ("recurrent", "-RP", True),
        ("independent", "as_is", True),
        ("recurrent", "as_is", False),
    ],
)
def test_matrix_product_where_it_is_exact(name, case, fast, monkeypatch):
    states = make(name, case, scale=0.1)
    texts = encode_states(*states)
    calls = []
    by_pairs = type(texts)._by_pairs
    monkeypatch.setattr(type(texts), "_by_pairs", lambda *args: calls.append(1) or by_pairs(*args))
    found = mutual_information(texts)
    assert (calls == []) == fast
    # where cancellation would cost digits the pairs are computed, and the figure is the same
    monkeypatch.setattr(encoded_texts, "_ROUNDING", 0.0)
    again = mutual_information(texts)
    assert calls
    torch.testing.assert_close(again.per_step, found.per_step, atol=1e-10, rtol=0)


def test_mutual_information_of_a_gaussian_channel():
    """I = 1/2 log(1 + spread^2 / sigma^2) a dimension and step, whatever the recurrence; jointly up to log N."""
    count = 1500
    found = mutual_information(encode_states(*linear_chain(count, 3, 0.8, 1.0, 0.9, size=2)))
    wanted = 2 * 0.5 * math.log(1 + 0.8**2)
    # the spread of the figure over texts is about 0.7 nats: four standard errors, and a bias of order 1 / N
    assert (found.per_step - wanted).abs().max() < 4 * 0.7 / math.sqrt(count) + 0.01
    assert found.joint == pytest.approx(3 * wanted, abs=0.15)
    sure = mutual_information(encode_states(*linear_chain(200, 3, 50.0, 0.1, 0.9)))
    assert sure.joint == pytest.approx(math.log(200), abs=1e-6)  # saturates, as does every step
    torch.testing.assert_close(sure.per_step, sure.caps, atol=1e-3, rtol=0)


@pytest.mark.parametrize("signal", [0.3, 1.0])
def test_influences_give_the_standard_error_over_texts(signal):
    """Against the spread over 60 sets of texts; to the wide side where the cap log N bounds what texts can do."""
    chains = [encode_states(*linear_chain(120, 3, signal, 1.0, 0.9, seed=seed)) for seed in range(60)]
    found = [mutual_information(texts, seed=seed) for seed, texts in enumerate(chains)]
    spread = torch.tensor([one.total for one in found], dtype=torch.float64).std()
    errors = torch.stack([one.influence.std() / 120**0.5 for one in found])
    assert torch.stack([one.influence.mean() for one in found]).abs().max() < 1e-12
    assert 0.8 < errors.mean() / spread < (1.25 if signal < 1 else 1.6)


def test_influence_is_what_leaving_a_text_out_changes(monkeypatch):
    """theta_(-k) = theta - influence_k / (N - 1) + O(1 / N^2), with texts of one segment among those of three."""
    dynamics, context, states, mask = linear_chain(300, 3, 0.4, 1.0, 0.9)
    mask[::4, 1:] = False
    noise = torch.randn(3, 300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def total_and_influence(chosen):
        monkeypatch.setattr(MODULE, "standard_normal", lambda like, generator: noise[:, chosen])
        found = mutual_information(encode_states(dynamics, context[chosen], states[chosen], mask[chosen]))
        return found.total, found.influence

    everyone = torch.arange(300)
    whole, influence = total_and_influence(everyone)
    changes = torch.tensor([total_and_influence(everyone[everyone != k])[0] - whole for k in range(40)])
    torch.testing.assert_close(299 * changes.double(), -influence[:40], atol=0.03, rtol=0.02)
    assert influence[:40].std() > 0.5


def test_a_collapsed_chain_tells_nothing_of_its_text():
    """z_t = 0.95 z_{t-1} + noise for every text: MI 0 and no active unit, where naive estimates find plenty."""
    states = linear_chain(400, 10, 0.0, 1.0, 0.95)
    texts = encode_states(*states)
    found = mutual_information(texts)
    assert found.per_step.abs().max() < 1e-9 and abs(found.joint) < 1e-9
    units = active_units(texts)
    assert (units.latent, units.residual) == (0, 0)
    assert units.latent_variance.abs().max() < 1e-9
    # the naive versions: the posterior under one sampled z_{t-1}, taken for the text's own
    made = states[0]
    sampled = made(*states[1:], sample=True, generator=torch.Generator().manual_seed(0))
    centred = sampled.posterior_mean - sampled.posterior_mean.mean(0)
    assert (centred.square().mean((0, 1)) > 0.1).all()
    z, mean, logvar = (x.unsqueeze(1) for x in (sampled.latents, sampled.posterior_mean, sampled.posterior_logvar))
    table = Normal(mean.transpose(0, 1), torch.exp(0.5 * logvar.transpose(0, 1))).log_prob(z).sum(-1)  # (i, j, t)
    naive = (table.diagonal().t() - table.logsumexp(1)).mean(0) + math.log(400)
    assert naive.sum() > 5


def test_no_more_information_than_kl():
    """A prior that does not see the text: MI <= KL, both in expectation over the same paths."""
    made, _, states, mask = make("independent", count=7, scale=0.15)
    found = made(None, states, mask, sample=False)
    kl = found.kl().sum(-1).sum(0) / mask.sum(0)
    draws = [mutual_information(encode_states(made, None, states, mask), seed=seed).per_step for seed in range(40)]
    assert (torch.stack(draws).mean(0) <= kl + 0.05).all() and torch.stack(draws).mean(0)[0] > 0.1
