"""A part of `tests.faults.together`, in the suite."""

from __future__ import annotations

import pytest

from nfk import cli, tracking
from nfk.workspace_lock import WorkspaceBusy
from tests.faults import together


def test_of_writers_of_one_store_one_writes_and_the_others_are_told():
    assert together.writers(2, 60) == [None] * 60


def test_who_is_refused_was_no_run_of_the_pipeline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("families: {gan: {model: dcgan}}\n")
    told = []
    monkeypatch.setattr(tracking, "finish", lambda *args, **_: told.append(args))
    with together.holder(tmp_path) as held, pytest.raises(
            WorkspaceBusy, match=f"a pipeline already runs in this workspace, process {held} "):
        cli.repro(stages=None, force=False)
    assert told == []
