"""A network on disk: weights.safetensors and card.json, which says what they are and holds their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from nfk import durable
from nfk.family_params import AnyFamily, CustomParams
from nfk.models.custom import Custom, source_digest
from nfk.models.families import MODELS, Model
from nfk.one_line import OneLine
from nfk.training import Trained

WEIGHTS = "weights.safetensors"
CARD = "card.json"


class ModelError(OneLine):
    """A folder does not hold a network this program can use; the message is one line."""


def save(network: Model | Trained, folder: Path, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write the network, its metrics and its checks to `folder`; return the card.

    The card has the network's `architecture` (what makes it again), the weights' SHA-256, metrics and checks
    (empty for a bare network), and the entries of `extra`. It is written last: a folder whose writing broke
    off has no card, or one of other weights, and `load` refuses both.
    """
    trained = network if isinstance(network, Trained) else Trained(network, {}, {}, [])
    extra = extra or {}
    named = flatten(trained.model.variables)
    weights = safetensors.numpy.save({name: np.asarray(leaf) for name, leaf in named.items()})
    card = {
        **trained.model.architecture,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "metrics": trained.metrics,
        "checks": [vars(check) for check in trained.checks],
    }
    if taken := sorted(card.keys() & extra.keys()):
        raise ModelError(f"extra entries {', '.join(taken)} would overwrite the card's own; rename them")
    durable.make_folders(folder)
    durable.remove(folder / CARD)
    durable.write_whole(folder / WEIGHTS, weights)
    text = json.dumps(card | extra, indent=2, allow_nan=False) + "\n"
    durable.write_whole(folder / CARD, text.encode())
    return card | extra


def load(folder: Path, code: Collection[str] = ()) -> Model:
    """Read the network that `save` wrote. ModelError where a file is missing, unknown or not as saved.

    `code`: the "module:function" that a card may name, by who vouches for them, which is never the card: importing is
    running. ModelError, and nothing imported, for another.
    """
    card = read_card(folder)
    if ":" in card["model"] and card["model"] not in code:
        raise ModelError(f"{folder / CARD}: names the code {card['model']}, which to load is to run; name it as a "
                         "family's model in params.yaml if it is yours, or take the registered embedder")
    path = folder / WEIGHTS
    try:
        weights = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; run the pretrain stage again") from None
    if (digest := hashlib.sha256(weights).hexdigest()) != card["sha256"]:
        raise ModelError(f"{path}: SHA-256 {digest} is not {card['sha256']}, the one on {CARD}; "
                         "the weights were changed or cut short, run the pretrain stage again")
    try:
        named = safetensors.numpy.load(weights)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:  # KeyError: of a dtype that NumPy has not
        raise ModelError(f"{path}: not safetensors ({error}); run the pretrain stage again") from None
    return _assemble(card, named, path)


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a saved network. ModelError where it is missing, unreadable or of an unknown model."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; run the pretrain stage to make the network") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({error}); run the pretrain stage again") from None
    required = ("model", "config", "image_shape", "classes", "parameters", "sha256")
    if not isinstance(card, dict) or (missing := [key for key in required if key not in card]):
        absent = ", ".join(missing) if isinstance(card, dict) else "all entries"
        raise ModelError(f"{path}: {absent} missing; run the pretrain stage again")
    shape = card["image_shape"]
    right = {"model": isinstance(card["model"], str), "config": isinstance(card["config"], dict),
             "image_shape": isinstance(shape, list) and [type(extent) for extent in shape] == [int] * 3
             and min(shape) > 0,
             "classes": type(card["classes"]) is int, "sha256": isinstance(card["sha256"], str)}
    if wrong := [key for key, is_right in right.items() if not is_right]:
        raise ModelError(f"{path}: {wrong[0]}={card[wrong[0]]!r} is not what the pretrain stage writes; run it again")
    if card["model"] not in MODELS and ":" not in card["model"]:
        raise ModelError(f"{path}: unknown model {card['model']!r}; known: {', '.join(MODELS)}")
    return card


def flatten(variables: Any) -> dict[str, Any]:
    """The arrays of a tree by path, 'collection/module/.../name'."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _assemble(card: dict[str, Any], named: dict[str, np.ndarray], path: Path) -> Model:
    try:
        # JSON mode: strict types, as params.yaml is read
        config = TypeAdapter(AnyFamily).validate_json(json.dumps(card["config"] | {"model": card["model"]}))
    except ValidationError as error:
        fault = error.errors()[0]
        raise ModelError(f"{path.parent / CARD}: config.{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}; "
                         "run the pretrain stage again") from None
    shape, classes = tuple(card["image_shape"]), card["classes"]
    if isinstance(config, CustomParams):
        if source_digest(config.model) != card.get("source"):
            raise ModelError(f"{path.parent}: the file of {config.model} is not the one this network was made with; "
                             "run the pretrain stage again (`nfk repro` does), or bring the file back")
        custom = Custom.initial(config, shape, classes)
        return custom.with_variables(_arranged(custom.variables, named, card, path))
    kind = MODELS[card["model"]]
    try:
        expected = jax.eval_shape(
            lambda key: kind.initial(config, shape, classes, key).variables, jax.random.key(0))
    except Exception as error:  # sizes that go into no layer are refused by whichever library meets them first
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path.parent / CARD}: makes no network for images of shape {shape} ({reason}); run the "
                         "pretrain stage again") from error
    return kind(config, shape, classes, _arranged(expected, named, card, path))


def _arranged(expected: Any, named: dict[str, np.ndarray], card: dict[str, Any], path: Path) -> Any:
    """The arrays of the file in a tree shaped as `expected`; ModelError where they do not go together."""
    shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in flatten(expected).items()}
    if unlike := sorted(name for name in shapes.keys() | named.keys()
                        if name not in shapes or name not in named
                        or (named[name].shape, named[name].dtype) != shapes[name]):
        raise ModelError(f"{path}: array {unlike[0]} (one of {len(unlike)} such) is not what {card['model']} "
                         f"has by {CARD}; run the pretrain stage again")
    return jax.tree_util.tree_map_with_path(lambda at, _: jnp.asarray(named[_name(at)]), expected)
