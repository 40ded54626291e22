"""What every part of params.yaml is made of."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME = r"[a-z][a-z0-9_-]{0,39}"
"""Of families, data sets and studies: it becomes part of paths, of addresses and of MLflow's filters"""
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
PositiveInt = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


def _compilable(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compilable)]
"""A regular expression."""


class Section(BaseModel):
    """A part of params.yaml: frozen, strict about types, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
