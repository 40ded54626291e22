"""Docstrings of this project as reStructuredText: they are plain text in which `*`, `_` and `|` mean themselves.

What they have of form is kept: `names` in backticks (linked where the reference has them), indented code, tables of
bars, and lines such as "rank: k, the numbers each example gets" with what hangs below them. Signatures are shown as the
source has them: evaluated, a shape such as Float[Array, "n k"] would become what jaxtyping makes of it.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from typing import Any

from sphinx.application import Sphinx

_CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
_NAME = re.compile(r"[A-Za-z_][\w.]*$")
_ITEM = re.compile(r"([a-z_][a-z0-9_]*(?:, [a-z_][a-z0-9_]*)*): (.*)", re.DOTALL)
_LABEL = re.compile(r"(?:^|(?<=\. )|(?<=\n))(Cost|Memory|Precision|Raises|Source|Returns)\b(:?)")


def to_restructured_text(docstring: str) -> str:
    """The docstring, dedented already, with everything that reStructuredText would take for markup escaped."""
    return "\n\n".join(_block(block) for block in re.split(r"\n[ \t]*\n", docstring.strip("\n"))) + "\n"


def _block(block: str) -> str:
    lines = block.split("\n")
    if len(lines) > 2 and all(line.lstrip().startswith("|") for line in lines):
        return _table(lines)
    if all(line.startswith("    ") for line in lines):
        return "::\n\n" + "\n".join(lines)
    items = _items(lines)
    if items:
        return "\n".join(f"{_names(names)}\n    {_text(text)}" for names, text in items)
    return _text(" ".join(line.strip() for line in lines))


def _items(lines: list[str]) -> list[tuple[str, str]]:
    """(names, text) of each line "names: text" with the indented lines below it, if the block is made of these."""
    joined: list[str] = []
    for line in lines:
        if line.startswith("    ") and joined:
            joined[-1] += " " + line.strip()
        else:
            joined.append(line)
    found = [_ITEM.fullmatch(item) for item in joined]
    if not all(found) or len(lines) == 1:  # one line alone is a sentence that begins so
        return []
    return [(match[1], match[2]) for match in found if match]


def _table(lines: list[str]) -> str:
    """A list-table of the rows; one whose first cell is empty goes on the row above it."""
    rows: list[list[str]] = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if set("".join(cells)) <= set("-: "):
            continue
        if rows and not cells[0]:
            rows[-1] = [f"{above} {more}".strip() for above, more in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    body = ["\n".join(f"   {'* -' if column == 0 else '  -'} {_text(cell)}" for column, cell in enumerate(row))
            for row in rows]
    return ".. list-table::\n   :header-rows: 1\n\n" + "\n".join(body)


def _names(names: str) -> str:
    return ", ".join(f"``{name}``" for name in names.split(", "))


def _text(text: str) -> str:
    parts = _CODE.split(text)
    return "".join(_code(part.strip("`")) if index % 2 else _labelled(part) for index, part in enumerate(parts))


def _code(code: str) -> str:
    return f":py:obj:`{code}`" if _NAME.match(code) and "." in code else f"``{code}``"


def _labelled(text: str) -> str:
    escaped = re.sub(r"([\\*|_`])", r"\\\1", text)
    return _LABEL.sub(lambda match: f"**{match[1]}{match[2]}**", escaped)


def signature(found: Any) -> tuple[str, str] | None:
    """(arguments, result) as the source writes them, without self or cls; None where there is no function to read."""
    function = found.__init__ if inspect.isclass(found) else inspect.unwrap(getattr(found, "__func__", found))
    try:
        [node] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError):
        return None
    if not isinstance(node, ast.FunctionDef):
        return None
    if node.args.args[:1] and node.args.args[0].arg in ("self", "cls"):
        node.args.args.pop(0)
    shown = (ast.unparse(node.args), ast.unparse(node.returns) if node.returns else "")
    arguments, result = (text.replace(", ' ", ", '") for text in shown)  # one axis: the space is for linters
    return f"({arguments})", result


def _shown(app: Sphinx, what: str, name: str, found: Any, options: Any, arguments: str | None,
           result: str | None) -> Any:
    if what not in ("class", "exception", "function", "method") or arguments is None:
        return None
    if what in ("class", "exception"):
        shown = signature(found) if getattr(found.__init__, "__module__", None) == found.__module__ else None
        return (shown[0] if shown else ""), ""
    return signature(found)


def _process(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    if lines and lines[0].startswith("Alias for field number"):  # what Python writes where a field has no words
        lines.clear()
    if lines:
        lines[:] = to_restructured_text("\n".join(lines)).split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _shown)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
