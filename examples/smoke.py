"""What `--smoke` stands for in the scripts here: a small random GPT-2 in place of the model, and a few steps."""

import os

from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments, set_seed

from modeling_trace.data import load_texts, train_tokenizer

STEPS, MAX_TEXTS = 4, 60
# Not tied: a random model with tied embeddings repeats what it reads, BOS first, and so ends every text at once.
SIZE = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 160, "tie_word_embeddings": False}


def small_gpt2(folder: str) -> str:
    """Saves a random GPT-2 with a tokenizer of the built-in reviews, where there is none yet; returns the folder."""
    if not os.path.exists(os.path.join(folder, "model.safetensors")):
        texts, _ = load_texts("reviews", max_texts=200, validation_split=None)
        tokenizer = train_tokenizer(texts["text"], 600)
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        set_seed(0)
        tokenizer.save_pretrained(folder)
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **SIZE, **ids)).save_pretrained(folder)
    return folder


def make_small(script, training: TrainingArguments) -> None:
    """Sets `model_name_or_path` and `max_texts` of a script's arguments, and `max_steps` where it is not set."""
    with training.main_process_first(local=False, desc="the small GPT-2"):
        script.model_name_or_path = small_gpt2(os.path.join(training.output_dir, "small-gpt2"))
    script.max_texts = MAX_TEXTS
    training.max_steps = training.max_steps if training.max_steps > 0 else STEPS


__all__ = ["make_small", "small_gpt2"]
