"""Which files are the source's own train part, and which its test part, by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nfk.data.image_set import DataError

_PART = re.compile(r"(?<![a-z])(train|test|t10k)")


class Parts(NamedTuple):
    """Files in reading order. `test` is empty where the source makes no such division."""

    train: tuple[Path, ...]
    test: tuple[Path, ...]


def official_parts(files: Sequence[Path]) -> Parts:
    """Divide `files` by the words train, test or t10k in their names, each part in order of name.

    Files of one part only, or with no such word in any name, are one undivided set.
    """
    files = sorted(files, key=lambda file: file.name)
    words = [set(_PART.findall(file.name.lower())) for file in files]
    train = tuple(file for file, found in zip(files, words, strict=True) if found == {"train"})
    test = tuple(file for file, found in zip(files, words, strict=True) if found in ({"test"}, {"t10k"}))
    if (not train and not test) or len(files) in (len(train), len(test)):
        return Parts(train=tuple(files), test=())
    for file in files:
        if file not in train and file not in test:
            raise DataError(f"{file}: its name says neither train nor test, as those beside it do; "
                            "rename it (train-*, test-*) or move it to another folder")
    return Parts(train, test)
