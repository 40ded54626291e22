"""The table of faults on the page is that of the results beside it."""

from __future__ import annotations

from tests.faults import table


def counts() -> dict[str, tuple[int, int]]:
    """Times tried and survived, by fault."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.lines()]
    return {row[0]: (int(row[1].replace(",", "")), int(row[2].replace(",", ""))) for row in rows
            if len(row) == 3 and row[1][:1].isdigit()}


def test_everything_tried_was_survived_and_enough_was_tried():
    found = counts()
    assert len(found) == len(table.lines()) - 2
    assert {fault: both for fault, both in found.items() if both[0] != both[1] or both[0] == 0} == {}

    def tried(start: str) -> int:
        return sum(both[0] for fault, both in found.items() if fault.startswith(start))

    assert tried("each disk operation") >= 5_000
    assert tried("a second such fault") >= 500
    assert tried("SIGKILL at a random moment") >= 200
    assert tried("a store of 19 KiB: bit flipped") >= 16 * 1024 * 8
    assert min(both[0] for fault, both in found.items() if fault.startswith("requests to `nfk serve`")) >= 20_000
    assert sum(fault.startswith("files damaged at random") for fault in found) >= 23
    assert {row["seconds"] >= 600 for row in table.counted("fuzz")["rows"]} == {True}


def test_the_page_says_what_the_results_say():
    text = table.PAGE.read_text(encoding="utf-8")
    assert table.page(text) == text
    assert len(table.lines()) > 60
