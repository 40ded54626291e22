"""The pretrained network as later stages see it: with its digest, its samples and its statistics."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from nfk import store
from nfk.fisher.parameters import parameter_index
from nfk.fisher.scores import Examples, Scores
from nfk.fisher.statistics import FisherStatistics
from nfk.fisher.theta import choose
from nfk.models import checkpoint
from nfk.models.families import Model
from nfk.models.protocol import TrainedModel
from nfk.params import Params, ThetaParams
from nfk.progress import told
from nfk.stages import workspace
from nfk.stages.images import Images

_DECIDE = {"statistics": {"model_samples", "whitening"}, "svd": {"rank", "damping", "unit_rows", "examples"}}


class Network(NamedTuple):
    family: str
    model: Model
    scores: Scores
    digest: str
    card: dict[str, Any]

    @property
    def theta(self) -> str:
        """The digest of which parameters the scores are taken in."""
        return store.json_digest([entry.path for entry in parameter_index(self.scores.params)])


def load(params: Params, family: str) -> Network:
    """The network that `pretrain` wrote, its theta as params.yaml has it; ModelError if it is absent or damaged."""
    folder = workspace.model_folder(family)
    card = checkpoint.read_card(folder)
    model = checkpoint.load(folder, code=params.code)
    return Network(family, model, scores(params, family, model), digest(card), card)


def scores(params: Params, family: str, model: TrainedModel) -> Scores:
    """The scores of a model in the family's theta. ThetaError for a pattern that matches none of its parameters."""
    theta = params.theta.get(family, ThetaParams())
    chosen = choose(model.log_density, model.params, theta.include, theta.exclude)
    return Scores(chosen.log_density, chosen.params)


def digest(card: dict[str, Any]) -> str:
    """What makes a network this one: its architecture, its weights and, where it is the user's own, its code."""
    parts = ("model", "config", "image_shape", "classes", "sha256", *(("source",) if "source" in card else ()))
    return store.json_digest({name: card[name] for name in parts})


def key(params: Params, purpose: str) -> jax.Array:
    """A key of its own for each purpose, all from params.seed."""
    number = int.from_bytes(purpose.encode().ljust(4)[:4], "big")
    return jax.random.fold_in(jax.random.key(params.seed), number)


def model_samples(params: Params, network: Network, images: Images) -> tuple[Examples, str]:
    """x ~ p_theta: the model's own samples, or training images where it has none (a classifier)."""
    count = params.statistics.model_samples
    told(network.family, f"drawing {count:,} samples of its own, or taking training images where it draws none")
    drawn = network.model.sample(key(params, "samples"), count)
    if drawn is None:
        return images.examples("train", count), "training images"
    return np.asarray(drawn), "model samples"


def choices(factors: store.Store) -> dict[str, Any]:
    """How `svd` made Fisher vectors of scores: `damping` and `unit_rows` of `FisherVectors`."""
    kept = factors.attributes
    return {"damping": kept["damping"], "unit_rows": kept.get("unit_rows", False)}  # older ones do not say


def load_statistics(params: Params, network: Network, images: Images) -> tuple[FisherStatistics, str]:
    """What `statistics` wrote for just this network, theta, data and params.yaml, and its digest, which all later
    stores hold."""
    found = open_statistics(params, network, images)
    return FisherStatistics.of_arrays(found, int(found.attributes["count"])), found.digest


def open_statistics(params: Params, network: Network, images: Images) -> store.Store:
    """The same, its arrays not read."""
    found = store.read(workspace.statistics_store(network.family))
    found.expect(model=network.digest, data=images.digest, theta=network.theta)
    whitening = "kronecker" if "sides" in found else "diagonal"
    _expect_settings(found, made_with(params, "statistics"), {"statistics.whitening": whitening})
    return found


def load_factors(params: Params, family: str, **made_from: str) -> store.Store:
    """What `svd` wrote for just these inputs and params.yaml."""
    found = store.read(workspace.factors_store(family)).expect(**made_from)
    _expect_settings(found, made_with(params, "svd"), {f"svd.{name}": value for name, value in choices(found).items()})
    return found


def made_with(params: Params, stage: Literal["statistics", "svd"]) -> dict[str, Any]:
    """The settings that make a stage's result another one: for its store, and to hold it against params.yaml later.
    Those that only change how it is found (strategy, blocks, passes) are left out."""
    section = getattr(params, stage).model_dump(mode="json", include=_DECIDE[stage])
    return {"seed": params.seed, **{f"{stage}.{name}": value for name, value in section.items()}}


def _expect_settings(found: store.Store, now: dict[str, Any], older: dict[str, Any]) -> None:
    """StoreError naming the first setting with which the store was made and which params.yaml has otherwise: DVC would
    have remade it, a stage started by hand would mix the two. `older`: what a store that does not say shows."""
    made = found.attributes.get("made_with", older)
    for name, value in now.items():
        if name in made and made[name] != value:
            raise store.StoreError(f"{found.path} was made with {name}={made[name]}, but params.yaml says {value}; "
                                   f"remake it with `nfk repro`, or set {name} back")
