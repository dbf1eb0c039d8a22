"""The importance-weighted bound and the ELBO: known integrals, every latent dynamics by hand, what is counted."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from helpers.latents import tiny_processor
from helpers.tiny import BOS, EOS, PAD, SEP, VOCAB, make_batch, make_text, tiny_config, tiny_model, under_both
from torch.distributions import MultivariateNormal, Normal
from torch.utils.data import DataLoader

from modeling_trace import LatentDynamics, TraceForConditionalGeneration
from modeling_trace.data import TraceDataCollator
from modeling_trace.evaluation import evaluate_likelihood
from modeling_trace.models import likelihood_trace, particles_trace
from modeling_trace.models.dynamics_registry_trace import LATENT_DYNAMICS
from modeling_trace.models.gaussian_trace import gaussian_log_density
from modeling_trace.models.likelihood_trace import importance_weighted_bound
from modeling_trace.models.particles_trace import particle_filter, systematic_ancestors

DYNAMICS = ["recurrent", "parallel", "independent", "context", "single"]
TEXTS = [make_text([3, 3, 2], seed=1), make_text([3], seed=2), make_text([3, 3], seed=3)]
PROMPTED = [[BOS, 9, 8, SEP, *text[1:]] for text in TEXTS]
CASES = [(name, {}) for name in DYNAMICS]
CASES += [(name, {"latent_layer": 1}) for name in ("recurrent", "parallel", "independent", "single", "own")]
CASES += [("recurrent", {"latent_layer": 1, "conditional": True})]
CASES += [("recurrent", {"residual_posterior": False}), ("recurrent", {"posterior_norm": "batch"})]
CASES += [("parallel", {"residual_scale": "none", "prior_logvar_bound": None}), ("own", {})]
CASES += [(name, {"conditional": True}) for name in ("recurrent", "context", "single")]


class OwnWalk(LatentDynamics):
    reads_context = False

    def prior(self, previous, context, first):
        return 0.5 * previous.flip(-1), 0.1 * previous


@pytest.fixture
def own_dynamics(monkeypatch):
    monkeypatch.setitem(LATENT_DYNAMICS, "own", OwnWalk)
    monkeypatch.setattr("modeling_trace.models.configuration_checks_trace.REGISTERED_DYNAMICS", {"own"})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- Known log p(x) ----


def gaussian_log_weights(rows, samples, seed=0):
    """z ~ N(0, 1), x | z ~ N(z, 0.5^2), x = 1.3, and a q that is off: log weights, log p(x) and the ELBO."""
    x, noise = torch.tensor(1.3, dtype=torch.float64), 0.5
    mean, sigma = torch.tensor(0.6, dtype=torch.float64), 0.7
    z = mean + sigma * torch.randn(rows, samples, generator=seeded(seed), dtype=torch.float64)
    logvar = torch.tensor(2 * math.log(sigma))
    weights = gaussian_log_density(x, z, torch.tensor(2 * math.log(noise)))
    weights = weights + gaussian_log_density(z, *torch.zeros(2)) - gaussian_log_density(z, mean, logvar)
    exact = Normal(0.0, math.sqrt(1 + noise**2)).log_prob(x)
    reconstruction = -0.5 * (math.log(2 * math.pi * noise**2) + ((x - mean) ** 2 + sigma**2) / noise**2)
    elbo = reconstruction - 0.5 * (mean**2 + sigma**2 - 1 - 2 * math.log(sigma))
    return weights, exact.item(), elbo.item()


def test_bound_of_a_linear_gaussian_model():
    weights, exact, elbo = gaussian_log_weights(4000, 256)
    means = {}
    for n in (1, 4, 16, 64, 256):
        bound, effective = importance_weighted_bound(weights[:, :n])
        means[n] = bound.mean().item()
        assert (effective >= 1 - 1e-9).all() and (effective <= n + 1e-9).all()
    assert means[1] == pytest.approx(elbo, abs=5 * weights[:, 0].std().item() / math.sqrt(4000))
    assert list(means.values()) == sorted(means.values())  # rises with n
    assert exact - elbo > 0.1 and means[256] == pytest.approx(exact, abs=0.01)
    bound, effective = importance_weighted_bound(weights[:3, :5])
    plain = weights[:3, :5].exp()
    torch.testing.assert_close(bound, plain.mean(1).log())
    torch.testing.assert_close(effective, plain.sum(1) ** 2 / plain.square().sum(1))


def test_log_density_is_torchs():
    x, mean, logvar = torch.randn(3, 5, generator=seeded(), dtype=torch.float64)
    wanted = Normal(mean, torch.exp(0.5 * logvar)).log_prob(x)
    torch.testing.assert_close(gaussian_log_density(x, mean, logvar), wanted)


def model_and_integral():
    """A model, a text of two segments and its log p(x), by quadrature over z_1 and z_2 and one decoder pass a node."""
    model = tiny_model(latent_size=2, latent_init_scale=0.35, seed=1)
    with torch.no_grad():  # a posterior a little off the prior, and wider: narrower, weights have no variance
        model.dynamics.mean_norm.gamma, model.dynamics.logvar_norm.gamma = 0.5, 0.1
        model.dynamics.logvar_norm.bias.fill_(0.7)
    ids = torch.tensor([make_text([3, 3], seed=1)])
    # Gauss-Hermite nodes and weights for N(0, 1), from the eigenvalues of the recurrence's matrix
    order = 7
    off = torch.arange(1, order, dtype=torch.float64).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    log_weight = vectors[0].square().log()
    grid = torch.cartesian_prod(*[torch.arange(order)] * 4)
    eps, log_weight = nodes[grid].float(), log_weight[grid].sum(1)
    with torch.no_grad():
        context, _, _ = model._encoder_states(ids, None, model._segment_ids(ids, None, None))
        first = torch.ones(len(grid), dtype=torch.bool)
        c = context.expand(len(grid), -1, -1)
        z = []
        for t in range(2):
            mean, logvar = model.dynamics.prior(
                z[-1] if z else torch.zeros_like(eps[:, :2]), c[:, t], first & (t == 0)
            )
            z.append(mean + torch.exp(0.5 * logvar) * eps[:, 2 * t : 2 * t + 2])
        scores = model(ids.expand(len(grid), -1), latents=torch.stack(z, 1)).logits.double().log_softmax(-1)
    nats = scores[:, :-1].gather(2, ids[:, 1:, None].expand(len(grid), -1, 1)).squeeze(2)
    upto = torch.logsumexp(nats.cumsum(1) + log_weight.unsqueeze(1), 0)  # log p(x_1..i)
    separators = (ids[0, 1:] == SEP).nonzero().squeeze(1)
    return model, ids, upto[-1].item(), (upto[separators] - upto[separators - 1]).sum().item()


def test_bound_of_a_model_approaches_its_integral():
    model, ids, exact, of_separators = model_and_integral()
    out = model.log_likelihood(ids, num_samples=4000, generator=seeded(), return_dict=True)
    assert out.log_likelihood.item() == pytest.approx(exact, abs=4 / math.sqrt(out.effective_sample_size.item()))
    assert out.effective_sample_size > 100 and out.elbo.item() < exact - 1  # the law can fail
    assert out.separator_log_likelihood.item() == pytest.approx(of_separators, abs=0.1) and of_separators < -1


# ---- What [SEP] costs ----


def log_p_of_separators(model, ids, mask):
    """Each [SEP] under the whole text before it, by a decoder that hears no latents."""
    scores = model(ids, attention_mask=mask).logits.double().log_softmax(-1)[:, :-1]
    nats = scores.gather(2, ids[:, 1:, None]).squeeze(2)
    return (nats * (ids[:, 1:] == SEP)).sum(dim=1)


@pytest.mark.parametrize("method", ["importance", "particle"])
@pytest.mark.parametrize("max_rows", [None, 3])
def test_separators_and_the_rest_are_the_whole(method, max_rows):
    ids, mask, _ = make_batch(TEXTS)
    settings = {"method": method, "max_rows": max_rows, "return_dict": True}
    for model in (tiny_model(), tiny_model(latent_layer=1), tiny_model(latent_dynamics="none")):
        out = model.log_likelihood(ids, mask, 8, generator=seeded(), **settings)
        assert torch.equal(out.log_likelihood_without_separators, out.log_likelihood - out.separator_log_likelihood)
        has_separator = (ids == SEP).any(dim=1)
        assert (out.separator_log_likelihood[has_separator] < -0.1).all()
        assert (out.separator_log_likelihood[~has_separator] == 0).all() and not has_separator.all()
        if not model.has_latents:
            torch.testing.assert_close(out.separator_log_likelihood, log_p_of_separators(model, ids, mask))
            continue
        with torch.no_grad():  # the decoder does not hear its latents: every sample pays the same
            model.latent_injection.weight.zero_()
        out = model.log_likelihood(ids, mask, 8, generator=seeded(), **settings)
        wanted = log_p_of_separators(model, ids, mask)
        torch.testing.assert_close(out.separator_log_likelihood, wanted, atol=1e-5, rtol=1e-5)


def test_without_separators_nothing_is_paid_for_them():
    """Also where the id of [SEP] occurs, or closes a prompt only."""
    ids, mask, _ = make_batch(TEXTS)
    for settings in ({}, {"latent_dynamics": "none"}):
        out = tiny_model(separator="none", **settings).log_likelihood(ids, mask, 4, return_dict=True)
        assert (out.separator_log_likelihood == 0).all()
        assert torch.equal(out.log_likelihood_without_separators, out.log_likelihood)
    prompted, mask, _ = make_batch([[BOS, 9, SEP, 5, 6, 7, EOS]])
    out = tiny_model(conditional=True).log_likelihood(prompted, mask, 4, return_dict=True)
    assert (out.separator_log_likelihood == 0).all() and (out.log_likelihood < -1).all()


@pytest.mark.parametrize("method", ["importance", "particle"])
def test_a_data_set_reports_both(method):
    model = tiny_model()
    found = evaluate_likelihood(model, rows_of(TEXTS), tiny_processor(), 8, method=method, batch_size=2)
    summary = found.summary()
    assert summary["separator_nats_per_text"] > 1
    both = summary["separator_nats_per_text"] + summary["nats_per_text_without_separators"]
    assert both == pytest.approx(summary["nats_per_text"], rel=1e-12)
    texts = found.log_likelihood - found.separator_log_likelihood
    assert summary["perplexity_without_separators"] == pytest.approx(
        torch.exp(-texts.sum() / found.tokens.sum()).item()
    )
    assert found.separators.tolist() == [text.count(SEP) for text in TEXTS]
    tokens = (found.tokens + found.separators).sum()
    assert summary["perplexity_with_separators"] == pytest.approx(
        torch.exp(-found.log_likelihood.sum() / tokens).item()
    )
    assert summary["perplexity_without_separators"] < summary["perplexity"]
    plain = evaluate_likelihood(tiny_model(separator="none"), rows_of(TEXTS), tiny_processor(), 4).summary()
    assert plain["separator_nats_per_text"] == 0
    assert plain["nats_per_text_without_separators"] == plain["nats_per_text"]
    assert plain["perplexity_without_separators"] == plain["perplexity"]
    bare = evaluate_likelihood(tiny_model(separator="none"), rows_of(TEXTS[1:2]), tiny_processor(), 4)
    assert SEP not in TEXTS[1] and bare.perplexity_with_separators == bare.perplexity


@pytest.mark.usefixtures("architecture")
def test_bound_rises_from_the_elbo():
    model = tiny_model()
    ids, mask, _ = make_batch(TEXTS)
    out = model.log_likelihood(ids, mask, 1024, generator=seeded(), return_dict=True)
    means = [importance_weighted_bound(out.log_weights.view(3, -1, n))[0].mean(1) for n in (1, 4, 16, 64, 256)]
    spread = out.log_weights.std(dim=1) + out.reconstruction.std(dim=1)
    assert ((means[0] - out.elbo).abs() < 5 * spread / 32).all()  # the sampled ratio, and the KL in closed form
    assert all((after > before).all() for before, after in zip(means[:-1], means[1:], strict=True))
    one = model.elbo(ids, mask, 1024, generator=seeded())
    torch.testing.assert_close(one, out.elbo)
    assert model.elbo(ids, mask).shape == (3,)


# ---- The model's own terms ----


@pytest.mark.parametrize("name,settings", CASES)
def test_encoding_once_is_n_full_forwards(name, settings, own_dynamics):
    """Each sample from the start: encoder, the step-by-step prior and posterior of generation, whole decoder pass."""
    model = tiny_model(latent_dynamics=name, **settings).train()
    conditional = settings.get("conditional", False)
    texts = PROMPTED if conditional else TEXTS
    ids, mask, _ = make_batch(texts)
    passes = []
    hook = model.backbone.register_forward_hook(lambda module, args, output: passes.append(1))
    out = model.log_likelihood(ids, mask, 6, generator=seeded(), return_dict=True, max_rows=7)
    hook.remove()
    two = model.config.latent_layer is None
    encoder = 2 if two and model.dynamics.posterior_pass == "segment" and model.dynamics.reads_context else 1
    assert len(passes) == encoder + 3  # 18 rows by 7
    assert model.training and model.dynamics.training
    model.eval()
    kl = torch.zeros_like(out.kl)
    for row, text in enumerate(texts):
        own = torch.tensor([text])
        for k in range(6):
            context, states, there = model._encoder_states(own, None, model._segment_ids(own, None, None))
            previous, total = torch.zeros(1, 4), 0.0
            for t in range(there.shape[1]):
                c = None if context is None else context[:, t]
                prior = model.dynamics.prior(previous, c, torch.tensor([t == 0]))
                posterior = model.dynamics.posterior(*prior, states[:, t])
                previous = out.latents[row, k, t].unsqueeze(0)
                p, q = (Normal(mean, torch.exp(0.5 * logvar)) for mean, logvar in (prior, posterior))
                total += (p.log_prob(previous) - q.log_prob(previous)).sum().item()
                kl[row, t] += torch.distributions.kl_divergence(q, p)[0] / 6
            latents = out.latents[row : row + 1, k, : there.shape[1]]
            scores = model(own, latents=latents).logits.log_softmax(-1)
            start = 4 if conditional else 1
            nats = sum(scores[0, i - 1, text[i]].item() for i in range(start, len(text)))
            assert out.reconstruction[row, k].item() == pytest.approx(nats, abs=1e-4)
            assert out.log_weights[row, k].item() == pytest.approx(nats + total, abs=1e-3)
        assert (out.latents[row, :, there.shape[1] :] == 0).all()
    torch.testing.assert_close(out.kl, kl, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.log_likelihood, importance_weighted_bound(out.log_weights)[0])


@pytest.mark.parametrize("architecture,name", under_both(DYNAMICS), indirect=["architecture"])
def test_samples_come_from_the_posterior(name, architecture):
    """Standardised by the posterior of their own path, they are standard normal."""
    model = tiny_model(latent_dynamics=name)
    ids = torch.tensor(TEXTS[:1])
    z = model.log_likelihood(ids, num_samples=3000, generator=seeded(), return_dict=True).latents[0]
    context, states, there = model._encoder_states(ids, None, model._segment_ids(ids, None, None))
    previous = torch.zeros(3000, 4)
    for t in range(there.shape[1]):
        c = None if context is None else context[:, t].expand(3000, -1)
        prior = model.dynamics.prior(previous, c, torch.full((3000,), t == 0))
        mean, logvar = model.dynamics.posterior(*prior, states[:, t].expand(3000, -1))
        standard = (z[:, t] - mean) / torch.exp(0.5 * logvar)
        assert standard.mean(0).abs().max() < 5 / math.sqrt(3000)
        assert (standard.var(0) - 1).abs().max() < 5 * math.sqrt(2 / 3000)
        previous = z[:, t]


@pytest.mark.parametrize("architecture,name", under_both([*DYNAMICS, "none"]), indirect=["architecture"])
def test_batches_padding_and_chunks_change_nothing(name, monkeypatch, architecture):
    model = tiny_model("llama" if name != "none" else "gpt2", latent_dynamics=name)
    ids, mask, _ = make_batch(TEXTS)
    wanted = model.log_likelihood(ids, mask, 5, generator=seeded())
    assert wanted.dtype == torch.float64 and wanted.shape == (3,)
    assert wanted.std() > 1
    left, left_mask, _ = make_batch(TEXTS, "left")
    for settings in ({"max_rows": 1}, {"max_rows": 4}, {"max_rows": 1000}):
        for rows in ((ids, mask), (left, left_mask)):
            found = model.log_likelihood(*rows, 5, generator=seeded(), **settings)
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    monkeypatch.setattr(likelihood_trace, "_MAX_LOGITS_CPU", 1)
    generator = seeded()
    alone = [model.log_likelihood(torch.tensor([text]), None, 5, generator=generator) for text in TEXTS]
    torch.testing.assert_close(torch.cat(alone), wanted, atol=1e-4, rtol=0)
    segment_ids = model._segment_ids(ids, mask, None)
    given = model.log_likelihood(ids, mask, 5, segment_ids=segment_ids, generator=seeded())
    torch.testing.assert_close(given, wanted)
    # segment ids without a mask: positions count from the first column, as in forward
    if name == "none":
        segment_ids = model._segment_ids(left, left_mask, None)
        found = model.log_likelihood(left, segment_ids=segment_ids)
        labels = left.masked_fill(left_mask.cumsum(1) <= 1, -100)
        for row in range(3):
            loss = model(left[row : row + 1], labels=labels[row : row + 1]).reconstruction_loss
            assert found[row].item() == pytest.approx(-loss.item(), abs=1e-4)
    else:
        assert (model.log_likelihood(ids, mask, 5, generator=seeded(1)) - wanted).abs().max() > 1e-2


def test_none_is_the_backbones_own_loss():
    config = tiny_config(latent_dynamics="none", sep_token_id=None)
    torch.manual_seed(0)
    model = TraceForConditionalGeneration(config).eval()
    ids, mask, labels = make_batch(TEXTS)
    out = model.log_likelihood(ids, mask, return_dict=True)
    for row in range(3):
        loss = model(ids[row : row + 1], attention_mask=mask[row : row + 1], labels=labels[row : row + 1])
        assert out.log_likelihood[row].item() == pytest.approx(-loss.reconstruction_loss.item(), abs=1e-4)
    assert (out.effective_sample_size == 100).all() and out.kl is None
    torch.testing.assert_close(out.elbo, out.log_likelihood)
    torch.testing.assert_close(model.elbo(ids, mask), out.log_likelihood)
    prompted = TraceForConditionalGeneration(tiny_config(latent_dynamics="none", conditional=True)).eval()
    ids, mask, labels = make_batch(PROMPTED)
    total = prompted(ids, attention_mask=mask, labels=labels).reconstruction_loss.item()  # mean over texts
    assert prompted.log_likelihood(ids, mask).mean().item() == pytest.approx(-total, abs=1e-4)


@pytest.mark.usefixtures("architecture")
def test_elbo_is_the_loss_of_the_same_latents():
    """reconstruction - KL of `forward` under the posterior mean, in the limit of a posterior without noise."""
    model = tiny_model()
    with torch.no_grad():
        model.dynamics.logvar_norm.gamma = 0.0
        model.dynamics.logvar_norm.bias.fill_(-14)
    ids, mask, labels = make_batch(TEXTS)
    out = model(ids, attention_mask=mask, labels=labels)
    found = model.elbo(ids, mask, return_dict=True)
    assert -found.reconstruction.mean().item() == pytest.approx(out.reconstruction_loss.item(), abs=2e-2)
    assert found.kl.sum().item() / 3 == pytest.approx(out.kl_loss.item(), rel=1e-3)


def test_overflow_has_no_weight():
    model = tiny_model(prior_logvar_bound=None)
    with torch.no_grad():
        model.dynamics.prior_network.weight[4:, :4] = 60.0
    out = model.log_likelihood(torch.tensor(TEXTS[:1]), num_samples=50, generator=seeded(), return_dict=True)
    kept = out.log_weights.isfinite()
    assert kept.any() and not kept.all() and not out.log_weights.isnan().any()
    assert out.log_likelihood.isfinite().all()
    wanted = torch.logsumexp(out.log_weights[kept], 0) - math.log(50)
    torch.testing.assert_close(out.log_likelihood[0], wanted)


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"num_samples": 0}, "`num_samples` must be an integer >= 1, got 0"),
        ({"num_samples": 2.0}, "`num_samples` must be an integer >= 1, got 2.0"),
        ({"max_rows": 0}, "`max_rows` must be an integer >= 1, got 0"),
        ({"method": "fivo"}, "`method` must be 'importance' or 'particle', got 'fivo'"),
        ({"method": None}, "`method` must be 'importance' or 'particle', got None"),
        (
            {"input_ids": torch.tensor([[BOS, 5, EOS], [PAD, PAD, BOS]])},
            "`input_ids` has no token to predict in row 1",
        ),
        ({"input_ids": torch.zeros(1, 65, dtype=torch.long)}, "`input_ids` must fit the backbone's context of 64"),
    ],
)
def test_errors(settings, message):
    ids = settings.setdefault("input_ids", torch.tensor([[BOS, 5, EOS], [BOS, 6, EOS]]))
    with pytest.raises(ValueError, match=message):
        tiny_model().log_likelihood(attention_mask=(ids != PAD).long(), **settings)


# ---- The particle filter ----


def mean_within(values, wanted, errors=4.0):
    """Whether the mean is `wanted` within so many standard errors, which must be small enough to tell."""
    error = values.std().item() / math.sqrt(len(values))
    return abs(values.mean().item() - wanted) < errors * error


class LinearGaussian:
    """z_t ~ N(0.9 z_{t-1}, 1), x_t ~ N(z_t, 0.5^2), and the prior as a bad proposal. log p(x) in closed form."""

    x = torch.tensor([0.5, 1.5, -0.5, 2.0, 2.5], dtype=torch.float64)

    def __init__(self, num_particles, generator):
        self.z, self.generator = torch.zeros(num_particles, dtype=torch.float64), generator

    def log_weight(self, t):
        self.z = 0.9 * self.z + torch.randn(self.z.shape, generator=self.generator, dtype=torch.float64)
        return Normal(self.z, 0.5).log_prob(self.x[t])

    def reorder(self, ancestors):
        self.z = self.z[ancestors]

    @classmethod
    def run(cls, num_particles, generator):
        particles = cls(num_particles, generator)
        uniforms = torch.rand(len(cls.x), generator=generator)
        return particle_filter(particles.log_weight, particles.reorder, num_particles, uniforms)

    @classmethod
    def exact(cls):
        steps = torch.arange(len(cls.x), dtype=torch.float64)
        shared = torch.stack([0.9 ** (steps - i).clamp_min(0) * (steps >= i) for i in steps], dim=1)
        covariance = shared @ shared.t() + 0.25 * torch.eye(len(steps), dtype=torch.float64)
        return MultivariateNormal(torch.zeros_like(cls.x), covariance).log_prob(cls.x).item()


def test_filter_of_a_linear_gaussian_model_is_unbiased_and_tighter(monkeypatch):
    generator, exact = seeded(), LinearGaussian.exact()
    found = [LinearGaussian.run(64, generator) for _ in range(600)]
    bounds = torch.tensor([one.log_likelihood for one in found], dtype=torch.float64)
    assert mean_within(torch.exp(bounds - exact), 1.0)
    assert torch.exp(bounds - exact).std() / math.sqrt(600) < 0.05 and bounds.mean() < exact
    assert 0.5 < np.mean([one.resampled[:-1].double().mean().item() for one in found])
    assert not any(one.resampled[-1] for one in found)
    monkeypatch.setattr(particles_trace, "_RESAMPLE_BELOW", 0.0)
    paths = [LinearGaussian.run(64, generator) for _ in range(600)]
    assert not any(one.resampled.any() for one in paths)
    looser = torch.tensor([one.log_likelihood for one in paths], dtype=torch.float64)
    assert bounds.mean() - looser.mean() > 4 * math.sqrt((bounds.var() + looser.var()) / 600)


def test_ancestors_are_drawn_by_weight():
    weights = torch.tensor([0.0, 0.42, 0.0, 0.03, 0.55, 0.0], dtype=torch.float64)
    uniforms = torch.rand(4000, generator=seeded())
    drawn = [systematic_ancestors(weights.log(), u) for u in (*uniforms, torch.tensor(0.0), torch.tensor(1 - 2**-24))]
    counts = torch.stack([ancestors.bincount(minlength=6) for ancestors in drawn]).double()
    wanted = 6 * weights
    assert ((counts >= wanted.floor()) & (counts <= wanted.ceil())).all()
    torch.testing.assert_close(counts.mean(0), wanted, atol=0.03, rtol=0)


def test_filter_is_unbiased_for_the_integral_of_a_model(monkeypatch):
    monkeypatch.setattr(particles_trace, "_RESAMPLE_BELOW", 1.0)  # at every step: in this model few would be
    model, ids, exact, _ = model_and_integral()
    out = model.log_likelihood(ids.expand(150, -1), None, 12, method="particle", generator=seeded(), return_dict=True)
    ratio = torch.exp(out.log_likelihood - exact)
    assert mean_within(ratio, 1.0) and ratio.std() / math.sqrt(150) < 0.2
    assert out.resampled[:, 0].all() and not out.resampled[:, 1].any()
    assert out.log_likelihood.mean() < exact
    # without W_z the model is the plain one
    with torch.no_grad():
        model.latent_injection.weight.zero_()
    plain = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum").item()
    bounds = model.log_likelihood(ids.expand(60, -1), None, 12, method="particle", generator=seeded())
    assert mean_within(torch.exp(bounds + plain), 1.0)


@pytest.mark.parametrize("name,tighter", [("recurrent", True), ("independent", True), ("single", None)])
def test_filter_is_no_looser_than_importance_weighting(name, tighter):
    model = tiny_model(latent_dynamics=name)
    ids = torch.tensor([make_text([2] * 8, seed=1)]).expand(30, -1)
    found = [
        model.log_likelihood(ids, None, 20, method=method, generator=seeded(seed))
        for seed, method in enumerate(("importance", "particle"))
    ]
    gain = found[1].mean() - found[0].mean()
    error = math.sqrt((found[0].var() + found[1].var()) / 30)
    assert gain > 4 * error if tighter else gain > -4 * error


@pytest.mark.parametrize("name,settings", CASES)
def test_filter_without_resampling_is_importance_weighting(name, settings, own_dynamics, monkeypatch):
    monkeypatch.setattr(particles_trace, "_RESAMPLE_BELOW", 0.0)
    model = tiny_model(latent_dynamics=name, **settings).double()
    text = (PROMPTED if settings.get("conditional") else TEXTS)[0]
    ids, mask, _ = make_batch([text, [*text, *text]], "left")  # the first has padding
    for rows in ((ids[:1], mask[:1]), (torch.tensor([text]), None)):
        wanted = model.log_likelihood(*rows, 6, generator=seeded(), return_dict=True)
        found = model.log_likelihood(*rows, 6, method="particle", generator=seeded(), return_dict=True, max_rows=4)
        names = ["log_likelihood", "separator_log_likelihood", "effective_sample_size_per_step"]
        for each in names:
            torch.testing.assert_close(found[each], wanted[each], atol=1e-8, rtol=1e-8, equal_nan=True)
        torch.testing.assert_close(
            found.effective_sample_size[0], wanted.effective_sample_size_per_step.amin(), atol=1e-8, rtol=1e-8
        )
        torch.testing.assert_close(
            wanted.effective_sample_size_per_step[:, -1], wanted.effective_sample_size, atol=1e-8, rtol=1e-8
        )


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_filter_with_a_cache_is_the_filter_without(family):
    """Every particle's whole path is decoded from the start at every step."""
    model = tiny_model(family).double()
    ids, count, num_steps = torch.tensor(TEXTS[:1]), 7, 3
    settings = {"method": "particle", "generator": seeded(), "return_dict": True}
    out = model.log_likelihood(ids, None, count, max_rows=3, **settings)
    generator = seeded()
    noise = torch.randn(num_steps, count, 4, generator=generator, dtype=torch.float64)
    uniforms = torch.rand(num_steps, generator=generator)
    segment_ids = model._segment_ids(ids, None, None)
    with torch.no_grad():
        context, states, _ = model._encoder_states(ids, None, segment_ids)
        paths = torch.zeros(count, num_steps, 4, dtype=torch.float64)
        log_weights, total = torch.full((count,), -math.log(count), dtype=torch.float64), 0.0
        for t in range(num_steps):
            previous = paths[:, t - 1] if t else torch.zeros_like(paths[:, 0])
            prior = model.dynamics.prior(previous, context[:, t].expand(count, -1), torch.full((count,), t == 0))
            mean, logvar = model.dynamics.posterior(*prior, states[:, t].expand(count, -1))
            paths[:, t] = mean + torch.exp(0.5 * logvar) * noise[t]
            p, q = (Normal(m, torch.exp(0.5 * v)) for m, v in (prior, (mean, logvar)))
            scores = model(ids.expand(count, -1), latents=paths).logits.log_softmax(-1)[:, :-1]
            nats = scores.gather(2, ids[:, 1:, None].expand(count, -1, 1)).squeeze(2)
            alpha = (nats * (segment_ids[:, 1:] == t + 1)).sum(1)
            log_weights = log_weights + alpha + (p.log_prob(paths[:, t]) - q.log_prob(paths[:, t])).sum(1)
            step = log_weights.logsumexp(0)
            total, log_weights = total + step.item(), log_weights - step
            effective = 1 / log_weights.exp().square().sum()
            assert out.effective_sample_size_per_step[0, t].item() == pytest.approx(effective.item(), rel=1e-8)
            assert bool(out.resampled[0, t]) == (t < 2 and effective < count / 2)
            if out.resampled[0, t]:
                paths = paths[systematic_ancestors(log_weights, uniforms[t])]
                log_weights = torch.full_like(log_weights, -math.log(count))
    assert out.resampled.any()
    assert out.log_likelihood.item() == pytest.approx(total, abs=1e-8)
    assert out.elbo is None and out.latents is None


@pytest.mark.parametrize("name", ["recurrent", "context"])
def test_batches_padding_and_chunks_change_no_filter(name):
    model = tiny_model("llama", latent_dynamics=name).double()
    ids, mask, _ = make_batch(TEXTS)
    settings = {"method": "particle", "return_dict": True}
    wanted = model.log_likelihood(ids, mask, 9, generator=seeded(), **settings)
    assert wanted.resampled.any() and wanted.log_likelihood.shape == (3,)
    assert wanted.effective_sample_size_per_step.isnan().tolist() == [
        [False] * 3,
        [False, True, True],
        [False] * 2 + [True],
    ]
    for rows in ({}, {"max_rows": 1}, {"max_rows": 4}):
        for side in ("left", "right"):
            found = model.log_likelihood(*make_batch(TEXTS, side)[:2], 9, generator=seeded(), **settings, **rows)
            torch.testing.assert_close(found.log_likelihood, wanted.log_likelihood, atol=1e-8, rtol=0)
    generator = seeded()
    alone = [model.log_likelihood(torch.tensor([text]), None, 9, generator=generator, **settings) for text in TEXTS]
    for row, one in enumerate(alone):
        assert one.log_likelihood.item() == pytest.approx(wanted.log_likelihood[row].item(), abs=1e-8)
        steps = one.resampled.shape[1]
        assert torch.equal(one.resampled[0], wanted.resampled[row, :steps]) and not wanted.resampled[row, steps:].any()
    other = model.log_likelihood(ids, mask, 9, generator=seeded(1), **settings)
    assert (other.log_likelihood - wanted.log_likelihood).abs().max() > 1e-2


def test_each_token_is_decoded_once():
    model = tiny_model()
    tokens = []
    hook = model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    model.log_likelihood(torch.tensor(TEXTS[:1]), None, 5, method="particle", max_rows=2)
    hook.remove()
    encoder = 2  # the context and the segments, once
    assert sum(tokens[encoder:]) == 5 * (len(TEXTS[0]) - 1) and len(tokens) == encoder + 3 * 3


def test_a_plain_model_has_nothing_to_filter():
    model = tiny_model(latent_dynamics="none")
    ids, mask, _ = make_batch(TEXTS)
    torch.testing.assert_close(model.log_likelihood(ids, mask, method="particle"), model.log_likelihood(ids, mask))


def test_particles_that_overflow_have_no_weight():
    model = tiny_model(prior_logvar_bound=None, seed=1)
    with torch.no_grad():
        model.dynamics.prior_network.weight[4:, :4] = 60.0
    settings = {"method": "particle", "generator": seeded(), "return_dict": True}
    out = model.log_likelihood(torch.tensor(TEXTS[:1]), None, 50, **settings)
    assert out.log_likelihood.isfinite() and (out.effective_sample_size_per_step >= 1 - 1e-9).all()
    with torch.no_grad():
        model.dynamics.prior_network.bias.fill_(math.inf)  # z_2 of every particle
    found = model.log_likelihood(torch.tensor(TEXTS[:1]), None, 5, **settings)
    assert found.log_likelihood.item() == -math.inf


# ---- Data sets ----


def rows_of(texts):
    return [{"input_ids": text} for text in texts]


@pytest.mark.usefixtures("architecture")
def test_data_set_figures_are_those_of_each_text():
    model, processor = tiny_model(), tiny_processor()
    found = evaluate_likelihood(model, rows_of(TEXTS), processor, 8, batch_size=2, seed=3)
    generator = seeded(3)
    for row, text in enumerate(TEXTS):
        out = model.log_likelihood(torch.tensor([text]), None, 8, generator=generator, return_dict=True)
        segments = out.kl.shape[1]
        assert found.log_likelihood[row].item() == pytest.approx(out.log_likelihood.item(), abs=1e-4)
        assert found.ess[row].item() == pytest.approx(out.effective_sample_size.item(), rel=1e-3)
        assert found.reconstruction[row].item() == pytest.approx(out.reconstruction.mean().item(), abs=1e-4)
        assert found.neg_elbo[row].item() == pytest.approx(-out.elbo.item(), abs=1e-4)
        assert found.kl[row].item() == pytest.approx(out.kl.sum().item(), abs=1e-4)
        by_segment = found.kl_per_segment_position[row]
        torch.testing.assert_close(by_segment[:segments], out.kl[0].sum(-1), atol=1e-4, rtol=0)
        assert by_segment[segments:].isnan().all()
        torch.testing.assert_close(found.kl_per_dim[row], out.kl[0].mean(0), atol=1e-4, rtol=0)
    assert found.tokens.tolist() == [9, 4, 7]  # EOS counted; BOS, [SEP] and padding not
    assert found.words.tolist() == [8, 3, 6]
    assert found.num_segments.tolist() == [3, 1, 2]
    total = -found.log_likelihood.sum().item()
    assert found.perplexity == pytest.approx(math.exp(total / 20)) and found.nats_per_text == pytest.approx(total / 3)
    assert found.perplexity_per_word == pytest.approx(math.exp(total / 17))
    assert found.mean_kl_per_segment_and_dim == pytest.approx(found.kl.sum().item() / (6 * 4))
    assert found.neg_elbo_perplexity == pytest.approx(math.exp(found.neg_elbo.sum().item() / 20))
    summary = found.summary()
    assert (summary["texts"], summary["tokens"], summary["num_samples"]) == (3, 20, 8)
    assert summary.pop("method") == "importance" and summary["share_resampled"] == 0
    assert all(math.isfinite(value) for value in summary.values())
    # data sets, loaders and one batch are the same
    collator = TraceDataCollator(processor)
    loader = DataLoader(rows_of(TEXTS), batch_size=2, collate_fn=collator)
    for data in (Dataset.from_list(rows_of(TEXTS)), loader, collator(rows_of(TEXTS)), iter(rows_of(TEXTS))):
        again = evaluate_likelihood(model, data, processor, 8, seed=3)
        torch.testing.assert_close(again.log_likelihood, found.log_likelihood, atol=1e-4, rtol=0)
        assert torch.equal(again.tokens, found.tokens) and torch.equal(again.words, found.words)


def test_data_set_figures_of_a_particle_filter():
    model, processor = tiny_model(), tiny_processor()
    found = evaluate_likelihood(model, rows_of(TEXTS), processor, 8, method="particle", batch_size=2, seed=3)
    generator = seeded(3)
    own = seeded(int(torch.randint(2**62, (), generator=generator)))
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([text])
        out = model.log_likelihood(ids, None, 8, method="particle", generator=generator, return_dict=True)
        beside = model.elbo(ids, None, 8, generator=own, return_dict=True)
        assert found.log_likelihood[row].item() == pytest.approx(out.log_likelihood.item(), abs=1e-4)
        assert found.neg_elbo[row].item() == pytest.approx(-beside.elbo.item(), abs=1e-4)
        assert found.kl[row].item() == pytest.approx(beside.kl.sum().item(), abs=1e-4)
        steps = out.resampled.shape[1]
        by_step = found.ess_per_step[row]
        torch.testing.assert_close(by_step[:steps], out.effective_sample_size_per_step[0], rtol=1e-3, atol=0)
        assert by_step[steps:].isnan().all() and found.ess[row].item() == pytest.approx(by_step[:steps].min().item())
        assert found.resampled[row, : steps - 1].tolist() == out.resampled[0, :-1].double().tolist()
        assert found.resampled[row, steps - 1 :].isnan().all()
    summary = found.summary()
    assert summary["method"] == found.method == "particle"
    assert (
        summary["share_resampled"] == pytest.approx(found.resampled.nansum().item() / 3) and 0 < found.share_resampled
    )
    assert summary["ess_median_per_step"] == found.ess_per_step.nanmedian().item()
    again = evaluate_likelihood(model, rows_of(TEXTS), processor, 8, method="particle", batch_size=3, seed=3)
    torch.testing.assert_close(again.log_likelihood, found.log_likelihood, atol=1e-4, rtol=0)
    torch.testing.assert_close(again.neg_elbo, found.neg_elbo, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="`method` must be 'importance' or 'particle', got 'both'"):
        evaluate_likelihood(model, rows_of(TEXTS), processor, method="both")


@pytest.mark.usefixtures("architecture")
def test_a_prompt_is_neither_paid_for_nor_counted():
    model, processor = tiny_model(conditional=True), tiny_processor(conditional=True)
    found = evaluate_likelihood(model, rows_of(PROMPTED), processor, 4)
    assert found.tokens.tolist() == [9, 4, 7] and found.words.tolist() == [8, 3, 6]
    with pytest.raises(ValueError, match="`processor` must be as conditional as the model, got False and True"):
        evaluate_likelihood(model, rows_of(PROMPTED), tiny_processor())


@pytest.mark.parametrize("name", ["none", "single"])
def test_texts_without_segments(name):
    model = tiny_model(latent_dynamics=name)
    texts = [[token for token in text if token != SEP] for text in TEXTS]
    found = evaluate_likelihood(model, rows_of(texts), tiny_processor(None), 4)
    assert found.tokens.tolist() == [9, 4, 7] and found.words.tolist() == [8, 3, 6]
    assert found.kl_per_segment_position.shape == (3, int(name == "single"))
    assert (found.kl > 0).all() == (name == "single") and found.kl_per_dim.shape == (3, 4)
    if name == "none":
        assert (found.kl == 0).all() and found.mean_kl_per_segment_and_dim == 0
        torch.testing.assert_close(-found.neg_elbo, found.log_likelihood)


def test_shorter_segments_do_not_lower_perplexity():
    """A uniform model pays log V for each [SEP]: the more segments, the higher the perplexity of the same tokens."""
    model = tiny_model(latent_dynamics="independent")
    with torch.no_grad():
        model.lm_head.weight.zero_()
        for norm in (model.dynamics.mean_norm, model.dynamics.logvar_norm):
            norm.gamma = 0.0
            norm.bias.zero_()  # the posterior is the prior
    text = " ".join(f"w{i}" for i in range(4, 16))
    perplexities = []
    for length in (12, 6, 3, 1):
        processor = tiny_processor(length)
        ids = processor(text)["input_ids"]
        found = evaluate_likelihood(model, rows_of([ids]), processor, 3)
        assert found.tokens.item() == 13 and found.words.item() == 12
        separators = ids.count(SEP)
        assert found.perplexity == pytest.approx(math.exp(math.log(VOCAB) * (13 + separators) / 13), rel=1e-4)
        perplexities.append(found.perplexity)
    assert perplexities == sorted(perplexities) and perplexities[-1] > 2 * perplexities[0]


@pytest.mark.parametrize(
    "data,message",
    [
        ([], "`data` holds no text"),
        (["a text"], "`data` must have rows with `input_ids`, got 'a text'. Tokenise first"),
        ([{"text": "a"}], "`data` must have rows with `input_ids`, got text"),
        (DatasetDict({"train": Dataset.from_list(rows_of(TEXTS))}), "Did you pass the DatasetDict"),
        ("a text", "`data` must be a data set, rows or batches, got 'a text'"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(ValueError, match=message):
        evaluate_likelihood(tiny_model(), data, tiny_processor(), 2)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1, got 0"):
        evaluate_likelihood(tiny_model(), rows_of(TEXTS), tiny_processor(), batch_size=0)
    with pytest.raises(ValueError, match="`processor` must be a TraceProcessor"):
        evaluate_likelihood(tiny_model(), rows_of(TEXTS), None)
