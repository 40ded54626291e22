"""Named experiments: what they read, claim and write; the stages are stubs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows import experiment as module
from flows.experiment_index import write_page
from flows.experiment_spec import FOLDER, ExperimentError, load
from flows.own_workspace import StagesFailed
from tests.test_experiment_spec import ROOT, SPEC, write


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the experiment `two`, whose stages only note that they ran: seed s gives 0.5 + s / 10."""
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    (FOLDER / "results").mkdir()
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    write(SPEC)
    ran: list[str] = []

    def prepare(folder, commit, text):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "params.yaml").write_text(text)

    def run_stages(folder, say, *, seconds):
        ran.append(folder.name)
        params = json.loads((folder / "params.yaml").read_text())
        (folder / "evaluation/gan").mkdir(parents=True, exist_ok=True)
        (folder / "evaluation/gan/metrics.json").write_text(json.dumps({
            "features": {f"nfk-{params['svd']['rank']}": {"logistic": {"accuracy": 0.5 + params["seed"] / 10}}},
            "spectrum": {"components": [1, 10], "trained": [0.2, 0.6]}}))

    monkeypatch.setattr(module, "committed", lambda results: "0" * 40)
    monkeypatch.setattr(module, "prepare", prepare)
    monkeypatch.setattr(module, "run_stages", run_stages)
    return ran


def test_rows_spread_and_claims_are_over_the_seeds(project):
    table = module.experiment("two", say=lambda text: None).read_text()
    assert project == ["two-cpu-one-0", "two-cpu-one-1", "two-cpu-one-2"]
    assert "| left | 60.0 ± 5.8 % | 90.0 |" in table
    assert "| right | 60.0 ± 0.0 % | – |" in table
    assert "| left above right | 1 of 3 seeds | 0.0 ± 5.8 points |" in table
    kept = json.loads((FOLDER / "results/two-cpu.json").read_text())
    assert kept["rows"][0]["values"] == pytest.approx([0.5, 0.6, 0.7])
    assert {"machine", "date", "platform", "version.jax"} <= kept.keys()
    listed = (FOLDER / "results/README.md").read_text()
    assert f"| [two](two-cpu.md) | Two numbers: Table 0 | cpu | {kept['date']}, 3 seeds, commit " in listed
    assert listed.rstrip().endswith("| left above right: 1 of 3 |")
    (FOLDER / "results/two-cpu.json").unlink()
    write_page()
    assert "| two | Two numbers: Table 0 | cpu | not run (no time) | – |" in (FOLDER / "results/README.md").read_text()


def test_a_seed_more_is_joined_to_those_kept(project):
    module.experiment("two", seeds=[0], say=lambda text: None)
    file = FOLDER / "results/two-cpu.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"git.commit": "a" * 40}))
    table = module.experiment("two", seeds=[4, 1], say=lambda text: None).read_text()
    module.experiment("two", seeds=[1], say=lambda text: None)
    assert project == [f"two-cpu-one-{seed}" for seed in (0, 1, 4, 1)]
    kept = json.loads(file.read_text())
    assert kept["seeds"] == [0, 1, 4] and kept["rows"][0]["values"] == pytest.approx([0.5, 0.6, 0.9])
    assert kept["claims"][0] | {"holds": 1, "of": 3} == kept["claims"][0]
    assert [run["seeds"] for run in kept["earlier"]] == [[0], [4]] and kept["earlier"][0]["git.commit"] == "a" * 40
    assert "3 seeds" in table and "Of these seed 0: 0 s for what was not there before, on " in table
    write(SPEC | {"rows": SPEC["rows"][:1], "claims": []})
    with pytest.raises(ExperimentError, match="two: the kept results have other rows; run all seeds, without --seed"):
        module.experiment("two", seeds=[1], say=lambda text: None)
    module.experiment("two", say=lambda text: None)
    assert json.loads(file.read_text())["seeds"] == [0, 1, 2]


def test_a_slice_that_is_over_writes_no_table_and_says_how_to_go_on(project, monkeypatch):
    with pytest.raises(module.Unfinished, match="0 minutes are over before two-cpu-one-0; the same command goes on"):
        module.experiment("two", minutes=0.0, say=lambda text: None)

    def cut(folder, say, *, seconds):
        assert seconds <= 0.06
        while True:
            raise StagesFailed(f"{folder.name}: ran longer than seconds={seconds:g}")

    monkeypatch.setattr(module, "run_stages", cut)
    monkeypatch.setattr(module.time, "monotonic", iter([0.0, 0.01, 0.02, 1.0, 2.0]).__next__)
    with pytest.raises(module.Unfinished, match=r"0\.001 minutes are over in two-cpu-one-0"):
        module.experiment("two", minutes=0.001, say=lambda text: None)
    assert not (FOLDER / "results/two-cpu.md").exists()


def test_a_stage_that_fails_is_no_slice(project, monkeypatch):
    def fail(folder, say, *, seconds):
        raise StagesFailed("svd failed")

    monkeypatch.setattr(module, "run_stages", fail)
    with pytest.raises(StagesFailed, match="svd failed"):
        module.experiment("two", minutes=5.0, say=lambda text: None)


def test_numbers_and_pictures_of_a_study_are_kept(project, monkeypatch):
    write(SPEC | {"rows": [{"name": "error", "value": "one:studies/error:ways.stream.all", "shown": "number"}],
                  "claims": [], "pictures": [{"part": "one", "file": "studies/error/figures/errors.png",
                                              "shows": "Errors of the modes"}]})
    study = Path(".nfk/experiments")

    def run_stages(folder, say, *, seconds):
        (folder / "studies/error/figures").mkdir(parents=True)
        (folder / "studies/error/numbers.json").write_text(json.dumps({"ways": {"stream": {"all": 1.5e-7}}}))
        (folder / "studies/error/figures/errors.png").write_bytes(folder.name.encode())

    monkeypatch.setattr(module, "run_stages", run_stages)
    table = module.experiment("two", say=lambda text: None)
    assert "| error | 1.5e-07 ± 0 | – |" in table.read_text()
    picture, = (line for line in table.read_text().splitlines() if line.startswith("!"))
    assert picture == "![Errors of the modes](two-cpu-one-error-figures-errors.png)"
    assert (table.parent / "two-cpu-one-error-figures-errors.png").read_bytes() == b"two-cpu-one-0"
    (study / "two-cpu-one-0/studies/error/figures/errors.png").unlink()
    monkeypatch.setattr(module, "run_stages", lambda folder, say, *, seconds: None)
    with pytest.raises(ExperimentError, match=r"errors\.png is not there; correct the picture's file"):
        module.experiment("two", say=lambda text: None)


def test_a_row_or_picture_of_another_size_is_left_out_with_its_claims(project):
    other = {"name": "other", "value": "two:gan:spectrum.trained@10", "size": "paper"}
    sizes = SPEC["sizes"] | {"paper": {"expects": "days", "seeds": [0], "parts": {"one": {}, "two": {}}}}
    claims = [*SPEC["claims"], {"says": "left above other", "more": "left", "than": "other"}]
    pictures = [{"part": "two", "file": "studies/error/figures/errors.png", "shows": "Errors", "size": "paper"}]
    write(SPEC | {"sizes": sizes, "rows": [*SPEC["rows"], other], "claims": claims, "pictures": pictures})
    assert [row.name for row in load("two").at("paper").rows] == ["left", "right", "other"]
    table = module.experiment("two", say=lambda text: None).read_text()
    assert "| left |" in table and "left above right" in table
    assert "other" not in table and "Errors" not in table
    write(SPEC | {"rows": [*SPEC["rows"], other | {"size": "cpu"}], "sizes": sizes})
    with pytest.raises(ExperimentError, match=r"sizes\.cpu: no part 'two', which a row or a picture reads"):
        load("two")


def test_other_names_sizes_and_numbers_are_refused(project):
    with pytest.raises(ExperimentError, match="no experiment 'tow', did you mean 'two'"):
        load("tow")
    with pytest.raises(ExperimentError, match="two has no size 'paper'; there are cpu"):
        module.experiment("two", "paper")
    write(SPEC | {"rows": [{"name": "left", "value": "one:gan:spectrum.trained@7"}], "claims": []})
    with pytest.raises(ExperimentError, match=r"left: .*metrics\.json has no number at spectrum\.trained"):
        module.experiment("two", say=lambda text: None)


def test_a_set_that_would_be_fetched_is_read_from_a_copy_given(project, tmp_path):
    part = {"svd": {"rank": 16}, "data": {"name": "clothes", "source": "fashion-mnist"}}
    write(SPEC | {"sizes": {"cpu": SPEC["sizes"]["cpu"] | {"parts": {"one": part}}}})
    table = module.experiment("two", sources={"fashion-mnist": "copy"}, say=lambda text: None)
    made = json.loads(Path(".nfk/experiments/two-cpu-one-0/params.yaml").read_text())["data"]
    assert made["source"] == str(tmp_path / "copy") and made["name"] == "clothes"
    assert "; fashion-mnist: a copy given.\n" in table.read_text()
    assert json.loads(table.with_suffix(".json").read_text())["own_copies"] == ["fashion-mnist"]
    with pytest.raises(ExperimentError, match="--source cifar10: two at size cpu reads no such set; it reads "
                                              "fashion-mnist"):
        module.experiment("two", sources={"cifar10": "copy"}, say=lambda text: None)
