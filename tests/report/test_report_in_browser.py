"""The page as Chromium shows it: drawn in light and dark, and whole in its document tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from parsed_page import ParsedPage
from PIL import Image

from nfk.report.content import Report
from nfk.report.page import render
from tests.chromium import BROWSER, FLAGS, require

WIDTH, HEIGHT = 1280, 2000


@pytest.fixture
def page(report: Report, tmp_path: Path) -> Path:
    require()
    file = tmp_path / "report.html"
    file.write_text(render(report), encoding="utf-8")
    return file


def browse(page: Path, *flags: str) -> str:
    """Open the page once in a browser with a profile of its own; what it prints."""
    command = [BROWSER, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout


def screenshot(page: Path, *flags: str) -> np.ndarray:
    file = page.parent / "page.png"
    browse(page, f"--screenshot={file}", f"--window-size={WIDTH},{HEIGHT}", *flags)
    with Image.open(file) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_page_is_drawn(page: Path) -> None:
    seen = screenshot(page)
    assert seen.shape == (HEIGHT, WIDTH, 3)
    assert seen[0, 0].min() > 240, "paper is light"
    inked = (seen.min(axis=2) < 128).mean(axis=1)
    assert np.count_nonzero(inked) > 300, "rows with dark text"
    assert inked.mean() < 0.3, "mostly paper"
    # the embedding's blue dots stand in the comparison table
    assert np.count_nonzero((seen == (0x0B, 0x5A, 0x8A)).all(axis=2)) > 100


def test_page_is_dark_where_the_reader_wants_it_dark(page: Path) -> None:
    seen = screenshot(page, "--blink-settings=preferredColorScheme=0")
    assert seen[0, 0].max() < 60, "paper is dark"
    assert np.count_nonzero((seen.min(axis=2) > 180).mean(axis=1)) > 300, "rows with light text"


def test_tables_reach_the_document(page: Path, report: Report) -> None:
    seen = ParsedPage(browse(page, "--dump-dom"))
    sent = ParsedPage(page.read_text(encoding="utf-8"))
    assert seen.tables == sent.tables
    assert len(seen.tables) == 6 + 6 * len(report.families)
    assert "not tested" in seen.text
