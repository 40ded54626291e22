from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nfk.tracking.lineage import dvc_hashes, git_state, provenance

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
