"""A workspace of its own whose time is over: what it kept for MLflow is sent, since it may never be run again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows import own_workspace
from flows.own_workspace import StagesFailed, run_stages
from flows.process_group import Ended

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("timed_out, ran", [(True, [["repro"], ["track", "replay"]]), (False, [["repro"]])])
def test_records_are_sent_where_the_time_is_over(tmp_path, monkeypatch, timed_out, ran):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    seen = []

    def run_streamed(command, say, *, folder, **_):
        seen.append(command[command.index("nfk") + 1 :])
        assert folder == tmp_path / "one"
        return Ended(1, timed_out and seen[-1] == ["repro"], "the last line")

    monkeypatch.setattr(own_workspace, "run_streamed", run_streamed)
    reason = "ran longer than seconds=5" if timed_out else "exit status 1: the last line"
    with pytest.raises(StagesFailed, match=reason):
        run_stages(tmp_path / "one", lambda text: None, seconds=5.0)
    assert seen == ran
