"""What the README shows works as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib

from tests.snippets import blocks


def test_the_library_example_runs(request):
    code, = blocks(request.config.rootpath / "README.md", "python")
    compiled = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # as a reader's is
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True,
                          cwd=request.config.rootpath, env=compiled, timeout=600)
    assert done.returncode == 0, done.stderr
    strategy, explained, residual = done.stdout.split()
    assert strategy in ("explicit", "gram", "panels", "cogram", "stored", "stream")
    assert 0 < float(explained) <= 1
    assert float(residual) < 1e-2


def test_a_newcomer_finishes_it_in_five_minutes(request):
    text = re.sub(r"^```.*?^```", "", (request.config.rootpath / "README.md").read_text(), flags=re.S | re.M)
    assert len(text.split()) <= 1200  # at 240 words a minute


def test_pictures_and_linked_files_are_there(request):
    root = request.config.rootpath
    text = (root / "README.md").read_text()
    assert len(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)) == 3
    linked = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert [target for target in linked if not (root / target).is_file()] == []


def test_the_tables_are_those_of_the_kept_results(request):
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.tables", "--check"], capture_output=True, text=True,
                          cwd=request.config.rootpath)
    assert done.returncode == 0, done.stderr


def test_help_is_quick_because_nothing_heavy_is_loaded(request):
    heavy = ["dvc", "jax", "matplotlib", "mlflow", "prefect", "sklearn", "zarr"]
    code = ("import sys; sys.argv = ['nfk', '--help']\nfrom nfk.cli import main\n"
            f"try:\n    main()\nexcept SystemExit:\n    print([name for name in {heavy} if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=request.config.rootpath)
    assert done.stdout.splitlines()[-1] == "[]"


def test_exact_versions_are_within_the_bounds(request):
    from packaging.requirements import Requirement

    root = request.config.rootpath
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    exact = dict(line.split("==") for line in (root / "infra/constraints.txt").read_text().splitlines() if "==" in line)
    versions = {name.lower().replace("_", "-"): version for name, version in exact.items()}
    extras = [text for group in project["optional-dependencies"].values() for text in group]
    for text in [*project["dependencies"], *extras]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:  # one extra brings another
            continue
        assert versions[requirement.name.lower()] in requirement.specifier, text
        assert any(clause.operator == "<" for clause in requirement.specifier), f"{text} has no upper bound"
