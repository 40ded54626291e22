"""Neither what is installed nor the least that pyproject.toml allows has a hole that is known to be mended.

The list is `known_holes.json` beside this file, kept by hand: tests have no network; `make audit` asks the public
databases. `looked_at.json` names every package that comes with the project, so that none comes unseen.
"""

from __future__ import annotations

import importlib.util
import json
import tomllib
from collections import Counter
from datetime import date
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LIST = json.loads((Path(__file__).parent / "known_holes.json").read_text(encoding="utf-8"))
LOOKED_AT = json.loads((Path(__file__).parent / "looked_at.json").read_text(encoding="utf-8"))["looked_at"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAMES = sorted({hole["package"] for hole in LIST["mended"]})


def mended(package: str) -> Version:
    """The first version without any of the package's holes."""
    return max(Version(hole["in"]) for hole in LIST["mended"] if hole["package"] == package)


@cache
def installed() -> dict[str, Version]:
    """Everything that the project brings along here, by whatever way, its extras included."""
    found: dict[str, Version] = {}
    seen: set[tuple[str, str]] = set()
    left = [("nfk", extra) for extra in ("", *PROJECT["project"]["optional-dependencies"])]
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        package = distribution(name)
        found[canonicalize_name(name)] = Version(package.version)
        for line in package.requires or []:
            asked = Requirement(line)
            if asked.marker is None or asked.marker.evaluate({"extra": extra}):
                left += [(asked.name, wanted) for wanted in ("", *asked.extras)]
    del found["nfk"]
    return found


def pinned() -> dict[str, Version]:
    lines = (ROOT / "infra/constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): Version(found) for name, _, found in
            (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))}


def least() -> dict[str, Version]:
    """The lowest version of each package that pyproject.toml allows."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    lines = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"],
             *(line for lines in extras for line in lines)]
    asked = [Requirement(line) for line in lines if not line.startswith("nfk[")]
    return {canonicalize_name(one.name): max(Version(bound.version) for bound in one.specifier
                                             if bound.operator == ">=") for one in asked}


def test_the_list_is_of_what_the_project_stands_on():
    assert len(NAMES) >= 14 and {"mlflow", "pillow", "pyarrow", "werkzeug"} <= set(NAMES) & set(least())


@pytest.mark.parametrize("package", [name for name in NAMES if name in least()])
def test_the_lower_bound_is_not_below_the_mended_version(package):
    assert least()[package] >= mended(package), (
        f"pyproject.toml allows {package} {least()[package]}, which has a hole: "
        f"{[hole['id'] for hole in LIST['mended'] if hole['package'] == package]}; raise it to {mended(package)}")


@pytest.mark.parametrize("package", [name for name in NAMES if name != "setuptools"])  # builds ask for their own
def test_what_is_installed_is_mended(package):
    assert package in installed(), f"{package} comes with the project no more; take it off known_holes.json"
    assert installed()[package] >= mended(package)


@pytest.mark.parametrize("package", NAMES)
def test_the_exact_versions_are_mended(package):
    assert package not in pinned() or pinned()[package] >= mended(package)


def test_every_package_was_looked_at():
    names = [name for part in LOOKED_AT for name in part["packages"]]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert all(name == canonicalize_name(name) for name in names)
    assert all(date.fromisoformat(part["on"]) and part["how"] for part in LOOKED_AT)
    unseen = sorted({*installed(), *pinned()} - set(names))
    assert unseen == [], f"nobody has looked at {unseen}; do, and name them in tests/infra/looked_at.json"
    gone = sorted(set(names) - {*installed(), *pinned()})
    assert gone == [], f"{gone} come with the project no more; take them off tests/infra/looked_at.json"


@pytest.mark.parametrize("hole", LIST["open"], ids=lambda hole: hole["id"])
def test_an_open_hole_is_still_open_and_told_to_people(hole):
    """A version above is to be looked at: it may be the mended one."""
    assert installed()[hole["package"]] <= Version(hole["up_to"])
    assert hole["told"] in (ROOT / "infra/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("flavour", ["statsmodels", "sklearn", "pyfunc/model", "pytorch"])
def test_mlflow_asks_before_it_unpickles(flavour):
    package = Path(importlib.util.find_spec("mlflow").origin).parent
    file = package / f"{flavour}.py" if "/" in flavour else package / flavour / "__init__.py"
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get()" in file.read_text(encoding="utf-8")
