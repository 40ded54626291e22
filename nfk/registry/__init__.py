"""The registry: embedders and embeddings as MLflow model versions, each leading back to data, weights and code.

A family F has two registered models, `nfk-F-embedder` (a models-from-code pyfunc that `mlflow models serve` serves)
and `nfk-F-embeddings` (the vectors of the data set), whose versions are made in pairs. `candidate` is the newest pair,
`champion` the one in use; a candidate becomes champion only through the gate, and a champion goes back to the one
before it by a rollback.
"""

from __future__ import annotations

from nfk.registry.client import NotGoodEnough, RegistryError, connect
from nfk.registry.entries import CANDIDATE, CHAMPION, Entry, entries, find, names, resolve
from nfk.registry.promotion import promote, rollback

__all__ = ["CANDIDATE", "CHAMPION", "Entry", "NotGoodEnough", "RegistryError", "connect", "entries", "find", "names",
           "promote", "resolve", "rollback"]
