"""
TraceTrainer: gradients under accumulation and several processes, logged ELBO parts, exact resuming, KL weight,
evaluation, warnings, bad input. The plain Trainer where it must work too.
"""

import shutil

import pytest
import torch
from datasets import Dataset, DatasetDict
from helpers.processes import one_and_two_processes
from helpers.training import (
    BOS,
    EOS,
    ONE_PASS,
    PAD,
    SEP,
    VOCAB_SIZE,
    Collator,
    make_args,
    make_config,
    make_model,
    make_texts,
    make_trainer,
    training_logs,
    weights,
)
from tokenizers import Tokenizer, models
from transformers import (
    EarlyStoppingCallback,
    GPT2Config,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from modeling_trace.models.modeling_trace import TraceForConditionalGeneration
from modeling_trace.training import (
    CollapseWarningCallback,
    KLWeightCallback,
    TraceTrainer,
    TraceTrainingArguments,
    TrainingDivergedError,
    check_output_dir,
    constant_schedule,
    cyclical_schedule,
    linear_schedule,
)


def by_hand(model, texts):
    """Loss parts summed over texts, one text at a time, at the posterior mean."""
    model.eval()
    sums = {"reconstruction": 0.0, "kl": 0.0, "segments": 0, "tokens": 0, "texts": 0}
    for text in texts:
        batch = Collator()([text])
        with torch.no_grad():
            outputs = model(**batch)
        sums["reconstruction"] += outputs.reconstruction_loss.item()
        sums["kl"] += outputs.kl_loss.item() if outputs.kl_loss is not None else 0.0
        sums["segments"] += text["input_ids"].count(SEP) + 1
        sums["tokens"] += len(text["input_ids"]) - 1
        sums["texts"] += 1
    return sums


# ---- Laws: gradient accumulation ----


@pytest.mark.parametrize("trainer_class", [TraceTrainer, Trainer])
@pytest.mark.parametrize(
    "settings",
    [
        {"latent_dynamics": "recurrent"},
        {"latent_dynamics": "none"},
        # so that some segments are above, some below
        {"latent_layer": 1, "separator": "none", "posterior_norm": "none", "free_nats": 2.7, "initializer_range": 0.2},
    ],
    ids=["recurrent", "none", "free bits"],
)
def test_accumulated_small_batches_equal_one_big_batch(tmp_path, trainer_class, settings):
    plain = settings.get("latent_dynamics") == "none"
    results, logs = [], []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        trainer = make_trainer(
            tmp_path / str(batch_size),
            make_model(**settings),
            trainer_class,
            data_collator=Collator(sample_latents=None if plain else False),
            optim="sgd",
            learning_rate=0.5,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            **({"kl_schedule": constant_schedule()} if trainer_class is TraceTrainer else {}),
        )
        trainer.train()
        results.append(weights(trainer.model))
        logs.append(training_logs(trainer)[0])
    start = weights(make_model(**settings))
    assert any((start[name] - value).abs().max() > 1e-2 for name, value in results[0].items())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=0, atol=1e-6, msg=name)
    for name in logs[0].keys() & {"loss", "reconstruction", "kl", "kl_per_segment", "kl_per_dim"}:
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-5)


# ---- Length grouping ----


class CountingCollator(Collator):
    """Remembers the texts that it saw and how much it padded."""

    def __init__(self):
        super().__init__()
        self.texts, self.padding = [], 0

    def __call__(self, features):
        batch = super().__call__(features)
        self.texts += [tuple(feature["input_ids"]) for feature in features]
        self.padding += (batch["attention_mask"] == 0).sum().item()
        return batch


def test_length_grouping_trains_on_the_same_texts_with_less_padding(tmp_path):
    texts = make_texts(32)
    collators = {}
    for strategy in ("random", "group_by_length"):
        collators[strategy] = CountingCollator()
        trainer = make_trainer(
            tmp_path / strategy,
            train_dataset=texts,
            data_collator=collators[strategy],
            train_sampling_strategy=strategy,
            max_steps=-1,
            num_train_epochs=1,
            per_device_train_batch_size=4,
        )
        before = weights(trainer.model)
        trainer.train()
        assert any(not torch.equal(before[name], value) for name, value in weights(trainer.model).items())
        assert sorted(collators[strategy].texts) == sorted(map(tuple, texts["input_ids"]))
    assert collators["group_by_length"].padding < collators["random"].padding


# ---- Logs ----


def test_logs_are_means_over_the_texts_since_the_last_log(tmp_path):
    model, texts = make_model(), make_texts(12)
    expected = by_hand(model, texts)
    # two steps of three accumulated batches of two: all twelve texts, with weights that do not move
    trainer = make_trainer(
        tmp_path,
        model,
        train_dataset=texts,
        data_collator=Collator(sample_latents=False),
        kl_schedule=constant_schedule(0.5),
        learning_rate=0.0,
        max_steps=4,
        gradient_accumulation_steps=3,
        logging_steps=2,
    )
    trainer.train()
    logs = training_logs(trainer)
    assert len(logs) == 2
    for log in logs:  # the second is a second epoch over the same texts: nothing carried over
        assert log["reconstruction"] == pytest.approx(expected["reconstruction"] / 12, rel=1e-5)
        assert log["kl"] == pytest.approx(expected["kl"] / 12, rel=1e-5)
        assert log["kl_per_segment"] == pytest.approx(expected["kl"] / expected["segments"], rel=1e-5)
        assert log["kl_per_dim"] == pytest.approx(expected["kl"] / expected["segments"] / 4, rel=1e-5)
        assert log["kl_weight"] == 0.5


def test_logged_loss_is_made_of_the_logged_parts(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=8, kl_schedule=constant_schedule(0.25))
    trainer.train()
    tokens = by_hand(make_model(), make_texts(8))["tokens"]
    for log in training_logs(trainer):
        assert log["loss"] == pytest.approx((log["reconstruction"] + 0.25 * log["kl"]) * 8 / tokens, rel=1e-4)


def test_plain_language_model_has_no_kl(tmp_path):
    texts = make_texts(7)
    trainer = make_trainer(tmp_path, make_model(latent_dynamics="none"), train_dataset=texts, eval_dataset=texts)
    trainer.train()
    metrics, expected = trainer.evaluate(), by_hand(trainer.model, texts)
    assert not any("kl" in name for entry in (*trainer.state.log_history, metrics) for name in entry)
    assert metrics["eval_reconstruction"] == pytest.approx(expected["reconstruction"] / 7, rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(expected["reconstruction"] / expected["tokens"], rel=1e-5)


# ---- KL weight ----


@pytest.mark.parametrize("latent_layer,factor,wanted", [(None, None, 1), (1, None, 5), (1, 2.0, 2), (None, 0.5, 0.5)])
def test_latent_networks_have_a_learning_rate_of_their_own(tmp_path, latent_layer, factor, wanted):
    model = make_model(latent_layer=latent_layer)
    settings = {"learning_rate": 1e-3, "weight_decay": 0.1}
    trainer = make_trainer(tmp_path, model, latent_lr_factor=factor, **settings)
    plain = Trainer.create_optimizer(make_trainer(tmp_path, make_model(latent_layer=latent_layer), **settings))
    found = trainer.create_optimizer()
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in found.param_groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in found.param_groups)  # each parameter once
    decays = [group["weight_decay"] for group in plain.param_groups for _ in group["params"]]
    assert sorted(decay for _, decay in rates.values()) == sorted(decays)  # no other than without the factor
    for name, parameter in model.named_parameters():
        own = name.startswith(("dynamics.", "latent_injection.", "state_reader."))
        assert rates[id(parameter)][0] == pytest.approx(1e-3 * (wanted if own else 1))


@pytest.mark.parametrize("factor", [0, -1.0, float("inf"), float("nan")])
def test_a_bad_learning_rate_of_latents_is_refused(tmp_path, factor):
    with pytest.raises(ValueError, match=f"`latent_lr_factor` must be a number > 0, got {factor}"):
        make_trainer(tmp_path, latent_lr_factor=factor)


@pytest.mark.parametrize("schedule", [linear_schedule(0.25, 0.5), cyclical_schedule(2), "linear", lambda p: p / 2])
def test_kl_weight_follows_the_schedule(tmp_path, schedule):
    trainer = make_trainer(tmp_path, kl_schedule=schedule, max_steps=8)
    trainer.train()
    function = linear_schedule() if schedule == "linear" else schedule
    assert [log["kl_weight"] for log in training_logs(trainer)] == pytest.approx(
        [function(step / 8) for step in range(8)]
    )
    assert trainer.model.kl_weight == 1.0


def test_no_schedule_leaves_the_weight_alone(tmp_path):
    model = make_model()
    model.kl_weight.fill_(0.25)
    trainer = make_trainer(tmp_path, model, kl_schedule=None, eval_dataset=make_texts(4))
    trainer.train()
    trainer.evaluate()
    assert {log["kl_weight"] for log in training_logs(trainer)} == {0.25}
    assert model.kl_weight == 0.25


def test_a_given_callback_replaces_the_schedule(tmp_path):
    trainer = make_trainer(tmp_path, callbacks=[KLWeightCallback(constant_schedule(0.125))])
    trainer.train()
    assert {log["kl_weight"] for log in training_logs(trainer)} == {0.125}


def test_bad_schedules_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be linear, cyclical or constant, got 'cosine'"):
        make_trainer(tmp_path, kl_schedule="cosine")
    with pytest.raises(ValueError, match="`schedule` must map progress"):
        KLWeightCallback(0.5)
    with pytest.raises(ValueError, match="finite number >= 0, got -1.0"):
        make_trainer(tmp_path, kl_schedule=lambda progress: -1.0).train()


def test_plain_trainer_with_the_callback(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            seen.append(model.kl_weight.item())

    callbacks = [KLWeightCallback(linear_schedule(0.25, 0.5)), Watch()]
    trainer = make_trainer(tmp_path, trainer_class=Trainer, eval_dataset=make_texts(5), callbacks=callbacks)
    start = weights(trainer.model)
    trainer.train()
    assert seen == pytest.approx([0.0, 0.0, 0.5, 1.0])
    assert any(not torch.equal(start[name], value) for name, value in weights(trainer.model).items())
    assert trainer.model.kl_weight == 1.0
    assert trainer.evaluate()["eval_loss"] > 0
    with pytest.raises(ValueError, match="Linear has no `kl_weight`"):
        KLWeightCallback()._set(torch.nn.Linear(1, 1), 0.0)


# ---- Evaluation ----


@pytest.mark.usefixtures("architecture")
def test_evaluation_is_exact_over_uneven_batches(tmp_path):
    model, texts = make_model(), make_texts(7)
    expected = by_hand(model, texts)
    model.kl_weight.fill_(0.0)  # evaluation uses 1 whatever the schedule left
    trainer = make_trainer(tmp_path, model, eval_dataset=texts, eval_sample_latents=False)
    metrics = trainer.evaluate()
    assert metrics["eval_reconstruction"] == pytest.approx(expected["reconstruction"] / 7, rel=1e-5)
    assert metrics["eval_kl"] == pytest.approx(expected["kl"] / 7, rel=1e-5)
    assert metrics["eval_kl_per_segment"] == pytest.approx(expected["kl"] / expected["segments"], rel=1e-5)
    assert metrics["eval_kl_per_dim"] == pytest.approx(expected["kl"] / expected["segments"] / 4, rel=1e-5)
    elbo = (expected["reconstruction"] + expected["kl"]) / expected["tokens"]
    assert metrics["eval_loss"] == pytest.approx(elbo, rel=1e-5)
    assert model.kl_weight == 0.0
    assert trainer.predict(texts, metric_key_prefix="test").metrics["test_loss"] == pytest.approx(elbo, rel=1e-5)


def test_free_bits_are_in_no_evaluation(tmp_path):
    """`eval_loss` is the negative ELBO per token, whatever the loss counts of the KL."""
    found = []
    for nats in (0.0, 50.0):
        model = make_model(**{**ONE_PASS, "free_nats": nats})
        trainer = make_trainer(tmp_path, model, eval_dataset=make_texts(7), eval_sample_latents=False)
        found.append({k: v for k, v in trainer.evaluate().items() if k in ("eval_loss", "eval_kl")})
    assert found[0] == found[1]


def test_evaluation_draws_latents_under_a_fixed_seed(tmp_path):
    # a wide posterior, so that a draw is far from the mean
    model = make_model(posterior_sigma_init=1.0, latent_init_scale=100.0)
    mean = make_trainer(tmp_path, model, eval_dataset=make_texts(7), eval_sample_latents=False).evaluate()
    trainer = make_trainer(tmp_path, model, eval_dataset=make_texts(7))
    state = torch.get_rng_state()
    first = trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert trainer.evaluate()["eval_reconstruction"] == first["eval_reconstruction"]
    assert abs(first["eval_reconstruction"] - mean["eval_reconstruction"]) > 1e-3


def test_evaluation_during_training_uses_weight_one_and_changes_nothing(tmp_path):
    results = []
    for strategy in ("no", "steps"):
        trainer = make_trainer(
            tmp_path / strategy,
            make_model(dropout=0.1),
            kl_schedule=constant_schedule(0.0),
            eval_dataset=make_texts(7),
            eval_strategy=strategy,
            eval_steps=1,
        )
        trainer.train()
        results.append(weights(trainer.model))
    tokens = by_hand(make_model(), make_texts(7))["tokens"]
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == 4
    for entry in evaluations:
        assert entry["eval_kl"] > 0
        elbo = (entry["eval_reconstruction"] + entry["eval_kl"]) * 7 / tokens
        assert entry["eval_loss"] == pytest.approx(elbo, rel=1e-5)
    assert {log["kl_weight"] for log in training_logs(trainer)} == {0.0}
    assert all(torch.equal(results[1][name], value) for name, value in results[0].items())


def test_gain_is_what_texts_cost_more_under_other_latents(tmp_path):
    """By hand: batches of three and of one, in which the text has no other and is left out."""
    model, texts = make_model(latent_init_scale=2.0), make_texts(7)
    model.eval()
    gains = []
    with torch.no_grad():
        for batch in (texts.select(range(3)), texts.select(range(3, 6))):
            rows = [Collator()([text]) for text in batch]
            latents = [model(**row).latents for row in rows]
            order = sorted(range(3), key=lambda row: latents[row].shape[1])
            for row, donor in zip(order, [*order[1:], order[1]], strict=True):
                steps = torch.arange(latents[row].shape[1]) % latents[donor].shape[1]
                other = model(**rows[row], latents=latents[donor][:, steps]).reconstruction_loss
                gains.append((other - model(**rows[row]).reconstruction_loss).item())
    metrics = make_trainer(tmp_path, model, eval_dataset=texts, eval_sample_latents=False).evaluate()
    gain = sum(gains) / 6
    assert abs(gain) > 1e-2 and metrics["eval_texts"] == 7
    assert metrics["eval_latent_gain"] == pytest.approx(gain, rel=1e-3)
    assert metrics["eval_reconstruction_other"] == pytest.approx(metrics["eval_reconstruction"] + gain, rel=1e-5)
    assert metrics["eval_gain_per_nat"] == pytest.approx(gain / metrics["eval_kl"], rel=1e-3)


def test_texts_of_batches_of_one_take_the_latents_of_the_text_before(tmp_path):
    model, texts = make_model(latent_init_scale=2.0), make_texts(3)
    settings = {"eval_dataset": texts, "eval_sample_latents": False, "per_device_eval_batch_size": 1}
    found = make_trainer(tmp_path, model, **settings).evaluate()
    model.eval()
    rows = [Collator()([text]) for text in texts]
    with torch.no_grad():
        own = [model(**row) for row in rows]
        second = model(**rows[1], latents=own[0].latents[:, [0, 0]]).reconstruction_loss
        third = model(**rows[2], latents=own[1].latents[:, [0, 1, 0]]).reconstruction_loss
    gain = (second + third - own[1].reconstruction_loss - own[2].reconstruction_loss) / 2
    assert found["eval_latent_gain"] == pytest.approx(gain.item(), rel=1e-3) and abs(gain) > 1e-2


@pytest.mark.parametrize("latent_dynamics", ["single", "none"])
def test_gain_of_one_latent_and_of_none(tmp_path, latent_dynamics):
    model = make_model(latent_dynamics=latent_dynamics)
    metrics = make_trainer(tmp_path, model, eval_dataset=make_texts(7)).evaluate()
    assert ("eval_latent_gain" in metrics) == (latent_dynamics == "single")


# ---- Resuming ----

RESUME = {
    "max_steps": 7,  # 10 texts, accumulated by 2 batches of 2: epochs of 3 steps, the last one shorter
    "gradient_accumulation_steps": 2,
    "save_strategy": "steps",
    "save_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "train_dataset": make_texts(10),
    "eval_dataset": make_texts(4, seed=1),
    "kl_schedule": cyclical_schedule(2, zero_fraction=0.25),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = make_trainer(folder, make_model(dropout=0.1), **RESUME)
    trainer.train()
    return folder, weights(trainer.model), training_logs(trainer)


def test_a_run_of_one_pass_resumes_with_the_same_weights(tmp_path):
    trainer = make_trainer(tmp_path, make_model(dropout=0.1, **ONE_PASS), **RESUME)
    trainer.train()
    wanted = weights(trainer.model)
    for step in range(4, 8):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    again = make_trainer(tmp_path, make_model(seed=7, dropout=0.1, **ONE_PASS), **RESUME)
    again.train(resume_from_checkpoint=True)
    assert all(torch.equal(again.model.state_dict()[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("step", [1, 3, 5])
def test_resumed_run_ends_with_the_same_weights(uninterrupted, tmp_path, step):
    folder, expected, logs = uninterrupted
    shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    trainer = make_trainer(tmp_path, make_model(seed=7, dropout=0.1), **RESUME)
    trainer.train(resume_from_checkpoint=True)
    assert all(torch.equal(trainer.model.state_dict()[name], value) for name, value in expected.items())
    keys = ("step", "loss", "reconstruction", "kl", "kl_weight")
    resumed = [[log[key] for key in keys] for log in training_logs(trainer)]
    assert resumed == [[log[key] for key in keys] for log in logs]


@pytest.mark.parametrize("event", ["on_substep_end", "on_optimizer_step", "on_save"])
def test_interrupted_run_resumes_exactly(uninterrupted, tmp_path, event):
    _, expected, _ = uninterrupted

    class Interrupt(TrainerCallback):
        pass

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step >= 5:
            raise KeyboardInterrupt

    setattr(Interrupt, event, interrupt)
    settings = {**RESUME, "save_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, make_model(dropout=0.1), callbacks=[Interrupt()], **settings).train()
    trainer = make_trainer(tmp_path, make_model(seed=7, dropout=0.1), **settings)
    trainer.train(resume_from_checkpoint=True)
    assert all(torch.equal(trainer.model.state_dict()[name], value) for name, value in expected.items())


# ---- Warnings ----


def log_evaluation(callback, *, weight=1.0, step=7, **metrics):
    """One evaluation of 100 texts whose latents pay for themselves, but for what is given."""
    found = {"kl": 20.0, "kl_per_segment": 5.0, "latent_gain": 20.0, "gain_per_nat": 1.0, "texts": 100} | metrics
    model = make_model()
    model.kl_weight.fill_(weight)
    trainer_state = type("State", (), {"is_world_process_zero": True, "global_step": step})
    logs = {f"eval_{name}": value for name, value in found.items()}
    callback.on_log(None, trainer_state, None, logs=logs, model=model)


IDLE = {"latent_gain": 0.3, "gain_per_nat": 0.015}


def test_idle_latents_are_named_however_high_their_kl(caplog):
    callback = CollapseWarningCallback()
    log_evaluation(callback)  # nothing to say
    assert not caplog.records
    for _ in range(2):
        log_evaluation(callback, **IDLE)
    assert len(caplog.records) == 1 and "\n" not in caplog.text.strip()
    assert "idle: a text costs 0.3 nats more under another text's latents" in caplog.text
    assert "0.015 for each of the 20 nats of KL, at step 7" in caplog.text


@pytest.mark.parametrize(
    "reason", [{"weight": 0.5}, {"step": 0}, {"texts": 29}, {"gain_per_nat": float("nan")}, {"gain_per_nat": 0.06}]
)
def test_idle_latents_are_not_named_without_reason(caplog, reason):
    log_evaluation(CollapseWarningCallback(), **{**IDLE, **reason})
    assert not caplog.records


def test_idle_latents_are_named_in_training(tmp_path, caplog):
    """Full KL, by its floor, and a W_z of zero: the training log alone has nothing to say, evaluation has."""
    settings = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 8, "learning_rate": 0.0}
    model = make_model(posterior_norm_gamma=1.0)
    model.latent_injection.weight.data.zero_()
    make_trainer(tmp_path / "0", model, learning_rate=0.0, kl_schedule="constant").train()
    assert not caplog.records
    trainer = make_trainer(tmp_path / "1", model, eval_dataset=make_texts(32), kl_schedule="constant", **settings)
    trainer.train()
    assert caplog.text.count("The latents are idle") == 1
    found = [entry for entry in trainer.state.log_history if "eval_latent_gain" in entry]
    assert len(found) == 2 and found[0]["eval_latent_gain"] == 0 and found[0]["eval_gain_per_nat"] == 0
    assert found[0]["eval_reconstruction_other"] == found[0]["eval_reconstruction"] and found[0]["eval_kl"] > 1


def log_to(callback, *logs):
    trainer_state = type("State", (), {"is_world_process_zero": True, "global_step": 7})
    callback.on_train_begin(None, trainer_state, None)
    for kl, weight in logs:
        callback.on_log(None, trainer_state, None, logs={"kl_per_segment": kl, "kl_weight": weight})
    callback.on_log(None, trainer_state, None, logs={"eval_loss": 1.0})


def test_collapse_warns_once(caplog):
    log_to(CollapseWarningCallback(), (2.0, 1.0), (0.05, 1.0), (0.04, 1.0))
    assert len(caplog.records) == 1
    assert "collapsed: KL is 0.05 nats per segment at step 7" in caplog.text


def test_no_collapse_warning_without_reason(caplog):
    log_to(CollapseWarningCallback(), (0.0, 0.0), (0.05, 0.5), (0.2, 1.0), (3.0, 1.0))
    assert not caplog.records


def test_collapse_warning_in_training(tmp_path, caplog):
    healthy = make_trainer(tmp_path, kl_schedule="constant")
    healthy.train()
    assert "collapsed" not in caplog.text
    # without residual and with the prior's own variance, the posterior is the prior
    collapsed = make_model(posterior_norm_gamma=0.0, posterior_sigma_init=1.0)
    make_trainer(tmp_path, collapsed, learning_rate=0.0).train()
    assert caplog.text.count("collapsed") == 1


class Poison(TrainerCallback):
    """Breaks the weights after `step` steps, as a gradient that overflows does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                model.latent_injection.weight.fill_(float("nan"))


def test_bad_weights_are_never_saved(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "logging_steps": 100, "max_steps": 5}
    trainer = make_trainer(tmp_path, callbacks=[Poison(3)], **settings)
    with pytest.raises(TrainingDivergedError, match="not finite after step 3.*checkpoint-2', is intact") as error:
        trainer.train()
    assert "\n" not in str(error.value) and "`learning_rate` (now 0.001)" in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    with pytest.raises(TrainingDivergedError, match="were not saved"):
        trainer.save_model()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    # what was saved can be resumed
    make_trainer(tmp_path, make_model(seed=3), **settings).train(resume_from_checkpoint=True)
    assert (tmp_path / "checkpoint-5").is_dir()


@pytest.mark.parametrize("when", ["log", "evaluation", "end"])
def test_training_stops_when_the_loss_is_not_finite(tmp_path, when):
    evaluate = (
        {"eval_strategy": "steps", "eval_steps": 3, "eval_dataset": make_texts(2)} if when == "evaluation" else {}
    )
    trainer = make_trainer(tmp_path, callbacks=[Poison(1)], logging_steps=3 if when == "log" else 100, **evaluate)
    with pytest.raises(
        TrainingDivergedError, match="diverged: reconstruction not finite at step 2. Nothing was saved yet"
    ):
        trainer.train()
    assert trainer.state.global_step == (4 if when == "end" else 3)


def test_a_learning_rate_that_is_too_high(tmp_path):
    trainer = make_trainer(tmp_path, optim="sgd", learning_rate=1e20, max_grad_norm=0.0, lr_scheduler_type="constant")
    with pytest.raises(TrainingDivergedError, match="kl not finite at step 2"):
        trainer.train()


def test_float16_warns_instead_since_bad_steps_are_skipped(tmp_path, caplog):
    trainer = make_trainer(tmp_path)
    trainer._sums.first_bad_step.fill_(3)
    trainer.accelerator.scaler = object()
    trainer._read_sums()
    assert "reconstruction and kl not finite at step 3: the step was skipped" in caplog.text


# ---- Bad input ----


def test_data_sets_that_cannot_be_used(tmp_path):
    texts, raw = make_texts(4), Dataset.from_dict({"text": ["a", "b"]})
    splits = DatasetDict({"train": texts, "test": texts})
    with pytest.raises(ValueError, match=r"Did you pass the DatasetDict\? Use dataset\['train'\]"):
        make_trainer(tmp_path, train_dataset=splits)
    with pytest.raises(ValueError, match=r"`eval_dataset`.*'train', 'test'.*Use dataset\['validation'\]"):
        make_trainer(tmp_path, eval_dataset=splits)
    with pytest.raises(ValueError, match=r"`train_dataset` has neither .* `text` nor `input_ids`, only \['body'\]"):
        make_trainer(tmp_path, train_dataset=raw.rename_column("text", "body"))
    with pytest.raises(ValueError, match=r"`eval_dataset\['b'\]` has neither .* dataset.rename_column\('x', 'text'\)"):
        make_trainer(tmp_path, eval_dataset={"a": texts, "b": raw.rename_column("text", "x")})
    with pytest.raises(ValueError, match=r"has no column `input_ids`, only \['ids'\]"):
        make_trainer(tmp_path, train_dataset=[{"ids": [1, 2]}])
    with pytest.raises(ValueError, match="`train_dataset` is empty"):
        make_trainer(tmp_path, train_dataset=texts.select([]))
    with pytest.raises(ValueError, match="`processing_class` is needed to pad texts"):
        make_trainer(tmp_path, data_collator=None)
    with pytest.raises(ValueError, match="`processing_class` is needed to tokenize texts"):
        make_trainer(tmp_path, train_dataset=raw)


def test_settings_that_cannot_work(tmp_path):
    for args_class in (TraceTrainingArguments, TrainingArguments):
        with pytest.raises(ValueError, match="`label_smoothing_factor` must be 0.* got 0.1") as error:
            make_trainer(tmp_path, args_class=args_class, label_smoothing_factor=0.1)
        assert "\n" not in str(error.value)
    args = make_args(tmp_path)
    assert args.n_gpu <= 1
    args._n_gpu = 2
    with pytest.raises(ValueError, match="`DataParallel` over 2 GPUs.*torchrun"):
        TraceTrainer(make_model(), args, Collator(), make_texts(4))
    with pytest.raises(ValueError, match="`compute_loss_func` cannot be used"):
        TraceTrainer(make_model(), make_args(tmp_path), Collator(), make_texts(4), compute_loss_func=print)
    with pytest.raises(ValueError, match="must be a TraceForConditionalGeneration, got Linear"):
        make_trainer(tmp_path, torch.nn.Linear(1, 1))


def test_output_folder_of_another_model(tmp_path):
    check_output_dir(tmp_path / "missing", make_config())
    (tmp_path / "logs").mkdir()
    for text in ("not JSON", '{"name": "no model"}'):
        (tmp_path / "config.json").write_text(text)
        check_output_dir(tmp_path, make_config())
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.train()  # this run's own folder
    check_output_dir(tmp_path, make_config(), resume_from_checkpoint=True)
    check_output_dir(tmp_path, make_config(), str(tmp_path / "checkpoint-2"))
    with pytest.raises(ValueError, match="already holds a model.*resume_from_checkpoint=True"):
        make_trainer(tmp_path).train()
    with pytest.raises(ValueError, match="`latent_size` is 4 there and 8 here. Choose an empty folder"):
        make_trainer(tmp_path, make_model(latent_size=8)).train(resume_from_checkpoint=True)
    wide = make_config()
    wide.backbone_config.n_embd = 64
    with pytest.raises(ValueError, match="`backbone_config.n_embd` is 32 there and 64 here"):
        check_output_dir(tmp_path, wide, resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="`model_type` is 'trace' there and 'gpt2' here"):
        check_output_dir(tmp_path, GPT2Config())
    # resuming from one folder must not overwrite the model in another
    shutil.copytree(tmp_path / "checkpoint-4", tmp_path / "other")
    with pytest.raises(ValueError, match="already holds a model.*or delete it"):
        check_output_dir(tmp_path / "other", make_config(), str(tmp_path / "checkpoint-2"))
    with pytest.raises(ValueError, match="`resume_from_checkpoint` .* holds another model: `latent_size`"):
        check_output_dir(tmp_path / "new", make_config(latent_size=8), str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("latent_dynamics", ["recurrent", "none"])
def test_plain_trainer_that_smooths_labels_is_refused(tmp_path, latent_dynamics):
    """It takes the labels away and smooths unshifted ones: no ELBO, and a model that copies its input."""
    model = make_model(latent_dynamics=latent_dynamics)
    settings = {"args_class": TrainingArguments, "label_smoothing_factor": 0.1}
    with pytest.raises(ValueError, match="label_smoothing_factor") as error:
        make_trainer(tmp_path, model, Trainer, **settings).train()
    assert "\n" not in str(error.value)


# ---- The best checkpoint ----


BEST = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
BEST |= {"load_best_model_at_end": True, "eval_dataset": make_texts(2)}


@pytest.fixture
def found_by_evaluation(monkeypatch):
    """Evaluations find of a metric what the test says: 3, 1, 2 and 4."""
    evaluation_loop = TraceTrainer.evaluation_loop

    def find(name):
        values = iter((3.0, 1.0, 2.0, 4.0))

        def loop(*args, **kwargs):
            output = evaluation_loop(*args, **kwargs)
            output.metrics[name] = next(values)
            return output

        monkeypatch.setattr(TraceTrainer, "evaluation_loop", loop)

    return find


@pytest.mark.parametrize("args_class", [TraceTrainingArguments, TrainingArguments])
@pytest.mark.parametrize(
    "metric,best",
    [("reconstruction", 2), ("eval_kl", 2), ("kl_per_dim", 2), ("latent_gain", 4), ("loss", 2), ("accuracy", 4)],
)
def test_best_checkpoint_is_the_best(tmp_path, found_by_evaluation, args_class, metric, best):
    found_by_evaluation(f"eval_{metric.removeprefix('eval_')}")
    trainer = make_trainer(tmp_path, args_class=args_class, metric_for_best_model=metric, **BEST)
    trainer.train()
    assert trainer.state.best_global_step == best


@pytest.mark.parametrize("metric,last", [("kl", 3), ("gain_per_nat", 2)])
def test_early_stopping_knows_which_way_is_better(tmp_path, found_by_evaluation, metric, last):
    found_by_evaluation(f"eval_{metric}")
    callbacks = [EarlyStoppingCallback(early_stopping_patience=1)]
    trainer = make_trainer(tmp_path, callbacks=callbacks, metric_for_best_model=metric, **BEST)
    trainer.train()
    assert trainer.state.global_step == last


# ---- Defaults ----


def make_tokenizer(sep_token="[SEP]"):
    words = {"[PAD]": PAD, "[BOS]": BOS, "[EOS]": EOS, "[SEP]": SEP}
    words.update({f"w{index}": index for index in range(4, VOCAB_SIZE)})
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w4"))
    special = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]", "sep_token": sep_token}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def test_a_tokenizer_is_enough(tmp_path):
    pytest.importorskip("modeling_trace.data")
    results = []
    for extra in ({"processing_class": make_tokenizer()}, {"data_collator": Collator()}):
        args = make_args(tmp_path / str(len(results)), save_strategy="steps", save_steps=4)
        trainer = TraceTrainer(make_model(), args, train_dataset=make_texts(8), **extra)
        trainer.train()
        results.append(weights(trainer.model))
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())
    assert (tmp_path / "0" / "checkpoint-4" / "tokenizer.json").is_file()
    with pytest.raises(ValueError, match=r"`processing_class` has \[SEP\] id 9, the model 3"):
        TraceTrainer(make_model(), args, train_dataset=make_texts(8), processing_class=make_tokenizer("w9"))


def test_processor_and_model_must_agree_on_segments(tmp_path):
    from modeling_trace.data import FixedLengthSegmenter, TraceProcessor

    processor = TraceProcessor(make_tokenizer(), FixedLengthSegmenter(7), separator="token")
    texts = {"train_dataset": make_texts(8), "processing_class": processor}
    with pytest.raises(ValueError, match="Build the model with segment_length=7"):
        TraceTrainer(make_model(segment_length=None), make_args(tmp_path), **texts)
    TraceTrainer(make_model(segment_length=7), make_args(tmp_path), **texts)


def test_training_keeps_no_keys_and_values(tmp_path):
    """`use_cache=False` of the Trainer reaches the config of the whole, not of the backbone: the model sees to it."""
    trainer, seen = make_trainer(tmp_path), []
    trainer.model.backbone.register_forward_hook(lambda *_: seen.append(_[-1].get("cache")))
    trainer.train()
    assert seen and all(cache is None for cache in seen)


def test_saved_model_has_weight_one(tmp_path):
    trainer = make_trainer(tmp_path, kl_schedule=constant_schedule(0.5), save_strategy="steps", save_steps=2)
    trainer.train()
    model = TraceForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-2")
    assert model.kl_weight == 1.0 and model.kl_weight.dtype == torch.float32


# ---- Several processes ----

SCRIPT = """
    import os, sys, torch
    from helpers.training import *
    from modeling_trace.training import *

    world_size, folder = int(os.environ.get("WORLD_SIZE", 1)), sys.argv[1]
    trainer = make_trainer(
        folder,
        data_collator=Collator(sample_latents=False),
        kl_schedule=constant_schedule(0.5),
        optim="sgd",
        learning_rate=0.5,
        max_grad_norm=0.0,
        max_steps=2,
        per_device_train_batch_size=4 // world_size,
        gradient_accumulation_steps=2,
        eval_dataset=make_texts(7),
        eval_sample_latents=False,
        save_strategy="steps",
        save_steps=2,
    )
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        torch.save((weights(trainer.model), training_logs(trainer), metrics), folder + "/result.pt")
    trainer.end()
"""


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_equal_one(tmp_path):
    (one, one_logs, one_metrics), (two, two_logs, two_metrics) = one_and_two_processes(SCRIPT, tmp_path)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6, msg=name)
    for first, second in zip(one_logs, two_logs, strict=True):
        for name in ("loss", "reconstruction", "kl", "kl_per_segment", "kl_per_dim", "kl_weight"):
            assert second[name] == pytest.approx(first[name], rel=1e-5), name
    for name in ("loss", "reconstruction", "kl", "kl_per_segment", "kl_per_dim", "reconstruction_other", "texts"):
        assert two_metrics[f"eval_{name}"] == pytest.approx(one_metrics[f"eval_{name}"], rel=1e-5), name
