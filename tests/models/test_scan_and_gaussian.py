import importlib.util
import math
import sys

import pytest
import torch
from functorch.compile import make_boxed_func
from helpers.tiny import tiny_config
from torch._dynamo.backends.common import aot_autograd
from torch.distributions import Normal, kl_divergence

from modeling_trace import gamma_for_rate
from modeling_trace.models import gaussian_trace, scan_trace
from modeling_trace.models.gaussian_trace import free_bits, gaussian_kl, smooth_bound
from modeling_trace.models.recurrent_dynamics_trace import RecurrentDynamics
from modeling_trace.models.scan_trace import recurrent_scan


def test_kl_equals_torch_distributions():
    torch.manual_seed(0)
    mean_q, logvar_q, mean_p, logvar_p = torch.randn(4, 5, 7, 3, dtype=torch.float64)
    wanted = kl_divergence(Normal(mean_q, (0.5 * logvar_q).exp()), Normal(mean_p, (0.5 * logvar_p).exp()))
    torch.testing.assert_close(gaussian_kl(mean_q, logvar_q, mean_p, logvar_p), wanted, atol=1e-12, rtol=1e-12)
    assert gaussian_kl(*(x.bfloat16() for x in (mean_q, logvar_q, mean_p, logvar_p))).dtype == torch.float32


def test_gamma_for_rate_is_the_floor_of_the_kl():
    """With mean residual of norm gamma * sqrt(l) and any variance, KL >= the rate asked for; equal at variance 1."""
    gamma, size = gamma_for_rate(10.0, 8), 8
    direction = torch.nn.functional.layer_norm(torch.randn(size, dtype=torch.float64), (size,), eps=0.0)
    zero = torch.zeros(size, dtype=torch.float64)
    assert math.isclose(gaussian_kl(gamma * direction, zero, zero, zero).sum().item(), 10.0, rel_tol=1e-9)
    assert gaussian_kl(gamma * direction, zero - 1, zero, zero).sum() > 10.0
    for bad in ((-1.0, 8), (1.0, 0)):
        with pytest.raises(ValueError, match="must be"):
            gamma_for_rate(*bad)


def scan_inputs(steps=5, batch=3, size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return (
        draw(steps, batch, 2 * size),
        draw(steps, batch, size),
        draw(steps, batch, size),
        draw(steps, batch, size),
        0.5 * draw(2 * size, size),
    )


def naive_scan(prior_inputs, delta_mean, delta_logvar, noise, weight, bound, residual_scale):
    """Eq. 9 to 11 as they are written, one step after the other."""
    size = delta_mean.shape[-1]
    z = torch.zeros_like(delta_mean[0])
    latents, means, logvars = [], [], []
    for t in range(delta_mean.shape[0]):
        mean, x = (z @ weight.t() + prior_inputs[t]).split(size, dim=-1)
        logvar = smooth_bound(x, bound)
        if residual_scale == "prior":
            z = mean + torch.exp(logvar / 2) * (delta_mean[t] + torch.exp(delta_logvar[t] / 2) * noise[t])
        else:
            z = mean + delta_mean[t] + torch.exp((logvar + delta_logvar[t]) / 2) * noise[t]
        latents.append(z)
        means.append(mean)
        logvars.append(logvar)
    return torch.stack(latents), torch.stack(means), torch.stack(logvars)


def operator_scan(*inputs):
    """What torch.compile calls."""
    return scan_trace._scan_op(*inputs[:-1], inputs[-1] == "prior")[:3]


FORMS = [(bound, scale) for bound in (None, 2.0) for scale in ("none", "prior")]
both_scans = pytest.mark.parametrize("any_scan", [recurrent_scan, operator_scan])


@both_scans
@pytest.mark.parametrize("bound,residual_scale", FORMS)
def test_scan_equals_the_naive_loop(bound, residual_scale, any_scan):
    inputs = scan_inputs(steps=9)
    for fast, slow in zip(
        any_scan(*inputs, bound, residual_scale), naive_scan(*inputs, bound, residual_scale), strict=True
    ):
        torch.testing.assert_close(fast, slow, atol=1e-12, rtol=1e-12)


@both_scans
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("bound,residual_scale", FORMS)
def test_scan_gradcheck(bound, residual_scale, steps, any_scan):
    prior_inputs, delta_mean, delta_logvar, noise, weight = scan_inputs(steps=steps)
    inputs = [x.requires_grad_() for x in (prior_inputs, delta_mean, delta_logvar, weight)]

    def scan(prior_inputs, delta_mean, delta_logvar, weight):
        return any_scan(prior_inputs, delta_mean, delta_logvar, noise, weight, bound, residual_scale)

    assert torch.autograd.gradcheck(scan, inputs)


@both_scans
def test_scan_latents_can_be_written_to(any_scan):
    inputs = scan_inputs()
    weight = inputs[-1].requires_grad_()
    latents, _, _ = any_scan(*inputs, 2.0, "prior")
    wanted = torch.autograd.grad(latents.sum(), weight, retain_graph=True)[0]
    latents.detach().zero_()
    torch.testing.assert_close(torch.autograd.grad(latents.sum(), weight)[0], wanted)


@both_scans
def test_scan_has_no_second_derivative(any_scan):
    inputs = scan_inputs()
    weight = inputs[-1].requires_grad_()
    gradient = torch.autograd.grad(any_scan(*inputs, 2.0, "prior")[0].square().sum(), weight, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable|no autograd formula"):
        gradient.sum().backward()


@both_scans
def test_scan_is_left_alone_by_autocast(any_scan):
    inputs = [x.float() for x in scan_inputs()]
    weight = inputs[-1].requires_grad_()
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            outputs = any_scan(*inputs, 2.0, "prior")
            found.append((*outputs, torch.autograd.grad(sum(x.sum() for x in outputs), weight)[0]))
    for plain, cast in zip(*found, strict=True):
        assert cast.dtype == torch.float32 and torch.equal(plain, cast)


@pytest.mark.parametrize("bound,residual_scale", [(None, "none"), (2.0, "prior")])
def test_scan_is_a_lawful_operator(bound, residual_scale):
    inputs = [x.requires_grad_(index != 3) for index, x in enumerate(scan_inputs(steps=3))]
    torch.library.opcheck(scan_trace._scan_op, (*inputs, bound, residual_scale == "prior"))
    states = [x.detach() for x in scan_trace._scan_op(*inputs, bound, residual_scale == "prior")]
    _, delta_mean, delta_logvar, noise, weight = (x.detach() for x in inputs)
    saved = (states[3], states[2], delta_mean, delta_logvar, noise, weight)
    torch.library.opcheck(scan_trace._scan_backward_op, (*states[:3], *saved, bound, residual_scale == "prior"))


def test_compiled_scan_is_one_node_however_many_segments():
    sizes = []

    def count(graph, _):
        sizes.append(len(graph.graph.nodes))
        return make_boxed_func(graph)

    compiled = torch.compile(recurrent_scan, backend=aot_autograd(fw_compiler=count), fullgraph=True, dynamic=False)
    for steps in (2, 9):
        inputs = [x.requires_grad_(index != 3) for index, x in enumerate(scan_inputs(steps=steps))]
        found, wanted = compiled(*inputs, 2.0, "prior"), recurrent_scan(*inputs, 2.0, "prior")
        gradients = [
            torch.autograd.grad(sum(x.square().sum() for x in outputs), [x for x in inputs if x.requires_grad])
            for outputs in (found, wanted)
        ]
        for own, eager in zip((*found, *gradients[0]), (*wanted, *gradients[1]), strict=True):
            torch.testing.assert_close(own, eager, atol=1e-12, rtol=1e-12)
    assert len(sizes) == 4 and sizes[:2] == sizes[2:]  # forward and backward
    assert max(sizes) < 30


@pytest.mark.parametrize("folder", ["saved-model", "modelo_español", "模型"])
def test_two_versions_of_the_scan_in_one_process(folder):
    """A saved model brings its own copy of this file, as `transformers_modules.<name>.scan_trace`."""
    name = f"transformers_modules.{folder}.scan_trace"
    spec = importlib.util.spec_from_file_location(name, scan_trace.__file__)
    other = importlib.util.module_from_spec(spec)
    beside = name.replace("scan", "gaussian")  # which it imports from
    sys.modules[beside] = gaussian_trace
    try:
        for _ in range(2):  # Transformers executes a module again when its file has changed
            spec.loader.exec_module(other)
        assert other._scan_op._qualname != scan_trace._scan_op._qualname
        inputs = scan_inputs()
        wanted = recurrent_scan(*inputs, 2.0, "prior")
        for module in (other, scan_trace):
            compiled = torch.compile(module.recurrent_scan, backend="eager", fullgraph=True)
            for own, eager in zip(compiled(*inputs, 2.0, "prior"), wanted, strict=True):
                assert torch.equal(own, eager)
    finally:
        del sys.modules[beside]


def test_names_that_differ_by_what_an_operator_cannot_have_stay_two():
    names = set()
    for folder in ("a-b", "a_b", "a.b", "añb", "a模b", "a_xf1_b"):
        name = f"transformers_modules.{folder}.scan_trace"
        spec = importlib.util.spec_from_file_location(name, scan_trace.__file__)
        module = importlib.util.module_from_spec(spec)
        beside = name.replace("scan", "gaussian")
        sys.modules[beside] = gaussian_trace
        try:
            spec.loader.exec_module(module)
        finally:
            del sys.modules[beside]
        names.add(module._scan_op._qualname)
    assert len(names) == 6 and all(name.isascii() for name in names)


def dynamics(seed=0, **settings):
    torch.manual_seed(seed)
    made = RecurrentDynamics(tiny_config(**settings)).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("residual_scale", ["prior", "none"])
def test_one_step_at_a_time_equals_the_scan(residual_scale):
    """prior() and posterior(), which generation uses, are the recurrence that training uses."""
    model = dynamics(residual_scale=residual_scale)
    context, segment = torch.randn(2, 3, 5, 32, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    found = model(context, segment, mask, sample=False)
    previous = torch.zeros(3, 4, dtype=torch.float64)
    for t in range(5):
        prior = model.prior(previous, context[:, t], torch.full((3,), t == 0))
        posterior = model.posterior(*prior, segment[:, t])
        for step, scan in zip(
            (*prior, *posterior, posterior[0]),
            (found.prior_mean, found.prior_logvar, found.posterior_mean, found.posterior_logvar, found.latents),
            strict=True,
        ):
            torch.testing.assert_close(scan[:, t], step * mask[:, t : t + 1], atol=1e-12, rtol=1e-12)
        previous = posterior[0]


def test_first_prior_is_standard_normal_and_padded_steps_are_neutral():
    model = dynamics()
    context, segment = torch.randn(2, 2, 4, 32, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    context[1, 2:] = segment[1, 2:] = 1e30  # what stands in padding must not matter, nor overflow
    found = model(context, segment, mask, generator=torch.Generator().manual_seed(0))
    assert not found.prior_mean[:, 0].any() and not found.prior_logvar[:, 0].any()
    for value in (found.latents, found.prior_mean, found.prior_logvar, found.posterior_mean, found.posterior_logvar):
        assert value.isfinite().all() and not value[1, 2:].any()
    assert not found.kl()[1, 2:].any() and (found.kl()[:, :2].sum(-1) > 0).all()


def test_posterior_draws_have_the_posteriors_mean_and_variance():
    model = dynamics()
    rows = 20_000
    context, segment = (x.expand(rows, -1, -1) for x in torch.randn(2, 1, 1, 32, dtype=torch.float64))
    found = model(context, segment, torch.ones(rows, 1, dtype=torch.bool), generator=torch.Generator().manual_seed(0))
    standard = (found.latents - found.posterior_mean) / torch.exp(0.5 * found.posterior_logvar)
    # five standard errors: of a mean 1 / sqrt(n), of a variance sqrt(2 / n)
    assert standard.mean(0).abs().max() < 5 / math.sqrt(rows)
    assert (standard.var(0) - 1).abs().max() < 5 * math.sqrt(2 / rows)


def test_bound_keeps_long_recurrences_finite():
    """gamma = 3 as printed overflows on some texts of 96 segments; the bound does not let it."""
    inputs = scan_inputs(steps=96, batch=64, size=32)
    inputs = (inputs[0], 3 * inputs[1], 3 * inputs[2], inputs[3], inputs[4] * 0.15)
    unbounded = recurrent_scan(*inputs, None, "none")[0]
    bounded = recurrent_scan(*inputs, 2.0, "none")[0]
    assert not (unbounded.isfinite().all() and unbounded.abs().max() < 1e6)
    assert bounded.isfinite().all() and bounded.abs().max() < 1e6


def test_free_bits_by_hand():
    """max(KL_t, lambda), for the segments that there are, and no gradient for those below."""
    kl = torch.tensor([[0.5, 4.0, 2.0], [3.5, 0.0, 0.0], [0.0, 7.0, 0.0]], requires_grad=True)
    counts = torch.tensor([3, 1, 2])
    penalty = free_bits(kl, counts, 3.0)
    assert penalty.item() == (3 + 4 + 3) + 3.5 + (3 + 7)
    penalty.backward()
    assert kl.grad.tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0]]
    rows = [free_bits(kl[row : row + 1, :count], counts[row : row + 1], 3.0) for row, count in enumerate(counts)]
    assert sum(rows).item() == penalty.item()
