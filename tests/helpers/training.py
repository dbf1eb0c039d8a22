"""Tiny trainers: what the tests of training share."""

import torch
from datasets import Dataset
from transformers import GPT2Config

from helpers import tiny
from modeling_trace.models.configuration_trace import TraceConfig
from modeling_trace.models.modeling_trace import TraceForConditionalGeneration
from modeling_trace.training import KLWeightCallback, TraceTrainer, TraceTrainingArguments

PAD, BOS, EOS, SEP, VOCAB_SIZE = 0, 1, 2, 3, 24


# What a user who changes nothing gets, in shorter segments
ONE_PASS = {"latent_layer": 1, "separator": "none", "posterior_norm": "none", "free_nats": 3.0, "segment_length": 3}


def make_config(dropout=0.0, **kwargs):
    backbone = GPT2Config(
        n_layer=2,
        n_embd=32,
        n_head=2,
        vocab_size=VOCAB_SIZE,
        n_positions=64,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    ids = {"sep_token_id": SEP, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    return TraceConfig(**{"backbone_config": backbone, "latent_size": 4, **ids, **tiny.ARCHITECTURE, **kwargs})


def make_model(seed=0, **kwargs):
    torch.manual_seed(seed)
    return TraceForConditionalGeneration(make_config(**kwargs))


def make_texts(num_texts, seed=0):
    """Texts of one to four segments of three tokens, so that batches mix lengths."""
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for index in range(num_texts):
        segments = torch.randint(4, VOCAB_SIZE, (1 + index % 4, 3), generator=generator).tolist()
        ids = [BOS]
        for segment in segments:
            ids += [*segment, SEP]
        texts.append({"input_ids": [*ids[:-1], EOS], "topic": "unused column"})
    return Dataset.from_list(texts)


class Collator:
    """Right padding; `sample_latents=False` takes the noise out, for laws about gradients."""

    def __init__(self, sample_latents=None):
        self.extra = {} if sample_latents is None else {"sample_latents": sample_latents}

    def __call__(self, features):
        rows = [torch.tensor(feature["input_ids"]) for feature in features]
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        labels = input_ids.masked_fill(input_ids == PAD, -100)
        labels[:, 0] = -100
        return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), "labels": labels, **self.extra}


def make_args(output_dir, args_class=TraceTrainingArguments, **kwargs):
    defaults = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 3,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return args_class(str(output_dir), **{**defaults, **kwargs})


def make_trainer(output_dir, model=None, trainer_class=TraceTrainer, **kwargs):
    """A trainer of a tiny model; a `kl_schedule` may also be a function, and all that is no other is an argument."""
    names = ("train_dataset", "eval_dataset", "callbacks", "data_collator", "processing_class")
    own = {name: kwargs.pop(name) for name in names if name in kwargs}
    own = {"train_dataset": make_texts(8), "data_collator": Collator(), **own}
    if callable(kwargs.get("kl_schedule")):
        own["callbacks"] = [*own.get("callbacks", ()), KLWeightCallback(kwargs.pop("kl_schedule"))]
    return trainer_class(model or make_model(), make_args(output_dir, **kwargs), **own)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def training_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]
