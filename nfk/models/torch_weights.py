"""The weights of a PyTorch network of the same architecture, out of a safetensors file.

The key map: our module `a/b` is PyTorch's `a.b` unless the architecture's `TorchLayout` or the user's `modules` say
another name, and its arrays are

    kernel of a convolution (i, j, in, out)   weight (out, in, i, j)
    kernel of a dense layer (in, out)         weight (out, in); after a flattened (h, w, c) map, which PyTorch
                                              flattens as (c, h, w), its columns are reordered
    scale, bias, mean, var of a norm          weight, bias, running_mean, running_var

`num_batches_tracked` and the prefix `module.` of a network in data parallel are passed over; every other array must
find its place, and every place its array.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jaxtyping import PyTree

from nfk.family_params import TorchParams
from nfk.nearest import did_you_mean
from nfk.one_line import OneLine

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class TorchWeightsError(OneLine):
    """The file is not the one named, or its arrays are not this architecture's; the message is one line."""


@dataclass(frozen=True)
class TorchLayout:
    """How PyTorch networks of an architecture are commonly written."""

    modules: dict[str, str]
    """the names of its modules by ours"""
    flattened: dict[str, int] = field(default_factory=dict)
    """the dense layers that are fed a flattened map, with its channels"""


def from_torch(expected: PyTree, layout: TorchLayout, source: TorchParams, channels: int) -> PyTree:
    """The tree `expected` (arrays or their shapes) with the arrays of `source.path`, float32, for images of so many
    channels.

    TorchWeightsError where the file's SHA-256 is not `source.sha256`, an array is missing, left over, of another
    shape, or not of finite floats, or `source.mean` is for other images.
    """
    if len(source.mean) not in (0, channels):
        raise TorchWeightsError(f"torch.mean and torch.std have {len(source.mean)} channels, the images {channels}; "
                                "give one number for each channel")
    named = _read(Path(source.path), source.sha256)
    modules = layout.modules | source.modules
    used: set[str] = set()

    def taken(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        *module, last = (str(entry.key) for entry in path[1:])
        name = "/".join(module)
        key = f"{modules.get(name, name.replace('/', '.'))}.{_LEAVES[last]}"
        if key not in named:
            raise TorchWeightsError(f"{source.path}: no array {key}{did_you_mean(key, named)}; name PyTorch's module "
                                    f"for {name} in torch.modules of params.yaml")
        used.add(key)
        array = _arranged(named[key], last, leaf.ndim, layout.flattened.get(name))
        if array.shape != leaf.shape:
            raise TorchWeightsError(f"{source.path}: {key} has shape {named[key].shape}, which becomes {array.shape}; "
                                    f"{name} takes {leaf.shape}: change the family's sizes, or torch.modules")
        return jnp.asarray(array)

    whole = jax.tree_util.tree_map_with_path(taken, expected)
    if left := sorted(named.keys() - used):
        raise TorchWeightsError(f"{source.path}: {len(left)} arrays have no place in this architecture, "
                                f"the first {left[0]}; change the family's sizes, or torch.modules in params.yaml")
    return whole


def _read(path: Path, sha256: str) -> dict[str, np.ndarray]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TorchWeightsError(f"{path}: {error.strerror}; torch.path is taken from the project's folder") from None
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise TorchWeightsError(f"{path}: SHA-256 is {digest}, torch.sha256 says {sha256}; correct either")
    try:
        read = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise TorchWeightsError(f"{path}: not safetensors ({error}); write it by safetensors.torch.save_file") from None
    named = {name: (part["dtype"], part) for name, part in read if not name.endswith("num_batches_tracked")}
    if named and all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): entry for name, entry in named.items()}
    return {name: _floats(path, name, *entry) for name, entry in named.items()}


def _floats(path: Path, name: str, dtype: str, part: Mapping[str, Any]) -> np.ndarray:
    known = {"F16": np.float16, "BF16": jnp.bfloat16, "F32": np.float32, "F64": np.float64}
    if dtype not in known:
        raise TorchWeightsError(f"{path}: {name} is of {dtype}, not floats ({', '.join(known)}); leave it out")
    array = np.frombuffer(part["data"], known[dtype]).reshape(part["shape"]).astype(np.float32)
    if not np.isfinite(array).all():
        raise TorchWeightsError(f"{path}: {name} holds values that are not finite; save the network again")
    return array


def _arranged(array: np.ndarray, leaf: str, ndim: int, channels: int | None) -> np.ndarray:
    """PyTorch's array in our order."""
    if leaf != "kernel" or array.ndim != ndim:
        return array
    if ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if channels is not None and array.shape[1] % channels == 0:
        array = array.reshape(len(array), channels, -1).swapaxes(1, 2).reshape(array.shape)
    return array.T
