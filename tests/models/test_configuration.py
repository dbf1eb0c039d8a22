import copy
import json

import pytest
from helpers.tiny import BOS, EOS, PAD, SEP, VOCAB, backbone_config, tiny_config
from transformers import BertConfig, BloomConfig, GPT2Config, Lfm2Config, LlamaConfig, T5Config, ViTConfig

import modeling_trace
from modeling_trace import TraceConfig, TraceForConditionalGeneration
from modeling_trace.models import configuration_trace


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_round_trip(tmp_path, family):
    config = tiny_config(family, latent_size=7, segment_length=None, prior_logvar_bound=None, kl_reduction="mean")
    config.save_pretrained(tmp_path)
    loaded = TraceConfig.from_pretrained(tmp_path)
    assert type(loaded.backbone_config) is type(config.backbone_config)
    assert {**loaded.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}
    assert loaded.latent_size == 7 and loaded.segment_length is None and loaded.prior_logvar_bound is None


@pytest.mark.parametrize("place, wanted", [("middle", 5), (6, 6), (None, None)])
def test_the_place_of_the_latents_is_saved_as_a_number(tmp_path, place, wanted):
    """Also where it is the default, which another number of layers would read otherwise."""
    config = TraceConfig(backbone_config=GPT2Config(n_layer=10), latent_layer=place)
    assert config.latent_layer == wanted
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["latent_layer"] == wanted
    assert TraceConfig.from_pretrained(tmp_path).latent_layer == wanted
    assert copy.deepcopy(config).latent_layer == wanted


def test_what_closes_segments_is_saved(tmp_path):
    for settings in (
        {"separator": "token", "sep_token_id": SEP},
        {"separator": "none", "sep_token_id": None, "segment_length": None, "closing_token_ids": [5, 6]},
    ):
        tiny_config(**settings, free_nats=2.5).save_pretrained(tmp_path)
        loaded = TraceConfig.from_pretrained(tmp_path)
        for name, value in {**settings, "free_nats": 2.5}.items():
            assert getattr(loaded, name) == value


def test_a_user_who_changes_nothing_gets_one_pass_and_no_separator():
    config = TraceConfig()
    assert (config.latent_layer, config.separator, config.free_nats, config.posterior_norm) == (6, "none", 1, "none")
    assert TraceConfig(latent_dynamics="none").latent_layer is None
    with pytest.raises(ValueError, match="`closing_token_ids` are needed for segments of varying length"):
        TraceForConditionalGeneration(tiny_config(separator="none", segment_length=None))


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
        ({"latent_layer": 2}, "`latent_layer` must be from 1 to 1, one less than the backbone's layers, got 2"),
        ({"latent_layer": 0}, "`latent_layer` must be from 1 to 1, one less than the backbone's layers, got 0"),
        ({"latent_layer": -1}, "`latent_layer` must be from 1 to 1"),
        ({"latent_layer": 7}, "`latent_layer` must be from 1 to 1"),
        ({"latent_layer": True}, "`latent_layer` must be from 1 to 1, one less than the backbone's layers, got True"),
        ({"latent_layer": 1.0}, 'got 1.0. Use "middle", or None for the embeddings'),
        ({"latent_layer": "top"}, "got 'top'. Use \"middle\", or None for the embeddings"),
        (
            {"latent_layer": "middle", "backbone_config": backbone_config(n_layer=1)},
            "`latent_layer` needs a backbone of at least 2 layers, got 1. Use None",
        ),
        ({"latent_layer": 1, "encoder_layers": 1}, "`encoder_layers` is for latents at the embeddings, got 1 with"),
        (
            {"latent_layer": 1, "latent_dynamics": "context"},
            "`latent_dynamics='context'` reads the whole text, which one pass with `latent_layer=1` cannot",
        ),
        ({"free_nats": -1.0}, "`free_nats` must be a number >= 0, got -1.0. Use 1, or 0 as in the paper"),
        ({"free_nats": float("inf")}, "`free_nats` must be a number >= 0, got inf"),
        (
            {"free_nats": 3.0, "posterior_norm": "none", "kl_reduction": "mean"},
            "`free_nats` are nats of a segment's summed KL, got 3.0 with `kl_reduction='mean'`. Set free_nats=0",
        ),
        (
            {"free_nats": 0.5},  # the floor is 4 * 0.7^2 / 2
            "`free_nats` must be above the KL's floor of 0.98 nats (`posterior_norm='layer'`",
        ),
        ({"separator": "sep"}, "`separator` must be one of 'token', 'none', got 'sep'"),
        (
            {"closing_token_ids": [5], "segment_length": None},
            "`closing_token_ids` are for `separator='none'`, got them with separator='token'. Leave them out",
        ),
        (
            {"separator": "none", "closing_token_ids": [5]},
            "`closing_token_ids` are for segments of varying length, got them with `segment_length=3`",
        ),
        *(
            (
                {"separator": "none", "segment_length": None, "closing_token_ids": ids},
                "`closing_token_ids` must be ids of tokens in the backbone's vocabulary, got ",
            )
            for ids in ([], [VOCAB], [-1], [5, True], ["."], 5)
        ),
        ({"latent_init_scale": -0.5}, "`latent_init_scale` must be a number >= 0, got -0.5. Use 0.1"),
        ({"latent_init_std": 0.5}, "no field `latent_init_std`. Did you mean `latent_init_scale`"),
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


def test_a_saved_model_says_which_version_wrote_it(tmp_path, monkeypatch):
    assert configuration_trace.VERSION == modeling_trace.__version__
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    assert saved["trace_version"] == modeling_trace.__version__

    def load(version, **changes):
        path.write_text(json.dumps({**saved, "trace_version": version, **changes}))
        return TraceConfig.from_pretrained(tmp_path)

    said = []
    monkeypatch.setattr(configuration_trace.logger, "warning_once", said.append)
    load("0.0.9").save_pretrained(tmp_path)  # an older one loads, and is written as this one's
    assert json.loads(path.read_text())["trace_version"] == modeling_trace.__version__ and not said
    with pytest.raises(ValueError, match="`separator` must be.*saved by version 0.0.9.*or install version 0.0.9"):
        load("0.0.9", separator="comma")
    load("1000.0")
    assert "saved by version 1000.0" in said[0]
    with pytest.raises(ValueError, match="`separator` must be one of 'token', 'none', got 'comma'.$"):
        load(modeling_trace.__version__, separator="comma")
