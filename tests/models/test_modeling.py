import math

import pytest
import torch
from helpers.tiny import BOS, EOS, PAD, SEP, VOCAB, backbone_config, make_batch, make_text, tiny_config, tiny_model
from helpers.tokenizers import word_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    CohereForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from modeling_trace import TraceConfig, TraceForConditionalGeneration
from modeling_trace.models.backbones_trace import resolve_backbone
from modeling_trace.models.configuration_trace import PAPER_ARCHITECTURE
from modeling_trace.models.gaussian_trace import gaussian_kl
from modeling_trace.models.segments_trace import add_separator_token

FAMILIES = ["gpt2", "llama", "qwen2"]
TEXTS = [make_text([3, 3, 3, 2], seed=1), make_text([3, 1], seed=2), make_text([3, 3, 1], seed=3)]


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("family", FAMILIES)
def test_elbo_from_its_definition(family):
    """loss, reconstruction and KL recomputed from logits and Gaussians, text by text, in plain Python."""
    model = tiny_model(family)
    ids, mask, labels = make_batch(TEXTS)
    out = model(ids, attention_mask=mask, labels=labels)
    log_p = out.logits.log_softmax(-1)
    reconstruction = kl = targets = 0.0
    for row, text in enumerate(TEXTS):
        for position in range(1, len(text)):
            reconstruction -= log_p[row, position - 1, text[position]].item()
            targets += 1
        for t in range(text.count(SEP) + 1):
            q = out.posterior_mean[row, t], out.posterior_logvar[row, t]
            kl += gaussian_kl(*q, out.prior_mean[row, t], out.prior_logvar[row, t]).sum().item()
    assert math.isclose(out.reconstruction_loss.item(), reconstruction / 3, rel_tol=1e-5)
    assert math.isclose(out.kl_loss.item(), kl / 3, rel_tol=1e-5)
    assert math.isclose(out.loss.item(), (reconstruction + kl) / targets, rel_tol=1e-5)
    model.kl_weight.fill_(0.25)
    weighted = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=10).loss
    assert math.isclose(weighted.item(), (reconstruction + 0.25 * kl) / 10, rel_tol=1e-5)


@pytest.mark.usefixtures("architecture")
def test_free_bits_are_in_the_loss_alone():
    """The loss counts max(KL_t, lambda); the KL that is reported, and the bound of evaluation, are the KL itself."""
    ids, mask, labels = make_batch(TEXTS)
    without = {"posterior_norm": "none", "posterior_sigma_init": 1.0}
    plain, free = (tiny_model(free_nats=nats, **without) for nats in (0.0, 2.0))
    wanted, found = (model(ids, attention_mask=mask, labels=labels) for model in (plain, free))
    per_segment = gaussian_kl(found.posterior_mean, found.posterior_logvar, found.prior_mean, found.prior_logvar).sum(
        -1
    )
    counts = [4, 2, 3]
    kl = [per_segment[row, t].item() for row, count in enumerate(counts) for t in range(count)]
    assert min(kl) < 1.95 and max(kl) > 2.05
    targets = (labels[:, 1:] != -100).sum()
    penalty = sum(max(nats, 2.0) for nats in kl)
    torch.testing.assert_close(found.loss * targets, wanted.reconstruction_loss * 3 + penalty)
    assert torch.equal(found.kl_loss, wanted.kl_loss) and found.kl_loss.item() == pytest.approx(sum(kl) / 3, rel=1e-5)
    bounds = [model.elbo(ids, mask, generator=torch.Generator().manual_seed(0)) for model in (plain, free)]
    assert torch.equal(*bounds)
    # below the threshold the KL teaches nothing
    huge = tiny_model(free_nats=1e9, **without)
    gradients = []
    for weight in (0.0, 1.0):
        huge.zero_grad()
        huge.kl_weight.fill_(weight)
        huge(ids, attention_mask=mask, labels=labels).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in huge.parameters()])
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)


def test_kl_reduction_mean_is_per_segment_and_dimension():
    ids, mask, labels = make_batch(TEXTS)
    total = tiny_model()(ids, attention_mask=mask, labels=labels)
    mean = tiny_model(kl_reduction="mean")(ids, attention_mask=mask, labels=labels)
    kl = gaussian_kl(total.posterior_mean, total.posterior_logvar, total.prior_mean, total.prior_logvar).sum((1, 2))
    penalty = (kl / torch.tensor([4.0, 2.0, 3.0]) / 4).sum()
    targets = (labels[:, 1:] != -100).sum()
    torch.testing.assert_close(mean.loss, (total.reconstruction_loss * 3 + penalty) / targets)
    torch.testing.assert_close(mean.kl_loss, total.kl_loss)  # what is reported is the KL itself


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("family", FAMILIES)
def test_no_leak(family):
    """Changing x_t changes neither prior_t, nor z_<t, nor any logit before it; it does change the posterior of z_t."""
    model = tiny_model(family)
    text = make_text([3, 3, 3, 3], seed=5)
    changed = list(text)
    start = 1 + 2 * 4  # BOS, two segments of three tokens and [SEP]: the first token of x_3
    for position in range(start, start + 3):
        changed[position] = 4 + (text[position] - 3) % (VOCAB - 4)
    before, after = (model(torch.tensor([ids])) for ids in (text, changed))
    for name in ("prior_mean", "prior_logvar"):
        torch.testing.assert_close(after[name][:, :3], before[name][:, :3], atol=1e-6, rtol=0)
        assert (after[name][:, 3] - before[name][:, 3]).abs().max() > 1e-3  # the prior of z_4 does see x_3
    torch.testing.assert_close(after.latents[:, :2], before.latents[:, :2], atol=1e-6, rtol=0)
    assert (after.posterior_mean[:, 2] - before.posterior_mean[:, 2]).abs().max() > 1e-3
    # the [SEP] that closes x_2 predicts the first token of x_3 under z_3, so it may change; all before may not
    torch.testing.assert_close(after.logits[:, : start - 1], before.logits[:, : start - 1], atol=1e-5, rtol=0)
    assert (after.logits[:, start - 1] - before.logits[:, start - 1]).abs().max() > 1e-3


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(family, side):
    """A batch of many equals batches of one: reconstruction, KL, latents, logits."""
    model = tiny_model(family)
    ids, mask, labels = make_batch(TEXTS, side)
    many = model(ids, attention_mask=mask, labels=labels)
    reconstruction, kl = [], []
    for row, text in enumerate(TEXTS):
        one_ids, _, one_labels = make_batch([text])
        one = model(one_ids, labels=one_labels)
        steps = one.latents.shape[1]
        for name in ("latents", "prior_mean", "prior_logvar", "posterior_mean", "posterior_logvar"):
            torch.testing.assert_close(many[name][row, :steps], one[name][0], atol=1e-5, rtol=1e-5)
            assert not many[name][row, steps:].any()
        torch.testing.assert_close(many.logits[row][mask[row] == 1], one.logits[0], atol=1e-4, rtol=1e-4)
        reconstruction.append(one.reconstruction_loss)
        kl.append(one.kl_loss)
    torch.testing.assert_close(many.reconstruction_loss, torch.stack(reconstruction).mean(), rtol=1e-5, atol=0)
    torch.testing.assert_close(many.kl_loss, torch.stack(kl).mean(), rtol=1e-5, atol=0)


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(attention):
    ids, mask, labels = make_batch(TEXTS)
    model = tiny_model("llama")
    model.set_attn_implementation(attention)
    assert model.backbone.config._attn_implementation == attention
    loss = model(ids, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(loss, tiny_model("llama")(ids, attention_mask=mask, labels=labels).loss)


@pytest.mark.usefixtures("architecture")
def test_eval_is_deterministic_and_training_samples():
    model = tiny_model()
    ids, mask, labels = make_batch(TEXTS)
    first, second = (model(ids, attention_mask=mask, labels=labels) for _ in range(2))
    assert torch.equal(first.loss, second.loss)
    torch.testing.assert_close(first.latents, first.posterior_mean)
    drawn = model(ids, attention_mask=mask, labels=labels, sample_latents=True)
    assert (drawn.latents - drawn.posterior_mean).abs().max() > 1e-3
    model.train()
    trained = model(ids, attention_mask=mask, labels=labels)
    assert trained.logits is None and (trained.latents - trained.posterior_mean).abs().max() > 1e-3
    means = model(ids, attention_mask=mask, labels=labels, sample_latents=False)
    torch.testing.assert_close(means.latents, first.latents)


@pytest.mark.usefixtures("architecture")
def test_given_latents_are_scored_without_an_encoder_pass():
    model = tiny_model()
    ids, mask, labels = make_batch(TEXTS)
    encoded = model.encode(ids, mask)
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    out = model(ids, attention_mask=mask, labels=labels, latents=encoded.latents)
    assert len(calls) == 1 and out.kl_loss is None
    whole = model(ids, attention_mask=mask, labels=labels)
    torch.testing.assert_close(out.logits, whole.logits)
    torch.testing.assert_close(out.loss * (labels[:, 1:] != -100).sum(), whole.reconstruction_loss * 3)
    torch.testing.assert_close(encoded.kl_loss, whole.kl_loss)
    for bad in (encoded.latents[0], encoded.latents[:2], encoded.latents[:, :2], encoded.latents[..., :3]):
        with pytest.raises(ValueError, match=r"`latents` must have shape .* = \(3, 4, 4\), got"):
            model(ids, attention_mask=mask, latents=bad)


@pytest.mark.usefixtures("architecture")
def test_explicit_segment_ids_win():
    model = tiny_model()
    ids, mask, _ = make_batch(TEXTS)
    derived = model(ids, attention_mask=mask)
    same = model(ids, attention_mask=mask, segment_ids=derived.segment_ids)
    torch.testing.assert_close(same.logits, derived.logits)
    merged = derived.segment_ids.clamp_max(1)
    assert model(ids, attention_mask=mask, segment_ids=merged).latents.shape[1] == 1
    with pytest.raises(ValueError, match="`segment_ids` must have the shape"):
        model(ids, segment_ids=merged[:, 1:])


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_in_pieces_equals_the_whole(family, monkeypatch):
    """The head that never holds all logits gives the same loss and gradients."""
    ids, mask, labels = make_batch(TEXTS)

    def gradients(limit):
        monkeypatch.setattr("modeling_trace.models.loss_trace._MAX_LOGITS", limit)
        model = tiny_model(family).double().train()
        loss = model(ids, attention_mask=mask, labels=labels, sample_latents=False).loss
        loss.backward()
        return loss, {name: p.grad for name, p in model.named_parameters()}

    (whole, wanted), (pieces, found) = gradients(2**24), gradients(0)
    torch.testing.assert_close(pieces, whole, atol=1e-10, rtol=0)
    for name, gradient in wanted.items():
        assert gradient is not None and gradient.any(), name
        torch.testing.assert_close(found[name], gradient, atol=1e-10, rtol=0)


class Allocated(TorchDispatchMode):
    """Elements of the largest tensor that any operation made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])  # Gemma 2 caps its logits: the pieces go another way
def test_the_head_never_holds_all_logits(family, monkeypatch):
    """Memory law: the largest tensor of a step does not grow with the number of targets times the vocabulary."""
    vocab_size, limit = 5000, 40_000
    monkeypatch.setattr("modeling_trace.models.loss_trace._MAX_LOGITS", limit)
    torch.manual_seed(0)
    config = tiny_config(family, backbone_config=backbone_config(family, vocab_size=vocab_size))
    model = TraceForConditionalGeneration(config).train()
    ids, mask, labels = make_batch([make_text([5] * 8, seed) for seed in range(2)])
    with Allocated() as step:
        model(ids, mask, labels).loss.backward()
    weight = model.lm_head.weight.numel()
    assert step.largest <= max(weight, limit)
    assert labels.numel() * vocab_size > 2 * max(weight, limit)  # what all logits would be
    with Allocated() as whole:
        model.eval()(ids, mask, labels)
    assert whole.largest >= labels.numel() * vocab_size


@pytest.mark.parametrize("family", FAMILIES)
def test_without_latents_it_is_the_backbone(family):
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(backbone_config(family)).eval()
    model = TraceForConditionalGeneration.from_backbone(lm, latent_dynamics="none").eval()
    ids, mask, labels = make_batch(TEXTS)
    out, wanted = (m(input_ids=ids, attention_mask=mask, labels=labels) for m in (model, lm))
    torch.testing.assert_close(out.logits[mask == 1], wanted.logits[mask == 1])
    torch.testing.assert_close(out.loss, wanted.loss)
    assert out.kl_loss is None and out.latents is None
    kept = {"max_new_tokens": 12, "pad_token_id": PAD, "num_beams": 3}
    assert torch.equal(model.generate(ids[:, :4], **kept), lm.generate(ids[:, :4], **kept))
    with pytest.raises(ValueError, match="plain language model"):
        model.encode(ids)
    refused = ({"latents": torch.zeros(1, 4)}, {"latent_temperature": 0.5}, {"min_segment_length": 2})
    for arguments in refused:
        with pytest.raises(ValueError, match="plain language model"):
            model.generate(**arguments)


@pytest.mark.usefixtures("architecture")
def test_autocast_keeps_loss_and_latents_in_float32():
    model = tiny_model().train()
    ids, mask, labels = make_batch(TEXTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(ids, attention_mask=mask, labels=labels, sample_latents=False)
    for name in ("loss", "reconstruction_loss", "kl_loss", "latents", "prior_logvar", "posterior_logvar"):
        assert out[name].dtype == torch.float32, name
    exact = model(ids, attention_mask=mask, labels=labels, sample_latents=False)
    torch.testing.assert_close(out.loss, exact.loss, rtol=0.05, atol=0.05)


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load(tmp_path, family):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    loaded = TraceForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in model.named_parameters()}
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    ids, mask, labels = make_batch(TEXTS)
    assert loaded.kl_weight == 1
    assert torch.equal(
        loaded(ids, attention_mask=mask, labels=labels).loss, model(ids, attention_mask=mask, labels=labels).loss
    )
    tied = loaded.config.tie_word_embeddings
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("options", "passes"),
    [({}, 3), ({"encoder_layers": 1}, 3), ({"latent_layer": 1}, 1)],  # two encoder passes and the decoder, or one
    ids=str,
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(family, options, passes, side):
    """Latents and dropout are drawn once: what is computed again draws the same."""
    ids, mask, labels = make_batch(TEXTS, side)
    dropout = {"attn_pdrop": 0.1, "resid_pdrop": 0.1} if family == "gpt2" else {"attention_dropout": 0.1}
    backbone = backbone_config(family, **dropout)
    results = []
    for checkpointing in (False, True):
        model = tiny_model(family, backbone_config=backbone, **options).double().train()
        layer = next(module for module in model.backbone.modules() if isinstance(module, GradientCheckpointingLayer))
        calls = []
        layer.mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(1)
        loss = model(ids, mask, labels).loss
        loss.backward()
        assert len(calls) == passes * (2 if checkpointing else 1)
        results.append([loss, *(parameter.grad for parameter in model.parameters())])
    for plain, saved in zip(*results, strict=True):
        torch.testing.assert_close(saved, plain, atol=1e-10, rtol=0)


@pytest.mark.usefixtures("architecture")
def test_latent_networks_start_as_configured():
    model = tiny_model(latent_size=32, posterior_sigma_init=0.2, latent_init_scale=0.5, posterior_norm_gamma=0.7)
    std = 0.5 * model.residual_rms() / 32**0.5
    assert abs(model.latent_injection.weight.std().item() / std - 1) < 0.1
    ids, mask, _ = make_batch(TEXTS)
    out = model.encode(ids, mask)
    ratio = (out.posterior_logvar - out.prior_logvar)[0]
    torch.testing.assert_close(ratio.mean(-1), torch.full((4,), 2 * math.log(0.2)), atol=1e-4, rtol=0)
    shift = (out.posterior_mean - out.prior_mean) * torch.exp(-0.5 * out.prior_logvar)
    torch.testing.assert_close(shift[0].square().mean(-1), torch.full((4,), 0.49), atol=1e-3, rtol=0)


@pytest.mark.usefixtures("architecture")
def test_prior_scale_bounds_the_kl_from_below():
    """residual_scale="prior": every segment's KL >= l gamma^2 / 2 while beta is 0, whatever the prior's variance."""
    model = tiny_model(latent_size=16, posterior_norm_gamma=1.5)
    torch.nn.init.normal_(model.dynamics.prior_network.weight, std=1.0)
    ids, mask, _ = make_batch(TEXTS)
    out = model.encode(ids, mask)
    kl = gaussian_kl(out.posterior_mean, out.posterior_logvar, out.prior_mean, out.prior_logvar).sum(-1)
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
    assert out.prior_logvar.abs().max() > 1  # the prior's variance did move
    assert (kl[real] >= 16 * 1.5**2 / 2 * (1 - 1e-3)).all()  # LayerNorm's epsilon takes the rest


# --- from_backbone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_from_backbone_keeps_the_language_model(family):
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(backbone_config(family)).eval()
    ids = torch.tensor([[BOS, 5, 6, 7, 8, EOS]])
    wanted = lm(ids).logits
    tokenizer = word_tokenizer()
    model = TraceForConditionalGeneration.from_backbone(lm, tokenizer, latent_size=4, separator="token").eval()
    assert tokenizer.sep_token == "[SEP]" and model.config.sep_token_id == tokenizer.sep_token_id == VOCAB
    assert model.get_input_embeddings().weight.shape[0] == model.config.backbone_config.vocab_size == VOCAB + 1
    found = model(ids, latents=torch.zeros(1, 1, 4)).logits
    torch.testing.assert_close(found[..., :VOCAB], wanted)  # latents of zero: nothing has changed
    torch.testing.assert_close(
        model.get_input_embeddings().weight[VOCAB], model.get_input_embeddings().weight[:VOCAB].mean(0)
    )
    generation = model.generation_config
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (BOS, EOS, PAD)
    if model.config.tie_word_embeddings:
        assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_spare_row_becomes_sep_at_the_mean():
    """Qwen's embeddings have more rows than its tokenizer has tokens: no resizing, but no random [SEP] either."""
    lm = AutoModelForCausalLM.from_config(backbone_config("qwen2", vocab_size=VOCAB + 8))
    head = lm.lm_head.weight.detach().clone()
    model = TraceForConditionalGeneration.from_backbone(lm, word_tokenizer(), separator="token")
    assert model.get_input_embeddings().weight.shape[0] == VOCAB + 8 and model.config.sep_token_id == VOCAB
    torch.testing.assert_close(model.lm_head.weight[VOCAB], head[:VOCAB].mean(0))
    torch.testing.assert_close(model.lm_head.weight[VOCAB + 1 :], head[VOCAB + 1 :])


@pytest.mark.parametrize("family", FAMILIES)
def test_from_backbone_by_folder_and_again_after_saving(tmp_path, family):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(backbone_config(family)).save_pretrained(tmp_path / "lm")
    word_tokenizer().save_pretrained(tmp_path / "lm")
    size = len(AutoTokenizer.from_pretrained(tmp_path / "lm"))  # Qwen2's tokenizer adds a token of its own
    settings = {"latent_size": 4, "segment_length": 5, "separator": "token"}
    model = TraceForConditionalGeneration.from_backbone(str(tmp_path / "lm"), **settings).eval()
    assert model.config.sep_token_id == size and model.config.segment_length == 5
    model.save_pretrained(tmp_path / "trace")
    loaded = TraceForConditionalGeneration.from_pretrained(tmp_path / "trace").eval()
    ids = torch.tensor([[BOS, 5, 6, size, 7, 8, EOS]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "lm").sep_token is None  # the source is left as it was


def test_a_saved_plain_language_model_is_a_backbone(tmp_path):
    """The recipe: train with latent_dynamics="none", then turn the result into TRACE."""
    plain = TraceForConditionalGeneration.from_backbone(
        AutoModelForCausalLM.from_config(backbone_config()), word_tokenizer(), latent_dynamics="none"
    ).eval()
    plain.save_pretrained(tmp_path / "plain")
    word_tokenizer().save_pretrained(tmp_path / "plain")
    model = TraceForConditionalGeneration.from_backbone(tmp_path / "plain", latent_size=4).eval()
    ids = torch.tensor([[BOS, 5, 6, 7, 8, EOS]])
    found = model(ids, latents=torch.zeros(1, 1, 4)).logits
    torch.testing.assert_close(found[..., :VOCAB], plain(ids).logits)
    model.save_pretrained(tmp_path / "trace")
    word_tokenizer().save_pretrained(tmp_path / "trace")
    with pytest.raises(ValueError, match="is a TRACE model already"):
        TraceForConditionalGeneration.from_backbone(tmp_path / "trace")


def test_from_backbone_has_a_dtype_and_fields_of_both_kinds(tmp_path):
    AutoModelForCausalLM.from_config(backbone_config()).to(torch.bfloat16).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    assert TraceForConditionalGeneration.from_backbone(tmp_path).dtype == torch.float32
    settings = {"dtype": torch.bfloat16, "attn_implementation": "eager", "separator": "token"}
    model = TraceForConditionalGeneration.from_backbone(tmp_path, **settings)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.backbone.config._attn_implementation == "eager"
    out = model(torch.tensor([[BOS, 5, 6, VOCAB, 7, 8, EOS]]))
    assert out.latents.dtype == torch.float32 and out.logits.dtype == torch.bfloat16


def test_from_backbone_errors(tmp_path):
    lm = AutoModelForCausalLM.from_config(backbone_config())
    with pytest.raises(ValueError, match="Did you mean `latent_size`"):
        TraceForConditionalGeneration.from_backbone(lm, latent_sizes=3)
    with pytest.raises(ValueError, match="`backbone` is a model in memory"):
        TraceForConditionalGeneration.from_backbone(lm, revision="main")
    with pytest.raises(ValueError, match="`backbone` must be a name, a path or a PreTrainedModel, got dict"):
        TraceForConditionalGeneration.from_backbone({})
    for special, name in (({"sep_token": "</s>"}, "eos_token_id"), ({"sep_token": "<pad>"}, "pad_token_id")):
        with pytest.raises(ValueError, match=f"also `{name}`"):
            TraceForConditionalGeneration.from_backbone(lm, word_tokenizer(**special), separator="token")
    with pytest.raises(ValueError, match="an encoder-only model"):
        TraceForConditionalGeneration.from_backbone(
            BertLMHeadModel(BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=1)),
            word_tokenizer(),
        )
    T5ForConditionalGeneration(T5Config(vocab_size=40, d_model=8, num_layers=2, d_ff=8)).config.save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="an encoder-decoder"):  # from the config alone: there are no weights to load
        TraceForConditionalGeneration.from_backbone(tmp_path)
    with pytest.raises(ValueError, match="GGUF file that does not exist"):
        TraceForConditionalGeneration.from_backbone("nowhere/model.gguf")


def test_opt_comes_back_whole(tmp_path):
    """Its decoder alone is not what AutoModel builds: weights saved from that would be missing at loading."""
    size = {"vocab_size": 40, "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "max_position_embeddings": 32}
    opt = OPTForCausalLM(OPTConfig(**size, **ids, word_embed_proj_dim=16))
    model = TraceForConditionalGeneration.from_backbone(opt, latent_size=4, **PAPER_ARCHITECTURE)
    model.save_pretrained(tmp_path)
    loaded = TraceForConditionalGeneration.from_pretrained(tmp_path).eval()
    text = torch.tensor([[BOS, 5, 6, 40, 7, 8, EOS]])
    assert torch.equal(loaded(text).logits, model(text).logits)
    with pytest.raises(ValueError, match="embeddings of another size than its hidden states"):
        TraceForConditionalGeneration.from_backbone(
            OPTForCausalLM(OPTConfig(**size, **ids, word_embed_proj_dim=8)), latent_layer=None
        )


def test_backbones_with_a_running_state_are_refused():
    rwkv = RwkvForCausalLM(RwkvConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16))
    with pytest.raises(ValueError, match="'rwkv' keeps a running state"):
        TraceForConditionalGeneration.from_backbone(rwkv, latent_size=4)


def test_bad_settings_leave_the_backbone_as_it_was():
    lm = AutoModelForCausalLM.from_config(backbone_config())
    with pytest.raises(ValueError, match="`latent_size`"):
        TraceForConditionalGeneration.from_backbone(lm, latent_size=0)
    assert lm.get_input_embeddings().weight.shape[0] == VOCAB
    model = TraceForConditionalGeneration.from_backbone(lm, separator="token")
    assert model.config.sep_token_id == VOCAB
    assert not any(module.training for module in model.modules())  # as from_pretrained


def test_new_parts_are_where_the_backbone_is():
    lm = AutoModelForCausalLM.from_config(backbone_config()).to("meta")
    model = TraceForConditionalGeneration.from_backbone(lm, sep_token_id=39)
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}
    assert model.kl_weight.device.type == "meta"


def test_texts_longer_than_the_context_are_refused():
    for family in FAMILIES:
        model = tiny_model(family)
        for call in (model, model.encode):
            with pytest.raises(ValueError, match="context of 64 tokens, got 65"):
                call(torch.full((1, 65), 5))


def test_given_latents_must_be_finite():
    with pytest.raises(ValueError, match="`latents` must be finite"):
        tiny_model()(torch.tensor([[BOS, 5, EOS]]), latents=torch.full((1, 1, 4), float("nan")))


def test_backbones_that_change_their_logits_are_refused():
    size = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    phi = PhiForCausalLM(PhiConfig(**size, intermediate_size=16, bos_token_id=0, eos_token_id=1))
    with pytest.raises(ValueError, match="'phi' has a head with a bias"):
        TraceForConditionalGeneration.from_backbone(phi)
    special = {"intermediate_size": 16, "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1}
    cohere = CohereForCausalLM(CohereConfig(**size, **special))
    with pytest.raises(ValueError, match="'cohere' scales by `logit_scale`"):
        TraceForConditionalGeneration.from_backbone(cohere)
    granite = GraniteForCausalLM(GraniteConfig(**size, **special, embedding_multiplier=12.0))
    with pytest.raises(ValueError, match="'granite' scales by `embedding_multiplier`"):
        TraceForConditionalGeneration.from_backbone(granite)


def test_a_tokenizer_without_special_tokens_gets_them():
    tokenizer = add_separator_token(word_tokenizer(bos_token=None, pad_token=None))
    assert tokenizer.bos_token == tokenizer.pad_token == tokenizer.eos_token == "</s>"
    with pytest.raises(ValueError, match="no EOS token"):
        add_separator_token(word_tokenizer(eos_token=None))


def test_alias_without_its_package_is_a_hub_id(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert resolve_backbone("smollm2-135m") == ("HuggingFaceTB/SmolLM2-135M-Instruct", {})
    assert resolve_backbone("gpt2") == ("gpt2", {})


def test_sep_is_needed():
    with pytest.raises(ValueError, match="`sep_token_id` is needed"):
        TraceForConditionalGeneration(TraceConfig(backbone_config=backbone_config(), separator="token"))
    assert tiny_config(sep_token_id=None, latent_dynamics="none").sep_token_id is None


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    """Transformers would make an empty one up, and [SEP] would take the place of a token."""
    AutoModelForCausalLM.from_config(backbone_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer. Save it there, or pass `tokenizer`"):
        TraceForConditionalGeneration.from_backbone(str(tmp_path))
