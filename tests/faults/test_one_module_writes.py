"""All changes to a disk are made by `nfk.durable`: what the enumeration of faults cannot see must not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ITSELF = "nfk/durable.py"
PAGES = {"flows/experiment.py", "flows/experiment_index.py"}
"""Tables and pictures of experiments, committed by hand: nothing reads them but people."""

_MODE = re.compile(r"(?=.*[wax+])[rwaxbt+]{1,4}")
_OF_OS = {"rename", "renames", "replace", "remove", "unlink", "rmdir", "removedirs", "mkdir", "makedirs", "write",
          "pwrite", "writev", "pwritev", "fsync", "fdatasync", "truncate", "ftruncate", "link", "symlink"}
_OF_SHUTIL = {"copy", "copy2", "copyfile", "copyfileobj", "copytree", "move", "rmtree", "make_archive"}
_METHODS = {"write_text", "write_bytes", "unlink", "mkdir", "rmdir", "rename", "touch", "symlink_to", "hardlink_to",
            "tofile", "to_csv", "savez", "savez_compressed", "save_file", "NamedTemporaryFile", "TemporaryFile",
            "mkstemp", "mkdtemp"}
_WRITING = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"}


def writes(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each call that would change a disk."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        of, name = None, getattr(call.func, "id", None)
        if isinstance(call.func, ast.Attribute):
            of, name = getattr(call.func.value, "id", None), call.func.attr
        texts = [arg.value for arg in (*call.args, *(keyword.value for keyword in call.keywords))
                 if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        flags = {node.attr for arg in call.args for node in ast.walk(arg) if isinstance(node, ast.Attribute)}
        if (of == "durable"
                or (name == "replace" and of != "os" and (len(call.args) != 1 or call.keywords))):  # of text, dates
            continue
        if ((name in ("open", "fdopen") and (flags & _WRITING or any(_MODE.fullmatch(text) for text in texts)))
                or (of == "os" and name in _OF_OS) or (of == "shutil" and name in _OF_SHUTIL)
                or (name == "replace" and of is not None) or (name == "replace" and of is None and call.args)
                or (name in _METHODS and isinstance(call.func, ast.Attribute))
                or name in {"NamedTemporaryFile", "TemporaryFile", "mkstemp", "mkdtemp", "copyfile", "rmtree"}):
            yield call.lineno, f"{of}.{name}" if of else str(name)


def product() -> list[Path]:
    return [file for folder in ("nfk", "flows") for file in sorted((ROOT / folder).rglob("*.py"))]


def test_nothing_else_in_the_product_changes_a_disk():
    files = product()
    assert len(files) > 100
    found = [f"{file.relative_to(ROOT)}:{line}: {call}" for file in files
             if (name := str(file.relative_to(ROOT))) != ITSELF and name not in PAGES
             for line, call in writes(file.read_text(encoding="utf-8"))]
    assert found == []


def test_it_itself_does():
    assert {call for _, call in writes((ROOT / ITSELF).read_text(encoding="utf-8"))} >= {
        "os.pwrite", "os.fsync", "os.rename", "os.unlink", "os.mkdir", "os.rmdir"}


@pytest.mark.parametrize("line", [
    "open(path, 'w')", "open(path, mode='ab')", "path.open('x')", "os.open(path, os.O_RDWR | os.O_CREAT)",
    "path.write_text('')", "path.write_bytes(b'')", "path.replace(other)", "os.replace(a, b)", "os.rename(a, b)",
    "path.rename(b)", "path.unlink(missing_ok=True)", "path.mkdir()", "shutil.rmtree(folder)", "shutil.copyfile(a, b)",
    "tempfile.NamedTemporaryFile()", "np.savez(path, a=a)", "os.fsync(handle)", "(folder / 'a').touch()",
])
def test_each_way_is_seen(line):
    assert len(list(writes(line))) == 1


@pytest.mark.parametrize("line", [
    "open(path)", "open(path, 'rb')", "path.open('rb')", "archive.open(name)", "text.replace('a', 'b')",
    "date.replace(tzinfo=UTC)", "durable.rename(a, b)", "os.open(path, os.O_RDONLY)",
    "tarfile.open(fileobj=f, mode='r|')",
])
def test_what_only_reads_is_let_be(line):
    assert list(writes(line)) == []
