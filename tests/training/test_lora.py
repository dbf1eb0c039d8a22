"""LoRA: what trains, what is saved, that it comes back on a fresh backbone, the Trainer and the command line."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.remote_code import TORCH_AND_TRANSFORMERS_ALONE, WITHOUT_PACKAGE, run_script
from helpers.tiny import BOS, EOS, VOCAB, backbone_config, make_batch
from helpers.tokenizers import word_tokenizer
from helpers.training import Collator
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, TrainerCallback, TrainingArguments

from modeling_trace import TraceForConditionalGeneration
from modeling_trace.cli.main import main
from modeling_trace.data import TraceProcessor
from modeling_trace.models.configuration_trace import PAPER_ARCHITECTURE
from modeling_trace.training import TraceTrainer, TrainingDivergedError, load_adapter_model, lora_config

peft = pytest.importorskip("peft")

SEP = VOCAB  # the row that from_backbone adds
TEXTS = [[BOS, 5, 6, 7, SEP, 8, 9, 10, SEP, 11, EOS], [BOS, 12, 13, 14, SEP, 15, 16, EOS], [BOS, 5, 9, 6, EOS]]
SETTINGS = {**PAPER_ARCHITECTURE, "latent_size": 4, "segment_length": 3, "latent_init_scale": 3.0}
ONE_PASS = {"latent_layer": "middle", "separator": "none", "posterior_norm": "none", "free_nats": 3.0}
VARIANTS = {
    "gpt2": ("gpt2", {}),  # a tied head
    "llama": ("llama", {}),  # a head of its own
    "gemma3": ("gemma3", {}),  # scaled embeddings
    "none": ("llama", {"latent_dynamics": "none"}),
    "one pass": ("llama", ONE_PASS),
    "parallel": ("gpt2", {"latent_dynamics": "parallel"}),  # spectral norms
    "batch": ("llama", {"posterior_norm": "batch"}),  # running statistics
}
STRANGER = """
import json, sys
from transformers import AutoModel, AutoModelForCausalLM

said = []
for auto_class in (AutoModel, AutoModelForCausalLM):
    try:
        auto_class.from_pretrained(sys.argv[1], trust_remote_code=True)
    except ValueError as error:
        said.append(str(error))
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the language models of all families are, with a tokenizer each."""
    root = tmp_path_factory.mktemp("language_models")
    for family in ("gpt2", "llama", "gemma3"):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(backbone_config(family)).save_pretrained(root / family)
        word_tokenizer(tokenizer_class="PreTrainedTokenizerFast").save_pretrained(root / family)
    return root


def fresh(folder, family, seed=0, **settings):
    """TRACE from the saved language model; the seed decides only what is drawn for the latent networks."""
    torch.manual_seed(seed)
    lm = AutoModelForCausalLM.from_pretrained(folder / family)
    return TraceForConditionalGeneration.from_backbone(lm, **{**SETTINGS, **settings})


def adapted(folder, family, r=4, **settings):
    model = fresh(folder, family, **settings)
    torch.manual_seed(1)
    return peft.get_peft_model(model, lora_config(model, r=r))


def batch(model):
    """Texts, with [SEP] where the model knows it."""
    keep = model.config.sep_token_id is not None
    return make_batch([[token for token in text if keep or token != SEP] for text in TEXTS])


def train_a_little(model, steps=4):
    ids, mask, labels = batch(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


def scores(model):
    """Loss, logits and greedy texts, under one seed."""
    ids, mask, labels = batch(model)
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, labels=labels)
    torch.manual_seed(3)
    return out.loss, out.logits, model.generate(max_new_tokens=12, num_return_sequences=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_comes_back_on_a_fresh_model(folder, tmp_path, variant):
    family, settings = VARIANTS[variant]
    model = adapted(folder, family, **settings)
    start = scores(model)
    trained = scores(train_a_little(model))
    assert (trained[1] - start[1]).abs().max() > 0.1
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(fresh(folder, family, seed=7, **settings), tmp_path).eval()
    for found, wanted in zip(scores(again), trained, strict=True):
        assert torch.equal(found, wanted)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert max(value.numel() for value in saved.values()) < VOCAB * 32  # no whole embedding or head
    kinds = ("lora_A", "lora_B", "dynamics", "latent_injection", "trainable_tokens_delta")
    for kind in kinds:
        there = any(kind in name for name in saved)
        wanted = model.config.sep_token_id is not None if kind == "trainable_tokens_delta" else variant != "none"
        assert there == (wanted or kind.startswith("lora")), kind
    assert any("state_reader" in name for name in saved) == (variant == "one pass")
    if variant == "batch":
        assert saved["base_model.model.dynamics.mean_norm.running_mean"].any()
    if variant == "parallel":
        assert any("parametrizations" in name and name.endswith("_u") for name in saved)
    merged = again.merge_and_unload()
    assert isinstance(merged, TraceForConditionalGeneration)
    torch.testing.assert_close(scores(merged)[0], trained[0], atol=1e-5, rtol=1e-5)
    if variant not in ("gpt2", "llama"):
        return
    merged.save_pretrained(tmp_path / "merged")
    whole = TraceForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(scores(whole)[1], scores(merged)[1])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_only_what_is_meant_to_train_trains(folder, family):
    model = adapted(folder, family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_a_little(model, steps=2)  # the first step moves B alone
    meant = ("lora_", "dynamics.modules_to_save.", "latent_injection.modules_to_save.", "trainable_tokens_delta.")
    moved = set()
    for name, parameter in model.named_parameters():
        wanted = any(part in name for part in meant)
        assert parameter.requires_grad == wanted, name
        assert (parameter.grad is not None and parameter.grad.any()) == wanted, name
    for name, value in model.state_dict().items():
        if not torch.equal(value, before[name]):
            moved.add(name)
            assert any(part in name for part in meant), name
    deltas = [name for name, _ in model.named_parameters() if "trainable_tokens_delta" in name]  # a shared one once
    tied = family != "llama"
    assert len(deltas) == (1 if tied else 2)
    assert all("backbone" in name for name in moved if "lora_" in name)
    # the head and the embeddings show the new row, and no other row has moved
    base = model.get_base_model()
    for module in (base.lm_head, base.get_input_embeddings()):
        changed = (module.weight - module.token_adapter.base_layer.weight).abs().amax(1) > 0
        assert changed.nonzero().flatten().tolist() == [SEP]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("head", ["sep_row", "lora"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_is_that_of_the_wrapped_head(folder, family, head, mode, monkeypatch):
    """An adapter on the head counts in the loss, whole and in pieces: equal to the loss of the merged model."""
    if head == "lora":
        model = fresh(folder, family)
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False))
    else:
        model = train_a_little(adapted(folder, family))
    ids, mask, labels = make_batch(TEXTS)
    call = {"input_ids": ids, "attention_mask": mask, "labels": labels, "sample_latents": False}
    with torch.no_grad():
        logits = model.eval()(**call).logits
    cost = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    model.train(mode == "train")
    gradients = []
    for limit in (2**24, 200):  # the whole, then five tokens at a time
        monkeypatch.setattr("modeling_trace.models.loss_trace._MAX_LOGITS", limit)
        model.zero_grad()
        out = model(**call)
        torch.testing.assert_close(out.reconstruction_loss, cost / 3, atol=1e-4, rtol=1e-5)
        out.loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    for whole, pieces in zip(*gradients, strict=True):
        torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-4)
    base = model.get_base_model()
    with model.disable_adapter(), torch.no_grad():
        without = base.eval()(**call).reconstruction_loss
    assert (without - cost / 3).abs() > 1e-2  # the adapter does count


def test_target_modules_stay_in_the_backbone(folder):
    model = fresh(folder, "llama")
    config = lora_config(model, r=2, target_modules=["q_proj", "v_proj"], lora_alpha=5, lora_dropout=0.1)
    assert config.lora_alpha == 5 and config.lora_dropout == 0.1
    names = peft.get_peft_model(model, config).state_dict()
    layers = {name.split(".lora_A")[0].rpartition(".")[2] for name in names if ".lora_A." in name}
    assert layers == {"q_proj", "v_proj"}
    assert lora_config(fresh(folder, "gpt2"), r=3).lora_alpha == 6


@pytest.mark.parametrize("dynamics", ["recurrent", "parallel", "independent", "context", "single"])
@pytest.mark.parametrize("place", [{}, {"latent_layer": 1}])
def test_adapters_on_all_linear_layers_all_learn(folder, dynamics, place):
    """Also those of the latent networks; what an adapter cannot follow is not a linear layer."""
    if place and dynamics == "context":
        return  # reads the whole text
    model = fresh(folder, "llama", latent_dynamics=dynamics, **place)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    names = {
        name.split(".lora_A")[0].removeprefix("base_model.model.") for name in model.state_dict() if ".lora_A." in name
    }
    assert {"dynamics.posterior_network", "latent_injection"} <= names
    assert ("state_reader.value" in names) == bool(place)
    assert not any("recurrent" in name for name in names)
    assert ("dynamics.prior_network" in names) == (dynamics in ("parallel", "context"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # else A has no gradient yet
            torch.nn.init.normal_(parameter, std=0.1)
    ids, mask, labels = batch(model)
    torch.manual_seed(0)
    model.train()(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    still = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert still == []
    before = scores(model.eval())
    merged = scores(model.merge_and_unload())  # what was trained is what is saved
    torch.testing.assert_close(merged[0], before[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(merged[1], before[1], atol=1e-4, rtol=1e-4)


def test_an_adapter_on_what_is_no_layer_is_refused(folder):
    for name in ("prior_network", "recurrent_mean"):
        dynamics = "parallel" if name == "recurrent_mean" else "recurrent"
        model = fresh(folder, "llama", latent_dynamics=dynamics)
        with pytest.raises(ValueError, match="(?s)Target module .*(PriorNetwork|RecurrentMatrix).* is not supported"):
            peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=[name]))


def test_peft_learns_of_a_backbone_in_4_bits(folder):
    """Its tuner asks the model, which is not the one that was loaded in 4 bits. GGUF weights are not: they train."""
    lm = AutoModelForCausalLM.from_pretrained(folder / "llama")
    lm.is_quantized = lm.is_loaded_in_4bit = True
    model = TraceForConditionalGeneration.from_backbone(lm, **SETTINGS)
    assert model.is_loaded_in_4bit and not getattr(model, "is_quantized", False)
    assert not hasattr(fresh(folder, "llama"), "is_loaded_in_4bit")


def test_a_causal_lm_adapter_works_as_well(folder):
    """peft's own class for language models passes `inputs_embeds=None` and prepares the inputs of generation."""
    model = fresh(folder, "llama")
    wanted = scores(model)
    model = peft.get_peft_model(model, lora_config(model, r=2, task_type="CAUSAL_LM")).eval()
    for found, expected in zip(scores(model), wanted, strict=True):
        torch.testing.assert_close(found, expected)


def test_bad_input(folder, tmp_path, monkeypatch):
    model = adapted(folder, "llama")
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"^`latent_size` of the saved weights is 4, the model's is 6\. .*=4\.$"):
        peft.PeftModel.from_pretrained(fresh(folder, "llama", latent_size=6), tmp_path / "adapter")
    with pytest.raises(ValueError, match="got PeftModel. Call lora_config before get_peft_model"):
        lora_config(model)
    with pytest.raises(ValueError, match="linear layers of the backbone, got 'c_attn'. Use down_proj, gate_proj"):
        lora_config(fresh(folder, "llama"), target_modules=["c_attn"])
    with pytest.raises(ValueError, match="`r` must be an integer >= 1, got 0"):
        lora_config(fresh(folder, "llama"), r=0)
    with pytest.raises(ValueError, match="holds no adapter_config.json"):
        load_adapter_model(folder / "llama")
    with pytest.raises(ValueError, match="holds an adapter without the config.json"):
        load_adapter_model(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="is another model than the adapter's: `model_type` is gpt2, not llama"):
        load_adapter_model(tmp_path / "adapter", base=folder / "gpt2")
    monkeypatch.setitem(sys.modules, "peft", None)
    message = r"^lora_config requires the `peft` extra: pip install 'modeling-trace\[peft\]'$"
    with pytest.raises(ImportError, match=message):
        lora_config(fresh(folder, "llama"))


# ---- Trainer ----


def make_trainer(model, output_dir, **settings):
    arguments = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 3, "learning_rate": 0.01}
    args = TrainingArguments(
        output_dir,
        **arguments
        | {"logging_steps": 1, "report_to": "none", "use_cpu": True, "seed": 5, "disable_tqdm": True}
        | settings,
    )
    rows = [{"input_ids": text} for text in TEXTS]
    return TraceTrainer(model, args, Collator(), train_dataset=rows, eval_dataset=rows)


class StopAtTwo(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == 2


def test_trainer_resumes_an_adapter_to_the_same_weights(folder, tmp_path):
    whole = make_trainer(adapted(folder, "gpt2", posterior_norm="batch"), tmp_path / "whole")
    whole.train()
    logs = [entry for entry in whole.state.log_history if "kl_weight" in entry]
    assert [entry["kl_weight"] for entry in logs] == [0.0, 0.5, 1.0, 1.0]
    assert all(entry["kl"] > 0 and entry["reconstruction"] > 0 for entry in logs)
    assert whole.model.get_base_model().kl_weight == 1
    stopped = make_trainer(adapted(folder, "gpt2", posterior_norm="batch"), tmp_path / "stopped")
    stopped.add_callback(StopAtTwo())
    stopped.train()
    with pytest.raises(ValueError, match="already holds a model"):
        make_trainer(adapted(folder, "gpt2", posterior_norm="batch"), tmp_path / "stopped").train()
    with pytest.raises(ValueError, match="`latent_size` is 4 there and 6 here"):
        make_trainer(adapted(folder, "gpt2", latent_size=6), tmp_path / "stopped").train(True)
    resumed = make_trainer(adapted(folder, "gpt2", posterior_norm="batch"), tmp_path / "stopped")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    wanted = peft.get_peft_model_state_dict(whole.model)
    found = peft.get_peft_model_state_dict(resumed.model)
    start = peft.get_peft_model_state_dict(adapted(folder, "gpt2", posterior_norm="batch"))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-7, rtol=1e-6)
    assert any(not torch.equal(start[name], value) for name, value in wanted.items())


def test_what_the_trainer_saves_is_enough(folder, tmp_path):
    torch.manual_seed(0)
    model = TraceForConditionalGeneration.from_backbone(folder / "llama", **SETTINGS)
    sep = model.config.sep_token_id
    model = peft.get_peft_model(model, lora_config(model, r=4))
    trainer = make_trainer(model, tmp_path / "out", save_strategy="no")
    trainer.train()
    assert trainer.evaluate()["eval_kl"] > 0
    trainer.save_model()
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["model_type"] == "trace" and saved["latent_size"] == 4
    assert not (tmp_path / "out" / "model.safetensors").exists()
    loaded = load_adapter_model(tmp_path / "out")
    assert loaded.get_base_model().config.sep_token_id == sep == VOCAB
    for found, wanted in zip(scores(loaded), scores(trainer.model.eval()), strict=True):
        assert torch.equal(found, wanted)
    for auto_class in (AutoModel, AutoModelForCausalLM):
        with pytest.raises(
            ValueError, match=r"holds an adapter, not a whole model. Load it by modeling_trace.load_model"
        ):
            auto_class.from_pretrained(tmp_path / "out")
    for alone in (WITHOUT_PACKAGE, TORCH_AND_TRANSFORMERS_ALONE):  # with PEFT, and without
        said = run_script(alone + STRANGER, tmp_path, tmp_path / "out")
        assert len(said) == 2 and all("of the package modeling_trace" in one for one in said)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: peft" in card and str(folder) not in card and "## Training" in card
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    next(p for p in trainer.model.parameters() if p.requires_grad).data.fill_(torch.nan)
    with pytest.raises(TrainingDivergedError, match="the weights are not finite after step 4"):
        trainer.save_model(str(tmp_path / "broken"))
    (folder / "llama").rename(folder / "moved")
    try:
        elsewhere = load_adapter_model(tmp_path / "out", base=folder / "moved")
    finally:
        (folder / "moved").rename(folder / "llama")
    assert torch.equal(scores(elsewhere)[1], scores(loaded)[1])


def test_an_adapter_on_a_trained_trace_model(folder, tmp_path):
    trace = fresh(folder, "gpt2")
    trace.save_pretrained(tmp_path / "trace")
    model = TraceForConditionalGeneration.from_pretrained(tmp_path / "trace").eval()
    model = train_a_little(peft.get_peft_model(model, lora_config(model, r=2)))
    model.save_pretrained(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter")
    assert torch.equal(scores(load_adapter_model(tmp_path / "adapter"))[1], scores(model)[1])


@pytest.mark.parametrize("family", ["plain", "adapter"])
def test_gradient_checkpointing_and_bfloat16_in_the_trainer(folder, tmp_path, family):
    losses = {}
    for name, settings in {
        "float32": {},
        "checkpointing": {"activation_checkpointing": True},
        "bfloat16": {"bf16": True, "activation_checkpointing": True},
    }.items():
        model = adapted(folder, "llama") if family == "adapter" else fresh(folder, "llama")
        trainer = make_trainer(model, tmp_path / name, save_strategy="no", max_steps=2, **settings)
        trainer.train()
        losses[name] = torch.tensor([entry["loss"] for entry in trainer.state.log_history if "kl" in entry])
        assert losses[name].shape == (2,) and losses[name].isfinite().all()
    torch.testing.assert_close(losses["checkpointing"], losses["float32"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], atol=0.1, rtol=0.05)
    assert not torch.equal(losses["bfloat16"], losses["float32"])  # it was on


def test_autocast_keeps_latents_in_float32(folder):
    model = train_a_little(adapted(folder, "llama")).train()
    ids, mask, labels = make_batch(TEXTS)
    call = {"input_ids": ids, "attention_mask": mask, "labels": labels, "sample_latents": False}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**call)
    for name in ("loss", "reconstruction_loss", "kl_loss", "latents", "prior_logvar", "posterior_logvar"):
        assert out[name].dtype == torch.float32, name
    exact = model(**call)
    torch.testing.assert_close(out.loss, exact.loss, rtol=0.05, atol=0.05)
    torch.testing.assert_close(out.kl_loss, exact.kl_loss, rtol=0.05, atol=0.05)


def test_float32_latents_beside_a_bfloat16_backbone_come_back(folder, tmp_path):
    model = TraceForConditionalGeneration.from_backbone(folder / "llama", dtype=torch.bfloat16, **SETTINGS)
    model.dynamics.float()
    model.latent_injection.float()
    model = train_a_little(peft.get_peft_model(model, lora_config(model, r=2)))
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    model.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    loaded = load_adapter_model(tmp_path, dtype=torch.bfloat16)
    assert loaded.get_base_model().backbone.dtype == torch.bfloat16
    for found, wanted in zip(scores(loaded), scores(model), strict=True):
        assert torch.equal(found, wanted)


# ---- Command line ----


def test_command_line(folder, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(" ".join(f"w{(i * 7 + j) % 30}" for j in range(9)) for i in range(12)))
    out = str(tmp_path / "out")
    train = ["train", "--backbone", str(folder / "llama"), "--dataset", str(texts), "--max_steps", "2"]
    train += ["--latent_size", "4", "--segment_length", "3", "--max_length", "24", "--validation_split", "none"]
    lora = ["--lora_r", "2", "--lora_target_modules", "q_proj", "v_proj", "--learning_rate", "0.01"]
    assert main([*train, *lora, "--output_dir", out, "--use_cpu", "true"]) == 0
    assert "of them trained" in capsys.readouterr().out
    files = {path.name for path in Path(out).iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "train_config.yaml"} <= files
    assert "model.safetensors" not in files
    assert json.loads((Path(out) / "adapter_config.json").read_text())["base_model_name_or_path"] == train[2]
    assert TraceProcessor.from_pretrained(out).segment_length == 3
    generate = ["generate", out, "--num_texts", "2", "--max_new_tokens", "8", "--seed", "1", "--output"]
    assert main([*generate, str(tmp_path / "texts.jsonl")]) == 0
    model = load_adapter_model(out)
    assert any("lora_B" in name and p.any() for name, p in model.named_parameters())
    bad = {
        "`lora_alpha` is for LoRA, got it without `lora_r`": ["--lora_alpha", "3"],
        "`lora_r` must be >= 1, got 0": ["--lora_r", "0"],
        "`lora_target_modules` must be linear layers of the backbone, got 'c_attn'": [
            *("--lora_r", "2", "--lora_target_modules", "c_attn")
        ],
        "`lora_r` is for a trained language model, got it with `backbone_config`": [
            *("--lora_r", "2", "--backbone_config", "{n_layer: 2, n_embd: 16, n_head: 1}")
        ],
    }
    capsys.readouterr()
    for message, arguments in bad.items():
        assert main([*train, *arguments, "--output_dir", str(tmp_path / "bad")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
