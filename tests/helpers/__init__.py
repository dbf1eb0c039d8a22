"""What tests share: tiny models, tokenizers, trainers, a hub, other processes."""
