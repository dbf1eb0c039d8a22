"""Files of a processor or model that others made: they read nothing outside, import nothing, hang nothing."""

import json
import re
import sys
import time

import pytest
from helpers.tiny import tiny_model
from helpers.tokenizers import byte_level, punkt

from modeling_trace import TraceConfig, TraceForConditionalGeneration
from modeling_trace.data import RegexSegmenter, SentenceSegmenter, TraceProcessor, segmenters


def rewrite(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# regular expressions


def test_a_pattern_that_backtracks_without_end_is_one_line(monkeypatch):
    monkeypatch.setattr(segmenters, "MATCH_SECONDS", 0.05)
    processor = TraceProcessor(byte_level(), RegexSegmenter(r"(a|a)*$"), separator="token")
    start = time.process_time()
    with pytest.raises(ValueError, match="gives up, in row 1: 'aaaa.*another segmenter") as error:
        processor(["fine", "a" * 40 + "b"])
    assert "\n" not in str(error.value)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("(?:(?:a{1000}){1000}){1000}", "multiply to at most 1000"),  # takes gigabytes to compile
        ("a{99999999999999}", "multiply to at most 1000"),
        (r"\\{1000}\\{2}", "multiply to at most 1000"),
        ("(" * 300 + ")" * 300 + "+", "is not a regular expression|matches the empty string"),
        ("(" * 5000, "at most 1000 characters, got 5000"),
        ("(?:foo){e<=1}", r"Write \\\{ for a brace"),
        (r"\pL", "is not a regular expression"),
        ("(?R)", "is not a regular expression"),
    ],
)
def test_patterns_that_no_one_needs_are_refused_at_once(pattern, message):
    with pytest.raises(ValueError, match=message) as error:
        RegexSegmenter(pattern)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1500


@pytest.mark.parametrize(
    "pattern",
    [
        r"\n+",
        r"\n{2,}",
        r"(?<=[.!?])\s+",
        r"(?i)CHAPTER \d{1,3}",
        r"(?m)^",
        r"\}|\{",
        r"\N{BULLET}\s*",
        r"[^\W\d_]{2}",
    ],
)
def test_patterns_match_as_in_re(pattern):
    text = "One {two}. Three!\n\nChapter 12\n• four ÄÖ — 五六 "
    ends = [match.end() for match in RegexSegmenter(pattern)._matches(text)]
    assert ends == [match.end() for match in re.finditer(pattern, text)] and ends


# a processor's file


@pytest.mark.parametrize("language", ["../secret", "/etc", "english/../..", "", "en glish", 5, None, "english\n"])
def test_a_language_does_not_lead_out_of_the_data_of_nltk(language):
    with pytest.raises(ValueError, match="`language` must be the name of a language") as error:
        SentenceSegmenter(language=language)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"abbrev_types": 5}, {"ortho_context": {"x": "a"}}, {"collocations": [1]}, {1: 2}])
def test_damaged_punkt_parameters_are_one_line(change):
    with pytest.raises(ValueError, match="`punkt` must hold the fields .*segmenter.fit"):
        SentenceSegmenter(punkt=punkt() | change)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole model and its processor."""
    folder = tmp_path_factory.mktemp("downloaded") / "model"
    TraceProcessor(byte_level(), RegexSegmenter(r"\n+"), separator="token").save_pretrained(folder)
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture
def kept(folder):
    """The folder, as it was before when the test is over."""
    files = {name: (folder / name).read_text() for name in ("config.json", "processor_config.json")}
    yield folder
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", '"x"', "{}", "[" * 100_000, '{"segmenter": 3}'])
def test_any_content_of_processor_config_is_one_line(kept, content):
    (kept / "processor_config.json").write_text(content)
    with pytest.raises(ValueError) as error:
        TraceProcessor.from_pretrained(kept)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"segmenter": {"type": "os.path"}},
        {"segmenter": {"type": ["regex"], "pattern": "x"}},
        {"segmenter": {"type": "regex", "pattern": "x", "cut": "os.system"}},
        {"segmenter": {"type": "fixed_length", "length": "../x"}},
        {"separator": ["token"]},
        {"separator": "../x"},
    ],
)
def test_processors_of_no_kind_are_one_line(kept, values):
    rewrite(kept / "processor_config.json", **values)
    with pytest.raises(ValueError) as error:
        TraceProcessor.from_pretrained(kept)
    assert "\n" not in str(error.value)


# a model's file

EVIL = "raise SystemExit('code of a stranger')"
NAMES = [
    "evil_module.Walk",
    "../evil_module.Walk",
    "/tmp/evil_module.Walk",
    "os.path.Walk",
    "evil module.W",
    "x\ny.Z",
    5,
]


@pytest.mark.parametrize("name", NAMES)
def test_latent_dynamics_class_imports_nothing(kept, name, monkeypatch):
    (kept / "evil_module.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(kept))
    monkeypatch.chdir(kept)
    rewrite(kept / "config.json", latent_dynamics="walk", latent_dynamics_class=name)
    with pytest.raises(ValueError, match="which is not imported|must be a module and a class") as error:
        TraceForConditionalGeneration.from_pretrained(kept)
    assert "\n" not in str(error.value) and "evil_module" not in sys.modules


OUTSIDE = {
    "auto_map": {"AutoConfig": "../evil_module.Walk", "AutoModelForCausalLM": "evil--evil_module.Walk"},
    "trust_remote_code": True,
    "name_or_path": "../secret",
    "_name_or_path": "../secret",
    "tokenizer_class": "../evil_module.Walk",
    "custom_pipelines": {"evil": {"impl": "evil_module.Walk"}},
}
opened: list[str] | None = None


def _note(event, arguments):
    if opened is not None and event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.append(str(arguments[0]))


@pytest.mark.parametrize("field", OUTSIDE)
def test_no_field_of_a_config_leads_out_of_the_folder(kept, field, monkeypatch):
    if opened is None:
        sys.addaudithook(_note)
    secret = kept.parent / "secret"
    secret.mkdir(exist_ok=True)
    for place in (kept, kept.parent):
        (place / "evil_module.py").write_text(EVIL)
    for name in ("config.json", "processor_config.json", "tokenizer.json", "model.safetensors"):
        (secret / name).write_text("secret")
    monkeypatch.chdir(kept)
    for file in ("config.json", "processor_config.json"):
        rewrite(kept / file, **{field: OUTSIDE[field]})
    monkeypatch.setitem(globals(), "opened", [])
    TraceForConditionalGeneration.from_pretrained(kept)
    TraceProcessor.from_pretrained(kept)
    assert any("config.json" in file for file in opened)
    assert not [file for file in opened if "secret" in file or "evil" in file] and "evil_module" not in sys.modules


WRONG = {
    "dtype": "os.system",
    "backbone_config": {"model_type": ["gpt2"]},
    "quantization_config": 3,
    "id2label": [1],
    "num_labels": "x",
    "layer_types": 3,
    "latent_size": "4",
    "separator": [],
    "latent_layer": {},
    "eos_token_id": {},
}


@pytest.mark.parametrize("field", WRONG)
def test_values_of_a_wrong_type_in_config_are_one_line(kept, field):
    rewrite(kept / "config.json", **{field: WRONG[field]})
    with pytest.raises(ValueError) as error:
        TraceConfig.from_pretrained(kept)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change", [{"latent_size": 8}, {"backbone": {"n_embd": 64}}, {"backbone": {"vocab_size": 80}}]
)
def test_a_config_that_contradicts_the_weights_is_one_line_and_nothing_is_lost(kept, change):
    config = json.loads((kept / "config.json").read_text())
    change = {"backbone_config": config["backbone_config"] | change["backbone"]} if "backbone" in change else change
    weights = (kept / "model.safetensors").read_bytes()
    rewrite(kept / "config.json", **change)
    with pytest.raises(ValueError, match="model' have other sizes than its config.json says") as error:
        TraceForConditionalGeneration.from_pretrained(kept)
    assert "\n" not in str(error.value) and (kept / "model.safetensors").read_bytes() == weights
    rewrite(kept / "config.json", **config)  # as it was: the model is there again
    assert TraceForConditionalGeneration.from_pretrained(kept).config.latent_size == 4
