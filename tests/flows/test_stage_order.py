from __future__ import annotations

from pathlib import Path

import pytest

from flows.stage_order import stage_order

pytestmark = pytest.mark.filterwarnings(
    "ignore:_NoneStep.value will soon raise:DeprecationWarning")


def test_each_stage_comes_after_those_it_needs(workspace: Path) -> None:
    """dvc.yaml has them the other way round."""
    order = stage_order(workspace)
    assert order[0] == "data" and order[-1] == "report"
    assert sorted(order[1:-1]) == ["fit@gan", "fit@vae"]


def test_a_family_brings_what_it_needs_and_no_other(workspace: Path) -> None:
    assert stage_order(workspace, families=["vae"]) == ["data", "fit@vae"]


def test_a_new_stage_in_dvc_yaml_is_in_the_order(workspace: Path) -> None:
    with open(workspace / "dvc.yaml", "a") as file:
        file.write("  publish: {cmd: cp report.txt p, deps: [report.txt], outs: [p]}\n")
    assert stage_order(workspace)[-1] == "publish"


def test_outside_of_a_repository_dvc_says_so(tmp_path: Path) -> None:
    from dvc.exceptions import NotDvcRepoError

    with pytest.raises(NotDvcRepoError):
        stage_order(tmp_path)
