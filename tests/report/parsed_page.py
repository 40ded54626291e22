"""The page as a reader's program sees it: its tables, its text and all that it points to."""

from __future__ import annotations

from html.parser import HTMLParser

EMPTY = frozenset({"meta", "link", "img", "br"})  # elements without an end tag


class ParsedPage(HTMLParser):
    """Reads one page; refuses tags that do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        """rows of cells by the label of the box that the table scrolls in"""
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self._label = ""
        self.feed(page)
        self.close()
        if self._open:
            raise ValueError(f"never closed: {self._open}")
        self.text = " ".join(self.text.split())
        self.tables = {label: [[" ".join(cell.split()) for cell in row] for row in rows]
                       for label, rows in self.tables.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.attributes.append((tag, values))
        if "aria-label" in values:
            self._label = values["aria-label"]
        if tag == "table":
            if self._label in self.tables:
                raise ValueError(f"two tables are labelled {self._label!r}")
            self.tables[self._label] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            raise ValueError(f"</{tag}> at {self.getpos()} closes {self._open[-3:]}")
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if "th" in self._open or "td" in self._open:
            self._rows[-1][-1] += data

    @property
    def _rows(self) -> list[list[str]]:
        return self.tables[self._label]

    def row(self, table: str, first: str) -> list[str]:
        """The one row of the table whose first cell is `first`."""
        (found,) = [row for row in self.tables[table] if row[0] == first]
        return found

    def values(self, tag: str, attribute: str) -> list[str]:
        """An attribute of every such tag that has it."""
        return [values[attribute] for found, values in self.attributes
                if found == tag and attribute in values]
