"""The file of a named experiment: what it says is read, and what is wrong with it is one line. Not among the tests of
the flows, which begin with a Prefect server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows.experiment_spec import FOLDER, ExperimentError, Row, load, names, params_text
from nfk.params import ParamsError
from nfk.params import load as load_params

ROOT = Path(__file__).parents[1]
SPEC = {
    "title": "Two numbers", "reproduces": "Table 0", "question": "Which is more?",
    "sizes": {"cpu": {"expects": "no time", "seeds": [0, 1, 2], "parts": {"one": {"svd": {"rank": 16}}}}},
    "rows": [{"name": "left", "value": "one:gan:features.nfk-16.logistic.accuracy", "paper": "90.0"},
             {"name": "right", "value": "one:gan:spectrum.trained@10"}],
    "claims": [{"says": "left above right", "more": "left", "than": "right"}],
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the experiment `two`."""
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    write(SPEC)
    return tmp_path


def write(spec):
    (FOLDER / "two.yaml").write_text(spec if isinstance(spec, str) else json.dumps(spec))


def test_it_is_read(project):
    found = load("two")
    assert (found.title, found.rows[0].paper, found.rows[1].paper) == ("Two numbers", "90.0", "–")
    assert (found.rows[0].part, found.sizes["cpu"].parts) == ("one", {"one": {"svd": {"rank": 16}}})


def test_one_of_another_name_is_refused_with_those_there_are(project):
    with pytest.raises(ExperimentError, match=r"no experiment 'tow', did you mean 'two'.*; there are two in infra"):
        load("tow")
    (FOLDER / "two.yaml").unlink()
    with pytest.raises(ExperimentError, match="no experiment 'two'; there are none in infra"):
        load("two")


@pytest.mark.parametrize("change, message", [
    ({"claims": [{"says": "x", "more": "left", "than": "rihgt"}]}, "no row 'rihgt'"),
    ({"rows": [{"name": "left", "value": "other:gan:a.b"}], "claims": []},
     "no part 'other', which a row or a picture reads"),
    ({"rows": [{"name": "left", "value": "gan"}], "claims": []}, r"rows\.0\.value: String should match pattern"),
    ({"question": None}, r"question: Input should be a valid string"),
    ({"pictures": [{"part": "two", "file": "studies/a/figures/b.png", "shows": "b"}]}, "no part 'two', which a row or"),
    ({"pictures": [{"part": "one", "file": "../a.png", "shows": "b"}]}, r"pictures\.0\.file: String should match"),
    ({"more": 1}, "more: Extra inputs are not permitted"),
])
def test_a_wrong_file_is_refused_in_one_line(project, change, message):
    write(SPEC | change)
    with pytest.raises(ExperimentError, match=message) as refused:
        load("two")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("text", ["title: [", "- two", "two", "", "title: 2001-01-01", "? [a]\n: b", "{" * 300,
                                  "title: !!python/object/apply:os.system [touch executed]"])
def test_what_is_no_plain_yaml_of_an_experiment_is_refused_in_one_line(project, text):
    write(text)
    with pytest.raises(ExperimentError, match=r"two\.yaml: ") as refused:
        load("two")
    assert str(refused.value).isprintable()
    assert not Path("executed").exists()


def test_a_size_has_what_it_names(project):
    sizes = SPEC["sizes"] | {"paper": {"expects": "days", "seeds": [0], "parts": {"one": {}, "two": {}}}}
    other = {"name": "other", "value": "two:gan:spectrum.trained@10", "size": "paper"}
    pictures = [{"part": "two", "file": "studies/error/figures/errors.png", "shows": "Errors", "size": "paper"}]
    claims = [*SPEC["claims"], {"says": "left above other", "more": "left", "than": "other"}]
    write(SPEC | {"sizes": sizes, "rows": [*SPEC["rows"], other], "claims": claims, "pictures": pictures})
    found = load("two")
    for size, rows in (("cpu", 2), ("paper", 3)):
        of_size = found.at(size)
        assert (len(of_size.rows), len(of_size.claims), len(of_size.pictures)) == (rows, rows - 1, rows - 2)


METRICS = {"features": {"nfk-16": {"logistic": {"accuracy": 0.75}}},
           "spectrum": {"components": [1, 10], "trained": [0.2, 0.6]}}


@pytest.mark.parametrize(("value", "file", "content", "expected"), [
    ("one:gan:features.nfk-16.logistic.accuracy", "evaluation/gan/metrics.json", METRICS, 0.75),
    ("one:gan:spectrum.trained@10", "evaluation/gan/metrics.json", METRICS, 0.6),
    ("one:pixels:features.pca-8.accuracy", "evaluation/pixels.json", {"features": {"pca-8": {"accuracy": 0.25}}}, 0.25),
    ("one:studies/error:ways.stream.all", "studies/error/numbers.json", {"ways": {"stream": {"all": 1e-7}}}, 1e-7),
])
def test_a_row_is_a_number_of_a_workspace(tmp_path, value, file, content, expected):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(json.dumps(content))
    assert Row(name="x", value=value).read(tmp_path) == expected


@pytest.mark.parametrize(("path", "why"), [
    ("features.nfk-32.logistic", "KeyError"), ("features", "TypeError"), ("features.nfk-16.logistic.accuracy.more",
                                                                         "TypeError"),
    ("spectrum.trained@7", "ValueError"), ("spectrum.short@10", "IndexError"), ("word", "ValueError"),
])
def test_a_number_that_is_not_there_is_told_by_its_place(tmp_path, path, why):
    file = tmp_path / "evaluation/gan/metrics.json"
    with pytest.raises(ExperimentError, match=r"has no number at .* \(FileNotFoundError\)"):
        Row(name="x", value="one:gan:a").read(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(METRICS | {"spectrum": METRICS["spectrum"] | {"short": [1]}, "word": "many"}))
    with pytest.raises(ExperimentError, match=rf"x: .*metrics\.json has no number at .* \({why}\); correct the row's"):
        Row(name="x", value=f"one:gan:{path}").read(tmp_path)


def test_families_are_replaced_and_other_sections_merged(project):
    made = json.loads(params_text({"families": {"a": {"model": "mlp"}}, "svd": {"rank": 8}}, seed=5))
    assert made["families"] == {"a": {"model": "mlp"}}
    assert (made["svd"]["rank"], made["svd"]["passes"], made["seed"]) == (8, 10, 5)
    assert made["studies"] == {}


def test_an_experiment_is_of_the_papers_vectors_unless_it_says_otherwise(project):
    """The shipped params.yaml has others."""
    assert load_params().svd.unit_rows and load_params().statistics.whitening == "kronecker"
    plain, asked = (json.loads(params_text(change, seed=0)) for change in ({}, {"svd": {"unit_rows": True}}))
    for made, unit_rows in ((plain, False), (asked, True)):
        assert made["statistics"]["whitening"] == "diagonal"
        assert (made["svd"]["damping"], made["svd"]["unit_rows"]) == (1e-3, unit_rows)


def test_a_change_that_params_yaml_cannot_have_is_refused(project):
    with pytest.raises(ParamsError, match=r"experiment: svd\.rank"):
        params_text({"svd": {"rank": 0}}, seed=0)


@pytest.mark.parametrize("name", [file.stem for file in (ROOT / FOLDER).glob("*.yaml")])
def test_the_shipped_experiments_make_params_that_can_be_used(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert name in names()
    for scale in load(name).sizes.values():
        for part in scale.parts.values():
            params_text(part, seed=scale.seeds[0])
