"""The refresh around the pipeline; the registry's commands are stubs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRY = """\
import sys
sys.path.insert(0, sys.argv[1])
from nfk.workspace_lock import WorkspaceBusy, workspace_lock
try:
    with workspace_lock():
        print("free")
except WorkspaceBusy:
    print("busy")
"""


def workspace_is() -> str:
    return subprocess.run([sys.executable, "-c", TRY, str(ROOT)], capture_output=True, text=True,
                          check=True).stdout.strip()


@pytest.mark.usefixtures("prefect_server", "untracked")
def test_the_workspace_is_held_until_the_last_candidate_is_judged(
        workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import task
    from prefect.runtime import flow_run

    from flows import refresh as module

    steps: list[tuple[str, str, int]] = []

    @task
    def step(command: list[str], *, held: Collection[int]) -> str:
        steps.append((" ".join(command[2:4]), workspace_is(), len(held)))
        return "kept"

    monkeypatch.setattr(module, "run_step", step)
    shown: list[str] = []
    monkeypatch.setattr("flows.pipeline.publish_lineage", lambda *_: shown.append(flow_run.flow_name))
    module.refresh(module.RefreshOptions(push=False))
    assert shown == ["nfk-refresh"]  # the stages are its own: a run within it could be made twice
    assert steps == [("register gan", "busy", 1), ("promote nfk-gan-embedder@candidate", "busy", 1),
                     ("register vae", "busy", 1), ("promote nfk-vae-embedder@candidate", "busy", 1)]
    assert (workspace / "report.txt").exists()
    assert workspace_is() == "free"


def test_a_damaged_file_of_the_cache_is_neither_registered_nor_pushed(
        workspace: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: str) -> None:
    from flows import refresh as module

    kept = workspace / ".dvc/cache/files/md5/00/11"
    kept.parent.mkdir(parents=True)
    kept.write_text("not what its name says")
    monkeypatch.setattr(module, "bring_up_to_date", lambda *_: None)
    monkeypatch.setattr(module, "run_step", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(module.StepFailed, match=r"md5/00/11: its MD5 is \w{32}, and by its name another; rm it, then"):
        module.refresh(module.RefreshOptions())


def test_a_rank_that_would_not_be_judged_is_refused_before_anything_runs(
        workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    from flows import refresh as module

    (workspace / "params.yaml").write_text((workspace / "params.yaml").read_text() + "svd: {rank: 100}\n")
    monkeypatch.setattr(module, "bring_up_to_date", lambda *_: pytest.fail("ran"))
    with pytest.raises(typer.Exit) as end:
        module._main()
    assert end.value.exit_code == 2
    assert capsys.readouterr().err == (
        "svd.rank=100: not among evaluate.ranks=[16, 32, 64, 128], and a candidate is judged by its vectors of all "
        "components; add 100 there\n")


def test_the_lock_is_pushed_aside_and_the_branch_here_does_not_move(tmp_path: Path) -> None:
    from flows.refresh import _PUSH_LOCK

    def git(*command: str) -> str:
        return subprocess.run(("git", "-c", "user.name=t", "-c", "user.email=t@t", *command), cwd=tmp_path / "here",
                              check=True, capture_output=True, text=True).stdout

    (tmp_path / "here").mkdir()
    git("init", "--quiet", "--bare", str(tmp_path / "origin"))
    git("init", "--quiet")
    git("remote", "add", "origin", str(tmp_path / "origin"))
    for content in ("first", "second"):
        (tmp_path / "here/dvc.lock").write_text(content)
        if content == "first":
            git("add", "--all")
            git("commit", "--quiet", "--message", "start")
    head = git("rev-parse", "HEAD")
    for _ in range(2):  # the second night's as well
        subprocess.run(["sh", "-c", _PUSH_LOCK, "sh", "refresh: a", "runs/nightly"], cwd=tmp_path / "here", check=True,
                       env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
    git("fetch", "--quiet", "origin")
    assert git("show", "origin/runs/nightly:dvc.lock") == "second"
    assert git("log", "--format=%s", "origin/runs/nightly").split("\n")[:2] == ["refresh: a", "start"]
    assert git("rev-parse", "HEAD") == head
    assert git("status", "--porcelain") == " M dvc.lock\n"


def test_a_step_that_fails_is_told_by_its_error_not_by_what_dvc_says_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import refresh as module

    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("step"))
    says = "echo reading; echo 'ERROR: unexpected error - broken'; echo; echo 'Having any troubles?'; exit 255"
    with pytest.raises(module.StepFailed, match=r"failed: unexpected error - broken$"):
        module.run_step.fn(["sh", "-c", says])
    with pytest.raises(module.StepFailed, match=r"failed: the last$"):
        module.run_step.fn(["sh", "-c", "echo one; echo the last; exit 1"])


@pytest.mark.parametrize("branch", ["main", "../x", "runs"])
def test_no_branch_of_peoples_own_is_forced(branch: str) -> None:
    done = subprocess.run([sys.executable, "-m", "flows.refresh", "--branch", branch], cwd=ROOT, capture_output=True,
                          text=True, env=os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"--branch {branch!r}: String should match pattern")
