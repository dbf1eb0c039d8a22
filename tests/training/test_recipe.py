"""The recipe on the built-in corpus: do the latents carry what they should? A minute, so marked slow."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from modeling_trace import TraceForConditionalGeneration, TraceProcessor
from modeling_trace.data import (
    ASPECTS,
    SentenceSegmenter,
    TraceDataCollator,
    prepare_dataset,
    review_dataset,
    train_tokenizer,
)
from modeling_trace.training import TraceTrainer

pytestmark = pytest.mark.slow


def train(model, processor, dataset, folder, steps):
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=2e-3,
        warmup_steps=20,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = TraceTrainer(
        model, arguments, train_dataset=prepare_dataset(dataset, processor), processing_class=processor
    )
    trainer.train()
    model.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny plain LM, TRACE from it by the default recipe, and batches of texts that neither has seen."""
    folder = tmp_path_factory.mktemp("recipe")
    torch.manual_seed(0)
    reviews = review_dataset(4000)
    training, held_back = reviews.select(range(300, 4000)), reviews.select(range(300))
    tokenizer = train_tokenizer(training["text"], 800)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_layer=2, n_head=2, n_embd=64, n_positions=160, **ids))
    plain = TraceForConditionalGeneration.from_backbone(lm, tokenizer, latent_dynamics="none")
    train(plain, TraceProcessor(tokenizer, None), training, folder / "plain", 200)
    plain.save_pretrained(folder / "plain")
    processor = TraceProcessor(tokenizer, SentenceSegmenter())
    model = TraceForConditionalGeneration.from_backbone(folder / "plain", processor)
    train(model, processor, training, folder / "trace", 250)
    collate = TraceDataCollator(processor)
    rows = processor(held_back["text"])["input_ids"]
    batches = [collate([{"input_ids": row} for row in rows[i : i + 50]]) for i in range(0, 300, 50)]
    return model, batches, held_back


@torch.no_grad()
def test_true_latents_reconstruct_better_than_prior_draws(trained):
    model, batches, _ = trained
    torch.manual_seed(0)
    true = drawn = 0.0
    for batch in batches:
        found = model(**batch, sample_latents=True)
        true += found.reconstruction_loss.item() / len(batches)
        noise = torch.randn_like(found.prior_mean)
        # the prior at each step given the true latents before it, so that one step's draw is all that differs
        prior = found.prior_mean + torch.exp(0.5 * found.prior_logvar) * noise
        drawn += model(**batch, latents=prior).reconstruction_loss.item() / len(batches)
    assert true < drawn - 5, (true, drawn)  # nats per text


@torch.no_grad()
def test_a_linear_probe_reads_the_aspect_from_the_latents(trained):
    model, batches, held_back = trained
    latents, aspects = [], []
    for number, batch in enumerate(batches):
        found = model.encode(batch["input_ids"], batch["attention_mask"]).latents
        for row, labels in enumerate(held_back["aspects"][50 * number : 50 * (number + 1)]):
            latents.append(found[row, : len(labels)])
            aspects += [ASPECTS.index(label) for label in labels]
    latents, aspects = torch.cat(latents).double(), torch.tensor(aspects)
    half = len(latents) // 2

    def accuracy(features):
        features = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1)
        targets = torch.nn.functional.one_hot(aspects, len(ASPECTS)).double()
        ridge = features[:half].t() @ features[:half] + torch.eye(features.shape[1], dtype=features.dtype)
        weights = torch.linalg.solve(ridge, features[:half].t() @ targets[:half])
        return ((features[half:] @ weights).argmax(1) == aspects[half:]).double().mean().item()

    shuffled = latents[torch.randperm(len(latents), generator=torch.Generator().manual_seed(0))]
    found, chance = accuracy(latents), accuracy(shuffled)
    error = (found * (1 - found) / (len(latents) - half)) ** 0.5
    assert found > chance + 5 * error, (found, chance, error)


def test_greedy_texts_differ(trained):
    model, batches, _ = trained
    torch.manual_seed(0)
    texts = model.generate(num_return_sequences=50, max_new_tokens=80)
    assert len({tuple(row) for row in texts.tolist()}) >= 40
