"""Reading a command line: one parser for flags and a YAML file, and the words of its errors."""

import dataclasses
import difflib
import os
import re
import types
from argparse import ArgumentDefaultsHelpFormatter, ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from transformers.hf_argparser import HfArgumentParser  # imports no torch, so that --help answers at once

from ..utils import nearest, one_line


def help_level(argv: Sequence[str]) -> str | None:
    """What of a command's help is asked for: "short" by `--help`, "all" by `--help all`, else None."""
    for place, argument in enumerate(argv):
        if argument in ("-h", "--help"):
            return "all" if list(argv[place + 1 : place + 2]) == ["all"] else "short"
    return None


def printable(text: str) -> str:
    """A text on one line; what a terminal might take for a command is shown as what it is: not text."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in one_line(text)) or "(empty)"


def _parse_mapping(text: str) -> dict:
    """A dict written as JSON or as inline YAML: `{model_type: gpt2, n_layer: 4}`."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"must be a mapping such as '{{n_layer: 4}}', got {text!r}.")
    return value


def read_yaml(path: str) -> dict[str, Any]:
    """
    Read a config file: one mapping of argument names to values.

    Raises:
        ValueError: if it is missing, no YAML, or no mapping.
    """
    if not os.path.isfile(path):
        folder, name = os.path.split(path)
        entries = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
        files = {os.path.splitext(file)[0]: file for file in entries if file.endswith((".yaml", ".yml"))}
        near = difflib.get_close_matches(os.path.splitext(name)[0], files, n=1)
        hint = f" Did you mean '{files[near[0]]}'?" if near else " Flags start with --, as in --backbone gpt2."
        raise ValueError(f"there is no config file '{path}'.{hint}")
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"'{path}' is no YAML{line}: {one_line(error.problem or error)}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # bytes, dates, depths that are none
        raise ValueError(f"'{path}' is no YAML: {one_line(error)}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"'{path}' must be a mapping, one `name: value` in each line, got a {type(values).__name__}.")
    return values


def flag(default: Any, text: str) -> Any:
    """A field of a dataclass of arguments: its default and its line in --help."""
    return dataclasses.field(default=default, metadata={"help": text})


class HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Shows a default after the help, unless it is None."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class CommandParser(HfArgumentParser):
    """
    `HfArgumentParser` for a YAML file with overrides: unknown names are errors that say the nearest right one, `none`
    is a value where the field takes None, and errors are raised rather than printed.

    Args:
        dataclass_types (`list[type]`): dataclasses whose fields become flags.
        instead (`dict[str, str]`): what to use in place of names that users may try.
        kwargs: as for `argparse.ArgumentParser`.
    """

    def __init__(self, dataclass_types, instead: dict[str, str] | None = None, **kwargs):
        super().__init__(dataclass_types, allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)
        self.instead = instead or {}
        self._kinds = {}  # name -> types that a value in a YAML file may have
        for dataclass_type in self.dataclass_types:
            for name, hint in get_type_hints(dataclass_type).items():
                is_union = get_origin(hint) in (Union, types.UnionType)
                kinds = get_args(hint) if is_union else (hint,)
                self._kinds[name] = {get_origin(kind) or kind for kind in kinds}
        for action in self._actions:
            kinds = self._kinds.get(action.dest, ())
            if dict in kinds and action.type is not str:  # a str field reads its JSON by itself
                action.type = _parse_mapping
            elif types.NoneType in kinds and action.type in (int, float):
                action.type = _or_none(action.type)

    @property
    def names(self) -> list[str]:
        """Every argument by its name in a YAML file."""
        return [action.dest for action in self._actions if action.option_strings and action.dest != "help"]

    def error(self, message: str) -> NoReturn:
        # "argument --max_length/--max-length: expected one argument"
        raise ValueError(re.sub(r"^argument (?:--)?(\w+)\S*: ", r"`\1`: ", message))

    def parse(self, argv: Sequence[str], values: dict[str, Any] | None = None, source: str = "") -> Namespace:
        """
        Parse flags, which override `values`, which override the defaults.

        Args:
            argv (`Sequence[str]`): the command line without the command.
            values (`dict[str, Any]`, *optional*): names and values as a YAML file holds them.
            source (`str`): where they come from, for errors.

        Raises:
            ValueError: for unknown names and for values of the wrong type.
            SystemExit: after the help was printed.
        """
        if help_level(argv):
            self.print_help()
            self.exit()
        for argument in argv:
            # a byte of the command line that is not UTF-8 becomes half of a surrogate pair, which no file can hold
            if any("\ud800" <= letter <= "\udfff" for letter in argument):
                shown = argument.encode("utf-8", "backslashreplace").decode()
                raise ValueError(f"'{shown}' holds characters that are not valid Unicode. Type it again, as UTF-8.")
        namespace = Namespace()
        if values:
            try:
                self._take_values(values, namespace)
            except ValueError as error:
                raise ValueError(f"in '{source}': {error}") from None
        namespace, rest = self.parse_known_args(list(argv), namespace)
        if rest:
            name = rest[0].split("=")[0]
            if not name.startswith("--"):
                raise ValueError(f"unexpected argument '{rest[0]}'.")
            hint = self._hint(name[2:].replace("-", "_"), self.names)
            raise ValueError(f"there is no flag `{name}`.{hint.replace('`', '`--', 1)}")
        return namespace

    def _take_values(self, values: dict[str, Any], namespace: Namespace) -> None:
        """Put the values of a YAML file into the namespace, converted and checked as if they were flags."""
        flags = []
        for name, value in values.items():
            if name not in self.names:
                raise ValueError(f"there is no argument `{name}`.{self._hint(str(name), self.names)}")
            if value is None or isinstance(value, (dict, list)):
                if type(value) not in self._kinds[name]:
                    got = "nothing" if value is None else f"a {type(value).__name__}"
                    raise ValueError(f"`{name}` must be one value, got {got}. Leave it out to use the default.")
                setattr(namespace, name, value)
            elif isinstance(value, bool):
                # YAML reads `eval_strategy: no` as false; as a flag, "no" is good for booleans too
                flags.append(f"--{name}={'yes' if value else 'no'}")
            else:
                flags.append(f"--{name}={value}")
        self.parse_known_args(flags, namespace)

    def _hint(self, name: str, names: Sequence[str]) -> str:
        return f" Use `{self.instead[name]}`." if name in self.instead else nearest(name, names)


def _or_none(convert):
    def convert_or_none(text: str):
        return None if text.lower() in ("none", "null") else convert(text)

    convert_or_none.__name__ = convert.__name__  # argparse names it in its errors
    return convert_or_none


def argument_values(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass instance and their values, not copied."""
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}


__all__ = [
    "CommandParser",
    "HelpFormatter",
    "argument_values",
    "flag",
    "help_level",
    "printable",
    "read_yaml",
]
