"""The table of faults on the page is that of the results beside it."""

from __future__ import annotations

from tests.faults import table


def test_the_page_says_what_the_results_say():
    text = table.PAGE.read_text(encoding="utf-8")
    assert table.page(text) == text
    assert len(table.lines()) > 60
