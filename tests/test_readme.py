"""What the README shows works as printed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib


def blocks(project, language):
    return re.findall(rf"```{language}\n(.*?)```", (project / "README.md").read_text(), re.S)


def test_the_library_example_runs(request):
    code, = blocks(request.config.rootpath, "python")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True,
                          cwd=request.config.rootpath, timeout=300)
    assert done.returncode == 0, done.stderr
    strategy, explained, residual = done.stdout.split()
    assert strategy in ("explicit", "gram", "cogram", "stored", "stream")
    assert 0 < float(explained) <= 1
    assert float(residual) < 1e-2


def test_the_commands_named_exist(request):
    root = request.config.rootpath
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.M))
    shell = "".join(blocks(root, "sh"))
    assert set(re.findall(r"^make (\w+)", shell, re.M)) <= targets
    known = subprocess.run([sys.executable, "-m", "nfk", "--help"], capture_output=True, text=True, cwd=root).stdout
    for command in re.findall(r"^nfk (\w+)", shell, re.M):
        assert re.search(rf"^  {command}\b", known, re.M), command


def test_the_pictures_are_there(request):
    root = request.config.rootpath
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (root / "README.md").read_text())
    assert pictures
    assert all((root / picture).is_file() for picture in pictures)


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
