"""The exact recurrence of Eq. 9 to 11 with a backward of its own, in eager mode and as one compiler node."""

import hashlib

import torch
from torch.autograd.function import once_differentiable

from .gaussian_trace import smooth_bound


def _scan(
    prior_inputs: torch.Tensor,
    delta_mean: torch.Tensor,
    delta_logvar: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor,
    bound: float | None,
    scale_by_prior: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    z_t, mu_t and log sigma_t^2 for t = 1..T (see [`recurrent_scan`]), and z_t once more, for the backward.

    Only the product with z_{t-1} is inside the loop.
    """
    with torch.autocast(weight.device.type, enabled=False):
        size = delta_mean.shape[-1]
        transposed = weight.t().contiguous()  # (l, 2l)
        # z = mu + s * (dmu + exp(dlv / 2) eps), s = exp(lv / 2)    (residual_scale "prior")
        # z = mu + dmu + s * exp(dlv / 2) eps                       (residual_scale "none", Eq. 10)
        scaled = torch.exp(0.5 * delta_logvar) * noise
        if scale_by_prior:
            scaled = delta_mean + scaled
        shift = None if scale_by_prior else delta_mean.unbind(0)
        previous = torch.zeros_like(delta_mean[0])
        latents, means, logvars = [], [], []
        for t, (inputs, residual) in enumerate(zip(prior_inputs.unbind(0), scaled.unbind(0), strict=True)):
            mean, logvar = torch.addmm(inputs, previous, transposed).split(size, dim=-1)
            logvar = smooth_bound(logvar, bound)
            base = mean if shift is None else mean + shift[t]
            previous = torch.addcmul(base, torch.exp(0.5 * logvar), residual)
            latents.append(previous)
            means.append(mean)
            logvars.append(logvar)
        latents = torch.stack(latents)
        # the caller's z must not share storage with the saved one: writing to it would corrupt the backward
        return latents.clone(), torch.stack(means), torch.stack(logvars), latents


def _scan_backward(
    grad_latents: torch.Tensor,
    grad_means: torch.Tensor,
    grad_logvars: torch.Tensor,
    latents: torch.Tensor,
    logvars: torch.Tensor,
    delta_mean: torch.Tensor,
    delta_logvar: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor,
    bound: float | None,
    scale_by_prior: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Gradients of `prior_inputs`, `delta_mean`, `delta_logvar` and `weight`, by hand: plain autograd would keep a graph
    node per step, and slicing its inputs would make the backward quadratic in T.
    """
    with torch.autocast(weight.device.type, enabled=False):
        sigma = torch.exp(0.5 * logvars)
        scaled_noise = torch.exp(0.5 * delta_logvar) * noise
        scaled = delta_mean + scaled_noise if scale_by_prior else scaled_noise
        spread = 0.5 * sigma * scaled  # dz_t / d lv_t
        if bound is not None:
            slope = 1 - (logvars / bound).square()  # d bound(x) / dx, from its value
            spread, grad_logvars = spread * slope, grad_logvars * slope
        carry = torch.zeros_like(latents[0])
        grad_z, grad_inputs = [], []
        steps = (x.unbind(0) for x in (grad_latents, grad_means, grad_logvars, spread))
        for dz, dmean, dlogvar, dspread in reversed(list(zip(*steps, strict=True))):
            dz = dz + carry
            inputs = torch.cat([dz + dmean, torch.addcmul(dlogvar, dz, dspread)], dim=-1)  # (B, 2l)
            carry = inputs @ weight
            grad_z.append(dz)
            grad_inputs.append(inputs)
        grad_z = torch.stack(grad_z[::-1])
        grad_inputs = torch.stack(grad_inputs[::-1])
        grad_delta_mean = grad_z * sigma if scale_by_prior else grad_z
        grad_delta_logvar = 0.5 * grad_z * sigma * scaled_noise
        # z_0 = 0, so step 1 adds nothing to the gradient of the weight
        grad_weight = grad_inputs[1:].flatten(0, 1).t() @ latents[:-1].flatten(0, 1)
        return grad_inputs, grad_delta_mean, grad_delta_logvar, grad_weight


def _save_for_backward(ctx, inputs, output):
    _, delta_mean, delta_logvar, noise, weight, *ctx.options = inputs
    _, _, logvars, kept = output
    ctx.save_for_backward(kept, logvars, delta_mean, delta_logvar, noise, weight)


class _RecurrentScan(torch.autograd.Function):
    """The scan in eager mode: cheaper to call than an operator, and its products are seen by tools that count them."""

    @staticmethod
    def forward(ctx, *inputs) -> tuple[torch.Tensor, ...]:
        *outputs, kept = _scan(*inputs)
        _save_for_backward(ctx, inputs, (*outputs, kept))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads) -> tuple[torch.Tensor | None, ...]:
        *grad_inputs, grad_weight = _scan_backward(*grads, *ctx.saved_tensors, *ctx.options)
        return *grad_inputs, None, grad_weight, None, None


# The same as operators: one node for torch.compile and torch.export, which otherwise write out every step. Named after
# the module, since a process may hold other versions of this file, which came with saved models. By a hash: a folder
# may have any name, an operator may not, and no two names may become one.
_NAMESPACE = f"trace_{hashlib.sha256(__name__.encode()).hexdigest()}"
_scan_op = torch.library.custom_op(f"{_NAMESPACE}::recurrent_scan", _scan, mutates_args=())
_scan_backward_op = torch.library.custom_op(f"{_NAMESPACE}::recurrent_scan_backward", _scan_backward, mutates_args=())


@_scan_op.register_fake
def _(prior_inputs, delta_mean, delta_logvar, noise, weight, bound, scale_by_prior):
    return tuple(delta_mean.new_empty(delta_mean.shape) for _ in range(4))


@_scan_backward_op.register_fake
def _(grad_latents, grad_means, grad_logvars, latents, logvars, delta_mean, delta_logvar, noise, weight, *options):
    grad_inputs = latents.new_empty(*latents.shape[:-1], weight.shape[0])
    return (
        grad_inputs,
        latents.new_empty(latents.shape),
        latents.new_empty(latents.shape),
        weight.new_empty(weight.shape),
    )


def _op_backward(ctx, grad_latents, grad_means, grad_logvars, _):
    grads = (grad_latents, grad_means, grad_logvars)
    *grad_inputs, grad_weight = _scan_backward_op(*grads, *ctx.saved_tensors, *ctx.options)
    return *grad_inputs, None, grad_weight, None, None


_scan_op.register_autograd(_op_backward, setup_context=_save_for_backward)


def recurrent_scan(
    prior_inputs: torch.Tensor,
    delta_mean: torch.Tensor,
    delta_logvar: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor,
    bound: float | None,
    residual_scale: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The exact recurrence of Eq. 9 to 11, with everything that does not depend on z hoisted out of the loop.

        [mu_t; x_t] = W z_{t-1} + prior_inputs_t,  lv_t = bound(x_t),  z_0 = 0
        z_t = mu_t + dmu_t + exp((lv_t + dlv_t) / 2) eps_t                      residual_scale "none" (the paper)
        z_t = mu_t + exp(lv_t / 2) (dmu_t + exp(dlv_t / 2) eps_t)               residual_scale "prior"

    Args:
        prior_inputs (`torch.Tensor` of shape `(num_segments, batch_size, 2 * latent_size)`): W_c c_{t-1} + bias, mean
            first; zero for a step whose prior is N(0, I).
        delta_mean, delta_logvar, noise (`torch.Tensor` of shape `(num_segments, batch_size, latent_size)`): the
            posterior's residuals (Eq. 11) and eps. Zero in padded steps, *before* the scan: inf * 0 is NaN.
        weight (`torch.Tensor` of shape `(2 * latent_size, latent_size)`): the columns of W^f that act on z.
        bound (`float`, *optional*): the smooth bound of the prior's log variance, see [`smooth_bound`].
        residual_scale (`str`): "none" or "prior".

    Returns:
        z_t, mu_t and log sigma_t^2 of the prior, each of shape `(num_segments, batch_size, latent_size)`.
    """
    inputs = (prior_inputs, delta_mean, delta_logvar, noise, weight, bound, residual_scale == "prior")
    if torch.compiler.is_compiling():
        return _scan_op(*inputs)[:3]
    return _RecurrentScan.apply(*inputs)
