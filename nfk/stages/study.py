"""`study@NAME`: one question more about a family's network; numbers, a table and figures in studies/NAME."""

from __future__ import annotations

import importlib

import numpy as np

from nfk import devices, durable, store
from nfk.evaluation.features import Features
from nfk.evaluation.figures.style import save
from nfk.params import Params
from nfk.progress import progress
from nfk.stages import images, network, representations, workspace
from nfk.stages.outcome import Outcome
from nfk.studies.study import Findings, KeptModes, Material, Table
from nfk.study_params import TimingParams


def run(params: Params, name: str) -> Outcome:
    asked = params.study(name)
    if isinstance(asked, TimingParams) and asked.devices:
        devices.take(asked.devices)
    data, net = images.load(params), network.load(params, asked.family)
    statistics, statistics_digest = network.load_statistics(params, net, data)
    made_from = {"data": data.digest, "model": net.digest, "statistics": statistics_digest}
    factors = network.load_factors(params, asked.family, **made_from)
    embeddings = store.read(workspace.embeddings_store(asked.family)).expect(**made_from, factors=factors.digest)
    digests = {**made_from, "factors": factors.digest, "embeddings": embeddings.digest}
    scratch = workspace.scratch("study", name, {"study": asked.model_dump(), "seed": params.seed, **digests})

    def compared() -> list[Features]:
        rank = representations.reachable(params.evaluate.ranks, embeddings.attributes["rank"])[-1]
        return [*representations.embeddings(params, embeddings), *representations.pixels(params, data),
                *representations.activations(params, net, data, rank)]

    material = Material(
        images=data, model=net.model, scores=net.scores, statistics=statistics, **network.choices(factors),
        modes=KeptModes(factors["singular_values"][:], factors["left"][:], factors["right"]),
        memory_bytes=int(params.svd.memory_gib * 2**30),
        embeddings={split: np.asarray(embeddings[split][:]) for split in images.SPLITS}, labelled=params.labelled,
        block=params.statistics.block, evaluate=params.evaluate, seed=params.seed, representations=compared,
        checkpoint=scratch)
    with progress(f"study@{name}", "steps") as report:
        findings: Findings = importlib.import_module(f"nfk.studies.{asked.study}").run(material, asked, report)
    folder = workspace.study_folder(name)
    with store.whole_folder(folder) as building:
        store.write_json(building / "numbers.json", {
            "study": asked.study, "family": asked.family, "summary": findings.summary, **findings.numbers})
        durable.write(building / "table.md", markdown(findings.table).encode())
        for title, figure in findings.figures.items():
            save(figure, building / "figures" / f"{title}.png")
    scratch.clear()
    return Outcome(
        f"{findings.summary} -> {folder}", params={f"studies.{name}": asked.model_dump()},
        figures=sorted((folder / "figures").glob("*.png")), digests=digests)


def markdown(table: Table) -> str:
    """The table as GitHub and MLflow show it."""
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
