"""What the shell offers after Tab: families, stages, experiments, registered versions.

Called once a key press, so nothing heavy is loaded and nothing is asked over the network; where the folder has no
params.yaml, or one that cannot be read, nothing is offered.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

_PARAMS = Path("params.yaml")
_PIPELINE = Path("dvc.yaml")
_EXPERIMENTS = Path("infra/experiments")


def families(incomplete: str) -> list[str]:
    """The families of params.yaml."""
    return _starting(incomplete, _sections().get("families", ()))


def stages(incomplete: str) -> list[str]:
    """DVC's stages: `data`, ..., `svd@gan`, ..., `study@NAME`."""
    here, found = _sections(), []
    for stage, content in _sections(_PIPELINE).get("stages", {}).items():
        each = here.get(str(content["foreach"]).strip("${}"), ()) if "foreach" in content else None
        found += [stage] if each is None else [f"{stage}@{name}" for name in each]
    return _starting(incomplete, found)


def studies(incomplete: str) -> list[str]:
    """The studies of params.yaml."""
    return _starting(incomplete, _sections().get("studies", ()))


def experiments(incomplete: str) -> list[str]:
    """The experiments of infra/experiments."""
    return _starting(incomplete, sorted(file.stem for file in _EXPERIMENTS.glob("*.yaml")))


def references(incomplete: str) -> list[str]:
    """NAME@ALIAS and NAME/VERSION of the registry, where it is an SQLite store of this machine; a server is not
    asked."""
    tracking = _sections().get("tracking", {})
    uri = os.environ.get("MLFLOW_TRACKING_URI") or tracking.get("uri", "sqlite:///mlflow.db")
    if not str(uri).startswith("sqlite:///"):
        return []
    store = Path(str(uri).removeprefix("sqlite:///"))
    if not store.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True, timeout=0.2)) as database:
            rows = database.execute("select name || '@' || alias from registered_model_aliases union all "
                                    "select name || '/' || version from model_versions").fetchall()
    except sqlite3.Error:  # locked, or of an MLflow with other tables: nothing to offer
        return []
    return _starting(incomplete, sorted(name for (name,) in rows))


def embedders(incomplete: str) -> list[str]:
    """Those of `references` that are embedders."""
    return [name for name in references(incomplete) if name.replace("@", "/").split("/")[0].endswith("-embedder")]


def _sections(file: Path = _PARAMS) -> dict[str, Any]:
    from ruamel.yaml import YAML

    try:
        found = YAML(typ="safe", pure=True).load(file)
    except Exception:  # a completion has no place to say what is wrong; the command will
        return {}
    return {name: section for name, section in found.items() if isinstance(section, dict)} if isinstance(
        found, dict) else {}


def _starting(incomplete: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(incomplete)]
