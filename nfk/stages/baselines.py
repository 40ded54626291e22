"""`baselines`: what the pixels and their principal components give, once for all families."""

from __future__ import annotations

from nfk import store
from nfk.evaluation.evaluate import evaluate_all
from nfk.params import Params
from nfk.progress import progress
from nfk.stages import images, representations, workspace
from nfk.stages.labelled import is_known, labels
from nfk.stages.outcome import Outcome


def made_from(params: Params, data: images.Images) -> str:
    """What the baselines depend on: comparing them with an embedding probed otherwise would be wrong."""
    return store.json_digest([data.digest, params.seed, params.labelled, params.evaluate.model_dump(mode="json")])


def run(params: Params) -> Outcome:
    data = images.load(params)
    if not is_known(data):
        store.write_json(workspace.BASELINES, {"made_from": made_from(params, data), "features": {}})
        return Outcome(f"images of one class: nothing to probe -> {workspace.BASELINES}",
                       digests={"data": data.digest})
    with progress("baselines", "representations") as report:
        found = evaluate_all([*representations.pixels(params, data)], labels(params, data), params.evaluate,
                             params.seed, progress=report)
    store.write_json(workspace.BASELINES, {"made_from": made_from(params, data), "features": found})
    best = max(found, key=lambda name: found[name]["logistic"]["accuracy"])
    return Outcome(
        f"best of {len(found)}: {best}, {found[best]['logistic']['accuracy']:.1%} -> {workspace.BASELINES}",
        params={"evaluate": params.evaluate.model_dump()},
        metrics={f"{name}/logistic": result["logistic"]["accuracy"] for name, result in found.items()},
        digests={"data": data.digest})
