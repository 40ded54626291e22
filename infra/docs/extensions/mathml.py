"""Formulas as MathML, made when the pages are: browsers draw it themselves, with no script and nothing fetched.

The converter is docutils' own (`math_output: MathML`), which Sphinx does not offer by itself.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml, pick_math_environment
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_log = logging.getLogger(__name__)


def _mathml(node: nodes.Element, *, block: bool) -> str:
    """The formula's MathML; a warning, which ends a build under -W, where the converter does not know a command."""
    code = node.astext().strip()
    if block:
        environment = pick_math_environment(code)
        if environment != "equation*":
            code = f"\\begin{{{environment}}}{code}\\end{{{environment}}}"
    try:
        return latex2mathml.tex2mathml(code, as_block=block)
    except MathError as error:
        _log.warning("formula %r: %s", code, error, location=node)
        return f"<code>{code}</code>"


def visit_inline(translator: HTML5Translator, node: nodes.Element) -> None:
    translator.body.append(_mathml(node, block=False))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.Element) -> None:
    # may scroll by itself, so that a long formula does not widen a phone's page
    translator.body.append(f'<div class="formula">{_mathml(node, block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
