"""SHA-256 of the files of a model or checkpoint, written beside them: a bit that flips on a disk is found."""

import hashlib
import os
from pathlib import Path

# As `sha256sum -c SHA256SUMS` reads it
CHECKSUMS_NAME = "SHA256SUMS"
# What a run reads back and nobody edits
BINARY_FILES = ("*.safetensors", "*.pt", "*.pth", "*.bin", "*.distcp")
WEIGHT_FILES = ("*.safetensors",)


def _files(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    found = [path for pattern in patterns for path in folder.rglob(pattern)]
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / CHECKSUMS_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    parts = [line.partition("  ") for line in lines]
    return {name: checksum for checksum, _, name in parts}


def write_checksums(folder: str | os.PathLike, patterns: tuple[str, ...] = BINARY_FILES) -> None:
    """
    Write SHA256SUMS. Files that it has already are not read again: call it for files that were just written.

    Args:
        folder (`str` or `os.PathLike`).
        patterns (`tuple[str, ...]`, *optional*): the files, in sub-folders too; by default all but texts and JSON.
    """
    folder = Path(folder)
    known = _read(folder)
    lines = [f"{known.get(name) or _sha256(path)}  {name}\n" for name, path in _files(folder, patterns).items()]
    if lines:
        (folder / CHECKSUMS_NAME).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder: str | os.PathLike, patterns: tuple[str, ...] = BINARY_FILES) -> None:
    """
    Compare the files of a folder with its SHA256SUMS; a folder without one, and files that it does not name, pass.

    Args:
        folder (`str` or `os.PathLike`).
        patterns (`tuple[str, ...]`, *optional*): the files to look at, as for [`write_checksums`].

    Raises:
        ValueError: if a file is not what was written, or is gone: without its optimizer.pt a training would go on as
            another one, in silence. Of a sub-folder that is gone (a checkpoint) nothing is missed.
    """
    folder = Path(folder)
    known = _read(folder)
    for name in known:
        path = folder / name
        if any(path.match(pattern) for pattern in patterns) and path.parent.is_dir() and not path.exists():
            raise ValueError(
                f"'{path}' is gone, which {CHECKSUMS_NAME} names. Copy the file again or use an earlier checkpoint; "
                f"if you deleted it on purpose, delete {CHECKSUMS_NAME}."
            )
    for name, path in _files(folder, patterns).items() if known else ():
        if name in known and _sha256(path) != known[name]:
            raise ValueError(
                f"'{path}' is damaged: its SHA-256 is not that of {CHECKSUMS_NAME}. Copy the file again or use an "
                f"earlier checkpoint; if you changed it on purpose, delete {CHECKSUMS_NAME}."
            )


__all__ = ["BINARY_FILES", "CHECKSUMS_NAME", "WEIGHT_FILES", "check_checksums", "write_checksums"]
