import pytest
from tiny import BOS, EOS, PAD, SEP, VOCAB, backbone_config, tiny_config
from transformers import BertConfig, BloomConfig, GPT2Config, Lfm2Config, LlamaConfig, T5Config, ViTConfig

from modeling_trace import TraceConfig, TraceForConditionalGeneration


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_round_trip(tmp_path, family):
    config = tiny_config(family, latent_size=7, segment_length=None, prior_logvar_bound=None, kl_reduction="mean")
    config.save_pretrained(tmp_path)
    loaded = TraceConfig.from_pretrained(tmp_path)
    assert type(loaded.backbone_config) is type(config.backbone_config)
    assert {**loaded.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}
    assert loaded.latent_size == 7 and loaded.segment_length is None and loaded.prior_logvar_bound is None


def test_backbone_may_be_a_dict_or_left_out():
    assert isinstance(TraceConfig().backbone_config, GPT2Config)
    config = TraceConfig(backbone_config={"model_type": "llama", "vocab_size": 50})
    assert isinstance(config.backbone_config, LlamaConfig) and config.backbone_config.vocab_size == 50
    assert config.get_text_config() is config.backbone_config


def test_special_tokens_fall_back_to_the_backbones():
    config = TraceConfig(backbone_config=backbone_config(), sep_token_id=SEP)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (BOS, EOS, PAD)


@pytest.mark.parametrize("value", ["recurrent", "parallel", "independent", "context", "single", "none"])
def test_every_latent_dynamics_is_a_valid_value(value):
    assert tiny_config(latent_dynamics=value).latent_dynamics == value


@pytest.mark.parametrize("value", ["recurrent", "parallel", "independent", "context", "single", "none"])
def test_every_latent_dynamics_has_a_model(value):
    assert TraceForConditionalGeneration(tiny_config(latent_dynamics=value)).has_latents == (value != "none")


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"latent_sise": 3}, "no field `latent_sise`. Did you mean `latent_size`"),
        ({"qqq": 3}, "no field `qqq`. The fields are"),
        ({"latent_dynamics": "reccurent"}, "Did you mean 'recurrent'"),
        ({"latent_size": 0}, "`latent_size` must be an integer >= 2, got 0"),
        ({"latent_size": 1}, "`latent_size` must be an integer >= 2, got 1"),
        ({"sep_token_id": "3"}, "`sep_token_id` must be an integer >= 0, got '3'"),
        ({"backbone_config": "gpt2"}, "`backbone_config` must be a configuration or a dict, got 'gpt2'"),
        ({"backbone_config": {"model_type": "gptt2"}}, "unknown model_type 'gptt2'. Did you mean 'gpt2'"),
        ({"backbone_config": BloomConfig()}, "whose layers do not take the segment masks"),
        (
            {"backbone_config": Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"])},
            "whose layers do not take the segment masks",
        ),
        ({"latent_size": 3.5}, "`latent_size` must be an integer"),
        ({"segment_length": 0}, "`segment_length` must be an integer >= 1, got 0. Use 10"),
        ({"segment_length": 63}, "`segment_length` must fit the backbone's context of 64"),
        ({"residual_scale": "posterior"}, "Did you mean 'prior'"),
        ({"kl_reduction": "max"}, "`kl_reduction` must be one of"),
        ({"posterior_norm_gamma": -1.0}, "`posterior_norm_gamma` must be a number >= 0"),
        ({"posterior_sigma_init": 0.0}, "`posterior_sigma_init` must be a number > 0"),
        ({"prior_logvar_bound": 0.0}, "`prior_logvar_bound` must be a number > 0"),
        ({"prior_logvar_bound": float("nan")}, "`prior_logvar_bound` must be a number > 0"),
        ({"sep_token_id": EOS}, "`sep_token_id` must be a token of its own, got 1, which is also `eos_token_id`"),
        ({"sep_token_id": PAD}, "also `pad_token_id`"),
        ({"sep_token_id": BOS}, "also `bos_token_id`"),
        ({"sep_token_id": 5, "eos_token_id": [4, 5]}, "also `eos_token_id`"),
        ({"sep_token_id": VOCAB}, "`sep_token_id` must be in the backbone's vocabulary of 40"),
        ({"backbone_config": BertConfig()}, "got 'bert', an encoder-only model"),
        ({"backbone_config": T5Config()}, "got 't5', an encoder-decoder"),
        ({"backbone_config": ViTConfig()}, "got 'vit', not a causal language model"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError) as error:
        tiny_config(**settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_settings_changed_after_loading_are_checked_by_the_model(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    config = TraceConfig.from_pretrained(tmp_path, segment_length=0)
    with pytest.raises(ValueError, match="`segment_length`"):
        TraceForConditionalGeneration(config)
