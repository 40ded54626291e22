"""A user's own network in the pipeline, made by a function of theirs: see `nfk.models.protocol`."""

from __future__ import annotations

import hashlib
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nfk.family_params import CustomParams
from nfk.models.architecture import architecture
from nfk.models.image_model import ImageModel
from nfk.nearest import did_you_mean
from nfk.one_line import OneLine
from nfk.training import Trained, TrainingError

PyTree = Any


class CustomError(OneLine):
    """The user's function cannot be found, fails, or gives no network; the message is one line."""


@dataclass(frozen=True)
class Custom:
    """What the user's function gave, as a `nfk.models.protocol.TrainedModel`."""

    config: CustomParams
    image_shape: tuple[int, int, int]
    classes: int
    model: Any

    @classmethod
    def initial(
        cls, config: CustomParams, image_shape: tuple[int, int, int], classes: int, key: Key[Array, ""] | None = None
    ) -> Custom:
        """What the function gives, and with a key the network's `initial(key)` where it has that. CustomError naming
        the function and what is wrong with it or its result."""
        build = _find(config.model)
        with _told(config.model):
            model = build(config.options, image_shape, classes)
            if isinstance(model, ImageModel):  # what it keeps beside params is its own kind's to write and read
                kind = cast(Any, model.config).model
                raise TypeError(f"it gave the shipped {type(model).__name__}: name that in params.yaml, "
                                f"model: {kind}, or return an object of your own that holds it")
            if key is not None and hasattr(model, "initial"):
                model = model.initial(key)
        _checked(config.model, model)
        _scalar(config.model, model, image_shape)
        return cls(config, image_shape, classes, model)

    @property
    def trains(self) -> bool:
        return hasattr(self.model, "train")

    @property
    def params(self) -> PyTree:
        return self.model.params

    @property
    def variables(self) -> PyTree:
        """What is kept on disk."""
        return self.model.params

    @property
    def architecture(self) -> dict[str, Any]:
        """The card's entries, the digest of the module's file among them."""
        return architecture(self.config, self.image_shape, self.classes, self.params) | {
            "source": source_digest(self.config.model)}

    def with_variables(self, variables: PyTree) -> Custom:
        """The network with the weights that were kept: by its `with_params`, or, where it has none, itself if its own
        are the same bit for bit."""
        if hasattr(self.model, "with_params"):
            return replace(self, model=_checked(self.config.model, self.model.with_params(variables)))
        pairs = zip(jax.tree.leaves(self.params), jax.tree.leaves(variables), strict=True)
        if not all(np.array_equal(np.asarray(own), np.asarray(kept), equal_nan=True) for own, kept in pairs):
            raise CustomError(f"{self.config.model} gives other weights than those kept, and its network has no "
                              "with_params(params) to take them; add it, or run the pretrain stage again")
        return self

    def log_density(self, params: PyTree, x: Float[Array, "h w c"], key: Key[Array, ""]) -> Float[Array, ""]:
        return self.model.log_density(params, x, key)

    def sample(self, key: Key[Array, ""], count: int) -> Float[np.ndarray, "n h w c"] | None:
        """The network's own samples, None where it draws none."""
        with _told(self.config.model, f"sample({count})"):
            drawn = self.model.sample(key, count) if hasattr(self.model, "sample") else None
        if drawn is None:
            return None
        drawn = np.asarray(drawn, np.float32)
        if drawn.shape != (count, *self.image_shape):
            raise CustomError(f"{self.config.model}: sample({count}) has shape {drawn.shape}, must be "
                              f"{(count, *self.image_shape)}, as the images")
        low, high = float(drawn.min()), float(drawn.max())
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise CustomError(f"{self.config.model}: sample gives values from {low:g} to {high:g}, must be in [0, 1], "
                              "as the images")
        return drawn

    def activations(self, x: Float[Array, "b h w c"]) -> dict[str, Float[Array, "b ..."]]:
        """Its hidden layers, none where it does not tell them."""
        with _told(self.config.model, "activations"):
            return self.model.activations(x) if hasattr(self.model, "activations") else {}

    def train(self, *arguments: Any, **options: Any) -> Trained[Custom]:
        """By the network's own `train`; as it is, with no history, where it has none: it is trained already."""
        if not self.trains:
            return Trained(self, {}, {}, [])
        with _told(self.config.model, "train"):
            trained = self.model.train(*arguments, **options)
        if not isinstance(trained, Trained):
            raise CustomError(f"{self.config.model}: train returned {type(trained).__name__}; return "
                              "nfk.training.Trained(model, history, metrics, checks)")
        if not hasattr(trained.model, "with_params"):
            raise CustomError(f"{self.config.model}: a network that trains needs with_params(params) -> network, "
                              "by which later stages put the kept weights in; add it")
        with _told(self.config.model, "train gave metrics that are no numbers"):
            metrics = {name: float(value) for name, value in trained.metrics.items()}
            history = {name: [float(value) for value in values] for name, values in trained.history.items()}
        if unusable := sorted(name for name, value in metrics.items() if not math.isfinite(value)):
            raise CustomError(f"{self.config.model}: train gave {unusable[0]}={metrics[unusable[0]]}, must be finite; "
                              "lower its rate, or leave that metric out")
        model = replace(self, model=_checked(self.config.model, trained.model))
        return Trained(model, history, metrics, trained.checks)


def source_digest(name: str) -> str:
    """SHA-256 of the file of the module of "module:function". What it imports in turn is not in it."""
    file = getattr(_module(name.partition(":")[0]), "__file__", None)
    if file is None:
        raise CustomError(f"{name}: the module has no source file; put the function into a .py file")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def source_tree(name: str) -> Path:
    """What must be importable where the network is to be used: the folder of the outermost package of
    "package.module:function", or the file of a module that lies in none."""
    module = _module(name.partition(":")[0])
    outermost = _module(module.__name__.partition(".")[0])
    file = getattr(outermost, "__file__", None)
    if file is None:  # a package without __init__.py
        return Path(next(iter(outermost.__path__)))
    return Path(file).parent if hasattr(outermost, "__path__") else Path(file)


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
        importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise CustomError(f"importing {name} failed: {_one_line(error)}; install what it needs") from error
        raise CustomError(f"no module {error.name!r} in {here} nor among the installed; run from the project's "
                          "folder or change model in params.yaml") from None
    except Exception as error:
        raise CustomError(f"importing {name} failed: {_one_line(error)}") from error


def _find(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    found = getattr(_module(module_name), attribute, None)
    if found is None:
        hint = did_you_mean(attribute, dir(_module(module_name)))
        raise CustomError(f"module {module_name} has no {attribute!r}{hint}; change model in params.yaml")
    if not callable(found):
        raise CustomError(f"{name} is {type(found).__name__}, not a function; it must be "
                          "(options, image_shape, classes) -> network")
    return found


def _checked(name: str, model: Any) -> Any:
    for needed in ("params", "log_density"):
        if not hasattr(model, needed):
            raise CustomError(f"{name} gave {type(model).__name__} without {needed}; nfk.models.protocol says what a "
                              "network must have")
    named = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
             for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)]
    for path, leaf in named:
        if not isinstance(leaf, jax.Array | np.ndarray) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise CustomError(f"{name}: params[{path!r}] is {type(leaf).__name__}, not an array of numbers; keep it "
                              "outside params")
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.dtype != jnp.float32:
            raise CustomError(f"{name}: params[{path!r}] is {leaf.dtype}; scores are taken in float32, cast it")
    if not named or len({path for path, _ in named}) < len(named):
        raise CustomError(f"{name}: params has {len(named)} arrays of {len({path for path, _ in named})} different "
                          "paths; give each its own")
    return model


@contextmanager
def _told(name: str, what: str = "") -> Iterator[None]:
    """An error of the user's code as one line; those that are one already, as they are."""
    try:
        yield
    except (CustomError, TrainingError):
        raise
    except Exception as error:
        raise CustomError(f"{': '.join(filter(None, (name, what)))} failed: {_one_line(error)}; "
                          "see the whole trace with --debug") from error


def _scalar(name: str, model: Any, image_shape: tuple[int, int, int]) -> None:
    """CustomError where log_density is no scalar of one image, or cannot be traced at all."""
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    with _told(name, f"log_density of an image of shape {image_shape}"):
        value = jax.eval_shape(model.log_density, model.params, image, jax.random.key(0))
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise CustomError(f"{name}: log_density gives {value}, must be one floating-point number an image")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
