"""`encoder_layers`: the first layers of the backbone read the text, with the same weights, everywhere alike."""

import copy

import pytest
import torch
from helpers.tiny import FAMILIES, backbone_config, make_batch, make_text, tiny_config, tiny_model
from transformers import OPTConfig

from modeling_trace import TraceForConditionalGeneration
from modeling_trace.models.backbones_trace import first_layers

TEXTS = [make_text([3, 3, 2]), make_text([3, 1], seed=1)]


def shortened(model: TraceForConditionalGeneration) -> TraceForConditionalGeneration:
    """The same weights in a model whose backbone has one layer: its encoder is the other's."""
    config = copy.deepcopy(model.config)
    config.encoder_layers = None
    backbone = config.backbone_config
    backbone.num_hidden_layers = 1
    if getattr(backbone, "layer_types", None):
        backbone.layer_types = backbone.layer_types[:1]
    short = TraceForConditionalGeneration(config).eval()
    weights = {name: value for name, value in model.state_dict().items() if name in short.state_dict()}
    assert not short.load_state_dict(weights).missing_keys
    return short


@pytest.mark.parametrize("family", ["gpt2", *FAMILIES])
def test_encoder_is_the_backbone_cut_short(family):
    ids, mask, labels = make_batch(TEXTS, "left")
    model = tiny_model(family, encoder_layers=1)
    found, expected = model.encode(ids, mask), shortened(model).encode(ids, mask)
    for name in ("latents", "prior_mean", "posterior_logvar"):
        assert torch.equal(found[name], expected[name])
    whole = tiny_model(family)
    whole.load_state_dict(model.state_dict())
    assert not torch.allclose(whole.encode(ids, mask).latents, found.latents)
    # the decoder has all its layers
    decoded = [one(ids, mask, latents=found.latents).logits for one in (model, whole)]
    assert torch.equal(*decoded)


def test_all_layers_are_the_default():
    ids, mask, labels = make_batch(TEXTS)
    all_layers, default = tiny_model(encoder_layers=2), tiny_model()
    for model in (all_layers, default):
        model.train()
        torch.manual_seed(1)
        model(ids, mask, labels).loss.backward()
    gradients = zip(all_layers.parameters(), default.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in gradients)


def test_layers_of_a_nested_backbone():
    config = OPTConfig(
        vocab_size=40, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=2, word_embed_proj_dim=32
    )
    model = TraceForConditionalGeneration(tiny_config(backbone_config=config, encoder_layers=2)).eval()
    short = first_layers(model.backbone, 2)
    assert len(short.decoder.layers) == 2 and len(model.backbone.decoder.layers) == 3
    assert short.decoder.layers[1] is model.backbone.decoder.layers[1]
    assert torch.isfinite(model.encode(*make_batch(TEXTS)[:2]).latents).all()


def test_every_parameter_learns_and_training_mode_is_the_models():
    model = tiny_model(encoder_layers=1).train()
    assert model._encoder().training and not model.eval()._encoder().training
    ids, mask, labels = make_batch(TEXTS)
    model.train()(ids, mask, labels).loss.backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}, {"num_beams": 3}])
@pytest.mark.parametrize("prompt", [[0], make_text([3, 3])[:6]])
def test_generation_reads_by_the_same_layers(settings, prompt):
    """What was written scores, encoded anew, as it did when it was written; with and without a cache."""
    model = tiny_model(encoder_layers=1)
    ids = torch.tensor([prompt, prompt])
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        outputs.append(
            model.generate(
                ids,
                max_new_tokens=14,
                min_new_tokens=14,
                use_cache=use_cache,
                return_dict_in_generate=True,
                **settings,
            )
        )
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    torch.testing.assert_close(outputs[0].latents, outputs[1].latents)


def test_priors_of_generation_are_those_of_the_whole_text():
    """Encode once: the prior that drew z_t, from cached keys, is that of the text encoded anew by the same layers."""
    model = tiny_model(encoder_layers=1)
    seen = {}

    def keep(latents, prior, rows, segment):
        seen.update({(int(row), int(t)): mean for row, t, mean in zip(rows, segment, prior[0], strict=True)})

    torch.manual_seed(3)
    out = model.generate(
        torch.tensor([[0]] * 2),
        max_new_tokens=14,
        min_new_tokens=14,
        segment_callback=keep,
        return_dict_in_generate=True,
    )
    segment_ids = model._segment_ids(out.sequences, None, None)
    with torch.no_grad():
        context, *_ = model._encoder_states(out.sequences, None, segment_ids)
        for step in range(1, context.shape[1]):
            first = torch.zeros(2, dtype=torch.bool)
            mean, _ = model.dynamics.prior(out.latents[:, step - 1], context[:, step], first)
            torch.testing.assert_close(
                torch.stack([seen[row, step + 1] for row in range(2)]), mean, atol=1e-5, rtol=1e-5
            )
    assert context.shape[1] == 4


def test_the_setting_is_saved(tmp_path):
    model = tiny_model(encoder_layers=1)
    model.save_pretrained(tmp_path)
    again = TraceForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.config.encoder_layers == 1
    batch = make_batch(TEXTS)[:2]
    assert torch.equal(again.encode(*batch).latents, model.encode(*batch).latents)


@pytest.mark.parametrize(
    "layers, message",
    [
        (0, "^`encoder_layers` must be an integer >= 1, got 0. Use None for all layers"),
        (1.5, "^`encoder_layers` must be an integer >= 1, got 1.5. "),
        (3, "^`encoder_layers` must be at most the backbone's 2 layers, got 3. "),
    ],
)
def test_bad_values(layers, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(encoder_layers=layers)


@pytest.mark.parametrize("whose", ["backbone", "model"])
@pytest.mark.parametrize("settings", [{"encoder_layers": 1}, {}, {"latent_layer": 1}])
def test_what_the_config_asks_to_record_is_the_decoders(settings, whose):
    """Hidden states and attention of one pass, however many passes there were and however often."""
    record = {"output_hidden_states": True, "output_attentions": True}
    config = backbone_config(attn_implementation="eager", **(record if whose == "backbone" else {}))
    model = tiny_model(backbone_config=config, **settings)
    if whose == "model":
        for name, value in record.items():
            setattr(model.config, name, value)
    ids, mask, _ = make_batch(TEXTS)
    hooks = []
    for _ in range(3):
        out = model(ids, mask)
        assert len(out.hidden_states) == 3 and len(out.attentions) == 2
        assert out.hidden_states[0].shape[:2] == ids.shape
        model.encode(ids, mask)
        model.log_likelihood(ids, mask, 2)
        hooks.append(sum(len(module._forward_hooks) for module in model.modules()))
    assert hooks[0] == hooks[1] == hooks[2]
