from __future__ import annotations

from pathlib import Path

import pytest
from example_report import draw, example_report

from nfk.report.content import Report


@pytest.fixture(scope="session")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example's figures."""
    folder = tmp_path_factory.mktemp("figures")
    draw(folder)
    return folder


@pytest.fixture
def report(drawings: Path) -> Report:
    return example_report(drawings)
