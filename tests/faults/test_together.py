"""A part of `tests.faults.together`, in the suite."""

from __future__ import annotations

import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest

from nfk import cli, tracking
from nfk.workspace_lock import WorkspaceBusy
from tests.faults import pipeline, together
from tests.faults.promoters import promoters


def test_of_writers_of_one_store_one_writes_and_the_others_are_told():
    assert together.writers(2, 60) == [None] * 60


def test_of_promotions_at_once_by_processes_the_best_stays():
    rounds = promoters(2, 6, bare=True)
    assert [each.why for each in rounds] == [None] * 6
    assert any(each.met for each in rounds)


def test_of_two_embed_stages_of_one_name_one_embeds_and_the_other_is_told(tmp_path, monkeypatch):
    """In two workspaces whose embeddings are one folder, so that the store alone keeps them apart."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    monkeypatch.chdir(first)
    pipeline.images()
    chosen = pipeline.settings()
    with pipeline.warm():
        for stage in ("data", "pretrain", "statistics", "svd", "embed"):
            pipeline.run(stage, chosen)
    undisturbed = pipeline.found("embed")
    shutil.rmtree(pipeline.STORES["embed"])
    (first / "params.yaml").write_text(json.dumps(chosen.model_dump(mode="json", exclude_unset=True)))
    shutil.copytree(first, second, ignore=shutil.ignore_patterns("embeddings"))
    (second / "embeddings").symlink_to(first / "embeddings")
    place = SimpleNamespace(folder=first, environment=os.environ | {"PYTHONPATH": str(together.ROOT)})
    ended = together.at_once(place, [[sys.executable, "-m", "nfk", "embed", pipeline.FAMILY]] * 2,
                             folders=[first, second])
    assert together.wrong_ends(ended) is None
    assert pipeline.found("embed") == undisturbed
    assert pipeline.left_overs() == []


def test_who_is_refused_was_no_run_of_the_pipeline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("families: {gan: {model: dcgan}}\n")
    told = []
    monkeypatch.setattr(tracking, "finish", lambda *args, **_: told.append(args))
    with together.holder(tmp_path) as held, pytest.raises(
            WorkspaceBusy, match=f"a pipeline already runs in this workspace, process {held} "):
        cli.repro(stages=None, force=False)
    assert told == []
