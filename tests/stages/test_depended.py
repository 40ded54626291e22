"""What a stage was made of is what DVC writes down, or the stage fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfk.stages import depended, runner
from nfk.stages.outcome import Outcome

DVC_YAML = """\
stages:
  svd:
    foreach: ${families}
    do:
      cmd: nfk svd ${key}
      deps: ["data/${data.name}.zarr", "models/${key}/card.json", code, absent.txt]
      params: [seed, svd, "families.${key}", others.yaml: [a]]
      outs: ["factors/${key}"]
"""
PARAMS = """\
seed: 1
data: {name: digits}
families: {gan: {model: dcgan}, vae: {model: conv_vae}}
svd: {rank: 8}
report: {title: one}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nfk.tracking.log", lambda *_: True)
    for name, text in (("dvc.yaml", DVC_YAML), ("params.yaml", PARAMS), ("models/gan/card.json", "{}"),
                       ("models/vae/card.json", "{}"), ("code/a.py", "a = 1\n"), ("data/digits.zarr/c/0", "x" * 9)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "data/digits.zarr/c/1").write_bytes(bytes(2 << 20))
    return tmp_path


def run_while(monkeypatch, change) -> None:
    def stage(*_):
        change()
        return Outcome("done", figures=[], metrics={})

    monkeypatch.setattr(runner, "_call", stage)
    runner.run("svd", "gan")


@pytest.mark.parametrize(("name", "text", "told"), [
    ("params.yaml", PARAMS.replace("rank: 8", "rank: 9"), r"svd of params\.yaml"),
    ("params.yaml", PARAMS.replace("seed: 1", "seed: 2"), r"seed of params\.yaml"),
    ("params.yaml", PARAMS.replace("dcgan", "resnet_gan").replace("seed: 1", "seed: 2"),
     r"seed of params\.yaml \(and 1 more\)"),
    ("models/gan/card.json", '{"model": 1}', r"models/gan/card\.json"),
    ("code/a.py", "a = 2\n", "code"),
    ("code/deep/b.py", "", "code"),
    ("data/digits.zarr/c/0", "y" * 9, r"data/digits\.zarr"),
    ("data/digits.zarr/c/1", "y" * (2 << 20), r"data/digits\.zarr"),
    ("absent.txt", "here", r"absent\.txt"),
])
def test_what_changed_while_it_ran_is_named(folder, monkeypatch, name, text, told):
    def change():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    with pytest.raises(depended.ChangedMeanwhile, match=rf"^svd@gan: {told} changed while it ran, and DVC would take "
                                                        "the result for one of what it is now; run it again$"):
        run_while(monkeypatch, change)
    run_while(monkeypatch, lambda: None)


@pytest.mark.parametrize(("name", "text"), [
    ("params.yaml", PARAMS.replace("title: one", "title: two").replace("conv_vae", "mlp")),
    ("models/vae/card.json", '{"model": 1}'),
    ("code/__pycache__/a.pyc", "compiled"),
    ("code/a.py", "a = 1\n"),  # the same again
    ("factors/gan", "its own result"),
])
def test_what_it_does_not_depend_on_may_change(folder, monkeypatch, name, text):
    def change():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    run_while(monkeypatch, change)


def test_without_a_pipeline_nothing_is_depended_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert depended.seen("svd", "gan") == {}
    (tmp_path / "dvc.yaml").write_text("")
    assert depended.seen("svd", "gan") == {}
    (tmp_path / "dvc.yaml").write_text("stages: {svd: {deps: ['${item.family}.txt']}}")
    (tmp_path / "params.yaml").write_text("studies: [noise]")  # no study has that name
    assert list(depended.seen("svd", "gan")) == ["None.txt"]
