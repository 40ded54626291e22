"""A network of the user's own is pretrained again once its module has changed, which DVC cannot see."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from nfk import params
from nfk.repro import _families, reproduce
from nfk.stages.changed import changed_modules

DVC_YAML = f"""\
stages:
  data:
    cmd: echo 0 > data.txt
    outs: [data.txt]
  pretrain:
    foreach: ${{families}}
    do:
      cmd: {sys.executable} fit.py ${{key}} ${{item.model}}
      deps: [data.txt, fit.py]
      outs: ["models/${{key}}/card.json"]
"""
FIT = """\
import hashlib, json, pathlib, sys
_, family, model = sys.argv
card = {"model": model}
if ":" in model:
    if "fault" in pathlib.Path("their_nets.py").read_text():
        sys.exit("a fault in their module")
    card["source"] = hashlib.sha256(pathlib.Path("their_nets.py").read_bytes()).hexdigest()
pathlib.Path(f"models/{family}").mkdir(parents=True, exist_ok=True)
pathlib.Path(f"models/{family}/card.json").write_text(json.dumps(card))
with open("ran", "a") as ran:
    print(family, file=ran)
"""
PARAMS = "families: {mine: {model: 'their_nets:build'}, other: {model: mlp}}\n"
pytestmark = pytest.mark.usefixtures("untracked")


@pytest.fixture
def made(workspace: Path) -> Path:
    """Both families pretrained once."""
    for name, text in (("dvc.yaml", DVC_YAML), ("fit.py", FIT), ("params.yaml", PARAMS), ("their_nets.py", "a = 1\n")):
        (workspace / name).write_text(text)
    assert reproduce(params.load())
    assert ran(workspace) == ["mine", "other"]
    return workspace


def ran(workspace: Path) -> list[str]:
    """The families pretrained since the last question."""
    names = (workspace / "ran").read_text().split() if (workspace / "ran").exists() else []
    (workspace / "ran").unlink(missing_ok=True)
    return sorted(names)


def test_repro_pretrains_just_that_family_and_once(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (made / "their_nets.py").write_text("a = 2\n")
    assert changed_modules(params.load()) == ["mine"]
    for others in (["data"], ["pretrain@other"]):
        assert reproduce(params.load(), others) and ran(made) == []
    assert reproduce(params.load()) and ran(made) == ["mine"]
    assert "pretrain@mine: the file of their_nets:build has changed, so it runs again" in capfd.readouterr().out
    assert changed_modules(params.load()) == []
    assert reproduce(params.load()) and ran(made) == []


def kept(workspace: Path) -> str:
    return json.loads((workspace / "models/mine/card.json").read_text())["source"]


def test_after_a_pretraining_that_failed_the_network_is_not_the_one_before(made: Path) -> None:
    """DVC removes what a stage is to make, and would bring back the last of it."""
    (made / "their_nets.py").write_text("fault\n")
    assert not reproduce(params.load()) and not (made / "models/mine/card.json").exists()
    (made / "their_nets.py").write_text("a = 2\n")
    assert reproduce(params.load()) and ran(made) == ["mine"]
    assert kept(made) == hashlib.sha256(b"a = 2\n").hexdigest()


def test_a_network_that_was_removed_comes_back_as_its_module_is_now(made: Path) -> None:
    shutil.rmtree(made / "models/mine")
    (made / "their_nets.py").write_text("a = 2\n")
    assert reproduce(params.load()) and ran(made) == ["mine"]
    assert kept(made) == hashlib.sha256(b"a = 2\n").hexdigest()


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_does_so_too(made: Path) -> None:
    from flows.pipeline import pipeline

    pipeline()
    assert ran(made) == []
    shutil.rmtree(made / "models/mine")
    (made / "their_nets.py").write_text("a = 3\n")
    pipeline()
    assert ran(made) == ["mine"] and kept(made) == hashlib.sha256(b"a = 3\n").hexdigest()


def test_what_is_not_there_or_damaged_is_left_to_its_stage(made: Path) -> None:
    found = params.load()
    (made / "their_nets.py").rename(made / "away.py")
    assert changed_modules(found) == []
    (made / "away.py").rename(made / "their_nets.py")
    (made / "models/mine/card.json").write_text("[1")
    assert changed_modules(found) == []


def test_a_stage_asks_for_the_network_it_needs() -> None:
    found = params.parse({"families": {"mine": {"model": "their_nets:build"}, "other": {"model": "mlp"}},
                          "studies": {"theirs": {"study": "retrieval", "family": "mine"}}})
    for stages, needed in (([], ["mine", "other"]), (["report"], ["mine", "other"]), (["evaluate"], ["mine", "other"]),
                           (["svd@other"], ["other"]), (["study@theirs"], ["mine"]),
                           (["dvc.yaml:study@theirs"], ["mine"]), (["data", "baselines"], [])):
        assert _families(found, stages) == needed


@pytest.mark.parametrize("module", ["nets_alone", "package_with.nets", "package_of.folders.nets"])
def test_a_module_is_found_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"{module.replace('.', '/')}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "models/mine").mkdir(parents=True)
    (tmp_path / "models/mine/card.json").write_text(json.dumps({"model": f"{module}:build", "source": "0"}))
    found = params.parse({"families": {"mine": {"model": f"{module}:build"}}})
    assert changed_modules(found) == []
    file.write_text("raise RuntimeError('run')\n")
    if module.startswith("package_with"):
        (file.parent / "__init__.py").touch()
    before = list(sys.path)
    assert changed_modules(found) == ["mine"]
    assert sys.path == before and module not in sys.modules
