"""`pretrain@F`: train the family's network; weights without pickle, a card, a grid of samples, curves."""

from __future__ import annotations

import numpy as np

from nfk.evaluation.figures.images import samples
from nfk.evaluation.figures.style import save
from nfk.evaluation.figures.training import trained_elsewhere, training_curves
from nfk.models import checkpoint
from nfk.models.families import initial
from nfk.params import Params
from nfk.progress import progress, told
from nfk.stages import images, network, workspace
from nfk.stages.outcome import Outcome
from nfk.store import whole_folder

_GRID = 100


def run(params: Params, family: str) -> Outcome:
    data, config = images.load(params), params.family(family)
    untrained = initial(config, data.shape, len(data.class_names), network.key(params, "init"))
    scratch = workspace.scratch("pretrain", family, {
        "network": untrained.architecture, "seed": params.seed, "data": data.digest})
    with progress(f"pretrain@{family}") as report:
        trained = untrained.train(
            data.pixels("train"), data.labels("train"), (data.pixels("validation"), data.labels("validation")),
            network.key(params, "train"), progress=report, checkpoint=scratch)
    history = {name: [float(value) for value in values] for name, values in trained.history.items()}
    folder = workspace.model_folder(family)
    with whole_folder(folder) as building:
        card = checkpoint.save(trained, building, extra={"seed": params.seed, "data": data.digest})
        shown = trained.model.sample(network.key(params, "look"), _GRID)
        if shown is None:  # a classifier draws nothing: show what it was trained on
            shown = np.asarray(data.examples("train")[:_GRID])
        save(samples(shown), building / "samples.png")
        save(training_curves(history) if history else trained_elsewhere(), building / "curves.png")
    scratch.clear()
    failed = [check for check in trained.checks if not check.passed]
    for check in failed:
        told(f"pretrain@{family}", f"check failed: {check.name}={check.value:.3g}, bound {check.bound:.3g}; "
             f"{check.remedy}", warning=True)
    verdict = (f"{len(trained.checks) - len(failed)} of {len(trained.checks)} checks passed" if trained.checks
               else "nothing to check")
    return Outcome(
        f"{config.model}, {card['parameters']:,} parameters, {verdict} -> {folder}",
        params={f"families.{family}": config.model_dump()},
        metrics={**{name: float(value) for name, value in trained.metrics.items()},
                 "parameters": card["parameters"], "checks_failed": len(failed)},
        series=history,
        figures=[folder / "samples.png", folder / "curves.png"],
        digests={"data": data.digest, "model": network.digest(card)})
