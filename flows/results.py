"""What a pipeline run shows in Prefect: its main metrics as a table, its main figures, its lineage as a page."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect.artifacts import ImageArtifact, MarkdownArtifact, TableArtifact

from flows.artifacts import publish
from nfk import tracking


def publish_metrics(workspace: Path = Path()) -> None:
    """The accuracy of each family's features under each probe, of what `evaluation/` holds."""
    if rows := metric_rows(workspace):
        publish(TableArtifact(key="nfk-metrics", table=rows, description="Test accuracy of the probes"))


def publish_figures(workspace: Path = Path()) -> None:
    """The main figure of each family that has one: accuracy by rank. Its pixels are in the artifact itself (an
    address of type `data:`, some 100 kB), since no browser could fetch a file of the worker's disk."""
    for path in sorted(workspace.glob("evaluation/*/figures/accuracy.png")):
        family = path.parents[1].name
        publish(ImageArtifact(key=f"nfk-accuracy-{family.replace('_', '-')}", image_url=data_address(path),
                              description=f"Test accuracy by rank, {family}"))


def data_address(image: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode('ascii')}"


def publish_lineage(pipeline_run: str, stages: Iterable[str], workspace: Path = Path()) -> None:
    """Commit, pipeline run and the hash of everything the stages wrote."""
    publish(MarkdownArtifact(key="nfk-lineage", markdown=lineage_page(pipeline_run, stages, workspace),
                             description="What the results were made from"))


def metric_rows(workspace: Path) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(workspace.glob("evaluation/*/metrics.json")):
        for features, probes in json.loads(path.read_text(encoding="utf-8")).get("features", {}).items():
            for probe, result in probes.items():
                if isinstance(result, dict) and "accuracy" in result:
                    rows.append({"family": path.parent.name, "features": features, "probe": probe,
                                 "accuracy": result["accuracy"],
                                 "standard error": result.get("standard_error")})
    return rows


def lineage_page(pipeline_run: str, stages: Iterable[str], workspace: Path) -> str:
    git, hashes = tracking.git_state(), tracking.all_dvc_hashes(workspace / "dvc.lock")
    dirty = " with changes" if git.get("git.dirty") == "true" else ""
    lines = [f"Pipeline run `{pipeline_run}`, commit `{git.get('git.commit', 'none')}`{dirty}.", "",
             "| stage | output | hash |", "|---|---|---|"]
    for stage in stages:
        if stage in hashes:
            lines += [f"| {stage} | {path} | `{value}` |" for path, value in hashes[stage].outs.items()]
    return "\n".join(lines)
