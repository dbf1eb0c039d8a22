"""
torch.compile changes no number, leaves a training step in one piece, and does not write the recurrence out.

`tests/models/test_scan_and_gaussian.py` holds what is quick of it, the scan as an operator.
"""

import copy
import shutil

import pytest
import torch
from helpers.tiny import backbone_config, make_batch, make_text, tiny_config, tiny_model
from helpers.training import make_model, make_trainer, weights
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from modeling_trace.models.dynamics_registry_trace import LATENT_DYNAMICS
from modeling_trace.models.segments_trace import make_layout

pytestmark = pytest.mark.slow  # compiling takes from seconds (the dynamics) to minutes
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
# Tokens in the segments of each text: other numbers of texts, of segments and of tokens
BATCHES = [[[3, 1, 4, 2], [5], [1] * 6], [[2] * 7, [3, 9], [9], [4, 4, 2]], [[1, 8, 3], [5] * 5]]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def compare_dynamics(name, backend, numbers_of_segments, sample=True):
    """Eager and compiled latents and gradients; returns how many nodes each graph has."""
    torch.manual_seed(0)
    eager = LATENT_DYNAMICS[name](tiny_config(latent_dynamics=name)).double()
    if name == "parallel" and backend == "inductor":
        settle_spectral_norms(eager)
    compiled = copy.deepcopy(eager)
    counter = CompileCounterWithBackend(backend)
    call = torch.compile(compiled, backend=counter, fullgraph=True, dynamic=False)
    for segments in numbers_of_segments:
        context, states = torch.randn(2, 2, segments, 32, dtype=torch.float64)
        mask = torch.arange(segments) < torch.tensor([[segments], [2]])
        found = []
        for model, forward in ((eager, eager), (compiled, call)):
            model.zero_grad()
            torch.manual_seed(1)
            latents = forward(context, states, mask, sample=sample)
            (latents.kl().sum() + latents.latents.square().sum()).backward()
            found.append([*vars(latents).values(), *(p.grad for p in model.parameters() if p.grad is not None)])
        for own, wanted in zip(*found, strict=True):
            torch.testing.assert_close(own, wanted, rtol=0, atol=1e-10)
    return [len(graph.graph.nodes) for graph in counter.graphs]


def settle_spectral_norms(dynamics):
    """inductor takes the gradient of a spectral norm after as many power iterations again."""
    for _ in range(50):
        dynamics._recurrent_weight()


@pytest.mark.parametrize("name", ["recurrent", "parallel"])
def test_compiled_dynamics_are_the_same_whatever_the_number_of_segments(name):
    nodes = compare_dynamics(name, "aot_eager", (3, 8))
    assert len(nodes) == 2 and nodes[0] == nodes[1]


def losses_and_gradients(model, call, batches, with_layout=True, **inputs):
    found = []
    for lengths in batches:
        ids, mask, labels = make_batch([make_text(row, seed) for seed, row in enumerate(lengths)])
        if with_layout:
            # as little in the products as can be, so that segments are packed
            inputs["segment_layout"] = make_layout(model._segment_ids(ids, mask, None), 1)
        model.zero_grad()
        torch.manual_seed(0)
        out = call(input_ids=ids, attention_mask=mask, labels=labels, **inputs)
        out.loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append([out.loss.detach(), out.kl_loss.detach(), *gradients])
    return found


def compare_steps(name, backend, batches=BATCHES, latent_layer=None, **settings):
    """Eager and compiled training steps."""
    backbone = backbone_config(n_layer=1 if latent_layer is None else 2)
    eager = tiny_model(latent_dynamics=name, backbone_config=backbone, latent_layer=latent_layer).double().train()
    if name == "parallel":
        settle_spectral_norms(eager.dynamics)
    compiled = copy.deepcopy(eager)
    call = torch.compile(compiled, backend=backend)
    wanted = losses_and_gradients(eager, eager, batches, **settings)
    for own, same in zip(losses_and_gradients(compiled, call, batches, **settings), wanted, strict=True):
        assert len(own) == len(same)
        for x, y in zip(own, same, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-10)


# Each batch is compiled anew, for tens of seconds with the paper's two passes: all three where there is one, two with
# two (the second is compiled for sizes that vary), one with other dynamics, whose lengths vary in the test above.
@pytest.mark.parametrize(
    "name,latent_layer,batches", [("recurrent", 1, 3), ("recurrent", None, 2), ("parallel", None, 1)]
)
def test_compiled_training_step_is_one_graph_with_the_same_numbers(name, latent_layer, batches):
    compare_steps(name, "aot_eager", BATCHES[:batches], latent_layer=latent_layer)
    assert not counters["graph_break"]
    assert counters["frames"]["total"] <= batches  # a graph a batch at most, less once sizes are known to vary


def test_without_a_layout_the_step_breaks_where_it_is_made():
    compare_steps("recurrent", "aot_eager", BATCHES[:1], with_layout=False)
    assert len(counters["graph_break"]) == 1 and "make_layout" in next(iter(counters["graph_break"]))


@needs_compiler
def test_inductor_computes_the_same_numbers():
    # inductor draws by a generator of its own; other shapes, and the same modules in two passes: with aot_eager, above
    compare_steps("recurrent", "inductor", BATCHES[:1], latent_layer=1, sample_latents=False)


@needs_compiler
def test_inductor_computes_the_same_parallel_latents():
    """All else in a step is the same for all dynamics."""
    compare_dynamics("parallel", "inductor", (3,), sample=False)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_compiled_backbone_writes_the_same_tokens(num_beams, architecture):
    """A few graphs for a cache of any length, of the decoder and of the encoder; beams reorder it."""
    eager = tiny_model().double()
    compiled = copy.deepcopy(eager)
    compiled.backbone.compile(backend="aot_eager", dynamic=True)
    settings = {"num_beams": num_beams, "max_new_tokens": 24, "return_dict_in_generate": True}
    found = []
    for model in (eager, compiled):
        torch.manual_seed(0)
        found.append(model.generate(num_return_sequences=3, do_sample=False, **settings))
    # of the first token and the others, of the decoder and the encoder; between layers a pass is in two pieces
    pieces = 1 if architecture == "embeddings" else 2
    assert counters["stats"]["unique_graphs"] <= 6 * pieces
    torch.testing.assert_close(found[1].sequences, found[0].sequences, rtol=0, atol=0)
    torch.testing.assert_close(found[1].latents, found[0].latents, rtol=0, atol=1e-10)


def test_trainer_compiles(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")  # TrainingArguments sets it, for the whole process
    trained = []
    for name, settings in (("eager", {}), ("compiled", {"torch_compile": True, "torch_compile_backend": "aot_eager"})):
        trainer = make_trainer(tmp_path / name, make_model(), max_steps=3, per_device_train_batch_size=4, **settings)
        trainer.train()
        trained.append(weights(trainer.model))
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"]
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=0, atol=1e-5, msg=name)
