"""The directive `command-line`: every command of the typer application with its arguments, options and defaults."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import typer.main
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

Command = Any
"""typer's own copy of click's class"""


def commands(command: Command, name: str) -> Iterator[tuple[str, Command]]:
    """Each command that does something, by its whole name, in the order of the help text."""
    if hasattr(command, "commands"):
        for sub, inner in command.commands.items():
            yield from commands(inner, f"{name} {sub}")
    else:
        yield name, command


def parameters(command: Command) -> list[tuple[str, str]]:
    """(how it is written, what it means and its default) of each argument and option, as `--help` says them."""
    context = typer.Context(command, info_name=command.name)
    records = [parameter.get_help_record(context) for parameter in command.params if parameter.name != "help"]
    return [(written, meaning.replace("*", r"\*")) for written, meaning in records]


def text(command: Command) -> str:
    return inspect.cleandoc((command.help or "").replace("\b", ""))


class CommandLine(SphinxDirective):
    """`{command-line} nfk.cli:app nfk`"""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        module, _, attribute = self.arguments[0].partition(":")
        root = typer.main.get_command(getattr(importlib.import_module(module), attribute))
        lines: list[str] = []
        for name, command in commands(root, self.arguments[1]):
            lines += [f"## {name}", "", text(command), ""]
            for written, meaning in parameters(command):
                lines += [f"`{written}`", f": {meaning}", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
