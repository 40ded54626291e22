"""The name of a source's exact bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path


def digest(files: Sequence[Path], folder: Path | None = None) -> str:
    """SHA-256, in hex, of the files' listing: for each, in the order given, its own SHA-256 and its name.

    It is what `sha256sum FILES | sha256sum` prints in the files' folder. The names are part of it because
    they say which part is train and which is test; with `folder` they are paths from there, which say the classes.
    Reads every file once.
    """
    listing = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            name = file.name if folder is None else file.relative_to(folder).as_posix()
            listing.update(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {name}\n".encode())
    return listing.hexdigest()
