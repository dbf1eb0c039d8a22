"""What the pages' code blocks find beside them."""

from transformers import GPT2Config, GPT2LMHeadModel

from modeling_trace import TraceForConditionalGeneration, TraceProcessor
from modeling_trace.data import SentenceSegmenter, generate_reviews, train_tokenizer


def make_demo_folder(folder):
    tokenizer = train_tokenizer([review.text for review in generate_reviews(200)], 2500)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    size = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 160}
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size, **ids))
    plain = TraceForConditionalGeneration.from_backbone(lm, tokenizer, latent_dynamics="none")
    plain.save_pretrained(folder / "plain-lm")
    TraceProcessor(tokenizer, None).save_pretrained(folder / "plain-lm")
    processor = TraceProcessor(tokenizer, SentenceSegmenter())
    trace = TraceForConditionalGeneration.from_backbone(folder / "plain-lm", processor)
    trace.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
