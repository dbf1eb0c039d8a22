"""Weights wherever they are, and those that a checkpoint lacks."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from helpers.processes import one_and_two_processes
from helpers.tiny import make_batch, make_text, tiny_config, tiny_model
from torch import nn

from modeling_trace import TraceForConditionalGeneration
from modeling_trace.models import loss_trace

TEXTS = [make_text([3, 3, 2]), make_text([3, 1], seed=1)]
VARIANTS = {  # every class that has weights, and the encoder that shares some
    "recurrent": {},
    "recurrent between layers": {"latent_layer": 1},
    "parallel": {"latent_dynamics": "parallel"},
    "parallel without spectral norm": {"latent_dynamics": "parallel", "spectral_norm": False},
    "independent": {"latent_dynamics": "independent"},
    "context": {"latent_dynamics": "context"},
    "single": {"latent_dynamics": "single"},
    "one prompt, one latent": {"latent_dynamics": "single", "conditional": True},
    "the encoder's layers": {"encoder_layers": 1},
    "plain": {"latent_dynamics": "none"},
}


def outputs(model):
    """Of every way to run a model: loss, logits, latents, likelihood by both methods, greedy texts."""
    ids, mask, labels = make_batch(TEXTS)
    with torch.no_grad():
        out = model(ids, attention_mask=mask, labels=labels)
    found = {"loss": out.loss, "logits": out.logits}
    if model.has_latents:
        found["latents"] = model.encode(ids, mask).latents
        found["particle"] = model.log_likelihood(ids, mask, 3, method="particle", generator=torch.Generator())
    found["likelihood"] = model.log_likelihood(ids, mask, 3, generator=torch.Generator())
    prompts = ids[:, :5] if model.config.conditional else None
    torch.manual_seed(0)
    found["texts"] = model.generate(prompts, max_new_tokens=8)
    return found


CASES = [("cpu", variant) for variant in VARIANTS]
CASES += [("disk", "recurrent"), ("latents on disk", "recurrent between layers"), ("latents on disk", "parallel")]


@pytest.mark.parametrize("place,variant", CASES)
def test_weights_that_are_put_away_count_as_they_did(tmp_path, place, variant):
    """Accelerate brings them for a module's forward and no longer."""
    model = tiny_model(**VARIANTS[variant])
    wanted = outputs(model)
    if place == "cpu":
        cpu_offload(model, torch.device("cpu"))
    elif place == "disk":
        disk_offload(model, str(tmp_path), torch.device("cpu"))
    else:
        latents = {"dynamics", "latent_injection", "state_reader"}
        places = {name: "disk" if name in latents else "cpu" for name, _ in model.named_children()}
        model = dispatch_model(model, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    assert any(parameter.is_meta for parameter in model.parameters())
    for name, value in outputs(model).items():
        torch.testing.assert_close(value, wanted[name], msg=name)


def test_a_backbone_that_is_put_away_is_refused():
    model = tiny_model(latent_dynamics="none")
    lm = cpu_offload(model.backbone, torch.device("cpu"))
    lm.get_output_embeddings = lambda: nn.Linear(32, 40, bias=False)
    with pytest.raises(ValueError, match="`backbone` has weights that were put away.*Load it whole") as error:
        TraceForConditionalGeneration.from_backbone(lm, latent_size=4)
    assert "\n" not in str(error.value)


def test_a_head_that_others_have_hooked_is_called(monkeypatch):
    """Tensor parallelism and offloading hang on it; the fused loss, which reads its weight, would pass them by."""
    monkeypatch.setattr(loss_trace, "_MAX_LOGITS", 64)  # in pieces
    model = tiny_model(latent_dynamics="none")
    ids, mask, labels = make_batch(TEXTS)
    plain = model.train()(ids, mask, labels).loss
    model.lm_head.register_forward_hook(lambda module, args, logits: 2 * logits)
    hooked = model.train()(ids, mask, labels).loss
    torch.testing.assert_close(hooked, model.eval()(ids, mask, labels).loss)
    assert abs(hooked - plain) > 0.1


# ---- A checkpoint that lacks some ----


def check_started(model):
    """Every weight as a new model has it: finite, of its own spread; a spectral norm of 1."""
    fresh = tiny_model(**{name: getattr(model.config, name) for name in ("latent_dynamics", "latent_size")})
    wanted = dict(fresh.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        if "dynamics" in name and name.endswith(("weight", "original")):
            assert 0.6 < (parameter.std() / wanted[name].std()).item() < 1.6, name
    for module in (model.dynamics.recurrent_mean, model.dynamics.recurrent_logvar):
        for _ in range(2):  # at once, and after more power iterations
            assert abs(torch.linalg.matrix_norm(module.weight, ord=2).item() - 1) < 1e-3
            module.train().weight  # noqa: B018
        module.eval()
    ids, mask, labels = make_batch(TEXTS)
    assert model(ids, mask, labels).loss.isfinite()


@pytest.fixture
def dirty_memory(monkeypatch):
    """What is allocated and not written is not zero by luck."""
    empty_like = torch.empty_like

    def fill(*args, **kwargs):
        made = empty_like(*args, **kwargs)
        return made.fill_(float("nan")) if made.is_floating_point() and not made.is_meta else made

    monkeypatch.setattr(torch, "empty_like", fill)


@pytest.mark.usefixtures("dirty_memory")
def test_latent_networks_that_a_checkpoint_lacks_start_as_new_ones(tmp_path):
    tiny_model(latent_dynamics="none").save_pretrained(tmp_path / "plain")
    torch.manual_seed(0)
    model = TraceForConditionalGeneration.from_pretrained(
        tmp_path / "plain", config=tiny_config(latent_dynamics="parallel")
    )
    check_started(model)
    tiny_model(latent_dynamics="parallel").save_pretrained(tmp_path / "small")
    larger = TraceForConditionalGeneration.from_pretrained(
        tmp_path / "small",
        config=tiny_config(latent_dynamics="parallel", latent_size=6),
        ignore_mismatched_sizes=True,
    )
    check_started(larger)


def test_what_a_checkpoint_has_is_left_as_it_is(tmp_path):
    model = tiny_model(latent_dynamics="parallel")
    model.save_pretrained(tmp_path)
    loaded = TraceForConditionalGeneration.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_a_model_made_on_the_meta_device_starts_as_a_new_one():
    with torch.device("meta"):
        model = TraceForConditionalGeneration(tiny_config(latent_dynamics="parallel"))
    model = model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.fill_(float("nan"))
    for module in model.modules():
        module._is_hf_initialized = False
    model.initialize_weights()
    model.tie_weights()
    check_started(model.eval())


# ---- Split among processes ----

SPLIT = """
import os, sys
import torch

from helpers.tiny import backbone_config, make_batch, make_text, tiny_model
from modeling_trace import TraceForConditionalGeneration
from modeling_trace.models import loss_trace

found, several = [], "RANK" in os.environ
if several:
    torch.distributed.init_process_group("gloo")
for tied in (True, False):
    model = tiny_model("llama", backbone_config=backbone_config("llama", tie_word_embeddings=tied))
    folder = os.path.join(sys.argv[1], str(tied))
    if several:
        if torch.distributed.get_rank() == 0:
            model.save_pretrained(folder)
        torch.distributed.barrier()
        model = TraceForConditionalGeneration.from_pretrained(folder, tp_plan="auto").eval()
    ids, mask, labels = make_batch([make_text([3, 3, 2]), make_text([3, 1], seed=1)])
    with torch.no_grad():
        found.append(model(ids, mask).logits)
    for limit in (2**24, 64):  # at once, and in pieces
        loss_trace._MAX_LOGITS = limit
        torch.manual_seed(0)
        loss = model.train()(ids, mask, labels).loss
        loss.backward()
        found.append(loss.detach())
    torch.manual_seed(1)
    found.append(model.eval().generate(max_new_tokens=8))
if not several or torch.distributed.get_rank() == 0:
    torch.save(found, os.path.join(sys.argv[1], "result.pt"))
"""


@pytest.mark.slow
@pytest.mark.processes
def test_tensor_parallelism_is_the_same_model(tmp_path):
    """Scores, losses and texts, with a head that is tied to embeddings which are split, and with one of its own."""
    one, two = one_and_two_processes(SPLIT, tmp_path)
    for found, wanted in zip(two, one, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
