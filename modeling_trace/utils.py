"""Small helpers that know nothing of models or texts: words for errors, and files that are written whole or not."""

import difflib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path


def nearest(name: str, names: Sequence[str], quote: str = "`") -> str:
    """The question after an unknown name: which known one may be meant. Empty where none is near."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    near = near or [known for known in names if len(name) > 2 and name in known]
    near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean {quote}{near[0]}{quote}?" if near else ""


def one_line(error: BaseException | str) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split())


def sentence(error: BaseException | str) -> str:
    """An error's text without line breaks, and with the full stop that others' errors may lack: a remedy follows."""
    text = one_line(error) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def atomic_write(path: str | os.PathLike, content: str) -> None:
    """
    Write a text file beside its place and then move it there, so that it is whole or not there; missing folders are
    made.

    Args:
        path (`str` or `os.PathLike`): the file; one of that name is replaced.
        content (`str`): what it holds, written in UTF-8.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # temporary files are made for their owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


__all__ = ["atomic_write", "nearest", "one_line"]
