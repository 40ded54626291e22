from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nfk.params import TrackingParams
from nfk.tracking import finish, lineage, spool
from nfk.tracking.lineage import LockFault, all_dvc_hashes, dvc_hashes, git_state, provenance

LOCK = """\
schema: '2.0'
stages:
  svd@gan:
    cmd: nfk svd gan
    deps:
    - path: data/digits.zarr
      hash: md5
      md5: aa.dir
      size: 10
    - path: nfk/linalg
      hash: md5
      md5: bb.dir
    params:
      params.yaml:
        svd:
          rank: 8
    outs:
    - path: factors/gan.zarr
      hash: md5
      md5: cc.dir
    - path: s3://bucket/x
      hash: etag
      etag: dd
  data:
    cmd: nfk data
"""


def test_hashes_are_read_from_the_lock_file(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(LOCK)
    hashes = dvc_hashes("svd@gan", lock)
    assert hashes.deps == {"data/digits.zarr": "md5:aa.dir", "nfk/linalg": "md5:bb.dir"}
    assert hashes.outs == {"factors/gan.zarr": "md5:cc.dir", "s3://bucket/x": "etag:dd"}
    assert hashes.tags()["dvc.out.factors/gan.zarr"] == "md5:cc.dir"
    assert dvc_hashes("data", lock) == dvc_hashes("absent", lock) == ({}, {})


def test_without_a_lock_file_there_are_no_hashes(tmp_path: Path) -> None:
    assert dvc_hashes("data", tmp_path / "dvc.lock") == ({}, {})


def test_the_commit_is_dirty_once_a_file_differs_but_not_for_the_lock_file(workspace: Path) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    (workspace / "dvc.lock").write_text("rewritten after every stage")
    (workspace / "vectors.parquet").touch()
    assert git_state() == {"git.commit": head.stdout.strip(), "git.dirty": "false"}
    (workspace / "new_module.py").touch()
    (workspace / "deeper").mkdir()
    assert git_state()["git.dirty"] == "true"


def test_a_change_anywhere_counts_seen_from_a_subfolder(workspace: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "sub").mkdir()
    monkeypatch.chdir(workspace / "sub")
    assert git_state()["git.dirty"] == "false"
    (workspace / "new_module.py").touch()
    assert git_state()["git.dirty"] == "true"


def test_outside_of_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() == {}
    assert {"version.python", "version.numpy", "platform"} <= provenance().keys()


def test_a_library_that_is_not_there_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "_DISTRIBUTIONS", ("numpy", "no-such-distribution"))
    assert [name for name in provenance() if name.startswith("version.")] == ["version.python", "version.numpy"]


@pytest.mark.parametrize("text", [
    "<<<<<<< HEAD\nschema: '2.0'\n=======\n", "stages: [svd]", "stages: {svd: 3}", "stages: {svd: {deps: 3}}",
    "stages: {svd: {deps: [{hash: md5, md5: aa}]}}", "stages: {svd: {deps: [{hash: md5, path: a}]}}", "- stages",
    "stages: {svd: {deps: [3]}}", "{" * 300, "stages: *svd",
])
def test_a_damaged_lock_file_is_one_line(tmp_path: Path, text: str) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(text)
    with pytest.raises(LockFault, match=r"dvc\.lock: is not what DVC writes \(.+\); bring back a whole one") as refusal:
        all_dvc_hashes(lock)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("text", ["", "stages:", "stages: {svd@gan: {deps: [{path: a}]}}"])
def test_a_lock_file_without_hashes_has_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    assert dvc_hashes("svd@gan", tmp_path / "dvc.lock") == ({}, {})


def test_a_run_that_a_damaged_lock_file_ended_is_logged(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "dvc.lock").write_text("<<<<<<< HEAD\n")
    monkeypatch.setattr("nfk.tracking.deliver", lambda *_: spool_away())
    assert not finish("r", TrackingParams(), status="FAILED")
    (entry,) = spool.entries()
    assert spool.read(entry).status == "FAILED"
    assert "it waits in .nfk/spool" in capsys.readouterr().err


def spool_away() -> object:
    from nfk.tracking.delivery import Delivery

    return Delivery(0, 1, "away")
