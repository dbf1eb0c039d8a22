"""Decoding strategies by name (paper, Section 5.8 and Table 6), and the settings of the quality-diversity plane."""

from collections.abc import Sequence
from typing import Any

# Arguments of generate(). What they do not name is as in a model's generation_config.json.
DECODING: dict[str, dict[str, Any]] = {
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


def sampling_at(temperature: float, latent_temperature: float | None = None) -> dict:
    """
    Arguments of generate() for sampling from the whole vocabulary.

    Args:
        temperature (`float`): of the tokens; 0 is greedy decoding.
        latent_temperature (`float`, *optional*): of the latents; None for a plain language model.
    """
    settings = dict(DECODING["greedy" if temperature == 0 else "temperature"])
    if temperature != 0:
        settings["temperature"] = temperature
    if latent_temperature is not None:
        settings["latent_temperature"] = latent_temperature
    return settings


def plane_settings(
    temperatures: Sequence[float], latent_temperatures: Sequence[float], has_latents: bool
) -> list[tuple[float, float | None]]:
    """Every pair of both temperatures; for a plain language model those of the tokens, each with None."""
    return [(token, latent) for latent in (latent_temperatures if has_latents else (None,)) for token in temperatures]


def setting_label(temperature: float, latent_temperature: float | None, to: float | None = None) -> str:
    """A setting as it is written in reports, or a range of settings; the latents' temperature is tau."""
    label = f"T={temperature:g}" + ("" if to is None else f" to {to:g}")
    return label + ("" if latent_temperature is None else f", τ={latent_temperature:g}")


__all__ = ["DECODING", "DESCRIPTIONS", "plane_settings", "sampling_at", "setting_label"]
