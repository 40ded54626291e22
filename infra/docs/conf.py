"""Sphinx: pages in Markdown, reference from the docstrings, everything offline. `make docs` builds into build/docs."""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # what is imported for its docstrings looks for no accelerator
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parents[1])]

project = "nfk"
author = "the nfk developers"
copyright = "the nfk developers, MIT licence"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "mathml",
    "plain_docstrings",
    "command_line",
    "parameters",
]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

smartquotes = False  # --option and "name" are meant as written

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "nfk"
html_static_path = ["static"]
html_css_files = ["nfk.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "friendly", "github-dark"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
