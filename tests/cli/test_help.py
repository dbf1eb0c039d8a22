"""`--help`: at once, so without torch; what is short says what is true."""

import os
import subprocess
import sys

import pytest

import modeling_trace
from modeling_trace.cli import human, train_arguments, train_help
from modeling_trace.cli.main import COMMANDS, main
from modeling_trace.evaluation.human_study.sheets import CRITERIA, KEY_NAME
from modeling_trace.presets import PRESETS, SYSTEMS

SCRIPT = """
import sys
sys.argv[0] = "modeling-trace"
from modeling_trace.cli.main import COMMANDS, main
commands = [[name, "--help"] for name in COMMANDS]
for arguments in ([], ["--help"], ["--version"], ["human", "make", "--help"], *commands):
    assert main(arguments) == (0 if arguments else 2), arguments
    assert "torch" not in sys.modules, arguments
"""


def test_help_needs_no_torch():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in COMMANDS:
        assert f"modeling-trace {command}" in result.stdout


def test_the_package_registers_itself_where_a_script_imports_it(tmp_path):
    """`sys.argv[0]` is "-m" until `python -m` has imported the packages of its module."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("import modeling_trace")
    code = "import package; from transformers import AutoConfig; print(type(AutoConfig.for_model('trace')))"
    (tmp_path / "package" / "run.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "package.run"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "modeling_trace.models.configuration_trace.TraceConfig" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("name", "command", "is_command_line"),
    [
        ("run.py", ["python", "run.py"], False),
        ("-c", ["python", "-c", "import modeling_trace"], False),
        ("-m", ["python", "-m", "package.run"], False),
        ("-m", ["python", "-m", "modeling_trace.cli.main", "train"], True),
        ("/usr/bin/modeling-trace", ["python", "/usr/bin/modeling-trace", "train"], True),
    ],
)
def test_only_the_command_line_imports_the_package_later(name, command, is_command_line, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.setattr(sys, "orig_argv", command)
    assert modeling_trace._is_command_line() == is_command_line


def test_short_help_of_train_is_true():
    parser = train_arguments.make_parser()
    settings = {name: value for group in train_help.SETTINGS.values() for name, value in group.items()}
    assert len(settings) == 20
    for name, (default, _) in settings.items():
        assert name in parser.names and parser.get_default(name) == default, name
    for name, known in (("system", SYSTEMS), ("preset", PRESETS)):
        named = [key for key in known if "-LN" not in key and "+" not in key and key[-3:] not in ("-RP", "-SN")]
        assert all(key in settings[name][1] for key in named)


@pytest.mark.parametrize(("command", "setting"), [("train", "adam_beta1"), ("generate", "typical_p")])
def test_all_settings_are_behind_help_all(command, setting, capsys):
    assert main([command, "--help"]) == 0
    short = capsys.readouterr().out
    assert "--help all" in short and setting not in short
    assert main([command, "--help", "all"]) == 0
    assert f"--{setting}" in capsys.readouterr().out


def test_what_is_written_twice_is_the_same():
    assert human.CRITERIA == tuple(CRITERIA) and human.KEY_NAME == KEY_NAME
