"""The stages in one process, at a size at which a run takes some hundredths of a second.

Networks are compiled once (the product would at each start), the spectrum's picture is an empty one, and the code's
digest is computed once. All that reaches a disk is the product's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np

from nfk import params, store
from nfk.params import Params
from nfk.stages import data, embed, network, pretrain, statistics, svd, workspace

FAMILY = "mlp"
STAGES = ("data", "statistics", "svd", "embed")
_CLASSES, _EACH, _SIDE = ("even", "odd"), 16, 8
STORES = {"data": Path("data/tiny.zarr"), "statistics": Path(f"statistics/{FAMILY}.zarr"),
          "svd": Path(f"factors/{FAMILY}.zarr"), "embed": Path(f"embeddings/{FAMILY}.zarr")}


def settings(**sections: dict) -> Params:
    return params.parse({
        "seed": 0, "data": {"name": "tiny", "source": "source", "train": 16, "validation": 8, "test": 8},
        "families": {FAMILY: {"model": "mlp", "hidden": 2, "epochs": 1, "batch": 4}},
        "statistics": {"model_samples": 16, "block": 4},
        "svd": {"rank": 2, "oversampling": 1, "passes": 2, "tolerance": 1e-6, "accept_unconverged": True,
                "strategy": "stream", "block": 4},
        "embed": {"block": 4}, "evaluate": {"labels": [8], "neighbours": [1], "ranks": [2]}, **sections})


def images(folder: Path = Path("source"), seed: int = 0) -> None:
    """A folder of small pictures, a folder a class."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for name in _CLASSES:
        (folder / name).mkdir(parents=True)
        for row in range(_EACH):
            pixels = rng.integers(0, 256, (_SIDE, _SIDE)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{row:02}.png")


def run(stage: str, chosen: Params) -> None:
    if stage == "data":
        data.run(chosen)
    else:
        {"pretrain": pretrain, "statistics": statistics, "svd": svd, "embed": embed}[stage].run(chosen, FAMILY)


def found(stage: str) -> str | None:
    """The digest of the stage's store, every byte held against it; None where there is none, or it says it is
    unfinished."""
    try:
        return store.read(STORES[stage]).digest
    except store.StoreError as error:
        if "no such store" in str(error) or "unfinished" in str(error):
            return None
        raise


class Blocks:
    """Counts the blocks that the stages compute, by their own reports."""

    def __init__(self) -> None:
        self.done = 0

    @contextmanager
    def counted(self, *_: object, **__: object) -> Iterator[Callable[..., None]]:
        def report(*_: object) -> None:
            self.done += 1

        yield report


@contextmanager
def warm() -> Iterator[Blocks]:
    """Stages that compile once and save after every block."""
    from matplotlib.figure import Figure

    blocks, load, networks = Blocks(), network.load, {}

    def loaded(chosen: Params, family: str) -> network.Network:
        card = network.checkpoint.read_card(workspace.model_folder(family))
        key = network.digest(card)
        if key not in networks:
            networks[key] = load(chosen, family)
        return networks[key]

    with ExitStack() as stack:
        for module in (data, statistics, svd, embed):
            stack.enter_context(patch.object(module, "progress", blocks.counted))
        stack.enter_context(patch.object(network, "load", loaded))
        stack.enter_context(patch.object(network, "told", lambda *_, **__: None))
        stack.enter_context(patch.object(svd, "told", lambda *_, **__: None))
        stack.enter_context(patch.object(svd, "singular_values", lambda *_: Figure((0.1, 0.1))))
        stack.enter_context(patch.object(workspace, "SAVE_SECONDS", -1.0))
        for name in ("_code_digest", "_versions"):
            stack.enter_context(patch.object(workspace, name, functools.cache(getattr(workspace, name))))
        yield blocks


def left_overs() -> list[str]:
    """What an ended run must not leave: half files, scratch."""
    return sorted(str(path) for path in Path().rglob("*")
                  if path.name.endswith(".partial") or (path.parent == Path(".nfk/scratch")))
