"""What a reader of a stranger's file may not do, watched from inside the process that reads it.

Not: run code (exec, os.system, a process, an unpickled name, a library), write, rename or remove anything outside
its scratch folder, open a connection, or take more than 1 GiB of memory.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType
from typing import Any

import psutil

MEMORY = 1 << 30
_FORBIDDEN = {
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.Popen",
    "pickle.find_class", "marshal.loads", "ctypes.dlopen", "code.__new__", "socket.connect", "socket.bind",
    "socket.getaddrinfo", "urllib.Request", "builtins.input", "webbrowser.open", "os.putenv",
}
_CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
            "os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile", "shutil.copytree",
            "shutil.unpack_archive", "os.setxattr"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Forbidden(BaseException):
    """What a reader did and must not; no `except Exception` of a reader hides it."""


class Guard:
    """Audits this process from the first `armed` on; hooks cannot be taken out, so make one a process."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._on = f"{scratch.resolve()}{os.sep}", False
        self.seen: list[str] = []
        """in order; an except that is bare would hide a raised one, so the list is what counts"""
        sys.addaudithook(self._hook)

    @contextmanager
    def armed(self) -> Iterator[None]:
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on or not self._is_forbidden(event, arguments):
            return
        self._on = False
        self.seen.append(f"{event} {str(arguments)[:200]}")
        self._on = True
        raise Forbidden(self.seen[-1])

    def _is_forbidden(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event in _FORBIDDEN:
            return not (event == "marshal.loads" and _called_by("importlib._bootstrap_external"))  # a module's .pyc
        if event == "exec":  # a module's own code, and what dataclasses write, come from files or from the library
            code = arguments[0]
            return not isinstance(code, CodeType) or (code.co_filename.startswith("<") and not _of_the_library())
        if event == "open":
            path, _, flags = arguments
            return bool(flags and flags & _WRITING) and not isinstance(path, int) and not self._inside(path)
        return event in _CHANGES and not self._inside(arguments[0])

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return True  # an open file, whose opening was seen
        text = os.fsdecode(path)
        return text == os.devnull or os.path.realpath(text).startswith(self._scratch)


def _of_the_library() -> bool:
    """Whether what executes text is `collections` (namedtuple) or `dataclasses`, as modules do when imported."""
    return _called_by("collections", "dataclasses", "typing", "attr._make", "importlib._bootstrap")


def _called_by(*modules: str) -> bool:
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and frame.f_globals.get("__name__") in modules


def limit_memory(more: int = MEMORY) -> None:
    """No more address space than is in use now and `more`; a reader that asks for it meets a MemoryError."""
    limit = psutil.Process().memory_info().vms + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def wants_too_much(error: BaseException | None) -> bool:
    """Whether a MemoryError is among the causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def files_below(folder: Path) -> set[str]:
    """Every name below `folder`."""
    found = set()
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            with suppress(ValueError):
                found.add(str(Path(parent, name).relative_to(folder)))
    return found
