"""Distillation through its stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nfk.stages import study

ASKED = {"study": "distillation", "family": "mlp", "examples": 24, "components": 3, "alphas": [0.5],
         "temperatures": [2.0], "methods": ["nfk-l2", "kd"],
         "student": {"model": "mlp", "hidden": 4, "epochs": 2, "batch": 8}}


def test_the_stage_writes_numbers_table_and_picture(workspace):
    found = workspace.params({"mlp": {"model": "mlp", "hidden": 6, "epochs": 2, "batch": 8}}, studies={"taught": ASKED})
    workspace.run(found, "mlp", "pretrain", "statistics", "svd", "embed")
    outcome = study.run(found, "taught")
    kept = json.loads(Path("studies/taught/numbers.json").read_text())
    assert {"student", "nfk", "nfk-l2", "kd"} == set(kept["methods"])
    assert kept["student"]["parameters"] < kept["teacher"]["parameters"]
    assert kept["methods"]["kd"]["chosen"] == {"alpha": 0.5, "temperature": 2.0}
    table = Path("studies/taught/table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| teacher", "| student alone", "| NFK, L2", "| KD"]
    assert f"{100 * kept['methods']['kd']['accuracy']:.1f} ± " in table[5]
    assert [path.as_posix() for path in outcome.figures] == ["studies/taught/figures/accuracy.png"]
    again = study.run(found, "taught")
    assert json.loads(Path("studies/taught/numbers.json").read_text()) == kept
    assert again.digests == outcome.digests


def test_more_components_than_the_embedding_has_are_refused(workspace):
    with pytest.raises(ValueError, match=r"studies\.taught\.components=5 exceeds svd\.rank=4"):
        workspace.params({"mlp": {"model": "mlp"}}, studies={"taught": ASKED | {"components": 5}})
