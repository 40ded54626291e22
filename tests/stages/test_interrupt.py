"""Ctrl-C in a long stage: one line, and the same command goes on from what was saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from nfk.stages import svd

FAMILIES = {"mlp": {"model": "mlp", "hidden": 6, "epochs": 1, "batch": 8}}
LONG = {"rank": 4, "strategy": "stream", "passes": 10, "block": 1, "tolerance": 1e-9, "accept_unconverged": True}


@pytest.mark.slow
def test_ctrl_c_says_that_the_same_command_goes_on_and_it_does(workspace, tmp_path, monkeypatch, capsys):
    settings = workspace.params(FAMILIES, svd=LONG, tracking={"uri": "http://127.0.0.1:9"})
    workspace.run(settings, "mlp", "pretrain", "statistics")
    (tmp_path / "params.yaml").write_text(json.dumps(settings.model_dump(mode="json")))
    process = subprocess.Popen([sys.executable, "-m", "nfk", "svd", "mlp"], text=True, start_new_session=True,
                               env=os.environ | {"NFK_SAVE_SECONDS": "0"}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob(".nfk/scratch/svd-mlp-*/krylov-pass-3.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "nfk: interrupted; the same command goes on from the last saved block"
    assert "Traceback" not in said
    assert not (tmp_path / "factors").exists()

    capsys.readouterr()
    monkeypatch.setenv("NFK_PROGRESS", "json")
    svd.run(settings, "mlp")
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    first = said[0]["what"]
    assert first.startswith(("pass 3 ", "pass 4 ")), said
    assert (tmp_path / "factors" / "mlp.zarr").is_dir()
