"""`make test` fails where any of its parts does, and the modules whose branches it holds are all seen."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib

import pytest

PARTS = """
import sys
sys.stdout.buffer.write("×\\n".encode())
sys.exit({codes}["--cov" in sys.argv and "covered" or sys.argv[1] == "tests/flows" and "flows" or "others"])
"""
RUN = """
import sys
from tests import side_by_side
side_by_side.PYTEST = [sys.executable, "-c", sys.argv[1]]
sys.exit(side_by_side.main(["--option"]))
"""


@pytest.mark.parametrize("failed", ["flows", "covered", "others", None])
def test_one_part_that_fails_is_a_failure(pytestconfig, failed):
    codes = {part: 3 * (part == failed) for part in ("flows", "covered", "others")}
    done = subprocess.run([sys.executable, "-c", RUN, PARTS.format(codes=codes)], cwd=pytestconfig.rootpath,
                          capture_output=True, env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (3 if failed else 0, b"")
    assert done.stdout == "×\n".encode() * 3


def test_every_module_whose_branches_are_held_is_there_and_seen(pytestconfig):
    """One that nothing imports has no row in the report of coverage, and would pass."""
    settings = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())["tool"]["coverage"]
    assert settings["report"]["fail_under"] == 100
    for pattern in settings["run"]["include"]:
        files = sorted(pytestconfig.rootpath.glob(pattern))
        assert files, pattern
        for file in files:
            name = ".".join(file.relative_to(pytestconfig.rootpath).with_suffix("").parts).removesuffix(".__init__")
            assert importlib.import_module(name).__file__ == str(file)
