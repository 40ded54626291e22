"""What the shipped dvc.yaml says a stage depends on is found here, every file of it read."""

from __future__ import annotations

from pathlib import Path

from nfk import store
from nfk.params import load
from nfk.stages import depended


def test_every_dependency_of_the_shipped_pipeline_is_seen(monkeypatch):
    """Templates filled: no name is left that no file could have."""
    monkeypatch.chdir(Path(__file__).parents[2])
    for stage, family in (("data", None), ("baselines", None), ("report", None), *(
            (stage, "gan") for stage in ("pretrain", "statistics", "svd", "embed", "evaluate"))):
        found = depended.seen(stage, family)
        assert found and not [name for name in found if "${" in name]
    assert depended.seen("svd", "gan")["nfk/linalg"] != store.json_digest([])
    assert depended.seen("svd", "gan")["svd of params.yaml"] == store.json_digest(load().svd.model_dump(mode="json"))
    assert depended.seen("nothing", None) == {}
