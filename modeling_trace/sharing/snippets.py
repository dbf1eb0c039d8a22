"""The code of a model card: it runs as it is printed, in an environment of torch and transformers alone."""

from ..models.configuration_trace import TraceConfig
from ..models.dynamics_registry_trace import has_segments

TOKENS = 60  # of a text, where the context has room for them
PROMPT_TOKENS = 16  # at most, of the prompts below
_LOAD = """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "{name}"
model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
"""
_LOAD_ADAPTER = """\
import torch
from modeling_trace import load_model

model, processor = load_model("{name}")
tokenizer = processor.tokenizer
"""
_PRINT = 'print(*tokenizer.batch_decode({texts}, skip_special_tokens=True), sep="\\n")\n'
_PROMPT = '{start} = tokenizer("Once upon a time", return_tensors="pt")  # BOS, the prompt and [SEP]\n'
_GENERATE = """\
torch.manual_seed(0)
texts = model.generate({prompt}num_return_sequences=3, max_new_tokens=60)  # greedy: the latents differ
"""
_GENERATE_PLAIN = """\
torch.manual_seed(0)
texts = model.generate({prompt}do_sample=True, top_k=50, num_return_sequences=3, max_new_tokens=60)
"""
_CONTINUE = """\
start = tokenizer("I", return_tensors="pt")  # the tokenizer writes BOS
{print_start}"""
_EDIT = """\
first = model.generate({prompt}max_new_tokens=60, return_dict_in_generate=True)
latents = first.latents[0]  # (segments, latent_size)
latents[1:2] = float("nan")  # NaN: draw this one again
again = model.generate({prompt}latents=latents, num_return_sequences=2, max_new_tokens=60)
"""
_HOLD = """\
first = model.generate({prompt}max_new_tokens=60, return_dict_in_generate=True)
latents = first.latents[0]  # (1, latent_size): one for the whole text
again = model.generate({prompt}latents=latents, do_sample=True, num_return_sequences=2, max_new_tokens=60)
"""
_RECONSTRUCT = """\
same = model.reconstruct(first.sequences, max_new_tokens=60)
"""
_INTERPOLATE = """\
other = model.generate({prompt}max_new_tokens=60)
steps = model.interpolate(first.sequences, other, num_steps=5, max_new_tokens=60)
"""


def usage(config: TraceConfig, name: str, is_adapter: bool) -> str:
    """
    How to generate, hold and draw latents, reconstruct and interpolate, as Markdown.

    Args:
        config ([`TraceConfig`]): of the model.
        name (`str`): its repository, or its folder's name.
        is_adapter (`bool`): the folder holds an adapter, which needs this package to be loaded.
    """
    prompt = "**start, " if config.conditional else ""
    shown = {name: _PRINT.format(texts=name) for name in ("texts", "again")}
    shown |= {name: _PRINT.format(texts=f"{name}.sequences") for name in ("same", "steps")}
    load = (_LOAD_ADAPTER if is_adapter else _LOAD).format(name=name)
    start = _PROMPT.format(start="start") if config.conditional else ""
    plain = config.latent_dynamics == "none"
    generate = (_GENERATE_PLAIN if plain else _GENERATE).format(prompt=prompt)
    blocks = [("Generate texts:", load + start + generate + shown["texts"])]
    if not config.conditional and (config.separator == "none" or not has_segments(config.latent_dynamics)):
        sampled = "do_sample=True, top_k=50, " if plain else ""
        more = f"more = model.generate(**start, {sampled}num_return_sequences=3, max_new_tokens=60)\n"
        code = _CONTINUE.format(print_start=more) + _PRINT.format(texts="more")
        blocks.append(("Go on from a start of your own:", code))
    if not plain:
        if has_segments(config.latent_dynamics):
            blocks.append(
                (
                    "Hold the latents of a text and draw only the second segment's again:",
                    _EDIT.format(prompt=prompt) + shown["again"],
                )
            )
        else:
            blocks.append(
                ("Hold the latent of a text and sample other words:", _HOLD.format(prompt=prompt) + shown["again"])
            )
        blocks.append(("Write a text again from its latents alone:", _RECONSTRUCT + shown["same"]))
        interpolate = _INTERPOLATE.format(prompt=prompt) + shown["steps"]
        blocks.append(("Walk from its latents to those of another text:", interpolate))
    room = getattr(config.backbone_config, "max_position_embeddings", None)
    tokens = TOKENS if room is None else max(1, min(TOKENS, room - PROMPT_TOKENS))
    blocks = [(title, code.replace(f"max_new_tokens={TOKENS}", f"max_new_tokens={tokens}")) for title, code in blocks]
    text = "\n\n".join(f"{title}\n\n```python\n{code.rstrip()}\n```" for title, code in blocks)
    return f"## Use\n\n{text}"


__all__ = ["usage"]
