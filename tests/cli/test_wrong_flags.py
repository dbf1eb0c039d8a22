"""Every flag of every command with values of no type it has, and YAML of any shape: one line, exit code 2."""

import string

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from modeling_trace.cli.main import COMMANDS, main
from modeling_trace.cli.parser import CommandParser
from modeling_trace.cli.train_arguments import make_segmenter, parse_arguments, to_dataclasses

PARSED = [*(name for name in COMMANDS if name not in ("human", "env")), "human make", "human read"]
WRONG = ["", "x", "-1", "1e999", "nan", "[1, 2", "{a: 1}", "💥", "a" * 300, "99999999999999999999", "../x", "\x1b[2J"]
FUZZ = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Parsed(BaseException):
    """Raised in place of the work, with the parser and what it made of the flags."""


@pytest.fixture(scope="module")
def parsers():
    """The parser of each command."""
    found = {}

    def grab(self, *_, **__):
        raise Parsed(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommandParser, "parse", grab)
        for command in PARSED:
            with pytest.raises(Parsed) as caught:
                main(command.split())
            found[command] = caught.value.args[0]
    return found


def assert_one_line(code: int, capsys, what) -> None:
    out, err = capsys.readouterr()
    assert code == 2 and out == "", what
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, (what, err)


def refused(arguments: list[str], capsys) -> bool:
    """Whether parsing refuses them, by one line and exit code 2; a traceback fails the test."""
    capsys.readouterr()
    try:
        code = main(arguments)
    except Parsed:
        return False
    assert_one_line(code, capsys, arguments)
    return True


@pytest.mark.parametrize("command", PARSED)
def test_wrong_values_of_every_flag(command, parsers, capsys):
    parser = parsers[command]
    typed = {action.dest for action in parser._actions if action.type in (int, float)}
    for number, name in enumerate(sorted(parser.names)):
        for value in ("x", WRONG[number % len(WRONG)]):
            try:
                parser.parse([f"--{name}={value}"])
            except ValueError as error:  # what main() writes as one line; all else it would not catch
                assert str(error) and "\n" not in str(error), (name, value)
            else:
                assert name not in typed or value not in ("", "x")
    assert refused([*command.split(), f"--{parser.names[0]}_"], capsys)


def train_arguments_of(arguments: list[str]) -> None:
    """All that `train` does with its arguments before it looks for a file or a model."""
    data, model_settings, _ = to_dataclasses(parse_arguments(arguments))
    make_segmenter(data, model_settings)


@pytest.fixture
def parsing_train(monkeypatch):
    """`train` that stops when its arguments are read."""

    def run(arguments):
        train_arguments_of(arguments)
        raise Parsed

    monkeypatch.setattr("modeling_trace.cli.train.run", run)


def test_wrong_values_of_every_training_argument(parsers, parsing_train, capsys, tmp_path):
    """Past the types of flags, into Transformers' own checks."""
    start = ["train", "--use_cpu", "true", "--output_dir", str(tmp_path / "out")]
    names = sorted(parsers["train"].names)[::9]  # each makes the parser anew: a ninth of them, always the same
    wrong = [name for name in names if refused([*start, f"--{name}=-1.5x"], capsys)]
    assert len(wrong) > len(names) / 2


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=6,
)
KNOWN = st.sampled_from(
    "preset system recipe backbone_config lora_r lora_target_modules validation_split max_texts learning_rate "
    "latent_size latent_layer segmenter segment_pattern segment_length conditional output_dir max_steps "
    "lr_scheduler_kwargs fsdp_config kl_schedule eval_strategy logging_steps optim report_to".split()
)


@FUZZ
@given(values=st.dictionaries(KNOWN | SCALARS, VALUES, max_size=4) | VALUES)
def test_any_yaml(values, parsing_train, capsys, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    refused(["train", str(tmp_path / "config.yaml"), "--use_cpu", "true"], capsys)


@FUZZ
@given(content=st.binary(max_size=60) | st.text(string.printable, max_size=60).map(str.encode))
@example(content=b"")
@example(content=b"\xff\xfe\x00")
@example(content=b"1: 2\n3: 4\n")
@example(content=b"? [a, b]\n: c\n")
@example(content=b"a: &a [*a]\n")
@example(content=b"preset: &p [1, *p]\n")
@example(content=b"a: &a {b: 1}\n<<: *a\n")
@example(content=b"<<: 3\n")
@example(content=b"- a\n- b\n")
@example(content=b"learning_rate: 2020-01-01\n")
@example(content=b"learning_rate: !!binary aGVsbG8=\n")
@example(content=b"learning_rate: !!python/object/apply:os.system [id]\n")
@example(content=b"system: [trace]\n")
@example(content=b"preset: {}\n")
@example(content=b"recipe: 5\n")
@example(content=b"learning_rate: 1e-3\n---\nlearning_rate: 2\n")
@example(content=b"[" * 3000)
@example(content=b"seed: 2020-13-45\n")
@example(content=b'output_dir: "a\\0b"\n')
@example(content=b'output_dir: "\\ud800"\n')
def test_any_bytes_as_yaml(content, parsing_train, capsys, tmp_path):
    (tmp_path / "config.yaml").write_bytes(content)
    refused(["train", str(tmp_path / "config.yaml"), "--use_cpu", "true"], capsys)
