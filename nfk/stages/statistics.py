"""`statistics@F`: mean score, diagonal Fisher information and Kronecker factors over the model's own samples."""

from __future__ import annotations

from nfk import shared_store, store
from nfk.fisher.parameters import parameter_index
from nfk.fisher.statistics import fisher_statistics
from nfk.linalg.group import Alone, Group
from nfk.params import Params
from nfk.progress import progress
from nfk.stages import images, network, workspace
from nfk.stages.outcome import Outcome


def run(params: Params, family: str, group: Group | None = None) -> Outcome:
    group = Alone() if group is None else group
    data, net = images.load(params), network.load(params, family)
    scores = net.scores
    samples, origin = network.model_samples(params, net, data)
    scores.probe(samples, params.statistics.block)
    scratch = workspace.scratch("statistics", family, {
        "params": params.statistics.model_dump(), "seed": params.seed, "data": data.digest,
        "model": net.digest, "theta": net.theta}, group)
    with progress(f"statistics@{family}") as report:
        found = fisher_statistics(scores, samples, block=params.statistics.block, checkpoint=scratch,
                                  group=group, progress=report, kronecker=params.statistics.whitening == "kronecker")
    path = workspace.statistics_store(family)
    inputs = {"data": data.digest, "model": net.digest, "theta": net.theta}
    with shared_store.write(path, inputs=inputs, group=group) as writer:
        for name, values in found.arrays().items():
            writer.put(name, values)
        writer.attributes.update(
            count=found.count, samples=origin, dead_parameters=found.dead,
            made_with=network.made_with(params, "statistics"),
            parameters=[entry._asdict() for entry in parameter_index(scores.params)])
    scratch.clear()
    dead = f", {found.dead:,} dead" if found.dead else ""
    return Outcome(
        f"{scores.size:,} parameters{dead} over {found.count:,} {origin} -> {path}",
        params={"statistics": params.statistics.model_dump()},
        metrics={"parameters": scores.size, "dead_parameters": found.dead, "samples": found.count},
        digests={"data": data.digest, "model": net.digest, "statistics": store.read_marker(path)["digest"]})
