"""Results of other data, models, factors, parameters: refused by digest, naming the two that disagree."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nfk import store
from nfk.models.checkpoint import ModelError
from nfk.params import Params, ParamsError
from nfk.stages import evaluate, images, network
from nfk.store import StoreError
from tests.faults import pipeline
from tests.faults.pipeline import FAMILY, STAGES, STORES

MODEL = Path(f"models/{FAMILY}")
WIDE, WIDER = ({"families": {FAMILY: {"model": "mlp", "hidden": hidden, "epochs": 1, "batch": 4}}} for hidden in (8, 9))


def settings(**sections: dict) -> Params:
    return pipeline.settings(**{**WIDE, **sections})


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory):
    """`own`; `model`: another network on the same data; `data`: the same network's settings on other data."""
    folder, before = tmp_path_factory.mktemp("mixing"), Path.cwd()
    with pipeline.warm():
        for name, seed, sections in (("own", 0, {}), ("model", 0, WIDER), ("data", 1, {})):
            (folder / name).mkdir()
            os.chdir(folder / name)
            pipeline.images(seed=seed)
            for stage in ("data", "pretrain", *STAGES[1:]):
                pipeline.run(stage, settings(**sections))
        os.chdir(before)
        yield folder


@pytest.fixture
def mixed(workspaces, tmp_path, monkeypatch):
    """A copy of `own` to work in, and a function that brings a thing of another workspace in."""
    shutil.copytree(workspaces / "own", tmp_path / "mixed")
    monkeypatch.chdir(tmp_path / "mixed")

    def bring(path: Path, workspace: str) -> None:
        shutil.rmtree(path)
        shutil.copytree(workspaces / workspace / path, path)

    return bring


def disagrees(error: pytest.ExceptionInfo, path: Path, what: str, made_from: str, here: str) -> None:
    said = str(error.value)
    assert said == (f"{path} was made from {what} {made_from[:12]}, but the {what} here is {here[:12]}; "
                    "remake it with `nfk repro`")


def model_digest() -> str:
    return network.digest(network.checkpoint.read_card(MODEL))


def inputs(stage: str) -> dict[str, str]:
    return dict(store.read(STORES[stage]).inputs)


def test_statistics_of_another_model(mixed):
    mixed(STORES["statistics"], "model")
    with pytest.raises(StoreError) as error:
        pipeline.run("svd", settings())
    disagrees(error, STORES["statistics"], "model", inputs("statistics")["model"], model_digest())


def test_another_model_under_statistics(mixed):
    mixed(MODEL, "model")
    for stage in ("svd", "embed"):
        with pytest.raises(StoreError) as error:
            pipeline.run(stage, settings(**WIDER))
        disagrees(error, STORES["statistics"], "model", inputs("statistics")["model"], model_digest())


def test_other_data_under_statistics(mixed):
    mixed(STORES["data"], "data")
    with pytest.raises(StoreError) as error:
        pipeline.run("svd", settings())
    disagrees(error, STORES["statistics"], "data", inputs("statistics")["data"], pipeline.found("data"))


@pytest.mark.parametrize("workspace, what", [("data", "data"), ("model", "model")])
def test_factors_of_other_data_or_another_model(mixed, workspace, what):
    mixed(STORES["svd"], workspace)
    with pytest.raises(StoreError) as error:
        pipeline.run("embed", settings())
    here = {"data": pipeline.found("data"), "model": model_digest()}[what]
    disagrees(error, STORES["svd"], what, inputs("svd")[what], here)


def test_factors_of_other_statistics(mixed):
    """As after an edit of params.yaml: statistics made anew with fewer samples, the factors as they were."""
    fewer = settings(statistics={"model_samples": 8, "block": 4})
    pipeline.run("statistics", fewer)
    with pytest.raises(StoreError) as error:
        pipeline.run("embed", fewer)
    disagrees(error, STORES["svd"], "statistics", inputs("svd")["statistics"], pipeline.found("statistics"))


def test_embeddings_of_other_factors(mixed):
    pipeline.run("svd", settings(svd={"rank": 2, "damping": 0.1, "strategy": "explicit", "block": 4}))
    with pytest.raises(StoreError) as error:
        evaluate.run(settings(), FAMILY)
    disagrees(error, STORES["embed"], "factors", inputs("embed")["factors"], pipeline.found("svd"))


def test_statistics_in_other_parameters(mixed):
    other = settings(theta={FAMILY: {"include": [".*kernel"]}})
    found = network.load(settings(), FAMILY)
    narrowed = found._replace(scores=network.scores(other, FAMILY, found.model))
    with pytest.raises(StoreError) as error:
        network.load_statistics(other, narrowed, images.load(other))
    disagrees(error, STORES["statistics"], "theta", inputs("statistics")["theta"], narrowed.theta)


SAME = {section: getattr(settings(), section).model_dump(mode="json") for section in ("statistics", "svd")}
OTHERS = [("statistics", "whitening", "kronecker", "diagonal"), ("statistics", "model_samples", 16, 8),
          ("svd", "damping", 0.1, 0.5), ("svd", "unit_rows", True, False), ("svd", "rank", 2, 1),
          ("svd", "examples", None, 8)]


def says_otherwise(error: pytest.ExceptionInfo, stage: str, setting: str, made: object, now: object) -> None:
    assert str(error.value) == (f"{STORES[stage]} was made with {setting}={made}, but params.yaml says {now}; "
                                f"remake it with `nfk repro`, or set {setting} back")


@pytest.mark.parametrize("section, name, made, now", OTHERS)
def test_another_normalisation_in_params(mixed, section, name, made, now):
    """Or an older params.yaml, whose keys are those of today: what was made by others of its values is refused, by
    each stage that is started by hand (DVC would remake it first)."""
    other = settings(**{section: {**SAME[section], name: now}})
    for stage in ("svd", "embed", "evaluate") if section == "statistics" else ("embed", "evaluate"):
        before = pipeline.found("embed")
        with pytest.raises(StoreError) as error:
            evaluate.run(other, FAMILY) if stage == "evaluate" else pipeline.run(stage, other)
        says_otherwise(error, section, f"{section}.{name}", made, now)
        assert pipeline.found("embed") == before


def test_another_seed_in_params(mixed):
    other = settings().model_copy(update={"seed": 3})
    for stage in ("svd", "embed"):
        with pytest.raises(StoreError) as error:
            pipeline.run(stage, other)
        says_otherwise(error, "statistics", "seed", 0, 3)


@pytest.mark.parametrize("section, name, made, now", [OTHERS[0], OTHERS[2], OTHERS[3]])
def test_stores_that_do_not_say_their_settings_show_their_normalisation(mixed, monkeypatch, section, name, made, now):
    """Older ones: Kronecker factors are there or not, and `svd` always kept how it whitened."""
    read = store.read

    def older(path: Path) -> store.Store:
        found = read(path)
        return replace(found, attributes={key: value for key, value in found.attributes.items() if key != "made_with"})

    monkeypatch.setattr(store, "read", older)
    pipeline.run("embed", settings())
    with pytest.raises(StoreError) as error:
        pipeline.run("embed", settings(**{section: {**SAME[section], name: now}}))
    says_otherwise(error, section, f"{section}.{name}", made, now)


def test_how_factors_are_found_is_no_other_normalisation(mixed):
    before = pipeline.found("embed")
    pipeline.run("embed", settings(svd={**SAME["svd"], "strategy": "explicit", "block": 8, "passes": 9,
                                        "oversampling": 3, "tolerance": 1e-2, "memory_gib": 1.0}))
    assert pipeline.found("embed") == before


def test_weights_of_another_network_under_a_card(mixed, workspaces):
    weights = network.checkpoint.WEIGHTS
    shutil.copyfile(workspaces / "model" / MODEL / weights, MODEL / weights)
    with pytest.raises(ModelError, match=f"{re.escape(str(MODEL / weights))}: SHA-256 [0-9a-f]{{64}} is not [0-9a-f]"):
        network.checkpoint.load(MODEL)


def test_a_params_file_of_another_version():
    """Its keys are no longer those of today; where they are, `test_another_normalisation_in_params`."""
    with pytest.raises(ParamsError, match=r"svd\.iterations"):
        settings(svd={"rank": 2, "iterations": 3})
