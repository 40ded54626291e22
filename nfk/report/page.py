"""The run's report: one HTML page that loads nothing, made from the numbers of a run."""

from __future__ import annotations

import base64
import re
import struct
from pathlib import Path
from typing import NamedTuple

import jinja2

from nfk.report import numbers, tables
from nfk.report.content import Figure, Report
from nfk.report.metrics import FewLabels, NeighbourProbe, Probe, ReportError

_HERE = Path(__file__).parent
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SMALL = 640  # a picture of fewer pixels across is a grid of small images, enlarged with its pixels kept

_PLACES = {
    "samples": "Samples of the model",
    "curves": "Training",
    "spectrum": "Spectrum",
    "accuracy": "Accuracy of each representation",
    "few_labels": "Few labels",
    "components": "What the components see",
    "neighbours": "Nearest neighbours",
}


class Picture(NamedTuple):
    """A PNG as the page holds it: a data URI and its size in pixels."""

    uri: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        return self.width < _SMALL


def render(report: Report) -> str:
    """The page as HTML: style and figures inside it, no script, nothing loaded from elsewhere.

    A pure function of the report and of the figures' files. ReportError where a figure is missing or is no
    PNG, or where a family measured no embedding.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(tables=tables, picture=_picture, places=_PLACES)
    environment.filters.update(
        percent=numbers.percent, points=numbers.points, count=numbers.count, seconds=numbers.seconds,
        number=numbers.number, with_error=_with_error, spread=_spread, scientific=numbers.scientific,
        without_password=_without_password)
    return environment.get_template("page.html").render(report=report)


def _with_error(reading: Probe | NeighbourProbe) -> str:
    return numbers.with_error(reading.accuracy, reading.standard_error)


def _spread(reading: FewLabels) -> str:
    return numbers.with_error(reading.mean, reading.standard_deviation)


def _picture(figure: Figure) -> Picture:
    try:
        content = figure.path.read_bytes()
    except OSError as error:
        raise ReportError(f"figure {figure.path} ({figure.caption}): {error.strerror or error}; "
                          "run the stage that draws it again") from None
    if not content.startswith(_PNG_SIGNATURE) or len(content) < 24:
        raise ReportError(f"figure {figure.path} ({figure.caption}): its {len(content)} bytes are no PNG; "
                          "run the stage that draws it again")
    # a PNG's first chunk is IHDR: length, type, then width and height
    width, height = struct.unpack(">II", content[16:24])
    return Picture(f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}", width, height)


def _without_password(uri: str) -> str:
    """The address of a service without the user and password that it may hold."""
    return re.sub(r"://[^/?#]*@", "://", uri)
