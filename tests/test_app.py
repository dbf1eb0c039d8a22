"""The app without its page: texts and their latents, what is held, work that is stopped, errors in one line."""

import copy
import json
import runpy
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from helpers.docs import make_demo_folder

from modeling_trace import TraceForConditionalGeneration, TraceProcessor, load_model
from modeling_trace.app import drafts, pages
from modeling_trace.app.drafts import Decoding
from modeling_trace.app.models import ModelStore, message
from modeling_trace.app.plane import find_report
from modeling_trace.app.running import Watch, in_background
from modeling_trace.cli.main import main
from modeling_trace.data import SentenceSegmenter

TEXT = "The staff were friendly. The wait was long. The soup was cold. We left."
SHORT = Decoding(max_new_tokens=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    make_demo_folder(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    """A model whose greedy words depend on its latents, with full stops among them."""
    model, processor = load_model(folder / "model", "cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        model.latent_injection.weight.mul_(20)
    return model, processor


@pytest.fixture
def draft(loaded):
    return drafts.read(*loaded, [TEXT])[0]


def test_a_text_is_read_with_its_posterior_means(loaded, draft):
    model, processor = loaded
    assert "".join(draft.segments) == TEXT and len(draft.segments) == len(draft.latents) == 4
    with torch.no_grad():
        encoded = model.encode(**processor(TEXT, return_tensors="pt"), sample_latents=False)
    assert torch.equal(draft.latents, encoded.latents[0, :4])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_resampling_leaves_what_stands_before(loaded, draft, temperature):
    model, processor = loaded
    for segment in (1, 2, 3):
        before = int((processor.segment_rule.segment_ids(torch.tensor([draft.ids])) < segment).sum())
        new = drafts.resample(*loaded, draft, segment, replace(SHORT, temperature=temperature))
        assert new.ids[:before] == draft.ids[:before] and new.segments[: segment - 1] == draft.segments[: segment - 1]
        assert torch.equal(new.latents[: segment - 1], draft.latents[: segment - 1])
        assert not torch.isclose(new.latents[segment - 1], draft.latents[segment - 1]).any()
        assert (new.resampled, new.before) == (segment, draft.segments)


def test_later_latents_stay_only_where_they_are_held(loaded, draft, monkeypatch):
    full_stop = loaded[1].closing_token_ids[0]
    words = [token for token in range(10, 2000) if token not in loaded[1].closing_token_ids]
    force_words(monkeypatch, loaded[0], [words[0], full_stop] * 10)
    new = drafts.resample(*loaded, drafts.hold(draft, [1, 4]), 2, SHORT)
    assert new.held == {1, 4}
    same = [torch.equal(new.latents[i], draft.latents[i]) for i in range(4)]
    assert same == [True, False, False, True]
    assert drafts.hold(new, [4], False).held == {1}
    assert len(new.segments) == 4  # the last one was held, so the text ends with it
    assert len(drafts.resample(*loaded, drafts.hold(draft, [1]), 2, SHORT).segments) > 4


def force_words(monkeypatch, model, tokens):
    """Let greedy decoding write `tokens` one after the other."""
    original = model.generate

    def generate(ids, **settings):
        start = ids.shape[1]
        return original(
            ids, **settings, prefix_allowed_tokens_fn=lambda row, so_far: [tokens[(len(so_far) - start) % len(tokens)]]
        )

    monkeypatch.setattr(model, "generate", generate)


def test_a_segment_has_a_temperature_of_its_own(loaded, draft):
    """At 0 the latent is the prior's mean, which only the text before decides; the others' is not touched."""
    cold = drafts.set_temperature(draft, 2, 0.0)
    first, second = (drafts.resample(*loaded, cold, 2, SHORT) for _ in range(2))
    assert torch.equal(first.latents[1], second.latents[1])
    warm = [drafts.resample(*loaded, draft, 2, SHORT).latents[1] for _ in range(2)]
    assert not torch.equal(*warm)
    mean = drafts.resample(*loaded, draft, 2, replace(SHORT, latent_temperature=0.0)).latents[1]
    assert torch.equal(first.latents[1], mean)


def test_what_cannot_be_resampled_is_said(loaded, draft):
    with pytest.raises(ValueError, match="Segment 2 is held. Release it"):
        drafts.resample(*loaded, drafts.hold(draft, [2]), 2)
    with pytest.raises(ValueError, match="between 1 and 4, got 5"):
        drafts.resample(*loaded, draft, 5)
    given = drafts.write(*loaded, 1, "The soup was cold. The", SHORT)[0]
    assert given.num_given == 1
    with pytest.raises(ValueError, match="stands in the prompt"):
        drafts.resample(*loaded, given, 1)
    again = drafts.resample(*loaded, given, 2, SHORT)
    assert again.ids[: given.prompt_length] == given.ids[: given.prompt_length]


def test_written_texts_have_their_latents_and_the_backbone_alone_has_none(loaded):
    torch.manual_seed(1)
    texts = drafts.write(*loaded, 4, decoding=SHORT)
    assert len({text.segments for text in texts}) > 1
    assert all(len(text.latents) == max(1, len(text.segments)) for text in texts)
    alone = drafts.write(*loaded, 4, decoding=SHORT, latents_off=True)
    assert len({text.ids for text in alone}) == 1 and alone[0].latents is None
    model, processor = loaded
    saved = model.latent_injection.weight.detach().clone()
    with torch.no_grad():
        model.latent_injection.weight.zero_()
        without = drafts.write(*loaded, 1, decoding=SHORT)
        model.latent_injection.weight.copy_(saved)
    assert without[0].ids == alone[0].ids


def test_interpolation_goes_from_one_text_to_the_other(loaded):
    steps = drafts.interpolate(*loaded, TEXT, "We left.", 3, decoding=SHORT)
    ends = drafts.read(*loaded, [TEXT, "We left."])
    assert len(steps) == 3 and torch.allclose(steps[0].latents[0], ends[0].latents[0])
    assert torch.allclose(steps[2].latents[0], ends[1].latents[0], atol=1e-6)
    with pytest.raises(ValueError, match="second text is empty"):
        drafts.interpolate(*loaded, TEXT, " ", 3)


def test_the_map_is_pca(loaded):
    texts = drafts.read(*loaded, [TEXT, "The soup was cold. We left.", "The wait was long."])
    rows, shares = drafts.latent_map(texts)
    assert [(row["text"], row["segment"]) for row in rows] == [(1, n) for n in (1, 2, 3, 4)] + [(2, 1), (2, 2), (3, 1)]
    latents = torch.cat([text.latents for text in texts]).double()
    values = torch.linalg.eigvalsh(torch.cov(latents.t())).flip(0)
    points = torch.tensor([(row["x"], row["y"]) for row in rows], dtype=torch.float64)
    assert torch.allclose(points.var(dim=0), values[:2]) and points.mean(dim=0).abs().max() < 1e-6
    assert torch.allclose(torch.tensor(shares, dtype=torch.float64), values[:2] / values.sum())
    with pytest.raises(ValueError, match="at least three segments"):
        drafts.latent_map(texts[2:])


@pytest.mark.parametrize("separator", ["none", "token"])
def test_a_conditional_model_writes_and_resamples_on_its_prompt(folder, separator):
    plain = load_model(folder / "plain-lm", "cpu")[1].tokenizer
    segmenter = SentenceSegmenter()
    segmenter.fit([TEXT])
    processor = TraceProcessor(copy.deepcopy(plain), segmenter, conditional=True, separator=separator)
    torch.manual_seed(0)
    model = TraceForConditionalGeneration.from_backbone(folder / "plain-lm", processor).eval()
    with pytest.raises(ValueError, match="writes on a prompt"):
        drafts.write(model, processor, 1)
    assert drafts.write(model, processor, 1, "A walk", SHORT)[0].num_given == 0
    read = drafts.read(model, processor, [TEXT], "A walk")[0]
    assert "".join(read.segments) == TEXT and len(read.latents) == 4
    for segment in (1, 3):
        new = drafts.resample(model, processor, drafts.hold(read, [4]), segment, SHORT)
        assert new.segments[: segment - 1] == read.segments[: segment - 1]
        assert new.ids[: read.prompt_length] == read.ids[: read.prompt_length]
        assert processor.decode_prompt(list(new.ids)) == "A walk"
    assert len(drafts.interpolate(model, processor, TEXT, "We left.", 2, "A walk", SHORT)) == 2


def test_one_latent_per_text_is_shown_and_not_resampled(folder):
    processor = TraceProcessor(load_model(folder / "plain-lm", "cpu")[1].tokenizer, None)
    model = TraceForConditionalGeneration.from_backbone(
        folder / "plain-lm", processor, latent_dynamics="single"
    ).eval()
    draft = drafts.read(model, processor, [TEXT])[0]
    assert len(draft.segments) == len(draft.latents) == 1
    with pytest.raises(ValueError, match="no latent for each segment"):
        drafts.resample(model, processor, draft, 1)
    assert drafts.write(model, processor, 2, decoding=SHORT, latents_off=True)[0].latents is None


def test_work_stops_within_a_token(loaded):
    watch = Watch()
    stopped_at = []
    call = Watch.__call__

    class Slow(Watch):
        def __call__(self, input_ids, scores, **kwargs):
            if self.done == 5:
                self.stop()
                stopped_at.append(self.done + 1)
            return call(self, input_ids, scores, **kwargs)

    watch = Slow()
    texts = drafts.write(*loaded, 2, "The soup", Decoding(max_new_tokens=60), watch)
    assert stopped_at == [6] and watch.done == 6
    assert all(len(text.ids) <= text.prompt_length + 6 for text in texts)


def test_background_work_reports_returns_raises_and_ends_when_nobody_looks():
    watch, release = Watch(), threading.Event()
    running = in_background(lambda: release.wait() and "done", watch)
    assert next(running) is watch
    release.set()
    with pytest.raises(StopIteration) as end:
        while True:
            next(running)
    assert end.value.value == "done"

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(in_background(fail, Watch()))
    left = Watch()
    running = in_background(lambda: [time.sleep(0.01) for _ in iter(lambda: left.stopped, True)], left)
    next(running)
    running.close()
    assert left.stopped


def test_pages_show_text_as_text(draft):
    harmful = replace(draft, segments=("<b>&{{x}} ${y} `", *draft.segments[1:]))
    page = pages.texts_page([drafts.hold(harmful, [2])], (0, 1))
    assert "<b>&" not in page and "{{" not in page and "${" not in page and "&lt;b&gt;&amp;&#123;" in page
    assert page.count('role="button"') == 4 and page.count('aria-pressed="true"') == 1  # the chosen one
    assert page.count(">held<") == 1


def test_colours_can_be_read():
    """Black on each tint: WCAG's contrast for small text is 4.5."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for tint in pages.TINTS:
        assert (luminance(tint) + 0.05) / (luminance("#111111") + 0.05) > 10


def test_models_are_kept_and_refused_in_one_line(folder, tmp_path):
    store = ModelStore("cpu")
    first = store.get(str(folder / "model"))
    assert store.get(str(folder / "model")) is first and "gpt2" in first.description
    with pytest.raises(ValueError, match="plain language model"):
        store.get(str(folder / "plain-lm"))
    assert not store.get(str(folder / "plain-lm"), plain=True).model.has_latents
    with pytest.raises(ValueError, match="plain language model"):  # also where it is there by now
        store.get(str(folder / "plain-lm"))
    for name, words in (("", "no model is named"), (str(tmp_path / "none"), "no folder")):
        with pytest.raises(ValueError, match=words) as error:
            store.get(name)
        assert "\n" not in message(error.value)


def test_an_error_of_the_app_itself_is_one_line_and_no_traceback():
    assert message(ZeroDivisionError("division by zero")).startswith("this went wrong in the app itself")


def test_a_report_is_found_where_there_is_one(folder, tmp_path):
    model = str(folder / "model")
    assert find_report(model) is None
    with pytest.raises(ValueError, match="`report` must be the folder of a report"):
        find_report(model, tmp_path)
    metrics = {"self_bleu": {"value": 50.0}, "cnd": {"value": 0.1}}
    point = {"temperature": 0.0, "latent_temperature": 1.0, "metrics": metrics, "on_envelope": True}
    report = {
        "systems": [{"name": "TRACE", "path": model, "latent_dynamics": "recurrent"}],
        "curves": {"TRACE": [point]},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert find_report(model, tmp_path)["app_system"] == "TRACE"
    (tmp_path / "report.json").write_text(json.dumps({**report, "curves": {"TRACE": []}}))
    with pytest.raises(ValueError, match="no quality-diversity plane"):
        find_report(model, tmp_path)


class TestGradio:
    @pytest.fixture(autouse=True)
    def gradio(self):
        pytest.importorskip("gradio", reason="the app's page requires the `demo` extra")

    def test_bad_input_is_one_line_before_anything_is_served(self, folder, tmp_path, capsys):
        model = str(folder / "model")
        for flags, words in (
            ([str(tmp_path / "none")], "there is no folder"),
            ([model, "--plain", str(tmp_path / "none")], "there is no folder"),
            ([model, "--report", str(tmp_path / "none")], "`report` must be"),
            ([model, "--port", "99999"], "`port` 99999"),
            ([model, "--host", "not.an.address."], "`host` 'not.an.address.'"),
        ):
            assert main(["app", *flags, "--no_browser"]) == 2
            said = capsys.readouterr().err
            assert said.startswith("error: ") and words in said and said.count("\n") == 1

    def test_the_space_is_whole(self, folder, monkeypatch):
        space = Path(__file__).parents[1] / "examples" / "space"
        _, front, text = (space / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        front = yaml.safe_load(front)
        assert front["sdk"] == "gradio" and (space / front["app_file"]).is_file() and text.strip()
        assert (space / "requirements.txt").read_text() == "modeling-trace[demo]\n"
        for model in ("", str(folder / "model")):
            monkeypatch.setenv("TRACE_MODEL", model)
            assert runpy.run_path(str(space / "app.py"))["blocks"].title == "TRACE"

    def test_the_app_listens_to_this_machine_alone(self, folder):
        from modeling_trace.app import build_app, launch_app

        blocks = build_app(str(folder / "model"), device="cpu")
        try:
            address = launch_app(blocks)
            assert address.startswith("http://127.0.0.1:") and blocks.server_name == "127.0.0.1"
            assert blocks.share is False
        finally:
            blocks.close(verbose=False)
