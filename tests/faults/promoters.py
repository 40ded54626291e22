"""Processes that promote versions of one embedder at the same moment, against a real MLflow server on SQLite."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nfk import registry
from nfk.params import TrackingParams
from tests.faults.servers import mlflow_server

_APART = 0.3
"""seconds at most between their beginnings: about as long as one takes"""
_SECONDS = 280.0


class Said(NamedTuple):
    """Of one promotion in one round."""

    place: int
    version: int
    words: str
    """empty where it promoted"""
    began: float
    ended: float


class Round(NamedTuple):
    why: str | None
    """it was lost"""
    met: bool
    """two promotions ran at the same moment"""


def crowned(client: Any, pair: registry.entries.Names, values: Iterable[float]) -> None:
    """A version of the pair for each value of the gate's metric, the first of them the champion."""
    for name in pair:
        client.create_registered_model(name)
    for value in values:
        tags = {"gate.metric": "accuracy", "gate.value": repr(value)}
        made = client.create_model_version(pair.embedder, source="s3://none/none", tags=tags)
        client.create_model_version(pair.embeddings, source="s3://none/none",
                                    tags={**tags, "nfk.embedder_version": made.version})
    registry.promote(client, f"{pair.embedder}/1")


def _promotes(version: int, uri: str, rounds: int, start: Any, answers: Any) -> None:
    draw = random.Random(version)
    with registry.connect(TrackingParams(uri=uri)) as client:
        for place in range(rounds):
            start.wait(_SECONDS)
            time.sleep(draw.uniform(0, _APART))
            words, began = "", time.monotonic()
            try:
                registry.promote(client, f"{_names(place).embedder}/{version}")
            except registry.NotGoodEnough as verdict:
                words = str(verdict)
            except Exception as error:  # MLflow's too, which `connect` would tell and end the rounds with
                words = f"failed: {type(error).__name__}: {error}"
            answers.put(Said(place, version, words, began, time.monotonic()))


def _names(place: int) -> registry.entries.Names:
    return registry.names(f"round{place}")


def _values(place: int, count: int) -> dict[int, float]:
    """The gate's metric of each version: the first is the champion, the others are better and no two are alike."""
    better = [0.91 + 0.01 * number for number in range(count)]
    random.Random(place).shuffle(better)
    return {1: 0.9, **dict(enumerate(better, 2))}


def promoters(count: int, rounds: int, *, bare: bool = False) -> list[Round]:
    """`count` processes promote, each its own version; in each round of another pair, whose champion is worse than all.
    bare: of the server, as `mlflow_server` has it."""
    context = multiprocessing.get_context("spawn")
    with (tempfile.TemporaryDirectory(prefix="nfk-promoters-") as folder,
          mlflow_server(Path(folder), bare=bare) as server):
        uri = f"http://127.0.0.1:{server.port}"
        with registry.connect(TrackingParams(uri=uri)) as client:
            for place in range(rounds):
                crowned(client, _names(place), _values(place, count).values())
            start, answers = context.Barrier(count), context.Queue()
            processes = [context.Process(target=_promotes, args=(version, uri, rounds, start, answers))
                         for version in range(2, count + 2)]
            for process in processes:
                process.start()
            try:
                said: list[list[Said]] = [[] for _ in range(rounds)]
                for _ in range(count * rounds):
                    answer = answers.get(timeout=_SECONDS)
                    said[answer.place].append(answer)
            finally:
                for process in processes:
                    process.join(10)
                    process.kill()
            return [Round(_wrong(client, place, _values(place, count), said[place]), _met(said[place]))
                    for place in range(rounds)]


def _wrong(client: Any, place: int, values: Mapping[int, float], said: list[Said]) -> str | None:
    """None where the best is champion of both, and who was refused was worse and was told so in one line."""
    best = max(values, key=lambda version: values[version])
    champions = {entry.name: entry.version for name in _names(place) for entry in registry.entries(client, name)
                 if registry.CHAMPION in entry.aliases}
    if champions != {name: str(best) for name in _names(place)}:
        return f"the champions are {champions}, not {best}: {said}"
    if bad := [each for each in said if each.words and (
            "\n" in each.words or each.words.startswith("failed") or each.version == best)]:
        return f"refused otherwise: {bad}"
    return None


def _met(said: list[Said]) -> bool:
    ordered = sorted(said, key=lambda each: each.began)
    return any(later.began < earlier.ended for earlier, later in itertools.pairwise(ordered))
