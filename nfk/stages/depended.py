"""What DVC takes a stage to depend on, before the stage and after: DVC itself records it only once the stage has ended,
so that a file or parameter changed meanwhile would pass for what the result was made of (treeverse/dvc#11058).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nfk import tracking
from nfk.one_line import OneLine
from nfk.params import PARAMS_FILE
from nfk.store import file_digest, json_digest

PIPELINE = Path("dvc.yaml")
_READ = 1 << 20  # bytes; of a larger file, number, size and time are held to tell


class ChangedMeanwhile(OneLine):
    """What a stage depends on is not what it was when the stage began; the message names it."""


def seen(stage: str, family: str | None) -> dict[str, str]:
    """A digest of each dependency and section of params.yaml that dvc.yaml has of the stage, as they are now; none
    where it has no such stage."""
    wanted = _content(PIPELINE).get("stages", {}).get(stage, {})
    wanted = wanted.get("do", wanted)
    params = _content(PARAMS_FILE)
    known = {"key": family, "item.family": _at(params, f"studies.{family}.family"),
             "data.name": _at(params, "data.name")}
    found = {}
    for name in _filled(wanted.get("deps", ()), known):
        found[name] = json_digest(sorted(_files(Path(name))))
    for name in _filled(wanted.get("params", ()), known):
        found[f"{name} of {PARAMS_FILE}"] = json_digest(_at(params, name))
    return found


def check(stage: str, family: str | None, before: dict[str, str]) -> None:
    """ChangedMeanwhile unless `seen` sees the same as `before`."""
    now = seen(stage, family)
    if changed := [name for name in before if now.get(name) != before[name]]:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise ChangedMeanwhile(f"{tracking.stage_name(stage, family)}: {changed[0]}{more} changed while it ran, and "
                               "DVC would take the result for one of what it is now; run it again")


def _content(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML

    if not path.exists():
        return {}
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {}


def _at(content: Any, name: str) -> Any:
    for part in name.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _filled(names: Any, known: dict[str, Any]) -> Iterator[str]:
    for name in filter(lambda name: isinstance(name, str), names):  # a user may have added others
        for key, value in known.items():
            name = name.replace(f"${{{key}}}", str(value))
        yield name


def _files(path: Path) -> Iterator[tuple[str, Any]]:
    """What tells whether the file, or one of the folder's, was changed. Compiled modules are nobody's doing."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            about = file.stat()
            yield str(file), file_digest(file) if about.st_size <= _READ else [about.st_ino, about.st_size,
                                                                               about.st_mtime_ns]
