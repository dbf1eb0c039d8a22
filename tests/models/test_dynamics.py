"""The laws of each system of the paper: its Gaussians by hand, its KL floor, no leak, generation re-scored."""

import math
from itertools import product

import pytest
import torch
from helpers.generation import MODES, rescoring_error, returned_mask, run
from helpers.processes import one_and_two_processes
from helpers.tiny import SEP, VOCAB, make_batch, make_text, tiny_config, tiny_model, under_both
from torch.distributions import Normal, kl_divergence

from modeling_trace import TraceConfig
from modeling_trace.models.dynamics_registry_trace import LATENT_DYNAMICS
from modeling_trace.models.dynamics_trace import LatentDynamics
from modeling_trace.models.gaussian_trace import PosteriorNorm

DYNAMICS = ["recurrent", "parallel", "independent", "context", "single"]
# Table 5, and the posteriors of the baselines as published
ABLATIONS = {
    "-LN": {"posterior_norm": "none"},
    "+BN": {"posterior_norm": "batch"},
    "-RP": {"residual_posterior": False},
    "-LN-RP": {"posterior_norm": "none", "residual_posterior": False},
    "additive": {"residual_scale": "none"},
    "unbounded": {"prior_logvar_bound": None},
}
TEXTS = [make_text([3, 3, 2], seed=1), make_text([3], seed=2), make_text([3, 3], seed=3)]
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
GAUSSIANS = ("prior_mean", "prior_logvar", "posterior_mean", "posterior_logvar", "latents")


def dynamics(name, seed=0, **settings):
    """Double precision, every weight drawn, biases too."""
    torch.manual_seed(seed)
    made = LATENT_DYNAMICS[name](tiny_config(latent_dynamics=name, **settings)).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for _ in range(10 if name == "parallel" else 0):  # spectral norm follows in training mode
        made.train()._recurrent_weight()
    return made.eval()


def states(seed=0, batch=3, steps=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, steps, 32, generator=generator, dtype=torch.float64)


def run_dynamics(made, context, posterior, mask=MASK, **settings):
    if made.one_per_text:
        mask, context, posterior = mask[:, :1], context[:, :1], posterior[:, :1]
    return made(context if made.reads_context else None, posterior, mask, **settings)


# ---- Gaussians ----


def gaussians_by_hand(made, name, settings, context, posterior, mask):
    """Prior and posterior from the weights, one text and one step at a time, with z the posterior's mean."""
    size, scale = made.latent_size, settings.get("residual_scale", "prior")
    bound = settings.get("prior_logvar_bound", 2.0)
    g = posterior @ made.posterior_network.weight.T + made.posterior_network.bias
    normed = []
    for part, norm in ((g[..., :size], made.mean_norm), (g[..., size:], made.logvar_norm)):
        kind = settings.get("posterior_norm", "layer")
        if kind == "layer":
            centred = part - part.mean(-1, keepdim=True)
            part = 0.7 * centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        elif kind == "batch":  # running statistics as they come: mean 0, variance 1
            part = 0.7 * part / math.sqrt(1 + 1e-5)
        normed.append(part + norm.bias)
    rows = []
    for b in range(len(mask)):
        z, steps = torch.zeros(size, dtype=torch.float64), []
        for t in range(int(mask[b].sum())):
            if name == "independent" or t == 0:
                mean = logvar = torch.zeros(size, dtype=torch.float64)
            elif name == "context":
                network = made.prior_network
                mean, logvar = (network.weight @ context[b, t] + network.bias).split(size)
            elif name == "recurrent":
                network = made.prior_network
                mean, logvar = (network.weight @ torch.cat([z, context[b, t]]) + network.bias).split(size)
            elif name == "parallel":
                network = made.prior_network
                mean, logvar = (network.weight @ context[b, t] + network.bias).split(size)
                mean = mean + made.recurrent_mean.weight @ z
                logvar = logvar + made.recurrent_logvar.weight @ z
            if bound is not None:
                logvar = bound * torch.tanh(logvar / bound)
            dmean, dlogvar = normed[0][b, t], normed[1][b, t]
            if not settings.get("residual_posterior", True):
                q_mean, q_logvar = dmean, dlogvar
            else:
                q_mean = mean + (dmean * torch.exp(logvar / 2) if scale == "prior" else dmean)
                q_logvar = logvar + dlogvar
            z = q_mean
            steps.append(torch.stack([mean, logvar, q_mean, q_logvar]))
        rows.append(steps)
    return rows


@pytest.mark.parametrize("ablation", ["as_is", *ABLATIONS])
@pytest.mark.parametrize("name", DYNAMICS)
def test_gaussians_and_kl_by_hand(name, ablation):
    settings = ABLATIONS.get(ablation, {})
    made = dynamics(name, **settings)
    context, posterior = states()
    found = run_dynamics(made, context, posterior, sample=False)
    mask = MASK[:, :1] if name == "single" else MASK
    by_hand = gaussians_by_hand(made, name, settings, context, posterior, mask)
    for b, steps in enumerate(by_hand):
        for t, (mean, logvar, q_mean, q_logvar) in enumerate(steps):
            for value, wanted in zip(GAUSSIANS, (mean, logvar, q_mean, q_logvar, q_mean), strict=True):
                torch.testing.assert_close(getattr(found, value)[b, t], wanted, atol=1e-12, rtol=1e-12)
            q, p = Normal(q_mean, torch.exp(q_logvar / 2)), Normal(mean, torch.exp(logvar / 2))
            torch.testing.assert_close(found.kl()[b, t], kl_divergence(q, p), atol=1e-12, rtol=1e-12)
        assert not any(getattr(found, value)[b, len(steps) :].any() for value in GAUSSIANS)  # padded steps
        assert not found.kl()[b, len(steps) :].any()


@pytest.mark.parametrize("ablation", ["as_is", *ABLATIONS])
@pytest.mark.parametrize("name", DYNAMICS)
def test_the_fast_form_is_the_step_by_step_form(name, ablation):
    """`LatentDynamics.forward`, which walks over `prior` and `combine`, and what each class does instead."""
    made = dynamics(name, **ABLATIONS.get(ablation, {}))
    context, posterior = states(seed=1)
    fast = run_dynamics(made, context, posterior, sample=False)
    made.reads_previous = True  # one step after the other, whatever the prior reads
    if made.one_per_text:
        context, posterior = context[:, :1], posterior[:, :1]
    slow = LatentDynamics.forward(
        made, context if made.reads_context else None, posterior, MASK[:, : posterior.shape[1]], sample=False
    )
    for value in GAUSSIANS:
        torch.testing.assert_close(getattr(fast, value), getattr(slow, value), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", DYNAMICS)
def test_draws_come_from_the_posterior(name):
    made = dynamics(name)
    rows = 20_000
    context, posterior = (x.expand(rows, -1, -1) for x in states(batch=1, steps=1))
    mask = torch.ones(rows, 1, dtype=torch.bool)
    for training in (False, True):  # TRACE-P has another path in training
        made.train(training)
        found = run_dynamics(made, context, posterior, mask, generator=torch.Generator().manual_seed(0))
        standard = (found.latents - found.posterior_mean) / torch.exp(0.5 * found.posterior_logvar)
        # five standard errors: of a mean 1 / sqrt(n), of a variance sqrt(2 / n)
        assert standard.mean(0).abs().max() < 5 / math.sqrt(rows)
        assert (standard.var(0) - 1).abs().max() < 5 * math.sqrt(2 / rows)


# ---- Theorem 1 ----


def _kl_and_parts(residual_scale, equal_beta, gamma=3.0):
    made = dynamics("recurrent", residual_scale=residual_scale, posterior_norm_gamma=gamma)
    if equal_beta:
        with torch.no_grad():
            made.mean_norm.bias.fill_(0.4)
    context, posterior = states(seed=2, batch=200)
    mask = torch.ones(200, 4, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    found = made(context, posterior, mask, generator=generator)
    g = posterior @ made.posterior_network.weight[:4].T + made.posterior_network.bias[:4]
    variance = g.var(-1, correction=0)
    # what LayerNorm's epsilon takes off: sum n_d^2 = l v / (v + eps)
    squares = 4 * variance / (variance + 1e-5)
    return made, found, found.kl().sum(-1), squares, gamma, made.mean_norm.bias.detach()


def test_kl_floor_of_the_scaled_residual():
    """Theorem 1 in units of sigma_t: KL_t >= l (gamma^2 + beta^2) / 2 for every text and step, beta all equal."""
    made, _, kl, squares, gamma, beta = _kl_and_parts("prior", equal_beta=True)
    floor = (gamma**2 * squares + 4 * beta[0] ** 2) / 2
    assert (kl >= floor - 1e-9).all()
    assert (floor > 0.98 * 4 * (gamma**2 + 0.4**2) / 2).all()
    # and no more than that: it is reached where the posterior is as wide as the prior
    context, posterior = states(seed=2, batch=200)
    made.logvar_norm.gamma = 0.0
    torch.nn.init.zeros_(made.logvar_norm.bias)
    reached = made(context, posterior, torch.ones(200, 4, dtype=torch.bool)).kl().sum(-1)
    torch.testing.assert_close(reached, floor, atol=1e-9, rtol=1e-9)


def test_kl_floor_with_a_learned_beta_per_dimension():
    """
    KL_t = sum_d [(gamma n_d + beta_d)^2 + s_d^2 - log s_d^2 - 1] / 2: the cross term gamma sum_d n_d beta_d enters, so
    the KL may be below l gamma^2 / 2 + |beta|^2 / 2. As sum n_d = 0, only beta's spread counts, and what holds is
    KL_t >= [(gamma sqrt(sum n_d^2) - |beta - mean beta|)_+^2 + l (mean beta)^2] / 2.
    """
    made, found, kl, squares, gamma, _ = _kl_and_parts("prior", equal_beta=False)
    with torch.no_grad():
        made.mean_norm.bias.copy_(torch.tensor([2.0, -1.0, 0.5, 1.5]))
    context, posterior = states(seed=2, batch=200)
    found = made(context, posterior, torch.ones(200, 4, dtype=torch.bool), generator=torch.Generator().manual_seed(0))
    kl, beta = found.kl().sum(-1), made.mean_norm.bias.detach()
    delta_mean, delta_logvar = made.residual(posterior)
    exact = 0.5 * (delta_mean.square() + delta_logvar.exp() - delta_logvar - 1).sum(-1)
    torch.testing.assert_close(kl, exact, atol=1e-9, rtol=1e-9)
    spread = (beta - beta.mean()).norm()
    floor = ((gamma * squares.sqrt() - spread).clamp_min(0).square() + 4 * beta.mean() ** 2) / 2
    assert (kl >= floor - 1e-9).all()
    # and the naive bound fails: the theorem as printed needs beta equal in all dimensions
    assert (kl < (gamma**2 * squares + beta.square().sum()) / 2).any()


def test_kl_floor_of_the_papers_additive_residual():
    """Theorem 1 as printed, l (gamma^2 + beta^2) / (2 sigma_t^2): with the largest sigma_t of the segment."""
    _, found, kl, squares, gamma, beta = _kl_and_parts("none", equal_beta=True)
    widest = found.prior_logvar.amax(-1).exp()
    floor = (gamma**2 * squares + 4 * beta[0] ** 2) / (2 * widest)
    assert (kl >= floor - 1e-9).all()
    # sigma_t is learned: where the prior is wider, the floor is lower than in its own units
    assert (kl < (gamma**2 * squares + 4 * beta[0] ** 2) / 2).any()


# ---- TRACE-P ----


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_parallel_latents_by_hand(spectral_norm):
    """Eq. 12 to 14 for T = 3, in the paper's additive form without a bound."""
    made = dynamics("parallel", residual_scale="none", prior_logvar_bound=None, spectral_norm=spectral_norm)
    context, posterior = states(seed=3, batch=2, steps=3)
    eps, xi = states(seed=4, batch=3, steps=2)[..., :4]  # time-major
    mask = torch.ones(2, 3, dtype=torch.bool)
    first = torch.tensor([[True], [False], [False]]).expand(3, 2)
    inputs = made._prior_inputs(context.transpose(0, 1), first)
    delta = [x.transpose(0, 1) for x in made.residual(posterior, mask)]
    w_mu1, w_sigma1 = made.recurrent_mean.weight, 0.5 * made.recurrent_logvar.weight  # of log sigma
    found = made.approximate_latents(inputs, *delta, eps, xi, torch.cat([w_mu1, 2 * w_sigma1]))
    w, bias = made.prior_network.weight, made.prior_network.bias
    for b in range(2):
        v, u = [], []
        for t in range(3):
            context_mean = w[:4] @ context[b, t] + bias[:4] if t else torch.zeros(4, dtype=torch.float64)
            context_sigma = 0.5 * (w[4:] @ context[b, t] + bias[4:]) if t else torch.zeros(4, dtype=torch.float64)
            dmu, dsigma = delta[0][t, b], 0.5 * delta[1][t, b]
            v.append((context_mean + dmu) + eps[t, b] + (context_sigma + dsigma) * eps[t, b])  # Eq. 13
            u.append(w_mu1 @ v[t] + (w_sigma1 @ v[t]) * xi[t, b])  # Eq. 14
        for t, wanted in enumerate([v[0], v[1] + u[0], v[2] + u[0] + u[1]]):  # Eq. 12
            torch.testing.assert_close(found[t, b], wanted, atol=1e-12, rtol=1e-12)


def test_parallel_priors_come_from_the_approximate_latents():
    made = dynamics("parallel", spectral_norm=False).train()  # whose power iterations would move the weights meanwhile
    context, posterior = states(seed=5)
    seen = []
    exact_form = made.approximate_latents
    made.approximate_latents = lambda *args: seen.append(exact_form(*args)) or seen[-1]
    found = made(context, posterior, MASK, generator=torch.Generator().manual_seed(0))
    approximate = seen[0].transpose(0, 1)
    for t in range(1, 4):
        mean, logvar = made.prior(approximate[:, t - 1], context[:, t], torch.zeros(3, dtype=torch.bool))
        keep = MASK[:, t : t + 1]
        torch.testing.assert_close(found.prior_mean[:, t], mean * keep, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(found.prior_logvar[:, t], logvar * keep, atol=1e-12, rtol=1e-12)


def _recurrent_twin(parallel):
    """A TRACE-R with the same weights."""
    twin = dynamics("recurrent")
    with torch.no_grad():
        weight = torch.cat([parallel._recurrent_weight(), parallel.prior_network.weight], dim=1)
        twin.prior_network.weight.copy_(weight)
        twin.prior_network.bias.copy_(parallel.prior_network.bias)
        for name in ("posterior_network", "mean_norm", "logvar_norm"):
            getattr(twin, name).load_state_dict(getattr(parallel, name).state_dict())
    return twin


def test_parallel_equals_recurrent_on_one_segment_and_in_eval_mode():
    parallel = dynamics("parallel")
    twin = _recurrent_twin(parallel)
    context, posterior = states(seed=6)
    one = MASK & (torch.arange(4) < 1)
    for training, mask, equal in ((False, MASK, True), (True, one, True), (True, MASK, False)):
        parallel.train(training)
        found = parallel(context, posterior, mask, generator=torch.Generator().manual_seed(0))
        wanted = twin(context, posterior, mask, generator=torch.Generator().manual_seed(0))
        same = all(torch.allclose(getattr(found, x), getattr(wanted, x), atol=1e-12, rtol=1e-12) for x in GAUSSIANS)
        assert same == equal, (training, equal)


def test_approximation_error_is_what_it_says():
    model = tiny_model(latent_dynamics="parallel")
    ids, mask, _ = make_batch(TEXTS)
    error = model.approximation_error(ids, mask, generator=torch.Generator().manual_seed(0))
    assert error.shape == (3,) and (error > 0).all()
    # without noise and without a variance to linearise nothing is left at the first step
    with torch.no_grad():
        model.dynamics.posterior_network.weight[4:].zero_()
        model.dynamics.logvar_norm.bias.zero_()
    assert model.approximation_error(ids, mask)[0] < 1e-6 < model.approximation_error(ids, mask)[2]
    free = tiny_model(latent_dynamics="parallel", residual_posterior=False)
    assert free.approximation_error(ids, mask).max() < 1e-6  # -RP: z_t does not depend on z_{t-1}
    with pytest.raises(ValueError, match="must be 'parallel', the only one that approximates, got 'recurrent'"):
        tiny_model().approximation_error(ids, mask)


def test_spectral_norms_are_one_from_the_start_and_while_training():
    model = tiny_model(latent_dynamics="parallel", latent_size=32)
    for layer in (model.dynamics.recurrent_mean, model.dynamics.recurrent_logvar):
        assert 0.9 < torch.linalg.matrix_norm(layer.weight, ord=2).item() <= 1 + 1e-3
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids, mask, labels = make_batch(TEXTS)
    before = model.dynamics.recurrent_mean.weight.detach().clone()
    for _ in range(30):
        optimizer.zero_grad()
        model(ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
    model(ids, attention_mask=mask, labels=labels)  # as the next step sees it
    model.eval()
    for layer in (model.dynamics.recurrent_mean, model.dynamics.recurrent_logvar):
        norm = torch.linalg.matrix_norm(layer.weight, ord=2).item()
        assert 0.9 < norm <= 1 + 1e-3
    assert (model.dynamics.recurrent_mean.weight - before).abs().max() > 1e-3  # it did train
    free = tiny_model(latent_dynamics="parallel", spectral_norm=False, initializer_range=1.0)
    assert torch.linalg.matrix_norm(free.dynamics.recurrent_mean.weight, ord=2) > 1.1


# ---- Batch norm ----


def test_batch_norm_equals_torch_on_the_segments_that_there_are():
    """Padded steps do not enter the statistics, in training, in the running ones, or in the gradient."""
    torch.manual_seed(0)
    norm = PosteriorNorm(4, "batch", gamma=0.7, beta_init=0.5).double().train()
    reference = torch.nn.BatchNorm1d(4).double().train()
    with torch.no_grad():
        reference.weight.fill_(0.7)
        reference.bias.fill_(0.5)
    for step in range(3):
        x = torch.randn(3, 4, 4, dtype=torch.float64) * (step + 1) + step
        x[~MASK] = float("inf")  # whatever stands there
        x.requires_grad_()
        found = norm(x, MASK)[MASK]
        own = x.detach()[MASK].requires_grad_()
        wanted = reference(own)
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)
        upstream = torch.randn_like(found)
        found.backward(upstream)
        wanted.backward(upstream)
        torch.testing.assert_close(x.grad[MASK], own.grad, atol=1e-12, rtol=1e-12)
        assert not x.grad[~MASK].nan_to_num().any()
        torch.testing.assert_close(norm.running_mean, reference.running_mean.to(norm.running_mean.dtype))
        torch.testing.assert_close(norm.running_var, reference.running_var.to(norm.running_var.dtype))
    norm.eval()
    reference.eval()
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(norm(x, MASK), reference(x.flatten(0, 1)).view_as(x), atol=1e-6, rtol=0)
    norm.train()  # one step alone has no batch
    torch.testing.assert_close(norm(x), reference(x.flatten(0, 1)).view_as(x), atol=1e-6, rtol=0)


def test_batch_norm_survives_saving(tmp_path):
    model = tiny_model(latent_dynamics="recurrent", posterior_norm="batch").train()
    ids, mask, labels = make_batch(TEXTS)
    for _ in range(3):
        model(ids, attention_mask=mask, labels=labels)
    assert model.dynamics.mean_norm.running_mean.abs().max() > 0
    model.eval().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(again.dynamics.mean_norm.running_var, model.dynamics.mean_norm.running_var)
    torch.testing.assert_close(again(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits)


# ---- The model ----


@pytest.mark.parametrize("ablation", ["as_is", *ABLATIONS])
@pytest.mark.parametrize("architecture,name", under_both(DYNAMICS), indirect=["architecture"])
def test_training_reaches_every_part_and_padding_changes_nothing(name, ablation, architecture):
    model = tiny_model(latent_dynamics=name, **ABLATIONS.get(ablation, {}))
    for side in ("right", "left"):
        ids, mask, labels = make_batch(TEXTS, side)
        many = model(ids, attention_mask=mask, labels=labels)
        alone = [model(torch.tensor([text]), labels=torch.tensor([[-100, *text[1:]]])) for text in TEXTS]
        for part in ("reconstruction_loss", "kl_loss"):
            mean = sum(one[part] for one in alone) / len(alone)
            torch.testing.assert_close(many[part], mean, atol=1e-4, rtol=1e-5)
    model.train()
    model(ids, attention_mask=mask, labels=labels).loss.backward()
    untouched = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert untouched == []
    if name != "independent" and not (name == "single"):
        assert model.dynamics.prior_network.weight.grad.abs().max() > 0


@pytest.mark.parametrize("architecture,name", under_both(DYNAMICS), indirect=["architecture"])
def test_no_leak_into_the_prior(name, architecture):
    """Changing x_t changes no prior up to t, and, under the same latents, no logit before x_t."""
    model = tiny_model(latent_dynamics=name)
    text = make_text([3, 3, 3, 3], seed=5)
    changed = list(text)
    start = 1 + 2 * 4  # the first token of x_3
    for position in range(start, start + 3):
        changed[position] = 4 + (text[position] - 3) % (VOCAB - 4)
    before, after = (model(torch.tensor([ids])) for ids in (text, changed))
    steps = 1 if name == "single" else 3
    if name == "recurrent" or name == "parallel":  # z_<t from x_<t
        torch.testing.assert_close(after.latents[:, :2], before.latents[:, :2], atol=1e-6, rtol=0)
    for value in ("prior_mean", "prior_logvar"):
        torch.testing.assert_close(after[value][:, :steps], before[value][:, :steps], atol=1e-6, rtol=0)
    if name not in ("independent", "single"):
        assert (after.prior_mean[:, 3] - before.prior_mean[:, 3]).abs().max() > 1e-3  # z_4's prior does see x_3
    where = 0 if name == "single" else 2
    assert (after.posterior_mean[:, where] - before.posterior_mean[:, where]).abs().max() > 1e-3
    if name in ("context", "single"):  # whose posterior sees the whole text
        assert (after.posterior_mean[:, 0] - before.posterior_mean[:, 0]).abs().max() > 1e-3
    if name == "independent":
        torch.testing.assert_close(after.posterior_mean[:, :2], before.posterior_mean[:, :2], atol=1e-6, rtol=0)
    latents = before.latents
    first, second = (model(torch.tensor([ids]), latents=latents).logits for ids in (text, changed))
    torch.testing.assert_close(first[:, :start], second[:, :start], atol=1e-5, rtol=0)


def test_single_latent_is_at_every_position():
    model = tiny_model(latent_dynamics="single")
    ids, mask, _ = make_batch(TEXTS)  # [SEP] in these texts is a token like others
    found = model.encode(ids, mask)
    assert found.latents.shape == (3, 1, 4) and found.segment_ids.max() == 1
    seen = []
    hook = model.latent_injection.register_forward_hook(lambda module, args, _: seen.append(args[0]))
    model(ids, attention_mask=mask, latents=found.latents)
    hook.remove()
    for row in range(3):
        real = mask[row].bool()
        assert (seen[0][row][real] == found.latents[row, 0]).all()
    config = tiny_config(latent_dynamics="single", sep_token_id=None)
    assert type(model)(config).has_latents  # no [SEP] needed
    with pytest.raises(ValueError, match="`sep_token_id` is needed for segments and prompts"):
        type(model)(tiny_config(sep_token_id=None))


CASES = [
    (name, mode, kind, {})
    for name in DYNAMICS[1:]
    for mode in ("greedy", "sample_3_returned", "beam_4_of_2", "beam_sampling")
    for kind in ("none", "left_padded")
]
CASES += [
    (name, mode, "left_padded", {"latent_layer": 1})
    for name in ("parallel", "independent", "single")
    for mode in ("sample_3_returned", "beam_4_of_2")
]
CASES += [
    (name, mode, "left_padded", ABLATIONS[ablation])
    for name in ("recurrent", "context")
    for mode in ("top_p", "beam_4_of_2")
    for ablation in ABLATIONS
]


@pytest.mark.parametrize("name,mode,kind,settings", CASES)
def test_every_returned_row_is_reproduced_by_its_own_latents(name, mode, kind, settings):
    model = tiny_model("llama", latent_dynamics=name, segment_length=None, **settings)
    out = run(model, kind, **MODES[mode])
    uncached = run(model, kind, use_cache=False, **MODES[mode])
    assert torch.equal(out.sequences, uncached.sequences)
    torch.testing.assert_close(out.latents, uncached.latents, atol=1e-5, rtol=0)
    assert rescoring_error(model, out, kind, out.latents) < 1e-4
    assert rescoring_error(model, out, kind, out.latents + 0.1) > 1e-3  # the law can fail


@pytest.mark.parametrize("name", DYNAMICS)  # between layers: the recurrent one's, in test_generation.py
def test_generated_latents_come_from_the_prior_of_the_text_so_far(name):
    """Every z that generate() drew, standardised by the prior that a full re-encoding gives, is standard normal."""
    model = tiny_model(latent_dynamics=name)
    rows = 6000
    out = run(model, "none", num_return_sequences=rows, do_sample=True, max_new_tokens=10, output_logits=False)
    mask = returned_mask(out, "none", 1)
    segments = model._segment_ids(out.sequences, mask, None)
    context, _, _ = model._encoder_states(out.sequences, mask, segments)
    previous = torch.zeros(rows, 4)
    for t in range(out.latents.shape[1]):
        begun = segments.amax(-1) > t
        step = None if context is None else context[:, t]
        mean, logvar = model.dynamics.prior(previous, step, torch.full((rows,), t == 0))
        standard = ((out.latents[:, t] - mean) / torch.exp(0.5 * logvar))[begun]
        n = standard.shape[0]
        if n > 500:
            # five standard errors: of a mean 1 / sqrt(n), of a variance sqrt(2 / n)
            assert standard.mean(0).abs().max() < 5 / math.sqrt(n), t
            assert (standard.var(0) - 1).abs().max() < 5 * math.sqrt(2 / n), t
        previous = out.latents[:, t]
    assert (name == "single") == (out.latents.shape[1] == 1)


def test_prompt_segments_get_the_posterior_of_the_prompt():
    """At temperature 0 the latents of a prompt's complete segments are the means that `encode` gives them."""
    prompt = torch.tensor([[0, 4, 5, 6, SEP, 7, 8, 9, SEP]])
    for latent_layer, name in [(None, "context"), *product([None, 1], ["recurrent", "parallel", "independent"])]:
        model = tiny_model(latent_dynamics=name, latent_layer=latent_layer)
        out = model.generate(prompt, max_new_tokens=4, latent_temperature=0, return_dict_in_generate=True)
        wanted = model.encode(prompt)
        torch.testing.assert_close(out.latents[:, :2], wanted.posterior_mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"latents": torch.zeros(2, 4)}, "`latents` must hold one latent per text for `latent_dynamics='single'`"),
        ({"min_segment_length": 2}, "cannot be used: this model has no segments"),
    ],
)
def test_single_has_no_segment_to_draw_again(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(latent_dynamics="single").generate(max_new_tokens=3, **settings)


@pytest.mark.parametrize("architecture,name", under_both(DYNAMICS), indirect=["architecture"])
def test_save_and_load(name, tmp_path, architecture):
    model = tiny_model(latent_dynamics=name)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.latent_dynamics == name
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    first, second = (run(m, "none", do_sample=True, seed=3) for m in (model, again))
    assert torch.equal(first.sequences, second.sequences)
    torch.testing.assert_close(first.latents, second.latents, atol=1e-6, rtol=0)


def test_the_papers_recipe(caplog):
    config = TraceConfig.paper(latent_dynamics="parallel")
    assert "no bound on the likelihood" in caplog.text
    assert (config.posterior_norm_gamma, config.latent_size, config.segment_length) == (3.0, 32, 10)
    assert (config.residual_scale, config.prior_logvar_bound, config.kl_reduction) == ("none", None, "mean")
    assert (config.posterior_norm, config.residual_posterior, config.spectral_norm) == ("layer", True, True)
    assert config.latent_dynamics == "parallel" and config.posterior_sigma_init == 1.0
    assert (config.latent_layer, config.separator, config.free_nats) == (None, "token", 0)
    assert TraceConfig.paper(latent_size=8).latent_size == 8


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"posterior_norm": "batchnorm"}, "`posterior_norm` must be one of 'layer', 'batch', 'none'"),
        ({"residual_posterior": "no"}, "`residual_posterior` must be True or False, got 'no'"),
        ({"latent_dynamics": "parralel"}, "Did you mean 'parallel'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**settings)


# ---- Two processes ----

SCRIPT = """
    import os
    import sys
    import torch
    import torch.distributed as dist
    from helpers.tiny import make_batch, make_text, tiny_model

    processes = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0))
    if processes > 1:
        dist.init_process_group("gloo")
    texts = [make_text([3] * n, seed=n) for n in (1, 4, 2, 3)]  # the processes have unequal numbers of segments
    ids, mask, labels = make_batch(texts)
    targets = (labels != -100).sum()
    mine = slice(0, 4) if processes == 1 else slice(2 * rank, 2 * rank + 2)
    found = {}
    cases = {name: dict(latent_dynamics=name) for name in
             ("recurrent", "parallel", "independent", "context", "single")}
    cases["+BN"] = dict(posterior_norm="batch")
    cases["-RP"] = dict(residual_posterior=False)
    cases["between layers"] = dict(latent_layer=1)
    cases["free bits"] = dict(latent_layer=1, posterior_norm="none", free_nats=3.0)
    for case, settings in cases.items():
        model = tiny_model(**settings).train()
        run = torch.nn.parallel.DistributedDataParallel(model) if processes > 1 else model
        for _ in range(2):  # an unused parameter would be an error at the second forward
            model.zero_grad()
            out = run(ids[mine], attention_mask=mask[mine], labels=labels[mine], sample_latents=False,
                      num_items_in_batch=targets)
            (out.loss * processes).backward()  # DDP averages
        found[case] = {name: p.grad for name, p in model.named_parameters()}
        found[case].update({name: b.clone() for name, b in model.named_buffers() if "running" in name})
    if rank == 0:
        torch.save(found, sys.argv[1] + "/result.pt")
    if processes > 1:
        dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_give_the_gradients_of_one(tmp_path):
    one, two = one_and_two_processes(SCRIPT, tmp_path)
    for case in one:
        for name, value in one[case].items():
            torch.testing.assert_close(two[case][name], value, atol=1e-6, rtol=1e-5, msg=f"{case} {name}")
    assert one["+BN"]["dynamics.mean_norm.running_mean"].abs().max() > 0
