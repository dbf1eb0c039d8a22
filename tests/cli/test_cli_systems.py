"""`--system`, `--preset`, `--recipe`, conditional training, and the commands that work with texts' latents."""

import json

import pytest
from transformers import AutoConfig

from modeling_trace.cli.main import main
from modeling_trace.cli.parser import read_yaml
from modeling_trace.cli.train_arguments import parse_arguments, to_dataclasses
from modeling_trace.data import TraceProcessor
from modeling_trace.presets import PRESETS, SYSTEMS

TINY = [
    *("--backbone_config", "{model_type: gpt2, n_layer: 2, n_embd: 16, n_head: 2, n_positions: 64}"),
    *("--vocab_size", "300", "--max_texts", "40", "--max_steps", "2", "--per_device_train_batch_size", "4"),
    *("--latent_size", "4", "--segment_length", "5", "--use_cpu", "true", "--disable_tqdm", "true"),
]
STORIES = [
    {"title": f"Story {number}", "story": f"It was day {number}. We went out. It rained a lot."}
    for number in range(12)
]
TEXT = "The soup was hot and the bread was good."


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("reviews") / "model"
    assert main(["train", *TINY, "--output_dir", str(folder)]) == 0
    return str(folder)


@pytest.fixture(scope="module")
def stories(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("stories")
    (folder / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in STORIES))
    flags = ["--dataset", str(folder / "stories.jsonl"), "--conditional", "true", "--segmenter", "regex"]
    flags += ["--separator", "token"]
    flags += ["--segment_pattern", r"(?<=[.])\s", "--validation_split", "2", "--text_column", "story"]
    assert (
        main(["train", *TINY[:-6], *TINY[-4:], "--latent_size", "4", *flags, "--output_dir", str(folder / "m")]) == 0
    )
    return str(folder / "m")


# ---- Systems, presets, recipes ----


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_trains_and_generates(system, tmp_path, capsys):
    code, out, err = run(capsys, "train", *TINY, "--system", system, "--output_dir", tmp_path / "m")
    assert code == 0, err
    config = AutoConfig.from_pretrained(tmp_path / "m")
    for name, value in SYSTEMS[system].model.items():
        assert getattr(config, name) == value
    processor = TraceProcessor.from_pretrained(tmp_path / "m")
    assert (processor.segmenter is None) == (config.latent_dynamics in ("none", "single"))
    code, out, err = run(capsys, "generate", tmp_path / "m", "--num_texts", 2, "--max_new_tokens", 8)
    assert code == 0 and "2 texts are distinct" in out, err
    # what the name stands for is in the file that repeats the run
    settings = read_yaml(str(tmp_path / "m" / "train_config.yaml"))
    assert "system" not in settings and settings["latent_dynamics"] == config.latent_dynamics


def parsed(*argv):
    return to_dataclasses(parse_arguments(list(argv)))


def test_presets_set_data_and_training_and_flags_win(caplog):
    data, model, training = parsed("--preset", "yelp", "--system", "trace-p", "--learning_rate", "1e-4")
    assert data.dataset == PRESETS["yelp"].data.dataset and data.text_column == "text" and data.max_texts == 110_000
    assert data.validation_split == 10_000 and training.kl_schedule == "cyclical"
    assert model["latent_dynamics"] == "parallel" and model["segment_length"] == 10
    assert model["posterior_norm_gamma"] == 0.7  # a preset is no recipe
    assert training.learning_rate == 1e-4 and training.per_device_train_batch_size == 32
    assert not caplog.records
    data, model, training = parsed("--preset", "writing-prompts", "--recipe", "paper")
    assert "no bound on the likelihood" in caplog.text
    assert (data.prompt_column, data.text_column, data.segmenter) == ("prompt", "story", "sentence")
    assert model["conditional"] is True and training.max_length == 750 and data.validation_split == "validation"
    assert model["posterior_norm_gamma"] == 3.0 and model["prior_logvar_bound"] is None
    assert training.learning_rate == 5e-5


def test_a_file_wins_over_a_preset_and_a_system_over_a_recipe(tmp_path):
    (tmp_path / "c.yaml").write_text("preset: yahoo\nsystem: trace-r-LN\nrecipe: paper\nmax_texts: 7\n")
    data, model, _ = parsed(str(tmp_path / "c.yaml"))
    assert data.max_texts == 7 and data.drop_empty and data.text_column == "best_answer"
    assert model["posterior_norm"] == "none" and model["residual_scale"] == "none"


def test_a_name_on_the_command_line_wins_over_the_file(reviews):
    """train_config.yaml writes every field out; another --system must not be ignored for that."""
    file = f"{reviews}/train_config.yaml"
    assert parsed(file)[1]["latent_dynamics"] == "recurrent"
    _, model, _ = parsed(file, "--system", "ind")
    assert model["latent_dynamics"] == "independent" and model["posterior_norm"] == "none"
    assert model["latent_size"] == 4  # what the system says nothing of is the file's
    assert parsed(file, "--system", "ind", "--posterior_norm", "batch")[1]["posterior_norm"] == "batch"


def test_a_flag_undoes_the_name_in_a_file(tmp_path):
    (tmp_path / "c.yaml").write_text("system: ind\npreset: yelp\n")
    _, model, _ = parsed(str(tmp_path / "c.yaml"), "--system", "none")
    assert model["latent_dynamics"] == "recurrent"
    assert parsed(str(tmp_path / "c.yaml"), "--preset", "yahoo")[0].text_column == "best_answer"


# ---- Conditional ----


def test_a_conditional_model_writes_on_its_prompt(stories, tmp_path, capsys):
    config = AutoConfig.from_pretrained(stories)
    assert config.conditional and config.segment_length is None
    assert TraceProcessor.from_pretrained(stories).conditional
    path = tmp_path / "texts.jsonl"
    flags = ["--num_texts", 2, "--prompt", "A walk", "--prompt", "Story", "--max_new_tokens", 12, "--output", path]
    code, out, err = run(capsys, "generate", stories, *flags)
    assert code == 0, err
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["A walk"] * 2 + ["Story"] * 2
    assert all("A walk" not in row["text"] and "".join(row["segments"]) == row["text"] for row in rows)


# ---- Latents of texts ----


def test_reconstruct(reviews, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    code, out, err = run(capsys, "reconstruct", reviews, "--text", TEXT, "--text", "Good.", "--output", path)
    assert code == 0, err
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["source"] for row in rows] == [TEXT, "Good."]
    for row in rows:
        assert len(row["latents"]) == max(1, len(row["segments"])) and len(row["latents"][0]) == 4
    code, out, err = run(capsys, "reconstruct", reviews, "--dataset", "reviews", "--num_texts", 3)
    assert code == 0 and out.count("->") == 3


def test_interpolate(reviews, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    flags = ["--text", TEXT, "--text", "Good.", "--num_steps", 3, "--output", path]
    assert run(capsys, "interpolate", reviews, *flags)[0] == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["source"]["share"] for row in rows] == [0.0, 0.5, 1.0]
    first = [row["latents"][0] for row in rows]
    assert first[1] == pytest.approx([(a + b) / 2 for a, b in zip(first[0], first[2], strict=True)], abs=1e-5)


@pytest.mark.parametrize("decoding", [[], ["--num_beams", "2"], ["--top_k", "20"]])
def test_edit_in_batches(reviews, tmp_path, capsys, decoding):
    path = tmp_path / "texts.jsonl"
    flags = ["--dataset", "reviews", "--num_texts", 3, "--segments", "2", "--num_draws", 3, "--batch_size", 2]
    code, _, err = run(capsys, "edit", reviews, *flags, "--output", path, *decoding)
    assert code == 0, err
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 9
    for text in range(3):
        own = rows[3 * text : 3 * text + 3]
        assert len({row["source"] for row in own}) == 1
        assert all(row["source"].startswith(row["segments"][0]) for row in own)
        assert len({tuple(row["latents"][1]) for row in own if len(row["latents"]) > 1}) > 1


def test_a_model_with_one_latent_has_nothing_to_edit(tmp_path, capsys):
    assert run(capsys, "train", *TINY, "--system", "no-recurrence", "--output_dir", tmp_path / "m")[0] == 0
    code, _, err = run(capsys, "edit", tmp_path / "m", "--text", TEXT)
    assert code == 2 and "this model has one latent for the whole text" in err.strip().splitlines()[-1]


def test_edit_and_average(reviews, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    flags = ["--text", TEXT, "--segments", "2", "--num_draws", 3, "--seed", 0, "--output", path]
    code, _, err = run(capsys, "edit", reviews, *flags)
    assert code == 0, err
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kept = TraceProcessor.from_pretrained(reviews)
    start = kept.split(kept(TEXT)["input_ids"])[0]
    assert len(rows) == 3 and all(row["segments"][0] == start for row in rows)
    assert rows[0]["latents"][0] == rows[1]["latents"][0] and rows[0]["latents"][1] != rows[1]["latents"][1]
    code, out, _ = run(capsys, "average", reviews, "--text", TEXT, "--text", "Good.")
    assert code == 0 and out.startswith("1. ")


def test_conditional_texts_keep_their_prompts(stories, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    flags = ["--text", "It was day 3. We went out.", "--prompt", "Story 3", "--segments", "2", "--output", path]
    code, _, err = run(capsys, "edit", stories, *flags)
    assert code == 0, err
    assert all(json.loads(line)["text"].startswith("It was day 3.") for line in path.read_text().splitlines())


BAD = [
    (["train", "--system", "trace-q"], "`system` must be one of trace, trace-r, trace-p"),
    (
        ["train", "--preset", "yelpp"],
        "`preset` must be one of yelp, yahoo, writing-prompts, got 'yelpp'. Did you mean",
    ),
    (["train", "--recipe", "papers"], "`recipe` must be one of paper, got 'papers'"),
    (["train", *TINY, "--conditional", "true"], "`conditional` is set, but the data set has no column of prompts"),
    (["train", *TINY, "--prompt_column", "text"], "`prompt_column` is for conditional models"),
    (["reconstruct", "{reviews}"], "give texts either by `text` or by `dataset`"),
    (["reconstruct", "{reviews}", "--text", "a", "--prompt", "b"], "`prompt` is for conditional models"),
    (["interpolate", "{reviews}", "--text", "a"], "`text` must be given in pairs"),
    (["interpolate", "{reviews}", "--text", "a", "--text", "b", "--num_steps", "1"], "`num_steps` must be >= 2"),
    (["edit", "{reviews}", "--text", TEXT], "`segments` is missing: which of 1: "),
    (["edit", "{reviews}", "--text", TEXT, "--segments", "x"], "`segments` must be numbers such as 2 or 2,3, got 'x'"),
    (["edit", "{reviews}", "--text", TEXT, "--segments", "99"], "`segments` must be between 1 and"),
    (["edit", "{reviews}", "--text", TEXT, "--segments", "0"], "`segments` must be between 1 and"),
    (["average"], "the model is missing"),
    (["generate", "{stories}"], "this is a conditional model, which needs a prompt"),
    (["edit", "{stories}", "--text", "a"], "this is a conditional model: give each --text its --prompt"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_one_line_before_the_weights_are_read(
    reviews, stories, capsys, flags, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modeling_trace.loading.load_model", lambda *_: pytest.fail("the weights are read"))
    folders = {"{reviews}": reviews, "{stories}": stories}
    code, _, err = run(capsys, *(folders.get(flag, flag) for flag in flags))
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and message in last
