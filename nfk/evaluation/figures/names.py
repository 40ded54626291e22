"""What a representation is called in a figure."""

from __future__ import annotations

import re

_CALLED = (
    (r"nfk-(\d+)", r"NFK \1"),
    (r"pca-(\d+)", r"PCA of pixels \1"),
    (r"full-fisher-vector", "full Fisher vector"),
    (r"fisher-and-activations", "full Fisher vector, all activations"),
    (r"activations-all", "all activations"),
    (r"activations-all-pca-(\d+)", r"all activations, PCA \1"),
    (r"activations-(.+)", r"activations, \1"),
)


def called(feature: str) -> str:
    """The words for a feature's key in the metrics file: 'nfk-128' -> 'NFK 128'."""
    for pattern, words in _CALLED:
        if re.fullmatch(pattern, feature):
            return re.sub(pattern, words, feature)
    return feature.replace("-", " ")
