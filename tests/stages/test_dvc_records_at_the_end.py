"""What DVC does that `nfk.stages.depended` is there for."""

from __future__ import annotations

import json
import subprocess
import sys


def test_dvc_itself_writes_down_what_is_there_at_the_end(tmp_path):
    """Why all this is needed; once it is not, this fails and can go."""
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"a": {
        "cmd": "cp params.yaml out; echo 'seed: 2' > params.yaml", "params": ["seed"], "outs": ["out"]}}}))
    for command in (["init", "--no-scm", "--quiet"], ["repro", "--quiet"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True)
    assert (tmp_path / "out").read_text() == "seed: 1\n"
    assert "seed: 2" in (tmp_path / "dvc.lock").read_text()
