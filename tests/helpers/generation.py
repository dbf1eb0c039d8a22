"""Prompts, modes of decoding, and re-scoring under returned latents."""

import torch

from helpers.tiny import BOS, EOS, SEP, make_batch


def _rescoring_error(model, out, ids, mask):
    """As `rescoring_error`, for these prompts."""
    rows = len(out.sequences)
    full = torch.ones_like(out.sequences)
    full[:, : ids.shape[1]] = mask.repeat_interleave(rows // 3, dim=0)
    new = out.sequences[:, ids.shape[1] :]
    full[:, ids.shape[1] :] = ((new == EOS).long().cumsum(-1) - (new == EOS).long() == 0).long()
    forced = model(out.sequences, attention_mask=full, latents=out.latents).logits.log_softmax(-1)
    beams, worst = out.get("beam_indices"), 0.0
    for row in range(rows):
        for step in range(new.shape[1]):
            if not full[row, ids.shape[1] + step]:
                break
            source = row if beams is None else beams[row, step]
            if source < 0:
                break
            seen = out.logits[step][source].log_softmax(-1)
            worst = max(worst, (seen - forced[row, ids.shape[1] + step - 1]).abs().max().item())
    return worst


# unequal prompts, left-padded: BOS alone; an open segment; two complete segments; one complete and one open
PROMPTS = [[BOS], [BOS, 9, 8], [BOS, 5, 6, 7, SEP, 9, 8, 9, SEP], [BOS, 4, 5, 6, SEP, 7]]


MODES = {
    "greedy": {},
    "greedy_3_returned": {"num_return_sequences": 3},
    "top_k": {"do_sample": True, "top_k": 5},
    "top_p": {"do_sample": True, "top_p": 0.8, "top_k": 0},
    "sample_3_returned": {"do_sample": True, "num_return_sequences": 3},
    "beam_4_of_2": {"num_beams": 4, "num_return_sequences": 2},
    "beam_sampling": {"num_beams": 3, "num_return_sequences": 2, "do_sample": True},
}


def prompts(kind):
    if kind == "none":
        return {}
    ids, mask, _ = make_batch(PROMPTS, "left")
    return {"input_ids": ids, "attention_mask": mask}


def run(model, kind="left_padded", seed=0, **arguments):
    torch.manual_seed(seed)
    return model.generate(
        **{"max_new_tokens": 14, "return_dict_in_generate": True, "output_logits": True} | prompts(kind) | arguments
    )


def returned_mask(out, kind, prompt_length):
    """Attention mask of the returned rows: the prompt's own, then 1 up to the first EOS."""
    rows = out.sequences.shape[0]
    mask = torch.ones_like(out.sequences)
    if kind != "none":
        own = prompts(kind)["attention_mask"]
        mask[:, :prompt_length] = own.repeat_interleave(rows // own.shape[0], dim=0)
    new = out.sequences[:, prompt_length:]
    ended = (new == EOS).long().cumsum(-1) - (new == EOS).long()
    mask[:, prompt_length:] = (ended == 0).long()
    return mask


def rescoring_error(model, out, kind, latents):
    """Largest difference between the log-probabilities of generation and of teacher forcing under `latents`."""
    prompt_length = 1 if kind == "none" else max(map(len, PROMPTS))
    mask = returned_mask(out, kind, prompt_length)
    forced = model(out.sequences, attention_mask=mask, latents=latents).logits.log_softmax(-1)
    beams = out.get("beam_indices")
    worst = 0.0
    for row in range(out.sequences.shape[0]):
        for step in range(out.sequences.shape[1] - prompt_length):
            if not mask[row, prompt_length + step]:
                break
            source = row if beams is None else beams[row, step]
            if source < 0:
                break
            seen = out.logits[step][source].log_softmax(-1)
            worst = max(worst, (seen - forced[row, prompt_length + step - 1]).abs().max().item())
    return worst
