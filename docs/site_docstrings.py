"""
Docstrings as the reference shows them. They are in Hugging Face's style, where [`Name`] is a link to a class or a
function; here it becomes one where the reference has that name, and its name otherwise.
"""

import re
from pathlib import Path

import griffe

# `name (`str`, *optional*, defaults to `"x"`): words`
ARGUMENT = re.compile(r"^( +\**\w[\w, *]*) \((`.*?)\):", re.M)
REFERENCE = re.compile(r"\[(`~?([\w.]+)`)\](?![\[(])")
PAGES = Path(__file__).parent / "reference"


def documented() -> dict[str, str]:
    """Path of everything that a page of the reference shows, by its last name."""
    paths = re.findall(r"^::: ([\w.]+)", "".join(page.read_text() for page in sorted(PAGES.glob("*.md"))), re.M)
    return {path.rpartition(".")[2]: path for path in paths}


class Links(griffe.Extension):
    """[`Name`] and [`~Name.method`] as links."""

    def __init__(self) -> None:
        self.paths = documented()

    def on_instance(self, *, node, obj, **kwargs) -> None:
        if obj.docstring is not None:
            text = ARGUMENT.sub(_argument, obj.docstring.value)
            obj.docstring.value = REFERENCE.sub(self._link, text)

    def _link(self, match: re.Match) -> str:
        name, _, member = match[2].partition(".")
        path = ".".join(filter(None, (self.paths.get(name, name), member)))
        return f'<autoref optional identifier="{path}"><code>{match[2]}</code></autoref>'


def _argument(match: re.Match) -> str:
    """The type without Markdown, for it is shown as code; what is not in a signature's own default, in words."""
    types, _, default = match[2].partition(", defaults to ")
    types = types.replace(", *optional*", "").replace("`", "")
    words = f" (Default: {default}.)" if default else ""
    return f"{match[1]} ({types}):{words}"
