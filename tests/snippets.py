"""What the README and the pages of infra/docs show: their code blocks, and whether a shell line says what exists."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import typer
import typer.main

from nfk.cli import app

UsageError: Any = typer.BadParameter.__base__
"""What typer's parser raises for any line that it refuses"""
OTHERS = {"cp", "dvc", "git", "kubectl", "mlflow", "pre-commit", "prefect", "sbatch", "source"}
"""Programs that pages name beside this project's own: their options are not ours to check."""


def pages(root: Path) -> list[Path]:
    """The README, that of infra, and every page of the documentation."""
    return [root / "README.md", root / "infra/README.md", *sorted((root / "infra/docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def shell_lines(page: Path) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]


def faults(line: str, root: Path) -> str | None:
    """What is wrong with one line of shell, None if nothing is."""
    words = shlex.split(line, comments=True)
    if not words or words[0] in OTHERS:
        return None
    program, *arguments = words
    if program == "nfk":
        return _command_line(arguments)
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
        return None if set(arguments) <= targets else f"no such target: {line}"
    if program == "python" and arguments[:1] == ["-m"]:
        return _module(arguments[1], arguments[2:])
    if program == "curl":
        return _served(line, root)
    if (script := root / program).is_file():
        unknown = [word for word in arguments if word not in script.read_text()]
        return f"{program} knows no {unknown[0]}" if unknown else None
    return f"{program} is no program that a page may name: {line}"


def _command_line(arguments: list[str]) -> str | None:
    """By the parser of the command line itself; nothing is run."""
    command: Any = typer.main.get_command(app)
    name = "nfk"
    while hasattr(command, "commands"):
        if not arguments or arguments[0] not in command.commands:
            return f"{name}: no such command: {' '.join(arguments)}"
        name, command = f"{name} {arguments[0]}", command.commands[arguments[0]]
        arguments = arguments[1:]
    try:
        command.make_context(name, list(arguments))
    except UsageError as error:
        return f"{name}: {error.format_message()}"
    return None


def _module(name: str, arguments: list[str]) -> str | None:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        return f"no module {name}"
    source = Path(found.origin).read_text(encoding="utf-8")
    for option in (word for word in arguments if word.startswith("--")):
        if f'"{option}"' not in source and not re.search(rf"\b{option[2:].replace('-', '_')}\w*: Annotated", source):
            return f"{name} has no {option}"
    return None


def _served(line: str, root: Path) -> str | None:
    """What is wrong with the address of a request to `nfk serve`."""
    code = "".join(file.read_text() for file in (root / "nfk/service").glob("*.py"))
    path = re.search(r"http://127\.0\.0\.1:\d+(/[a-z]+)", line)
    return None if path and f'"{path[1]}"' in code else f"nfk serve has no such address: {line}"
