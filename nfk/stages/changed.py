"""Networks of the user's own whose module has changed: DVC follows no file that only params.yaml names."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from nfk.family_params import CustomParams
from nfk.params import Params
from nfk.stages import workspace
from nfk.store import file_digest


def changed_modules(params: Params) -> list[str]:
    """The families whose `module:function` now lies in another file than the one in models/FAMILY/card.json.

    To be asked once DVC has had its say on `pretrain`: it may bring back a card that is not there, or an older one.
    The module is found without being run, the packages around it as Python finds them. One that is not found, or a
    damaged card, is for the stages to tell.
    """
    return [name for name, family in params.families.items()
            if isinstance(family, CustomParams) and _changed(family.model, workspace.model_folder(name))]


def _changed(model: str, folder: Path) -> bool:
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        file = _file(model.partition(":")[0])
        return file is not None and card["model"] == model and card.get("source") != file_digest(file)
    except Exception:  # a package around the module may fail in any way
        return False


def _file(module: str) -> Path | None:
    """The file that `import module` would run here, searched as `nfk.models.custom` imports it."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()
        spec = importlib.util.find_spec(module)
    finally:
        if added:
            sys.path.remove(here)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
