"""What mkdocs cannot do by itself: links to files that are not on the site, and the commands' own help."""

import contextlib
import io
import posixpath
import re

LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
HELP = "<!-- help of every command -->"


def on_page_markdown(markdown: str, page, config, files) -> str:
    """A link out of docs/ becomes the name of the file, since the site has no such page."""
    folder = posixpath.dirname(page.file.src_uri)

    def leave(match: re.Match) -> str:
        text, path = match[1], match[2]
        target = posixpath.normpath(posixpath.join(folder, path))
        if not target.startswith("../"):
            return match[0]
        name = target.removeprefix("../")
        return f"`{name}`" if text.strip("`/") in name else f"{text} (`{name}`)"

    return LINK.sub(leave, markdown).replace(HELP, _helps() if HELP in markdown else "")


def _helps() -> str:
    from modeling_trace.cli.main import COMMANDS, main

    parts = []
    for name in COMMANDS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([name, "--help"])
        parts.append(f"## {name}\n\n```text\n{printed.getvalue().strip()}\n```\n")
    return "\n".join(parts)
