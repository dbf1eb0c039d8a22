"""Any settings of generate(): texts that their own latents reproduce, or a refusal of one line."""

import math

from helpers.generation import rescoring_error, run
from helpers.tiny import tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SETTINGS = {
    "num_beams": st.sampled_from([1, 2, 3, 0]),
    "num_return_sequences": st.sampled_from([1, 2, 3]),
    "do_sample": st.booleans(),
    "temperature": st.sampled_from([0.5, 1.0, 2.0, 0.0, -1.0]),
    "top_k": st.sampled_from([0, 1, 5, 50]),
    "top_p": st.sampled_from([0.3, 1.0, 1.5]),
    "min_p": st.sampled_from([0.0, 0.2]),
    "typical_p": st.sampled_from([0.5, 1.0]),
    "repetition_penalty": st.sampled_from([0.8, 1.0, 1.7]),
    "no_repeat_ngram_size": st.sampled_from([0, 1, 2]),
    "length_penalty": st.sampled_from([-1.0, 1.0, 2.0]),
    "early_stopping": st.sampled_from([True, False, "never"]),
    "max_new_tokens": st.sampled_from([1, 7, 20]),
    "min_new_tokens": st.sampled_from([0, 5]),
    "use_cache": st.booleans(),
    "min_segment_length": st.sampled_from([None, 1, 3, 0]),
    "max_segment_length": st.sampled_from([None, 2, 4]),
    "latent_temperature": st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0, math.inf]),
    "bad_words_ids": st.sampled_from([None, [[5]], [[6, 7]]]),
    "suppress_tokens": st.sampled_from([None, [5, 6]]),
    "forced_eos_token_id": st.sampled_from([None, 1]),
    "num_beam_groups": st.sampled_from([1, 2]),
    "renormalize_logits": st.booleans(),
}
REFUSALS = (ValueError, TypeError, NotImplementedError)


@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(chosen=st.fixed_dictionaries({}, optional=SETTINGS), kind=st.sampled_from(["none", "left_padded"]))
def test_any_settings_of_generate_are_rescored_or_refused(architecture, chosen, kind):
    model = tiny_model()
    try:
        out = run(model, kind, **chosen)
    except REFUSALS as error:
        assert str(error) and "\n" not in str(error).strip(), f"{chosen}: {error}"
        return
    assert out.latents.shape[0] == out.sequences.shape[0]
    assert rescoring_error(model, out, kind, out.latents) < 1e-4, chosen
