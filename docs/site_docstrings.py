"""
Docstrings as the reference shows them. They are in Hugging Face's style, where [`Name`] is a link to a class or a
function; here it becomes one where the reference has that name, and its name otherwise. Types have code marks
there, as in (`str`, *optional*), which the site would print: it marks types by itself.
"""

import re
from pathlib import Path

import griffe

REFERENCE = re.compile(r"\[(`~?([\w.]+)`)\](?![\[(])")
TYPE = re.compile(r"^( +[\w*, ]+ )\((`.*?)\):", re.MULTILINE)
PAGES = Path(__file__).parent / "reference"


def documented() -> dict[str, str]:
    """Path of everything that a page of the reference shows, by its last name."""
    paths = re.findall(r"^::: ([\w.]+)", "".join(page.read_text() for page in sorted(PAGES.glob("*.md"))), re.M)
    return {path.rpartition(".")[2]: path for path in paths}


class Links(griffe.Extension):
    """[`Name`] and [`~Name.method`] as links, types without marks."""

    def __init__(self) -> None:
        self.paths = documented()

    def on_instance(self, *, node, obj, **kwargs) -> None:
        if obj.docstring is not None:
            text = TYPE.sub(lambda match: self._type(match, obj.is_function), obj.docstring.value)
            obj.docstring.value = REFERENCE.sub(self._link, text)

    def _type(self, match: re.Match, has_defaults: bool) -> str:
        """A function's defaults are shown from its signature; those of a class may stand in its docstring alone."""
        words = re.sub(r",? \*optional\*.*$", "", match[2]) if has_defaults else match[2]
        return f"{match[1]}({re.sub('[`*]', '', words)}):"

    def _link(self, match: re.Match) -> str:
        name, _, member = match[2].partition(".")
        path = ".".join(filter(None, (self.paths.get(name, name), member)))
        return f'<autoref optional identifier="{path}"><code>{match[2]}</code></autoref>'
