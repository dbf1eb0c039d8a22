"""The importance-weighted bound and the ELBO: known integrals, every latent dynamics by hand, what is counted."""

import math

import pytest
import torch
from datasets import Dataset, DatasetDict
from tiny import BOS, EOS, PAD, SEP, VOCAB, make_batch, make_text, tiny_config, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.distributions import Normal
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from modeling_trace import LatentDynamics, TraceForConditionalGeneration, likelihood_trace
from modeling_trace.data import FixedLengthSegmenter, TraceDataCollator, TraceProcessor
from modeling_trace.dynamics_trace import LATENT_DYNAMICS
from modeling_trace.evaluation import evaluate_likelihood
from modeling_trace.likelihood_trace import gaussian_log_density, importance_weighted_bound

DYNAMICS = ["recurrent", "parallel", "independent", "context", "single"]
TEXTS = [make_text([3, 3, 2], seed=1), make_text([3], seed=2), make_text([3, 3], seed=3)]
PROMPTED = [[BOS, 9, 8, SEP, *text[1:]] for text in TEXTS]
CASES = [(name, {}) for name in DYNAMICS]
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
    monkeypatch.setattr("modeling_trace.configuration_trace.REGISTERED_DYNAMICS", {"own"})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny_processor(segment_length=3, conditional=False):
    """With the ids of the tiny models, [SEP] among them."""
    words = ["<s>", "</s>", "<pad>", "[SEP]", *(f"w{i}" for i in range(4, VOCAB))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w4"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    segmenter = None if segment_length is None else FixedLengthSegmenter(segment_length)
    return TraceProcessor(tokenizer, segmenter, conditional)


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


def test_bound_of_a_model_approaches_its_integral():
    """log p(x) of a text of two segments, by quadrature over z_1 and z_2 and one decoder pass a node."""
    model = tiny_model(latent_size=2, latent_init_std=0.05)
    with torch.no_grad():  # a posterior a little off the prior, and wider: narrower, weights have no variance
        model.latents.mean_norm.gamma, model.latents.logvar_norm.gamma = 0.5, 0.1
        model.latents.logvar_norm.bias.fill_(0.7)
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
            mean, logvar = model.latents.prior(z[-1] if z else torch.zeros_like(eps[:, :2]), c[:, t], first & (t == 0))
            z.append(mean + torch.exp(0.5 * logvar) * eps[:, 2 * t : 2 * t + 2])
        scores = model(ids.expand(len(grid), -1), latents=torch.stack(z, 1)).logits.double().log_softmax(-1)
    nats = scores[:, :-1].gather(2, ids[:, 1:, None].expand(len(grid), -1, 1)).sum((1, 2))
    exact = torch.logsumexp(nats + log_weight, 0).item()
    out = model.log_likelihood(ids, num_samples=4000, generator=seeded(), return_dict=True)
    assert out.log_likelihood.item() == pytest.approx(exact, abs=4 / math.sqrt(out.effective_sample_size.item()))
    assert out.effective_sample_size > 100 and out.elbo.item() < exact - 1  # the law can fail


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
    encoder = 2 if model.latents.posterior_pass == "segment" and model.latents.reads_context else 1
    assert len(passes) == encoder + 3  # 18 rows by 7
    assert model.training and model.latents.training
    model.eval()
    kl = torch.zeros_like(out.kl)
    for row, text in enumerate(texts):
        own = torch.tensor([text])
        for k in range(6):
            context, states, there = model._encoder_states(own, None, model._segment_ids(own, None, None))
            previous, total = torch.zeros(1, 4), 0.0
            for t in range(there.shape[1]):
                c = None if context is None else context[:, t]
                prior = model.latents.prior(previous, c, torch.tensor([t == 0]))
                posterior = model.latents.posterior(*prior, states[:, t])
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


@pytest.mark.parametrize("name", DYNAMICS)
def test_samples_come_from_the_posterior(name):
    """Standardised by the posterior of their own path, they are standard normal."""
    model = tiny_model(latent_dynamics=name)
    ids = torch.tensor(TEXTS[:1])
    z = model.log_likelihood(ids, num_samples=3000, generator=seeded(), return_dict=True).latents[0]
    context, states, there = model._encoder_states(ids, None, model._segment_ids(ids, None, None))
    previous = torch.zeros(3000, 4)
    for t in range(there.shape[1]):
        c = None if context is None else context[:, t].expand(3000, -1)
        prior = model.latents.prior(previous, c, torch.full((3000,), t == 0))
        mean, logvar = model.latents.posterior(*prior, states[:, t].expand(3000, -1))
        standard = (z[:, t] - mean) / torch.exp(0.5 * logvar)
        assert standard.mean(0).abs().max() < 5 / math.sqrt(3000)
        assert (standard.var(0) - 1).abs().max() < 5 * math.sqrt(2 / 3000)
        previous = z[:, t]


@pytest.mark.parametrize("name", [*DYNAMICS, "none"])
def test_batches_padding_and_chunks_change_nothing(name, monkeypatch):
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


def test_large_texts_meet_the_dynamics_in_pieces(monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(likelihood_trace, "_MAX_STATES", 3 * 32 * 4)
    out = model.log_likelihood(torch.tensor(TEXTS[:1]), num_samples=10, return_dict=True)
    z = out.latents[0]
    assert len(z.unique(dim=0)) == 10 and (out.log_weights.diff() != 0).all()


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


def test_elbo_is_the_loss_of_the_same_latents():
    """reconstruction - KL of `forward` under the posterior mean, in the limit of a posterior without noise."""
    model = tiny_model()
    with torch.no_grad():
        model.latents.logvar_norm.gamma = 0.0
        model.latents.logvar_norm.bias.fill_(-14)
    ids, mask, labels = make_batch(TEXTS)
    out = model(ids, attention_mask=mask, labels=labels)
    found = model.elbo(ids, mask, return_dict=True)
    assert -found.reconstruction.mean().item() == pytest.approx(out.reconstruction_loss.item(), abs=2e-2)
    assert found.kl.sum().item() / 3 == pytest.approx(out.kl_loss.item(), rel=1e-3)


def test_overflow_has_no_weight():
    model = tiny_model(prior_logvar_bound=None)
    with torch.no_grad():
        model.latents.prior_network.weight[4:, :4] = 60.0
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


# ---- Data sets ----


def rows_of(texts):
    return [{"input_ids": text} for text in texts]


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
    assert all(math.isfinite(value) for value in summary.values())
    # data sets, loaders and one batch are the same
    collator = TraceDataCollator(processor)
    loader = DataLoader(rows_of(TEXTS), batch_size=2, collate_fn=collator)
    for data in (Dataset.from_list(rows_of(TEXTS)), loader, collator(rows_of(TEXTS)), iter(rows_of(TEXTS))):
        again = evaluate_likelihood(model, data, processor, 8, seed=3)
        torch.testing.assert_close(again.log_likelihood, found.log_likelihood, atol=1e-4, rtol=0)
        assert torch.equal(again.tokens, found.tokens) and torch.equal(again.words, found.words)


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
        for norm in (model.latents.mean_norm, model.latents.logvar_norm):
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
