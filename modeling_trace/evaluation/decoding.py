"""Decoding strategies by name (paper, Section 5.8 and Table 6)."""

# Arguments of generate(). What they do not name is as in a model's generation_config.json.
DECODING = {
    "greedy": {"do_sample": False, "num_beams": 1},
    "beam": {"do_sample": False, "num_beams": 10},
    "top-k": {"do_sample": True, "num_beams": 1, "top_k": 50, "top_p": 1.0, "temperature": 1.0},
    "top-p": {"do_sample": True, "num_beams": 1, "top_k": 0, "top_p": 0.9, "temperature": 1.0},
    "temperature": {"do_sample": True, "num_beams": 1, "top_k": 0, "top_p": 1.0, "temperature": 0.7},
}
DESCRIPTIONS = {
    "greedy": "greedy: only latents are drawn",
    "beam": "beam search, 10 beams: only latents are drawn",
    "top-k": "top-k, k = 50",
    "top-p": "top-p, p = 0.9",
    "temperature": "sampling at temperature 0.7",
}


def sampling_at(temperature: float) -> dict:
    """Arguments of generate() for sampling from the whole vocabulary at a temperature; 0 is greedy decoding."""
    if temperature == 0:
        return DECODING["greedy"]
    return {**DECODING["temperature"], "temperature": temperature}


__all__ = ["DECODING", "DESCRIPTIONS", "sampling_at"]
