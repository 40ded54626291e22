"""What a stage tells of itself when its files are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    summary: str
    """one line for people"""
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | int] = field(default_factory=dict)
    series: dict[str, list[float]] = field(default_factory=dict)
    figures: list[Path] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    """of what was read and written, by name"""
